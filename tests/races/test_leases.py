"""Every order in which holders of a lease, writers without one, beats and deletions take their steps.

A holder stores nothing once its lease is lost, and is never refused while it has it. A writer without a lease never
extends the newest checkpoint while a lease is in force. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Flow, GetDocs, Merge
from langgraph_gcs_saver.flows import leases, save
from langgraph_gcs_saver.flows.companions import Companions
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.leases import Acquisition
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.stores import rows

from .leased import LEASED, check, check_end
from .world import THREAD, Report, explore

BUDGET = 60_000
"""States to look at, more than any of these scenarios has."""


SAMPLED = {"a_deletion_that_is_taken_for_crashed": 8_000}
"""States to look at of scenarios that have too many, because the deletion starts over again and again."""


def _explored(name: str) -> Report:
    scenario = LEASED[name]()
    return explore(scenario.world, scenario.processes, check, check_end, budget=SAMPLED.get(name, BUDGET))


@pytest.mark.parametrize("name", LEASED)
def test_no_order_of_steps_breaks_anything(name: str) -> None:
    report = _explored(name)
    assert report.failure is None, report.failure
    assert report.complete or name in SAMPLED, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _without_check_of(kind: str) -> Break:
    """The holder's calls of one kind do not require its fence."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        whole = Context.companions_of

        def of(context: Any, asked: Any, *ids: Any, **more: Any) -> Companions:
            return whole(context, asked, *ids, **{**more, "fence": None} if asked == kind else more)

        patch.setattr(Context, "companions_of", of)

    return broken


def _refreshed(patch: pytest.MonkeyPatch) -> None:
    """After a conflict the holder takes the fence for its own as it is then."""

    def writes(fence: Any, _: Any, docs: Any) -> Any:
        return (Merge(fence.name, {}, update_time=docs[fence.name].update_time if docs else fence.time),)

    patch.setattr(Fence, "writes", writes)


def _by_token(patch: pytest.MonkeyPatch) -> None:
    """After a conflict, and before it creates the thread, the holder recognizes its fence by the token."""

    def require(fence: Any, doc: Any) -> None:
        if doc is None or doc.fields["token"] != fence.token:
            demanded(fence, doc)

    def writes(fence: Any, attempt: Any, docs: Any) -> Any:
        doc = docs.get(fence.name)
        if attempt.number == 1 or doc is None or doc.fields["token"] != fence.token:
            return whole(fence, attempt, docs)
        return (Merge(fence.name, {}, update_time=doc.update_time),)

    whole, demanded = Fence.writes, Fence.require
    patch.setattr(Fence, "writes", writes)
    patch.setattr(Fence, "require", require)


def _by_owner(patch: pytest.MonkeyPatch) -> None:
    """An acquisition whose answer was lost recognizes itself by the owner's name."""
    patch.setattr(Acquisition, "_is_mine", lambda self, lease: lease.owner == self.request.owner)


