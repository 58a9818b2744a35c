"""Well-sealed documents that no writer makes: methods and commands end as they should, and handle other threads.

An attacker who can write to the store can compute digests. So a manifest, metadata, pending writes, and documents of
threads, of runs and of what was set aside may hold anything. The result is a typed error, a finding or an answer.
"""

import copy
import io
import shlex
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from datetime import timedelta

import pytest
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import run
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    DamageError,
    GCSSaverError,
    InvalidInputError,
    SerializationError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored
from tests.kit.impatience import impatient
from tests.security.forging import name_of
from tests.security.sealing import opened, seal, seal_writes
from tests.security.test_reading_runs_nothing import COMMANDS
from tests.system.build import cfg, cid, noise, put, values
from tests.system.raw import open_raw
from tests.unit.fuzz import fuzz

OTHERS = {"u", "w", "x", "z"}
"""Threads that are not forged, before and after `t` in a store; each has a damage of its own."""

LAST = name_of(3)
SERDE = JsonPlusSerializer()
PLAIN = PortableSerializer()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a store of five threads."""
    path = tmp_path_factory.mktemp("shapes") / "store"
    with GCSSaver.from_conn_string(f"file://{path}", serde=PLAIN) as saver:
        saver.setup()
        for thread in sorted(OTHERS | {"t"}):
            fill(saver, thread)
    with closing(open_raw(f"file://{path}")) as raw:
        for thread in OTHERS:
            raw.delete_document(name_of(3, thread=thread))
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def fill(saver, thread):
    """Three checkpoints with values in documents and in objects, incremental frames, and pending writes."""
    for n in (1, 2, 3):
        state = {"log": [f"message {k} " * 9 for k in range(n + 2)], "large": noise(140_000, 1), "said": n}
        metadata = {
            "step": n - 2,
            "run_id": "run" if thread == "t" else f"run of {thread}",
            "counters_since_delta_snapshot": {"delta": [1, n]},
            "parents": {"": cid(n)},
        }
        changed = set(state) - {"large"} if n > 1 else None
        put(saver, n, state, parent=n - 1 or None, thread=thread, metadata=metadata, changed=changed)
        saver.put_writes(cfg(n, thread=thread), [("delta", n), ("log", ["m"])], f"task {n}", "path")
    saver.put_writes(cfg(3, thread=thread), [("__interrupt__", ["?"])], "asking")


@pytest.fixture
def store(made, tmp_path):
    """A copy of it, which a test may forge."""
    return shutil.copytree(made, tmp_path / "store")


@pytest.fixture
def store_uri(store):
    return f"file://{store}"


# Everything that reads


METHODS = {
    "get_tuple": lambda saver, _: saver.get_tuple(cfg()),
    "get_tuple by id": lambda saver, _: saver.get_tuple(cfg(3)),
    "list": lambda saver, _: list(saver.list(cfg())),
    "list all": lambda saver, _: list(saver.list(None)),
    "list by metadata": lambda saver, _: list(saver.list(cfg(), filter={"step": 1, "odd": None})),
    "get_delta_channel_history": lambda saver, _: saver.get_delta_channel_history(
        config=cfg(), channels=["delta", "log"]
    ),
    "checkpoint_ids": lambda saver, _: saver.admin.checkpoint_ids(cfg()),
    "history": lambda saver, _: saver.admin.history("t"),
    "threads": lambda saver, _: saver.admin.threads(waiting=True),
    "stats": lambda saver, _: saver.admin.stats(),
    "verify": lambda saver, _: list(saver.admin.verify("t", depth="data")),
    "repair": lambda saver, _: list(saver.admin.plan_repair("t")),
    "prune": lambda saver, _: list(saver.admin.plan_prune(["t"])),
    "delete_for_runs": lambda saver, _: list(saver.admin.plan_delete_for_runs(["run"])),
    "copy_thread": lambda saver, _: saver.admin.copy_thread("t", "copy", dry_run=True),
    "collect": lambda saver, _: list(saver.admin.plan_collect(orphan_age=timedelta(0))),
    "sweep": lambda saver, _: list(saver.admin.plan_sweep()),
    "delete_thread": lambda saver, _: saver.admin.plan_delete_thread("t"),
    "pins": lambda saver, _: saver.admin.pins(cfg()),
    "export_thread": lambda saver, directory: saver.admin.export_thread("t", directory / "t.tar"),
}
"""What each method that reads is called with; those that would write are dry runs."""

QUICK = {"get_tuple by id", "list", "verify", "history", "repair", "prune", "get_delta_channel_history", "copy_thread"}


def open_reader(store, serde=PLAIN, **options):
    saver = GCSSaver.from_conn_string(f"file://{store}", serde=serde, verify="off", ttl=timedelta(days=1), **options)
    return impatient(saver)


def everything(store, only=tuple(METHODS), serde=PLAIN):
    """Call all that reads; returns the type of the error of each method that failed.

    Whatever else than an error of this library is raised comes out.
    """
    failed = {}
    with open_reader(store, serde, cache_max_bytes=0) as saver:
        for name in only:
            error = error_of(lambda name=name: METHODS[name](saver, store.parent))
            if error is not None:
                failed[name] = error
    return failed


def error_of(call):
    """The type of the error of this library that a call raises, if it raises one."""
    try:
        call()
    except GCSSaverError as error:
        return type(error)
    return None


def others_are_reported(store):
    """A look at all threads: whatever the odd one gives, the damage of the others is among it.

    Returns:
        The threads that were skipped.
    """
    findings, events = [], []
    with open_reader(store, on_event=events.append) as saver, suppress(GCSSaverError):
        findings.extend(saver.admin.verify())
    assert {one.thread_id for one in findings if one.is_damage} >= OTHERS
    return [event.thread_id for event in events if isinstance(event, ThreadSkipped)]


def test_what_is_not_forged_is_read(store, raw):
    seal(raw, LAST, *opened(raw, LAST))
    assert everything(store) == {}
    with open_reader(store) as saver:
        assert values(saver.get_tuple(cfg()))["said"] == 3
    assert others_are_reported(store) == []


# The table of shapes


def deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found


COUNTERS = "counters_since_delta_snapshot"
DAMAGE = CheckpointCorruptError
THING = Stored.of(0, ["mine", "Thing", "loop"])

# A place, what reading gives, and what is there. `metadata` and `rest` go through the serializer.
SHAPES = [
    ("checkpoint", DAMAGE, [None, 5, "", [], [{}]]),
    ("checkpoint.v", DAMAGE, [None, "4", 1 << 63, [], {}]),
    ("checkpoint.v", None, [-1, 1 << 60, ...]),
    ("checkpoint.ts", DAMAGE, [None, 5, [], {}]),
    ("checkpoint.ts", None, ["", "\ud800", ...]),
    ("checkpoint.channel_versions", DAMAGE, [None, 5, "", [], {"a": []}, {"a": {}}, deep(200)]),
    ("checkpoint.channel_versions", None, [{}, {"log": 5, "said": "x", "large": None}, {"a": 1.5}, ...]),
    ("checkpoint.versions_seen", DAMAGE, [None, 5, "", [1], {"x": 5}, {"x": {"y": []}}]),
    ("checkpoint.versions_seen", None, [{}, {"x": {"y": None}}, ...]),
    ("checkpoint.updated_channels", DAMAGE, [5, "x", {}, ["x", 1], [None]]),
    ("checkpoint.updated_channels", None, [None, [], ["x"], ...]),
    ("checkpoint.pending_sends", DAMAGE, [None, 5, "x", {}]),
    ("checkpoint.pending_sends", None, [[], [1], deep(200), ...]),
    ("parent", DAMAGE, [5, [], {}, "\ud800", "x" * 501, ...]),
    ("parent", None, [None]),
    ("channels", DAMAGE, [None, 5, "", [], {"a": 5}, {"a": {}}, ...]),
    ("channels", None, [{}]),
    ("metadata", DAMAGE, [None, 5, "text", [1], 1.5, True, {5: 1}, {(1, 2): 1}]),
    ("metadata.source", DAMAGE, [5, [], {}, 1.5, b"x"]),
    ("metadata.source", None, [None, "", THING]),
    ("metadata.step", DAMAGE, ["1", [], {}, 1 << 63, b"x", float("nan")]),
    ("metadata.step", None, [None, -1, Stored.of(0, ["mine", "Step", 1])]),
    ("metadata.parents", DAMAGE, [5, "x", [], {"": 5}, {"": None}, {5: "x"}]),
    ("metadata.parents", None, [None, {}]),
    (f"metadata.{COUNTERS}", DAMAGE, [5, "x", ["d"], {"d": 5}, {"d": None}, {"d": []}, {"d": ["x", 1]}, {5: [1, 1]}]),
    (f"metadata.{COUNTERS}", None, [None, {}, {"d": (0, 0)}]),
    ("rest", DAMAGE, [None, 5, "text", [1], {5: 1}]),
    ("rest.versions_seen", DAMAGE, [5]),
    ("rest.channel_versions", DAMAGE, [{"a": b"x"}]),
    ("rest.odd", None, [b"x", THING]),
    # What another serializer wrote may be whole: `repair` must not set it aside.
    *(
        (place, SerializationError, [Opaque(kind, b"\xc1") for kind in ("bytes", "evil", "pickle", "json", "msgpack")])
        for place in ("metadata", "rest")
    ),
]


def forge(raw, place, odd):
    """Put something else into one place of the last checkpoint of `t`. `...` removes what is there."""
    head, tail = opened(raw, LAST)
    part, _, field = place.partition(".")
    if part in {"metadata", "rest"}:
        kind, data = PLAIN.dumps_typed({field: odd} if field else odd)
        head[part] = [kind, len(data)]
        tail = data if part == "metadata" else tail + data
        seal(raw, LAST, head, tail)
    else:
        seal(raw, LAST, changed(head, (part, field) if field else (part,), odd), tail)


def changed(head, path, odd):
    """A copy of JSON with something else in one place; with `...` without it."""
    if not path:
        return odd
    found = copy.deepcopy(head)
    place = found
    for key in path[:-1]:
        place = place[key]
    if odd is not ...:
        place[path[-1]] = odd
    elif isinstance(place, list):
        del place[path[-1]]
    else:
        place.pop(path[-1], None)
    return found


@pytest.mark.parametrize(
    ("place", "error", "odds"), SHAPES, ids=lambda given: getattr(given, "__name__", str(given)[:40])
)
def test_shapes(place, error, odds, store, raw):
    """Damage is a finding, and an older checkpoint takes its place; what another serializer wrote is neither."""
    before = raw.documents()[LAST]
    for odd in odds:
        raw.set_document(LAST, before)
        forge(raw, place, odd)
        failed = everything(store, only=QUICK)
        assert set(failed.values()) <= {error}, (odd, failed)
        assert failed.get("get_tuple by id") is error, odd
        assert everything(store, only=["get_tuple by id"], serde=SERDE) == (
            {} if error is None else {"get_tuple by id": error}
        )
        if error is SerializationError:
            continue
        with open_reader(store) as saver:
            assert ("recovered_from" in saver.get_tuple(cfg()).metadata) == (error is DAMAGE), odd
            if error is DAMAGE:
                assert [one.checkpoint_id for one in saver.admin.verify("t") if one.is_damage] == [cid(3)], odd
            if not place.startswith("rest"):  # A listing does not read that.
                told = [info.checkpoint_id for info in saver.admin.history("t") if info.damage is not None]
                assert told == [cid(3)] * (error is DAMAGE), odd
    with open_reader(store) as saver:
        forged = raw.documents()
        if error is SerializationError:
            with suppress(SerializationError):
                saver.admin.repair("t")
            assert raw.documents() == forged
    assert others_are_reported(store) == (["t"] if (place, error) == ("metadata", SerializationError) else [])


@pytest.mark.parametrize(
    ("place", "odd", "error"),
    [
        ("metadata.step", "one", InvalidInputError),
        ("metadata.source", 5, InvalidInputError),
        ("metadata.parents", ["x"], InvalidInputError),
        (f"metadata.{COUNTERS}", {"a": 5}, InvalidInputError),
        ("checkpoint.versions_seen", 5, InvalidInputError),
        ("checkpoint.v", "4", InvalidInputError),
        ("checkpoint.channel_versions", {"n": [1]}, SerializationError),
    ],
)
def test_writers_make_none_of_it(place, odd, error, store, raw):
    before = raw.documents()
    given = {
        "checkpoint": {"v": 4, "id": cid(9), "ts": "now", "channel_values": {"n": 1}, "channel_versions": {"n": "9"}}
        | {"versions_seen": {}},
        "metadata": {"source": "loop", "step": 1, "parents": {}},
    }
    part, field = place.split(".")
    given[part][field] = odd
    with open_reader(store) as saver, pytest.raises(error, match="othing was stored"):
        saver.put(cfg(3), given["checkpoint"], given["metadata"], {"n": "9"})
    assert raw.documents() == before


# Any place


ODD = [None, True, -1, 1 << 60, 1.5, "", "\ud800", [], {}, ["x", 1], {"x": {"y": []}}, deep(200)]
"""What may be in a place where something else belongs."""


def paths(value, before=()):
    """All places in JSON; of a list's items the first two."""
    yield before
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*before, key))
    if isinstance(value, list):
        for number, item in enumerate(value[:2]):
            yield from paths(item, (*before, number))


