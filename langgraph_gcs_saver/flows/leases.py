"""Leases: one writer of a thread at a time.

`lg_lease/fence-0` says who holds a thread's lease. It changes only when the holder changes, so its update time is the
lease (`flows.fences.Fence`). `lg_lease/beat` changes every few seconds while the holder is alive. Without a fence, or
with one that has no owner, the lease is free.

Acquiring takes two commits. The first takes the fence, and names the acquisition in the thread's document. The second
names it in the newest checkpoint. In one commit, the two would compete with each put of the holder whose lease is taken
over. A writer without a lease reads the fence if its parent, or the thread's document, names an acquisition.

A lease has expired when its beat is older than the holder's `ttl`. A wrong guess about that fences a holder that is
alive, but no stale write is ever applied: each commit of a holder requires the fence.

The commit that ends the lease of a crashed holder also records that (`flows.recoveries`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    Doc,
    Docs,
    Effect,
    Flow,
    GetDocs,
    Merge,
    Pause,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import ConflictError, FencedError, ThreadBusyError
from langgraph_gcs_saver.flows import recoveries
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import MAX_OWNER, Fence, held_by
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.marks import mark_of, unmark
from langgraph_gcs_saver.flows.recoveries import Begun
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import RUNS_BY, DocumentKind, kind_of
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import LeaseInfo, at_time

T = TypeVar("T")

POLL_SECONDS = 0.25
"""How often a call that waits for a lease looks at it."""

MAX_TTL = 86_400.0
"""Longest ttl, in seconds. After a crash of its holder, a lease stays held for that long."""

DEFAULT_TTL = 60.0
"""Seconds for which a lease lasts whose document does not say it, as only damage can cause."""

_MAX_TOKEN = 1 << 62
"""Greater tokens are damage. Firestore's integers have 63 bits, and the next holder's token is greater."""

_MARGIN = 4 / 3
"""By the service's times, a lease has expired when its beat is older than the `ttl`, and a third of it."""

_GRAIN = 0.001
"""Seconds by which two times may seem closer than they are, because services round them."""

_PER_PAGE = 100

_USE_OWN = "Use the lease's own config: graph.with_config(lease.config)."

_TIP_FIELDS = (*RUNS_BY, "fence")

LEASED_BY = ("token", "nonce", "owner", "ttl", "note")
"""The fields of a fence and of a beat that describe a lease."""

WISH = "pause"
"""What `pause` writes into the beat."""


@record(frozen=True, slots=True)
class Acquire:
    """A request for a thread's lease.

    Attributes:
        thread_id: The thread.
        owner: The holder's name. A lease of the same owner is taken back at once, as after a crash.
        nonce: Digits that no other request has. An acquisition whose answer was lost recognizes itself by them.
        ttl: Seconds after which the lease expires if its beat does not change.
        take_over: Whether to take the lease from a holder that is alive.
        team: The team whose member's thread it is. If not given, the one that an earlier holder has named, if any.
    """

    thread_id: str
    owner: str
    nonce: str
    ttl: float
    take_over: bool = False
    team: str | None = None


@record(frozen=True, slots=True)
class Beat:
    """A lease's beat as its holder last saw it.

    Attributes:
        time: The update time of its document.
        counter: Counts the beats.
        wish: What others ask of the holder: `WISH`, to end its run at the next boundary; or nothing.
    """

    time: int
    counter: int = 0
    wish: str | None = None


@record(frozen=True, slots=True)
class Former:
    """The lease that an acquisition took from a holder that had not released it.

    Attributes:
        owner: The holder's name.
        token: Its token.
        nonce: Digits that the holder's checkpoints contain.
        downtime: Seconds since its last sign of life, by the service's clock.
        is_expired: Whether it had expired, as after a crash of its holder.
        has_crashed: Whether its holder has crashed: it had expired, or the same owner took it back.
        note: What its last beat said.
    """

    owner: str
    token: int
    nonce: str
    downtime: float
    is_expired: bool
    has_crashed: bool
    note: Mapping[str, Any]


