"""A process that crashes at any effect of taking, giving back or ending a lease leaves a thread that can be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import FencedError, ThreadBusyError
from langgraph_gcs_saver.flows import leases, save, threads
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan, config_of, put_arguments

THREAD = "t"
FENCE = keys.fence_doc(THREAD)

Step = Callable[[CrashingSaver, Fence | None], Any]
"""What a process does that crashes; it gets the lease from before, if there is one."""


def perform(saver: CrashingSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def acquire(saver: CrashingSaver, nonce: str, *, take_over: bool = False, owner: str = "") -> leases.Acquired:
    request = leases.Acquire(THREAD, owner or nonce, nonce, 60.0, take_over)
    return perform(saver, leases.Acquisition(request, 0.0, saver._context).flow())


def put(saver: CrashingSaver, number: int, parent: int | None, fence: Fence | None) -> None:
    config, checkpoint, metadata, versions = put_arguments(number, parent)
    request = arguments.put_request(
        config, checkpoint, metadata, versions, serde=saver.serde, context=saver._context, now=0.0
    )
    perform(saver, save.put(replace(request, fence=fence), saver._context))


def newest(saver: CrashingSaver) -> int | None:
    found = saver.get_tuple(config_of(None))
    return None if found is None else found.metadata["step"]


STEPS: dict[str, tuple[bool, Step]] = {
    "acquire": (False, lambda saver, _: acquire(saver, "n")),
    "take over": (True, lambda saver, _: acquire(saver, "n", take_over=True)),
    "take one's own back": (True, lambda saver, _: acquire(saver, "n", owner="old")),
    "release": (True, lambda saver, fence: perform(saver, leases.release(fence, saver._context))),
    "break": (True, lambda saver, _: _break(saver)),
    "delete": (False, lambda saver, _: saver.delete_thread(THREAD)),
    "delete by force": (
        True,
        lambda saver, _: perform(saver, threads.delete_thread(THREAD, saver._context, force=True)),
    ),
}
"""By name: whether a process holds the lease before, and the step."""


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], str]:
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


def _break(saver: CrashingSaver) -> None:
    """End a lease, as if it had expired."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases.Lease, "is_expired", property(lambda lease: lease.owner is not None))
        perform(saver, leases.respect(THREAD, saver._context))


def _crashed(uri: str, name: str, stop_after: int | None) -> tuple[Fence | None, Plan]:
    is_held, step = STEPS[name]
    with CrashingSaver.from_conn_string(uri) as saver:
        put(saver, 1, None, None)
        put(saver, 2, 1, None)
        saver.put(*put_arguments(3, None, ns="sub"))
        fence = acquire(saver, "old").fence if is_held else None
    with CrashingSaver.from_conn_string(uri) as saver:
        plan = saver.plan = Plan(stop_after)
        try:
            step(saver, fence)
        except Crashed:
            saver.plan = Plan()
    return fence, plan


@pytest.mark.parametrize("name", STEPS)
def test_crashes_before_and_after_every_effect(name: str, new_store: Callable[[], str]) -> None:
    _, whole = _crashed(new_store(), name, None)
    assert whole.done
    for stop_after in range(len(whole.done) + 1):
        uri = new_store()
        fence, _ = _crashed(uri, name, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            before = saver.raw().documents.get(FENCE)
            if fence is not None:
                # I7: the holder from before stores a checkpoint if and only if the fence is still its own.
                is_own = before is not None and before["nonce"] == "old" and before["owner"] == "old"
                try:
                    put(saver, 4, 2, fence)
                except (FencedError, ThreadBusyError):
                    assert not is_own
                    assert newest(saver) != 4
                else:
                    assert is_own
                    assert newest(saver) == 4
        with CrashingSaver.from_conn_string(uri) as saver:
            if "delete" in name:
                saver.admin.delete_thread(THREAD, force=True)  # The deletion is completed.
                assert saver.raw().of([THREAD]).documents == {}
            else:
                assert newest(saver) in {2, 4}
            # Whatever was left, the next process gets the lease, and continues.
            found = acquire(saver, "next", take_over=True)
            number = newest(saver)
            put(saver, 5, number, found.fence)
            assert newest(saver) == 5
            with pytest.raises(ThreadBusyError):
                saver.put(*put_arguments(6, 5))
            assert perform(saver, leases.release(found.fence, saver._context))
            saver.put(*put_arguments(6, 5))
            assert newest(saver) == 6
