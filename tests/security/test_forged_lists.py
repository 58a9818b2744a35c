"""Forged lists of what remains to be removed: no object is deleted that a checkpoint refers to."""

import json
import random
from datetime import timedelta
from unittest import mock

import pytest

from langgraph_gcs_saver.flows import writes as writes_module
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.system.build import DEFAULT, cfg, cid, put, values

from .forging import name_of

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
NOW = timedelta(0)


def noise(n):
    return random.Random(n).randbytes(3_000).hex()


def forge(raw, objects):
    """A stripped document of a checkpoint that never existed."""
    assert objects
    raw.set_document(name_of(0), {"objects": json.dumps(sorted(objects))})


CLEANERS = {
    "prune": lambda saver: saver.prune(["t"], strategy=KeepLast(3)),
    "collect": lambda saver: saver.admin.collect("t", orphan_age=NOW),
    "delete_for_runs": lambda saver: saver.delete_for_runs(["run 1"]),
}
cleaners = pytest.mark.parametrize("clean", CLEANERS.values(), ids=CLEANERS.keys())


@cleaners
def test_objects_of_pending_writes_stay(make_saver, raw, clean):
    saver = make_saver()
    for n in (1, 2, 3):
        put(saver, n, {"v": n}, parent=n - 1 or None, metadata={**DEFAULT, "run_id": f"run {n}"})
    with mock.patch.object(writes_module, "INLINE_BYTES", 100):
        saver.put_writes(cfg(3), [("v", noise(1))], "task")
    forge(raw, raw.objects())
    clean(saver)
    assert name_of(0) not in raw.documents()
    assert make_saver().get_tuple(cfg()).pending_writes == [("task", "v", noise(1))]


@cleaners
def test_objects_of_what_was_set_aside_stay(make_saver, raw, clean):
    saver = make_saver(inline_max_bytes=0)
    for n in (1, 2, 3):
        put(saver, n, {"v": noise(n)}, parent=n - 1 or None, metadata={**DEFAULT, "run_id": f"run {n}"})
    before = raw.documents()[name_of(2)]
    raw.set_document(name_of(2), {**before, "manifest": before["manifest"][:-1] + b"x"})
    saver.admin.repair("t")
    assert any(f"/{keys.ASIDE}/" in name for name in raw.documents())
    forge(raw, raw.objects())
    clean(saver)
    assert name_of(0) not in raw.documents()
    assert [name for name in raw.objects() if cid(2) in name] != []
    raw.set_document(name_of(2), before)
    assert values(make_saver().get_tuple(cfg(2))) == {"v": noise(2)}


def test_objects_that_what_was_set_aside_inherits_stay(make_saver, raw):
    """Nothing is forged: the checkpoint that stored the object is removed later."""
    saver = make_saver(inline_max_bytes=0)
    put(saver, 1, {"v": noise(1)})
    put(saver, 2, {"v": noise(1), "w": noise(2)}, parent=1, changed={"w"})
    put(saver, 3, {"v": noise(3), "w": noise(4)}, parent=2)
    before = raw.documents()[name_of(2)]
    (lost,) = [name for name in raw.objects() if f"/{cid(2)}/w-" in name]
    content = raw.objects()[lost]
    raw.delete_object(lost)
    saver.admin.repair("t")
    assert any(f"/{keys.ASIDE}/" in name for name in raw.documents())
    raw.set_object(lost, content)
    saver.prune(["t"], strategy=KeepLast(1))
    assert [one.checkpoint["id"] for one in saver.list(cfg())] == [cid(3)]
    raw.set_document(name_of(2), before)
    assert values(make_saver().get_tuple(cfg(2))) == {"v": noise(1), "w": noise(2)}
