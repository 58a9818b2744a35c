"""Crash everywhere: stop a call at every effect, look at what it left, and continue from there.

```python
for operation in OPERATIONS:
    print(crash_everywhere(new_store, operation))  # raises CrashTestError at the first thing that is wrong
```

`new_store` returns the connection string of a fresh, empty store each time: a directory, or a project of the emulator.
For each stop, the operation's history is written to such a store and the call is made. Its process crashes right after
the n-th effect that reaches a service, or before the first one. (A crash before a later effect leaves the same store as
a crash after the effect before it.) A service may perform the effects of a `Gather`, and the names of one
`DeleteBlobs`, in any order. They are performed one by one, first to last, and in runs of their own last to first.

Then these are checked, each time with a saver without caches, as in another process:

1. Every checkpoint that is listed loads, by its id and as the latest of its namespace. It equals what LangGraph's
   `InMemorySaver` has of it, either before the call or after it. An `atomic` call is there as a whole or not at all.
2. The same call, made again, succeeds. Then everything is as after the call.
3. A third call changes no document, and no object that was there.
4. Documents and objects of other threads are unchanged byte by byte, although these threads have the same checkpoint
   ids, and ids that begin like the thread's. Of deleted threads, no document and no object is left.
5. The thread continues: another checkpoint can be stored, and reads back.

To check another operation, pass an `Operation`: a name, the call, and the same call for the model, if the model has no
such method.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_gcs_saver.engine.effects import (
    Compute,
    DeleteBlobs,
    Durable,
    Effect,
    Emit,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    ListCollections,
    Now,
    Pause,
    QueryDocs,
)
from langgraph_gcs_saver.engine.interceptors import APerform, APerformAll, GatherInterceptor, Perform, PerformAll
from langgraph_gcs_saver.engine.runner import Backend
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    CheckpointVerificationError,
    DamageError,
    InvalidConfigError,
    InvalidInputError,
)
from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver.checkpointer import GCSSaver

Saver = BaseCheckpointSaver[Any]

LOCAL = (Compute, Durable, Now, Pause, Emit)
"""Effects that reach no service."""

READS = (GetDocs, QueryDocs, ListCollections, GetBlob, HashBlob, ListBlobs)
"""Effects that leave a store as it is."""

RUNS_PER_PAGE = 200


class Crashed(BaseException):
    """The process has crashed: nothing that it tries reaches a service any more."""


class CrashTestError(AssertionError):
    """A check failed after a crash. The message says where the call stopped, and what is wrong."""


# Crashing


def crash() -> NoReturn:
    """Crash this process as far as its effects are concerned: the rest of it sees an exception."""
    raise Crashed


def kill() -> NoReturn:
    """Kill this process, with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")


@dataclass(slots=True)
class Plan:
    """When a process crashes, and what it did until then.

    Attributes:
        stop_after: Number of effects after which it crashes; `None` for never.
        is_reverse: Whether effects that may happen in any order are performed last to first.
        is_late: Whether it crashes only when the next effect is about to begin.
        strike: Crashes the process: `crash` or `kill`.
        done: Effects that reached a service, in order.
        orders: Groups of these effects that could have been performed in another order.
        is_dead: Whether it has crashed.
    """

    stop_after: int | None = None
    is_reverse: bool = False
    is_late: bool = False
    strike: Callable[[], NoReturn] = crash
    done: list[Effect[Any]] = field(default_factory=list)
    orders: list[Sequence[Effect[Any]]] = field(default_factory=list)
    is_dead: bool = False

    def begin(self) -> None:
        """An effect is about to begin. The process crashes if it has crashed, or crashes now."""
        self._live(is_due=True)

    def end(self, effect: Effect[Any]) -> None:
        """An effect has been performed. The process crashes if it has crashed, or crashes now."""
        self.done.append(effect)
        self._live(is_due=not self.is_late)

    def _live(self, *, is_due: bool) -> None:
        # Not `==`: two threads may end an effect at the same time.
        if is_due and self.stop_after is not None and len(self.done) >= self.stop_after:
            self.is_dead = True
        if self.is_dead:
            self.strike()

    def arranged(self, effects: Sequence[Effect[Any]]) -> list[int]:
        """The order, as indices, in which to perform effects that may happen in any order."""
        if len(effects) > 1:
            self.orders.append(effects)
        found = list(range(len(effects)))
        return found[::-1] if self.is_reverse else found


