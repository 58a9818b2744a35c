"""Puts whose frames are made while they are uploaded. What counts as large is small here."""

import pytest

from langgraph_gcs_saver.engine.effects import PutBlob
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.format import large
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.system.build import cfg, noise, put, values

LARGE = 40_000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(large, "LARGE_BYTES", LARGE)


class Sent(CountingInterceptor):
    """What was uploaded."""

    def __init__(self):
        super().__init__()
        self.uploads = []

    def around(self, effect, perform):
        if isinstance(effect, PutBlob):
            self.uploads.append(effect)
        return super().around(effect, perform)


@pytest.mark.parametrize("verify", ["readback", "checksum", "off"])
def test_a_thread_of_large_values(make_saver, verify):
    sent = Sent()
    saver = make_saver(verify=verify, inline_max_bytes=1000, interceptors=[sent])
    value = [noise(LARGE), "text " * 20_000, "small"]
    states = []
    for n in range(1, 5):
        value = [*value, f"step {n}"]
        states.append({"one": value, "two": noise(LARGE + n, n), "small": n, "zeros": bytes(LARGE)})
        put(saver, n, states[-1], parent=n - 1 or None)
    assert sum(isinstance(effect.data, Pieces) for effect in sent.uploads) == 5, "one once, and two at each step"
    reader = make_saver(cache_max_bytes=0)
    for n, state in enumerate(states, 1):
        assert values(reader.get_tuple(cfg(n))) == state
    assert list(reader.admin.verify("t", depth="data")) == []
    # A frame that is made in pieces builds a chain as any other.
    put(reader, 5, {"one": [*value, "step 5"]}, parent=4)
    assert values(make_saver().get_tuple(cfg(5)))["one"] == [*value, "step 5"]


@pytest.mark.parametrize("verify", ["readback", "off"])
def test_small_frames_that_are_large_together_are_not_joined(make_saver, verify):
    sent = Sent()
    state = {f"c{n:03}": noise(5_000, n) for n in range(120)}
    put(make_saver(verify=verify, interceptors=[sent]), 1, state)
    (upload,) = sent.uploads
    assert isinstance(upload.data, Pieces)
    assert max(map(len, upload.pieces)) < LARGE
    reader = make_saver(cache_max_bytes=0)
    assert values(reader.get_tuple(cfg(1))) == state
    assert list(reader.admin.verify("t", depth="data")) == []


def test_a_put_takes_as_many_rounds_as_without_pieces(make_saver, monkeypatch):
    put(make_saver(), 1, {"a": 1})  # the first put of a store looks around
    found = []
    for limit in (LARGE, 1 << 30):
        monkeypatch.setattr(large, "LARGE_BYTES", limit)
        sent = Sent()
        saver = make_saver(interceptors=[sent])
        put(saver, 1, {"a": noise(LARGE), "b": noise(LARGE, 2)}, thread=str(limit))
        put(saver, 2, {"a": noise(LARGE, 3), "b": noise(LARGE, 4)}, parent=1, thread=str(limit))
        # Requests of a round begin on threads of their own, in any order.
        found.append(([sorted(one) for one in sent.rounds], sent.requests))
    assert found[0] == found[1]


def test_a_manifest_that_needs_an_object_beside_pieces(make_saver):
    """Its sizes are known after the upload of the frames, so it is uploaded after them."""
    saver = make_saver()
    many = {f"channel {n} {noise(200, n).hex()}": n for n in range(2500)}
    state = {**many, "large": noise(LARGE)}
    put(saver, 1, state)
    reader = make_saver()
    assert values(reader.get_tuple(cfg(1))) == state
    assert list(reader.admin.verify("t", depth="data")) == []


def test_an_object_that_changes_after_its_upload_is_written_again(make_saver, raw):
    """The read-back compares with the hash that was computed while the pieces were made."""

    class Damaging(Sent):
        def around(self, effect, perform):
            result = super().around(effect, perform)
            if isinstance(effect, PutBlob) and len(self.uploads) == 1:
                ((name, data),) = raw.snapshot()[1].items()
                raw.set_object(name, data[:-1] + bytes([data[-1] ^ 1]))
            return result

    sent = Damaging()
    saver = make_saver(interceptors=[sent])
    put(saver, 1, {"large": noise(LARGE)})
    assert len(sent.uploads) == 2
    assert values(make_saver().get_tuple(cfg(1))) == {"large": noise(LARGE)}
    (name,) = raw.snapshot()[1]
    assert name.endswith(sent.uploads[1].name)