@pytest.mark.parametrize("part", ["checkpoint", "parent", "metadata", "channels", "rest", "the whole"])
def test_manifests_with_something_else_in_one_place(part, store, raw):
    forge(raw, "rest.odd", b"x")
    head, tail = opened(raw, LAST)
    mine = [path for path in paths(head) if (path[0] if path else "the whole") == part]
    assert mine
    for number, path in enumerate(mine):
        # Each place with some of the odd things, all of these in turn.
        for odd in [ODD[(number + k) % len(ODD)] for k in range(0, 12, 4)] + [...] * bool(path):
            seal(raw, LAST, changed(head, path, odd), tail)
            try:
                everything(store, only=QUICK)
            except Exception as error:
                raise AssertionError(f"{path} = {odd!r:.60}") from error
    others_are_reported(store)


def test_pending_writes_with_something_else_in_one_place(store, raw):
    """Of `path` and `writes`, what the order and the values rely on; the tail is used to the last byte."""
    name = next(name for name in raw.documents() if name.startswith(keys.writes("t")) and "task%203" in name)
    good = {"path": "p", "writes": [[0, "delta", "msgpack", 1]]}
    wrong = [changed(good, path, odd) for path in paths(good) for odd in [*ODD, *[...] * bool(path)]]
    wrong += [good | {"writes": []}, good | {"writes": [[0, "delta", "msgpack", 2]]}, {"gcs": 5}]
    wrong += [good | {"writes": [[0, "delta", "msgpack", 1], [0, "delta", "msgpack", -1]]}]
    right = 0
    for head in wrong:
        seal_writes(raw, name, head, b"\x01")
        failed = everything(store, only=QUICK)
        assert set(failed.values()) <= {DAMAGE}, head
        with open_reader(store) as saver:
            damaged = [one.name for one in saver.admin.verify("t") if one.is_damage]
        assert damaged == [name] * ("get_tuple by id" in failed), head
        right += not damaged
    assert right < 0.2 * len(wrong)  # a name of a channel may be any text
    others_are_reported(store)


