"""Stores that an attacker has written to, with correct digests: they are refused, and nothing is changed.

False sizes within one checkpoint are in `tests/incremental/test_lies.py`.
"""

import asyncio
import functools
import hashlib
import pickle

import pytest
import zstandard

from langgraph_gcs_saver.engine.effects import GetBlob, GetDocs, PutBlob, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    DamageError,
    GCSSaverError,
    InvalidInputError,
    SerializationError,
    ValueTooLargeError,
)
from langgraph_gcs_saver.flows.manifests import make_stub
from langgraph_gcs_saver.format import frames, keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.regions import FIRST_ROLE
from tests.kit.memory import peak
from tests.security.sealing import opened, seal
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, values

CODEC = Codec(3)
HUGE = 1 << 30
MOST = 6 << 20
"""What any read here may take."""

LIMIT = 100_000
"""`max_value_bytes` of savers that have a limit."""


@pytest.fixture
def store_uri(tmp_path):
    """The embedded store, whose names of objects are paths of files: bytes are the same wherever they come from."""
    return f"file://{tmp_path}/store"


@functools.cache
def bomb(size=HUGE):
    """Zeros, as one frame that says honestly how many."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    part = bytes(1 << 22)
    return b"".join([compressor.compress(part) for _ in range(size >> 22)] + [compressor.flush()])


class Asked(Interceptor):
    """Notes every name that is requested."""

    def __init__(self):
        self.names = []

    def around(self, effect, perform):
        match effect:
            case GetBlob(name):
                self.names.append(name)
            case GetDocs(names):
                self.names += [name.removeprefix("lg_threads/") for name in names]
            case QueryDocs(collection):
                self.names.append(collection.removeprefix("lg_threads/"))
        return perform(effect)


# Values over the limit


def snapshot(raw):
    return raw.documents(), raw.objects()


@pytest.mark.parametrize("state", [{"large": bytes(LIMIT + 1)}, {"a": noise(9000), "large": noise(LIMIT + 1)}], ids=len)
@pytest.mark.parametrize("inline", [8 << 10, 0])
def test_a_value_over_the_limit_is_refused_and_nothing_is_written(state, inline, make_saver, raw):
    saver = make_saver(max_value_bytes=LIMIT, inline_max_bytes=inline)
    put(saver, 1, {"a": 1})
    before = snapshot(raw)
    first = checkpoint(2, state)
    for call in (
        lambda: put(saver, 2, state, parent=1),
        lambda: asyncio.run(saver.aput(cfg(1), first, DEFAULT, first["channel_versions"])),
        lambda: saver.put_writes(cfg(1), [("a", 1), ("large", state["large"])], "task"),
        lambda: saver.put_writes(cfg(1), [("__interrupt__", state["large"]), ("a", 1)], "task"),
        lambda: asyncio.run(saver.aput_writes(cfg(1), [("large", state["large"])], "task")),
    ):
        with pytest.raises(ValueTooLargeError, match="max_value_bytes is 100,000") as caught:
            call()
        assert isinstance(caught.value, InvalidInputError)
        assert snapshot(raw) == before
    # The thread continues as if the call had not been made.
    put(saver, 2, {"a": 2, "large": bytes(LIMIT - 100)}, parent=1)
    assert values(saver.get_tuple(cfg()))["a"] == 2


def test_many_values_below_the_limit_are_not_one_over_it(make_saver):
    """The limit is one of values: neither a manifest nor the writes of a call are one."""
    saver = make_saver(max_value_bytes=1024)
    state = {f"channel {n}": n for n in range(50)}
    put(saver, 1, state)
    saver.put_writes(cfg(1), [(f"channel {n}", noise(500, n)) for n in range(10)], "task")
    found = make_saver(max_value_bytes=1024).get_tuple(cfg())
    assert values(found) == state
    assert len(found.pending_writes) == 10


@pytest.mark.parametrize("inline", [8 << 10, 0])
@pytest.mark.parametrize("config", [cfg(), cfg(2)], ids=["latest", "by id"])
def test_a_stored_value_over_the_limit_is_not_read(config, inline, make_saver):
    """Stored by a saver with another limit: 64 MiB in a few kilobytes. It is no damage, and nothing falls back."""
    writer = make_saver(inline_max_bytes=inline, verify="off")
    put(writer, 1, {"a": 1})
    put(writer, 2, {"a": 1, "large": bytes(64 << 20)}, parent=1)
    events = []
    reader = make_saver(max_value_bytes=LIMIT, on_event=events.append)
    with peak(MOST), pytest.raises(ValueTooLargeError):
        reader.get_tuple(config)
    with peak(MOST), pytest.raises(ValueTooLargeError):
        list(reader.list(cfg()))
    assert values(reader.get_tuple(cfg(1))) == {"a": 1}
    assert not [event for event in events if "Damaged" in type(event).__name__]


# Crafted documents


def is_refused(raw, config, *, thread="t", kind=CheckpointCorruptError, **options):
    """Every way to read it is refused. Nothing outside of its thread is requested, and hardly any memory is used."""
    asked = Asked()
    with raw.reader(interceptors=[asked], **options) as reader:
        with peak(MOST), pytest.raises(kind) as caught:
            reader.get_tuple(config)
        latest = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        with peak(MOST), pytest.raises(GCSSaverError):
            reader.get_tuple(latest)
        own = keys.spread(thread)
        assert asked.names
        names = [name for name in asked.names if name != FIRST_ROLE]
        assert all(name == own or name.startswith(f"{own}/") for name in names), names
        assert not any(".." in name.split("/") or "\0" in name for name in asked.names)
    return caught.value


NAMES = [
    "../../../victim",
    "/etc/passwd",
    "..",
    "a/b/c",
    "deadbeef/../../x",
    "deadbeef\0",
    "\0" * 8,
    "deadbeef.zst/..",
    "DEADBEEF",
    "deadbeef\n",
    "a" * 2000,
]
LONE = "\ud800 is no text"


@pytest.fixture
def name(make_saver):
    """The document of a checkpoint with a small value and a large one."""
    put(make_saver(), 1, {"small": "value", "large": noise(20_000)})
    return keys.checkpoint_doc("t", "", cid(1))


@pytest.mark.parametrize("attempt", [*NAMES, LONE, 5, None, ["deadbeef"]], ids=repr)
@pytest.mark.parametrize("packed", [True, False])
def test_attempts_that_are_names_of_others(attempt, packed, name, raw):
    head, tail = opened(raw, name)
    frame = {"k": 0, "stored": 20, "gcs": attempt} | ({"at": 0} if packed else {})
    head["channels"]["small"]["chain"] = [frame]
    seal(raw, name, head, tail)
    is_refused(raw, cfg(1))


@pytest.mark.parametrize("attempt", [*NAMES, LONE, 5, None], ids=repr)
def test_stubs_that_are_names_of_others(attempt, name, raw):
    seal(raw, name, {"gcs": [attempt, 100, 100, "0" * 64]})
    is_refused(raw, cfg(1))


@pytest.mark.parametrize("owner", [*NAMES, LONE, 5, None, "victim"], ids=repr)
@pytest.mark.parametrize("place", ["document", "object"])
def test_owners_that_are_names_of_others(owner, place, name, raw):
    """An id is encoded wherever it goes into a name: what it says there is of this thread and namespace."""
    head, tail = opened(raw, name)
    channel = "small" if place == "document" else "large"
    (frame,) = head["channels"][channel]["chain"]
    head["channels"][channel]["chain"] = [frame | {"in": owner}]
    seal(raw, name, head, tail)
    is_refused(raw, cfg(1), kind=GCSSaverError)


@pytest.mark.parametrize("channel", [*NAMES, LONE], ids=repr)
def test_channels_that_are_names_of_others(channel, name, raw):
    """A channel's name is part of its objects' names."""
    head, tail = opened(raw, name)
    head["channels"][channel] = head["channels"].pop("large")
    seal(raw, name, head, tail)
    is_refused(raw, cfg(1), kind=GCSSaverError)


@pytest.mark.parametrize("parent", NAMES, ids=repr)
def test_a_parent_is_only_told(parent, name, raw):
    """No call reads the parent on its own. When a caller requests it, its id is encoded like every id."""
    head, tail = opened(raw, name)
    seal(raw, name, head | {"parent": parent}, tail)
    if len(parent) > keys.MAX_CHECKPOINT_ID:
        is_refused(raw, cfg(1))
        return
    asked = Asked()
    with raw.reader(interceptors=[asked]) as reader:
        found = reader.get_tuple(cfg(1))
        assert found.parent_config["configurable"]["checkpoint_id"] == parent
        assert reader.get_tuple(found.parent_config) is None
        own = keys.spread("t")
        names = [name for name in asked.names if name != FIRST_ROLE]
        assert all(asked_for == own or asked_for.startswith(f"{own}/") for asked_for in names)


@pytest.mark.parametrize("parent", [LONE, 5, ["a"], {}], ids=repr)
def test_a_parent_that_is_no_id(parent, name, raw):
    head, tail = opened(raw, name)
    seal(raw, name, head | {"parent": parent}, tail)
    is_refused(raw, cfg(1))


# Another thread's frames


LONG = "a thread with a long name " * 20


@pytest.mark.parametrize("thread", ["t", LONG], ids=["short", "long"])
@pytest.mark.parametrize("size", [10, 20_000], ids=["document", "object"])
def test_a_manifest_that_refers_to_another_threads_frame(thread, size, make_saver, raw):
    """The victim's whole manifest, sealed for the attacker's thread: the same ids, offsets, attempts and digests."""
    saver = make_saver()
    secret = noise(size)
    put(saver, 1, {"v": secret}, thread="victim")
    put(saver, 2, {"v": secret, "n": 2}, parent=1, thread="victim", changed={"n"})
    put(saver, 2, {"mine": 1}, thread=thread)
    victim = keys.checkpoint_doc("victim", "", cid(2))
    mine = keys.checkpoint_doc(thread, "", cid(2))
    head, tail = opened(raw, victim)
    seal(raw, mine, head, tail)
    is_refused(raw, cfg(2, thread=thread), thread=thread)
    # Under the victim's own id, if the name does not say which thread it is.
    for named in ("victim", thread + "x"):
        seal(raw, mine, head | {"thread": named}, tail)
        is_refused(raw, cfg(2, thread=thread), thread=thread)
    assert values(make_saver().get_tuple(cfg(2, thread="victim"))) == {"v": secret, "n": 2}


def test_a_manifest_that_refers_to_another_namespaces_frame(make_saver, raw):
    saver = make_saver()
    put(saver, 1, {"v": noise(20_000)}, ns="secret")
    put(saver, 1, {"mine": 1})
    head, tail = opened(raw, keys.checkpoint_doc("t", "secret", cid(1)))
    mine = keys.checkpoint_doc("t", "", cid(1))
    for more in ({}, {"ns": "secret"}):
        seal(raw, mine, head | more, tail)
        is_refused(raw, cfg(1))


def writes_doc(raw, thread="t"):
    (found,) = [name for name in raw.documents() if name.startswith(keys.writes(thread) + "/")]
    return found


def seal_writes(raw, name, frame):
    sealed = hashlib.sha256(b"%s\0%s\0%s" % (name.encode(), b"writes", frame)).digest() + frame
    raw.set_document(name, {"format": 1, "writes": sealed})


@pytest.fixture
def pending(make_saver, raw):
    """The document of a checkpoint's pending writes."""
    saver = make_saver()
    put(saver, 1, {"a": 1})
    saver.put_writes(cfg(1), [("a", "mine")], "task")
    return writes_doc(raw)


