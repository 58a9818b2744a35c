"""Nothing that a store, an archive or another checkpointer holds is imported or called by a command, or by `Admin`."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import run
from langgraph_gcs_saver.errors import InvalidInputError, ThreadInSetError
from langgraph_gcs_saver.portable import PortableSerializer, Stored, from_json, objects, to_json
from langgraph_gcs_saver.saver.admin import Admin
from tests.security import registry
from tests.security.hostile import MODULE, Trap, fill
from tests.system.build import cfg, cid
from tests.system.raw import open_raw
from tests.system.test_verify import flip_frame

THREADS = ("t", "other", "tagged", "named", "deep")

# What each command is called with, once or more, and its exit code unless it is 0; test_registry.py misses none.
COMMANDS: Mapping[str, list[str | tuple[str, int]]] = {
    "threads": ["", "--waiting --unfinished --damaged --json"],
    "history": ["t", "tagged --json", "named"],
    "show": ["deep", "t", "tagged --json", "named", "t --channel log", f"t {cid(2)}"],
    "diff": [f"deep {cid(1)}", f"t {cid(1)}", f"tagged {cid(1)} --json", f"t {cid(1)} --channel log"],
    "edit": [
        "t --channel said --set '\"new\"'",
        "t --channel log --set null --dry-run",
        "deep --channel said --set 1",
        ("deep --channel deep --set 1", 2),
        "named --channel said --set 1",
    ],
    "stats": ["", "--json"],
    "train": ["", ("--sample 1 --json", 1)],  # one thread is too few
    "report": [
        "deep -o FILES/deep.html",
        "t -o FILES/page.html",
        "tagged -o FILES/tagged.html --json",
        "named -o FILES/named.html",
    ],
    "check": ["deep", "t --json", "tagged", "named"],
    "verify": ["", "t --depth data --json", "--depth existence"],
    "repair": ["t --dry-run", "--yes", "t --yes --json"],
    "pin": [f"t {cid(2)} label", "t latest label --json"],
    "unpin": [f"t {cid(2)}"],
    "leases": ["", "--expired --json"],
    "pause": [("t", 1), ("tagged --cancel", 1)],
    "runs": ["", "--state crashed --json"],
    "recoveries": ["", "t --json"],
    "stalled": ["--older 1m --json"],
    "top": ["--once --verify", "--once --json"],
    "answer": [("t yes --json", 2)],  # it has two questions
    "work": [("missing:graph", 2)],
    "team list": ["", "--json"],
    "team show": ["crew", "crew --json", ("deal", 1)],
    "team checkpoint": ["crew", "crew --label merge --json"],
    "team verify": ["crew", "crew --json"],
    "team restore": ["crew --dry-run", "crew --yes --json"],
    "team remove": [("crew unknown", 1)],
    "batches list": ["t", "t --json"],
    "batches show": [("t b", 1)],
    "saga list": ["t", "t --json"],
    "saga rollbacks": ["", "--state stuck --json"],
    "saga show": [("t s", 1)],
    "saga resume": [("t s", 2)],
    "saga rollback": [("t s --yes", 2)],
    "saga resolve": [("t s step --not-done", 2)],
    "operations list": ["t", "t --unresolved --json"],
    "operations show": [("t key", 1)],
    "operations resolve": [("t key --not-done", 2)],
    "prune": ["t --keep-last 1 --dry-run", "t --keep-last 1 --yes"],
    "copy": ["t t2", "tagged tagged2 --json"],
    "delete": ["t --dry-run", "t --yes"],
    "collect": ["--yes --orphan-age 0s", "t --dry-run"],
    "sweep": ["--ttl 1h --dry-run", "--ttl 1h --yes"],
    "pull": ["t STORE file://FILES/pulled", "tagged STORE file://FILES/pulled --json"],
    "push": ["t STORE file://FILES/pushed", "named STORE file://FILES/pushed --json"],
    "replicate": ["--to file://FILES/replica", "--to file://FILES/replica --json"],
    "replication status": [("--to file://FILES/replica", 7)],  # There is no replica; the methods below have one.
    "replication reconcile": [("--to file://FILES/replica", 7)],
    "failover": [("--to file://FILES/replica --dry-run", 7), ("--to file://FILES/replica --yes", 7)],  # as above
    "export": ["t FILES/t.tar --yes", "tagged FILES/tagged.tar --json"],
    "import": ["FILES/hostile.tar --store file://FILES/new", "FILES/hostile.tar --as another"],
    "migrate": [
        "--from sqlite://FILES/source.sqlite --store file://FILES/migrated --dry-run",
        "--from sqlite://FILES/source.sqlite --store file://FILES/migrated",
        "--from sqlite://FILES/source.sqlite --store file://FILES/migrated --json",
        "t tagged --from sources:memory --store file://FILES/of-memory",
        "t tagged --from sources:ours --store file://FILES/of-ours",
        ("named --from sources:memory --store file://FILES/of-memory", 3),
        ("t --from sources:wrapped --store file://FILES/of-wrapped", 3),
        ("t --from sources:encrypting --store file://FILES/of-encrypting", 3),
    ],
    "setup": ["", "--json"],
    "monitoring": ["--write FILES/monitoring --store gs://my-bucket", ("--write FILES/monitoring", 2)],  # as `rebind`
    "demo": ["--store STORE --documents 10", "once --store STORE", "workers --store STORE"],
    "drill": ["t", "tagged --json", "deep"],
    "advise": ["t", "tagged --json", "--mtbf 8h"],
    "analytics ddl": ["", "--label agent"],
    "analytics backfill": ["--to FILES/rows.jsonl --label agent", "tagged --to FILES/rows.jsonl --json"],
    "analytics report": ["-o FILES/report.html", "--json"],
    "rebind": [("--dry-run", 2), ("--yes", 2)],  # An embedded store is bound to no bucket.
}


class Wrapped(BaseCheckpointSaver[str]):
    """A checkpointer that reads by another one, whatever its own serializer is."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def list(self, *args: Any, **options: Any) -> Iterator[CheckpointTuple]:
        return self.inner.list(*args, **options)

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        return self.inner.get_tuple(config)