@record(frozen=True, slots=True)
class Acquired:
    """A lease that this process holds now.

    Attributes:
        fence: What each commit of the holder checks.
        beat: The first beat.
        taken_over: The lease that it took from a holder that had not released it.
        recovery: The record of that, if that holder had crashed.
        team: The team whose member's thread it is, if any.
    """

    fence: Fence
    beat: Beat
    taken_over: Former | None = None
    recovery: Begun | None = None
    team: str | None = None


class Riders(Protocol):
    """Documents that change in the commits that take and release a lease. They take no rounds of their own."""

    @property
    def names(self) -> tuple[str, ...]:
        """Documents that `taking` needs. They join the read before each try."""
        ...

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """Writes for the commit that takes the lease. A retry asks again, with the documents as they are then.

        A precondition on a document of `docs` is fine. A commit that fails is tried again. With an error, the lease is
        not taken.
        """
        ...

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:
        """Writes for the commit that releases the lease, at the end of a block that raised `error`, if any.

        They must not have preconditions, because a release whose commit fails counts as lost.
        """
        ...


class NoRiders:
    """The riders of a lease that has none."""

    @property
    def names(self) -> tuple[str, ...]:
        """No documents."""
        return ()

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:  # noqa: ARG002 - there are none
        """No writes."""
        return ()

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:  # noqa: ARG002 - there are none
        """No writes."""
        return ()


@record(frozen=True, slots=True)
class Lease:
    """A thread's lease as its documents describe it.

    Attributes:
        thread_id: The thread.
        fence: The fence's document, if it exists.
        beat: The beat's document, if it exists.
        now: When the two were read, by the service's clock.
    """

    thread_id: str
    fence: Doc | None
    beat: Doc | None
    now: int

    @property
    def owner(self) -> str | None:
        """The holder's name; `None` if the lease is free."""
        found = self._field(self.fence, "owner")
        return found[:MAX_OWNER] if isinstance(found, str) else None

    @property
    def nonce(self) -> str:
        """Digits of the last acquisition."""
        found = self._field(self.fence, "nonce")
        return found if isinstance(found, str) else ""

    @property
    def token(self) -> int:
        """Counts the changes of the holder."""
        found = self._field(self.fence, "token")
        return found if type(found) is int and 0 <= found < _MAX_TOKEN else 0

    @property
    def ttl(self) -> float:
        """Seconds for which the holder's beat counts."""
        found = self._field(self.fence, "ttl")
        return float(found) if type(found) in (int, float) and 0 < found <= MAX_TTL else DEFAULT_TTL

    @property
    def team(self) -> str | None:
        """The team whose member's thread it is. A holder that names none leaves it."""
        found = self._field(self.fence, "team")
        return found if isinstance(found, str) and keys.member_of(found, self.thread_id) is not None else None

    @property
    def note(self) -> Mapping[str, Any]:
        """What the last beat said."""
        found = self._field(self.beat, "note")
        return found if isinstance(found, Mapping) else {}

    @property
    def node(self) -> str | None:
        """The node that the holder was running at its last beat."""
        found = self.note.get("node")
        return found[:MAX_OWNER] if isinstance(found, str) else None

    @property
    def since(self) -> int:
        """When the holder changed last."""
        return 0 if self.fence is None else self.fence.update_time

    @property
    def seen(self) -> int:
        """The time of the holder's last sign of life."""
        return max(self.since, 0 if self.beat is None else self.beat.update_time)

    @property
    def silence(self) -> float:
        """Seconds since then."""
        return max(0, self.now - self.seen) / 1e9

    @property
    def is_expired(self) -> bool:
        """Whether the lease is held, and has expired by the service's clock."""
        return self.owner is not None and self.silence > self.ttl * _MARGIN

    def cost(self, stored: int | None = None) -> dict[str, float]:
        """What a crash of the holder has cost.

        Args:
            stored: When the newest checkpoint of the root graph was stored; 0 if there is none, and `None` if that is
                not known.
        """
        return recoveries.times(self.since, self.seen, stored, self.now)

    def crashed(self, nonce: str) -> Merge:
        """The write that records that the holder has crashed, for the commit that ends the lease."""
        return recoveries.taken(self.thread_id, self.now, nonce, self.cost())

    @staticmethod
    def _field(doc: Doc | None, name: str) -> Any:
        return None if doc is None else doc.fields.get(name)