def test_pending_writes_that_refer_to_another_threads_object(make_saver, pending, raw):
    saver = make_saver(inline_max_bytes=0)
    saver.put_writes(cfg(1, thread="victim"), [("a", "secret")], "task")
    seal_writes(raw, pending, raw.documents()[writes_doc(raw, "victim")]["writes"][32:])
    error = is_refused(raw, cfg(1))
    assert error.frame.startswith(keys.thread_blobs("t"))


@pytest.mark.parametrize("attempt", [*NAMES, LONE, 5, None], ids=repr)
def test_stubs_of_pending_writes_that_are_names_of_others(attempt, pending, raw):
    seal_writes(raw, pending, CODEC.encode(frames.envelope({"gcs": [attempt, 100, 100, "0" * 64]})))
    is_refused(raw, cfg(1))


# Bombs


def test_pending_writes_that_are_a_bomb(pending, raw):
    seal_writes(raw, pending, bomb())
    is_refused(raw, cfg(1))


@pytest.mark.parametrize("size", [HUGE, 2 * HUGE, 1 << 50], ids=str)
def test_stubs_of_bombs(size, make_saver, name, pending, raw):
    """Stubs of a manifest, and of pending writes. The size in the stub is the frame's, or is not."""
    saver = make_saver()
    stub, _ = make_stub(b"x", "deadbeef", CODEC)
    data = bomb(min(size, 2 * HUGE))
    head = {"gcs": [stub.attempt, len(data), size, "0" * 64]}
    for what in (keys.WRITES_BLOB, keys.MANIFEST):
        saver._backend.perform(PutBlob(keys.blob("t", "", cid(1), what, stub.attempt), data))
    seal_writes(raw, pending, CODEC.encode(frames.envelope(head)))
    is_refused(raw, cfg(1), kind=GCSSaverError, max_value_bytes=LIMIT)
    seal(raw, name, head)
    is_refused(raw, cfg(1), kind=GCSSaverError, max_value_bytes=LIMIT)


