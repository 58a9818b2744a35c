"""The store in memory at one moment, processes that work on it, and all the orders in which their steps can happen.

Flows are generators, so a process can be stopped before any RPC, and another one can run. `explore` does that
systematically. From each state it tries every process that can continue, in every way that a step can end (done,
answer lost, sent twice, process crashed), and checks the world after every step.

It is fast because a process is a deterministic function of the answers that it got. Its states form a tree, whose edges
are answers. So a flow runs once for each history and not once for each schedule. An update time is the number of the
history that wrote it. So it is the same in all schedules that lead to the same world, and equal states meet.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, Literal

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.engine.effects import (
    Ask,
    Commit,
    Compute,
    CopyBlob,
    Create,
    DeleteBlobs,
    Doc,
    Docs,
    Durable,
    Effect,
    Emit,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    HashBlob,
    InBucket,
    ListBlobs,
    ListCollections,
    Now,
    On,
    Pause,
    PutBlob,
    QueryDocs,
)
from langgraph_gcs_saver.engine.steps import Steps
from langgraph_gcs_saver.errors import StoreUnavailableError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointSkipped, ParentForked
from langgraph_gcs_saver.flows import load, save, threads
from langgraph_gcs_saver.flows import writes as pending
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.companions import Companion
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.flows.roles import Region
from langgraph_gcs_saver.format import frames, keys, manifest
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.saver.trailing import Trailing, _Proof, _to_end
from langgraph_gcs_saver.stores import memory, rows
from langgraph_gcs_saver.stores.memory import MemoryBlobs
from langgraph_gcs_saver.stores.values import to_map

THREAD = "t"
SERDE = JsonPlusSerializer()
LOADS = partial(loads, SERDE)
CODEC = Codec(3)

DAMAGE = (CheckpointSkipped, CheckpointDamaged, CheckpointRecovered)
"""Events that report damage."""

INLINE_BYTES = 200
SMALL, LARGE = 40, 400
"""Sizes of values whose frames are stored in the document and in an object."""


# The store


@dataclass(frozen=True, slots=True)
class Stored:
    """A document, and the number of its row."""

    doc: Doc
    number: int


YOUNG = 1 << 62
"""When objects were made that a collector finds too young, in nanoseconds; all others at 0."""


IN_MIRROR = "mirror:"
"""What names of objects in a mirror begin with; all others are in the first bucket."""


def _in_mirror(name: str) -> bool:
    return name.startswith(IN_MIRROR)


def AGED(name: str) -> bool:  # noqa: N802 - tests set it for a scenario
    """Whether an object is old enough to be collected."""
    return False


def freeze(value: Any) -> Any:
    """A hashable form of an answer or of fields."""
    if isinstance(value, Doc):
        return value.name, value.create_time, value.update_time, freeze(value.fields)
    if isinstance(value, Docs):
        return value.read_time, *sorted((name, freeze(doc)) for name, doc in value.items())
    if isinstance(value, Mapping):
        return tuple(sorted((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(freeze, value))
    return type(value), value  # 1, 1.0 and True are equal, and different


class World:
    """Documents and objects at one moment; performing an effect gives the answer and the world after it."""

    def __init__(self, table: memory.Rows | None = None, blobs: Mapping[str, memory.Blob] | None = None) -> None:
        self.table = {} if table is None else table
        self.blobs = {} if blobs is None else blobs

    @cached_property
    def docs(self) -> dict[str, Stored]:
        """The documents by name, in the order in which they were created."""
        return {stored.doc.name: stored for stored in map(_stored, self.table.items())}

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for worlds that no process can distinguish. The order of creation matters for pending writes only."""
        numbers = {name: stored.number for name, stored in self.docs.items()}
        in_order = tuple(numbers[name] for name in self._writes)
        return frozenset(numbers.values()), in_order, frozenset(self.blobs)

    @cached_property
    def _writes(self) -> list[str]:
        """Names of the documents of pending writes, in the order in which they were created."""
        return [name for name in self.docs if _is_in(name, keys.WRITES)]

    def doc(self, name: str) -> Doc | None:
        stored = self.docs.get(name)
        return None if stored is None else stored.doc

    def checkpoints(self) -> list[Doc]:
        """The documents of checkpoints, newest first."""
        return [self.docs[name].doc for name in sorted(self.docs) if _is_in(name, keys.CHECKPOINTS)]

    def changed(self, name: str, **fields: Any) -> World:
        """The world with changed fields of a document, as damage does it: no process notices."""
        doc = self.docs[name].doc
        row = (to_map({**doc.fields, **fields}).SerializeToString(deterministic=True), 0, doc.update_time)
        return World({**self.table, rows.key_of(name): row}, self.blobs)

    def without(self, names: Iterable[str]) -> World:
        """The world without some documents."""
        return World(memory.replaced(self.table, {rows.key_of(name): None for name in names}), self.blobs)

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        """The answer and the world after it; `stamp` becomes the update time of what is written."""
        match effect:
            case GetDocs():
                return Docs(self._dated(doc) for doc in memory.get_docs(self.table, effect, 0).values()), self
            case QueryDocs():
                return [self._dated(doc) for doc in memory.query_docs(self.table, effect)], self
            case ListCollections():
                return memory.list_collections(self.table, effect), self
            case Commit():
                applied = rows.Writes(effect).apply(self.table.get, stamp)
                if applied is None:
                    return None, self
                times, changes = applied
                # Without the time of creation, which would distinguish schedules that are otherwise the same.
                undated = {key: None if row is None else (row[0], 0, row[2]) for key, row in changes.items()}
                return times, World(memory.replaced(self.table, undated), self.blobs)
            case InBucket():
                names = {name: name.removeprefix(IN_MIRROR) for name in self.blobs if effect.mirror == _in_mirror(name)}
                own = {names[name]: blob for name, blob in self.blobs.items() if name in names}
                answer, after = World(self.table, own).perform(effect.effect, stamp)
                rest = {name: blob for name, blob in self.blobs.items() if name not in names}
                prefix = IN_MIRROR if effect.mirror else ""
                return answer, World(
                    self.table, {**rest, **{prefix + name: blob for name, blob in after.blobs.items()}}
                )
            case _:
                blobs = MemoryBlobs(self.blobs)
                answer = _ON_BLOBS[type(effect)](blobs, effect)
                if isinstance(effect, ListBlobs):
                    answer = [replace(info, create_time=0 if AGED(info.name) else YOUNG) for info in answer]
                return answer, World(self.table, blobs.objects)

    def _dated(self, doc: Doc) -> Doc:
        """Of pending writes, the time of creation is their place among them."""
        if not _is_in(doc.name, keys.WRITES):
            return doc
        return Doc(doc.name, doc.fields, self._writes.index(doc.name) + 1, doc.update_time)