def lease_in(thread_id: str, docs: Docs) -> Lease:
    """A thread's lease, from a read of its two documents."""
    return Lease(thread_id, docs.get(keys.fence_doc(thread_id)), docs.get(keys.beat_doc(thread_id)), docs.read_time)


def look(thread_id: str) -> Flow[Lease]:
    """A thread's lease."""
    return lease_in(thread_id, (yield from GetDocs((keys.fence_doc(thread_id), keys.beat_doc(thread_id)))))


def busy(lease: Lease, context: Context) -> ThreadBusyError:
    """The error for a lease that another holder, or another call of this process, has."""
    at = f" at node {lease.node!r}" if lease.node else ""
    since = at_time(lease.since).isoformat(" ", "seconds")
    advice = (
        f"The holder is this process. {_USE_OWN}"
        if _is_own(lease, context)
        else "Wait for the lease with `wait=`, or take it over with `take_over=True`, which fences the holder."
    )
    return ThreadBusyError(
        f"Thread {lease.thread_id!r} is busy: {lease.owner!r} has held its lease since {since}, and gave "
        f"its last sign of life {lease.silence:.0f} s ago{at}. Nothing was stored. {advice}",
        thread_id=lease.thread_id,
        owner=lease.owner,
    )


def _is_own(lease: Lease, context: Context) -> bool:
    """Whether this process holds a lease."""
    return any(fence.thread_id == lease.thread_id and fence.time == lease.since for fence in context.fences.values())


def overtaken(thread_id: str, context: Context) -> ThreadBusyError:
    """The error for a writer without a lease that continues from a state that a lease's holder may have continued."""
    is_own = any(held == thread_id for held, _ in context.fences)
    what, advice = (
        ("This process has acquired the lease of thread", _USE_OWN)
        if is_own
        else (
            "Another process has acquired the lease of thread",
            "Read the thread again, under a lease of its own, and continue from there.",
        )
    )
    return ThreadBusyError(
        f"{what} {thread_id!r} since the checkpoint was read. Nothing was stored. {advice}", thread_id=thread_id
    )


# Acquiring