@pytest.mark.parametrize(
    "text",
    [b'{"a":' * 100_000, b"[" * 1_000_000, b'{"channels":1e999999}', b"1" * 100_000, b'"\\ud800"', b"\xff", b"NaN"],
    ids=lambda text: repr(text[:12]),
)
def test_json_that_a_parser_chokes_on(text, name, raw):
    seal(raw, name, text)
    is_refused(raw, cfg(1))


# Names of documents that this library does not make


ODD = [
    "junk",
    "00junk",
    "00!junk",
    "zz~!~",
    "ff~!~",
    "~!~",
    "!~",
    "00",
    "0000000~!~",
    f"{keys.inv(cid(1))}!%FF",
    f"{keys.inv(cid(1))}!~!~",
]


def found_or_told(call, odd):
    """What a call finds. `None` if it raises an error that names the odd document."""
    try:
        return call()
    except DamageError as error:
        if odd not in str(error):
            raise
        return None


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("copied", [True, False], ids=["a copy", "empty"])
def test_documents_that_are_called_otherwise(odd, copied, name, raw):
    """These documents are no checkpoints. They must not cause an exception that is not the library's."""
    fields = dict(raw.documents()[name]) if copied else {"ns": "~"}
    raw.set_document(f"{keys.checkpoints('t')}/{odd}", fields)
    with raw.reader() as reader:
        assert values(reader.get_tuple(cfg(1)))["small"] == "value"
        latest = found_or_told(lambda: reader.get_tuple(cfg()), odd)
        assert latest is None or latest.config["configurable"]["checkpoint_id"] == cid(1)
        for config in (cfg(), None):
            listed = found_or_told(lambda config=config: list(reader.list(config)), odd)
            assert listed is None or [one.config["configurable"]["checkpoint_id"] for one in listed] == [cid(1)]
        reader.delete_thread("t")
    assert snapshot(raw) == ({}, {})


