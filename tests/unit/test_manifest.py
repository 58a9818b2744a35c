import dataclasses
import hashlib

import pytest
from hypothesis import assume, example
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Doc, QueryDocs
from langgraph_gcs_saver.errors import SerializationError, UnsupportedFormatError
from langgraph_gcs_saver.flows.manifests import make_stub, read_manifest
from langgraph_gcs_saver.format import frames, keys, manifest
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import (
    ChannelRef,
    DamagedError,
    DocumentKind,
    FrameRef,
    Manifest,
    Serialized,
    Stub,
)
from tests.unit.fuzz import fuzz
from tests.unit.model import CODEC, Model

names = st.sampled_from(["", "a", "~", "a/b", "..", "é", "\0", "own", "x" * 300, "é" * 150, "\U0010ffff"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
versions = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8) | st.none()
numbers = st.integers(0, 1 << 40)
serialized = st.builds(Serialized, st.text(max_size=8), st.binary(max_size=40))
formats = st.sampled_from([1, 2])
inner_refs = st.builds(FrameRef, numbers, numbers, st.none() | names, numbers, format=formats)
attempts = st.sampled_from(["0" * 8, "deadbeefdeadbeef", "z" * 40])
own_objects = st.builds(FrameRef, numbers, numbers, st.none() | names, attempt=attempts, crc32c=st.none() | st.text())
packed = st.builds(FrameRef, numbers, numbers, st.none() | names, numbers, attempts, st.just(True))
digests = st.text("0123456789abcdef", min_size=manifest.DIGEST_DIGITS, max_size=manifest.DIGEST_DIGITS)
sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def chains(draw, found):
    """A chain of these frames: the first is a base, and all but the last say which value they give."""
    sized = [
        dataclasses.replace(frame, size=draw(st.integers(frame.stored, 1 << 40)), digest=draw(digests))
        for frame in found[:-1]
    ]
    return tuple(dataclasses.replace(frame, k=frame.k if at else 0) for at, frame in enumerate(sized + found[-1:]))


@st.composite
def refs(draw, frames):
    chain = draw(st.lists(frames, max_size=4).flatmap(chains))
    size = draw(st.integers(chain[-1].stored if chain else 0, 1 << 40))
    return ChannelRef(draw(versions), draw(st.text(max_size=8)), draw(sha256s), size, chain)


# A channel's name is a part of its objects' names, and then it must be text.
channels = st.dictionaries(names, refs(inner_refs | own_objects | packed), max_size=4) | st.dictionaries(
    names | st.just("\ud800"), refs(inner_refs), max_size=4
)
plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
known_fields = st.fixed_dictionaries(
    {},
    optional={
        "v": st.integers(0, 9),
        "ts": st.text(max_size=5),
        "versions_seen": st.dictionaries(
            st.text(max_size=3), st.dictionaries(st.text(max_size=3), versions, max_size=3)
        ),
        "updated_channels": st.none() | st.lists(st.text(max_size=3), max_size=3),
    },
)
other_fields = st.dictionaries(
    st.sampled_from(["odd é", "", "id"]),
    plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(max_size=3), plain, max_size=3),
)
fields = st.builds(lambda known, others: known | others, known_fields, other_fields)


@st.composite
def manifests(draw):
    found = draw(channels)
    checkpoint = draw(fields)
    if draw(st.booleans()):  # As `put` makes them: the refs' versions are the checkpoint's.
        checkpoint["channel_versions"] = {c: r.version for c, r in found.items() if r.version is not None}
    elif draw(st.booleans()):
        checkpoint["channel_versions"] = {channel: draw(versions) for channel in found}
    ids = draw(names), draw(names), draw(names.filter(lambda text: len(text.encode()) <= 500))
    parent = draw(st.none() | names)
    return Manifest(*ids, parent, checkpoint, draw(st.none() | serialized), draw(serialized), found)


CHAIN = (FrameRef(0, 100, "base", size=900, digest="0a1b2c3d"), FrameRef(1, 20, None, 5))
SAMPLE = Manifest(
    thread_id="a thread",
    ns="ns|x:1",
    checkpoint_id="1f1e585d-2e31-6445-bffe-a8cb1faf0035",
    parent_id="1f1e585d-2e31-6445-bffe-a8cb1faf0034",
    checkpoint={"v": 4, "ts": "2026-01-01", "channel_versions": {"messages": "2.5"}, "versions_seen": {}},
    rest=None,
    metadata=Serialized("msgpack", b"\x81\xa4step\x01"),
    channels={"messages": ChannelRef("2.5", "msgpack", "0" * 64, 120, CHAIN)},
)


