"""Every order in which writers, readers and deletions can work on a thread, and in which answers can get lost.

The folder's normal run tries some thousand states of each scenario; `make soak` tries nearly all of them. The tests at
the end remove one rule of the protocol each: an exploration that does not notice would prove nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Delete,
    DeleteBlobs,
    Docs,
    Emit,
    Flow,
    Gather,
    GetDocs,
    HashBlob,
    ListBlobs,
    Merge,
    Now,
    Pause,
    PutBlob,
    QueryDocs,
)
from langgraph_gcs_saver.events import VerificationFailed
from langgraph_gcs_saver.flows import save, threads, writes
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.threads import Guard
from langgraph_gcs_saver.format import keys, manifest

from . import world
from .scenarios import SCENARIOS
from .world import INLINE_BYTES, THREAD, Report, World, explore, new_context

NORMAL_BUDGET = 4_000
SOAK_BUDGET = 300_000
BLIND_BUDGET = 50_000
"""States to look at; one takes 0.1 to 0.3 ms."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "INLINE_BYTES", INLINE_BYTES)


def _explored(name: str, budget: int, monkeypatch: pytest.MonkeyPatch, *, ends: bool = True) -> Report:
    scenario = SCENARIOS[name]()
    monkeypatch.setattr(limits, "COMMIT_WRITES", scenario.batch)
    check, check_end = scenario.rules.check, scenario.rules.check_end
    return explore(scenario.world, scenario.processes, check, check_end if ends else check, budget=budget)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_anything(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _explored(name, NORMAL_BUDGET, monkeypatch)
    assert report.failure is None, report.failure
    assert report.ends, "no schedule came to its end"


@pytest.mark.parametrize("name", [name for name in SCENARIOS if "delet" in name])
def test_a_deletion_while_something_is_read_back_is_no_damage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is deleted before its writer has read it back: that is no damage."""
    monkeypatch.setattr(world, "VERIFY", "readback")
    report = _explored(name, NORMAL_BUDGET, monkeypatch)
    assert report.failure is None, report.failure
    assert report.ends, "no schedule came to its end"


@pytest.mark.soak
@pytest.mark.parametrize("verify", ["off", "readback"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_many_steps_breaks_anything(name: str, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "VERIFY", verify)
    report = _explored(name, SOAK_BUDGET, monkeypatch)
    assert report.failure is None, report.failure


# Every process ends


def test_deletions_at_the_same_time_do_not_break_each_other_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MAX_TRIES", 4)
    report = _explored("two_deletions", BLIND_BUDGET, monkeypatch)
    assert report.failure is None, report.failure
    assert report.complete


def test_a_deletion_that_goes_on_is_not_taken_for_dead() -> None:
    """A writer that waits longer than the timeout, and meets a mark that changes, continues to wait."""
    world = SCENARIOS["put_of_an_object_and_deletion"]().world
    deletion = Steps(threads.delete_thread(THREAD, new_context("d")))
    writer = Steps(threads.guard(THREAD, new_context("w")))
    world = deletion.until(QueryDocs, world)  # It has marked the thread.
    world = writer.until(Pause, world)
    world = deletion.until(DeleteBlobs, world)  # It has read the mark again.
    writer.now += 100.0
    world = writer.until(Pause, world)
    world = deletion.until(None, world)
    writer.now += 100.0
    world = writer.until(None, world)
    assert writer.done == ["GetDocs", "Now", "Pause", "GetDocs", "Now", "Pause", "GetDocs", "Commit"]


class Steps:
    """A flow that is performed in parts."""

    def __init__(self, flow: Flow[Any]) -> None:
        self.flow = flow
        self.answer: Any = None
        self.now = 0.0
        self.done: list[str] = []

    def until(self, kind: type[Any] | None, world: World) -> World:
        """Continue until an effect of this kind has been performed, or to the end."""
        while True:
            try:
                effect = self.flow.send(self.answer)
            except StopIteration:
                return world
            self.done.append(type(effect).__name__)
            if isinstance(effect, Now):
                self.answer = self.now
            elif isinstance(effect, (Pause, Emit)):
                self.answer = None
            elif isinstance(effect, Gather):  # of reads only
                self.answer = tuple(world.perform(one, next(_times))[0] for one in effect.effects)
            else:
                self.answer, world = world.perform(effect, next(_times))
            if kind is not None and isinstance(effect, kind):
                return world


_times = itertools.count(1 << 40)


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


class _Careless(Guard):
    def write(self, fields: dict[str, object]) -> Merge:
        return Merge(self.name, fields)


def _guard_without_condition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Guard, "write", _Careless.write)


def _guard_without_a_document(patch: pytest.MonkeyPatch) -> None:
    """Demand that the thread does not exist, instead of making its document: a whole deletion passes unseen."""
    whole = threads.guard

    def guard(thread_id: str, context: Context, **beside: Any) -> Flow[Guard]:
        name = keys.thread_doc(thread_id)
        if not (yield from GetDocs((name,))):
            return Guard(name, None)
        return (yield from whole(thread_id, context, **beside))

    patch.setattr(save, "guard", guard)
    patch.setattr(writes, "guard", guard)


def _guard_only_with_objects(patch: pytest.MonkeyPatch) -> None:
    """A small step is then stored in a thread that is being deleted, and the next one inherits from it."""
    whole = save._Attempts._guard

    def guard(attempts: Any, layout: Any) -> Flow[Guard | None]:
        found = yield from whole(attempts, layout)
        return found if found is None or layout.uploads else _Careless(found.name, found.update_time)

    patch.setattr(save._Attempts, "_guard", guard)


def _parent_without_condition(patch: pytest.MonkeyPatch) -> None:
    whole = save._Attempts._writes

    def commit(attempts: Any, *args: Any) -> Any:
        found = whole(attempts, *args)
        parent = None if attempts.head is None else attempts.head.manifest.name
        return tuple(replace(w, update_time=None) if w.name == parent else w for w in found)

    patch.setattr(save._Attempts, "_writes", commit)


def _heir_without_token(patch: pytest.MonkeyPatch) -> None:
    """A child that is stored again then writes what its parent says already, which does not move its update time."""
    patch.setattr(manifest, "heir_field", lambda checkpoint_id, _: f"{checkpoint_id}#")


def _inherits_from_a_greater_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(save.Put, "is_out_of_order", lambda _: False)


def _checkpoints_without_condition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(threads, "Delete", lambda name, update_time=None: Delete(name))


def _writes_without_condition(patch: pytest.MonkeyPatch) -> None:
    def delete(name: str, update_time: int | None = None) -> Delete:
        return Delete(name, None if f"/{keys.WRITES}/" in name else update_time)

    patch.setattr(threads, "Delete", delete)


def _oldest_first(patch: pytest.MonkeyPatch) -> None:
    def delete_with_runs(thread_id: str, *_: Any, **__: Any) -> Flow[tuple[int, bool]]:
        while docs := (yield from QueryDocs(keys.checkpoints(thread_id))):
            if (yield from Commit((Delete(docs[-1].name, update_time=docs[-1].update_time),))) is None:
                return 0, False
        return 0, True

    patch.setattr(threads, "_delete_with_runs", delete_with_runs)


def _objects_without_a_look_at_the_mark(patch: pytest.MonkeyPatch) -> None:
    def delete_blobs(thread_id: str, mark: int, context: Context) -> Flow[tuple[int, int | None]]:
        while blobs := (yield from ListBlobs(keys.thread_blobs(thread_id))):
            yield from DeleteBlobs(tuple(blob.name for blob in blobs))
        return 0, mark

    patch.setattr(threads, "_delete_blobs", delete_blobs)


def _dead_deletion_is_finished(patch: pytest.MonkeyPatch) -> None:
    """A writer that meets a crashed deletion's mark completes it, and deletes what was acknowledged in between."""
    whole = threads.guard

    def guard(thread_id: str, context: Context, **beside: Any) -> Flow[Guard]:
        docs = yield from GetDocs((keys.thread_doc(thread_id),))
        if any("deleting" in doc.fields for doc in docs.values()):
            yield from threads.delete_thread(thread_id, context)
        return (yield from whole(thread_id, context, **beside))

    patch.setattr(save, "guard", guard)
    patch.setattr(writes, "guard", guard)


def _writes_of_a_call_apart(patch: pytest.MonkeyPatch) -> None:
    """The regular writes of a call first, then the special ones."""
    whole = writes.put_writes

    def put_writes(request: Any, context: Context) -> Flow[None]:
        for wanted in ([w for w in request.writes if w.idx >= 0], [w for w in request.writes if w.idx < 0]):
            yield from whole(replace(request, writes=wanted), context)

    patch.setattr(writes, "put_writes", put_writes)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_guard_without_condition, "put_of_an_object_and_deletion", "I1"),
        (_guard_without_condition, "large_writes_and_deletion", "I1"),
        (_guard_without_a_document, "first_put_of_a_thread_and_deletion", "I1"),
        (_guard_without_a_document, "large_writes_of_a_new_thread_and_deletion", "I1"),
        (_guard_only_with_objects, "small_step_then_object_and_deletion", "I1"),
        (_guard_only_with_objects, "new_namespace_and_deletion", "I1"),
        (_parent_without_condition, "put_and_deletion", "I1"),
        (_parent_without_condition, "put_of_incremental_frames_and_deletion", "I1"),
        (_heir_without_token, "repeated_put_and_deletion_in_small_batches", "I1"),
        (_inherits_from_a_greater_id, "clock_went_back_and_deletion_in_small_batches", "I1"),
        (_checkpoints_without_condition, "put_of_incremental_frames_and_deletion", "I1"),
        (_writes_without_condition, "mixed_writes_and_a_deletion", "a part of a call"),
        (_oldest_first, "deletion_where_answers_get_lost", "I1"),
        (_objects_without_a_look_at_the_mark, "put_and_two_deletions", "I1"),
        (_objects_without_a_look_at_the_mark, "slow_deletion_taken_for_dead", "I1"),
        (_dead_deletion_is_finished, "dead_deletion_then_writers", "I2"),
        (_writes_of_a_call_apart, "the_same_writes_in_two_processes", "a part of a call"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    # A removed rule may also leave other traces, at the end; what counts is that this one is found.
    report = _explored(name, BLIND_BUDGET, monkeypatch, ends=wrong == "I2")
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure


def _documents_read_once(patch: pytest.MonkeyPatch) -> None:
    """A missing object counts as lost, although its document may have been deleted before it."""

    def read_back(names: tuple[str, ...], uploads: Sequence[PutBlob]) -> Flow[tuple[Docs, list[str]]]:
        docs, *found = yield from Gather((GetDocs(names), *[HashBlob(effect.name) for effect in uploads]))
        return docs, [effect.name for effect, sha256 in zip(uploads, found, strict=True) if sha256 is None]

    patch.setattr(save, "read_back", read_back)
    patch.setattr(writes, "read_back", read_back)


@pytest.mark.parametrize("name", ["put_of_an_object_and_deletion", "large_writes_and_deletion"])
def test_an_object_that_is_deleted_with_its_document_was_stored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule, a deletion between the reads of a proof looks like a service that loses objects."""
    monkeypatch.setattr(world, "VERIFY", "readback")
    monkeypatch.setattr(world, "DAMAGE", (*world.DAMAGE, VerificationFailed))
    report = _explored(name, NORMAL_BUDGET, monkeypatch)
    assert report.failure is None, report.failure
    _documents_read_once(monkeypatch)
    report = _explored(name, BLIND_BUDGET, monkeypatch)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert "VerificationFailed" in report.failure
