"""Every order in which processes can make a store's key for analytics: all of them get the same one."""

from __future__ import annotations

import pytest

from langgraph_gcs_saver.engine.effects import Merge
from langgraph_gcs_saver.flows import analytics
from langgraph_gcs_saver.format import keys

from .world import Call, Process, Run, World, explore

BUDGET = 20_000


def _process(name: str) -> Process:
    return Process(name, (Call("key", lambda _: analytics.store_key(name.encode() * 32)),), lost=1, dies=True)


def _check(world: World, runs: tuple[Run, ...]) -> str | None:
    doc = world.doc(keys.ANALYTICS)
    for run in runs:
        if run.node.error is not None:
            return f"{run.process.name} raised {run.node.error!r}"
        if run.node.done and (doc is None or run.node.done[0][1] != doc.fields["key"]):
            return f"{run.process.name} has {run.node.done!r}, and the store has {doc!r}"
    return None


def _check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    ended = [run for run in runs if not run.dead]
    return None if all(run.node.done for run in ended) else "a process has no key"


def test_all_processes_have_one_key() -> None:
    report = explore(World(), [_process(name) for name in "abc"], _check, _check_end, budget=BUDGET)
    assert report.failure is None, report.failure
    assert report.complete
    assert report.ends > 10


def test_without_the_condition_they_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytics, "Create", Merge)
    report = explore(World(), [_process(name) for name in "ab"], _check, _check_end, budget=BUDGET)
    assert report.failure is not None
