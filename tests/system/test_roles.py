"""What savers do in a store that is replicated, by its role; and what they do in all others, which is nothing more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.engine import limits, runner
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import (
    DamageError,
    GCSSaverError,
    NotPrimaryError,
    OperationNotPrimaryError,
    OutcomeUnknownError,
)
from langgraph_gcs_saver.flows import roles
from langgraph_gcs_saver.format import keys, regions
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.kit.outbox import TO, Judge, give_role
from tests.security import registry
from tests.security.fuzzing import seeds
from tests.security.registry import Around
from tests.system.build import cfg, cid, noise, put
from tests.system.raw import LocalRaw

KIND = seeds.KINDS[0]


class State(TypedDict):
    n: int


def graph_of(saver: GCSSaver) -> Any:
    builder = StateGraph(State)
    builder.add_node("add", lambda state: {"n": state["n"] + 1})
    builder.add_edge(START, "add")
    return builder.compile(checkpointer=saver)


def _batch(saver: GCSSaver) -> None:
    with saver.thread("t").batch("more", ["a", "b"]) as batch:
        for item in batch:
            batch.done(item)


def _saga(saver: GCSSaver) -> None:
    with saver.thread("t").saga("another") as saga:
        saga.once("book", lambda: 1, request={}, irreversible=True)


ACTIONS: dict[str, Callable[[GCSSaver], Any]] = {
    "batch": _batch,
    "blob": lambda saver: saver.thread("t").blobs.put(b"another blob"),
    "invoke": lambda saver: graph_of(saver).invoke({"n": 1}, cfg(thread="new"), durability="sync"),
    "once": lambda saver: saver.thread("t").operations.once("charge", lambda: 1, key="order-18", request={}),
    "run": lambda saver: run(graph_of(saver), {"n": 1}, cfg(thread="run", ns=None), request_id="r"),
    "saga": _saga,
    "shared once": lambda saver: saver.thread("t").operations.once("charge", lambda: 1, key="k", scope="store"),
}
"""What else stores something, beside the methods of a saver."""

STORE = {
    "carry_out",
    "collect",
    "copy_thread",
    "delete_for_runs",
    "delete_thread",
    "import_thread",
    "migrate",
    "pin",
    "prune",
    "put",
    "put_writes",
    "unpin",
}
"""Methods that change replicated documents of the store that they are called with here."""

NOTHING_TO_DO = {"import_thread", "unpin"}
"""Those of them that find nothing to change in a replica: no deletion and no pin preceded them."""


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything that can be below a thread."""
    directory = seeds.make(tmp_path_factory.mktemp("seed") / "store", KIND).directory
    LocalRaw(directory).delete_document(keys.saga_doc("t", "trip"))  # It is stuck, and no step says by what.
    return directory


@pytest.fixture
def open_saver(seed: Path, tmp_path: Path) -> Callable[..., Any]:
    """Opens a copy of the store, once it has a role."""

    @contextmanager
    def opened(role: regions.RoleName | None, name: str = "store", **options: Any) -> Iterator[GCSSaver]:
        shutil.copytree(seed, tmp_path / name)
        uri, known = f"file://{tmp_path / name}", {"serde": seeds.PLAIN, **KIND.options}
        if role is not None:
            with GCSSaver.from_conn_string(uri, **known) as saver:
                give_role(saver, role)
        with GCSSaver.from_conn_string(uri, **known, **options) as saver:
            yield saver

    return opened


