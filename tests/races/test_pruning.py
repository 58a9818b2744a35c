"""Every order in which pruners and copies can work on a thread with writers, readers and deletions.

The rules that keep them apart are removed one by one at the end, by changing the effects that the flows ask for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import pytest

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Commit,
    Delete,
    DeleteBlobs,
    Effect,
    Flow,
    GetDocs,
    ListBlobs,
    Merge,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.flows import collect as collecting
from langgraph_gcs_saver.flows import copy as copying
from langgraph_gcs_saver.flows import holds, readback, save, threads, writes
from langgraph_gcs_saver.flows import prune as pruning
from langgraph_gcs_saver.format import keys

from . import world
from .pruning import PRUNING, TARGET, copy, prune
from .scenarios import grown
from .test_interleavings import Steps
from .world import INLINE_BYTES, THREAD, Report, World, dangling, explore, new_context, play, put_flow

NORMAL_BUDGET = 800
SOAK_BUDGET = 200_000
BLIND_BUDGET = 40_000


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "INLINE_BYTES", INLINE_BYTES)


def _explored(name: str, budget: int, monkeypatch: pytest.MonkeyPatch, *, ends: bool = True) -> Report:
    scenario = PRUNING[name]()
    monkeypatch.setattr(limits, "COMMIT_WRITES", scenario.batch)
    monkeypatch.setattr(pruning, "DOCS_PER_PAGE", scenario.batch)
    monkeypatch.setattr(collecting, "DOCS_PER_PAGE", scenario.batch)
    monkeypatch.setattr(world, "AGED", lambda name: any(part in name for part in scenario.aged))
    monkeypatch.setattr(copying, "CHECKPOINTS_PER_PAGE", scenario.batch)
    check, check_end = scenario.rules.check, scenario.rules.check_end
    return explore(scenario.world, scenario.processes, check, check_end if ends else check, budget=budget)


@pytest.mark.parametrize("name", PRUNING)
def test_no_order_of_steps_breaks_anything(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _explored(name, NORMAL_BUDGET, monkeypatch)
    assert report.failure is None, report.failure
    assert report.ends, "no schedule came to its end"


@pytest.mark.parametrize(
    "name",
    [
        "a_child_before_its_parent_is_read_back_and_prune",
        "the_same_put_again_and_prune",
        "run_in_the_middle_and_writers",
    ],
)
def test_what_was_pruned_before_it_was_read_back_is_no_damage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that finds its checkpoint stripped must leave it so: others need its frames."""
    monkeypatch.setattr(world, "VERIFY", "readback")
    report = _explored(name, NORMAL_BUDGET, monkeypatch)
    assert report.failure is None, report.failure


@pytest.mark.soak
@pytest.mark.parametrize("verify", ["off", "readback"])
@pytest.mark.parametrize("name", PRUNING)
def test_no_order_of_many_steps_breaks_anything(name: str, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "VERIFY", verify)
    report = _explored(name, SOAK_BUDGET, monkeypatch)
    assert report.failure is None, report.failure


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _changed(flow: Flow[Any], change: Callable[[Effect[Any]], list[Effect[Any]]]) -> Flow[Any]:
    """The flow with other effects; the flow gets the answer to the last of those that stand for one."""
    step: Callable[[], Effect[Any]] = partial(next, flow)
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            return stop.value
        answer: Any = None
        try:
            for one in change(effect):
                answer = yield from one
        except Exception as error:
            step = partial(flow.throw, error)
        else:
            step = partial(flow.send, answer)


def _with_effects(module: Any, name: str, change: Callable[[Effect[Any]], list[Effect[Any]]]) -> Break:
    whole = getattr(module, name)

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, lambda *args, **options: _changed(whole(*args, **options), change))

    return apply


def _with_writes(change: Callable[[Write], Write], module: Any = pruning, name: str = "prune") -> Break:
    def changed(effect: Effect[Any]) -> list[Effect[Any]]:
        if not isinstance(effect, Commit):
            return [effect]
        return [Commit(tuple(map(change, effect.writes)))]

    return _with_effects(module, name, changed)


def _is_checkpoint(write: Write) -> bool:
    return f"/{keys.CHECKPOINTS}/" in write.name


def _is_removal(write: Write) -> bool:
    return _is_checkpoint(write) and (isinstance(write, Delete) or (isinstance(write, Merge) and "ns" in write.remove))


def _loose(write: Write) -> Write:
    return write if not isinstance(write, (Delete, Merge)) else replace(write, update_time=None)