@pytest.mark.parametrize("levels", [900, 100_000])
def test_heads_that_are_nested_deeply(levels, store, raw):
    before = raw.documents()[LAST]
    nested = b"[" * levels + b"]" * levels
    for text in (nested, b'{"checkpoint": ' + nested + b"}"):
        seal(raw, LAST, text)
        assert everything(store)["get_tuple by id"] is DAMAGE
    raw.set_document(LAST, before)
    seal_writes(raw, keys.special_writes_doc("t", "", cid(3), "asking"), nested, field="w3")
    assert everything(store)["get_tuple by id"] is DAMAGE
    others_are_reported(store)


def json_of(leaves):
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    )


ANYTHING = json_of(
    st.none()
    | st.booleans()
    | st.integers(-9, 1 << 60)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["in", "gcs"])
)


@pytest.fixture(scope="module")
def mutated(made, tmp_path_factory):
    store = shutil.copytree(made, tmp_path_factory.mktemp("mutated") / "store")
    with closing(open_raw(f"file://{store}")) as raw:
        yield store, raw, *opened(raw, LAST)


@fuzz(st.data(), examples=25)
def test_mutated_manifests(mutated, data):
    """Three places at random hold something else."""
    store, raw, head, tail = mutated
    for _ in range(3):
        path = data.draw(st.sampled_from([path for path in paths(head) if path] or [()]))
        head = changed(head, path, data.draw(ANYTHING | st.just(...) if path else ANYTHING))
    seal(raw, LAST, head, tail)
    everything(store, only=QUICK)