@pytest.mark.parametrize("thread", ["00-%FF", "00-", "00", "00-~zz", "00-..%2F"])
def test_threads_that_are_called_otherwise_break_no_listing(thread, name, raw):
    leaf = name.rsplit("/", 1)[1]
    raw.set_document(f"lg_threads/{thread}/lg_checkpoints/{leaf}", dict(raw.documents()[name]))
    with raw.reader() as reader:
        assert [one.config["configurable"]["thread_id"] for one in reader.list(None)] == ["t"]


@pytest.mark.parametrize("prefix", ["00", "ff"])
def test_a_thread_under_another_prefix_is_not_the_one_that_it_says(prefix, make_saver, name, raw):
    """Otherwise its manifests would be listed as that thread's, with values from that thread's documents."""
    put(make_saver(), 1, {"v": "secret"}, thread="victim")
    real = keys.checkpoint_doc("victim", "", cid(1))
    other = real.replace(keys.thread_doc("victim"), f"lg_threads/{prefix}-victim")
    assert other != real
    head, tail = opened(raw, real)
    raw.set_document(other, raw.documents()[real])
    seal(raw, other, head | {"parent": "forged"}, tail)
    with raw.reader() as reader:
        listed = list(reader.list(None))
    assert {one.config["configurable"]["thread_id"] for one in listed} == {"t", "victim"}
    assert [one.parent_config for one in listed] == [None] * len(listed)