_ON_BLOBS: dict[type[Effect[Any]], Callable[[MemoryBlobs, Any], Any]] = {
    PutBlob: MemoryBlobs.put_blob,
    GetBlob: MemoryBlobs.get_blob,
    HashBlob: MemoryBlobs.hash_blob,
    CopyBlob: MemoryBlobs.copy_blob,
    ListBlobs: MemoryBlobs.list_blobs,
    DeleteBlobs: MemoryBlobs.delete_blobs,
}

_known: dict[tuple[rows.Key, rows.Row], Stored] = {}


def _stored(item: tuple[rows.Key, rows.Row]) -> Stored:
    found = _known.get(item)
    if found is None:
        (_, path), row = item
        found = _known[item] = Stored(rows.read(rows.name_of(path), row, None), len(_known))
    return found


def _is_in(name: str, collection: str) -> bool:
    return f"/{collection}/" in name


_stamps = itertools.count(1)
_FIRST_HISTORY = 1 << 32
"""Numbers of histories, and so the times that they write, are greater than all stamps of `play`."""


def act(effect: Effect[Any] | None) -> Effect[Any] | None:
    """An effect without the name of its store."""
    return effect.effect if isinstance(effect, On) else effect


def play(flow: Flow[Any], world: World, seen: list[Effect[Any]] | None = None) -> tuple[Any, World]:
    """Perform a flow alone, to its end: its result, and the world after it. `seen` gets the effects."""
    step: Callable[[], Effect[Any]] = partial(next, flow)
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            return stop.value, world
        if seen is not None:
            seen.append(effect)
        try:
            if isinstance(effect, Gather):
                value: Any = ()
                for one in effect.effects:
                    answer, world = world.perform(one, next(_stamps))
                    value += (answer,)
            elif isinstance(act(effect), (Compute, Durable, Emit, Now, Pause)):
                value = _perform_locally(act(effect), 0.0)
            else:
                value, world = world.perform(effect, next(_stamps))
        except Exception as error:
            step = partial(flow.throw, error)
        else:
            step = partial(flow.send, value)


def _perform_locally(effect: Effect[Any], now: float) -> Any:
    match effect:
        case Compute():
            return effect.function()
        case Now():
            return now
        case _:
            return None


# Processes


VERIFY: Literal["readback", "off"] = "off"
"""The mode of new contexts: reading back adds a step to every call, and with it orders of steps to try."""


def new_context(name: str, *, inline: int = INLINE_BYTES, incremental: bool = True) -> Context:
    """The caches of one process; the names of its attempts begin with `name`, of two characters or less."""
    attempts = itertools.count()

    def new_attempt() -> str:
        # All of it is in the first six characters, the part that an heir's token takes.
        return f"{name.lower():0<2}{next(attempts):04}00"

    return Context(
        inline_max_bytes=inline,
        codec=CODEC,
        incremental=incremental,
        full_every=None,
        values=ByteCache(1 << 20),
        clear_metadata=None,
        verify=VERIFY,
        falls_back=True,
        timeout=1.0,  # clock: the world's own
        new_attempt=new_attempt,
        region=Region(new_attempt, is_known=True),
    )