# Documents that no digest covers


FIELD_VALUES = [
    None,
    True,
    -1,
    1 << 62,
    float("nan"),
    "",
    "#",
    "x" * 5000,
    "[" * 100_000,
    b"\xff",
    {},
    {"a": {"b": None}},
]
THREAD_FIELDS = ["thread_id", "active", "root", "copying", "claim", "bucket", "prefix", "deleting"]
COVERED = {"ns", "format", "digest", "frames"}


@pytest.mark.parametrize("field", THREAD_FIELDS)
def test_fields_of_a_threads_document(field, store, raw):
    """Other threads are not touched by what they say."""
    name = keys.thread_doc("t")
    before = raw.documents()[name]
    for odd in FIELD_VALUES:
        raw.set_document(name, before | {field: odd})
        everything(
            store, only=["get_tuple", "list all", "verify", "threads", "sweep", "stats", "copy_thread", "collect"]
        )
    others_are_reported(store)


@pytest.mark.parametrize("field", ["heir", "pin", "run_id", "former_runs", "objects", "filter", *sorted(COVERED)])
def test_fields_of_a_checkpoints_document(field, store, raw):
    before = raw.documents()[LAST]
    odds = [*FIELD_VALUES, '["\\ud800"]', "[[]]", '{"a": 1}', "5"]
    for odd in odds:
        raw.set_document(LAST, before | {field: odd})
        failed = everything(store, only={*QUICK, "get_tuple", "threads", "collect", "delete_for_runs", "pins"})
        assert field in COVERED or failed.keys() <= {"copy_thread"}, (odd, failed)
    raw.set_document(LAST, {})
    everything(store)
    others_are_reported(store)


