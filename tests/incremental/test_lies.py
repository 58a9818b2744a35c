"""Stored bytes with false sizes and correct digests: they are damage, and nothing large is ever allocated."""

import functools
import struct
import tracemalloc
from dataclasses import replace

import pytest
import zstandard

from langgraph_gcs_saver.engine.effects import GetDocs, PutBlob
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import CheckpointCorruptError, ValueTooLargeError
from langgraph_gcs_saver.flows.manifests import make_stub, read_manifest
from langgraph_gcs_saver.format import frames, keys, manifest
from langgraph_gcs_saver.format.frames import Codec
from tests.incremental.threads import Thread, growing
from tests.system.build import cfg, cid

CODEC = Codec(3)
HUGE = 1 << 30
MOST = 6 << 20
"""What reading the thread itself may take."""


@pytest.fixture
def store_uri(tmp_path):
    """The embedded store only: bytes are decoded in one way, wherever they come from."""
    return f"file://{tmp_path}/store"


@pytest.fixture(params=[8 << 10, 0], ids=["inline", "objects"])
def thread(request, make_saver):
    """Three versions: a base and two increments, and what it is all in."""
    found, saver = Thread(), make_saver(inline_max_bytes=request.param)
    for n, value in enumerate(growing(12, 3), 1):
        found.put(saver, n, {"v": value}, n - 1 or None)
    return found


def document(saver, n):
    """A checkpoint's document and manifest."""
    name = keys.checkpoint_doc("t", "", cid(n))
    doc = saver._backend.perform(GetDocs((name,)))[name]
    return doc, run(read_manifest(doc, CODEC), saver._backend)


def seal(raw, doc, **changes):
    """Store a document with changes and a digest that is right."""
    fields = dict(doc.fields) | changes
    fields["digest"] = manifest.digest(doc.name, fields["manifest"])
    raw.set_document(doc.name, fields)


def with_ref(known, **changes):
    refs = dict(known.channels)
    refs["v"] = replace(refs["v"], **changes)
    return CODEC.encode(manifest.envelope(replace(known, channels=refs)))