def region_of(context: Context) -> Region:
    """The region of a process whose flows are admitted. Those of other processes count as stores without a role."""
    assert context.region is not None
    if context.region.is_plain:
        context.region.is_known = False
    return context.region


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a process makes.

    Attributes:
        label: What it is, for messages.
        start: Makes its flow.
        stores: For `put`: namespace, checkpoint, and its values.
        writes: For `put_writes`: checkpoint, task, and its writes by number.
        reads: Whether its result is checkpoints, to be compared with what was put.
        run: For `put`: the run that it belongs to.
        pins: For a pin: the checkpoint that it keeps, if its result is true.
    """

    label: str
    start: Callable[[Context], Flow[Any]]
    stores: tuple[str, str, dict[str, Any]] | None = None
    writes: tuple[str, str, dict[int, Any]] | None = None
    reads: bool = False
    run: str | None = None
    pins: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """Something that makes calls, one after the other, and repeats those that the store did not answer.

    Attributes:
        name: Its name, of one character.
        calls: Its calls.
        lost: Answers to commits that may get lost.
        dies: Whether it may crash before any of its steps.
        restarts: Whether it repeats a call in a new process, with empty caches.
        patient: Whether it waits for a deletion as long as that takes. Otherwise it takes the deletion for crashed
            when it meets the same mark for the second time.
        warm: Whether it has read all checkpoints before.
        slow: Whether its first upload takes two hours.
        clock: Its wall clock.
        after: Processes that must have ended, or crashed, before it starts.
        inline: Largest frame that it stores in a document.
        companions: What rides in its commits. They keep no state, because a process is replayed.
        backwards: Whether requests at the same time reach the store in the opposite order.
        trails: Whether its saver has `verify="pipelined"`. Then its proofs and its next calls run at the same time.
        misreads: Reads of its trailing proofs that may return something else than is stored.
    """

    name: str
    calls: tuple[Call, ...]
    lost: int = 0
    dies: bool = False
    restarts: bool = False
    patient: bool = True
    warm: bool = False
    slow: bool = False
    clock: float = 0.0
    after: str = ""
    inline: int = INLINE_BYTES
    companions: tuple[Companion, ...] = ()
    backwards: bool = False
    trails: bool = False
    misreads: int = 0


@dataclass(frozen=True, slots=True)
class Turn(Effect[int]):
    """Choose which of several flows of a process continues: one of the first `among`."""

    among: int


class _Trails(Trailing):
    """Proofs that trail, which the explorer performs step by step, instead of a thread.

    Attributes:
        new: Proofs that are to be performed.
    """

    def __init__(self, perform: Callable[[Flow[Any]], Flow[Any]]) -> None:
        backend: Any = SimpleNamespace(admit=iter, perform=None, aperform=None)
        super().__init__(backend, most=1 << 20)
        self.new: list[_UnderWay] = []
        self._perform_flow = perform

    def made(self, call: Call, flow: Flow[Any]) -> Flow[Any]:
        """The flow of a call, as the saver performs it."""
        stored = call.stores or call.writes
        if stored is not None:
            about: Any = SimpleNamespace(thread_id=THREAD, ns="", checkpoint_id="")
            flow = self.storing(about, flow)
        return self._admit(flow)

    def _hand_over(self, request: Any, steps: Steps[Any], held: int) -> bool:
        proof = _Proof(request, held)
        self._processes.get().add(proof)
        self.new.append(_UnderWay(self._perform_flow(_to_end(steps)), proof))
        return True

    def end(self, proof: _Proof, error: Exception | None) -> None:
        """Note the outcome of a proof."""
        proof.end(error)
        self._processes.get()._tidy(proof)


class _UnderWay:
    """A flow of a process that has several: its calls, or a proof, and the effect that it requests next."""

    def __init__(self, flow: Flow[Any], proof: _Proof | None = None) -> None:
        self.steps = Steps(flow)
        self.proof = proof
        self.effect: Effect[Any] | None = None
        self.reads_back = proof is not None
        """Whether its next request reads what it has just stored. A proof begins with that."""

    @property
    def may_continue(self) -> bool:
        """Whether it does not wait for a proof."""
        return not isinstance(self.effect, Ask) or self.effect.ask.__self__.is_done  # type: ignore[attr-defined]


class _Life:
    """A process from its start. `done` and `error` say how far it has come, `told` which forks were reported to it."""

    def __init__(self, process: Process, world: World) -> None:
        self.process = process
        self.done: list[tuple[Call, Any]] = []
        self.error: Exception | None = None
        self.told: list[ParentForked] = []
        self.now = process.clock
        self.slow = process.slow
        self._direction = -1 if process.backwards else 1
        self._trails = _Trails(self._perform) if process.trails else None
        self.is_proof = False
        self.flow = self._calls(world) if self._trails is None else self._side_by_side(self._trails, world)

    def _context(self, life: int) -> Context:
        name = self.process.name + ("" if life == 0 else "abcdefgh"[life - 1])
        found = replace(new_context(name, inline=self.process.inline), companions=self.process.companions)
        return found if self._trails is None else replace(found, verify="pipelined")

    def _calls(self, world: World) -> Generator[Effect[Any], Any, None]:
        life = itertools.count()
        context = self._context(next(life))
        if self.process.warm:
            for doc in world.checkpoints():
                play(get_checkpoint(doc.name, context), world)
        try:
            for call in self.process.calls:
                result, again = yield from self._try(call, context)
                while again:
                    if self.process.restarts:
                        context = self._context(next(life))
                    result, again = yield from self._try(call, context)
                self.done.append((call, result))
            if self._trails is not None:  # as `close` does
                yield from self._perform(self._trails.settled(THREAD))
                self._trails.raise_failed()
        except Exception as error:
            self.error = error

    def _try(self, call: Call, context: Context) -> Flow[tuple[Any, bool]]:
        """The call's result, and whether there is none because the store did not answer."""
        try:
            flow = call.start(context)
            return (yield from self._perform(flow if self._trails is None else self._trails.made(call, flow))), False
        except StoreUnavailableError:
            return None, True

    def _side_by_side(self, trails: _Trails, world: World) -> Generator[Effect[Any], Any, None]:
        """The calls, and the proofs that trail, in every order of their requests."""
        flows = [_UnderWay(self._calls(world))]
        self._advance(flows[0], trails)
        while flows:
            flows += trails.new
            for one in trails.new:
                self._advance(one, trails)
            trails.new.clear()
            ready = [one for one in flows if one.effect is not None and one.may_continue]
            one = ready[0] if len(ready) == 1 else ready[(yield Turn(len(ready)))]
            self.is_proof = one.proof is not None and (one.reads_back or isinstance(one.effect, HashBlob))
            one.reads_back = False
            try:
                answer = None if isinstance(one.effect, Ask) else (yield one.effect)
            except Exception as error:
                one.steps.error = error
            else:
                one.reads_back = isinstance(one.effect, Commit) and answer is not None
                one.steps.value = answer
            self._advance(one, trails)
            flows = [one for one in flows if one.effect is not None]

    def _advance(self, one: _UnderWay, trails: _Trails) -> None:
        error: Exception | None = None
        try:
            one.effect = one.steps.next()
        except Exception as raised:
            one.effect, error = None, raised
        if one.effect is None and one.proof is not None:
            trails.end(one.proof, error)

    def _perform(self, flow: Flow[Any]) -> Flow[Any]:
        """Perform local effects, and yield RPCs, those of a `Gather` one by one."""
        step: Callable[[], Effect[Any]] = partial(next, flow)
        while True:
            try:
                effect = step()
            except StopIteration as stop:
                return stop.value
            try:
                if isinstance(effect, Gather):
                    answers: list[Any] = []
                    for one in effect.effects[:: self._direction]:
                        answers.append((yield one))
                        if self.slow and isinstance(one, PutBlob):
                            self.slow, self.now = False, self.now + 7200
                    value: Any = tuple(answers[:: self._direction])
                elif isinstance(own := act(effect), (Compute, Durable, Emit, Now)):
                    value = _perform_locally(own, self.now)
                    if isinstance(own, Emit) and isinstance(own.event, DAMAGE):
                        self.error = AssertionError(f"nothing is damaged here: {own.event}")
                    if isinstance(own, Emit) and isinstance(own.event, ParentForked):
                        self.told.append(own.event)
                else:
                    value = yield effect
                    if isinstance(effect, Pause) and not self.process.patient:
                        self.now += 100
            except Exception as error:
                step = partial(flow.throw, error)
            else:
                step = partial(flow.send, value)