def test_documents_of_runs_and_of_what_was_set_aside(store, raw):
    run_doc, aside = keys.run_doc("run", "t"), f"{keys.aside('t')}/odd"
    called = ["verify", "collect", "export_thread"]
    for odd in FIELD_VALUES:
        raw.set_document(run_doc, {"run_id": odd, "thread_id": odd, "token": odd})
        raw.set_document(aside, {"from": odd, "reason": odd, "manifest": odd})
        assert everything(store, only=["get_tuple", "delete_for_runs", *called]) == {}
    for source in (LAST, "x", "x/y", "/", f"{keys.checkpoints('t')}/junk", f"{keys.writes('t')}/!"):
        raw.set_document(aside, {"from": source, "reason": "?", "format": 1, "writes": b"x"})
        assert everything(store, only=called) == {}
    others_are_reported(store)


@pytest.mark.parametrize("leaf", ["junk", "!", "!!", "!!!", "~!~!x", "a!b!c!d!e", "%FF!00!%FF!s", "~!zz~!task!s"])
@pytest.mark.parametrize("collection", [keys.checkpoints, keys.writes])
def test_documents_that_are_called_otherwise(collection, leaf, store, raw):
    raw.set_document(f"{collection('t')}/{leaf}", raw.documents()[LAST])
    everything(store)
    others_are_reported(store)


