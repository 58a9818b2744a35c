"""A saver with a cipher reads nothing in clear, because anyone who can write to the store could have put it there."""

import asyncio
import inspect
from datetime import datetime, timedelta, timezone

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.reference import commands
from langgraph_gcs_saver.cli.views import terminal
from langgraph_gcs_saver.errors import CheckpointCorruptError, ClearTextError, DamageError, InvalidInputError
from langgraph_gcs_saver.events import (
    CheckpointDamaged,
    CheckpointRecovered,
    CheckpointSkipped,
    ClearTextAccepted,
    ClearTextEncrypted,
    ThreadSkipped,
)
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec, envelope
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.compat.xor_cipher import XorCipher
from tests.incremental.eax import Eax
from tests.kit import methods
from tests.security import registry
from tests.security.forging import frame_in, name_of, put_checkpoint, put_writes
from tests.system.build import cfg, checkpoint, cid, number, put, values, version

KEY = Eax("the key")
XOR = "tests.compat.xor_cipher:XorCipher"
PLANTED = "XYZZYPLUGH"
LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
RUN = {"run_id": "run"}


def fill(saver, *threads):
    for thread in threads:
        for n in (1, 2, 3):
            put(saver, n, {"v": [f"{thread} {n}", "x" * 300], "kept": "k"}, parent=n - 1 or None, thread=thread)
        saver.put_writes(cfg(3, thread=thread), [("v", "own")], "task")


# What an attacker without the key plants; each returns the checkpoint that has it.


def a_checkpoint(keyless):
    put(keyless, 9, {"v": [PLANTED]}, metadata={**RUN, "step": 9})
    return 9


def a_checkpoint_in_objects(keyless):
    put(keyless, 9, {"v": [PLANTED * 2000]}, metadata=RUN)
    return 9


def an_approval(keyless):
    keyless.put_writes(cfg(3), [("__resume__", PLANTED)], "task")
    return 3


def a_write(keyless):
    keyless.put_writes(cfg(3), [("v", PLANTED)], "another task")
    return 3


def a_large_write(keyless):
    keyless.put_writes(cfg(3), [("v", PLANTED)], "another task")
    return 3


PLANTS = [a_checkpoint, a_checkpoint_in_objects, an_approval, a_write, a_large_write]


@pytest.fixture(params=PLANTS)
def plant(request):
    return request.param


def planted(plant, make_saver, cipher=KEY, **options):
    """The number of a checkpoint that has something in clear, in a thread that is encrypted otherwise."""
    with make_saver(cipher=cipher) as saver:
        fill(saver, "t", "u")
    inline = 0 if plant in {a_checkpoint_in_objects, a_large_write} else 8 << 10
    with make_saver(inline_max_bytes=inline, **options) as keyless:
        return plant(keyless)


def test_what_is_planted_never_becomes_state(plant, make_saver):
    n = planted(plant, make_saver)
    events = []
    saver = make_saver(cipher=KEY, on_event=events.append)
    for call in (
        lambda: saver.get_tuple(cfg()),
        lambda: saver.get_tuple(cfg(n)),
        lambda: list(saver.list(cfg())),
        lambda: list(saver.list(cfg(), limit=1)),
        lambda: list(saver.list(cfg(), filter={"step": 9} if n == 9 else {"step": 0})),
        lambda: asyncio.run(saver.aget_tuple(cfg())),
    ):
        with pytest.raises(ClearTextError) as caught:
            call()
        assert (caught.value.thread_id, caught.value.checkpoint_ns, caught.value.checkpoint_id) == ("t", "", cid(n))
        assert not isinstance(caught.value, DamageError)
        assert PLANTED not in str(caught.value)
        assert "accept_clear=True" in str(caught.value)
    assert not any(isinstance(event, CheckpointDamaged | CheckpointRecovered) for event in events)
    others = [number(found) for found in saver.list(cfg(thread="u"))]
    assert others == [3, 2, 1]


def test_a_list_of_all_threads_goes_on(plant, make_saver):
    n = planted(plant, make_saver)
    events = []
    saver = make_saver(cipher=KEY, on_event=events.append)
    found = [(one.config["configurable"]["thread_id"], number(one)) for one in saver.list(None)]
    wanted = [(thread, m) for thread in "tu" for m in (3, 2, 1) if (thread, m) != ("t", n)]
    assert sorted(found) == sorted(wanted)
    (skipped,) = [event for event in events if isinstance(event, CheckpointSkipped)]
    assert (skipped.thread_id, skipped.checkpoint_id) == ("t", cid(n))
    assert "in clear" in skipped.reason


@pytest.mark.parametrize("depth", ["metadata", "existence", "data"])
def test_verify_finds_it_and_goes_on(depth, plant, make_saver):
    n = planted(plant, make_saver)
    saver = make_saver(cipher=KEY)
    findings = [found for found in saver.admin.verify(depth=depth) if found.is_damage]
    assert [(found.kind, found.thread_id, found.checkpoint_id) for found in findings] == [("clear", "t", cid(n))]
    assert "in clear" in findings[0].reason