def _removals_without_condition(write: Write) -> Write:
    return _loose(write) if _is_removal(write) else write


def _stripped_is_deleted(write: Write) -> Write:
    is_stripped = _is_removal(write) and isinstance(write, Merge)
    return Delete(write.name, update_time=write.update_time) if is_stripped else write  # type: ignore[union-attr]


def _last_deletions_without_condition(write: Write) -> Write:
    return Delete(write.name) if _is_checkpoint(write) and isinstance(write, Delete) else write


def _pending_writes_without_condition(write: Write) -> Write:
    return Delete(write.name) if f"/{keys.WRITES}/" in write.name and isinstance(write, Delete) else write


def _runs_without_condition(write: Write) -> Write:
    return Delete(write.name) if write.name.startswith(keys.RUNS) and isinstance(write, Delete) else write


def _heirs_stay(write: Write) -> Write:
    return replace(write, remove=()) if isinstance(write, Merge) and write.remove == ("heir",) else write


def _root_stays(write: Write) -> Write:
    return replace(write, remove=()) if isinstance(write, Merge) and write.remove == ("root",) else write


def _copies_without_guard(write: Write) -> Write:
    return _loose(write) if write.name == keys.thread_doc(TARGET) else write


def _lists_no_objects(write: Write) -> Write:
    is_list = _is_removal(write) and isinstance(write, Merge) and "objects" in write.fields
    return replace(write, fields={**write.fields, "objects": "[]"}) if is_list else write  # type: ignore[union-attr]


def _objects_before_pending_writes(patch: pytest.MonkeyPatch) -> None:
    """Objects of pending writes go before the documents that refer to them, which may become visible again."""

    def change(effect: Effect[Any]) -> list[Effect[Any]]:
        if not isinstance(effect, Commit):
            return [effect]
        notes = [write for write in effect.writes if isinstance(write, Merge) and not _is_removal(write)]
        names = [name for note in notes for name in json.loads(note.fields.get("objects", "[]"))]
        return [DeleteBlobs(tuple(names)), effect] if names else [effect]

    _with_effects(pruning, "prune", change)(patch)


def _objects_of_others(patch: pytest.MonkeyPatch) -> None:
    """What others refer to goes too."""
    patch.setattr(pruning.Snapshot, "objects", lambda *_: set())


def _runs_without_token(patch: pytest.MonkeyPatch) -> None:
    """Noting a run that is noted already then does not move its document."""

    def note_run(run_id: str, thread_id: str, _: Any) -> Write:
        return Merge(keys.run_doc(run_id, thread_id), {"run_id": run_id, "thread_id": thread_id})

    patch.setattr(save, "note_run", note_run)


def _runs_of_a_parent_of_another_run(patch: pytest.MonkeyPatch) -> None:
    """A run is noted with its first checkpoint only, as if the note could not have been deleted since."""
    whole, noted = save._Attempts._writes, set[Any]()

    def writes(attempts: Any, *args: Any) -> Any:
        found = whole(attempts, *args)
        key = attempts.context.new_attempt, attempts.request.run_id
        again = attempts.head is not None and key in noted
        noted.add(key)
        return tuple(write for write in found if not (again and write.name.startswith(keys.RUNS)))

    patch.setattr(save._Attempts, "_writes", writes)


def _copies_newest_first(patch: pytest.MonkeyPatch) -> None:
    whole = copying._Copy._order
    patch.setattr(copying._Copy, "_order", lambda copy: whole(copy)[::-1])


def _copies_name_their_heirs_at_once(patch: pytest.MonkeyPatch) -> None:
    whole = copying._Copy._fields

    def fields(copy: Any, entry: Any, doc: Any) -> Any:
        found, extra = whole(copy, entry, doc)
        return {**found, **{key: doc.fields[key] for key in ("heir",) if key in doc.fields}}, extra

    patch.setattr(copying._Copy, "_fields", fields)


def _copies_go_on_with_anything(patch: pytest.MonkeyPatch) -> None:
    def is_copied(*_: Any) -> Flow[bool]:
        yield from GetDocs(())
        return True

    patch.setattr(copying._Copy, "_is_copied", is_copied)
    patch.setattr(copying._Copy, "_has", is_copied)


def _collects_what_is_young(patch: pytest.MonkeyPatch) -> None:
    whole = collecting.list_all

    def listed(prefix: str) -> Flow[dict[str, BlobInfo]]:
        return {name: replace(blob, create_time=0) for name, blob in (yield from whole(prefix)).items()}

    patch.setattr(collecting, "list_all", listed)