def test_a_thread_of_the_next_version_does_not_hide_the_others(store, raw):
    """What kept it from being read is raised at the end."""
    raw.set_document(LAST, {"format": 3, "ns": "~"})
    plans = []
    with open_reader(store) as saver:
        with pytest.raises(UnsupportedFormatError):
            list(saver.admin.verify())
        with pytest.raises(UnsupportedFormatError):
            plans.extend(saver.admin.plan_repair())
    assert {plan.thread_id for plan in plans} == OTHERS
    assert others_are_reported(store) == ["t"]


# Forgeries of more than one place


def a_parent_in_a_circle(raw):
    for n in (1, 2, 3):
        head, tail = opened(raw, name_of(n))
        seal(raw, name_of(n), head | {"parent": cid(n % 3 + 1)}, tail)


def frames_in_a_circle(raw):
    for n, owner in ((2, 3), (3, 2)):
        head, tail = opened(raw, name_of(n))
        head["channels"]["said"]["chain"] = [{"k": 0, "stored": 2, "in": cid(owner)}]
        seal(raw, name_of(n), head, tail)


def odd_metadata(raw):
    forge(raw, "metadata", {"step": "one", "source": 5, "parents": 5})


def metadata_of_another_serializer(raw):
    forge(raw, "metadata", Opaque("evil", b"x"))


def objects_for_metadata(raw):
    one = Stored.of(0, ["mine", "Thing", deep(100)])
    forge(raw, "metadata", {"source": one, "step": one, "parents": {}, "odd": one})


def a_checkpoint_without_fields(raw):
    forge(raw, "checkpoint", {})


def versions_of_mixed_types(raw):
    forge(raw, "checkpoint.channel_versions", {"said": 5, "log": "x", "large": None})


def versions_that_are_lists(raw):
    forge(raw, "checkpoint.channel_versions", [5])


def odd_pending_writes(raw):
    name = next(name for name in raw.documents() if name.startswith(keys.writes("t")))
    seal_writes(raw, name, {"path": 5, "writes": [["x", None, 5, "y"]]}, b"\x01")


def documents_with_odd_names(raw):
    raw.set_document(f"{keys.checkpoints('t')}/00!%FF", raw.documents()[LAST])
    raw.set_document(f"{keys.writes('t')}/junk", raw.documents()[LAST])


def hints_of_odd_types(raw):
    odd = {"heir": "x" * 600 + "#1", "pin": 5, "run_id": 5, "former_runs": "[" * 100_000, "filter": 5}
    raw.set_document(LAST, raw.documents()[LAST] | odd)
    raw.set_document(keys.thread_doc("t"), {"thread_id": 5, "active": "x", "root": 5})


FORGERIES = [
    a_parent_in_a_circle,
    frames_in_a_circle,
    odd_metadata,
    metadata_of_another_serializer,
    objects_for_metadata,
    a_checkpoint_without_fields,
    versions_of_mixed_types,
    versions_that_are_lists,
    odd_pending_writes,
    documents_with_odd_names,
    hints_of_odd_types,
]


def test_checkpoints_that_are_their_own_ancestors(store, raw):
    a_parent_in_a_circle(raw)
    assert everything(store) == {"get_delta_channel_history": DAMAGE}
    forge(raw, "parent", cid(3))  # As a user may do: it has no parent.
    assert everything(store) == {}