class _Node:
    """A process after a history of answers: the effect that it requests next, and what it has done."""

    __slots__ = ("answer", "done", "edges", "effect", "error", "is_proof", "life", "number", "parent", "told")

    def __init__(self, number: int, life: _Life, step: Callable[[], Effect[Any]], parent: _Node | None) -> None:
        self.number = number
        self.parent = parent
        self.answer: Any = None
        """The answer that led here from `parent`."""
        self.edges: dict[Any, _Node] = {}
        self.life: _Life | None = life
        """The process itself, until it continues from here."""
        try:
            self.effect: Effect[Any] | None = step()
        except StopIteration:
            self.effect = None
        self.is_proof = life.is_proof
        self.done = tuple(life.done)
        self.error = life.error
        self.told = tuple(life.told)


class _Tree:
    """All histories of one process."""

    def __init__(self, process: Process, world: World, numbers: Iterable[int]) -> None:
        self.process = process
        self._world = world
        self._numbers = iter(numbers)
        life = _Life(process, world)
        self.root = _Node(next(self._numbers), life, partial(next, life.flow), None)

    def next(self, node: _Node, answer: Any) -> _Node:
        edge = "lost" if answer is LOST else freeze(answer)
        found = node.edges.get(edge)
        if found is None:
            life = node.life or self._replayed(node)
            node.life = None
            found = _Node(next(self._numbers), life, _resume(life, answer), node)
            found.answer = answer
            node.edges[edge] = found
        return found

    def _replayed(self, node: _Node) -> _Life:
        answers = []
        while node.parent is not None:
            answers.append(node.answer)
            node = node.parent
        life = _Life(self.process, self._world)
        next(life.flow)
        for answer in reversed(answers):
            _resume(life, answer)()
        return life


LOST = object()
"""The answer of a commit that was applied, though the process gets the error that the store is unavailable."""


def _resume(life: _Life, answer: Any) -> Callable[[], Effect[Any]]:
    if answer is LOST:
        return partial(life.flow.throw, StoreUnavailableError("no answer"))
    return partial(life.flow.send, answer)


# All orders


@dataclass(frozen=True, slots=True)
class Run:
    """A process at one moment of one schedule."""

    process: Process
    node: _Node
    lost: int
    misreads: int = 0
    dead: bool = False

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.dead or self.node.effect is None

    def ways(self, world: World, runs: tuple[Run, ...]) -> list[str]:
        """The ways in which its next step can end; none when it waits or has ended."""
        effect = self.node.effect
        if self.ended or any(run.process.name in self.process.after and not run.ended for run in runs):
            return []
        ways = [""]
        if isinstance(effect, Pause) and self.process.patient and self._sees_the_same(world):
            ways = []  # It waits until another process has changed what it waits for.
        if isinstance(act(effect), Commit) and self.lost:
            ways += ["answer lost", "sent twice"]
        if isinstance(effect, Turn):
            ways = [str(number) for number in range(effect.among)]
        if self.misreads and self.node.is_proof and _is_reading_back(effect):
            ways.append("misread")
        if self.process.dies:
            ways.append("dies")
        return ways

    def _sees_the_same(self, world: World) -> bool:
        asked = self.node.parent
        assert asked is not None
        assert isinstance(act(asked.effect), GetDocs), "a pause that waits for something else than a document"
        return freeze(world.perform(asked.effect, 0)[0]) == freeze(self.node.answer)

    def step(self, tree: _Tree, world: World, way: str) -> tuple[Run, World]:
        node = self.node
        if way == "dies":
            return replace(self, dead=True), world
        if isinstance(node.effect, Pause):
            return replace(self, node=tree.next(node, None)), world
        if isinstance(node.effect, Turn):
            return replace(self, node=tree.next(node, int(way))), world
        assert node.effect is not None
        answer, world = world.perform(node.effect, 2 * node.number)
        if way == "misread":
            return replace(self, node=tree.next(node, _misread(answer)), misreads=self.misreads - 1), world
        lost = self.lost
        if way:
            lost -= 1
            if way == "answer lost":
                answer = LOST
            else:
                answer, world = world.perform(node.effect, 2 * node.number + 1)
        return replace(self, node=tree.next(node, answer), lost=lost), world