@pytest.mark.parametrize("thread", ["t", None])
def test_repair_sets_it_aside(thread, plant, make_saver, raw):
    n = planted(plant, make_saver)
    saver = make_saver(cipher=KEY)
    (plan,) = saver.admin.repair(thread)
    assert [(step.action, step.checkpoint_id) for step in plan.steps] == [("set aside", cid(n))]
    assert any("/lg_aside/" in name for name in raw.documents())
    assert not any(found.is_damage for found in saver.admin.verify(depth="data"))
    assert number(saver.get_tuple(cfg())) == 3
    assert [write[1:] for write in saver.get_tuple(cfg()).pending_writes] == [("v", "own")]


def test_it_can_be_replaced(make_saver):
    """A run that stores the same checkpoint again, with the key, is not stopped by it."""
    planted(a_checkpoint, make_saver)
    saver = make_saver(cipher=KEY)
    put(saver, 9, {"v": ["own"]})
    assert values(make_saver(cipher=KEY).get_tuple(cfg()))["v"] == ["own"]
    strict = make_saver(cipher=KEY)
    assert not any(found.is_damage for found in strict.admin.verify("t", depth="existence"))
    # What was planted stays in the document, and nothing refers to it.
    assert [found.kind for found in strict.admin.verify("t", depth="data") if found.is_damage] == ["clear"]


def test_nothing_is_inherited_from_it(make_saver):
    planted(a_checkpoint, make_saver)
    saver = make_saver(cipher=KEY)
    put(saver, 10, {"v": ["all"], "new": "at hand"}, parent=9, changed={"new"})
    assert values(make_saver(cipher=KEY).get_tuple(cfg()))["v"] == ["all"]
    with pytest.raises(ClearTextError):
        saver.put(cfg(9), checkpoint(11, {}, {"v": version(9)}), {"source": "loop", "step": 1, "parents": {}}, {})


@LOCAL
def test_damage_does_not_lead_to_it(make_saver, raw):
    """The newest is damaged, and an older one was planted: that is none to fall back to."""
    with make_saver(cipher=KEY) as saver:
        put(saver, 10, {"v": ["own"]})
    with make_saver() as keyless:
        a_checkpoint(keyless)
    document = raw.documents()[name_of(10)]
    raw.set_document(name_of(10), {**document, "digest": bytes(32)})
    with pytest.raises(ClearTextError):
        make_saver(cipher=KEY).get_tuple(cfg())


# Every method


def outcomes(tmp_path):
    """What each method does with the thread, by its name, and its arguments; an asynchronous twin does the same."""
    other = GCSSaver.from_conn_string(f"file://{tmp_path}/other", cipher=KEY)
    history = {"config": cfg(9), "channels": ["v"]}
    replica = GCSSaver.from_conn_string(f"file://{tmp_path}/replica", cipher=KEY)
    elsewhere = GCSSaver.from_conn_string(f"file://{tmp_path}/elsewhere", cipher=KEY)
    return {
        "get": (ClearTextError, cfg()),
        "get_tuple": (ClearTextError, cfg()),
        "warm": (lambda found: ["in clear" in one.error for one in found] == [True], ["t"]),
        "list": (ClearTextError, cfg()),
        "get_delta_channel_history": (ClearTextError, history),
        "prune": (ClearTextError, ["t", "u"]),
        "delete_for_runs": (ClearTextError, ["run"]),
        "copy_thread": (ClearTextError, "t", "copy"),
        "transfer_thread": (lambda moved: [found.kind for found in moved.findings] == ["clear"], "t", other),
        "export_thread": (lambda moved: moved.checkpoints == 4, "t", tmp_path / "t.tar"),
        "import_thread": (None, tmp_path / "t.tar"),
        "replicate": (ClearTextError, replica),
        "replication": (lambda found: found.mark is None, replica),
        "reconcile": (ClearTextError, replica),
        "failover": (InvalidInputError, replica),
        "migrate": (lambda done: [one.checkpoints for one in done] == [0], elsewhere, ["t"]),
        "verify": (lambda found: [one.kind for one in found] == ["clear"], "t"),
        "threads": (lambda found: {one.thread_id: one.damaged for one in found} == {"t": 1, "u": 0},),
        "history": (lambda found: [one.damage for one in found] == ["the manifest is in clear", None, None, None], "t"),
        "train": (lambda found: found.refusal is not None,),
        "stats": (lambda found: found.checkpoints == 5,),  # prune continued with the other thread
        "collect": (lambda plans: ["in clear" in plan.skipped for plan in plans] == [True],),
        "repair": (lambda plans: [[step.action for step in one.steps] for one in plans] == [["set aside"]],),
        "checkpoint_at": (lambda found: found == cid(9), cfg(), datetime.now(timezone.utc)),  # an id, as by its name
        "rebind": (InvalidInputError,),  # an embedded store has no bucket
        "ping": (None,),
        "checkpoint_ids": (lambda ids: list(ids) == [cid(9), cid(3), cid(2), cid(1)], cfg()),
        "pins": (lambda found: found == {}, cfg()),
        "holds": (lambda found: found == {}, cfg()),
        "leases": (lambda found: found == [],),
        "pause": (lambda found: found is False, "t"),
        "status": (ClearTextError, "t"),
        "runs": (lambda found: found == [],),
        "rollbacks": (lambda found: found == [],),
        "recoveries": (lambda found: {one.kind for one in found} <= {"fallback", "repair"},),
        "pin": (None, cfg(9), "label"),
        "unpin": (None, cfg(9)),
        "operations": (lambda found: found == [], "t"),
        "resolve_operation": (InvalidInputError, "t", "key"),
        "batches": (lambda found: found == [], "t"),
        "teams": (lambda found: found == [],),
        "sagas": (lambda found: found == [], "t"),
        "plan_sweep": (None,),
        "plan_prune": (ClearTextError, ["t", "u"]),
        "plan_delete_for_runs": (ClearTextError, ["run"]),
        "plan_collect": (lambda plans: ["in clear" in plan.skipped for plan in plans] == [True],),
        "plan_repair": (lambda plans: [[step.action for step in one.steps] for one in plans] == [["set aside"]],),
        "plan_delete_thread": (lambda plan: plan.checkpoints == 4, "t"),
        "carry_out": (InvalidInputError, "no plan"),
        "sweep": (lambda swept: swept == [],),
        "put": (
            None,
            cfg(),
            checkpoint(4, {"v": ["x"]}),
            {"source": "loop", "step": 4, "parents": {}},
            {"v": version(4)},
        ),
        "put_writes": (None, cfg(9), [("v", "x")], "task"),
        "delete_thread": (lambda plan: plan.exists, "t"),
        "setup": (None,),
        "close": (None,),
    }