class Another(JsonPlusSerializer):
    """A serializer that is not LangGraph's own."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a hostile store, an archive of it, and a database of another checkpointer."""
    directory = tmp_path_factory.mktemp("hostile")
    trap = Trap(directory)
    with GCSSaver.from_conn_string(f"file://{directory}/store", serde=PortableSerializer()) as saver:
        for thread in THREADS:
            fill(saver, trap, thread)
        saver.admin.copy_thread("tagged", "crew/a")
        saver.team("crew", ["a"]).checkpoint()
        saver.admin.export_thread("t", directory / "hostile.tar")
    with SqliteSaver.from_conn_string(str(directory / "source.sqlite")) as source:
        source.serde = PortableSerializer()
        fill(source, trap, is_metadata_json=True)
    assert not trap.is_sprung
    return directory


@pytest.fixture
def files(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the same, which is the working directory; the module that values name can be imported."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(made))
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", f"file://{tmp_path}/store")
    yield tmp_path
    sys.modules.pop(MODULE, None)
    (made / "sprung").unlink(missing_ok=True)


@pytest.fixture
def trap(made: Path, files: Path) -> Trap:
    """Shows whether anything ran: the commands that values name leave the file of `made`."""
    return Trap(made)


@pytest.fixture(scope="module")
def memory(made: Path) -> InMemorySaver:
    """A checkpointer in memory with the same threads."""
    found = InMemorySaver(serde=PortableSerializer())
    for thread in THREADS:
        fill(found, Trap(made), thread)
    found.serde = JsonPlusSerializer()
    return found


@pytest.fixture
def sources(memory: InMemorySaver, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with checkpointers to migrate from, which read as they do by default."""
    module = ModuleType("sources")
    with GCSSaver.from_conn_string(f"file://{files}/store") as ours:
        encrypting = InMemorySaver(serde=Another())
        encrypting.storage, encrypting.writes, encrypting.blobs = memory.storage, memory.writes, memory.blobs
        found = {"memory": memory, "ours": ours, "wrapped": Wrapped(memory), "encrypting": encrypting}
        for name, saver in found.items():
            setattr(module, name, saver)
        monkeypatch.setitem(sys.modules, "sources", module)
        yield


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, files: Path) -> Callable[[str], int]:
    """Runs a command line in this process; its exit code."""

    def called(line: str) -> int:
        put_in = line.replace("STORE", f"file://{files}/store").replace("FILES", str(files))
        monkeypatch.setattr(sys, "argv", ["langgraph-gcs", *shlex.split(put_in)])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            run()
        return int(ended.value.code or 0)

    return called


@pytest.mark.parametrize(
    "name",
    # The demo reads no thread but its own, in many processes.
    [pytest.param(name, marks=pytest.mark.soak if name == "demo" else ()) for name in registry.commands()],
)
def test_a_command_runs_nothing(
    name: str, call: Callable[[str], int], trap: Trap, sources: None, capfd: pytest.CaptureFixture[str]
) -> None:
    for one in COMMANDS[name]:
        arguments, code = (one, 0) if isinstance(one, str) else one
        assert call(f"{name} {arguments}") == code, (arguments, capfd.readouterr())
        assert not trap.is_sprung, arguments


def damage(files: Path) -> None:
    """Make a value of each thread be looked for in all ways that there are."""
    raw = open_raw(f"file://{files}/store")
    flip_frame(raw, 2, "log")
    flip_frame(raw, 3, "large")
    flip_frame(raw, 4, "messages")
    raw.close()


def test_a_repair_finds_values_and_runs_nothing(
    call: Callable[[str], int], files: Path, trap: Trap, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(files)
    capfd.readouterr()
    assert call("verify t --depth data") == 4
    call("repair t --yes")
    assert not trap.is_sprung
    out = capfd.readouterr().out
    assert "re-encode" in out
    assert "--import-classes" in out
    call("drill t")
    assert not trap.is_sprung


def test_the_trap_springs(files: Path, trap: Trap) -> None:
    """LangGraph's default, which `GCSSaver` has, imports and calls: the other tests can fail."""
    with GCSSaver.from_conn_string(f"file://{files}/store") as saver:
        saver.get_tuple(cfg())
    assert trap.sprung.exists()
    assert MODULE in sys.modules


@pytest.mark.parametrize(
    "line",
    [
        "repair t --yes --import-classes",
        "migrate t --from sources:wrapped --store file://FILES/of-wrapped --import-classes",
    ],
)
def test_with_the_flag_classes_are_imported(
    line: str, call: Callable[[str], int], files: Path, trap: Trap, sources: None
) -> None:
    damage(files)
    call(line)
    assert trap.is_sprung


# The API


_OLD = datetime(2020, 1, 1, tzinfo=timezone.utc)
_HOUR = timedelta(hours=1)


def _rebind(admin: Admin) -> None:
    with pytest.raises(InvalidInputError):
        admin.rebind()


def _resolve(admin: Admin) -> None:
    with pytest.raises(InvalidInputError):
        admin.resolve_operation("t", "key", not_done=True)


def _plan_of_a_run(admin: Admin) -> None:
    with pytest.raises(ThreadInSetError):
        list(admin.plan_delete_for_runs(["run"]))


# What each public method of `Admin` is called with; test_every_method.py has the asynchronous twins.
METHODS: Mapping[str, Callable[[Any, Path, Any], object]] = {
    "checkpoint_ids": lambda admin, _, __: admin.checkpoint_ids(cfg()),
    "checkpoint_at": lambda admin, _, __: admin.checkpoint_at(cfg(), datetime.now(timezone.utc)),
    "collect": lambda admin, _, __: admin.collect(orphan_age=timedelta(0)),
    "copy_thread": lambda admin, _, __: admin.copy_thread("tagged", "copied"),
    "delete_for_runs": lambda admin, _, __: admin.delete_for_runs(["run"], force=True),  # a set needs a checkpoint
    "delete_thread": lambda admin, _, __: admin.delete_thread("t"),
    "export_thread": lambda admin, files, _: admin.export_thread("tagged", files / "exported.tar"),
    "history": lambda admin, _, __: admin.history("tagged"),
    "import_thread": lambda admin, files, _: (
        admin.delete_thread("t"),
        admin.import_thread(files / "hostile.tar"),
    ),
    "migrate": lambda admin, _, __: (
        admin.delete_thread("t"),
        admin.migrate(sys.modules["sources"].memory, ["t"]),
    ),
    "carry_out": lambda admin, _, __: [admin.carry_out(plan) for plan in admin.plan_prune(["t", "tagged"])],
    "plan_collect": lambda admin, _, __: [*admin.plan_collect(orphan_age=timedelta(0))],
    "plan_delete_for_runs": lambda admin, _, __: _plan_of_a_run(admin),
    "plan_delete_thread": lambda admin, _, __: admin.plan_delete_thread("t"),
    "plan_prune": lambda admin, _, __: [*admin.plan_prune(["t", "tagged"])],
    "plan_repair": lambda admin, files, _: (damage(files), [*admin.plan_repair()]),
    "plan_sweep": lambda admin, _, __: [*admin.plan_sweep()],
    "pin": lambda admin, _, __: admin.pin(cfg(2), "label"),
    "ping": lambda admin, _, __: admin.ping(),
    "operations": lambda admin, _, __: admin.operations("t"),
    "resolve_operation": lambda admin, _, __: _resolve(admin),
    "batches": lambda admin, _, __: admin.batches("t"),
    "teams": lambda admin, _, __: [*admin.teams()],
    "sagas": lambda admin, _, __: admin.sagas("t"),
    "pins": lambda admin, _, __: admin.pins(cfg()),
    "holds": lambda admin, _, __: admin.holds(cfg()),
    "leases": lambda admin, _, __: [*admin.leases()],
    "pause": lambda admin, _, __: admin.pause("t"),
    "status": lambda admin, _, __: admin.status("t"),
    "runs": lambda admin, _, __: [*admin.runs()],
    "rollbacks": lambda admin, _, __: [*admin.rollbacks()],
    "recoveries": lambda admin, _, __: [*admin.recoveries()],
    "prune": lambda admin, _, __: admin.prune(["t", "tagged"], strategy="keep_latest"),
    "rebind": lambda admin, _, __: _rebind(admin),
    "replicate": lambda admin, _, other: admin.replicate(other),
    "replication": lambda admin, _, other: admin.replication(other),
    "reconcile": lambda admin, _, other: (admin.replicate(other), [*admin.reconcile(other)]),
    "failover": lambda admin, _, other: (admin.replicate(other), admin.failover(other)),
    "repair": lambda admin, files, _: (damage(files), admin.repair()),
    "setup": lambda admin, _, __: admin.setup(),
    "stats": lambda admin, _, __: admin.stats(),
    "train": lambda admin, _, __: admin.train(),
    "sweep": lambda admin, _, __: admin.sweep(),
    "threads": lambda admin, _, __: admin.threads(waiting=True),
    "transfer_thread": lambda admin, _, other: admin.transfer_thread("t", other),
    "unpin": lambda admin, _, __: admin.unpin(cfg(2)),
    "verify": lambda admin, _, __: [*admin.verify(depth="data")],
}


@pytest.mark.parametrize("name", registry.all_methods(Admin))
def test_a_method_of_admin_runs_nothing(name: str, files: Path, trap: Trap, sources: None) -> None:
    with (
        Admin.from_conn_string(f"file://{files}/store", ttl=_HOUR) as admin,
        Admin.from_conn_string(f"file://{files}/other") as other,
    ):
        METHODS[name](admin, files, other)
    assert not trap.is_sprung


# The serializer


def test_the_portable_serializer_runs_nothing(made: Path, trap: Trap) -> None:
    serde = PortableSerializer()
    for value in [*trap.objects(), *trap.tagged()]:
        kind, data = serde.dumps_typed(value)
        found = serde.loads_typed((kind, data))
        assert found == value
        assert from_json(to_json(found)) == value
        assert serde.dumps_typed(found) == (kind, data)
        list(objects(found))
    assert not trap.is_sprung


def test_objects_inside_objects_are_not_all_held() -> None:
    """Each holds those inside it: what is small is seen to any depth, and of what is large a limited sum."""
    size, value = 4 << 20, Stored.of(0, ["m", "C", b"x" * (4 << 20)])
    for _ in range(40):
        value = Stored.of(0, ["m", "C", value])
    held = [value]
    while held[-1].parts is not None and isinstance(held[-1].parts[2], Stored):
        held.append(held[-1].parts[2])
    assert 10 * size < sum(len(one.data) for one in held) < 20 * size
    assert from_json(to_json(value)) == value, "what is not looked into is kept as it is"