class Acquisition:
    """One acquisition.

    Attributes:
        began: When it looked first, by the service's clock.
        paused: The seconds of its pauses.
        waited: The seconds that it has waited.
        tries: Commits that failed.
        mark: What it waits for: the lease and the deletion as last seen.
        stood: The seconds for which that has not changed.
        crashed: The lease that the last try ended, if its holder has crashed, and the record of that.
        stored: When the newest checkpoint of the root graph was stored; 0 if there is none.
        is_open: Whether the lease may be this acquisition's, as far as it knows.
    """

    def __init__(self, request: Acquire, wait: float, context: Context, riders: Riders | None = None) -> None:
        self.request = request
        self.context = context
        self.riders = riders or NoRiders()
        self.wait = wait
        self.began = 0
        self.paused = 0.0
        self.waited = 0.0
        self.tries = 0
        self.mark: object = None
        self.marked = (0, 0.0)
        self.stood = 0.0
        self.crashed: tuple[Lease, Merge] | None = None
        self.stored = 0
        self.is_open = False

    def flow(self) -> Flow[Acquired]:
        """Take the lease, and put it in force.

        Raises:
            ConflictError: Writers without a lease changed the thread in every try. The lease was released.
            NotPrimaryError: The store is not the primary of two that replicate each other.
            ThreadBusyError: Another holder has it, or the thread is being deleted.
        """
        acquired = yield from self._take()
        fence = acquired.fence
        yield from self._mark_tips(fence)
        self.context.fences[fence.thread_id, fence.token] = fence
        return replace(acquired, recovery=self._begun(fence))

    def _begun(self, fence: Fence) -> Begun | None:
        """The record of a crash of the former holder. Its commit has given it the same time as the fence."""
        if self.crashed is None:
            return None
        lease, recorded = self.crashed
        return Begun(recorded.name, fence.time, lease.cost(self.stored))

    def _take(self) -> Flow[Acquired]:
        """Make the fence one's own."""
        request = self.request
        thread = keys.thread_doc(request.thread_id)
        former: Former | None = None
        while True:
            names = (keys.fence_doc(request.thread_id), keys.beat_doc(request.thread_id), thread)
            docs = yield from GetDocs((*names, *self.riders.names))
            lease, doc = lease_in(request.thread_id, docs), docs.get(thread)
            self.began = self.began or lease.now
            self.waited = self._since(self.began, 0.0, lease)
            if self.tries and self._is_mine(lease):
                # An earlier try was applied, and its answer was lost.
                seen = Beat(lease.since) if lease.beat is None else _seen(lease.beat, 0)
                return Acquired(self._fence(lease.token, lease.since), seen, former, team=lease.team)
            self.is_open = False
            refused = self._refusal(lease, doc)
            if refused is not None:
                if doc is not None and "deleting" in doc.fields and self.stood > self.context.timeout:
                    # As every writer does, take the deletion for crashed. If it still runs, it starts over.
                    yield from Commit((unmark(doc),))
                    continue
                if self.waited >= self.wait:
                    raise refused
                yield from self._pause(min(POLL_SECONDS, self.wait - self.waited, self._left(lease)))
                continue
            former = self._former(lease)
            own = [fence.token for fence in self.context.fences.values() if fence.thread_id == request.thread_id]
            # The tokens of a deleted thread start over. Those that this process holds must differ.
            token = max(lease.token, *own, 0) + 1
            has_crashed = former is not None and former.has_crashed
            self.crashed = (lease, lease.crashed(request.nonce)) if has_crashed else None
            recorded = () if self.crashed is None else self.crashed[1:]
            writes = (*self._writes(lease, doc, token), *recorded, *self.riders.taking(docs))
            self.is_open = True
            times = yield from Commit(writes)
            if times is not None:
                team = lease.team if request.team is None else request.team
                return Acquired(self._fence(token, times[0]), Beat(times[1]), former, team=team)
            yield from self._count()

    def _pause(self, seconds: float) -> Flow[None]:
        yield from Pause(seconds)
        self.paused += seconds

    def _since(self, then: int, paused: float, lease: Lease) -> float:
        """Seconds since a look: those of the pauses, and of the requests between them if the service's clock counts."""
        return max(self.paused - paused, (lease.now - then) / 1e9)

    def _left(self, lease: Lease) -> float:
        """Seconds until the lease has expired if its holder stays silent."""
        times = (lease.ttl - self.stood, lease.ttl * _MARGIN - lease.silence)
        return min((time + _GRAIN for time in times if time > 0), default=POLL_SECONDS)

    def _is_mine(self, lease: Lease) -> bool:
        """Whether this request has made the fence. The owner's name does not say that, because two may have it."""
        return lease.owner is not None and lease.nonce == self.request.nonce

    def _refusal(self, lease: Lease, thread: Doc | None) -> ThreadBusyError | None:
        """The error that this acquisition meets now, if any."""
        deleting = None if thread is None else mark_of(thread)
        beat = None if lease.beat is None else lease.beat.update_time
        mark = (deleting, lease.since, beat)
        if mark != self.mark:
            self.mark, self.marked = mark, (lease.now, self.paused)
        self.stood = self._since(*self.marked, lease)
        if deleting is not None:
            return ThreadBusyError(
                f"Thread {lease.thread_id!r} is being deleted. Nothing was stored. Wait until that has finished, "
                "with `wait=`. If it crashed, complete it with `delete_thread`.",
                thread_id=lease.thread_id,
            )
        if self._is_free(lease) or self.request.take_over or self._is_over(lease):
            return None
        is_own = _is_own(lease, self.context)
        return None if lease.owner == self.request.owner and not is_own else busy(lease, self.context)

    def _is_over(self, lease: Lease) -> bool:
        """Whether the lease has expired, by the service's times, or because its beat stood still meanwhile."""
        return lease.is_expired or self.stood >= lease.ttl

    def _is_free(self, lease: Lease) -> bool:
        """Whether the lease has no holder, or is one that this process is about to give back."""
        return lease.owner is None or self.context.given_up.get(lease.nonce) is True

    def _former(self, lease: Lease) -> Former | None:
        if lease.owner is None or self._is_free(lease):
            return None
        is_expired = self._is_over(lease)
        is_back = lease.owner == self.request.owner and not _is_own(lease, self.context)
        return Former(
            lease.owner, lease.token, lease.nonce, lease.silence, is_expired, is_expired or is_back, lease.note
        )

    def _writes(self, lease: Lease, thread: Doc | None, token: int) -> tuple[Write, ...]:
        request = self.request
        fields = {"token": token, "nonce": request.nonce, "owner": request.owner, "ttl": float(request.ttl)}
        if request.team is not None:
            fields["team"] = request.team
        fence, beat = keys.fence_doc(request.thread_id), keys.beat_doc(request.thread_id)
        # A lease that seems to have expired is taken only if its holder is still silent.
        seen = lease.beat.update_time if lease.beat is not None and self._is_over(lease) else None
        name = keys.thread_doc(request.thread_id)
        note = {"fence": request.nonce}
        return (
            Create(fence, fields) if lease.fence is None else Merge(fence, fields, update_time=lease.since),
            Merge(beat, {"nonce": request.nonce, "counter": 0}, remove=("note", "wish"), update_time=seen),
            Create(name, {"thread_id": request.thread_id, **note})
            if thread is None
            else Merge(name, note, update_time=thread.update_time),
        )

    def _fence(self, token: int, time: int) -> Fence:
        request = self.request
        return Fence(request.thread_id, token, request.nonce, time, request.ttl)

    def _mark_tips(self, fence: Fence) -> Flow[None]:
        """Name the acquisition in the newest checkpoints. A writer without a lease that commits meanwhile is met."""
        while True:
            for writes in (yield from self._marks()):
                if (yield from Commit((*writes, fence.check()))) is None:
                    break
            else:
                return
            lease = yield from look(fence.thread_id)
            if lease.since != fence.time:
                self.is_open = False
                raise self._lost()
            try:
                yield from self._count()
            except ConflictError:
                yield from release(fence, self.context)
                raise

    def _lost(self) -> ThreadBusyError:
        thread_id = self.request.thread_id
        return ThreadBusyError(
            f"Another process ended or took over the lease of thread {thread_id!r} while this one was acquiring it. "
            "Nothing was stored. Call again.",
            thread_id=thread_id,
        )

    def _marks(self) -> Flow[list[tuple[Write, ...]]]:
        """The writes that name the acquisition in the newest checkpoint of the root namespace, and in newer tips."""
        tips: dict[str, Doc] = {}
        root, after = keys.enc(""), None
        while root not in tips:
            collection = keys.checkpoints(self.request.thread_id)
            docs = yield from QueryDocs(collection, after=after, limit=_PER_PAGE, mask=_TIP_FIELDS)
            for doc in docs:
                if root not in tips and kind_of(doc) is DocumentKind.CHECKPOINT:
                    tips.setdefault(keys.ns_segment_of(doc.name), doc)
            if len(docs) < _PER_PAGE:
                break
            after = docs[-1].name
        if root in tips:
            self.stored = tips[root].create_time
        nonce = self.request.nonce
        writes = [
            Merge(doc.name, {"fence": nonce}, update_time=doc.update_time)
            for doc in tips.values()
            if doc.fields.get("fence") != nonce
        ]
        size = limits.COMMIT_WRITES - 1
        return [tuple(writes[at : at + size]) for at in range(0, len(writes), size)]

    def _count(self) -> Flow[None]:
        """Count a conflict.

        Raises:
            ConflictError: There were too many, and the time to wait is over.
        """
        self.tries += 1
        if self.tries < MAX_TRIES:
            return
        if self.waited >= self.wait:
            raise ConflictError(
                f"The lease of thread {self.request.thread_id!r} was not acquired: other writers changed the thread "
                f"in each of {self.tries} tries. Stop the writers without a lease, or call again with `wait=`."
            )
        yield from self._pause(POLL_SECONDS)
        self.waited += POLL_SECONDS