NO_STATE = registry.NO_STATE - {"close"} | {"delete_for_runs"}
"""Other attributes of a checkpointer, which do not read a thread."""

ORDER = ["repair", "delete_thread", "close"]


def perform(saver, name, arguments, is_async):
    given = [one for one in arguments if not (isinstance(one, dict) and "config" in one)]
    named = {key: value for one in arguments if one not in given for key, value in one.items()}
    return methods.perform(saver, name, *given, is_async=is_async, **named)


@LOCAL
@pytest.mark.parametrize("is_async", [False, True])
def test_every_method(is_async, make_saver, tmp_path):
    planted(a_checkpoint, make_saver)
    saver = make_saver(cipher=KEY, ttl=timedelta(days=1))
    wanted = outcomes(tmp_path)
    public = methods.names()
    twins = {f"a{name}" for name in wanted} | {"aget", "aget_tuple"}
    assert public - twins - wanted.keys() - NO_STATE == set(), "a method of which this test says nothing"
    for name in sorted(wanted, key=lambda name: ORDER.index(name) if name in ORDER else -1):
        expected, *arguments = wanted[name]
        if inspect.isclass(expected):
            with pytest.raises(expected):
                perform(saver, name, arguments, is_async)
            continue
        if name == "import_thread":
            with GCSSaver.from_conn_string(f"file://{tmp_path}/third", cipher=KEY) as third:
                taken = perform(third, name, arguments, is_async)
            assert [found.kind for found in taken.findings] == ["clear"]
            continue
        found = perform(saver, name, arguments, is_async)
        assert expected is None or expected(found), (name, found)


# Every command


COMMANDS = {
    "threads": (0, []),
    "history": (0, ["t"]),
    "show": (9, ["t"]),
    "diff": (9, ["t", cid(1), "latest"]),
    "edit": (9, ["t", "--channel", "v", "--set", "7", "--dry-run"]),
    "stats": (0, []),
    "train": (1, []),  # there are too few threads
    "report": (9, ["t", "-o", "-"]),
    "verify": (4, ["--depth", "data"]),
    "check": (9, ["t"]),
    "repair": (0, ["--dry-run"]),
    "rebind": (2, ["--dry-run"]),
    "pin": (0, ["t", cid(9), "label"]),
    "unpin": (0, ["t", cid(9)]),
    "leases": (0, []),
    "pause": (1, ["t"]),  # no process holds its lease
    "runs": (0, []),
    "recoveries": (0, []),
    "stalled": (0, ["--older", "1m"]),
    "top": (0, ["--once"]),
    "answer": (2, ["u", "yes"]),  # it has finished
    "work": (2, ["missing:graph"]),
    "team list": (0, []),
    "team show": (1, ["deal"]),
    "team checkpoint": (1, ["deal"]),
    "team verify": (1, ["deal"]),
    "team restore": (1, ["deal", "--dry-run"]),
    "team remove": (1, ["deal", "unknown"]),
    "batches list": (0, ["t"]),
    "batches show": (1, ["t", "b"]),
    "saga list": (0, ["t"]),
    "saga rollbacks": (0, []),
    "saga show": (1, ["t", "s"]),
    "saga resume": (2, ["t", "s"]),
    "saga rollback": (2, ["t", "s", "--yes"]),
    "saga resolve": (2, ["t", "s", "step", "--not-done"]),
    "operations list": (0, ["t"]),
    "operations show": (1, ["t", "key"]),
    "operations resolve": (2, ["t", "key", "--not-done"]),
    "prune": (9, ["t", "--keep-last", "1", "--dry-run"]),
    "copy": (9, ["t", "copy"]),
    "collect": (4, ["t", "--dry-run"]),
    "sweep": (0, ["--ttl", "90d", "--dry-run"]),
    "drill": (4, ["t"]),
    "advise": (9, ["t"]),
    "pull": (4, ["t", "STORE", "OTHER-pull"]),
    "push": (4, ["t", "STORE", "OTHER-push"]),
    "replicate": (9, ["--to", "REPLICA"]),
    "replication status": (0, ["--to", "REPLICA"]),
    "replication reconcile": (9, ["--to", "REPLICA"]),
    "export": (0, ["t", "t.tar"]),
    "import": (4, ["t.tar", "--store", "OTHER-import"]),
    "migrate": (0, ["--from", "SQLITE"]),
    "setup": (0, []),
    "monitoring": (2, ["--write", "files"]),  # it reads no store
    "analytics ddl": (0, []),
    "analytics backfill": (0, ["--to", "rows.jsonl"]),
    "analytics report": (0, []),
    "delete": (0, ["t", "--dry-run"]),
    "failover": (2, ["--to", "REPLICA", "--yes"]),  # the replica is not complete
}
"""How each command ends on a thread with a checkpoint in clear, and its arguments."""