class Dying(GatherInterceptor):
    """Crashes the process by its `plan`. Every effect but local acts counts, and each is performed by itself."""

    def __init__(self) -> None:
        self.plan = Plan()

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect, or crash."""
        if isinstance(effect, LOCAL):
            return perform(effect)
        parts = _parts(effect)
        if parts is not None:
            for at in self.plan.arranged(parts):
                self.around(parts[at], perform)
            return None
        self.plan.begin()
        result = perform(effect)
        self.plan.end(effect)
        return result

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Perform one effect on the event loop, or crash."""
        if isinstance(effect, LOCAL):
            return await perform(effect)
        parts = _parts(effect)
        if parts is not None:
            for at in self.plan.arranged(parts):
                await self.aaround(parts[at], perform)
            return None
        self.plan.begin()
        result = await perform(effect)
        self.plan.end(effect)
        return result

    def around_all(self, effects: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Perform effects one by one."""
        results = {at: perform(effects[at : at + 1])[0] for at in self.plan.arranged(effects)}
        return [results[at] for at in range(len(effects))]

    async def aaround_all(self, effects: Sequence[Effect[Any]], perform: APerformAll) -> Sequence[Any]:
        """Perform effects one by one on the event loop."""
        results = {at: (await perform(effects[at : at + 1]))[0] for at in self.plan.arranged(effects)}
        return [results[at] for at in range(len(effects))]


def _parts(effect: Effect[Any]) -> tuple[Effect[Any], ...] | None:
    """The effects that `effect` consists of; `None` if it happens as a whole."""
    if isinstance(effect, DeleteBlobs) and len(effect.names) != 1:
        return tuple(DeleteBlobs((name,)) for name in effect.names)
    return None


class CrashingSaver(GCSSaver):
    """A saver whose process crashes by its `plan`. By default it never does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._dying = Dying()
        options["interceptors"] = [*options.get("interceptors", ()), self._dying]
        super().__init__(*args, **options)

    @property
    def plan(self) -> Plan:
        """When the process crashes, and what it has done."""
        return self._dying.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._dying.plan = plan

    def raw(self) -> Raw:
        """Everything in the store. Interceptors do not see the reads: they do not count, and work after a crash too."""
        perform = Backend(self._backend.documents, self._backend.blobs).perform
        # Only this library's collections: the database may hold others.
        end = keys.all_checkpoints_range()[1]
        found = Raw({}, {})
        for collection in (keys.THREADS, *(entry.id for entry in registry.every())):
            after: str | None = None
            query = QueryDocs(collection, start=f"{keys.RUNS}/!", end=end, limit=RUNS_PER_PAGE, group=True)
            while docs := perform(replace(query, after=after)):
                found.documents.update((doc.name, dict(doc.fields)) for doc in docs)
                after = docs[-1].name
        after = None
        while blobs := perform(ListBlobs("", after)):
            for blob in blobs:
                found.objects[blob.name] = perform(GetBlob(blob.name))
            after = blobs[-1].name
        return found


# What a store holds


@record(frozen=True, slots=True)
class Raw:
    """Fields of documents and bytes of objects, by name."""

    documents: dict[str, dict[str, Any]]
    objects: dict[str, bytes]

    def of(self, threads: Iterable[str]) -> Raw:
        """The part that belongs to some threads."""
        return self._where({keys.spread(thread) for thread in threads}, is_in=True)

    def without(self, threads: Iterable[str]) -> Raw:
        """The part that belongs to none of some threads."""
        return self._where({keys.spread(thread) for thread in threads}, is_in=False)

    def _where(self, threads: set[str], *, is_in: bool) -> Raw:
        return Raw(
            {name: fields for name, fields in self.documents.items() if (_thread_of(name) in threads) is is_in},
            {name: data for name, data in self.objects.items() if (name.split("/")[0] in threads) is is_in},
        )

    def changes(self, later: Raw) -> list[str]:
        """Names of what was changed or removed since, and of documents that were added. Objects may be added."""
        documents = self.documents.keys() | later.documents.keys()
        found = {name for name in documents if self.documents.get(name) != later.documents.get(name)}
        return sorted(found | {name for name, data in self.objects.items() if later.objects.get(name) != data})


def _thread_of(document: str) -> str:
    segments = document.split("/")
    return segments[3] if segments[0] == keys.RUNS else segments[1]


Key = tuple[str, str, str]
"""Thread, namespace, checkpoint id."""


@record(frozen=True, slots=True)
class Record:
    """A checkpoint as a reader gets it, with its pending writes in an order that all savers share."""

    parent: str | None
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    writes: list[tuple[str, str, Any]]

    @classmethod
    def of(cls, found: CheckpointTuple) -> Record:
        """The record of what a saver returned."""
        parent = None if found.parent_config is None else found.parent_config["configurable"]["checkpoint_id"]
        writes = sorted(found.pending_writes or [], key=repr)
        return cls(parent, found.checkpoint, found.metadata, writes)

    def unflagged(self) -> Record:
        """The record without a fallback's flag."""
        metadata = {key: value for key, value in self.metadata.items() if key != "recovered_from"}
        return replace(self, metadata=cast("CheckpointMetadata", metadata))


Contents = dict[Key, Record]


def contents(saver: Saver) -> Contents:
    """Everything that a saver lists."""
    return {_key(one.config): Record.of(one) for one in saver.list(None)}


def _key(config: RunnableConfig) -> Key:
    ids = config["configurable"]
    return ids["thread_id"], ids["checkpoint_ns"], ids["checkpoint_id"]


# Operations


THREAD = "t"
NEIGHBOURS = ("t_b", "t/n")
"""Threads with the same checkpoint ids, whose own ids begin like that of the thread under test."""

NEWEST = 4
"""The newest checkpoint of the thread under test."""

DEFAULT: CheckpointMetadata = {"source": "loop", "step": 0, "parents": {}}


def cid(number: int) -> str:
    """A checkpoint id. A greater number makes a newer one."""
    return f"1f000000-0000-6000-8000-{number:012}"


def config_of(number: int | None, *, thread: str = THREAD, ns: str = "") -> RunnableConfig:
    """The config of a checkpoint, or of the latest one."""
    configurable = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": configurable if number is None else {**configurable, "checkpoint_id": cid(number)}}


def state(number: int, *, salt: int = 0) -> dict[str, Any]:
    """State of step `number`: small, growing, large and constant values. Another `salt` makes other content."""
    return {
        "number": number,
        "nothing": None,
        "messages": [f"message {at} of {salt}, {at * 7919 % 1000}" for at in range(40 * number)],
        "noise": random.Random(number + 1000 * salt).randbytes(9_000),  # noqa: S311 - a seed makes it repeatable
        "constant": "the same all the time, so that it is taken from the parent",
    }


PutArguments = tuple[RunnableConfig, Checkpoint, CheckpointMetadata, dict[str, str | int | float]]
"""Config of the parent, checkpoint, metadata, new versions."""


def put_arguments(
    number: int, parent: int | None, *, thread: str = THREAD, ns: str = "", salt: int = 0, run: str = "run"
) -> PutArguments:
    """Arguments of a `put` of step `number`. Constant values keep their parent's version, if there is a parent."""
    values = state(number, salt=salt)
    versions: dict[str, str | int | float] = dict.fromkeys(values, f"{number:032}.{salt}")
    if parent is not None:
        versions["constant"] = f"{1:032}.0"
    checkpoint: Checkpoint = {
        "v": 4,
        "id": cid(number),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {"node": {"messages": f"{number:032}.0"}},
        "updated_channels": sorted(values),
    }
    new = {channel: version for channel, version in versions.items() if parent is None or channel != "constant"}
    metadata = cast("CheckpointMetadata", {**DEFAULT, "step": number, "run_id": run})
    return config_of(parent, thread=thread, ns=ns), checkpoint, metadata, new


def write_history(saver: Saver) -> None:
    """The standard history: a thread with a fork, a second namespace and pending writes, and similar threads."""
    for number, parent in ((1, None), (2, 1), (3, 2), (NEWEST, 2)):
        saver.put(*put_arguments(number, parent))
    saver.put(*put_arguments(1, None, ns="sub:graph", run="run of a subgraph"))
    saver.put_writes(config_of(NEWEST), [("messages", ["a"]), ("noise", state(7)["noise"])], "earlier", "path")
    saver.put_writes(config_of(NEWEST), [("__interrupt__", "wait")], "earlier", "path")
    for neighbour in NEIGHBOURS:
        saver.put(*put_arguments(NEWEST, None, thread=neighbour))
        saver.put_writes(config_of(NEWEST, thread=neighbour), [("number", 1)], "task")


def read_newest(saver: Saver) -> None:
    """Read as LangGraph does before a step. Afterwards the saver's caches are warm."""
    saver.get_tuple(config_of(None))


@record(frozen=True, slots=True)
class Operation:
    """A call that may be stopped at any effect.

    Attributes:
        name: Its name in messages.
        call: Makes the call. Also makes it on the model, if `model` is not given.
        acall: Makes the call asynchronously instead, but never on the model.
        model: Does to the model what the call does to the store.
        before: What the process did with its saver before. It is not stopped.
        history: Writes what the store holds before the call.
        threads: Threads that the call may change.
        gone: Threads of which nothing may be left.
        is_atomic: Whether the call must be there as a whole or not at all; otherwise each checkpoint must be.
        is_same_again: Whether the call, made again, changes no document at all.
        options: Options of the saver that makes the call.
    """

    name: str
    call: Callable[[Saver], object]
    acall: Callable[[Saver], Awaitable[object]] | None = None
    model: Callable[[InMemorySaver], object] | None = None
    before: Callable[[Saver], object] | None = None
    history: Callable[[Saver], object] = write_history
    threads: tuple[str, ...] = (THREAD,)
    gone: tuple[str, ...] = ()
    is_atomic: bool = True
    is_same_again: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def putting(name: str, *arguments: Any, **more: Any) -> Operation:
    """An operation that puts one checkpoint, with the fields `more`."""
    return Operation(name, lambda saver: saver.put(*arguments), **more)


def aputting(name: str, *arguments: Any, **more: Any) -> Operation:
    """The asynchronous twin of `putting`."""
    return replace(putting(name, *arguments, **more), acall=lambda saver: saver.aput(*arguments))


def writing(name: str, *arguments: Any, **more: Any) -> Operation:
    """An operation that puts pending writes, with the fields `more`."""
    return Operation(name, lambda saver: saver.put_writes(*arguments), **more)


def awriting(name: str, *arguments: Any, **more: Any) -> Operation:
    """The asynchronous twin of `writing`."""
    return replace(writing(name, *arguments, **more), acall=lambda saver: saver.aput_writes(*arguments))


_NEXT = put_arguments(5, NEWEST)
_WRITES = (
    config_of(NEWEST),
    [("messages", ["b"]), ("__error__", "oh"), ("noise", state(8)["noise"]), ("__interrupt__", "stop")],
    "task",
    "path",
)
_OBJECTS: Mapping[str, Any] = {"inline_max_bytes": 0}
_HISTORY: Mapping[str, Any] = {"inline_max_bytes": 8 << 10}
"""By default, the larger values of the standard history are objects."""
_DELETION: Mapping[str, Any] = {"gone": (THREAD,), "is_atomic": False}


def _write_more(saver: Saver) -> None:
    """The standard history. The checkpoint that is pruned has large pending writes and an interrupt."""
    write_history(saver)
    saver.put_writes(config_of(2), [("noise", random.Random(2).randbytes(150_000))], "early", "path")  # noqa: S311
    saver.put_writes(config_of(2), [("__interrupt__", "answered")], "early", "path")


def _write_runs(saver: Saver) -> None:
    """Checkpoints of a run between those of another run that build on them. In another thread, all are of the run."""
    for number, parent, run in ((1, None, "gone"), (2, 1, "kept"), (3, 2, "gone"), (NEWEST, 3, "kept"), (5, 4, "gone")):
        saver.put(*put_arguments(number, parent, run=run))
    saver.put(*put_arguments(1, None, ns="sub:graph", run="gone"))
    for number, parent in ((1, None), (2, 1)):
        saver.put(*put_arguments(number, parent, thread="all", run="gone"))
        saver.put_writes(config_of(number, thread="all"), [("noise", state(7)["noise"])], "task")
    for neighbour in NEIGHBOURS:
        saver.put(*put_arguments(NEWEST, None, thread=neighbour, run="another"))


def _drop(model: InMemorySaver, *gone: Key) -> None:
    """Remove checkpoints and their pending writes from the model."""
    for thread, ns, checkpoint_id in gone:
        model.storage[thread][ns].pop(checkpoint_id)
        model.writes.pop((thread, ns, checkpoint_id), None)


def _drop_old(model: InMemorySaver) -> None:
    _drop(model, *((THREAD, "", cid(number)) for number in (1, 2, 3)))


def _drop_run(model: InMemorySaver) -> None:
    _drop(model, *((THREAD, "", cid(number)) for number in (1, 3, 5)), (THREAD, "sub:graph", cid(1)))
    _drop(model, *(("all", "", cid(number)) for number in (1, 2)))


def _copy(model: InMemorySaver) -> None:
    for ns, checkpoints in model.storage[THREAD].items():
        model.storage["copy"][ns] = dict(checkpoints)
    for _, *rest, version in [key for key in model.blobs if key[0] == THREAD]:
        ns, channel = rest
        model.blobs["copy", ns, channel, version] = model.blobs[THREAD, ns, channel, version]
    for _, ns, checkpoint_id in [key for key in model.writes if key[0] == THREAD]:
        model.writes["copy", ns, checkpoint_id] = dict(model.writes[THREAD, ns, checkpoint_id])


def _copy_once(saver: Saver) -> None:
    with suppress(InvalidInputError):
        saver.copy_thread(THREAD, "copy")


def _pin_and_prune(saver: Saver) -> None:
    """Wherever it crashes, the same call made again keeps the checkpoint that it pins."""
    cast("GCSSaver", saver).admin.pin(config_of(2), "a label")
    saver.prune([THREAD])


def _write_pinned(saver: Saver) -> None:
    _write_more(saver)
    if isinstance(saver, GCSSaver):  # the model has no pins
        saver.admin.pin(config_of(2), "a label")


def _unpin_and_prune(saver: Saver) -> None:
    with suppress(InvalidConfigError):  # The call made again finds no such checkpoint.
        cast("GCSSaver", saver).admin.unpin(config_of(2))
    saver.prune([THREAD])


def _drop_two(model: InMemorySaver) -> None:
    _drop(model, *((THREAD, "", cid(number)) for number in (1, 2)))


def _drop_unpinned(model: InMemorySaver) -> None:
    _drop(model, *((THREAD, "", cid(number)) for number in (1, 3)))


_PRUNING: Mapping[str, Any] = {"history": _write_more, "model": _drop_old, "is_atomic": False}
_RUNS: Mapping[str, Any] = {"history": _write_runs, "model": _drop_run, "is_atomic": False}
_COPY: Mapping[str, Any] = {"history": _write_more, "model": _copy, "threads": ("copy",), "is_atomic": False}

OPERATIONS: tuple[Operation, ...] = (
    putting("put", *_NEXT),
    putting("put with warm caches", *_NEXT, before=read_newest),
    putting("put with objects", *_NEXT, before=read_newest, options=_OBJECTS),
    putting("first put of a thread", *put_arguments(1, None, thread="new"), threads=("new",)),
    putting(
        "first put of a thread with objects", *put_arguments(1, None, thread="n"), threads=("n",), options=_OBJECTS
    ),
    putting("put beside a newer child", *put_arguments(5, 3, salt=1)),
    putting("put of other content", *put_arguments(3, 2, salt=1)),
    putting("put of other content with objects", *put_arguments(2, 1, salt=1), options=_OBJECTS),
    writing("put_writes", *_WRITES),
    # Special writes are merged. Made again, they point to another object with the same content.
    writing("put_writes with objects", *_WRITES, options=_OBJECTS, is_same_again=False),
    writing("put_writes before the checkpoint", config_of(9), [("messages", ["c"])], "task"),
    Operation("delete_thread", lambda saver: saver.delete_thread(THREAD), **_DELETION),
    aputting("aput", *_NEXT, before=read_newest),
    aputting("aput with objects", *_NEXT, options=_OBJECTS),
    awriting("aput_writes", *_WRITES),
    awriting("aput_writes with objects", *_WRITES, options=_OBJECTS, is_same_again=False),
    Operation(
        "adelete_thread",
        lambda saver: saver.delete_thread(THREAD),
        acall=lambda saver: saver.adelete_thread(THREAD),
        **_DELETION,
    ),
    Operation("prune", lambda saver: saver.prune([THREAD]), **_PRUNING),
    Operation(
        "aprune",
        lambda saver: saver.prune([THREAD]),
        acall=lambda saver: saver.aprune([THREAD]),
        **_PRUNING,
    ),
    Operation("pin", lambda saver: cast("GCSSaver", saver).admin.pin(config_of(2), "a label"), model=contents),
    Operation("pin and prune", _pin_and_prune, **{**_PRUNING, "model": _drop_unpinned}),
    Operation("unpin and prune", _unpin_and_prune, **{**_PRUNING, "history": _write_pinned}),
    # Both ends of a fork stay, and what they are made of.
    Operation(
        "prune to the last two",
        lambda saver: cast("GCSSaver", saver).prune([THREAD], strategy=KeepLast(2)),
        **{**_PRUNING, "model": _drop_two},
    ),
    Operation(
        "prune to nothing",
        lambda saver: saver.prune([THREAD], strategy="delete"),
        model=lambda model: model.delete_thread(THREAD),
        **_DELETION,
    ),
    # The next step goes to the first thread: once to one with checkpoints left, once to one without.
    Operation("delete_for_runs", lambda saver: saver.delete_for_runs(["gone"]), threads=(THREAD, "all"), **_RUNS),
    Operation(
        "adelete_for_runs",
        lambda saver: saver.delete_for_runs(["gone"]),
        acall=lambda saver: saver.adelete_for_runs(["gone"]),
        threads=("all", THREAD),
        **_RUNS,
    ),
    # A second copy to the same target is an error, because the target is no longer empty.
    Operation("copy_thread", _copy_once, **_COPY),
)


# The driver


@record(frozen=True, slots=True)
class Report:
    """What was tried.

    Attributes:
        operation: The operation's name.
        effects: How many effects the undisturbed call makes.
        stops: How often it was stopped, each time at another effect or in another order.
    """

    operation: str
    effects: int
    stops: int

    def __str__(self) -> str:
        return f"{self.operation}: {self.effects} effects, stopped in {self.stops} ways"


def crash_everywhere(
    new_store: Callable[[], str],
    operation: Operation,
    *,
    every_effect: bool = True,
    saver_class: type[CrashingSaver] = CrashingSaver,
    **options: Any,
) -> Report:
    """Stop an operation at every effect, in both orders, and check what the crash left.

    Args:
        new_store: Returns the connection string of a fresh, empty store each time.
        operation: The operation.
        every_effect: Whether to stop after reads too, which do not change the store.
        saver_class: The saver that makes the call and the same call again. Other savers read.
        options: Options of all savers.

    Raises:
        CrashTestError: A check failed.
    """
    driver = _Driver(new_store, operation, saver_class, options)
    stops = effects = 0
    for is_reverse in (False, True):
        whole = driver.attempt(Plan(is_reverse=is_reverse))
        effects = len(whole.done)
        changed = [at + 1 for at, effect in enumerate(whole.done) if not isinstance(effect, READS)]
        for stop in range(effects + 1) if every_effect else [0, *changed]:
            driver.attempt(Plan(stop, is_reverse), whole.done)
            stops += 1
        if not any(every_effect or not isinstance(effect, READS) for group in whole.orders for effect in group):
            break
    return Report(operation.name, effects, stops)


class _Driver:
    """One operation, and what a store must hold before it, after it, and after the next step."""

    def __init__(
        self,
        new_store: Callable[[], str],
        operation: Operation,
        saver_class: type[CrashingSaver],
        options: Mapping[str, Any],
    ) -> None:
        self.new_store = new_store
        self.operation = operation
        self.saver_class = saver_class
        self.options = {**_HISTORY, **options}
        model = InMemorySaver()
        operation.history(model)
        self.before = contents(model)
        (operation.model or operation.call)(model)
        self.after = contents(model)
        thread = operation.threads[0]
        newest = max((number for t, ns, number in self.after if (t, ns) == (thread, "")), default=None)
        self.next = put_arguments(9, None, thread=thread, salt=9)
        if newest is not None:
            self.next[0]["configurable"]["checkpoint_id"] = newest
        stored = model.put(*self.next)
        self.further = contents(model)[_key(stored)]

    def attempt(self, plan: Plan, whole: Sequence[Effect[Any]] = ()) -> Plan:
        """Make the call in a fresh store as `plan` says, then check everything else. Returns the plan, carried out."""
        try:
            self._attempt(plan, whole)
        except Exception as error:
            last = type(plan.done[-1]).__name__ if plan.done else "nothing"
            stopped = "not stopped" if plan.stop_after is None else f"stopped after effect {plan.stop_after} ({last})"
            order = "last to first" if plan.is_reverse else "first to last"
            raise CrashTestError(f"{self.operation.name}, {stopped}, {order}: {error}") from error
        return plan

    def _attempt(self, plan: Plan, whole: Sequence[Effect[Any]]) -> None:
        operation, uri = self.operation, self.new_store()
        with CrashingSaver.from_conn_string(uri, **self.options) as saver:
            operation.history(saver)
            others = saver.raw().without(operation.threads)
        has_returned = self._call(uri, plan, whole)
        if not plan.is_dead:
            self._check(uri, "after the call", self.after)
        elif has_returned:
            self._check(uri, "after the call and the crash", self.after)
        else:
            self._check(uri, "after the crash", self.before, self.after)
        self._call(uri, Plan())
        self._check(uri, "after the same call", self.after)
        first = self._raw(uri)
        self._call(uri, Plan())
        again = self._raw(uri)
        changes = first.changes(again)
        if operation.is_same_again:
            _demand(not changes, f"the same call, made again, changed {changes}")
        if changes:
            self._check(uri, "after the same call, twice", self.after)
        for raw in (first, again):
            left = raw.of(operation.gone)
            _demand(
                not left.documents and not left.objects, f"these were not deleted: {[*left.documents, *left.objects]}"
            )
        changes = others.changes(again.without(operation.threads))
        _demand(not changes, f"other threads were changed: {changes}")
        with CrashingSaver.from_conn_string(uri, **self.options) as saver:
            saver.put(*self.next)
        with CrashingSaver.from_conn_string(uri, **self.options) as saver:
            config = config_of(None, thread=operation.threads[0])
            _check_latest(saver, config, "the next step", self.further, is_partial=False)

    def _raw(self, uri: str) -> Raw:
        with CrashingSaver.from_conn_string(uri, **self.options) as saver:
            return saver.raw()

    def _call(self, uri: str, plan: Plan, whole: Sequence[Effect[Any]] = ()) -> bool:
        """Make the call in a process of its own, which crashes as `plan` says. Returns whether the call has returned.

        It may return before the crash if its proof trails.
        """
        operation, has_returned = self.operation, False
        saver = self.saver_class.from_conn_string(uri, **{**self.options, **operation.options})
        with closing(saver):
            if operation.before is not None:
                operation.before(saver)
            saver.plan = plan
            try:
                if operation.acall is None:
                    operation.call(saver)
                    saver.close()  # Proofs that trail end before this returns.
                else:
                    asyncio.run(_called(saver, operation.acall))
            except Crashed:
                pass
            except CheckpointVerificationError as error:
                if not isinstance(error.__cause__, Crashed):
                    raise
                has_returned = True
            else:
                _demand(not plan.is_dead, "the call returned, although its process had crashed")
                _demand(plan.stop_after is None, f"the call made only {len(plan.done)} effects")
        if plan.stop_after is not None:
            expected = [type(effect) for effect in whole[: plan.stop_after]]
            _demand([type(effect) for effect in plan.done] == expected, "the call made other effects than before")
        return has_returned

    def _check(self, uri: str, when: str, *allowed: Contents) -> None:
        """Read everything in every way, as another process would, and compare."""
        events: list[Event] = []
        with CrashingSaver.from_conn_string(uri, **self.options, on_event=events.append) as saver:
            found = contents(saver)
            ids = sorted(found.keys() | {key for one in allowed for key in one})
            wrong = [
                f"{_id(key)} {_difference(found.get(key), [one.get(key) for one in allowed])}"
                for key in ids
                if found.get(key) not in [one.get(key) for one in allowed]
            ]
            _demand(not wrong, f"{when}, {'; '.join(wrong)}")
            if self.operation.is_atomic:
                _demand(found in allowed, f"{when}, only a part of the call is there")
            for thread in sorted({thread for thread, _, _ in ids}):
                listed = {one.checkpoint["id"] for one in saver.list({"configurable": {"thread_id": thread}})}
                there = {checkpoint_id for t, _, checkpoint_id in found if t == thread}
                _demand(listed == there, f"{when}, thread {thread!r} lists {listed}, and all threads {there}")
            for key in ids:
                try:
                    one = saver.get_tuple(_config(*key))
                except CheckpointCorruptError as error:
                    raise CrashTestError(f"{when}, {_id(key)} is damaged: {error.reason}") from error
                by_id = None if one is None else Record.of(one)
                _demand(by_id == found.get(key), f"{when}, {_id(key)} reads differently by its id and in a list")
            _silent(events, when)
            is_partial = len(allowed) > 1 and not self.operation.is_atomic
            for thread, ns in sorted({key[:2] for key in (*ids, *self.before)}):
                newest = max((key for key in found if key[:2] == (thread, ns)), default=None)
                expected = None if newest is None else found[newest]
                which = f"{when}, the latest of thread {thread!r}, namespace {ns!r}"
                _check_latest(saver, _config(thread, ns), which, expected, is_partial=is_partial)
            if not is_partial:
                _silent(events, when)


def _check_latest(
    saver: GCSSaver, config: RunnableConfig, which: str, expected: Record | None, *, is_partial: bool
) -> None:
    """Compare the latest checkpoint. After a call that removes, it may be flagged, or may not be readable."""
    try:
        one = saver.get_tuple(config)
    except DamageError as error:
        _demand(is_partial and expected is None, f"{which} is damaged: {error}")
        return
    latest = None if one is None else Record.of(one)
    if is_partial and latest is not None:
        latest = latest.unflagged()
    _demand(latest == expected, f"{which} is not the newest that is listed")


async def _called(saver: CrashingSaver, acall: Callable[[Saver], Awaitable[object]]) -> None:
    async with saver:
        await acall(saver)


def _config(thread: str, ns: str, checkpoint_id: str | None = None) -> RunnableConfig:
    configurable = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": configurable if checkpoint_id is None else {**configurable, "checkpoint_id": checkpoint_id}}


def _demand(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise CrashTestError(otherwise)


def _silent(events: Iterable[Event], when: str) -> None:
    warnings = [event for event in events if event.level >= logging.WARNING]
    _demand(not warnings, f"{when}, reading warns of {warnings}")


def _id(key: Key) -> str:
    return f"checkpoint {key[2]!r} of thread {key[0]!r}, namespace {key[1]!r}"


def _difference(found: Record | None, allowed: Sequence[Record | None]) -> str:
    if found is None:
        return "is missing"
    wanted = next((one for one in reversed(allowed) if one is not None), None)
    if wanted is None:
        return "is there, and must not be"
    fields = ("parent", "checkpoint", "metadata", "writes")
    differing = [name for name in fields if getattr(found, name) != getattr(wanted, name)]
    return f"has another {' and '.join(differing)}" if differing else "is still there"