# Holding


def beat(fence: Fence, seen: Beat, note: Mapping[str, Any] | None) -> Flow[Beat]:
    """Show that the holder is alive, and find out what others ask of it.

    The beat is written only as it was last seen. Otherwise a fenced process would keep its successor's lease alive.

    Args:
        fence: The lease.
        seen: The beat as it was last seen.
        note: What the holder is doing; `None` leaves the former note.
        context: Options and caches.

    Raises:
        ConflictError: Others changed the beat in every try.
        FencedError: The lease is lost.
    """
    name = keys.beat_doc(fence.thread_id)
    for _ in range(MAX_TRIES):
        fields = {"nonce": fence.nonce, "counter": seen.counter + 1, **({} if note is None else {"note": note})}
        times = yield from Commit((Merge(name, fields, update_time=seen.time),))
        if times is not None:
            return Beat(times[0], seen.counter + 1, seen.wish)
        docs = yield from GetDocs((fence.name, name))
        fence.require(docs.get(fence.name))
        doc = docs.get(name)
        if doc is None:  # Only damage removes it alone.
            yield from Commit((Create(name, {"nonce": fence.nonce, "counter": seen.counter}), fence.check()))
            continue
        seen = _seen(doc, seen.counter)
    raise ConflictError(
        f"The beat of the lease of thread {fence.thread_id!r} was not written: other processes changed it "
        f"{MAX_TRIES} times in a row. The lease is unchanged. Call again."
    )