SAME = {
    "rebind",
    "train",
    "monitoring",
    "drill",
    "pause",
    "answer",
    "work",
    "team show",
    "team checkpoint",
    "team verify",
    "team restore",
    "team remove",
    "batches show",
    "saga show",
    "saga resume",
    "saga rollback",
    "saga resolve",
    "operations show",
    "operations resolve",
}
"""Commands that end in the same way if what is in clear is accepted."""

SHOWS_STATE = {"show", "report", "diff"}


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANGGRAPH_GCS_CIPHER", raising=False)
    monkeypatch.delenv("LANGGRAPH_GCS_ACCEPT_CLEAR", raising=False)
    terminal._cipher.cache_clear()


@LOCAL
@pytest.mark.usefixtures("_here")
def test_every_command(command, make_saver, store_uri, tmp_path):  # noqa: F811
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(str(tmp_path / "file")) as source:
        put(source, 1, {"v": ["x"]}, thread="m")
    planted(a_checkpoint, make_saver, cipher=XorCipher())
    names = [name for name, _ in commands() if name != "demo"]
    assert set(names) == COMMANDS.keys(), "a command of which this test says nothing"
    for accept in ((), ("--accept-clear",)):
        for name in sorted(names, key=lambda name: list(COMMANDS).index(name)):
            code, arguments = COMMANDS[name]
            other = f"{(tmp_path / 'other').as_uri()}{''.join(accept)}"
            words = [
                one.replace("STORE", store_uri)
                .replace("OTHER", other)
                .replace("SQLITE", f"sqlite://{tmp_path}/file")
                .replace("REPLICA", f"{tmp_path.as_uri()}/replica")
                for one in arguments
            ]
            ended = command(*accept, "--cipher", XOR, *name.split(), *words, *(["--yes"] if name == "export" else []))
            # An embedded store has no bucket. No parent names the planted checkpoint as its child, so a drill that
            # drops it does not report that.
            assert ended.code == (0 if accept and name not in SAME else code), (name, ended)
            assert "Traceback" not in ended.err
            if not accept:
                assert PLANTED not in ended.out + ended.err
                assert ("--accept-clear before the command's name" in ended.err) is (code == 9), name
            elif name in SHOWS_STATE:
                assert PLANTED in ended.out
            if name == "verify":
                assert ("In clear: 1. If this was stored before" in ended.out) is (not accept)
                assert "repair --dry-run" not in ended.out, "which would remove it from the history"


@LOCAL
@pytest.mark.usefixtures("_here")
def test_the_environment_accepts_it_too(command, make_saver, monkeypatch):  # noqa: F811
    planted(a_checkpoint, make_saver, cipher=XorCipher())
    for value, code in (("1", 0), ("0", 9), ("", 9)):
        monkeypatch.setenv("LANGGRAPH_GCS_ACCEPT_CLEAR", value)
        assert command("show", "t", "--cipher", XOR).code == code, value


# Migration


def line(saver, *numbers, changed=("v",)):
    """Checkpoints as a graph stores them: of `kept` only the first one has a new version."""
    for n in numbers:
        put(saver, n, {"v": [f"v {n}"], "kept": ["k" * 300]}, parent=n - 1 or None, changed=None if n == 1 else changed)


def damages(saver, thread=None):
    return [(found.kind, found.checkpoint_id) for found in saver.admin.verify(thread, depth="data") if found.is_damage]


@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["in documents", "in objects"])
def test_a_thread_that_goes_on_is_encrypted_from_there(inline, make_saver):
    line(make_saver(inline_max_bytes=inline), 1, 2)
    events = []
    with pytest.raises(ClearTextError):
        make_saver(cipher=KEY).get_tuple(cfg())
    saver = make_saver(cipher=KEY, accept_clear=True, inline_max_bytes=inline, on_event=events.append)
    assert number(saver.get_tuple(cfg())) == 2
    line(saver, 3, 4)
    assert [number(found) for found in saver.list(cfg())] == [4, 3, 2, 1]
    assert [event.thread_id for event in events if isinstance(event, ClearTextAccepted)] == ["t"], "once a process"
    strict = make_saver(cipher=KEY)
    found = strict.get_tuple(cfg())
    assert values(found) == {"v": ["v 4"], "kept": ["k" * 300]}, "with all that it has of the time before"
    assert damages(strict) == [("clear", cid(2)), ("clear", cid(1))]
    saver.prune(["t"])
    assert damages(make_saver(cipher=KEY)) == []
    assert number(make_saver(cipher=KEY).get_tuple(cfg())) == 4