@functools.cache
def bomb(size=HUGE):
    """Zeros, as one frame that says honestly how many."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    part = bytes(1 << 22)
    return b"".join([compressor.compress(part) for _ in range(size >> 22)] + [compressor.flush()])


def says(frame, size):
    """The same frame with another size in its header."""
    header = zstandard.frame_header_size(frame)
    return frame[:4] + bytes([0b11100000]) + struct.pack("<Q", size) + frame[header:]


def is_damage(raw, n):
    """Every way to read it; and no more memory than reading takes anyway."""
    with raw.reader() as reader, raw.reader() as lister:
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointCorruptError) as caught:
                reader.get_tuple(cfg(n))
            found = [one.config["configurable"]["checkpoint_id"] for one in lister.list(cfg())]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert cid(n) not in found
    assert caught.value.checkpoint_id == cid(n)
    assert peak < MOST, f"{peak:,} bytes were allocated"
    return caught.value


def replace_frame(raw, saver, owner, frame, data):
    """Put other bytes in place of a frame of checkpoint `owner`, and make every length right."""
    doc, known = document(saver, owner)
    if frame.attempt is not None:
        raw.set_object(prefixed(raw, known.blob("v", frame)), data)
    else:
        inner = doc.fields["frames"]
        seal(raw, doc, frames=inner[: frame.at] + data + inner[frame.at + frame.stored :])


def prefixed(raw, name):
    """The name that `raw` knows an object by."""
    return next(found for found in raw.objects() if found.endswith(name))


LIES = {
    "a bomb": lambda frame: bomb(),
    "a bomb that says the right size": None,
    "larger": lambda frame: says(frame, HUGE),
    "one more": lambda frame: says(frame, zstandard.frame_content_size(frame) + 1),
    "one less": lambda frame: says(frame, zstandard.frame_content_size(frame) - 1),
    "nothing": lambda frame: says(frame, 0),
    "no size": lambda frame: zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
}


@pytest.mark.parametrize("where", [0, -1], ids=["base", "increment"])
@pytest.mark.parametrize("lie", LIES)
def test_frames_that_lie(lie, where, thread, saver, raw):
    _, known = document(saver, 3)
    chain = known.channels["v"].chain
    assert len(chain) == 3
    frame = chain[where]
    owner = 3 if frame.owner is None else 1
    doc, _ = document(saver, owner)
    if frame.attempt is None:
        stored = doc.fields["frames"][frame.at : frame.at + frame.stored]
    else:
        stored = raw.objects()[prefixed(raw, known.blob("v", frame))]
    size = known.channels["v"].size if frame.size is None else frame.size
    data = says(bomb(), size) if LIES[lie] is None else LIES[lie](stored)
    replace_frame(raw, saver, owner, replace(frame, owner=None), data)
    # Every manifest that refers to the frame says its new length, or it would be noticed by that alone.
    for n in (owner, 3):
        doc, known = document(saver, n)
        fixed = tuple(
            replace(link, stored=len(data), crc32c=None) if i == where % 3 or n == owner != 3 else link
            for i, link in enumerate(known.channels["v"].chain)
        )
        seal(raw, doc, manifest=with_ref(known, chain=fixed))
    error = is_damage(raw, 3)
    assert error.channel == "v"


@pytest.mark.parametrize("size", [HUGE, 0, 1], ids=repr)
def test_manifests_that_lie_about_a_values_size(size, thread, saver, raw):
    doc, known = document(saver, 3)
    seal(raw, doc, manifest=with_ref(known, size=size))
    assert is_damage(raw, 3).channel == "v"


def test_a_manifest_with_a_value_that_nobody_may_read(thread, saver, raw):
    """It is refused for its size before anything is fetched, like a state that is."""
    doc, known = document(saver, 3)
    seal(raw, doc, manifest=with_ref(known, size=1 << 50))
    with raw.reader() as reader, pytest.raises(ValueTooLargeError, match="max_value_bytes"):
        reader.get_tuple(cfg(3))


@pytest.mark.parametrize("size", [HUGE, 1 << 50, 0, 1], ids=repr)
def test_manifests_that_lie_about_the_size_of_a_base(size, thread, saver, raw):
    doc, known = document(saver, 3)
    first, *rest = known.channels["v"].chain
    seal(raw, doc, manifest=with_ref(known, chain=(replace(first, size=size), *rest)))
    assert is_damage(raw, 3).channel == "v"


def test_manifests_that_name_another_base(thread, saver, raw):
    """zstd takes any bytes for a dictionary, and would give a value of the right size."""
    doc, known = document(saver, 3)
    chain = known.channels["v"].chain
    for first, *rest in (
        (chain[0], chain[2]),
        (chain[1], chain[2]),
        (replace(chain[0], digest="00000000"), *chain[1:]),
        (chain[0], replace(chain[1], digest="00000000"), chain[2]),
        (replace(chain[0], at=chain[0].at + 1), *chain[1:]),
        (replace(chain[0], stored=chain[0].stored - 1), *chain[1:]),
        (replace(chain[0], owner=cid(2)), *chain[1:]),
        (replace(chain[0], owner=cid(77)), *chain[1:]),
    ):
        seal(raw, doc, manifest=with_ref(known, chain=(replace(first, k=0), *rest)))
        assert is_damage(raw, 3).channel == "v", (first, rest)


def test_a_manifest_that_is_a_bomb(thread, saver, raw):
    doc, _ = document(saver, 3)
    for lie in (bomb(), says(bomb(), 1000), says(bomb(64 << 20), frames.ENVELOPE_MAX_BYTES + 1)):
        seal(raw, doc, manifest=lie)
        is_damage(raw, 3)


@pytest.mark.parametrize("size", [HUGE, 1 << 50, 5])
def test_a_stub_that_lies(size, thread, saver, raw):
    doc, known = document(saver, 3)
    stub, stored = make_stub(manifest.envelope(known), "deadbeef", CODEC)
    seal(raw, doc, manifest=CODEC.encode(frames.envelope(stub.head())))
    saver._backend.perform(PutBlob(keys.blob_beside(doc.name, keys.MANIFEST, stub.attempt), stored))
    assert saver.get_tuple(cfg(3)).checkpoint["channel_values"] == thread.values[3], "the forgery is no good"
    seal(raw, doc, manifest=CODEC.encode(frames.envelope(replace(stub, size=size).head())))
    is_damage(raw, 3)


def test_the_measure_sees_what_a_decoder_allocates():
    tracemalloc.start()
    try:
        CODEC.decode(bomb(64 << 20), 64 << 20)
        assert tracemalloc.get_traced_memory()[1] >= 64 << 20
    finally:
        tracemalloc.stop()


def test_documents_are_as_they_were(thread, saver, raw):
    """What the tests above rely on: a document that is sealed again reads the same."""
    doc, known = document(saver, 3)
    seal(raw, doc, manifest=with_ref(known))
    with raw.reader() as reader:
        assert reader.get_tuple(cfg(3)).checkpoint["channel_values"] == thread.values[3]