def _seen(doc: Doc, counter: int) -> Beat:
    """A beat as its document says, with another counter if that is damaged."""
    wish, found = doc.fields.get("wish"), doc.fields.get("counter")
    if type(found) is int and 0 <= found < _MAX_TOKEN:
        counter = found
    return Beat(doc.update_time, counter, wish if isinstance(wish, str) else None)


def release(fence: Fence, context: Context, beside: tuple[Write, ...] = ()) -> Flow[bool]:
    """Give a lease back; false if it was lost before. The writes `beside` happen only if it was not."""
    released = (yield from Commit((*_end(fence.thread_id, fence.time), *beside))) is not None
    if not released:
        lease = yield from look(fence.thread_id)
        # After a release whose answer was lost, the fence has no owner, and still the holder's nonce.
        released = lease.fence is not None and lease.owner is None and lease.nonce == fence.nonce
    context.fences.pop((fence.thread_id, fence.token), None)
    return released


def give_back(thread_id: str, nonce: str) -> Flow[bool]:
    """Release the lease of an acquisition that no block will use, if it was applied; false if it may still be.

    Its commit may be on its way, even though the call that sent it was cut off.
    """
    lease = yield from look(thread_id)
    if lease.fence is None or lease.nonce != nonce:
        return False
    return lease.owner is None or (yield from Commit(_end(thread_id, lease.since))) is not None