def to_doc(found, inner=b"", **changes):
    encoded = CODEC.encode(manifest.envelope(found))
    stored = manifest.to_fields(found, encoded, inner, run_id="run", index={"step": 1})
    return Doc(found.name, stored | changes, 1, 2)


def decode(doc):
    return Model().drive(read_manifest(doc, CODEC))


# Round trips


@fuzz(manifests(), examples=150)
@example(SAMPLE)
@example(dataclasses.replace(SAMPLE, thread_id="t" * 1600, ns="n" * 201))
@example(dataclasses.replace(SAMPLE, thread_id="", ns="", checkpoint_id="", parent_id=""))
@example(dataclasses.replace(SAMPLE, thread_id="__x__", ns="a!b", parent_id="own"))
def test_round_trip(found):
    again = decode(to_doc(found, b"inner"))
    assert again == found
    assert repr(again) == repr(found)  # 1 is not 1.0, nor True


@pytest.mark.parametrize("version", [3, 3.0, "3", "00000000000000000000000000000003.0123456789", None, -1, 1 << 70])
@pytest.mark.parametrize("known", [3, 3.0, "3", None], ids=repr)
def test_versions_keep_their_types(version, known):
    """Whether or not the checkpoint's own list of versions says the same."""
    ref = ChannelRef(version, "null", "0" * 64, 0, ())
    checkpoint = {} if known is None else {"channel_versions": {"a": known}}
    (again,) = decode(to_doc(dataclasses.replace(SAMPLE, checkpoint=checkpoint, channels={"a": ref}))).channels.values()
    assert again.version == version
    assert type(again.version) is type(version)


def test_zero_bytes_are_not_a_missing_value():
    zero = ChannelRef("1", "null", "0" * 64, 0, ())
    assert decode(to_doc(dataclasses.replace(SAMPLE, channels={"a": zero}))).channels == {"a": zero}
    assert decode(to_doc(dataclasses.replace(SAMPLE, channels={}))).channels == {}


def test_short_ids_are_not_repeated_in_the_manifest():
    text = manifest.envelope(SAMPLE)
    assert b"a thread" not in text
    assert SAMPLE.ns.encode() not in text
    assert SAMPLE.checkpoint_id.encode() not in text


# Damage


def flips(data):
    """The bytes with each byte changed in turn."""
    for at in range(len(data)):
        for bit in (1, 0x80):
            yield data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


@pytest.mark.parametrize("field", ["manifest", "digest"])
def test_a_changed_byte_is_noticed(field):
    doc = to_doc(SAMPLE, inner=b"the frames of some values")
    assert decode(doc) == SAMPLE
    assert len(doc.fields[field]) > 20
    for damaged in flips(doc.fields[field]):
        with pytest.raises(DamagedError):
            decode(dataclasses.replace(doc, fields=doc.fields | {field: damaged}))


@pytest.mark.parametrize("field", ["format", "manifest", "digest", "ns"])
@pytest.mark.parametrize("wrong", ["absent", "None", "text", "empty", "number", "float"])
def test_a_field_that_is_missing_or_of_another_type_is_noticed(field, wrong):
    doc = to_doc(SAMPLE, inner=b"inner")
    changed = dict(doc.fields)
    if wrong == "absent":
        del changed[field]
    else:
        changed[field] = {"None": None, "text": "x", "empty": b"", "number": -7, "float": 0.5}[wrong]
    with pytest.raises(DamagedError):
        decode(dataclasses.replace(doc, fields=changed))


@pytest.mark.parametrize("wrong", ["absent", "flipped", None, "text", b"", -7], ids=str)
def test_frames_are_no_part_of_the_manifest(wrong):
    """One flipped frame costs one value, not the checkpoint; each value has a digest of its own."""
    doc = to_doc(SAMPLE, inner=b"inner")
    changed = dict(doc.fields, frames=b"Inner" if wrong == "flipped" else wrong)
    if wrong == "absent":
        del changed["frames"]
    damaged = dataclasses.replace(doc, fields=changed)
    assert decode(damaged) == SAMPLE
    assert manifest.inner_frames(damaged) == (b"Inner" if wrong == "flipped" else b"")


def test_the_digest_is_that_of_name_and_manifest():
    """As docs/reference/format.md defines it."""
    doc = to_doc(SAMPLE, inner=b"inner")
    covered = doc.name.encode() + b"\0" + doc.fields["manifest"]
    assert doc.fields["digest"] == hashlib.sha256(covered).digest()