def _is_reading_back(effect: Effect[Any] | None) -> bool:
    """Whether an effect of a trailing proof reads what was written, and not what the next try needs."""
    match effect:
        case HashBlob():
            return True
        case GetDocs(names=names, mask=None):
            return all(_is_in(name, keys.WRITES) for name in names) or (
                len(names) == 1 and _is_in(names[0], keys.CHECKPOINTS)
            )
        case _:
            return False


def _misread(answer: Any) -> Any:
    """An answer, or what a faulty proxy makes of it."""
    if not isinstance(answer, Docs):
        return "0" * 64
    return Docs(
        [replace(doc, fields={key: _flipped(value) for key, value in doc.fields.items()}) for doc in answer.values()]
    )


def _flipped(value: Any) -> Any:
    return value + b"x" if isinstance(value, bytes) else value


@dataclass(slots=True)
class Report:
    """What an exploration found.

    Attributes:
        failure: The first violation with the schedule that leads to it.
        states: Different states seen.
        ends: Schedules followed to a new end.
        complete: Whether all schedules were tried.
    """

    failure: str | None = None
    states: int = 0
    ends: int = 0
    complete: bool = False


Check = Callable[[World, tuple[Run, ...]], "str | None"]
"""Looks at a state, and says what is wrong with it."""

_Trace = tuple[Any, "Run", str]


def explore(
    world: World, processes: Iterable[Process], check: Check, check_end: Check, *, budget: int, seed: int = 0
) -> Report:
    """Try the schedules of some processes, until the first violation, or `budget` states, or the end.

    Each way is followed to its end before another one is begun, at a random place: so a budget that is too small for
    all of them sees some of everything.
    """
    choose = random.Random(seed)
    numbers = itertools.count(_FIRST_HISTORY)
    trees = [_Tree(process, world, numbers) for process in processes]
    seen: set[int] = set()
    start = tuple(Run(tree.process, tree.root, tree.process.lost, tree.process.misreads) for tree in trees)
    frontier: list[tuple[World, tuple[Run, ...], int, str, _Trace | None]] = []
    report = Report()

    def visit(world: World, runs: tuple[Run, ...], trace: _Trace | None) -> bool:
        """Note a state and the steps that lead on from it; false when there is nothing to follow."""
        key = hash((world.key, tuple((run.node.number, run.lost, run.misreads, run.dead) for run in runs)))
        if key in seen:
            return False
        seen.add(key)
        report.states += 1
        wrong = check(world, runs)
        ways = [(number, way) for number, run in enumerate(runs) for way in run.ways(world, runs)]
        if wrong is None and not ways:
            report.ends += 1
            wrong = check_end(world, runs)
        if wrong is not None:
            report.failure = f"{wrong}\n{_told(trace)}"
            return False
        choose.shuffle(ways)
        frontier.extend((world, runs, number, way, trace) for number, way in ways)
        return bool(ways)

    visit(world, start, None)
    while frontier and report.failure is None and report.states < budget:
        at = choose.randrange(len(frontier))
        frontier[at], frontier[-1] = frontier[-1], frontier[at]
        follow = True
        while follow:
            world, runs, number, way, trace = frontier.pop()
            run, after = runs[number].step(trees[number], world, way)
            runs_after = (*runs[:number], run, *runs[number + 1 :])
            follow = visit(after, runs_after, (trace, runs[number], way))
    report.complete = not frontier and report.failure is None
    return report


def _told(trace: Any) -> str:
    lines = []
    while trace is not None:
        trace, run, way = trace
        lines.append(f"  {run.process.name}: {brief(run.node.effect)}{way and f'  [{way}]'}")
    return "\n".join(reversed(lines))


def brief(effect: Effect[Any] | None) -> str:
    """An effect in a line."""
    match effect:
        case On():
            return f"at {effect.store}: {brief(effect.effect)}"
        case Commit():
            return "Commit " + ", ".join(
                f"{type(w).__name__} {_short(w.name)}{'' if isinstance(w, Create) or w.update_time is None else ' @'}"
                for w in effect.writes
            )
        case GetDocs():
            return "GetDocs " + ", ".join(map(_short, effect.names))
        case QueryDocs():
            return f"QueryDocs {effect.collection.rsplit('/', 1)[-1]}"
        case PutBlob() | GetBlob() | HashBlob() | CopyBlob():
            return f"{type(effect).__name__} …{effect.name[-30:]}"
        case DeleteBlobs():
            return "DeleteBlobs " + ", ".join(f"…{name[-30:]}" for name in effect.names)
        case _:
            return type(effect).__name__