def test_what_only_the_parent_has_stays_in_clear_and_is_told(make_saver):
    """An edit, for example, has only the value that it changes."""
    line(make_saver(), 1)
    saver = make_saver(cipher=KEY, accept_clear=True)
    saver.put(
        cfg(1), checkpoint(2, {"v": ["new"]}, {"v": version(2), "kept": version(1)}), {"step": 2}, {"v": version(2)}
    )
    assert values(make_saver(cipher=KEY, accept_clear=True).get_tuple(cfg())) == {"v": ["new"], "kept": ["k" * 300]}
    with pytest.raises(ClearTextError) as caught:
        make_saver(cipher=KEY).get_tuple(cfg(2))
    assert (caught.value.channel, caught.value.checkpoint_id) == ("kept", cid(2))
    assert ("clear", cid(1)) in damages(make_saver(cipher=KEY))


@LOCAL
def test_a_whole_thread_moves_to_an_encrypted_store(make_saver, tmp_path):
    """All of its history, by `migrate`: what is read in clear is put with the key."""
    clear = make_saver()
    line(clear, 1, 2, 3)
    clear.put_writes(cfg(3), [("v", "own"), ("__interrupt__", "question")], "task")
    half = make_saver(cipher=KEY, accept_clear=True)
    line(half, 4)
    wanted = [(found.checkpoint, found.metadata, found.pending_writes) for found in half.list(cfg())]
    with GCSSaver.from_conn_string(f"file://{tmp_path}/encrypted", cipher=KEY) as saver:
        (done,) = saver.admin.migrate(half, ["t"])
        assert done.checkpoints == 4
        assert damages(saver) == []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/encrypted", cipher=KEY) as saver:
        assert [(found.checkpoint, found.metadata, found.pending_writes) for found in saver.list(cfg())] == wanted


@LOCAL
def test_a_copy_encrypts_what_says_what_there_is(make_saver):
    """Manifests and pending writes; frames of values are copied as they are."""
    line(make_saver(), 1, 2)
    make_saver().put_writes(cfg(2), [("v", "own")], "task")
    saver = make_saver(cipher=KEY, accept_clear=True)
    saver.copy_thread("t", "copy")
    assert [number(found) for found in saver.list(cfg(thread="copy"))] == [2, 1]
    strict = make_saver(cipher=KEY)
    assert [found.kind for found in strict.admin.verify("copy") if found.is_damage] == []
    assert {found.kind for found in strict.admin.verify("copy", depth="data") if found.is_damage} == {"clear"}


@LOCAL
def test_what_a_checkpoint_said_in_clear_is_told_of(make_saver, raw):
    """Stored again with other content it is encrypted, but its old frames stay where they are: others may need them."""
    put(make_saver(), 1, {"v": [PLANTED, "x" * 300], "w": ["y" * 300]})
    saver = make_saver(cipher=KEY, accept_clear=True)
    put(saver, 1, {"v": ["new"]})
    put(saver, 1, {"v": ["newer"]})
    name = name_of(1)
    strict = make_saver(cipher=KEY)
    assert values(strict.get_tuple(cfg(1))) == {"v": ["newer"]}
    assert list(strict.admin.verify(depth="existence")) == []
    (finding,) = strict.admin.verify(depth="data")
    assert (finding.kind, finding.name, finding.checkpoint_id) == ("clear", name, cid(1))
    before = raw.snapshot()
    (plan,) = strict.admin.repair("t")
    assert [(step.action, step.name) for step in plan.steps] == [("leave", name)]
    assert raw.snapshot() == before
    # No finding mentions an encrypted frame that no checkpoint refers to, or one that a child refers to twice.
    put(strict, 2, {"v": ["newer"], "w": ["z" * 300]}, parent=1)
    put(strict, 2, {"v": ["newest"], "w": ["z" * 300]}, parent=1)
    assert [found.name for found in strict.admin.verify(depth="data")] == [name]
    put(strict, 3, {"v": ["snapshot"], "w": ["w"]})
    strict.prune(["t"])
    assert list(strict.admin.verify(depth="data")) == []


READ_WRITES = {
    "verify metadata": lambda saver: saver.admin.verify("t", depth="metadata"),
    "verify existence": lambda saver: saver.admin.verify("t", depth="existence"),
    "collect": lambda saver: saver.admin.collect("t", orphan_age=timedelta(0)),
    "plan_collect": lambda saver: saver.admin.plan_collect("t", orphan_age=timedelta(0)),
    "copy_thread": lambda saver: [saver.admin.copy_thread("t", "copy", dry_run=True)],
    "prune": lambda saver: saver.admin.prune(["t"]),
}


@LOCAL
@pytest.mark.parametrize("job", READ_WRITES)
def test_pending_writes_alone_are_told_of(make_saver, raw, job):
    """They are read for the objects that they refer to. That accepts them, whichever method reads them."""
    with make_saver(cipher=KEY) as saver:
        fill(saver, "t")
    make_saver().put_writes(cfg(2), [("v", PLANTED)], "another task")
    raw.set_object(keys.blob("t", "", cid(1), "v", "orphan0000"), b"x")
    events = []
    saver = make_saver(cipher=KEY, accept_clear=True, on_event=events.append)
    list(READ_WRITES[job](saver))
    assert [event.thread_id for event in events if isinstance(event, ClearTextAccepted)] == ["t"]


