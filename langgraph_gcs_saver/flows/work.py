"""What is left to do on threads, for people and for workers that resume what others have begun.

`lg_active` says where to look, and the tip and the lease of each thread decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.flows import active
from langgraph_gcs_saver.flows.active import Active, Listed
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.leases import info_of
from langgraph_gcs_saver.flows.runs import Status, question_of, status
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.results import ThreadState, ThreadStatus, at_time, lag_of

_SAID: Mapping[str, tuple[active.State, ...]] = {
    "running": ("running",),
    "waiting": ("waiting", "running", "paused", "crashed"),
    "paused": ("paused",),
    "crashed": ("crashed", "running", "due"),
    "due": ("due",),
    "poison": ("poison",),
}
"""For each state, what may be said about a thread in that state: its process may have crashed at any point."""

STATES = tuple(_SAID)
"""The states of threads whose turns have not finished."""

RECOVERABLE: tuple[active.State, ...] = ("due", "paused", "crashed", "running")
"""What may be said about a thread that a worker has to look at."""

_AT_ONCE = 25
"""Threads whose tips are read at once; each may have half a megabyte."""

MAX_BACKOFF = 600.0
"""Most seconds between two attempts."""


def state_of(found: Status) -> ThreadState:
    """What a thread is doing."""
    lease = found.lease
    if lease.owner is not None and not lease.is_expired:
        return "running"
    if found.state != "due":
        return found.state
    said = None if found.active is None else found.active.state
    if said in ("poison", "waiting"):  # A run that ends at a breakpoint says that it waits. A step is due there.
        return said
    if lease.owner is not None or said in ("running", "crashed"):
        return "crashed"
    return "paused" if said == "paused" else "due"


def describe(found: Status) -> ThreadStatus:
    """What a thread is doing, as callers get it."""
    lease, state = found.lease, state_of(found)
    said = 0 if found.active is None else found.active.time
    since = lease.since if lease.owner is not None else said or found.stored
    is_stored, last = found.checkpoint_id is not None, max(since, found.stored)
    return ThreadStatus(
        thread_id=found.thread_id,
        state=state,
        checkpoint_id=found.checkpoint_id,
        step=found.step if is_stored else None,
        nodes=(*found.due.nodes, *found.due.sends),
        questions=tuple(map(question_of, found.questions)),
        request_id=found.request_id,
        run_id=found.run_id,
        graph=None if found.turn is None else found.turn.graph or None,
        attempts=0 if found.active is None else found.active.attempts,
        since=at_time(since) if since else None,
        stored=at_time(found.stored) if is_stored else None,
        holds=tuple(map(str, found.holds)),
        age=_between(found.stored, lease.now) if is_stored else None,
        idle=_between(last, lease.now) if last else None,
        lag=lag_of(found.made, found.stored) if is_stored else None,
        lease=None if lease.owner is None else info_of(lease),
    )


def _between(then: int, now: int) -> timedelta:
    return timedelta(microseconds=max(0, now - then) // 1000)


def described(thread_id: str, loads: Loads, context: Context) -> Flow[ThreadStatus]:
    """What a thread is doing.

    Raises:
        CheckpointCorruptError: Its tip is damaged. See `flows.runs.status`.
    """
    return describe((yield from status(thread_id, loads, context)))


def listed(state: str | None, loads: Loads, context: Context) -> Pages[ThreadStatus]:
    """Pages of what is known about the threads whose turns have not finished, all or those in a state.

    If a thread cannot be read, the error is raised after all other threads.
    """
    next_page = active.listed(None if state is None else _SAID[state])
    tries = Tries()

    def page() -> Flow[Sequence[ThreadStatus] | None]:
        candidates = yield from next_page()
        if candidates is None:
            tries.end()
            return None
        # The tips of others need not be read.
        wanted = [one.active.thread_id for one in candidates if state is None or one.is_held == (state == "running")]
        found: list[ThreadStatus | None] = []
        for first in range(0, len(wanted), _AT_ONCE):
            of = [tries.of(described(one, loads, context), one) for one in wanted[first : first + _AT_ONCE]]
            found += yield from together(*of)
        return [one for one in found if one is not None and (one.state == state or (not state and not one.is_finished))]

    return page


# Workers


def ready(backoff: float) -> Pages[Listed]:
    """Pages of the threads that no process works on, and whose next attempt is due.

    Args:
        backoff: Seconds to wait after the first failure. They double with each further one.
    """
    next_page = active.listed(RECOVERABLE)

    def page() -> Flow[Sequence[Listed] | None]:
        found = yield from next_page()
        return None if found is None else list(_ready(found, backoff))

    return page


def _ready(found: Sequence[Listed], backoff: float) -> Iterator[Listed]:
    for one in found:
        idle = (one.lease.now - one.since) / 1e9
        if not one.is_held and idle >= pause_after(one.active.attempts, backoff):
            yield one


def pause_after(failures: int, backoff: float) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(backoff * 2.0 ** min(failures - 1, 60), MAX_BACKOFF) if failures else 0.0


def examine(
    seen: Active, attempts: int, is_ours: Callable[[Status], bool], loads: Loads, context: Context
) -> Flow[Status | None]:
    """Look at a thread that no process works on, and correct what is said about it.

    Args:
        seen: The thread.
        attempts: After so many failures, it is given up.
        is_ours: Whether this worker can resume a turn.
        loads: Reads values.
        context: Options and caches.

    Returns:
        What it is doing, if a worker has to resume it or has just given it up; else `None`.

    Raises:
        CheckpointCorruptError: Its tip is damaged. See `flows.runs.status`.
        ThreadBusyError: Another process works on it now.
    """
    found = yield from status(seen.thread_id, loads, context)
    state = state_of(found)
    if state in ("finished", "empty"):
        yield from active.settle(seen, None, context)
        return None
    if state == "waiting":
        yield from active.settle(seen, "waiting", context)
        return None
    if state not in ("crashed", "paused", "due") or found.active != seen or not is_ours(found):
        return None
    if seen.attempts >= attempts and not (yield from active.settle(seen, "poison", context)):
        return None
    return found