def _rewritten(name: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Break:
    def broken(patch: pytest.MonkeyPatch) -> None:
        whole = getattr(Acquisition, name)
        patch.setattr(Acquisition, name, lambda self, *given: change(whole(self, *given)))

    return broken


def _unseen(writes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(Merge(write.name, write.fields) for write in writes)


def _no_note(writes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(write for write in writes if write.name != keys.thread_doc(THREAD))


def _in_one_commit(patch: pytest.MonkeyPatch) -> None:
    """An acquisition is one commit, which the puts of the holder make fail."""
    whole = Acquisition._take

    def take(self: Any) -> Flow[Any]:
        marks = yield from self._marks()
        writes = Acquisition._writes
        patch.setattr(Acquisition, "_writes", lambda *given: (*writes(*given), *(marks[0] if marks else ())))
        try:
            return (yield from whole(self))
        finally:
            patch.setattr(Acquisition, "_writes", writes)

    patch.setattr(Acquisition, "_take", take)
    patch.setattr(leases, "MAX_TRIES", 1)


def _no_tips(patch: pytest.MonkeyPatch) -> None:
    def none(_: Any) -> Flow[list[Any]]:
        yield from ()
        return []

    patch.setattr(Acquisition, "_marks", none)


def _unmarked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "mark", property(lambda _: {}))


def _no_look(patch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Flow[tuple[()]]:
        yield from ()
        return ()

    patch.setattr(save, "respect", none)


def _not_overtaken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(save._Attempts, "_is_overtaken", lambda *_: False)


def _unseen_release(patch: pytest.MonkeyPatch) -> None:
    def release(fence: Any, _: Any) -> Flow[None]:
        yield from Commit((Merge(fence.name, {"owner": None}),))

    patch.setattr(leases, "release", release)


def _beat_in_the_fence(patch: pytest.MonkeyPatch) -> None:
    def beat(fence: Any, seen: Any, *_: Any) -> Flow[Any]:
        doc = (yield from GetDocs((fence.name,))).get(fence.name)
        if doc is not None and doc.fields["nonce"] == fence.nonce:
            yield from Commit((Merge(fence.name, {"beat": 1}, update_time=doc.update_time),))
        return seen

    patch.setattr(leases, "beat", beat)


def _unseen_beat(patch: pytest.MonkeyPatch) -> None:
    def beat(fence: Any, seen: Any, *_: Any) -> Flow[Any]:
        times = yield from Commit((Merge(keys.beat_doc(THREAD), {"nonce": fence.nonce, "counter": 1}),))
        return leases.Beat(times[0])

    patch.setattr(leases, "beat", beat)


def _empty_merges_move(patch: pytest.MonkeyPatch) -> None:
    """A service for which a write without fields changes the update time."""

    def merged(write: Any, stored: Any, message: Any) -> Any:
        return whole(write, stored, message) or rows.PbMapValue.FromString(stored)

    whole = rows._merged
    patch.setattr(rows, "_merged", merged)


def _deleted_early(patch: pytest.MonkeyPatch) -> None:
    """A deletion deletes the fence with the other documents, and not with the thread's."""
    patch.setattr(registry, "COLLECTIONS", tuple(replace(entry, ends=False) for entry in registry.COLLECTIONS))


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_without_check_of("put"), "a_stale_holders_steps_and_a_thief", "I7"),
        (_without_check_of("put_writes"), "a_stale_holders_steps_and_a_thief", "I7"),
        (_refreshed, "a_stale_holders_steps_and_a_thief", "I7"),
        (_by_token, "a_holder_a_deletion_and_a_new_thread", "I7"),
        (_by_owner, "a_pod_and_its_successor_of_the_same_name", "I7"),
        (_rewritten("_writes", _unseen), "two_that_do_not_steal", "exclusion"),
        (_in_one_commit, "a_takeover_of_a_holder_that_writes", "liveness"),
        (_no_tips, "a_holder_and_a_writer_without_a_lease", "mixed"),
        (_rewritten("_writes", _no_note), "first_steps_of_a_holder_and_of_a_writer_without_a_lease", "mixed"),
        (_unmarked, "a_holder_and_a_writer_without_a_lease", "mixed"),
        (_no_look, "a_holder_and_a_writer_without_a_lease", "mixed"),
        (_not_overtaken, "a_lease_between_a_read_and_a_step_without_a_lease", "stale"),
        (_unseen_release, "a_release_by_a_stale_holder_and_a_thief", "liveness"),
        (_beat_in_the_fence, "parallel_writes_and_beats_of_a_holder", "liveness"),
        (_unseen_beat, "a_stale_beat_and_a_thief", "liveness"),
        (_unseen_beat, "a_stale_beat_and_a_deletion", "I6"),
        (_empty_merges_move, "parallel_writes_and_beats_of_a_holder", "liveness"),
        (_deleted_early, "a_deletion_that_is_taken_for_crashed", "liveness"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