@pytest.fixture
def call(store, monkeypatch, capsys):
    """Runs a command line in this process; returns its exit code and what it printed. No traceback may come out."""
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", f"file://{store}")

    def perform(words):
        monkeypatch.setattr(sys, "argv", ["langgraph-gcs", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        return ended.value.code or 0, capsys.readouterr().out

    return perform


def lines_of(name):
    """What a command is called with in another table, which has all commands, for `t` or for all threads."""
    for line in COMMANDS[name]:
        words = shlex.split(line if isinstance(line, str) else line[0])
        if not words or words[0] == "t" or words[0].startswith("-") or name == "import":
            yield [name, *words]


@pytest.mark.parametrize(
    "names",
    [
        # A demo has a thread of its own. A drill copies the thread, as other commands do, and kills processes.
        pytest.param(COMMANDS.keys() - {"demo", "drill"}, id="most"),
        pytest.param({"drill"}, id="drill", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_commands_on_an_odd_thread(forgery, names, call, store, raw):
    forgery(raw)
    kept = shutil.copytree(store, store.parent / "kept")
    codes = {0, 1, 2, *(kind.exit_code for kind in (DamageError, SerializationError, UnsupportedFormatError))}
    for name in [name for name in COMMANDS if name in names]:
        for words in lines_of(name):
            line = [
                word.replace("STORE", f"file://{store}")
                .replace("FILES", str(store.parent))
                .replace("hostile.tar", "t.tar")
                for word in words
            ]
            code, out = call(line)
            assert code in codes, (line, code)
            if name == "verify" and "t" not in line:
                assert all(f"{thread!r}" in out or f'"{thread}"' in out for thread in OTHERS), out
            # Each command meets the thread as it was forged.
            shutil.rmtree(store)
            shutil.copytree(kept, store)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_methods_that_write_on_an_odd_thread(forgery, store, raw, tmp_path):
    """A real run of what the dry runs above only plan; afterwards the others are as they were."""
    forgery(raw)
    before = {name: fields for name, fields in raw.documents().items() if keys.thread_doc("z") in name}
    assert before
    with open_reader(store) as saver, open_reader(tmp_path / "other") as other:
        for write in (
            lambda: saver.put_writes(cfg(3), [("said", 5)], "another task"),
            lambda: put(saver, 4, {"said": 4, "log": []}, parent=3),
            lambda: saver.copy_thread("t", "copy"),
            lambda: saver.admin.transfer_thread("t", other),
            lambda: saver.admin.pin(cfg(3), "label"),
            lambda: saver.admin.repair("t"),
            lambda: saver.prune(["t"]),
            lambda: saver.delete_for_runs(["run"]),
            lambda: saver.admin.collect(orphan_age=timedelta(0)),
            lambda: saver.delete_thread("t"),
        ):
            with suppress(GCSSaverError):
                write()
    assert {name: fields for name, fields in raw.documents().items() if keys.thread_doc("z") in name} == before


@pytest.mark.parametrize("source", ["", "x", "#", "x/y", "/", f"{keys.CHECKPOINTS}", f"/{keys.CHECKPOINTS}/"])
def test_what_was_set_aside_from_nowhere(source, store, raw):
    """Objects that nothing refers to are looked for in what was set aside, too."""
    raw.set_document(f"{keys.aside('t')}/odd", {"from": source, "reason": "?", "format": 1, "writes": b"x"})
    orphan = keys.blob("t", "", cid(1), "said", "0123456789ab")
    (store / "objects" / orphan).parent.mkdir(parents=True, exist_ok=True)
    raw.set_object(orphan, b"x")
    assert everything(store, {"collect"}) == {}
    with open_reader(store) as saver:
        saver.admin.collect(orphan_age=timedelta(0))
    assert orphan in raw.objects(), "it may belong to what was set aside"
    others_are_reported(store)
