"""Scenarios of batches: several workers, workers that are taken for dead, longer lists, restarts, deletions.

An item is handled by a read of a document with its name, so that others can act before and after it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Flow, GetDocs
from langgraph_gcs_saver.flows import copy
from langgraph_gcs_saver.flows import item_batches as flows
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import item_batches, keys
from langgraph_gcs_saver.format.manifest import DamagedError, Serialized

from .scenarios import Scenario
from .world import CODEC, THREAD, Call, Process, Run, World, delete, new_context, play, random_bytes
from .world import Rules as CommonRules

BATCH = "b"
NAME = keys.batch_doc(THREAD, BATCH)
LABEL = "work"
COPY = "copy"


@dataclass(slots=True)
class Told:
    """What a worker has to say at its end.

    Attributes:
        handled: The items that it handled, with their epochs.
        ended: Whether it set the batch to done.
        closed: The items of the batch when it was closed.
        error: The error that ended it.
    """

    handled: list[tuple[str, str]]
    ended: bool = False
    closed: tuple[str, ...] = ()
    error: Exception | None = None


def handle(worker: str, epoch: str, key: str) -> GetDocs:
    """What stands for the handling of an item."""
    return GetDocs((f"handled/{worker}/{epoch}/{key}",))


def work(
    name: str,
    items: str,
    context: Context,
    *,
    attempts: int = 3,
    flush: int = 1,
    dead: str = "",
    fails: str = "",
    size: int = 0,
    ends: bool = True,
    **options: Any,
) -> Flow[Told]:
    """A worker: what `Batch` does for a loop over the items, each of one character."""
    told = Told([])
    clock = itertools.count()
    worker = flows.Worker(
        name, attempts, 1e9, flush == 1, lambda: float(next(clock)), lambda owner: owner[:1] in (*dead,)
    )
    request = flows.OpenBatch(THREAD, BATCH, tuple(items), 1, **options)
    try:
        opened, known = yield from flows.open_batch(request, context)
        there = opened.listing.positions()
        mine = [there[item] for item in items if item in there]
        while True:
            opened, claim, queue = yield from flows.take(opened, mine, known, worker, context)
            if claim is None:
                break
            chunk, results = claim.chunk, []
            while queue:
                position = queue.pop(0)
                key = opened.listing.keys[position]
                yield from handle(name, opened.listing.epoch, key)
                told.handled.append((opened.listing.epoch, key))
                if key in fails:
                    results.append(flows.Result(position, failure=item_batches.Failure(position, "no")))
                    tried = known.tried(position) + len([one for one in results if one.position == position])
                    if tried < attempts:
                        queue.append(position)
                else:
                    output = Serialized("bytes", random_bytes(key, size)) if size else None
                    results.append(flows.Result(position, output))
                if len(results) >= flush or not queue:
                    claim = yield from flows.flush(
                        opened, chunk, claim, results,
                        release=not queue, known=known, worker=worker, context=context,
                    )  # fmt: skip
                    results = []
                    if claim is None:
                        break
        if ends:
            opened = yield from flows.close(opened, known, worker, "closing", context)
            told.closed = tuple(opened.listing.positions())
            opened = yield from flows.close(opened, known, worker, "done", context)
            told.ended = opened.state == "done"
    except errors.BatchDoneError as error:
        told.error, told.ended = error, True
    except (errors.BatchChangedError, errors.InvalidInputError) as error:
        told.error = error
    return told


def works(name: str, items: str, **options: Any) -> Call:
    return Call(LABEL, lambda context: work(name, items, context, **options))


def settled(world: World) -> tuple[str, set[int], Counter[int]]:
    """The batch's epoch, the positions that were done in it, and how often others have failed."""
    doc = world.doc(NAME)
    if doc is None:
        return "", set(), Counter()
    opened, _ = play(flows.read_batch(THREAD, doc, new_context("zz")), world)
    known = flows.Known()
    for name in world.docs:
        if f"/{keys.DONE}/" in name:
            one = item_batches.settled_of(world.docs[name].doc, CODEC)
            if one.epoch == opened.listing.epoch:
                known.take(name, one)
    return opened.listing.epoch, known.done, Counter({at: known.tried(at) for at in known.failures})


def handled_by(runs: tuple[Run, ...]) -> Counter[tuple[str, str]]:
    """How often each item was handled, by epoch and key."""
    handled: Counter[tuple[str, str]] = Counter()
    for run in runs:
        node = run.node
        while node.parent is not None:
            node = node.parent
            if isinstance(node.effect, GetDocs) and node.effect.names[0].startswith("handled/"):
                _, _, epoch, key = node.effect.names[0].split("/")
                handled[epoch, key] += 1
    return handled


