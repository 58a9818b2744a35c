"""Every order in which the first writers of a store can name its place. A later writer from elsewhere is refused."""

from __future__ import annotations

import pytest

from langgraph_gcs_saver.engine.effects import Flow, Merge
from langgraph_gcs_saver.errors import WrongStoreError
from langgraph_gcs_saver.flows import places
from langgraph_gcs_saver.flows.context import Binding, Context, Place
from langgraph_gcs_saver.format import keys

from .world import LARGE, SMALL, Call, Process, Run, World, explore, put_flow, random_bytes, state, writes_flow

BUDGET = 40_000


def _from(bucket: str, *calls: Call) -> tuple[Call, ...]:
    """The calls, as a saver makes them that was given this bucket."""
    return tuple(Call(call.label, lambda context, call=call: _admitted(call, context, bucket)) for call in calls)


def _admitted(call: Call, context: Context, bucket: str) -> Flow[object]:
    return places.admit(call.start(context), Binding(Place(bucket, "")))


def _put(checkpoint_id: str, size: int) -> Call:
    channels = state(v=random_bytes(checkpoint_id, size))
    return Call(f"put of {checkpoint_id}", lambda context: put_flow(context, checkpoint_id, None, channels))


def _write(task: str) -> Call:
    return Call(f"put_writes of {task}", lambda context: writes_flow(context, "x", task, [("v", task)]))


def _check(world: World, runs: tuple[Run, ...]) -> str | None:
    note = world.doc(keys.PLACE)
    bucket = None if note is None else note.fields["bucket"]
    # Names of checkpoints and tasks begin with the process's name, which is its bucket's.
    found = {keys.checkpoint_id_of(doc.name) for doc in world.checkpoints()}
    found |= {str(keys.writes_task_id_of(name)) for name in world.docs if f"/{keys.WRITES}/" in name}
    found |= {name.split("/")[2] for name in world.blobs}
    wrong = {one for one in found if bucket is None or one[0] != bucket}
    if wrong:
        return f"the store's bucket is {bucket!r}, and there is {wrong}"
    if bucket is None and world.docs:
        return "something was written before the store had a place"
    for run in runs:
        if run.node.error is not None and not (
            isinstance(run.node.error, WrongStoreError) and run.process.name != bucket
        ):
            return f"{run.process.name} raised {run.node.error!r} in the store of {bucket!r}"
    return None


def _check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    note = world.doc(keys.PLACE)
    if note is None:
        return None if all(run.dead for run in runs) else "somebody has ended, and the store has no place"
    for run in runs:
        is_done = run.node.error is None and len(run.node.done) == len(run.process.calls)
        if not run.dead and is_done != (run.process.name == note.fields["bucket"]):
            return f"{run.process.name} ended in the store of {note.fields['bucket']!r}: {run.node.error!r}"
    return None


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_of_two_first_writers_one_learns_the_others_bucket(size: int) -> None:
    processes = [
        Process(name, _from(name, _put(f"{name}1", size), _write(f"{name}-task")), lost=1, dies=True) for name in "ab"
    ]
    report = explore(World(), processes, _check, _check_end, budget=BUDGET)
    assert report.failure is None, report.failure
    assert report.complete
    assert report.ends > 10


def test_a_store_whose_first_writer_died_is_still_its_own() -> None:
    """Between naming the place and the first checkpoint: another bucket does not take it over."""
    processes = [
        Process("a", _from("a", _put("a1", SMALL)), dies=True),
        Process("b", _from("b", _put("b1", SMALL)), after="a"),
    ]
    report = explore(World(), processes, _check, _check_end, budget=BUDGET)
    assert report.failure is None, report.failure
    assert report.complete


def test_without_the_condition_both_would_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "Create", Merge)
    processes = [Process(name, _from(name, _put(f"{name}1", SMALL))) for name in "ab"]
    report = explore(World(), processes, _check, _check_end, budget=BUDGET)
    assert report.failure is not None