@pytest.mark.parametrize("odd", ["junk", "%FF!junk", "%FF!s", "task", "task!s!more!still", "!", ""])
def test_pending_writes_that_are_called_otherwise_are_refused(odd, pending, raw):
    """They are among the checkpoint's pending writes, and the task that they belong to is unknown."""
    begin = pending.split("!task!")[0]
    fields = dict(raw.documents()[pending])
    other = f"{begin}!{odd}"
    frame = fields["writes"][32:]
    seal_writes(raw, other, frame)
    with raw.reader() as reader:
        try:
            found = reader.get_tuple(cfg(1))
        except GCSSaverError:
            return
        assert ("task", "a", "mine") in found.pending_writes


# Code in values


class Explosive:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def trap(tmp_path):
    """The file that would be there, and the pickle that makes it."""
    path = tmp_path / "executed"
    return path, pickle.dumps(Explosive(path))


def test_the_trap_works(trap):
    path, data = trap
    pickle.loads(data).close()
    assert path.exists()


@pytest.mark.parametrize("where", ["value", "metadata", "rest"])
def test_pickle_in_a_checkpoint_is_refused(where, trap, name, raw):
    path, data = trap
    head, tail = opened(raw, name)
    fields = {}
    if where == "value":
        inner = CODEC.encode(data)
        fields["frames"] = inner
        head["channels"]["small"] = {
            "type": "pickle",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "chain": [{"k": 0, "stored": len(inner)}],
        }
    elif where == "metadata":
        head["metadata"], tail = ["pickle", len(data)], data
    else:
        head["rest"], tail = ["pickle", len(data)], tail + data
    seal(raw, name, head, tail, **fields)
    is_refused(raw, cfg(1), kind=SerializationError)
    with raw.reader() as reader, pytest.raises(SerializationError):
        list(reader.list(cfg()))
    with raw.reader() as reader:
        try:
            assert list(reader.list(cfg(), filter={"a key that no index has": 1})) == []
        except SerializationError:
            assert where == "metadata"
    assert not path.exists()


def test_pickle_in_a_pending_write_is_refused(trap, pending, raw):
    path, data = trap
    head = {"path": "", "writes": [[0, "a", "pickle", len(data)]]}
    seal_writes(raw, pending, CODEC.encode(frames.envelope(head, data)))
    is_refused(raw, cfg(1), kind=SerializationError)
    assert not path.exists()