@dataclass(slots=True)
class Rules(CommonRules):
    """What must hold.

    Attributes:
        attempts: After how many failures an item is settled.
        repeats: Whether items may be handled twice, because a worker may be taken for dead.
        deletes: Whether a process deletes the thread.
        restarts: Whether a process restarts the batch.
        fails: Keys of the items that fail.
        before: Keys of the items that were handled before.
        _seen: Worlds that were found whole.
    """

    attempts: int = 3
    repeats: bool = False
    deletes: bool = False
    restarts: bool = False
    fails: str = ""
    before: str = ""
    _seen: set[Any] = field(default_factory=set)

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        for run in runs:
            if run.node.error is not None:
                return f"{run.process.name} raised {run.node.error!r}"
        twice = [key for (_, key), times in handled_by(runs).items() if times > 1 and key not in self.fails]
        if twice and not self.repeats:
            return f"handled twice: {twice}"
        key = world.key
        if key not in self._seen:
            wrong = self._state(world)
            if wrong is not None:
                return wrong
            self._seen.add(key)
        return None

    def _state(self, world: World) -> str | None:
        for name, stored in world.docs.items():
            entry = item_batches.batch_objects if name == NAME else item_batches.done_objects
            if name == NAME or f"/{keys.DONE}/" in name:
                try:
                    gone = entry(stored.doc, CODEC).keys() - world.blobs.keys()
                except DamagedError as damage:
                    return f"damaged: {damage.reason}"
                if gone:
                    return f"I1: missing: {gone}"
        doc = world.doc(NAME)
        if doc is None:
            return None
        opened, _ = play(flows.read_batch(THREAD, doc, new_context("zz")), world)
        if opened.state == "open":
            return None
        _, done, failed = settled(world)
        for key, at in opened.listing.positions().items():
            if at not in done and failed[at] < self.attempts:
                return f"skipped: {opened.state} without {key!r}"
        return None

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        waiting = [run.process.name for run in runs if not run.ended]
        if waiting and not any(run.dead for run in runs):
            return f"waiting for ever: {waiting}"
        if any(run.dead for run in runs) or self.deletes:
            return None
        left = [name for name in world.docs if f"/{keys.CHUNKS}/" in name]
        told = [result for run in runs for call, result in run.node.done if call.label == LABEL]
        if told and not any(one.ended for one in told):
            return f"no worker finished: {told}"
        is_told = all(run.lost == run.process.lost for run in runs)
        if left and any(one.ended for one in told) and is_told and not self.repeats:
            return f"claims are left: {left}"
        doc = world.doc(NAME)
        assert doc is not None
        found, _ = play(flows.read_batch(THREAD, doc, new_context("zz")), world)
        if found.state == "done":
            handled = handled_by(runs)
            wanted = found.listing.positions().keys() - {*self.before}
            lacking = sorted(key for key in wanted if not handled[found.listing.epoch, key])
            if lacking:
                return f"skipped: {lacking} were never handled"
        closed = {one.closed for one in told if one.closed} if not self.restarts else set()
        return f"changed after it was closed: {closed}" if closed - {tuple(found.listing.positions())} else None


class Copied(Rules):
    """A process copies the thread."""

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        name = keys.batch_doc(COPY, BATCH)
        doc = world.doc(name)
        if doc is not None:
            found, _ = play(flows.read_batch(COPY, doc, new_context("zz")), world)
            known = flows.Known()
            try:
                found, _ = play(flows.look(found, known, new_context("zz")), world)
            except errors.GCSSaverError as error:
                return f"the copy cannot be read: {error!r}"
            wanted = {*found.listing.positions().values()}
            if found.state != "open" and wanted - known.done:
                return f"skipped: the copy is {found.state} without {wanted - known.done}"
            if known.done - {*range(len(found.listing.keys))}:
                return f"skipped: the copy has done {known.done}, and its list {found.listing.keys}"
        return Rules.check_end(self, world, runs)


class Unended(Rules):
    """Nothing ends the batch."""

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        wrong = Rules.check_end(self, world, runs)
        return None if wrong is not None and wrong.startswith("no worker") else wrong


BATCHING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    BATCHING[make.__name__] = make
    return make


def opened(items: str, *steps: Flow[Any]) -> World:
    """A store with a batch, after some flows."""
    request = flows.OpenBatch(THREAD, BATCH, tuple(items), 1)
    _, world = play(flows.open_batch(request, new_context("00")), World())
    for step in steps:
        _, world = play(step, world)
    return world