def _short(name: str) -> str:
    if _is_in(name, keys.CHECKPOINTS):
        return f"checkpoint {keys.checkpoint_id_of(name)}"
    if _is_in(name, keys.WRITES):
        return f"writes …{name[-4:]}"
    if name.startswith(f"{keys.THREADS}/"):
        return "thread"
    return "run" if name.startswith(keys.RUNS) else name


# Calls

EMPTY = object()
"""The value of a channel that has a version, and no value, as most channels between nodes."""

State = dict[str, tuple[str, Any]]
"""A version and a value by channel."""


def state(**values: Any) -> State:
    """Channels with values, each of which is a version of its own: the same value never comes under two."""
    return {c: (hashlib.sha256(repr((c, v)).encode()).hexdigest()[:8], v) for c, v in values.items()}


def random_bytes(tag: str, size: int) -> bytes:
    """Bytes that nothing can compress, always the same for a tag."""
    return random.Random(tag).randbytes(size)


def values_of(channels: State) -> dict[str, Any]:
    return {channel: value for channel, (_, value) in channels.items() if value is not EMPTY}


def config(thread_id: str, checkpoint_id: str | None = None, ns: str = "", run: str | None = None) -> Any:
    found: dict[str, Any] = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}}
    if checkpoint_id is not None:
        found["configurable"]["checkpoint_id"] = checkpoint_id
    if run is not None:
        found["metadata"] = {"run_id": run}
    return found


def checkpoint(checkpoint_id: str, channels: State) -> Any:
    return {
        "v": 4,
        "id": checkpoint_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values_of(channels),
        "channel_versions": {channel: version for channel, (version, _) in channels.items()},
        "versions_seen": {},
    }


def put_flow(
    context: Context,
    checkpoint_id: str,
    parent: str | None,
    channels: State,
    fresh: Iterable[str] | None = None,
    *,
    thread_id: str = THREAD,
    ns: str = "",
    run: str = "r1",
    now: float = 0.0,
    metadata: Any = None,
) -> Flow[None]:
    """The flow of `put`. All channels are fresh by default."""
    request = arguments.put_request(
        config(thread_id, parent, ns, run),
        checkpoint(checkpoint_id, channels),
        {"source": "loop"} if metadata is None else metadata,
        {channel: channels[channel][0] for channel in (channels if fresh is None else fresh)},
        serde=SERDE,
        context=context,
        now=now,
    )
    return save.put(request, context)


def put(
    checkpoint_id: str,
    parent: str | None,
    channels: State,
    fresh: Iterable[str],
    *,
    ns: str = "",
    run: str = "r1",
    metadata: Any = None,
) -> Call:
    def start(context: Context) -> Flow[None]:
        return put_flow(context, checkpoint_id, parent, channels, tuple(fresh), ns=ns, run=run, metadata=metadata)

    return Call(f"put of {checkpoint_id}", start, stores=(ns, checkpoint_id, values_of(channels)), run=run)


def writes_flow(
    context: Context,
    checkpoint_id: str,
    task: str,
    found: list[tuple[str, Any]],
    *,
    thread_id: str = THREAD,
    ns: str = "",
) -> Flow[None]:
    """The flow of `put_writes`."""
    request = arguments.put_writes_request(config(thread_id, checkpoint_id, ns), found, task, "", serde=SERDE)
    return pending.put_writes(request, context)


def put_writes(checkpoint_id: str, task: str, found: list[tuple[str, Any]]) -> Call:
    request = arguments.put_writes_request(config(THREAD, checkpoint_id), found, task, "", serde=SERDE)
    numbers = {write.idx: value for write, (_, value) in zip(request.writes, found, strict=True)}
    return Call(
        f"put_writes of {task}",
        lambda context: writes_flow(context, checkpoint_id, task, found),
        writes=(checkpoint_id, task, numbers),
    )


def delete(thread_id: str = THREAD) -> Call:
    return Call("delete_thread", lambda context: threads.delete_thread(thread_id, context))


def read(checkpoint_id: str | None) -> Call:
    def start(context: Context) -> Flow[list[load.Loaded]]:
        found = yield from load.get_tuple(THREAD, "", checkpoint_id, LOADS, context)
        return [] if found is None else [found]

    return Call(f"get_tuple of {checkpoint_id or 'the latest'}", start, reads=True)


def list_all() -> Call:
    def start(context: Context) -> Flow[list[load.Loaded]]:
        return (yield from list_flow(load.Search(THREAD, None, None, None, None), None, context))

    return Call("list", start, reads=True)


def list_flow(search: load.Search, limit: int | None, context: Context) -> Flow[list[load.Loaded]]:
    """All pages of a listing, as `GCSSaver.list` reads them."""
    found: list[load.Loaded] = []
    after: str | None = None
    while limit is None or len(found) < limit:
        left = None if limit is None else limit - len(found)
        page, after = yield from load.list_page(search, after, left, LOADS, context)
        found += page
        if after is None:
            break
    return found


def get_checkpoint(name: str, context: Context) -> Flow[load.Loaded | None]:
    """Read the checkpoint of a document whose ids are short."""
    thread, leaf = keys.split_checkpoint_doc(name)
    ns = keys.dec(leaf.split("!", 1)[1])
    return load.get_tuple(str(keys.dec(thread[3:])), str(ns), keys.checkpoint_id_of(name), LOADS, context)


