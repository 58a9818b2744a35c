"""Methods that read a whole thread keep errors, and nothing of what was read when they were raised."""

import hashlib

import pytest

from langgraph_gcs_saver.format import keys, manifest
from tests.security.forging import name_of
from tests.security.sealing import CODEC, opened, plain_envelope, seal
from tests.security.test_memory import peak_of
from tests.system.build import cfg, put

MIB = 1 << 20
SIZE = 8 * MIB
"""Bytes of each manifest."""

CHECKPOINTS = 8


@pytest.fixture
def saver(make_saver, raw):
    """A saver, and a thread whose manifests all have zeros behind them, in objects of a few KB."""
    writer = make_saver()
    for n in range(1, CHECKPOINTS + 1):
        put(writer, n, {"v": n}, parent=n - 1 or None)
    for n in range(1, CHECKPOINTS + 1):
        name = name_of(n)
        plain = plain_envelope(*opened(raw, name))
        plain += bytes(SIZE - len(plain))
        data = CODEC.encode(plain)
        stub = manifest.Stub("fa15efa15efa", len(data), SIZE, hashlib.sha256(plain).hexdigest())
        blob = keys.blob_beside(name, keys.MANIFEST, stub.attempt)
        (raw.path / "objects" / blob).parent.mkdir(parents=True, exist_ok=True)
        raw.set_object(blob, data)
        seal(raw, name, stub.head())
    return make_saver(cache_max_bytes=0)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize(
    "call",
    [
        lambda saver: saver.admin.history("t"),
        lambda saver: saver.get_tuple(cfg()),
        lambda saver: list(saver.list(cfg())),
        lambda saver: list(saver.admin.plan_repair("t")),
    ],
    ids=["history", "get_tuple", "list", "repair"],
)
def test_damaged_manifests_are_not_held(call, saver):
    # One at a time, and a copy of what follows its head.
    assert peak_of(lambda: call(saver))[1] < 3 * SIZE