def test_bytes_moved_from_the_manifest_to_the_frames_are_noticed():
    doc = to_doc(SAMPLE, inner=b"inner")
    encoded = doc.fields["manifest"]
    moved = doc.fields | {"manifest": encoded[:-1], "frames": encoded[-1:] + b"inner"}
    with pytest.raises(DamagedError, match="digest"):
        decode(dataclasses.replace(doc, fields=moved))


@pytest.mark.parametrize("change", [{"thread_id": "another"}, {"ns": "ns"}, {"checkpoint_id": "1"}])
def test_a_document_under_another_name_is_noticed(change):
    doc, other = to_doc(SAMPLE), dataclasses.replace(SAMPLE, **change).name
    assert other != doc.name
    with pytest.raises(DamagedError):
        decode(dataclasses.replace(doc, name=other))
    with pytest.raises(DamagedError):  # … and so is one whose `ns` was made to fit the name.
        decode(dataclasses.replace(doc, name=other, fields=doc.fields | {"ns": other.rsplit("!", 1)[1]}))


@fuzz(manifests(), manifests())
def test_a_document_never_passes_for_another(one, other):
    assume(one.name != other.name)
    with pytest.raises(DamagedError):
        decode(dataclasses.replace(to_doc(one), name=other.name))


OF_CHANNELS = {
    1: [{}, {"a": CHAIN}, {"a": CHAIN[:1], "b": CHAIN}],
    2: [
        {"a": (dataclasses.replace(CHAIN[0], format=2), CHAIN[1])},
        {"a": (CHAIN[0], dataclasses.replace(CHAIN[1], format=2)), "b": CHAIN},
    ],
}


@pytest.mark.parametrize(
    ("version", "chains"), [(version, one) for version, found in OF_CHANNELS.items() for one in found]
)
def test_a_document_states_the_lowest_format_that_reads_all_of_its_frames(version, chains):
    refs = {channel: ChannelRef("1", "t", "0" * 64, 120, chain) for channel, chain in chains.items()}
    doc = to_doc(dataclasses.replace(SAMPLE, channels=refs))
    assert doc.fields["format"] == version
    assert decode(doc).channels == refs
    assert {one.inherited("child").format for ref in refs.values() for one in ref.chain} <= {1, version}
    other = dataclasses.replace(doc, fields={**doc.fields, "format": 3 - version})
    with pytest.raises(DamagedError, match="another format than its manifest needs"):
        decode(other)


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None])
def test_what_is_no_format_is_damage(version):
    with pytest.raises(DamagedError, match="lacks its format"):
        decode(to_doc(SAMPLE, format=version))


@pytest.mark.parametrize("version", [3, 4, 1 << 40])
def test_a_newer_format_is_not_damage(version):
    doc = to_doc(SAMPLE, format=version)
    for found in (doc, dataclasses.replace(doc, fields={"format": version, "else": 1})):
        with pytest.raises(UnsupportedFormatError, match=f"format {version}.*upgrade"):
            decode(found)


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": None},
        {"metadata": ["msgpack"]},
        {"metadata": ["msgpack", -1]},
        {"metadata": ["msgpack", True]},
        {"metadata": [None, 1]},
        {"parent": 5},
        {"channels": []},
        {"channels": {"a": None}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1}}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": -1, "chain": []}}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1, "chain": [{"k": 0, "in": "own", "stored": "1"}]}}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1, "chain": [{"k": 0, "in": [5], "stored": 1}]}}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1, "chain": [{"k": 0, "in": [], "stored": 1}]}}},
        {
            "channels": {
                "a": {
                    "type": "t",
                    "sha256": "0",
                    "size": 1,
                    "chain": [{"k": 0, "in": "own", "stored": 1, "gcs": "../../another"}],
                }
            }
        },
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1, "chain": [{"k": 1, "stored": 1}]}}},
        {"channels": {"a": {"type": "t", "sha256": "0", "size": 1, "chain": [{"k": 0, "stored": 1}] * 2}}},
        {
            "channels": {
                "a": {
                    "type": "t",
                    "sha256": "0",
                    "size": 1,
                    "chain": [{"k": 0, "stored": 1, "size": 5}, {"k": 1, "stored": 1}],
                }
            }
        },
        {
            "channels": {
                "a": {
                    "type": "t",
                    "sha256": "0",
                    "size": 1,
                    "chain": [{"k": 0, "stored": 1, "size": -5, "digest": "0"}, {"k": 1, "stored": 1}],
                }
            }
        },
        {"rest": ["msgpack"]},
        {"gcs": ["../../../another", 1, 1, "0"]},
        {"gcs": ["deadbeef", 1]},
        {"gcs": 5},
        None,
        [],
        "text",
    ],
)
def test_a_manifest_that_was_sealed_with_nonsense_is_damage(change):
    """Nothing but an error of ours comes out, and no name outside the checkpoint's own."""
    head, tail = frames.open_envelope(manifest.envelope(SAMPLE))
    head = head | change if isinstance(change, dict) else change
    encoded = CODEC.encode(frames.envelope(head, tail))
    stored = manifest.to_fields(SAMPLE, encoded, b"", run_id=None, index={})
    with pytest.raises(DamagedError):
        decode(Doc(SAMPLE.name, stored, 1, 2))


