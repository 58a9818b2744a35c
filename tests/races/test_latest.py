"""Reads of the latest checkpoint in one round: its document and what belongs to it reach the store in either order.

A process that remembers the latest checkpoint reads the tip, its pending writes and its frames at the same time. So
any of them may be first, while other processes write. What was read must not be older than the values beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.flows import load

from .scenarios import chain, large, small
from .world import (
    Process,
    Rules,
    Run,
    State,
    World,
    delete,
    explore,
    put,
    put_writes,
    read,
    values_of,
)

BUDGET = 3_000
SOAK_BUDGET = 300_000

START = chain(2)
LATER = START.channels | small("later") | large("later")
"""Values that the latest checkpoint gets when it is stored again."""

READS = tuple(read(None) for _ in range(3))
"""The first read expects nothing, the second one what the first has found, and the third what it has learned since."""


class _Checks:
    """What must hold, and what the read of a process must have seen."""

    def __init__(self, *processes: Process) -> None:
        self.rules = Rules(may_vanish="ABR", errors=(ConflictError,))
        for call in (*START.calls, *(call for process in processes for call in process.calls)):
            self.rules.learn(call)

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        return self.rules.check(world, runs) or next(filter(None, map(_mixed, runs)), None)

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        return self.check(world, runs) or self.rules.check_end(world, runs)


def _mixed(run: Run) -> str | None:
    """What a process has read that was not there any more, or not yet."""
    newest = ""
    mine: set[tuple[str, str]] = set()
    for call, result in run.node.done:
        if call.writes is not None:
            mine.add(call.writes[:2])
        for loaded in result if call.reads else ():
            checkpoint_id = loaded.manifest.checkpoint_id
            tasks = {task for task, _, _ in loaded.writes}
            if "former" in tasks and dict(loaded.values) == values_of(LATER):
                return "pending writes from before the checkpoint was deleted and stored again"
            if not {task for one, task in mine if one == checkpoint_id} <= tasks:
                return f"the process does not see its own writes to {checkpoint_id!r}, but {tasks}"
            if checkpoint_id < newest:
                return f"{checkpoint_id!r} was read after {newest!r}"
            newest = checkpoint_id
    return None


def _scenarios() -> dict[str, tuple[Process, ...]]:
    child: State = START.channels | small("3")
    grandchild: State = child | large("4")
    return {
        "others write": (
            Process("R", READS),
            Process("A", (put_writes("2", "task", [("c", "x"), ("__interrupt__", "i")]), put("3", "2", child, "s"))),
            Process("B", (put_writes("2", "other", [("c", "y")]), put("4", "2", grandchild, "so")), lost=1),
        ),
        "the reader writes": (
            Process(
                "R", (READS[0], put_writes("2", "mine", [("c", "x")]), READS[1], put("3", "2", child, "s"), READS[2])
            ),
            Process("A", (put("4", "2", grandchild, "so"), put_writes("4", "task", [("c", "y")]))),
        ),
        "stored again": (
            Process("R", READS),
            Process(
                "A",
                (
                    put_writes("2", "former", [("c", "x")]),
                    delete(),
                    put("2", None, LATER, LATER),
                    put_writes("2", "later", [("c", "y")]),
                ),
            ),
        ),
        "deleted": (Process("R", READS), Process("D", (delete(),), lost=1)),
    }


def _explored(name: str, budget: int, *, backwards: bool) -> Any:
    reader, *others = _scenarios()[name]
    processes = (Process(reader.name, reader.calls, backwards=backwards), *others)
    checks = _Checks(*processes)
    return explore(START.world, processes, checks.check, checks.check_end, budget=budget)


ORDERS = pytest.mark.parametrize("backwards", [False, True], ids=["tip first", "tip last"])


@ORDERS
@pytest.mark.parametrize("name", _scenarios())
def test_any_order_of_requests_gives_what_was_there(name: str, backwards: bool) -> None:
    report = _explored(name, BUDGET, backwards=backwards)
    assert report.failure is None, report.failure
    assert report.ends, "no schedule came to its end"


@pytest.mark.soak
@ORDERS
@pytest.mark.parametrize("name", _scenarios())
def test_many_orders_of_requests_give_what_was_there(name: str, backwards: bool) -> None:
    report = _explored(name, SOAK_BUDGET, backwards=backwards)
    assert report.failure is None, report.failure


# The rules, each removed in turn


def _changed_counts(patch: pytest.MonkeyPatch) -> None:
    """Take what was read beside the tip even if the tip has been stored again in between."""
    patch.setattr(load, "_is_unchanged", lambda *_: True)


def _any_tip_counts(patch: pytest.MonkeyPatch) -> None:
    """Return the checkpoint that was expected, whichever is the latest. It may even be gone."""
    whole = load._find_latest

    def find(thread_id: str, ns: str, after: str | None, context: Any) -> Any:
        expected = context.expected(thread_id, ns) if after is None else None
        if expected is None:
            return (yield from whole(thread_id, ns, after, context))
        return (yield from load._find(thread_id, ns, expected.manifest.checkpoint_id))

    patch.setattr(load, "_find_latest", find)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_changed_counts, "stored again", "pending writes from before"),
        (_any_tip_counts, "the reader writes", "R raised"),
    ],
)
def test_a_removed_rule_is_noticed(
    broken: Callable[[pytest.MonkeyPatch], None], name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    report = _explored(name, SOAK_BUDGET, backwards=True)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