def _writers_without_a_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readback, "ATTEMPT_DEADLINE_SECONDS", float("inf"))


def _settled(*looks: bool) -> Break:
    """A snapshot with a look for a copy where `looks` says so: before it, and after it."""

    def settled(thread_id: str, context: Any) -> Flow[Any]:
        before, after = looks
        if before:
            yield from pruning._thread(thread_id)
        found = yield from pruning.snapshot(thread_id, context)
        if after:
            yield from pruning._thread(thread_id)
        return found

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(pruning, "settled", settled)
        patch.setattr(collecting, "settled", settled)

    return apply


def _unseen(broken: Break) -> Break:
    """A reader is to notice it: pruners do not look for what is lost."""

    def is_whole(*_: Any) -> Flow[bool]:
        yield from GetDocs(())
        return True

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(pruning, "is_whole", is_whole)
        broken(patch)

    return apply


def _looks_once(patch: pytest.MonkeyPatch) -> None:
    """What looks lost in a snapshot is lost: the documents of thread and parent are not read again."""
    whole = pruning.is_whole

    def is_whole(found: Any, before: Any) -> Flow[bool]:
        seen = {name: entry.doc for name, entry in found.entries.items()}
        if before is not None:
            seen[before.name] = before
        flow, answer = whole(found, before), None
        while True:
            try:
                flow.send(answer)
            except StopIteration as end:
                return bool(end.value)
            yield from GetDocs(())
            answer = seen

    patch.setattr(pruning, "is_whole", is_whole)


def _looks_at_the_thread_afterwards(patch: pytest.MonkeyPatch) -> None:
    """Whether the root namespace had checkpoints is read after the snapshot, not before it."""
    whole = pruning.is_whole

    def is_whole(found: Any, _: Any) -> Flow[bool]:
        return (yield from whole(found, (yield from pruning._thread(found.thread_id))))

    patch.setattr(pruning, "is_whole", is_whole)


def _collects_half_a_task(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collecting, "_task", lambda name: name)


class _OldestFirst(TopologicalSorter):
    """Gives all nodes at once. A caller that needs an order gets that of the ids, backwards."""

    def add(self, node: str, *_: str) -> None:
        super().add(node)


def _without_topological_order(patch: pytest.MonkeyPatch) -> None:
    """Ids alone do not show which checkpoint needs which, if writers inherit from greater ids."""
    patch.setattr(pruning, "TopologicalSorter", _OldestFirst)
    patch.setattr(save.Put, "is_out_of_order", lambda _: False)


def _oldest_first(patch: pytest.MonkeyPatch) -> None:
    whole = pruning.prune

    def prune(thread_id: str, choose: Any, **options: Any) -> Flow[Any]:
        return whole(thread_id, lambda rows: choose(rows)[::-1], **options)

    patch.setattr(pruning, "TopologicalSorter", _OldestFirst)
    patch.setattr(pruning, "prune", prune)


def _objects_with_their_documents(patch: pytest.MonkeyPatch) -> None:
    """Each batch's objects go at once, not after all documents that refer to them."""
    whole = pruning.prune

    def prune(*args: Any, **options: Any) -> Flow[Any]:
        def change(effect: Effect[Any]) -> list[Effect[Any]]:
            if not isinstance(effect, Commit):
                return [effect]
            lists = [
                write.fields["objects"]
                for write in effect.writes
                if _is_removal(write) and "objects" in getattr(write, "fields", {})
            ]
            names = [name for text in lists for name in json.loads(text)]
            return [DeleteBlobs(tuple(names)), effect] if names else [effect]

        return _changed(whole(*args, **options), change)

    patch.setattr(pruning, "prune", prune)


def _ignores_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pruning, "holds_of", lambda _: ())


def _ends_all_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holds, "without_hold", lambda *_: {holds.HOLDS: {}})


