"""`lg_active/{thread}`: the threads whose turns have not finished, so that a worker finds them without reading others.

The tip decides what a thread is doing (`flows.runs`). A document here only says where to look, and what the tip cannot
say: that a run has begun, how it ended, and how often it has failed. It changes in the commits that take and release
the lease of a run, and in the commit that stores an answer. So a run's process that crashes leaves it as `running`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, get_args

from langgraph_gcs_saver.engine.effects import Commit, Delete, Doc, Flow, GetDocs, Merge, QueryDocs, Write
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.leases import Lease, lease_in, respect
from langgraph_gcs_saver.format import keys, turns
from langgraph_gcs_saver.records import record

State = Literal["running", "waiting", "paused", "crashed", "due", "poison"]
"""What was last said about a turn.

A run works on it; it waits for a person; it was asked to end; it ended with an error; it was answered; it has failed
too often.
"""

_STATES: tuple[State, ...] = get_args(State)

_PER_PAGE = 50


@record(frozen=True, slots=True)
class Active:
    """A thread whose turn has not finished, as its document says.

    Attributes:
        thread_id: The thread.
        state: What was last said about it.
        attempts: The number of runs that have begun since one last ended in an orderly way.
        time: When the document last changed.
    """

    thread_id: str
    state: State
    attempts: int
    time: int


def active_in(doc: Doc | None) -> Active | None:
    """What a document says. With a damaged field, its thread counts as crashed, so that a worker looks at the tip."""
    thread_id = None if doc is None else thread_id_of(doc)
    if doc is None or thread_id is None:
        return None
    state = doc.fields.get("state")
    return Active(
        thread_id,
        cast("State", state) if state in _STATES else "crashed",
        turns.attempts_of(doc),
        doc.update_time,
    )


def noted(thread_id: str, state: State, attempts: int | None = None) -> Write:
    """The write that says what a turn is doing; without `attempts`, their number stays."""
    fields: dict[str, Any] = {"thread_id": thread_id, "state": state}
    return Merge(keys.active_doc(thread_id), fields if attempts is None else {**fields, turns.ATTEMPTS: attempts})


def restored(thread_id: str, former: Active | None) -> Write:
    """The write that leaves things as they were."""
    return finished(thread_id) if former is None else noted(thread_id, former.state, former.attempts)


def finished(thread_id: str) -> Write:
    """The write that says that nothing is to do."""
    return Delete(keys.active_doc(thread_id))


def settle(seen: Active, state: State | None, context: Context) -> Flow[bool]:
    """Correct what is said about a thread, if that has not changed and no process works on it.

    Args:
        seen: What is said.
        state: What should be said; `None` if nothing is to do.
        context: Options and caches.

    Returns:
        Whether it was corrected.

    Raises:
        ThreadBusyError: A process holds the thread's lease.
    """
    checks = yield from respect(seen.thread_id, context)
    name = keys.active_doc(seen.thread_id)
    write: Write = (
        Delete(name, update_time=seen.time) if state is None else Merge(name, {"state": state}, update_time=seen.time)
    )
    return (yield from Commit((write, *checks))) is not None


@record(frozen=True, slots=True)
class Listed:
    """A thread of a list, with its lease."""

    active: Active
    lease: Lease

    @property
    def is_held(self) -> bool:
        """Whether a process that is alive holds the lease."""
        return self.lease.owner is not None and not self.lease.is_expired

    @property
    def since(self) -> int:
        """When a process last worked on it."""
        return max(self.active.time, self.lease.seen)


def listed(states: Sequence[State] | None) -> Pages[Listed]:
    """Pages of the threads with one of some states; of all threads whose turns have not finished for `None`."""
    left: list[State | None] = [None] if states is None else [*states]
    after: str | None = None

    def page() -> Flow[Sequence[Listed] | None]:
        nonlocal after
        if not left:
            return None
        where = () if left[0] is None else (("state", left[0]),)
        docs = yield from QueryDocs(keys.ACTIVE, where, after=after, limit=_PER_PAGE)
        if len(docs) == _PER_PAGE:
            after = docs[-1].name
        else:
            after = None
            left.pop(0)
        return (yield from listed_in(docs))

    return page


def listed_in(docs: Iterable[Doc]) -> Flow[Sequence[Listed]]:
    """What documents say about their threads, and the leases of these."""
    found = [one for one in map(active_in, docs) if one is not None]
    if not found:
        return ()
    names = [name for one in found for name in (keys.fence_doc(one.thread_id), keys.beat_doc(one.thread_id))]
    leases = yield from GetDocs(tuple(names))
    return [Listed(one, lease_in(one.thread_id, leases)) for one in found]
