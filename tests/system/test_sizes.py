"""State of any size, and where it is stored. A saver that has never seen the state reads it."""

import pytest

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import CheckpointSaved
from tests.system.build import cfg, checkpoint, noise, put, values, version

MIB = 1 << 20
MARKER = noise(48, "marker")


def assert_documents_fit(raw):
    sizes = raw.document_sizes()
    assert sizes
    largest = max(sizes, key=sizes.get)
    # Firestore counts the name too.
    assert sizes[largest] + len(largest) < MIB, (largest, sizes[largest])


def holds(part, marker):
    """Whether the marker is anywhere in a document's fields, as bytes or as text."""
    if isinstance(part, dict):
        return any(holds(key, marker) or holds(value, marker) for key, value in part.items())
    if isinstance(part, str):
        return marker.hex() in part
    return isinstance(part, bytes) and (marker in part or marker.hex().encode() in part)


def reads_back(make_saver, n, expected, writes=(), **kwargs):
    reader = make_saver()
    for found in (
        reader.get_tuple(cfg(**kwargs)),
        reader.get_tuple(cfg(n, **kwargs)),
        *reader.list(cfg(**kwargs), limit=1),
    ):
        assert values(found) == expected
        assert found.pending_writes == list(writes)


@pytest.mark.parametrize("kind", ["compressible", "random"])
def test_a_channel_of_12_mb(make_saver, saver, raw, kind):
    value = noise(12_000_000) if kind == "random" else " ".join(map(str, range(1_800_000)))
    assert len(value) >= 12_000_000
    put(saver, 1, {"large": value, "small": [1, "two"]})
    reads_back(make_saver, 1, {"large": value, "small": [1, "two"]})
    assert_documents_fit(raw)
    (size,) = raw.object_sizes().values()
    assert size > 12_000_000 if kind == "random" else size < 6_000_000


@pytest.mark.parametrize("channel", ["regular", "__interrupt__", "__error__"])
def test_a_pending_write_of_1_2_mb(make_saver, saver, raw, channel):
    large = noise(1_200_000)
    put(saver, 1, {"a": 1})
    saver.put_writes(cfg(1), [("before", "small"), (channel, large), ("after", None)], "task", "path")
    specials = [("task", channel, large)] if channel.startswith("__") else []
    regulars = [("task", name, value) for name, value in (("before", "small"), (channel, large), ("after", None))]
    expected = specials + [write for write in regulars if write not in specials]
    reads_back(make_saver, 1, {"a": 1}, expected)
    assert_documents_fit(raw)
    assert max(raw.object_sizes().values()) >= 1_200_000


def test_many_large_pending_writes_of_one_task(make_saver, saver, raw):
    """Each fits a document, all together do not."""
    writes = [(f"c{n}", noise(100_000, n)) for n in range(15)]
    specials = [
        ("__error__", noise(120_000, "e")),
        ("__interrupt__", noise(120_000, "i")),
        ("__resume__", noise(120_000, "r")),
    ]
    put(saver, 1, {"a": 1})
    saver.put_writes(cfg(1), [*writes, *specials], "task")
    expected = [("task", *write) for write in (specials[2], specials[1], specials[0], *writes)]
    reads_back(make_saver, 1, {"a": 1}, expected)
    assert_documents_fit(raw)


def test_3000_channels(make_saver, saver, raw):
    state = {f"channel {n}": {"number": n} for n in range(3000)}
    put(saver, 1, state)
    reads_back(make_saver, 1, state)
    assert_documents_fit(raw)


def test_one_of_3000_channels_of_1_kb_changes(make_saver, store_uri, raw):
    saved = []
    saver = make_saver(on_event=lambda event: saved.append(event) if isinstance(event, CheckpointSaved) else None)
    state = {f"channel {n}": noise(1000, n) for n in range(3000)}
    put(saver, 1, state)
    before = raw.object_sizes()
    assert sum(before.values()) > 3_000_000
    changed = {**state, "channel 7": noise(1000, "changed")}
    put(saver, 2, changed, parent=1, changed={"channel 7"})
    after = raw.object_sizes()
    # The manifest names 3,000 digests of 32 bytes; the values themselves are not stored a second time.
    assert sum(after.values()) - sum(before.values()) < 400_000
    assert saved[-1].inline_bytes < 2_000
    reads_back(make_saver, 2, changed)
    assert values(make_saver().get_tuple(cfg(1))) == state
    assert_documents_fit(raw)