_PRUNES = [
    (_with_writes(_removals_without_condition), "two_writers_and_prune", "I1"),
    (_with_writes(_stripped_is_deleted), "fork_of_what_goes_and_prune", "I1"),
    (_with_writes(_last_deletions_without_condition), "the_same_put_again_and_prune", "I1"),
    (_with_writes(_pending_writes_without_condition), "the_same_task_again_and_prune", "a part of a call"),
    (_with_writes(_runs_without_condition), "two_runs_and_prune", "a checkpoint's run"),
    (_unseen(_with_writes(_heirs_stay)), "latest_run_and_a_reader", "I3"),
    (_unseen(_with_writes(_root_stays)), "all_runs_and_a_new_one", "R raised DamageError"),
    (_looks_once, "prune_and_deletion", "P raised DamageError"),
    (_looks_at_the_thread_afterwards, "all_runs_and_a_new_one", "P raised DamageError"),
    (_without_topological_order, "ids_out_of_order_and_prune", "I1"),
    (_oldest_first, "late_fork_and_prune_in_small_batches", "I1"),
    (_objects_with_their_documents, "late_fork_and_prune_in_small_batches", "I1"),
    (_with_writes(_lists_no_objects), "latest_run_and_a_reader", "left"),
    (_objects_before_pending_writes, "dead_prune_then_the_same_id", "I1"),
    (_objects_of_others, "two_prunes", "I1"),
    (_runs_without_token, "a_run_that_lost_its_checkpoints_goes_on", "a checkpoint's run"),
    (_runs_of_a_parent_of_another_run, "a_run_that_lost_its_checkpoints_goes_on", "a checkpoint's run"),
    (_copies_newest_first, "copy_and_writes", "C raised ConflictError"),
    (_copies_name_their_heirs_at_once, "copy_and_writes", "I3"),
    (_copies_go_on_with_anything, "dead_copy_then_its_source_changes", "I1"),
    (_collects_what_is_young, "collect_and_writers", "I1"),
    (_writers_without_a_deadline, "collect_and_an_upload_that_takes_hours", "I1"),
    (_settled(False, False), "collect_and_a_dead_copy_repeated", "I1"),
    (_settled(False, False), "copy_and_a_prune_of_its_target", "I1"),
    (_settled(False, True), "copy_and_a_prune_of_its_target", "I1"),
    (_settled(True, False), "copy_and_a_prune_of_its_target", "I1"),
    (_settled(False, True), "copy_and_a_deletion_of_a_run_from_its_target", "I1"),
    (_settled(False, False), "copy_and_a_collection_of_its_target", "I1"),
    (_settled(False, True), "copy_and_a_collection_of_its_target", "I1"),
    (_settled(True, False), "copy_and_a_collection_of_its_target", "I1"),
    (_collects_half_a_task, "collect_and_writes_that_came_too_early", "a part of a call"),
    (_ignores_holds, "held_while_it_is_pruned", "I5"),
    (_ends_all_holds, "two_holds_one_of_which_ends_and_prune", "I2"),
    (_with_writes(_copies_without_guard, copying, "copy_thread"), "copy_and_a_deletion_of_its_target", "I1"),
]


@pytest.mark.parametrize(("broken", "name", "wrong"), _PRUNES)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name, BLIND_BUDGET, monkeypatch, ends=wrong != "I1")
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure


@pytest.mark.parametrize("names_are_new", [True, False])
def test_a_deletion_that_ends_late_leaves_the_objects_of_the_next_copy(
    names_are_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deletions of a target at once: one ends, a copy is made again, and the other deletes what it had listed."""
    if not names_are_new:
        monkeypatch.setattr(copying._Copy, "_attempt", lambda _, attempt: attempt)
    now = PRUNING["copy_and_two_deletions_of_its_target"]().world
    late = Steps(threads.delete_thread(TARGET, new_context("d")))
    now = late.until(ListBlobs, now)
    now = late.until(Commit, now)
    _, now = play(threads.delete_thread(TARGET, new_context("e")), now)
    _, now = play(copy().start(new_context("c")), now)
    now = late.until(DeleteBlobs, now)
    assert (dangling(now) is None) == names_are_new


def test_a_deletion_remembers_the_runs_of_what_a_pruner_strips_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pruner takes the run's name off "1", because "3" names it too; and the deletion has just listed both."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 1)
    now, context = World(), new_context("0")
    for number, run in enumerate(("r1", "r2", "r1"), 1):
        channels = grown(number)
        _, now = play(put_flow(context, str(number), str(number - 1) if number > 1 else None, channels, run=run), now)
    deletion = Steps(threads.delete_thread(THREAD, new_context("d")))
    now = deletion.until(Commit, now)
    now = deletion.until(QueryDocs, now)
    _, now = play(prune().start(new_context("p")), now)
    now = deletion.until(None, now)
    assert (list(now.docs), list(now.blobs)) == ([], [])
