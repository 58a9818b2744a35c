"""Every order in which a repair can copy objects to a mirror while another process deletes the thread.

A deletion leaves no object in either bucket (I6), and a repair leaves each object of what stays in both. The tests at
the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import DeleteBlobs, Effect, Flow, Gather, GetBlob, InBucket, ListBlobs, PutBlob
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.flows import remirror, repair, threads
from langgraph_gcs_saver.flows.context import Binding, Context, Place
from langgraph_gcs_saver.flows.survey import survey

from .world import (
    IN_MIRROR,
    LARGE,
    LOADS,
    SERDE,
    THREAD,
    Call,
    Process,
    Report,
    Run,
    World,
    explore,
    new_context,
    play,
    put_flow,
    random_bytes,
    state,
)

BUDGET = 60_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 1_500
"""States that the usual tests look at."""


def _mirrored(flow: Flow[Any]) -> Flow[Any]:
    """The flow, with requests to both buckets in place of one, as the store makes them."""
    return through(flow, _in_both)


def _in_both(effect: Effect[Any]) -> Flow[Any]:
    if isinstance(effect, Gather):
        answers: tuple[Any, ...] = ()
        for leaf in effect.effects:
            answers += ((yield from _in_both(leaf)),)
        return answers
    if isinstance(effect, (PutBlob, DeleteBlobs)):
        yield from Gather((InBucket(effect, mirror=False), InBucket(effect, mirror=True)))
        return None
    if isinstance(effect, ListBlobs):
        both = yield from Gather((InBucket(effect, mirror=True), InBucket(effect, mirror=False)))
        found = {blob.name: blob for one in both for blob in one}
        return [found[name] for name in sorted(found)]
    if isinstance(effect, GetBlob):
        first = yield from InBucket(effect, mirror=False)
        if first is not None and effect.crc32c in {None, crc32c(first)}:
            return first
        return (yield from InBucket(effect, mirror=True)) or first
    return (yield from effect)


def _repair(context: Context) -> Flow[Any]:
    return _mirrored(repair.repair(THREAD, dry_run=False, loads=LOADS, dumps=_dumps, context=_there(context)))


def _dumps(value: Any) -> Any:
    return SERDE.dumps_typed(value)


def _there(context: Context) -> Context:
    return replace(context, binding=Binding(Place("b", "", "m"), is_bound=True))


def _copying(world: World) -> Call:
    """The copying alone, after a survey of the world: all orders of its requests can be tried."""
    context = _there(new_context("s"))
    found, _ = play(_mirrored(survey(THREAD, "data", LOADS, context)), world)
    sources, _ = play(_mirrored(remirror.sources_of(found, context)), world)
    ((name, from_mirror),) = sources.items()
    referrers = found.referrers(sources)[name]

    def start(context: Context) -> Flow[None]:
        yield from remirror.copy(
            name, found.copies[name], from_mirror=from_mirror, referrers=referrers, context=context
        )

    return Call("copy", start)


REPAIR = Call("repair", _repair)
DELETE = Call("delete_thread", lambda context: _mirrored(threads.delete_thread(THREAD, context)))


def _start(kind: str) -> World:
    """A checkpoint whose object is in one bucket only, or has other bytes in one."""
    flow = put_flow(new_context("0"), "1", None, state(v=random_bytes("1", LARGE)))
    _, world = play(flow, World())
    ((name, (data, time)),) = world.blobs.items()
    other = (bytes(len(data)), time)
    blobs = {
        "not in the mirror": {name: (data, time)},
        "only in the mirror": {IN_MIRROR + name: (data, time)},
        "corrupt in the mirror": {name: (data, time), IN_MIRROR + name: other},
        "corrupt in the bucket": {name: other, IN_MIRROR + name: (data, time)},
    }
    return World(world.table, blobs[kind])


KINDS = ("not in the mirror", "only in the mirror", "corrupt in the mirror", "corrupt in the bucket")


def _check(world: World, runs: tuple[Run, ...]) -> str | None:
    for run in runs:
        if run.node.error is not None and not isinstance(run.node.error, ConflictError):
            return f"{run.process.name} raised {run.node.error!r}"
    return None


def _check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    if any(run.dead or run.node.error is not None for run in runs):
        return None  # `collect` deletes what is left.
    in_mirror = {name.removeprefix(IN_MIRROR) for name in world.blobs if name.startswith(IN_MIRROR)}
    in_bucket = {name for name in world.blobs if not name.startswith(IN_MIRROR)}
    if not world.checkpoints():
        return f"objects are left: {sorted(world.blobs)}" if world.blobs else None
    if len({data for data, _ in world.blobs.values()}) > 1:
        return "the copies differ"
    return None if in_mirror == in_bucket else f"in one bucket: {in_mirror ^ in_bucket}"


def _explored(kind: str, *processes: Process, budget: int = BUDGET) -> Report:
    return explore(_start(kind), processes, _check, _check_end, budget=budget)


def _copy_and_delete(kind: str) -> Report:
    copy = _copying(_start(kind))
    return _explored(kind, Process("R", (copy,), dies=True), Process("D", (DELETE,), lost=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_and_a_deletion(kind: str) -> None:
    report = _copy_and_delete(kind)
    assert report.failure is None, report.failure
    assert report.complete, "there are more orders than were tried"


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_and_a_deletion(kind: str, budget: int) -> None:
    """There are more orders than can be tried."""
    processes = Process("R", (REPAIR,), lost=1, dies=True), Process("D", (DELETE,), lost=1)
    report = _explored(kind, *processes, budget=budget)
    assert report.failure is None, report.failure
    assert report.ends


@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_alone_and_after_a_crash(kind: str) -> None:
    report = _explored(kind, Process("R", (REPAIR,), dies=True), Process("S", (REPAIR,), after="R"))
    assert report.failure is None, report.failure
    assert report.complete


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _keeps_its_copy(patch: pytest.MonkeyPatch) -> None:
    def are_left(_: Any) -> Flow[bool]:
        yield from ()
        return True

    patch.setattr(remirror, "_are_left", are_left)


def _reads_the_manifest_before(patch: pytest.MonkeyPatch) -> None:
    whole = remirror.copy

    def copied(name: str, copies: Any, *, referrers: Any, **options: Any) -> Flow[None]:
        if (yield from remirror._are_left(referrers)):
            yield from whole(name, copies, referrers=None, **options)

    patch.setattr(remirror, "copy", copied)


@pytest.mark.parametrize("broken", [_keeps_its_copy, _reads_the_manifest_before])
def test_a_removed_rule_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _copy_and_delete("not in the mirror")
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith("objects are left"), report.failure


def _always_from_the_bucket(patch: pytest.MonkeyPatch) -> None:
    def right_copy(*_: Any) -> Flow[bool]:
        yield from ()
        return False

    patch.setattr(remirror, "_right_copy", right_copy)


def test_a_wrong_copy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _always_from_the_bucket(monkeypatch)
    world = _start("corrupt in the bucket")
    flow = partial(_repair, new_context("R"))
    _, after = play(flow(), world)
    ((right, _),) = (blob for name, blob in world.blobs.items() if name.startswith(IN_MIRROR))
    assert {data for data, _ in after.blobs.values()} != {right}