@pytest.mark.parametrize(("count", "size"), [(1000, 50), (1000, 200), (4000, 40)])
def test_metadata_of_many_keys(make_saver, saver, raw, count, size):
    metadata = {f"key_{n}": noise(size // 2, n).hex() for n in range(count)}
    metadata |= {"nested": {"deep": [1, {"x": None}]}, "n": 5}
    put(saver, 1, {"a": 1}, metadata=metadata)
    put(saver, 2, {"a": 1}, parent=1, metadata={"n": 6})
    reader = make_saver()
    found = reader.get_tuple(cfg(1))
    assert {key: found.metadata[key] for key in metadata} == metadata
    some = f"key_{count // 2}"
    for wanted in ({"n": 5}, {some: metadata[some]}, {some: metadata[some], "n": 5, "key_0": metadata["key_0"]}):
        assert [one.config for one in reader.list(cfg(), filter=wanted)] == [found.config], wanted
    assert_documents_fit(raw)


def test_metadata_that_no_document_can_index(saver, raw):
    """1.2 MB of short values: refused as a whole, not stored without the part that queries would need."""
    put(saver, 1, {"a": 1})
    before = raw.snapshot()
    metadata = {f"key_{n}": noise(120, n).hex() for n in range(5000)}
    with pytest.raises(InvalidInputError, match="metadata") as caught:
        put(saver, 2, {"a": 2}, parent=1, metadata=metadata)
    assert metadata["key_0"] not in str(caught.value)
    assert raw.snapshot() == before
    # Where it is not indexed, size does not matter.
    put(saver, 2, {"a": 2}, parent=1, metadata={"nested": metadata})
    assert saver.get_tuple(cfg()).metadata["nested"] == metadata
    assert_documents_fit(raw)


def test_metadata_beside_full_documents(make_saver, raw):
    """Frames, manifest and filter each fit a document, all together do not."""
    saver = make_saver(inline_max_bytes=512 << 10)
    state = {f"channel {n}": noise(100, n) for n in range(2500)} | {"large": noise(200_000)}
    metadata = {f"key_{n}": noise(110, n).hex() for n in range(1000)}
    put(saver, 1, state, metadata=metadata)
    reads_back(make_saver, 1, state)
    assert_documents_fit(raw)


@pytest.mark.parametrize(
    ("what", "store_uri"),
    [
        ("channel names", "local"),
        ("versions_seen", "local"),
        ("versions_seen", "emulators"),
        pytest.param("channel names", "emulators", marks=pytest.mark.soak),
    ],
    indirect=["store_uri"],
)
def test_a_manifest_too_large_for_a_document(make_saver, saver, raw, what):
    state = {"a": 1}
    if what == "channel names":
        state |= {f"{n} {noise(150, n).hex()}": n for n in range(4000)}
        first = checkpoint(1, state)
    else:
        seen = {f"node {n}": {noise(64, n).hex(): version(n)} for n in range(16_000)}
        first = checkpoint(1, state, versions_seen=seen)
    saver.put(cfg(), first, {"source": "input"}, first["channel_versions"])
    assert any("manifest" in name for name in raw.object_sizes())
    reads_back(make_saver, 1, state)
    found = make_saver().get_tuple(cfg(1)).checkpoint
    assert found == first
    # A child of it inherits as from any other.
    for n, writer in ((2, saver), (3, make_saver())):
        child = {**first, "id": checkpoint(n)["id"], "channel_values": {"a": n}}
        child["channel_versions"] = {**first["channel_versions"], "a": version(n)}
        writer.put(cfg(n - 1), child, {"source": "loop"}, {"a": version(n)})
        reads_back(make_saver, n, {**state, "a": n})
    assert_documents_fit(raw)


def test_inline_max_bytes_0_keeps_values_out_of_documents(make_saver, raw):
    def fill(saver, thread):
        state = {
            "bytes": MARKER,
            "text": MARKER.hex(),
            "list": [MARKER, noise(300)],
            "one": 1,
            "none": None,
            "empty": b"",
        }
        put(saver, 1, state, thread=thread)
        saver.put_writes(cfg(1, thread=thread), [("bytes", MARKER), ("none", None)], "regular")
        saver.put_writes(cfg(1, thread=thread), [("__interrupt__", [MARKER]), ("__error__", MARKER.hex())], "special")
        expected = [
            ("regular", "bytes", MARKER),
            ("regular", "none", None),
            ("special", "__interrupt__", [MARKER]),
            ("special", "__error__", MARKER.hex()),
        ]
        reads_back(make_saver, 1, state, expected, thread=thread)
        reads_back(lambda: make_saver(inline_max_bytes=0), 1, state, expected, thread=thread)
        documents, objects = raw.snapshot()
        in_documents = {name.split("/")[-2] for name, fields in documents.items() if holds(fields, MARKER)}
        return in_documents, [name for name, data in objects.items() if MARKER in data]

    assert fill(make_saver(inline_max_bytes=0), "t")[0] == set()
    assert len(raw.object_sizes()) >= 5
    assert len(fill(make_saver(inline_max_bytes=0), "u")[1]) > 1
    # The search does find what is there.
    assert fill(make_saver(), "v")[0] == {"lg_checkpoints", "lg_writes"}


def test_inline_max_bytes_large_keeps_all_in_documents_that_fits(make_saver, raw):
    saver = make_saver(inline_max_bytes=512 << 10)
    fits = {"a": noise(400_000), "b": "x" * 3_000_000}
    put(saver, 1, fits)
    assert raw.object_sizes() == {}
    too_many = {"a": noise(400_000, "other"), "b": noise(400_000, "b")}
    put(saver, 2, too_many, parent=1)
    assert sum(raw.object_sizes().values()) > 800_000
    too_large = {"a": noise(600_000), "b": noise(100_000)}
    put(saver, 3, too_large, parent=2)
    for n, state in enumerate((fits, too_many, too_large), 1):
        assert values(make_saver().get_tuple(cfg(n))) == state
    assert_documents_fit(raw)