# Stubs


def stubbed(found, change=None):
    text = manifest.envelope(found)
    stub, stored = make_stub(text, "deadbeef", CODEC)
    stub = dataclasses.replace(stub, **(change or {}))
    encoded = CODEC.encode(frames.envelope(stub.head()))
    doc = Doc(found.name, manifest.to_fields(found, encoded, b"", run_id=None, index={}), 1, 2)
    name = keys.blob(found.thread_id, found.ns, found.checkpoint_id, keys.MANIFEST, "deadbeef")
    return doc, name, stored


@fuzz(manifests(), examples=30)
def test_a_manifest_in_an_object_reads_the_same(found):
    doc, name, stored = stubbed(found)
    assert Model(blobs={name: stored}).drive(read_manifest(doc, CODEC)) == found


def outcome(doc, blobs):
    try:
        found = Model(blobs=blobs).drive(read_manifest(doc, CODEC))
    except DamagedError:
        return "damaged"
    return "the same" if found == SAMPLE else "another"


def test_a_manifest_in_an_object_is_checked():
    doc, name, stored = stubbed(SAMPLE)
    found = [outcome(doc, {name: damaged}) for damaged in flips(stored)]
    assert set(found) <= {"damaged", "the same"}  # zstd does not use every bit
    assert found.count("damaged") > 0.95 * len(found)
    with pytest.raises(DamagedError, match="missing") as caught:
        Model().drive(read_manifest(doc, CODEC))
    assert caught.value.frame == name
    for change in ({"size": 1}, {"size": 1 << 50}, {"sha256": "0" * 64}, {"size": 0}):
        doc, name, stored = stubbed(SAMPLE, change)
        with pytest.raises(DamagedError):
            Model(blobs={name: stored}).drive(read_manifest(doc, CODEC))


def test_stub_of_tells_stubs_from_what_they_stand_for():
    stub = Stub("deadbeef", 10, 20, "ab" * 32)
    assert manifest.stub_of(stub.head()) == stub
    assert manifest.stub_of({"checkpoint": {}}) is None
    assert manifest.stub_of([]) is None


def test_a_manifest_over_the_limit_is_not_decoded():
    encoded = CODEC.encode(bytes(frames.ENVELOPE_MAX_BYTES + 1))
    doc = Doc(SAMPLE.name, manifest.to_fields(SAMPLE, encoded, b"", run_id=None, index={}), 1, 2)
    with pytest.raises(DamagedError):
        decode(doc)


# What is listed, what is the same


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ({}, DocumentKind.EMPTIED),
        ({"heir": "c#1"}, DocumentKind.EMPTIED),
        ({"frames": b"x"}, DocumentKind.STRIPPED),
        ({"objects": "[]", "run_id": "r"}, DocumentKind.STRIPPED),
        ({"frames": b"x", "heir": "c", "digest": b"d"}, DocumentKind.STRIPPED),
        ({"ns": "~"}, DocumentKind.CHECKPOINT),
        ({"format": 1}, DocumentKind.CHECKPOINT),
        ({"manifest": b""}, DocumentKind.CHECKPOINT),
        ({"manifest": b"", "frames": b"x", "objects": "[]"}, DocumentKind.CHECKPOINT),
    ],
)
def test_what_a_document_is(stored, kind):
    """A document that lost only some of its fields is damaged, not stripped. It must not vanish silently."""
    doc = Doc(SAMPLE.name, stored, 1, 2)
    assert manifest.kind_of(doc) is kind
    if kind is not DocumentKind.STRIPPED:
        with pytest.raises(DamagedError):
            decode(doc)


def test_same_content_ignores_places():
    ref = SAMPLE.channels["messages"]
    elsewhere = dataclasses.replace(ref, chain=(FrameRef(0, 99, attempt="deadbeef", crc32c="x"),))
    assert SAMPLE.same_content(dataclasses.replace(SAMPLE, channels={"messages": elsewhere}))
    assert SAMPLE.same_content(dataclasses.replace(SAMPLE, channels={"messages": ref.inherited("b")}))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ChannelRef) if f.name != "chain"])
