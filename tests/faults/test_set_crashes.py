"""A process that crashes at any effect of a set leaves a team whose next set is committed, and no stray hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import SetAbortedError
from langgraph_gcs_saver.flows import sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan, put_arguments

TEAM = "the team/1"
MEMBERS = ("a", "b")


def thread(member: str) -> str:
    return keys.member_thread_id(TEAM, member)


def perform(saver: CrashingSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def put(saver: CrashingSaver, number: int) -> None:
    for member in MEMBERS:
        saver.put(*put_arguments(number, number - 1 or None, thread=thread(member)))


def begun(saver: CrashingSaver, timeout: float = 60.0) -> sets.SetRecord:
    found: sets.SetRecord = perform(saver, sets.begin(TEAM, MEMBERS, "one", timeout, saver._context))
    return found


def prepared(saver: CrashingSaver, set_id: str) -> sets.SetRecord:
    found: sets.SetRecord = perform(saver, sets.prepare(TEAM, set_id, saver._context))
    return found


def vote(saver: CrashingSaver, found: sets.SetRecord, member: str) -> None:
    (doc,) = saver._backend.perform(sets.newest_root(thread(member)))
    voted = sets.vote_in(doc)
    assert voted is not None
    perform(saver, sets.vote(found.name, member, voted, saver._context))


def held(saver: CrashingSaver) -> dict[str, set[str]]:
    """The checkpoints that each hold keeps."""
    found: dict[str, set[str]] = {}
    for name, fields in saver.raw().documents.items():
        for key in fields.get(HOLDS, ()):
            found.setdefault(key, set()).add(name)
    return found


def check(saver: CrashingSaver) -> None:
    """A committed or broken set has its holds, and nothing else has any."""
    records = perform(saver, sets.records(TEAM, saver._context))
    kept = {one.hold.key: set(map(one.checkpoint, one.cut)) for one in records if one.cut}
    assert held(saver) == kept
    hint = sets.preparing(saver._backend.perform(GetDocs((keys.team_doc(TEAM),))).get(keys.team_doc(TEAM)))
    preparing = {one.set_id for one in records if one.state == "preparing"}
    assert preparing == (set() if hint is None else {hint.set_id})


Step = Callable[[CrashingSaver, sets.SetRecord], Any]


def _abort(saver: CrashingSaver, _: sets.SetRecord) -> None:
    found = begun(saver, 1e-9)
    with pytest.raises(SetAbortedError):
        prepared(saver, found.set_id)


def _votes(saver: CrashingSaver, _: sets.SetRecord) -> None:
    found = begun(saver)
    for member in MEMBERS:
        vote(saver, found, member)
    assert perform(saver, sets.decide(TEAM, found.set_id, saver._context)).state == "committed"


STEPS: dict[str, Step] = {
    "join": lambda saver, _: perform(saver, sets.join(TEAM, "c")),
    "begin": lambda saver, _: begun(saver),
    "begin and prepare": lambda saver, _: prepared(saver, begun(saver).set_id),
    "vote and decide": _votes,
    "abort": _abort,
    "end": lambda saver, past: perform(saver, sets.end(TEAM, past.set_id, saver._context)),
    "retain": lambda saver, _: perform(saver, sets.retain(TEAM, 0, saver._context)),
    "break": lambda saver, past: perform(saver, sets.break_(past.hold, saver._context)),
    "delete": lambda saver, _: perform(saver, sets.delete(TEAM, saver._context)),
}
"""What a process does that crashes. It gets a set that was committed before."""


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], str]:
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


def _crashed(uri: str, name: str, stop_after: int | None) -> tuple[sets.SetRecord, Plan]:
    with CrashingSaver.from_conn_string(uri) as saver:
        put(saver, 1)
        past = prepared(saver, begun(saver).set_id)
        vote(saver, past, "a")  # too late
        put(saver, 2)
    with CrashingSaver.from_conn_string(uri) as saver:
        plan = saver.plan = Plan(stop_after)
        try:
            STEPS[name](saver, past)
        except Crashed:
            saver.plan = Plan()
    return past, plan


@pytest.mark.parametrize("name", STEPS)
def test_crashes_before_and_after_every_effect(name: str, new_store: Callable[[], str]) -> None:
    _, whole = _crashed(new_store(), name, None)
    assert whole.done
    for stop_after in range(len(whole.done) + 1):
        uri = new_store()
        past, _ = _crashed(uri, name, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            check(saver)
            # Another process repeats what must not be left half done.
            if name in {"end", "retain", "break", "delete"}:
                STEPS[name](saver, past)
                check(saver)
            put(saver, 3)
            found = prepared(saver, begun(saver).set_id)
            assert found.state == "committed"
            assert [one.checkpoint_id[-1] for one in found.cut.values()] == ["3", "3"]
            check(saver)
            vote(saver, past, "b")  # Its set may be gone.
            perform(saver, sets.delete(TEAM, saver._context))
            assert not held(saver)
            assert not [doc for doc in saver.raw().documents if doc.startswith(keys.TEAMS)]