def _calls(saver: GCSSaver, directory: Path, other: GCSSaver) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All methods and actions, in an order in which each finds a thread."""
    source = InMemorySaver()
    put(source, 1, {"v": 1}, thread="migrated")
    around = Around(directory, other, source=source, newest=seeds.NEWEST - 2, channels=("none",))
    for name, action in ACTIONS.items():
        yield name, lambda action=action: action(saver)
    for number, name in enumerate(registry.METHODS):
        if name == "migrate":
            yield name, lambda: saver.admin.migrate(source, ["migrated"])
        elif name == "delete_for_runs":
            yield name, lambda: saver.admin.delete_for_runs(["run 0"])
        else:
            is_async = number % 2 == 1
            yield name, lambda name=name, is_async=is_async: registry.perform(saver, name, around, is_async=is_async)


def test_each_commit_that_changes_something_adds_its_entry(open_saver: Any, tmp_path: Path) -> None:
    judge, storing = Judge(), set()
    with open_saver("primary", interceptors=[judge]) as saver, open_saver(None, "other") as other:
        judge.saver = saver
        for name, call in _calls(saver, tmp_path, other):
            before = judge.entries
            with suppress(GCSSaverError):
                call()
            assert judge.faults == [], name
            storing |= {name} if judge.entries > before else set()
    assert storing == STORE | ACTIONS.keys()


@pytest.mark.parametrize("role", ["replica", "fenced"])
def test_a_store_that_is_not_the_primary_takes_nothing(open_saver: Any, tmp_path: Path, role: Any) -> None:
    judge, refused = Judge(), {}
    with open_saver(role, interceptors=[judge]) as saver, open_saver(None, "other") as other:
        judge.saver = saver
        for name, call in _calls(saver, tmp_path, other):
            try:
                call()
            except NotPrimaryError as error:
                refused[name] = (error.role, error.other, error.epoch)
            except GCSSaverError:
                pass
            assert judge.faults == [], name
        assert saver.get_tuple(cfg()) is not None
    assert judge.entries == 0
    assert refused == dict.fromkeys((STORE | ACTIONS.keys()) - NOTHING_TO_DO, (role, TO, 1))


def _without_a_look(flow: Any, region: roles.Region) -> Any:
    region.begin({})
    return flow


def test_a_store_without_a_role_is_asked_for_nothing_more(
    open_saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look for a role joins the first read of a process."""
    found = []
    for name in ("as it is", "without"):
        if name == "without":
            monkeypatch.setattr(roles, "admit", _without_a_look)
        count = CountingInterceptor()
        rounds: list[Any] = []
        with open_saver(None, name, interceptors=[count]) as saver, open_saver(None, f"{name}, other") as other:
            saver.get_tuple(cfg())
            (tmp_path / f"{name}, files").mkdir()
            for method, call in _calls(saver, tmp_path / f"{name}, files", other):
                count.clear()
                with suppress(GCSSaverError):
                    call()
                # In order of their kinds, because a graph stores pending writes beside its checkpoints.
                rounds.append((method, sorted(map(sorted, count.rounds))))
        found.append(rounds)
    assert found[0] == found[1]


# In one process


class Longest(Interceptor):
    """Measures commits.

    Attributes:
        writes: The most writes of one.
    """

    def __init__(self) -> None:
        self.writes = 0

    def around(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, Commit):
            self.writes = max(self.writes, len(effect.writes))
        return perform(effect)