@LOCAL
@pytest.mark.parametrize(
    "was", [{}, {"cipher": KEY, "clear_metadata": ("tenant", "user")}], ids=["clear", "named then"]
)
@pytest.mark.parametrize("named", [(), ("tenant",)])
def test_a_copy_writes_no_metadata_in_clear_but_what_is_named(make_saver, raw, was, named):
    """Whatever was in clear in the source, the copy follows the saver's own options."""
    put(make_saver(**was), 1, {"v": ["x"]}, metadata={"tenant": "acme", "user": PLANTED})
    saver = make_saver(cipher=KEY, accept_clear=True, clear_metadata=named)
    saver.copy_thread("t", "copy")
    copied = raw.documents()[name_of(1, thread="copy")]
    assert copied.get("filter") == ({"tenant": "acme"} if named else None)
    assert saver.get_tuple(cfg(thread="copy")).metadata["user"] == PLANTED
    assert [number(one) for one in saver.list(cfg(thread="copy"), filter={"tenant": "acme", "user": PLANTED})] == [1]
    assert list(saver.admin.verify("copy", depth="data")) == []
    # A saver without a cipher copies all of it.
    if not was:
        make_saver().copy_thread("t", "plain")
        assert raw.documents()[name_of(1, thread="plain")]["filter"] == raw.documents()[name_of(1)]["filter"]


@LOCAL
def test_a_thread_that_was_never_encrypted_is_left_alone(make_saver, raw):
    """A saver that was given a cipher by mistake, or too early, puts no history away."""
    line(make_saver(), 1, 2)
    make_saver().put_writes(cfg(2), [("v", "own")], "task")
    with make_saver(cipher=KEY) as saver:
        fill(saver, "u")
        a_write(make_saver())
    before = raw.snapshot()
    saver = make_saver(cipher=KEY)
    (plan,) = saver.admin.repair("t")
    assert {step.action for step in plan.steps} == {"leave"}
    assert all("accept_clear=True" in step.reason for step in plan.steps)
    assert raw.snapshot() == before
    events = []
    assert all(plan.skipped for plan in make_saver(cipher=KEY, on_event=events.append).admin.collect())
    assert [event.thread_id for event in events if isinstance(event, ThreadSkipped)] == ["t"]


@LOCAL
def test_what_was_not_bound_is_read_for_a_migration_only(make_saver, raw):
    """As earlier versions encrypted: a frame like any other."""
    saver = make_saver(cipher=KEY)
    line(saver, 1, 2)
    saver.put_writes(cfg(2), [("v", "own")], "task")
    codec = saver._context.codec
    for name, fields in raw.documents().items():
        if "/lg_checkpoints/" in name:
            plain = codec.decode_envelope(fields["manifest"], (name, "manifest"))
            put_checkpoint(raw, name, fields, manifest=codec.encode(plain))
        elif "/lg_writes/" in name:
            plain = codec.decode_envelope(frame_in(fields["writes"]), (name, "writes"))
            put_writes(raw, name, {"writes": codec.encode(plain)})
    strict = make_saver(cipher=KEY)
    for n in (1, 2, None):
        with pytest.raises(ClearTextError, match="not bound to its place"):
            strict.get_tuple(cfg(n))
    assert {found.kind for found in strict.admin.verify()} == {"clear"}
    events = []
    saver = make_saver(cipher=KEY, accept_clear=True, on_event=events.append)
    assert [write[1:] for write in saver.get_tuple(cfg()).pending_writes] == [("v", "own")]
    assert [type(event) for event in events if isinstance(event, ClearTextAccepted)] == [ClearTextAccepted]
    line(saver, 3)
    assert number(make_saver(cipher=KEY).get_tuple(cfg())) == 3
    saver.copy_thread("t", "copy")
    assert damages(make_saver(cipher=KEY), "copy") == [], "its values were encrypted before"


@LOCAL
def test_with_accept_clear_what_was_moved_is_damage_all_the_same(make_saver, raw):
    line(make_saver(cipher=KEY), 1, 2)
    put_checkpoint(raw, name_of(5), raw.documents()[name_of(1)])
    with pytest.raises(CheckpointCorruptError, match="bound to another place"):
        make_saver(cipher=KEY, accept_clear=True).get_tuple(cfg(5))


@LOCAL
def test_a_flipped_mark_is_damage(make_saver, raw):
    """The first byte of a ciphertext says that it is one: by accident it says something else, and then nothing true."""
    saver = make_saver(cipher=KEY)
    line(saver, 1)
    whole = raw.documents()[name_of(1)]
    for bit in range(8):
        raw.set_document(name_of(1), {**whole, "frames": bytes([whole["frames"][0] ^ 1 << bit]) + whole["frames"][1:]})
        with pytest.raises(CheckpointCorruptError):
            make_saver(cipher=KEY).get_tuple(cfg(1))