def test_same_content_ignores_nothing_else_of_a_channel(field):
    ref = dataclasses.replace(SAMPLE.channels["messages"], **{field: "another"})
    assert not SAMPLE.same_content(dataclasses.replace(SAMPLE, channels={"messages": ref}))


def test_the_same_content_may_need_other_dictionaries():
    """A retry by a process with another dictionary makes other frames of the same values."""
    assert SAMPLE.same_content(dataclasses.replace(SAMPLE, dictionaries=("0123abcd",)))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Manifest) if f.name != "dictionaries"])
def test_same_content_ignores_nothing_else(field):
    another = {"channels": {}, "checkpoint": {}, "metadata": Serialized("json", b"{}"), "rest": Serialized("json", b"")}
    assert not SAMPLE.same_content(dataclasses.replace(SAMPLE, **{field: another.get(field, "another")}))


def test_refs_are_inherited_once():
    """A grandchild refers to the checkpoint that wrote the frame, not to its parent."""
    ref = ChannelRef("1", "t", "0", 1, (FrameRef(0, 1), FrameRef(1, 1, "older")))
    child = ref.inherited("writer")
    assert [frame.owner for frame in child.chain] == ["writer", "older"]
    assert child.inherited("child") == child


def test_names_of_objects():
    own = FrameRef(0, 1, attempt="deadbeef")
    shared = FrameRef(0, 1, owner="older", attempt="beefdead", packed=True)
    refs = {"a/b": ChannelRef("1", "t", "0", 1, (own,)), "c": ChannelRef("1", "t", "0", 1, (shared, FrameRef(1, 1)))}
    found = dataclasses.replace(SAMPLE, channels=refs)
    assert found.blobs() == {
        keys.blob(found.thread_id, found.ns, found.checkpoint_id, "a%2Fb", "deadbeef"),
        keys.blob(found.thread_id, found.ns, "older", keys.FRAMES, "beefdead"),
    }


# Size


def value_size(value):
    """Bytes as Firestore counts them (https://firebase.google.com/docs/firestore/storage-size)."""
    if isinstance(value, dict):
        return sum(len(name.encode()) + 1 + value_size(inner) for name, inner in value.items())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value.encode()) + 1
    return 1 if value is None or isinstance(value, bool) else 8


def document_size(doc):
    return 32 + 16 + sum(len(part.encode()) + 1 for part in doc.name.split("/")) + value_size(dict(doc.fields))


@pytest.fixture
def chat(tmp_path):
    """The documents of a real chat of 20 turns, and the thread's id."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        builder = StateGraph(MessagesState)
        builder.add_node("model", lambda state: {"messages": AIMessage(f"answer {len(state['messages'])}")})
        builder.add_edge(START, "model")
        graph = builder.compile(checkpointer=saver)
        thread = "0b6bbd54-1b6b-4d4c-9a3e-2f1f4a3c8f10"
        for turn in range(20):
            graph.invoke({"messages": f"question {turn}"}, {"configurable": {"thread_id": thread}})
        yield saver._backend.documents.query_docs(QueryDocs(keys.checkpoints(thread)))


def test_the_fixed_cost_of_a_chat_step(chat):
    """All of a document but the values: at most 1,000 bytes, name and field names included."""
    assert len(chat) == 60
    costs = [document_size(doc) - len(doc.fields.get("frames", b"")) for doc in chat]
    print("fixed cost of a chat's documents:", sorted(costs))
    assert max(costs) <= 1000


def test_only_what_queries_ask_for_is_a_field(chat):
    """Every field is indexed, and every index slows the commit."""
    allowed = {"ns", "format", "run_id", "filter", "manifest", "frames", "digest", "heir"}
    assert set().union(*(doc.fields for doc in chat)) <= allowed


def test_frame_errors_are_told_apart_from_damage():
    """`read_manifest` promises one kind of error."""
    assert not issubclass(FrameError, DamagedError)
    encoded = b"not a frame"
    doc = Doc(SAMPLE.name, manifest.to_fields(SAMPLE, encoded, b"", run_id=None, index={}), 1, 2)
    with pytest.raises(DamagedError, match="the manifest is not a zstd frame"):
        decode(doc)


def test_what_is_nested_too_deeply_for_json():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested too deeply") as caught:
        manifest.envelope(dataclasses.replace(SAMPLE, checkpoint={"odd": deep}))
    assert caught.value.__context__ is None