# Invariants


def dangling(world: World) -> str | None:
    """I1: what a visible manifest, or pending writes, refer to and is not there, or is not what was written."""
    for stored in world.docs.values():
        name = stored.doc.name
        if _is_in(name, keys.CHECKPOINTS) and kind_of(stored.doc) is not DocumentKind.STRIPPED:
            wrong = _manifest_dangles(stored, world)
        elif _is_in(name, keys.WRITES) and not is_stripped(world, name):
            wrong = _writes_dangle(stored, world)
        else:
            wrong = None
        if wrong is not None:
            return wrong
    return None


def is_stripped(world: World, name: str) -> bool:
    """Whether the checkpoint of pending writes is not listed any more; without one they may have come before it."""
    ns, inverted, *_ = name.rsplit("/", 1)[1].split("!")
    doc = world.doc(f"{name.split(f'/{keys.WRITES}/', maxsplit=1)[0]}/{keys.CHECKPOINTS}/{inverted}!{ns}")
    return doc is not None and kind_of(doc) is DocumentKind.STRIPPED


_manifests: dict[int, manifest.Manifest] = {}
_intact: set[Any] = set()
_writes_blobs: dict[int, frozenset[str]] = {}


def manifest_of(stored: Stored, world: World) -> manifest.Manifest:
    """What a listed document says."""
    known = _manifests.get(stored.number)
    if known is None:
        known, _ = play(read_manifest(stored.doc, CODEC), world)
        _manifests[stored.number] = known
    return known


def _manifest_dangles(stored: Stored, world: World) -> str | None:
    known = manifest_of(stored, world)
    for channel, ref in known.channels.items():
        pieces = []
        for link in ref.chain:
            place = known.place(channel, link)
            owner = f"checkpoint {known.checkpoint_id!r}, channel {channel!r}, frame of {link.owner or 'its own'!r}"
            source = _object_of(world, place) if link.attempt is not None else _frames_of(world, place)
            if source is None:
                return f"I1: {owner}: missing"
            whole = link.attempt is not None and not link.packed
            pieces.append(source if whole else source[link.at : link.at + link.stored])
        key = (stored.number, channel, tuple(pieces))
        if key not in _intact:
            if not _gives(ref, pieces):
                return f"I1: {owner}: differs"
            _intact.add(key)
    return None


def _object_of(world: World, name: str) -> bytes | None:
    blob = world.blobs.get(name)
    return None if blob is None else blob[0]


def _frames_of(world: World, name: str) -> bytes | None:
    doc = world.doc(name)
    return None if doc is None else manifest.inner_frames(doc)


def _gives(ref: manifest.ChannelRef, pieces: list[bytes]) -> bool:
    value = b"" if not pieces else None
    for link, piece in zip(ref.chain, pieces, strict=True):
        size = ref.size if link.size is None else link.size
        try:
            value = CODEC.decode(piece, size, value)
        except frames.FrameError:
            return False
        if not hashlib.sha256(value).hexdigest().startswith(link.digest or ref.sha256):
            return False
    return value is not None


def _writes_dangle(stored: Stored, world: World) -> str | None:
    needed = _writes_blobs.get(stored.number)
    if needed is not None:
        gone = needed - world.blobs.keys()
        return f"I1: pending writes: missing {sorted(gone)}" if gone else None
    seen: list[Effect[Any]] = []
    checkpoint_id = keys.writes_checkpoint_id_of(stored.doc.name)
    flow = pending.read_writes(frozenset((checkpoint_id,)), [stored.doc], CODEC)
    try:
        play(flow, world, seen)
    except manifest.DamagedError as damage:
        return f"I1: pending writes: {damage.reason}"
    gathered = [one for effect in seen if isinstance(effect, Gather) for one in effect.effects]
    _writes_blobs[stored.number] = frozenset(one.name for one in gathered if isinstance(one, GetBlob))
    return None