def _end(thread_id: str, time: int) -> tuple[Write, ...]:
    """The writes that release a lease."""
    return Merge(keys.fence_doc(thread_id), {"owner": None}, update_time=time), Delete(keys.beat_doc(thread_id))


def broken(lease: Lease, context: Context) -> tuple[Write, ...]:
    """The writes that end a lease, so that its holder is fenced; none if it is free.

    They require the beat as it was read: a holder that is alive after all has changed it.
    """
    if lease.fence is None or lease.owner is None:
        return ()
    fields = {"token": lease.token + 1, "nonce": context.new_attempt(), "owner": None}
    gone = () if lease.beat is None else (Delete(lease.beat.name, update_time=lease.beat.update_time),)
    return (Merge(lease.fence.name, fields, update_time=lease.since), *gone)


def respect(thread_id: str, context: Context) -> Flow[tuple[Write, ...]]:
    """Make sure that no process holds a thread's lease. One that has expired is ended.

    Returns:
        The check that fails once a process acquires the lease, if there is a fence to check.

    Raises:
        ConflictError: The lease changed in every try.
        ThreadBusyError: A process holds the lease.
    """
    for _ in range(MAX_TRIES):
        lease = yield from look(thread_id)
        if lease.fence is None:
            return ()
        if lease.owner is None:
            return (Merge(lease.fence.name, {}, update_time=lease.since),)
        if not lease.is_expired:
            raise busy(lease, context)
        yield from Commit((*broken(lease, context), lease.crashed(context.new_attempt())))
    raise ConflictError(f"The lease of thread {thread_id!r} changed {MAX_TRIES} times in a row. Call again.")


def faults(fence: Doc | None) -> str | None:
    """What is wrong with a fence's document, if anything. Readers take such a field for absent."""
    if fence is None:
        return None
    lease, fields = Lease("", fence, None, 0), fence.fields
    right = {"token": lease.token, "nonce": lease.nonce, "ttl": lease.ttl, "owner": lease.owner or None}
    wrong = sorted(key for key, value in right.items() if key not in fields or fields[key] != value)
    if not isinstance(fields.get("team", ""), str):
        wrong.append("team")
    return f"{', '.join(wrong)}: missing, of another type, or out of range" if wrong else None


def end_damaged(thread_id: str, context: Context) -> Flow[bool]:
    """End a lease whose fence is damaged; false after a conflict.

    Raises:
        ThreadBusyError: It has a holder, as far as it can be read, and has not expired.
    """
    lease = yield from look(thread_id)
    if lease.fence is None or faults(lease.fence) is None:
        return True
    if lease.owner is not None and not lease.is_expired:
        raise busy(lease, context)
    fields = {"token": lease.token + 1, "nonce": context.new_attempt(), "ttl": lease.ttl, "owner": None}
    gone = () if lease.team is not None else ("team",)
    writes = Merge(lease.fence.name, fields, gone, update_time=lease.since), Delete(keys.beat_doc(thread_id))
    return (yield from Commit(writes)) is not None


def fenced(flow: Flow[T], fence: Fence) -> Flow[T]:
    """A flow of a lease's holder, with the check of the lease in each of its commits.

    The flow raises `FencedError` once the lease is lost.
    """
    return through(flow, partial(_fenced, fence))


def _fenced(fence: Fence, effect: Effect[Any]) -> Flow[Any]:
    if not isinstance(effect, Commit):
        return (yield from effect)
    times = yield from Commit((*effect.writes, fence.check()))
    if times is None:
        fence.require((yield from GetDocs((fence.name,))).get(fence.name))
        return None
    return times[:-1]