@LOCAL
def test_a_serializer_that_encrypts_is_as_it_was(make_saver):
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    line(make_saver(), 1)
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 32)
    saver = make_saver(serde=serde)
    line(saver, 2)
    assert [number(found) for found in make_saver(serde=serde).list(cfg())] == [2, 1]


@LOCAL
def test_a_copy_tells_of_pending_writes_that_it_encrypts(make_saver):
    """They could have been planted, and are bound to the copy from then on."""
    with make_saver(cipher=XorCipher()) as saver:
        put(saver, 1, {"v": "x"})
    with make_saver() as stranger:
        stranger.put_writes(cfg(1), [("__resume__", "an approval")], "task")
    with make_saver(cipher=XorCipher()) as saver, pytest.raises(ClearTextError):
        saver.copy_thread("t", "strict")
    events = []
    with make_saver(cipher=XorCipher(), accept_clear=True, on_event=events.append) as saver:
        saver.copy_thread("t", "u")
    assert [event.thread_id for event in events if isinstance(event, ClearTextAccepted)] == ["t"]


def encrypted(events):
    return [(event.thread_id, event.documents) for event in events if isinstance(event, ClearTextEncrypted)]


@LOCAL
def test_each_copy_tells_of_what_it_encrypts(make_saver):
    """Also of what was planted after the thread's first event."""
    line(make_saver(), 1)
    events, shown = [], []
    saver = make_saver(cipher=KEY, accept_clear=True, on_event=events.append)
    line(saver, 2)
    saver.prune(["t"])
    saver.copy_thread("t", "whole")
    assert [event.thread_id for event in events if isinstance(event, ClearTextAccepted)] == ["t"]
    assert encrypted(events) == [], "nothing in clear is left"
    make_saver().put_writes(cfg(2), [("__resume__", PLANTED)], "task")
    shown.append(saver.admin.copy_thread("t", "u", dry_run=True))
    assert encrypted(events) == [], "nothing was encrypted yet"
    assert [plan.clear for plan in shown] == [1]
    assert "encrypts 1 documents" in str(shown[0])
    assert PLANTED not in str(shown[0])
    saver.copy_thread("t", "u")
    saver.copy_thread("t", "v")
    assert encrypted(events) == [("u", 1), ("v", 1)]
    assert make_saver(cipher=KEY).get_tuple(cfg(thread="u")).pending_writes[0][1:] == ("__resume__", PLANTED)


@LOCAL
def test_a_repair_tells_of_what_it_encrypts(make_saver, raw):
    """A manifest in clear is encrypted when a value of its checkpoint is stored again."""
    events, shown = [], []
    saver = make_saver(cipher=KEY, accept_clear=True, on_event=events.append)
    line(make_saver(), 1)
    saver.get_tuple(cfg())
    stranger = make_saver(incremental=False)
    put(stranger, 2, {"v": [PLANTED * 50]}, parent=1)
    put(stranger, 3, {"v": [PLANTED * 50, "more"]}, parent=2)
    name = name_of(2)
    raw.set_document(name, {**raw.documents()[name], "frames": b"?" * len(raw.documents()[name]["frames"])})
    events.clear()
    shown.extend(saver.admin.plan_repair("t"))
    assert (encrypted(events), shown[0].clear) == ([], 1)
    assert "that the cipher does not vouch for" in str(shown[0])
    assert PLANTED not in str(shown[0])
    saver.admin.repair("t")
    assert encrypted(events) == [("t", 1)]
    assert not any(isinstance(event, ClearTextAccepted) for event in events), "that was reported before"
    assert damages(saver, "t") == []


@pytest.mark.parametrize("clear_metadata", [(), ("tenant",)], ids=repr)
def test_repair_writes_no_metadata_in_clear_but_what_is_named(clear_metadata, make_saver, raw):
    """Who may write the field `filter` names a key, and waits: no value appears there, and no guess is confirmed."""
    saver = make_saver(cipher=KEY, clear_metadata=clear_metadata)
    metadata = {"user": PLANTED, "age": 41, "tenant": "acme"}
    put(saver, 1, {"v": 1}, metadata=metadata)
    name = name_of(1)
    whole = raw.documents()[name]
    right = {key: metadata[key] for key in clear_metadata}
    assert whole.get("filter", {}) == right
    for guess in ({"user": ""}, {"user": PLANTED}, {"age": 40}, {"age": 41}, {"user": 5, "age": 41, "absent": 1}):
        planted = {**right, **guess}
        raw.set_document(name, {**whole, "filter": planted})
        shown = make_saver(cipher=KEY, clear_metadata=clear_metadata).admin.repair("t")
        assert raw.documents()[name]["filter"] == planted
        wrong = sorted(key for key in guess if metadata.get(key) != guess[key])
        found = list(make_saver(cipher=KEY, clear_metadata=clear_metadata).admin.verify("t"))
        assert [repr(key) for key in wrong if repr(key) not in "".join(one.reason for one in found)] == []
        assert [step.action for plan in shown for step in plan.steps] == (["leave"] if wrong else [])
        assert len(found) == bool(wrong)
        assert not any(PLANTED in str(one) for one in (*found, *shown))