@dataclass(slots=True)
class Rules:
    """What must hold in every state and at every end, given what the processes call.

    Attributes:
        puts: The values that a checkpoint may have, by namespace and id.
        calls: The writes of each call of `put_writes`, by checkpoint and task.
        may_vanish: Processes whose acknowledged calls may be gone again, because the thread is deleted meanwhile.
        errors: Types of errors that may be raised.
        empty: Whether nothing may be left at the end.
    """

    puts: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    calls: dict[tuple[str, str], list[dict[int, Any]]] = field(default_factory=dict)
    may_vanish: str = ""
    errors: tuple[type[Exception], ...] = ()
    empty: bool = False
    _whole: set[Any] = field(default_factory=set)

    def learn(self, call: Call) -> None:
        if call.stores is not None:
            ns, checkpoint_id, values = call.stores
            self.puts.setdefault((ns, checkpoint_id), []).append(values)
        if call.writes is not None:
            checkpoint_id, task, found = call.writes
            self.calls.setdefault((checkpoint_id, task), []).append(found)

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        """After every step."""
        for run in runs:
            error = run.node.error
            if error is not None and not isinstance(error, self.errors):
                return f"{run.process.name} raised {error!r}"
            for call, result in run.node.done:
                for loaded in result if call.reads else ():
                    known = loaded.manifest
                    if dict(loaded.values) not in self.puts[known.ns, known.checkpoint_id]:
                        return f"I3: {call.label} gave {dict(loaded.values)} for {known.checkpoint_id!r}"
        return dangling(world) or self._halves(world)

    def _halves(self, world: World, thread_id: str = THREAD) -> str | None:
        """Whether of some call of `put_writes` a part is visible, and the rest is not."""
        key = thread_id, world.key[1]
        if key not in self._whole:
            for checkpoint_id in {checkpoint_id for checkpoint_id, _ in self.calls}:
                visible = read_pending(world, checkpoint_id, thread_id)
                for (other_id, task), calls in self.calls.items():
                    numbers = {idx for found_task, idx in visible if found_task == task}
                    whole = {idx for call in calls if call.keys() <= numbers for idx in call}
                    if other_id == checkpoint_id and numbers != whole:
                        return f"a part of a call is visible: writes {sorted(numbers)} of task {task!r}"
            self._whole.add(key)
        return None

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        """When no process can continue."""
        waiting = [run.process.name for run in runs if not run.ended]
        if waiting and not any(run.dead for run in runs):
            return f"waiting for ever: {waiting}"
        if self.empty and (world.docs or world.blobs):
            return f"I6: left: {[*world.docs, *world.blobs]}"
        for doc in world.checkpoints():
            wrong = self._reads(doc.name, world)
            if wrong is not None:
                return wrong
        if not any(run.dead or run.node.error for run in runs):
            wrong = _unnamed(world)
            if wrong is not None:
                return wrong
        for run in runs:
            if run.process.name in self.may_vanish:
                continue
            for call, _ in run.node.done:
                wrong = self._lost(call, world)
                if wrong is not None:
                    return wrong
        return _untold(world, runs)

    def _reads(self, name: str, world: World) -> str | None:
        try:
            loaded, _ = play(get_checkpoint(name, new_context("zz")), world)
        except Exception as error:
            return f"checkpoint {keys.checkpoint_id_of(name)!r} cannot be read: {error!r}"
        if loaded is None:
            return None  # a parent that only says who its heir is
        known = loaded.manifest
        if dict(loaded.values) not in self.puts[known.ns, known.checkpoint_id]:
            return f"checkpoint {known.checkpoint_id!r} reads {dict(loaded.values)}"
        return None

    def _lost(self, call: Call, world: World) -> str | None:
        if call.stores is not None:
            ns, checkpoint_id, _ = call.stores
            doc = world.doc(keys.checkpoint_doc(THREAD, ns, checkpoint_id))
            if doc is None or kind_of(doc) is DocumentKind.STRIPPED:
                return f"I2: {call.label} was acknowledged, and is gone"
        if call.writes is not None:
            checkpoint_id, task, found = call.writes
            visible = read_pending(world, checkpoint_id)
            for idx in found:
                if (task, idx) not in visible:
                    return f"I2: {call.label} was acknowledged, and write {idx} is gone"
                if visible[task, idx] not in [other.get(idx) for other in self.calls[checkpoint_id, task]]:
                    return f"write {idx} of {task} reads {visible[task, idx]!r}"
        return None


def _untold(world: World, runs: tuple[Run, ...]) -> str | None:
    """Whether a fork was not reported, or a report names a checkpoint without a sibling.

    Every sibling but the first is reported by its writer. Three kinds of schedules are left out: those in which a
    checkpoint may be removed, or withdrawn, and those in which an answer was lost, for the times here are in no order.
    """
    for run in runs:
        only_adds = all(call.stores or call.writes or call.reads for call in run.process.calls)
        if not only_adds or run.process.misreads or run.dead or run.node.error or run.lost < run.process.lost:
            return None
    made = {call.stores[:2] for run in runs for call, _ in run.node.done if call.stores is not None}
    told = {(event.checkpoint_ns, event.checkpoint_id) for run in runs for event in run.node.told}
    siblings: dict[tuple[str, str | None], set[tuple[str, str]]] = {}
    for doc in world.checkpoints():
        known = manifest_of(world.docs[doc.name], world)
        if known.parent_id is not None or not known.ns:
            siblings.setdefault((known.ns, known.parent_id), set()).add((known.ns, known.checkpoint_id))
    for found in siblings.values():
        if len(told & found) != min(len(made & found), len(found) - 1):
            return f"of the siblings {sorted(found)}, {sorted(told & found)} were reported"
    return None


def _unnamed(world: World) -> str | None:
    """Whether a checkpoint lacks the documents that contain its thread's id, and what its runs touched."""
    for doc in world.checkpoints():
        if kind_of(doc) is not DocumentKind.STRIPPED:
            thread_id = str(keys.thread_id_of(keys.thread_segment_of(doc.name)))
            thread = world.doc(keys.thread_doc(thread_id))
            if thread is None or thread.fields.get("thread_id") != thread_id:
                return "a checkpoint's thread has no document, or one without its id"
            for run in manifest.runs_of(doc):
                if world.doc(keys.run_doc(run, thread_id)) is None:
                    return f"a checkpoint's run {run!r} has no document"
    return None


def read_pending(world: World, checkpoint_id: str, thread_id: str = THREAD) -> dict[tuple[str, int], Any]:
    """The pending writes that a reader of the thread sees, by task and number."""
    query = pending.query(thread_id, "", checkpoint_id, checkpoint_id)
    docs, _ = world.perform(query, 0)
    found, _ = play(pending.read_writes(frozenset((checkpoint_id,)), docs, CODEC), world)
    return {(write.task_id, write.idx): LOADS(write.value) for write in found.get(checkpoint_id, [])}
