"""`verify` finds nothing in a healthy store, and every kind of damage once, at the depth that can see it."""

import asyncio
import itertools
import threading
import time

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Docs, GetBlob, GetDocs, ListBlobs, ListCollections, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import InvalidOptionError, UnsupportedFormatError, WrongKeyError
from langgraph_gcs_saver.flows import survey
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.results import DEPTHS
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.compat.xor_cipher import XorCipher
from tests.faults.test_damage import KINDS
from tests.incremental.eax import Eax
from tests.incremental.threads import chat, refs
from tests.kit.impatience import impatient
from tests.kit.interceptors import BeforeRounds, Meanwhile
from tests.patience import Clock
from tests.system.build import cfg, cid, noise, put

ODD = ["", ".", "..", "a/b", "__x__", 'a!b"~c', "é/..\0", "x" * 300, "é" * 150, "%2F"]
"""Ids that are easily mistaken for something else, two of them too long for a name."""


MORE = pytest.mark.parametrize("store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True)
"""Variants that need not be repeated on the emulators each time."""


def name_of(n, ns="", thread="t"):
    return keys.checkpoint_doc(thread, ns, cid(n))


def flip(data, at=None):
    changed = bytearray(data)
    changed[len(data) // 2 if at is None else at] ^= 0xFF
    return bytes(changed)


def flip_field(raw, name, field, at=None):
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, field: flip(fields[field], at)})


