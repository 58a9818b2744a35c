"""A process that crashes at any effect of a hold, or of a deletion of what is held, breaks no committed set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ThreadInSetError
from langgraph_gcs_saver.flows import holds, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan, config_of, put_arguments

TEAM = "deal"
THREAD = keys.member_thread_id(TEAM, "me")
SAVEPOINT = Hold("savepoint", "trip", "start")

Step = Callable[[CrashingSaver, str], Any]
"""What a process does that crashes; it gets the id of the checkpoint that a set holds."""


def perform(saver: CrashingSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def put(saver: CrashingSaver, number: int, parent: int | None) -> None:
    saver.put(*put_arguments(number, parent, thread=THREAD))


def newest(saver: CrashingSaver) -> int | None:
    found = saver.get_tuple(config_of(None, thread=THREAD))
    return None if found is None else found.metadata["step"]


STEPS: dict[str, tuple[bool, Step]] = {
    "hold": (
        False,
        lambda saver, held: perform(saver, holds.hold(THREAD, held, SAVEPOINT.key, saver._context)),
    ),
    "end of a hold": (
        False,
        lambda saver, held: perform(saver, holds.unhold(THREAD, held, SAVEPOINT.key, saver._context)),
    ),
    "refused deletion": (False, lambda saver, _: _refused(lambda: saver.delete_thread(THREAD))),
    "refused deletion of a run": (False, lambda saver, _: _refused(lambda: saver.delete_for_runs(["run"]))),
    "prune": (False, lambda saver, _: saver.prune([THREAD])),
    "deletion by force": (True, lambda saver, _: saver.admin.delete_thread(THREAD, force=True)),
    "deletion of a run by force": (True, lambda saver, _: saver.admin.delete_for_runs(["run"], force=True)),
}
"""By name: whether the step breaks the set, and the step."""


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], str]:
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


def _refused(delete: Callable[[], Any]) -> None:
    with pytest.raises(ThreadInSetError):
        delete()


def _crashed(uri: str, name: str, stop_after: int | None) -> tuple[str, str, Plan]:
    """The set, the checkpoint that it holds, and what a process has done until it crashed."""
    with CrashingSaver.from_conn_string(uri) as saver:
        for number in (1, 2, 3):
            put(saver, number, number - 1 or None)
        begun = perform(saver, sets.begin(TEAM, ["me"], None, 60.0, saver._context))
        found = perform(saver, sets.prepare(TEAM, begun.set_id, saver._context))
        held = found.cut["me"].checkpoint_id
        put(saver, 4, 3)
        if name == "end of a hold":
            perform(saver, holds.hold(THREAD, held, SAVEPOINT.key, saver._context))
    with CrashingSaver.from_conn_string(uri) as saver:
        plan = saver.plan = Plan(stop_after)
        with suppress(Crashed):
            STEPS[name][1](saver, held)
        saver.plan = Plan()
    return begun.set_id, held, plan


def _check(saver: CrashingSaver, set_id: str, held: str) -> str:
    """The state of the set. While it is committed, its checkpoint is held and can be read (I9)."""
    state = perform(saver, sets.read(TEAM, set_id, saver._context)).state
    if state == "committed":
        assert any("set" in one for one in saver.admin.holds(config_of(None, thread=THREAD))[held])
        config = config_of(None, thread=THREAD)
        config["configurable"]["checkpoint_id"] = held
        found = saver.get_tuple(config)
        assert found is not None
        assert found.metadata["step"] == 3
    return str(state)


@pytest.mark.parametrize("name", STEPS)
def test_crashes_before_and_after_every_effect(name: str, new_store: Callable[[], str]) -> None:
    breaks, step = STEPS[name]
    set_id, held, whole = _crashed(new_store(), name, None)
    assert whole.done
    states = set()
    for stop_after in range(len(whole.done) + 1):
        uri = new_store()
        set_id, held, _ = _crashed(uri, name, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            states.add(_check(saver, set_id, held))
            step(saver, held)  # Another process completes it.
            state = _check(saver, set_id, held)
            assert state == ("broken" if breaks else "committed")
            put(saver, 5, newest(saver))
            assert newest(saver) == 5
            assert "deleting" not in saver.raw().documents[keys.thread_doc(THREAD)]
    assert states == ({"committed", "broken"} if breaks else {"committed"})