def while_free(thread_id: str, flow: Flow[T], context: Context) -> Flow[T]:
    """A flow that changes a thread without a lease. None of its commits is applied once a process acquires the lease.

    Before the thread's first lease there is no fence to check. Then the flow finds an acquisition at its next conflict,
    which the acquisition causes if both change the same document.

    Raises:
        ConflictError: The lease changed in every try.
        ThreadBusyError: A process holds the lease.
    """
    checks = yield from respect(thread_id, context)

    def perform(effect: Effect[Any]) -> Flow[Any]:
        nonlocal checks
        if not isinstance(effect, Commit):
            return (yield from effect)
        times = yield from Commit((*effect.writes, *checks))
        if times is None:
            checks = yield from respect(thread_id, context)
            return None
        return times[: len(effect.writes)]

    return (yield from through(flow, perform))


def as_writer(thread_id: str, make: Callable[[], Flow[T]], context: Context) -> Flow[T]:
    """A flow that changes a thread while no other process holds its lease: under the lease of this one, if it has it.

    This process may have lost or released its lease meanwhile.

    Args:
        thread_id: The thread.
        make: Makes the flow, each time that it begins.
        context: The leases that this process holds.

    Raises:
        ConflictError: The lease changed in every try.
        ThreadBusyError: Another process holds the lease.
    """
    fence = held_by(context.fences, thread_id)
    if fence is not None:
        try:
            return (yield from fenced(make(), fence))
        except FencedError:
            pass  # It was released or lost in between.
    return (yield from while_free(thread_id, make(), context))


# Operators


def pause(thread_id: str, cancel: bool) -> Flow[bool]:
    """Ask the holder of a lease to end its run at the next boundary, or withdraw that.

    Returns:
        Whether there is a holder.

    Raises:
        ConflictError: The beat changed in every try.
    """
    for _ in range(MAX_TRIES):
        lease = yield from look(thread_id)
        if lease.owner is None or lease.beat is None or lease.is_expired:
            return False
        fields, gone = ({}, ("wish",)) if cancel else ({"wish": WISH}, ())
        write = Merge(lease.beat.name, fields, remove=gone, update_time=lease.beat.update_time)
        if (yield from Commit((write,))) is not None:
            return True
    raise ConflictError(f"The beat of thread {thread_id!r} changed {MAX_TRIES} times in a row. Call again.")


def leases() -> Pages[LeaseInfo]:
    """Pages of all leases that are held, expired ones included."""
    after: str | None = ""
    start, end = keys.all_threads_range("")

    def page() -> Flow[Sequence[LeaseInfo] | None]:
        nonlocal after
        if after is None:
            return None
        query = QueryDocs(keys.LEASES, start=start, after=after or None, end=end, limit=_PER_PAGE, mask=(), group=True)
        names = [doc.name for doc in (yield from query)]
        after = names[-1] if len(names) == _PER_PAGE else None
        segments = dict.fromkeys(map(keys.thread_segment_of, filter(keys.is_fence_doc, names)))
        return (yield from _infos(segments)) if segments else ()

    return page


def _infos(segments: Iterable[str]) -> Flow[list[LeaseInfo]]:
    found = []
    names = [name for segment in segments for name in (f"{keys.THREADS}/{segment}", *keys.lease_docs(segment))]
    docs = yield from GetDocs(tuple(names))
    for segment in segments:
        fence, beat = keys.lease_docs(segment)
        thread = docs.get(f"{keys.THREADS}/{segment}")
        thread_id = None if thread is None else thread_id_of(thread)
        lease = Lease(thread_id or segment, docs.get(fence), docs.get(beat), docs.read_time)
        if lease.owner is not None:
            found.append(info_of(lease))
    return found


def info_of(lease: Lease) -> LeaseInfo:
    """A lease that is held, as callers get it."""
    return LeaseInfo(
        thread_id=lease.thread_id,
        owner=lease.owner or "",
        token=lease.token,
        since=at_time(lease.since),
        ttl=lease.ttl,
        last_beat=at_time(lease.seen),
        is_expired=lease.is_expired,
        node=lease.node,
    )
