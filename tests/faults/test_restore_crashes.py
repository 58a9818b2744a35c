"""A fork, or a restore of a set, that crashes at any effect: all threads have their forks, or none has.

It can be called again. The tests at the end kill real processes.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ThreadBusyError
from langgraph_gcs_saver.flows import forks, leases, set_restores, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import (
    READS,
    Crashed,
    CrashingSaver,
    Dying,
    Plan,
    config_of,
    kill,
    put_arguments,
)
from langgraph_gcs_saver.testing.kills import process
from tests.patience import PATIENCE

TEAM, MEMBERS = "team", ("a", "b")
THREADS = [keys.member_thread_id(TEAM, member) for member in MEMBERS]
HELD, NEWEST = 2, 3


def perform(saver: GCSSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def prepare(saver: GCSSaver) -> str:
    """Two members with a set of their second steps, of which one has a subgraph that keeps its state."""
    for thread in THREADS:
        saver.put(*put_arguments(1, None, thread=thread))
        saver.put(*put_arguments(HELD, 1, thread=thread))
    saver.put(*put_arguments(1, None, thread=THREADS[0], ns="sub"))
    found = perform(saver, sets.begin(TEAM, MEMBERS, None, 30.0, saver._context))
    perform(saver, sets.prepare(TEAM, found.set_id, saver._context))
    for thread in THREADS:
        saver.put(*put_arguments(NEWEST, HELD, thread=thread))
    saver.put(*put_arguments(NEWEST, 1, thread=THREADS[0], ns="sub"))
    return str(found.set_id)


def restore(saver: GCSSaver, set_id: str) -> None:
    flow = set_restores.restore(TEAM, set_id, dry_run=False, owner="restore", context=saver._context)
    perform(saver, flow)


def fork(saver: GCSSaver, _: str) -> None:
    request = leases.Acquire(THREADS[0], "fork", saver._context.new_attempt(), 60.0, take_over=True)
    fence = perform(saver, leases.Acquisition(request, 0.0, saver._context).flow()).fence
    checkpoint_id = put_arguments(HELD, 1)[1]["id"]
    perform(saver, forks.fork(THREADS[0], checkpoint_id, fence, saver._context))
    perform(saver, leases.release(fence, saver._context))


def steps(saver: GCSSaver, threads: list[str]) -> list[int]:
    """The step of each thread, and of the subgraph, as another process reads it. All data is whole."""
    found = []
    for thread in threads:
        for ns in ("", "sub") if thread == THREADS[0] else ("",):
            saved = saver.get_tuple(config_of(None, thread=thread, ns=ns))
            assert saved is not None
            found.append(saved.checkpoint["channel_values"]["number"])
        damage = [str(one) for one in saver.admin.verify(thread, depth="data") if one.is_damage]
        assert damage == []
    return found


CALLS: dict[str, tuple[Callable[[GCSSaver, str], None], list[str]]] = {
    "fork": (fork, THREADS[:1]),
    "restore": (restore, THREADS),
}


def old_and_new(threads: list[str]) -> tuple[list[int], list[int]]:
    """The steps before and after: those of the first thread's root graph and subgraph, and of the other thread."""
    count = len(threads) + 1
    return [NEWEST] * count, [HELD, 1, HELD][:count]


def _crashed(uri: str, name: str, stop_after: int | None) -> tuple[str, Plan]:
    with CrashingSaver.from_conn_string(uri) as saver:
        set_id = prepare(saver)
    with CrashingSaver.from_conn_string(uri) as saver:
        plan = saver.plan = Plan(stop_after)
        try:
            CALLS[name][0](saver, set_id)
        except Crashed:
            saver.plan = Plan()
    return set_id, plan


@pytest.mark.parametrize("name", CALLS)
def test_crashes_before_and_after_every_effect(name: str, tmp_path: Path) -> None:
    call, threads = CALLS[name]
    old, new = old_and_new(threads)
    numbers = count()
    _, whole = _crashed(f"file://{tmp_path}/{next(numbers)}", name, None)
    outcomes = []
    # A crash before or after a read leaves the same store as one after the last effect that changed it.
    stops = [number for number, effect in enumerate(whole.done, 1) if not isinstance(effect, READS)]
    for stop_after in (0, *stops, len(whole.done)):
        uri = f"file://{tmp_path}/{next(numbers)}"
        set_id, _ = _crashed(uri, name, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            outcomes.append(steps(saver, threads))
            assert outcomes[-1] in (old, new)
            call(saver, set_id)
            assert steps(saver, threads) == new
            for thread in threads:
                saver.put(*put_arguments(9, HELD, thread=thread))
    assert outcomes == sorted(outcomes, key=lambda one: one == new), "once it is made, it stays"
    assert outcomes[0] == old
    assert outcomes[-1] == new


# Real processes


def work(uri: str, set_id: str, kill_at: int, pipe: Connection) -> None:
    """Restore a set. It is killed before the first effect (1), after it (2), and so on; 0: never."""
    dying = Dying()
    if kill_at:
        dying.plan = Plan(kill_at // 2, is_late=kill_at % 2 == 1, strike=kill)
    with GCSSaver.from_conn_string(uri, interceptors=[dying]) as saver:
        restore(saver, set_id)
        pipe.send(len(dying.plan.done))


def _killed(saver: GCSSaver, uri: str, kills: list[int]) -> int:
    set_id = prepare(saver)
    old, new = old_and_new(THREADS)
    killed = 0
    for kill_at in [*kills, 0]:
        with process(work, uri, set_id, kill_at) as (worker, _):
            worker.join(PATIENCE)
            assert worker.exitcode in {0, -signal.SIGKILL}
            killed += worker.exitcode != 0
        found = steps(saver, THREADS)
        assert found in (old, new)
    assert found == new
    assert all(saver.thread(thread).status().lease is None for thread in THREADS)
    return killed


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.soak)])
def test_processes_are_killed_and_others_restore_the_set(
    make_saver: Callable[..., GCSSaver], store_uri: str, kills: int
) -> None:
    choose = random.Random(store_uri[:2])
    assert _killed(make_saver(), store_uri, [choose.randrange(40, 100) for _ in range(kills)]) == kills


def test_a_run_waits_until_the_leases_of_a_crashed_restore_expire(tmp_path: Path) -> None:
    with CrashingSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        set_id = prepare(saver)
        taken = 0
        with pytest.MonkeyPatch.context() as patch:
            whole = leases.Acquisition.flow

            def flow(self: Any) -> Any:
                nonlocal taken
                taken += 1
                if taken == len(MEMBERS):
                    yield from whole(self)
                    saver.plan = Plan(0)  # It gives back no lease.
                    raise Crashed
                return (yield from whole(self))

            patch.setattr(leases.Acquisition, "flow", flow)
            with pytest.raises(Crashed):
                restore(saver, set_id)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        with pytest.raises(ThreadBusyError, match="restore"):
            saver.put(*put_arguments(9, NEWEST, thread=THREADS[0]))
        restore(saver, set_id)
        saver.put(*put_arguments(9, None, thread=THREADS[0]))