def flip_frame(raw, n, channel, number=-1):
    """Flip a byte of one frame of a channel's chain, wherever it is stored."""
    with raw.reader() as saver:
        frame = refs(saver, n)[channel].chain[number]
    owner = frame.owner or cid(n)
    if frame.attempt is None:
        flip_field(raw, keys.checkpoint_doc("t", "", owner), "frames", frame.at + frame.stored // 2)
    else:
        raw.set_object(*flipped_object(raw, frame.attempt, frame.at + frame.stored // 2))


def flipped_object(raw, part, at=None):
    name = object_of(raw, part)
    return name, flip(raw.objects()[name], at)


def object_of(raw, part):
    (name,) = (name for name in raw.object_sizes() if part in name)
    return name


def writes_of(raw, n, kind):
    """Name of the document of a checkpoint's pending writes: regular or special."""
    (name,) = (
        name
        for name in raw.documents()
        if "/lg_writes/" in name
        and keys.writes_checkpoint_id_of(name) == cid(n)
        and name.endswith("!s") is (kind == "special")
    )
    return name


def without(raw, name, *fields):
    raw.set_document(name, {key: value for key, value in raw.documents()[name].items() if key not in fields})


def found_at(raw, depth, thread_id="t", **options):
    with impatient(raw.reader(interceptors=[Clock()], **options)) as saver:
        return list(saver.admin.verify(thread_id, depth=depth))


def fill(saver, **limits):
    """Three checkpoints in a line, a namespace, and pending writes in documents and in an object."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(manifest, name, value)
        state = {"chat": chat(3), "kept": ["kept"], "big": noise(20_000), "none": None}
        put(saver, 1, state, metadata={"run_id": "run 1", "user": "ada"})
        saver.put_writes(cfg(1), [("chat", ["two"])], "task 1")
        state |= {"chat": chat(4)}
        put(saver, 2, state, parent=1, changed={"chat"}, metadata={"run_id": "run 2"})
        saver.put_writes(cfg(2), [("big", noise(140_000, "w"))], "task 1")
        put(saver, 2, {"inner": "child"}, ns="child")
        state |= {"chat": chat(5)}
        put(saver, 3, state, parent=2, changed={"chat"})
        saver.put_writes(cfg(3), [("__interrupt__", ["asked"])], "task 2")


@pytest.fixture
def filled(raw, saver):
    fill(saver)
    saver.close()
    return raw


@pytest.fixture
def packed(raw, saver):
    """Small frames are in objects that they share, and manifests are in objects of their own."""
    fill(saver, INNER_BYTES=0, PAYLOAD_BYTES=0)
    saver.close()
    return raw


# Nothing is wrong


@pytest.mark.parametrize("kind", KINDS)
@MORE
def test_a_healthy_store(store_uri, raw, kind):
    make, options, limits = KINDS[kind]
    with pytest.MonkeyPatch.context() as patch, GCSSaver.from_conn_string(store_uri, **options) as saver:
        for name, value in limits.items():
            patch.setattr(manifest, name, value)
        make(saver, "t")
        make(saver, "u")
    before = raw.snapshot()
    for depth in DEPTHS:
        assert found_at(raw, depth, None, **options) == [], depth
    assert raw.snapshot() == before


@MORE
def test_odd_ids(raw, saver):
    for thread in ODD:
        for n, ns in enumerate(ODD, 1):
            put(saver, n, {"a": noise(300, n), ns or "empty": [thread]}, thread=thread, ns=ns)
            saver.put_writes(cfg(n, thread=thread, ns=ns), [("a", n)], ns or "task")
    put(saver, 99, {"a": noise(9_000)}, thread="x" * 300, ns="é" * 150)
    for depth in DEPTHS:
        assert found_at(raw, depth, None) == [], depth


def test_an_empty_store_and_an_unknown_thread(raw, saver):
    put(saver, 1, {"a": 1}, thread="other")
    saver.delete_thread("other")
    for depth in DEPTHS:
        assert found_at(raw, depth, None) == []
        assert found_at(raw, depth, "nobody") == []


@pytest.mark.parametrize("size", [10, 140_000])
@MORE
def test_only_pending_writes(raw, saver, size):
    """Writes may come before their checkpoint: a thread without a document of its own is not damaged."""
    saver.put_writes(cfg(1), [("a", noise(size))], "task")
    for depth in DEPTHS:
        assert found_at(raw, depth) == []
        assert found_at(raw, depth, None) == []


@MORE
def test_metadata_of_every_type(raw, saver):
    """The fields that queries use are made of live objects when they are stored, and of deserialized ones here."""
    odd = {
        "bool": True,
        "int": 1 << 62,
        "large": 1 << 63,
        "float": -0.0,
        "text": "é" * 128,
        "long": "é" * 129,
        "none": None,
        "list": [1],
        "a.b": 1,
        "run_id": 7,
        "": "",
    }
    put(saver, 1, {"a": 1}, metadata=odd)
    put(saver, 2, {"a": 1}, parent=1, metadata={"run_id": ""})
    assert found_at(raw, "metadata", None) == []


@MORE
def test_a_replaced_checkpoint(raw, saver):
    """Its frames stay where children build on them, and its former run is still known."""
    put(saver, 1, {"chat": chat(3)}, metadata={"run_id": "run 1"})
    put(saver, 2, {"chat": chat(4)}, parent=1, metadata={"run_id": "run 1"})
    put(saver, 1, {"chat": chat(5, 50)}, metadata={"run_id": "run 2"})
    assert "former_runs" in raw.documents()[name_of(1)]
    assert found_at(raw, "data") == []


@MORE
def test_a_deletion_that_died(make_saver, store_uri, raw):
    """Stopped after any of its effects it leaves its mark, which is reported, and objects that nothing refers to."""
    thread, stop = 0, 0
    while True:
        thread += 1
        with CrashingSaver.from_conn_string(store_uri) as saver:
            put(saver, 1, {"a": noise(9_000), "b": noise(300)}, thread=str(thread), metadata={"run_id": "run"})
            put(saver, 2, {"a": noise(9_000), "b": noise(300, 1)}, parent=1, changed={"b"}, thread=str(thread))
            saver.put_writes(cfg(2, thread=str(thread)), [("a", 1)], "task")
            saver.plan = Plan(stop)
            try:
                saver.delete_thread(str(thread))
            except Crashed:
                stop += 1
            else:
                break
        name = keys.thread_doc(str(thread))
        left = [("corrupt", name)] if "deleting" in raw.documents().get(name, {}) else []
        for depth in DEPTHS:
            found = found_at(raw, depth, str(thread))
            assert [(one.kind, one.name) for one in found if one.is_damage] == left, stop
    assert stop > 5


# Every kind of damage


def base(raw):
    flip_frame(raw, 1, "chat")


def increment(raw):
    flip_frame(raw, 3, "chat")


def cut_frames(raw):
    fields = raw.documents()[name_of(3)]
    raw.set_document(name_of(3), {**fields, "frames": fields["frames"][:-1]})


def removed_object(raw):
    raw.delete_object(object_of(raw, "/big-"))


def cut_object(raw):
    name = object_of(raw, "/big-")
    raw.set_object(name, raw.objects()[name][:-1])


def flipped_big(raw):
    raw.set_object(*flipped_object(raw, "/big-"))


def gone(n, ns=""):
    return lambda raw: raw.delete_document(name_of(n, ns))


def manifest_of(n):
    return lambda raw: flip_field(raw, name_of(n), "manifest")


def regular(raw):
    flip_field(raw, writes_of(raw, 1, "regular"), "writes")


def special(raw):
    flip_field(raw, writes_of(raw, 3, "special"), "w3")


def removed_writes_object(raw):
    raw.delete_object(object_of(raw, "/~writes-"))


def flipped_writes_object(raw):
    raw.set_object(*flipped_object(raw, "/~writes-"))


def other_filter(raw):
    raw.set_document(name_of(1), {**raw.documents()[name_of(1)], "filter": {"source": "other"}})


def no_filter(raw):
    without(raw, name_of(1), "filter")


def a_truth_for_a_number(raw):
    fields = raw.documents()[name_of(1)]
    assert fields["filter"]["step"] == 0
    raw.set_document(name_of(1), {**fields, "filter": {**fields["filter"], "step": False}})


def other_run(raw):
    raw.set_document(name_of(1), {**raw.documents()[name_of(1)], "run_id": "run 2"})


def no_run(raw):
    raw.delete_document(keys.run_doc("run 1", "t"))


def no_thread(raw):
    raw.delete_document(keys.thread_doc("t"))


def stripped_newest(raw):
    without(raw, name_of(3), "format", "ns", "manifest", "digest", "filter")


def no_checkpoints(raw):
    for n in (3, 2, 1):
        raw.delete_document(name_of(n))


def an_orphan(raw):
    name = object_of(raw, "/big-")
    raw.set_object(name.replace("/big-", "/big-0000"), b"orphan")


def a_stripped_one(raw):
    raw.set_document(name_of(9), {"frames": b"frames"})


ALL = ("metadata", "existence", "data")
LATER = ("existence", "data")
DATA = ("data",)

KINDS_OF_DAMAGE = {
    # What is done; the depths that see it; kind, checkpoint, channel, the name's end, who is affected.
    "a base": (base, DATA, ("corrupt", 1, "chat", name_of(1), (3, 2, 1))),
    "an increment": (increment, DATA, ("corrupt", 3, "chat", name_of(3), (3,))),
    "frames that are cut off": (cut_frames, ALL, ("corrupt", 3, "chat", name_of(3), (3,))),
    "an object that is gone": (removed_object, LATER, ("missing", 1, "big", ".zst", (3, 2, 1))),
    "an object that is cut off": (cut_object, LATER, ("corrupt", 1, "big", ".zst", (3, 2, 1))),
    "an object that is flipped": (flipped_big, LATER, ("corrupt", 1, "big", ".zst", (3, 2, 1))),
    "the newest manifest": (manifest_of(3), ALL, ("corrupt", 3, None, name_of(3), (3,))),
    "a manifest in the middle": (manifest_of(2), ALL, ("corrupt", 2, None, name_of(2), (2,))),
    "the first manifest": (manifest_of(1), ALL, ("corrupt", 1, None, name_of(1), (1,))),
    "a document that others need": (gone(1), ALL, ("missing", 1, "chat", name_of(1), (3, 2))),
    "the newest document": (gone(3), ALL, ("missing", 3, None, name_of(3), (3,))),
    "the newest document, stripped": (stripped_newest, ALL, ("missing", 3, None, name_of(3), (3,))),
    "regular writes": (regular, ALL, ("corrupt", 1, None, "!task%201!", (1,))),
    "special writes": (special, ALL, ("corrupt", 3, None, "!task%202!s", (3,))),
    "writes in an object that is gone": (removed_writes_object, LATER, ("missing", 2, None, ".zst", (2,))),
    "writes in an object that is flipped": (flipped_writes_object, DATA, ("corrupt", 2, None, ".zst", (2,))),
    "another filter": (other_filter, ALL, ("corrupt", 1, None, name_of(1), ())),
    "no filter": (no_filter, ALL, ("corrupt", 1, None, name_of(1), ())),
    "a filter's type": (a_truth_for_a_number, ALL, ("corrupt", 1, None, name_of(1), ())),
    "another run": (other_run, ALL, ("corrupt", 1, None, name_of(1), ())),
    "no run document": (no_run, ALL, ("missing", None, None, keys.run_doc("run 1", "t"), ())),
    "no thread document": (no_thread, ALL, ("missing", None, None, keys.thread_doc("t"), ())),
    "no checkpoints": (no_checkpoints, ALL, ("missing", None, None, keys.checkpoints("t"), ())),
    "an orphan": (an_orphan, LATER, ("unreferenced", None, None, ".zst", ())),
    "a stripped document": (a_stripped_one, ALL, ("unreferenced", None, None, name_of(9), ())),
}


@pytest.mark.parametrize("what", KINDS_OF_DAMAGE)
@MORE
def test_every_kind_of_damage(filled, raw, what):
    do, depths, (kind, n, channel, end, affects) = KINDS_OF_DAMAGE[what]
    do(raw)
    before = raw.snapshot()
    for depth in DEPTHS:
        found = found_at(raw, depth)
        assert found == found_at(raw, depth, None)
        if what == "no checkpoints" and depth != "metadata":
            found = [one for one in found if one.kind != "unreferenced"]
        if what == "the newest document, stripped":
            found = [one for one in found if one.kind != "unreferenced"]
        if what == "a document that others need":
            found.sort(key=lambda one: one.channel)
            assert [one.channel for one in found] == ["chat", "kept"]
            del found[1]
        if depth not in depths:
            assert found == [], depth
            continue
        (one,) = found
        assert (one.kind, one.thread_id, one.checkpoint_ns, one.channel) == (kind, "t", "", channel), depth
        assert one.checkpoint_id == ("" if n is None else cid(n))
        assert end in one.name
        assert one.affects == tuple(map(cid, affects))
        assert one.is_damage is (kind != "unreferenced")
        assert one.reason
        assert one.name in str(one)
    assert raw.snapshot() == before


PACKED = {
    "a manifest's object that is gone": (ALL, "missing", None, (2,)),
    "a manifest's object that is flipped": (ALL, "corrupt", None, (2,)),
    "packed frames that are gone": (LATER, "missing", "chat", (3, 2)),
    "packed frames that are flipped": (DATA, "corrupt", "chat", (3, 2)),
    "packed frames that are cut off": (LATER, "corrupt", "chat", (3, 2)),
}


@pytest.mark.parametrize("what", PACKED)
@MORE
def test_packed_frames_and_stubs(packed, raw, what):
    depths, kind, channel, affects = PACKED[what]
    prefix = raw.prefix + "/" if hasattr(raw, "prefix") else ""
    part = f"/~/{keys.enc(cid(2))}/{'~manifest' if channel is None else '~frames'}-"
    name = object_of(raw, part)
    if "gone" in what:
        raw.delete_object(name)
    elif "cut" in what:
        raw.set_object(name, raw.objects()[name][:-1])
    else:
        raw.set_object(name, flip(raw.objects()[name]))
    for depth in DEPTHS:
        found = [one for one in found_at(raw, depth) if one.is_damage]
        if depth not in depths:
            assert found == []
            continue
        (one,) = found
        assert (one.kind, one.channel, one.checkpoint_id) == (kind, channel, cid(2)), depth
        assert prefix + one.name == name
        assert one.affects == (tuple(map(cid, affects)))


@MORE
def test_a_damage_in_a_namespace(filled, raw):
    flip_field(raw, name_of(2, "child"), "manifest")
    (one,) = found_at(raw, "metadata")
    assert (one.checkpoint_ns, one.checkpoint_id, one.affects) == ("child", cid(2), (cid(2),))


@MORE
def test_a_damage_in_a_long_namespace(raw, saver):
    """Another checkpoint of the namespace has its name."""
    for n in (1, 2):
        put(saver, n, {"a": n}, ns="x" * 300)
    flip_field(raw, name_of(2, "x" * 300), "manifest")
    (one,) = found_at(raw, "metadata")
    assert one.checkpoint_ns == "x" * 300


def test_two_damages_of_one_chain(filled, raw):
    """The one that hides the other."""
    base(raw)
    increment(raw)
    found = found_at(raw, "data")
    assert [(one.channel, one.checkpoint_id) for one in found] == [("chat", cid(1))]


def test_all_at_once(filled, raw):
    an_orphan(raw)
    raw.delete_object(next(name for name in raw.object_sizes() if "/big-" in name and "/big-0000" not in name))
    base(raw)
    special(raw)
    other_filter(raw)
    no_run(raw)
    kinds = sorted((one.kind, one.channel or "") for one in found_at(raw, "data"))
    assert kinds == [
        ("corrupt", ""),
        ("corrupt", ""),
        ("corrupt", "chat"),
        ("missing", ""),
        ("missing", "big"),
        ("unreferenced", ""),
    ]


@MORE
def test_what_a_damaged_manifest_refers_to_is_not_called_unreferenced(filled, raw):
    for n in (1, 2, 3):
        flip_field(raw, name_of(n), "manifest")
    assert [one.kind for one in found_at(raw, "data")] == ["corrupt"] * 3


def test_hints_that_are_no_json(filled, raw):
    """`former_runs` is a hint that no digest covers: nonsense in it must not stop anything."""
    raw.set_document(name_of(1), {**raw.documents()[name_of(1)], "former_runs": "nonsense"})
    found_at(raw, "data")
    with raw.reader() as saver:
        saver.delete_thread("t")
    assert raw.snapshot() == ({}, {})


# All threads


def test_all_threads(raw, saver):
    """One whose document is missing, one that has only objects, and one that has only writes."""
    for thread in ("whole", "no document", "only objects", "x" * 300):
        put(saver, 1, {"big": noise(20_000), "n": 1}, thread=thread)
    saver.put_writes(cfg(1, thread="only writes"), [("a", 1)], "task")
    raw.delete_document(keys.thread_doc("no document"))
    for thread in ("no document", "whole", "x" * 300):
        flip_field(raw, name_of(1, thread=thread), "manifest")
    (writes,) = (name for name in raw.documents() if "/lg_writes/" in name)
    flip_field(raw, writes, "writes")
    raw.delete_document(name_of(1, thread="only objects"))
    raw.delete_document(keys.thread_doc("only objects"))
    found = {(one.thread_id, one.kind, one.name.rsplit("/", 1)[1].split("-")[0]) for one in found_at(raw, "data", None)}
    leaf = name_of(1).rsplit("/", 1)[1].split("-")[0]
    assert found == {
        ("whole", "corrupt", leaf),
        ("x" * 300, "corrupt", leaf),
        ("no document", "corrupt", leaf),
        ("no document", "missing", keys.thread_doc("no document").rsplit("/", 1)[1].split("-")[0]),
        ("only objects", "unreferenced", "big"),
        ("only writes", "corrupt", writes.rsplit("/", 1)[1].split("-")[0]),
    }


def test_objects_that_are_not_ours(raw, saver):
    """Others may keep theirs in the same bucket."""
    put(saver, 1, {"big": noise(20_000)})
    name = object_of(raw, "/big-")
    head = name[: name.index(keys.thread_blobs("t"))]
    for odd in ("zz-t/readme.txt", "zz-%FF/readme.txt", "readme.txt"):
        raw.set_object(head + odd, b"not ours")
    flip_field(raw, name_of(1), "manifest")
    assert [one.kind for one in found_at(raw, "data", None)] == ["corrupt"]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_rounds_of_hundreds_of_threads(make_saver):
    saver = make_saver(verify="off")
    rounds = []
    for more in (range(50), range(50, 250)):
        for thread in more:
            put(saver, 1, {"a": 1}, thread=str(thread))
        count = CountingInterceptor()
        assert list(make_saver(interceptors=[count]).admin.verify()) == []
        rounds.append(len(count.rounds))
    each = (rounds[1] - rounds[0]) / 200
    assert each <= 8
    assert rounds[0] == pytest.approx(50 * each, abs=10)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_asynchronous_twin(filled, raw, depth):
    removed_object(raw)
    increment(raw)
    no_run(raw)

    async def averify():
        async with raw.reader() as saver:
            one = [found async for found in saver.admin.verify("t", depth=depth)]
            return one, [found async for found in saver.admin.verify(depth=depth)]

    of_one, of_all = asyncio.run(averify())
    assert of_one == of_all == found_at(raw, depth)
    assert of_one


# What is not damage


def test_a_depth_that_is_none(saver):
    with pytest.raises(InvalidOptionError, match="metadata, existence, data"):
        list(saver.admin.verify(depth="everything"))

    async def averify():
        return [one async for one in saver.admin.verify(depth="everything")]

    with pytest.raises(InvalidOptionError):
        asyncio.run(averify())


@pytest.mark.parametrize("depth", DEPTHS)
@MORE
def test_another_key(store_uri, raw, depth):
    with GCSSaver.from_conn_string(store_uri, cipher=Eax("key"), inline_max_bytes=0) as saver:
        put(saver, 1, {"a": noise(300)})
    before = raw.snapshot()
    for options in ({}, {"cipher": Eax("another")}, {"cipher": XorCipher()}):
        with pytest.raises(WrongKeyError):
            found_at(raw, depth, None, **options)
    assert found_at(raw, depth, None, cipher=Eax("key")) == []
    assert raw.snapshot() == before


def test_a_newer_format(filled, raw):
    raw.set_document(name_of(2), {**raw.documents()[name_of(2)], "format": 3})
    with pytest.raises(UnsupportedFormatError):
        found_at(raw, "metadata")
    assert raw.documents()[name_of(2)]["format"] == 3


class FlippingOnce(Interceptor):
    """Flips the first answer for each document and object, as a bad wire would."""

    def __init__(self):
        self.seen = set()

    def around(self, effect, perform):
        result = perform(effect)
        match effect:
            case QueryDocs():
                return [self._doc(doc) for doc in result]
            case GetDocs():
                return Docs(map(self._doc, result.values()), result.read_time)
            case GetBlob(name) if result and self._is_first(name):
                return flip(result)
        return result

    def _is_first(self, what):
        is_first = what not in self.seen
        self.seen.add(what)
        return is_first

    def _doc(self, doc):
        fields = dict(doc.fields)
        for key, value in fields.items():
            if isinstance(value, bytes) and value and self._is_first((doc.name, key)):
                fields[key] = flip(value)
        return type(doc)(doc.name, fields, doc.create_time, doc.update_time)


@pytest.mark.parametrize("limits", [{}, {"INNER_BYTES": 0, "PAYLOAD_BYTES": 0}])
@MORE
def test_what_is_read_wrongly_once_is_not_damage(raw, saver, limits):
    """Missing or different is damage only if it stays so."""
    fill(saver, **limits)
    for depth in DEPTHS:
        flipping = FlippingOnce()
        with raw.reader(interceptors=[flipping]) as reader:
            assert list(reader.admin.verify("t", depth=depth)) == [], depth
        assert len(flipping.seen) > 5


@pytest.mark.parametrize("inline", [8192, 0])
@MORE
def test_while_others_write(make_saver, raw, inline):
    """A line of steps, a checkpoint that is replaced repeatedly, and a thread that is created and deleted."""
    stop = threading.Event()
    failed = []

    def write(thread, step):
        try:
            with raw.reader(inline_max_bytes=inline, verify="off") as saver:
                n = 0
                while not stop.wait(0.01):  # clock: a thread must not grow faster than verify reads it
                    n += 1
                    step(saver, thread, n)
        except BaseException as error:
            failed.append(error)

    def go_on(saver, thread, n):
        state = {"chat": chat(3 + n % 9), "kept": noise(300), "big": noise(9_000, n // 4)}
        changed = {"chat", "big"} if n % 4 == 0 else {"chat"}
        put(
            saver,
            n,
            state,
            parent=n - 1 or None,
            thread=thread,
            changed=changed if n > 1 else None,
            metadata={"run_id": f"run {n // 3}"},
        )
        saver.put_writes(cfg(n, thread=thread), [("chat", [n])], "task")

    def replace(saver, thread, n):
        put(saver, 1, {"chat": chat(3, n), "big": noise(9_000, n)}, thread=thread, metadata={"run_id": f"run {n}"})
        put(saver, 2, {"chat": chat(4, n), "big": noise(9_000, n)}, parent=1, thread=thread)

    def come_and_go(saver, thread, n):
        for k in (1, 2):
            put(saver, k, {"a": noise(9_000, k)}, parent=k - 1 or None, thread=thread, metadata={"run_id": f"run {n}"})
        saver.delete_thread(thread)

    workers = [
        threading.Thread(target=write, args=one)
        for one in (("on", go_on), ("replaced", replace), ("coming and going", come_and_go))
    ]
    for worker in workers:
        worker.start()
    try:
        rounds = 0
        until = time.monotonic() + 1  # clock: how much is tried
        while time.monotonic() < until or rounds < 2:  # clock: as above
            with raw.reader() as saver:
                for depth in DEPTHS:
                    assert not [one for one in saver.admin.verify(depth=depth) if one.is_damage], depth
            rounds += 1
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failed == []
    assert not [one for one in found_at(raw, "data", None) if one.is_damage]


@MORE
def test_a_thread_that_is_deleted_while_it_is_looked_at(raw, saver):
    """Between any two reads of `verify`: nothing was lost."""
    stop = 0
    while True:
        for n in (1, 2):
            put(saver, n, {"a": noise(9_000, n), "b": n}, parent=n - 1 or None, metadata={"run_id": f"run {n}"})
        saver.put_writes(cfg(2), [("a", 1)], "task")
        deleting = Meanwhile((GetDocs, QueryDocs, GetBlob), lambda: saver.delete_thread("t"), stop)
        with raw.reader(interceptors=[deleting]) as reader:
            assert not [one for one in reader.admin.verify("t", depth="data") if one.is_damage], stop
        if not deleting.is_done:
            break
        stop += 1
    assert stop > 5


class ComingAndGoing(Interceptor):
    """Deletes a thread and puts it again, or the other way round, before two reads of each look of `verify`.

    Args:
        put: Puts the thread.
        delete: Deletes it.
        is_there: Whether the thread is there when a look reads its first checkpoint.
        turns: Before which two reads after that.

    Attributes:
        reads: The number of reads of the longest look.
    """

    def __init__(self, put, delete, is_there, turns):
        self.put, self.delete, self.is_there, self.turns = put, delete, is_there, turns
        self.exists = self.is_busy = False
        self.read = self.reads = 0

    def around(self, effect, perform):
        if not self.is_busy and isinstance(effect, (GetDocs, QueryDocs, ListCollections, ListBlobs, GetBlob)):
            self.is_busy = True
            self._before(effect)
            self.is_busy = False
        return perform(effect)

    def _before(self, effect):
        match effect:
            case QueryDocs(collection, limit=survey.DOCS_PER_PAGE, after=None) if collection == keys.checkpoints("t"):
                self.read = 0
                if self.exists != self.is_there:
                    self._turn()
        self.read += 1
        self.reads = max(self.reads, self.read)
        for _ in range(self.turns.count(self.read)):
            self._turn()

    def _turn(self):
        (self.delete if self.exists else self.put)()
        self.exists = not self.exists


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("runs", [1, 9])
def test_a_thread_that_comes_and_goes_in_every_look(runs, is_there):
    """As often as `verify` looks, whenever the thread is deleted and put again, by the same run or by another."""
    put_runs = itertools.count()

    def put_again():
        run = {"run_id": f"run {next(put_runs) % runs}"}
        for n in (1, 2):
            put(
                saver,
                n,
                {"a": 1, "big": noise(9_000)},
                parent=n - 1 or None,
                changed={"a"} if n > 1 else None,
                metadata=run,
            )

    first, second, reads = 1, 1, 1
    while first <= reads:
        turning = ComingAndGoing(put_again, lambda: saver.delete_thread("t"), is_there, (first, second))
        with GCSSaver.from_conn_string("memory:", interceptors=[turning]) as saver:
            found = list(saver.admin.verify("t", depth="data"))
        assert not [one for one in found if one.is_damage], (first, second, found)
        reads = max(reads, turning.reads)
        first, second = (first, second + 1) if second < reads else (first + 1, first + 1)
    assert reads > 5


@MORE
def test_damage_is_found_while_others_write(filled, raw):
    """Before each read of `verify`, the checkpoint whose run has lost its document gets another child."""
    no_run(raw)
    rounds = BeforeRounds()
    with raw.reader(verify="off") as writer, raw.reader(interceptors=[rounds]) as reader:
        rounds.call(lambda n: put(writer, 10 + n, {"a": n}, parent=1))
        (one,) = (found for found in reader.admin.verify("t", depth="data") if found.is_damage)
    assert (one.kind, one.name) == ("missing", keys.run_doc("run 1", "t"))