def _claimed(owner: str) -> World:
    """A store with a batch of one item, whose chunk a process has claimed that ended then."""
    world = opened("a")
    context = new_context("99")
    worker = flows.Worker(owner, 3, 1e9, True, lambda: 0.0, lambda _: False)
    found, world = play(flows.open_batch(flows.OpenBatch(THREAD, BATCH, ("a",), 1), context), world)
    _, world = play(flows.take(found[0], [0], found[1], worker, context), world)
    return world


@_named
def two_workers() -> Scenario:
    processes = (Process("A", (works("A", "ab", ends=False),)), Process("B", (works("B", "ab"),)))
    return Scenario(opened("ab"), processes, Rules(), 1)


@_named
def two_workers_and_lost_answers() -> Scenario:
    processes = (Process("A", (works("A", "a"),), lost=1), Process("B", (works("B", "a", ends=False),)))
    return Scenario(opened("a"), processes, Rules(), 1)


@_named
def the_first_call_by_two() -> Scenario:
    processes = (Process("A", (works("A", "a", ends=False),), lost=1), Process("B", (works("B", "a", ends=False),)))
    return Scenario(World(), processes, Unended(), 1)


@_named
def two_take_the_chunk_of_a_dead_worker() -> Scenario:
    processes = (Process("A", (works("A", "a", dead="D"),), lost=1), Process("B", (works("B", "a", dead="D"),)))
    return Scenario(_claimed("D"), processes, Rules(), 1)


@_named
def a_worker_that_is_taken_for_dead() -> Scenario:
    processes = (Process("A", (works("A", "a"),), dies=True), Process("B", (works("B", "a", dead="A"),)))
    return Scenario(opened("a"), processes, Rules(repeats=True), 1)


@_named
def a_worker_and_a_longer_list() -> Scenario:
    processes = (Process("A", (works("A", "a"),)), Process("B", (works("B", "xa", changed="merge"),)))
    return Scenario(opened("a"), processes, Rules(), 1)


@_named
def a_longer_list_at_the_end() -> Scenario:
    processes = (Process("A", (works("A", "a"),)), Process("B", (works("B", "xa", changed="merge"),)))
    return Scenario(opened("a", work("0", "a", new_context("88"), ends=False)), processes, Rules(before="a"), 1)


@_named
def two_longer_lists() -> Scenario:
    processes = (
        Process("A", (works("A", "xa", changed="merge", ends=False),)),
        Process("B", (works("B", "ya", changed="merge", ends=False),)),
    )
    return Scenario(opened("a", work("0", "a", new_context("88"), ends=False)), processes, Unended(), 1)


@_named
def a_restart_and_late_workers() -> Scenario:
    world = opened("a", work("0", "a", new_context("88")))
    processes = (
        Process("A", (works("A", "a", on_done="skip", ends=False),)),
        Process("B", (works("B", "a", on_done="restart"),)),
    )
    return Scenario(world, processes, Rules(restarts=True), 1)


@_named
def a_frozen_flush_and_a_restart() -> Scenario:
    """A worker that is taken for dead flushes when the batch was done and restarted."""
    processes = (
        Process("A", (works("A", "a", ends=False),)),
        Process("B", (works("B", "a", dead="A"), works("B", "a", dead="A", on_done="restart"))),
    )
    return Scenario(opened("a"), processes, Rules(repeats=True, restarts=True), 1)


@_named
def an_item_that_fails() -> Scenario:
    processes = (
        Process("A", (works("A", "a", fails="a", attempts=2),)),
        Process("B", (works("B", "a", fails="a", attempts=2),)),
    )
    return Scenario(opened("a"), processes, Rules(attempts=2, fails="a"), 1)


@_named
def large_outputs_and_a_deletion() -> Scenario:
    processes = (Process("A", (works("A", "a", size=400),)), Process("D", (delete(),)))
    return Scenario(opened("a"), processes, Rules(deletes=True), 1)


def _copies() -> Call:
    return Call("copy_thread", lambda context: copy.copy_thread(THREAD, COPY, dry_run=False, context=context))


@_named
def a_copy_of_a_batch_that_ends() -> Scenario:
    return Scenario(opened("a"), (Process("A", (works("A", "a"),)), Process("C", (_copies(),))), Copied(), 1)


@_named
def a_copy_of_a_batch_that_starts_again() -> Scenario:
    world = opened("a", work("0", "a", new_context("88")))
    processes = (Process("A", (works("A", "a", on_done="restart"),)), Process("C", (_copies(),)))
    return Scenario(world, processes, Copied(restarts=True), 1)


@_named
def a_copy_of_a_list_that_gets_longer() -> Scenario:
    world = opened("a", work("0", "a", new_context("88"), ends=False))
    processes = (Process("A", (works("A", "xa", changed="merge"),)), Process("C", (_copies(),)))
    return Scenario(world, processes, Copied(before="a"), 1)
