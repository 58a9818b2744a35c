"""Every order in which a change of a store's role meets those who store something in it.

No commit changes a replicated document while the store is not the primary, and each that changes one adds its entry. A
change that leaves the store the primary is not visible to any flow. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import Commit, Flow, Merge
from langgraph_gcs_saver.flows import prune as pruning_flows
from langgraph_gcs_saver.flows import roles, writes
from langgraph_gcs_saver.format import item_batches, keys, regions

from . import compensating, leased, operating, restoring
from .batching import BATCHING
from .compensating import SAGAS
from .leased import LEASED
from .operating import OPERATING
from .pruning import PRUNING, TARGET
from .ruled import becomes, in_region, judged
from .scenarios import SCENARIOS
from .world import INLINE_BYTES, THREAD, Check, Process, Report, World, explore

SAMPLE, BUDGET = 200, 60_000
"""States that the usual tests look at, and the soak tests."""

Scenario = tuple[World, tuple[Process, ...], Check]


def _of_rules(scenario: Any) -> Scenario:
    return scenario.world, scenario.processes, scenario.rules.check


def _restore() -> Scenario:
    found = restoring.scenario("a_restore_and_a_run_under_a_lease", is_lean=True)
    return found.world, found.processes, restoring.check


def _operation(name: str) -> Scenario:
    return (*OPERATING[name](), operating.check)


def _saga(name: str) -> Scenario:
    return (*SAGAS[name](), compensating.check)


def _lease(name: str) -> Scenario:
    found = LEASED[name]()
    return found.world, found.processes, leased.check


SCENES: dict[str, Callable[[], Scenario]] = {
    "steps": lambda: _of_rules(SCENARIOS["two_puts_on_one_parent"]()),
    "first steps": lambda: _of_rules(SCENARIOS["two_first_puts"]()),
    "pending writes": lambda: _of_rules(SCENARIOS["the_same_writes_in_two_processes"]()),
    "writes and a deletion": lambda: _of_rules(SCENARIOS["mixed_writes_and_a_deletion"]()),
    "an object and a deletion": lambda: _of_rules(SCENARIOS["put_of_an_object_and_deletion"]()),
    "a prune": lambda: _of_rules(PRUNING["next_step_and_prune"]()),
    "a pin": lambda: _of_rules(PRUNING["pinned_while_it_is_pruned"]()),
    "an operation": lambda: _operation("one_worker_whose_answers_are_lost"),
    "a person": lambda: _operation("a_person_who_gives_a_result"),
    "a saga": lambda: _saga("a_run_a_rollback_and_its_resumption"),
    "a batch": lambda: _of_rules(BATCHING["two_workers_and_lost_answers"]()),
    "a batch of large outputs": lambda: _of_rules(BATCHING["large_outputs_and_a_deletion"]()),
    "a restore": _restore,
    "a lease": lambda: _lease("two_that_do_not_steal"),
    "a lease that is taken over": lambda: _lease("two_thieves"),
}

CHANGES = {
    "it stays the primary": (becomes("primary"), becomes("primary")),
    "it is fenced": (becomes("fenced"),),
    "it is fenced, and that is taken back": (becomes("fenced"), becomes("primary")),
}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "INLINE_BYTES", INLINE_BYTES)
    monkeypatch.setattr(item_batches, "INLINE_BYTES", 300)
    # Of 256 documents, those of the first role and of the threads in these scenarios.
    threads = (THREAD, TARGET, *map(restoring.thread, restoring.MEMBERS))
    digits = tuple(sorted({"00", *(keys.spread(one)[:2] for one in threads)}))
    for module in (regions, roles):
        monkeypatch.setattr(module, "DIGITS", digits)
        monkeypatch.setattr(module, "ROLES", tuple(map(keys.role_doc, digits)))


def _explored(scene: str, change: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    monkeypatch.setattr(pruning_flows, "DOCS_PER_PAGE", 2)
    world, processes, check = SCENES[scene]()
    world, processes = in_region(world, processes, *CHANGES[change])
    check = judged(check, may_stop="fenced" in change)
    return explore(world, processes, check, check, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("scene", SCENES)
def test_no_order_of_steps_breaks_anything(
    scene: str, change: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _explored(scene, change, budget, monkeypatch)
    assert report.failure is None, report.failure
    assert report.ends


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]
_ruled = roles._Part.ruled


def _no_precondition(patch: pytest.MonkeyPatch) -> None:
    """The process reads the role, and does not require it in its commits."""

    def ruled(part: Any, known: Any, region: Any) -> Any:
        whole = _ruled(part, known, region)
        if not isinstance(whole, Commit):
            return whole
        return Commit(tuple(write for write in whole.writes if not write.name.startswith(keys.REGION)))

    patch.setattr(roles._Part, "ruled", ruled)


def _no_entries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(regions.Entry, "write", property(lambda entry: Merge(keys.thread_doc(THREAD), {})))


def _entries_in_a_commit_of_their_own(patch: pytest.MonkeyPatch) -> None:
    whole = roles._perform_ruled

    def apart(region: Any, parts: Any) -> Flow[Any]:
        entries = [entry.write for part in parts for entry in part.entries]
        for part in parts:
            part.entries = ()
        found = yield from whole(region, parts)
        if entries:
            yield from Commit(tuple(entries))
        return found

    patch.setattr(roles, "_perform_ruled", apart)


def _any_role_will_do(patch: pytest.MonkeyPatch) -> None:
    """After a change of the role, the process requires the new one, whatever it is."""
    patch.setattr(roles, "require_primary", lambda _: None)


def _deletions_are_not_entered(patch: pytest.MonkeyPatch) -> None:
    whole = regions._change
    patch.setattr(regions, "_change", lambda write: None if whole(write) == "delete" else whole(write))


def _leases_need_no_role(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(regions, "acquires", lambda _: False)


def _leases_outlive_an_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles.Region, "try_commit", lambda *_: None)


def _a_repetition_has_a_lease_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """The last try says in which epoch a lease was acquired, although an earlier one may have been applied."""
    whole = roles.Region.try_commit

    def try_commit(region: Any, commit: Commit, known: Any) -> None:
        for write in filter(regions.acquires, commit.writes):
            region.leased.pop(write.name, None)
        whole(region, commit, known)

    patch.setattr(roles.Region, "try_commit", try_commit)


def _changes_are_visible(patch: pytest.MonkeyPatch) -> None:
    """A commit that has failed by the role alone looks to its flow as if another writer was first."""
    patch.setattr(roles._Part, "has_failed", property(lambda _: False))


@pytest.mark.parametrize(
    ("broken", "scene", "change", "wrong"),
    [
        (_no_precondition, "steps", "it is fenced", "not primary"),
        (_no_precondition, "pending writes", "it is fenced", "not primary"),
        (_no_precondition, "an operation", "it is fenced", "not primary"),
        (_no_precondition, "a saga", "it is fenced", "not primary"),
        (_no_precondition, "a batch", "it is fenced", "not primary"),
        (_no_precondition, "a restore", "it is fenced", "not primary"),
        (_no_precondition, "writes and a deletion", "it is fenced", "not primary"),
        (_no_precondition, "a prune", "it is fenced", "not primary"),
        (_any_role_will_do, "steps", "it is fenced", "not primary"),
        (_any_role_will_do, "an operation", "it is fenced", "not primary"),
        (_changes_are_visible, "steps", "it stays the primary", "raised ConflictError"),
        (_changes_are_visible, "pending writes", "it stays the primary", "raised ConflictError"),
        (_no_entries, "steps", "it stays the primary", "untold"),
        (_no_entries, "a batch", "it stays the primary", "untold"),
        (_entries_in_a_commit_of_their_own, "steps", "it stays the primary", "untold"),
        (_leases_need_no_role, "a lease", "it is fenced", "not primary"),
        (_leases_outlive_an_epoch, "a lease", "it is fenced, and that is taken back", "stale lease"),
        (_a_repetition_has_a_lease_of_its_own, "a lease", "it is fenced, and that is taken back", "stale lease"),
        (_deletions_are_not_entered, "a prune", "it stays the primary", "untold"),
        (_deletions_are_not_entered, "writes and a deletion", "it stays the primary", "untold"),
    ],
)
def test_a_removed_rule_is_noticed(
    broken: Break, scene: str, change: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    report = _explored(scene, change, BUDGET, monkeypatch)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert wrong in report.failure.partition("\n")[0], report.failure