def test_repair_sets_metadata_right_that_is_named(make_saver, raw):
    """And leaves the rest of the field alone, which another saver may have named."""
    put(make_saver(cipher=KEY, clear_metadata=("user", "tenant")), 1, {"v": 1}, metadata={"user": "a", "tenant": "b"})
    name = name_of(1)
    whole = raw.documents()[name]
    assert [*make_saver(cipher=KEY).admin.verify("t")] == []
    raw.set_document(name, {**whole, "filter": {"user": "a", "tenant": "c", "absent": 1}})
    saver = make_saver(cipher=KEY, clear_metadata=("tenant", "absent"))
    saver.admin.repair("t")
    assert raw.documents()[name]["filter"] == {"user": "a", "tenant": "b"}
    assert [*saver.admin.verify("t")] == []


def test_what_is_set_aside_names_no_channel(make_saver, raw):
    """With a cipher names of channels are encrypted, and the reason in `lg_aside` is not."""
    put(make_saver(cipher=KEY), 1, {PLANTED: ["x" * 300]})
    fields = raw.documents()[name_of(1)]
    raw.set_document(name_of(1), {**fields, "frames": fields["frames"][:-1] + bytes([fields["frames"][-1] ^ 1])})
    (plan,) = make_saver(cipher=KEY).admin.repair("t")
    assert (plan.steps[0].action, plan.steps[0].channel) == ("set aside", PLANTED)
    assert any("/lg_aside/" in name for name in raw.documents())
    assert PLANTED not in repr(raw.documents())


@LOCAL
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_migration_tells_of_what_it_encrypts(make_saver, tmp_path, mode):
    """Also of what was planted after the source's thread was reported, because the target encrypts it."""
    line(make_saver(), 1)
    events = []
    with (
        make_saver(cipher=KEY, accept_clear=True) as source,
        GCSSaver.from_conn_string(f"file://{tmp_path}/target", cipher=KEY, on_event=events.append) as target,
        GCSSaver.from_conn_string(f"file://{tmp_path}/plain") as plain,
    ):
        source.get_tuple(cfg())
        line(source, 2)
        stranger = make_saver()
        put(stranger, 9, {"v": [PLANTED]})
        stranger.put_writes(cfg(2), [("__resume__", PLANTED)], "task")
        stranger.put_writes(cfg(8), [("__resume__", "of a checkpoint that does not exist")], "task")

        async def migrate(admin, **more):
            return await admin.amigrate(source, **more) if mode == "async" else admin.migrate(source, **more)

        (shown,) = await migrate(target.admin, dry_run=True)
        assert encrypted(events) == [], "nothing was encrypted yet"
        assert shown.clear == 3, "checkpoints 1 and 9, and the answer"
        assert "encrypts 3 documents" in str(shown)
        assert PLANTED not in str(shown)
        assert await migrate(target.admin) == [shown]
        assert encrypted(events) == [("t", 3)]
        (unprotected,) = await migrate(plain.admin)
        assert unprotected.clear == 0, "nothing is encrypted there"
        assert list(target.admin.verify("t", depth="data")) == []


@LOCAL
def test_a_migration_of_encrypted_or_unprotected_data_tells_nothing(make_saver, tmp_path):
    events = []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/target", cipher=KEY, on_event=events.append) as target:
        line(make_saver(cipher=KEY), 1, 2)
        (done,) = target.admin.migrate(make_saver(cipher=KEY, accept_clear=True))
        put(make_saver(), 1, {"v": "x"}, thread="u")
        (unprotected,) = target.admin.migrate(make_saver(), ["u"])
        assert (done.clear, unprotected.clear, encrypted(events)) == (0, 0, [])


@LOCAL
@pytest.mark.parametrize("is_found", [True, False], ids=["found", "lost"])
def test_a_planted_manifest_cannot_make_a_repair_change_another_checkpoint(make_saver, raw, is_found):
    """It claims that a frame of checkpoint 2 decodes to something else, which it may contain itself."""
    saver = make_saver(cipher=KEY)
    line(saver, 1, 2)
    before = raw.documents()
    serde, codec = saver.serde, Codec(3)
    kind, data = serde.dumps_typed([PLANTED])
    frame = codec.encode(data)
    value = {"type": kind, "sha256": Digested.of(data).digest, "size": len(data)}
    channels = {"v": {**value, "chain": [{"k": 0, "in": cid(2), "stored": len(before[name_of(2)]["frames"])}]}}
    if is_found:
        channels["w"] = {**value, "chain": [{"k": 0, "stored": len(frame)}]}
    of_metadata, metadata = serde.dumps_typed({"source": "loop", "step": 0, "parents": {}})
    fields = {"v": 4, "ts": "2026-01-01T00:00:00+00:00", "versions_seen": {}}
    head = {
        "checkpoint": {**fields, "channel_versions": dict.fromkeys(channels, version(1))},
        "parent": None,
        "metadata": [of_metadata, len(metadata)],
        "channels": channels,
    }
    planted = codec.encode(envelope(head, metadata))
    put_checkpoint(raw, name_of(0), {"format": 1, "manifest": planted, "frames": frame})
    (plan,) = make_saver(cipher=KEY, accept_clear=True).admin.repair("t")
    assert {step.checkpoint_id for step in plan.steps} == {cid(0)}
    assert {name: raw.documents()[name] for name in before} == before
    assert values(make_saver(cipher=KEY).get_tuple(cfg(2)))["v"] == ["v 2"]