def _entries(saver: GCSSaver) -> list[regions.Entry]:
    docs = runner.run(iter(QueryDocs(keys.OUTBOX)), saver._as_shipper)
    return sorted(map(regions.entry_of, docs), key=lambda entry: entry.time)


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_a_process_learns_of_a_role_from_google(make_saver: Any) -> None:
    other, saver = make_saver(), make_saver()
    give_role(other, "primary", 1)
    put(saver, 1, {"v": 1})
    assert [entry.what for entry in _entries(saver)] == ["put"]
    give_role(other, "fenced", 2)
    with pytest.raises(NotPrimaryError):
        put(saver, 2, {"v": 2}, parent=1)
    assert saver.get_tuple(cfg()).config["configurable"]["checkpoint_id"] == cid(1)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_process_follows_the_role(make_saver: Any) -> None:
    other, saver = make_saver(), make_saver()
    give_role(other, "primary", 1)
    told: list[regions.Entry] = []
    saver._context.region.on_entries = told.extend
    put(saver, 1, {"v": 1})
    assert [(entry.what, entry.changed) for entry in told] == [("put", keys.checkpoint_doc("t", "", cid(1)))]
    assert told == _entries(saver), "also the times"

    give_role(other, "primary", 2)
    put(saver, 2, {"v": 2}, parent=1)
    give_role(other, "fenced", 3)
    for _ in range(2):
        with pytest.raises(NotPrimaryError, match=r"was the primary, and is not any more \(epoch 3\)"):
            put(saver, 3, {"v": 3}, parent=2)
    assert saver.get_tuple(cfg()).config["configurable"]["checkpoint_id"] == cid(2)
    give_role(other, "primary", 4)
    put(saver, 3, {"v": 3}, parent=2)
    saver.delete_thread("t")
    assert [entry.what for entry in told] == ["put"] * 3 + ["delete"] * 4
    assert told[-1].changed == keys.thread_doc("t")
    assert sorted(told, key=str) == sorted(_entries(saver), key=str)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_the_first_look_of_a_process_may_be_at_the_role_itself(make_saver: Any) -> None:
    other, saver = make_saver(), make_saver()
    assert runner.run(roles.look(), saver._backend) is None
    give_role(other, "replica", 3)
    fresh = make_saver()
    for one in (fresh, saver):
        assert runner.run(roles.look(), one._backend) == regions.Role(3, "replica", TO)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_shipper_is_not_asked_for_a_role(make_saver: Any) -> None:
    saver = make_saver()
    give_role(saver, "replica")
    name = keys.checkpoint_doc("t", "", cid(1))
    assert runner.run(iter(Commit((Create(name, {"ns": "~"}),))), saver._as_shipper)
    assert _entries(saver) == []
    with pytest.raises(NotPrimaryError):
        runner.run(iter(Commit((Delete(name),))), saver._backend)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_fenced_process_uploads_nothing_once_it_knows(make_saver: Any) -> None:
    count = CountingInterceptor()
    other, saver = make_saver(), make_saver(interceptors=[count], inline_max_bytes=0)
    give_role(other, "primary", 1)
    put(saver, 1, {"v": noise(1000)})
    give_role(other, "fenced", 2)
    uploads = []
    for n in (2, 3):
        count.clear()
        with pytest.raises(NotPrimaryError):
            put(saver, n, {"v": noise(1000, n)}, parent=1)
        uploads.append(count.requests["PutBlob"])
    assert uploads == [1, 0]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_roles_that_are_damaged_or_gone(make_saver: Any) -> None:
    other, saver = make_saver(), make_saver()
    give_role(other, "primary")
    put(saver, 1, {"v": 1})
    middle = tuple(map(Delete, regions.ROLES[100:]))
    assert runner.run(iter(Commit(middle)), other._as_shipper)
    with pytest.raises(DamageError, match="'lg_region/role-64' does not say which role this store has"):
        put(saver, 2, {"v": 2}, parent=1)
    assert runner.run(iter(Commit(tuple(map(Delete, regions.ROLES)))), other._as_shipper)
    put(saver, 2, {"v": 2}, parent=1)
    assert len(_entries(saver)) == 1, "a store without roles is not replicated any more"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_the_writes_of_a_commit_are_limited(make_saver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each checkpoint that is deleted here, the parent stays, and loses its heir."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 4)
    other, longest = make_saver(), Longest()
    give_role(other, "primary")
    saver = make_saver(interceptors=[longest])
    for n in range(1, 25):
        put(saver, n, {"v": n}, parent=n - 1 or None)
    for n in range(1, 25, 2):
        saver.admin.pin(cfg(n), "stays")
    saver.prune(["t"], strategy="keep_latest")
    assert len(list(saver.list(cfg()))) == 13
    assert 3 * limits.COMMIT_WRITES < longest.writes <= 3 * limits.COMMIT_WRITES + 3
    saver.delete_thread("t")
    assert longest.writes <= 3 * limits.COMMIT_WRITES + 3


# Operations


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_operation_is_not_started_and_no_tool_handler_sees_the_error(make_saver: Any) -> None:
    saver, performed = make_saver(), []
    give_role(saver, "replica")
    with pytest.raises(OperationNotPrimaryError, match="Use the store 'gs://elsewhere'") as caught:
        saver.thread("t").operations.once("charge", lambda: performed.append(1), key="order-17")
    assert isinstance(caught.value, GraphBubbleUp)
    assert performed == []


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_operation_that_a_change_of_the_role_met(make_saver: Any) -> None:
    """The process has performed it, and may not record that."""
    other, saver = make_saver(), make_saver()
    give_role(other, "primary", 1)

    def charge() -> str:
        give_role(other, "fenced", 2)
        return "receipt"

    with pytest.raises(OutcomeUnknownError, match="was not recorded: This store was the primary") as caught:
        saver.thread("t").operations.once("charge", charge, key="order-17")
    assert caught.value.performed is not None
    assert caught.value.performed() == "receipt"
