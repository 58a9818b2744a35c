"""Leases as users hold them: `Lease`, and what the savers of a process know about the leases that they hold.

The protocol is in `flows/leases.py`. This module connects it with LangGraph: configs carry a lease into `put`, a job in
the background writes its beats, and a lost lease ends the runs that need it.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Flow, Pause, Write
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import Backend, Performer, arun, run
from langgraph_gcs_saver.errors import (
    FencedError,
    GCSSaverError,
    InvalidInputError,
    LeaseMismatchError,
    NotPrimaryError,
    ThreadBusyError,
)
from langgraph_gcs_saver.events import LeaseAcquired, LeaseEnded, LeaseTakenOver, Subscribers
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import MAX_OWNER
from langgraph_gcs_saver.flows.leases import MAX_TTL
from langgraph_gcs_saver.saver import configs, controls
from langgraph_gcs_saver.saver.background import Background, Kind
from langgraph_gcs_saver.saver.langgraph_private import control_of
from langgraph_gcs_saver.saver.process_names import check_owner, name_for_people

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from typing_extensions import Self

    from langgraph_gcs_saver.cadence.stopping import Drainable
    from langgraph_gcs_saver.flows.fences import Fence
    from langgraph_gcs_saver.flows.leases import Acquired, Beat, Riders
    from langgraph_gcs_saver.flows.members import Member
    from langgraph_gcs_saver.flows.recoveries import Begun
    from langgraph_gcs_saver.flows.save import Put
    from langgraph_gcs_saver.flows.stored import Stored
    from langgraph_gcs_saver.saver.trailing import Trailing
    from langgraph_gcs_saver.saver.turns import TurnInProgress
    from langgraph_gcs_saver.saver.voter import Voter

KEY = "__lg_lease"
"""Where a config's `configurable` has its lease: thread, token and nonce. LangGraph stores no key with this prefix."""

MIN_TTL = 5.0
"""Shortest ttl, in seconds. Beats are written every third of it, and a process may be slow for a second or two."""

BEATS = Kind("beats", most=10_000, wait=0.0)
"""Beats of leases: a repeated job for each lease that a process holds."""

MOST_CONTROLS = 64
"""Runs of one lease that are asked to end when it is lost: those that stored or read something most recently."""

_LOOKS = 12
"""How often, within the ttl, it is tried to give back a lease whose acquisition or release was cut off."""

_POLL_SECONDS = 0.1
"""How often a call looks whether another call of this process has released its lease."""

_NODES = "branch:to:"
"""Begins the names of the channels that say which nodes run next."""

logger = logging.getLogger("langgraph_gcs_saver")


class Held:
    """A lease that this process has acquired: what its puts, its beats and its `Lease` share.

    Attributes:
        fence: What each commit checks.
        former_run_id: The run of the holder from which it was taken, if that one had not released it.
        seen: The last beat, as this process wrote it.
        confirmed: When it was written, by the monotonic clock.
        note: What the next beat says about the run.
        state: Whether this process still has the lease, as far as it knows.
        ending: Why runs must end at their next boundary, if they must.
        turn: The turn that a call of `run` works on under this lease, if there is one.
        recovery: The record of the takeover by which the lease was acquired, until it is complete.
        began: When it was acquired, by the monotonic clock.
        owner: The name under which it was acquired.
        voter: Votes for the member of a team whose thread it is, if any.
        is_private: Whether only the call that acquired it acts under it.
    """

    __slots__ = (
        "_controls",
        "began",
        "confirmed",
        "ending",
        "fence",
        "former_run_id",
        "is_private",
        "note",
        "owner",
        "recovery",
        "seen",
        "state",
        "turn",
        "voter",
    )

    def __init__(self, found: Acquired, owner: str, voter: Voter | None = None) -> None:
        self.fence: Fence = found.fence
        self.owner = owner
        self.voter = voter
        self.former_run_id = None if found.taken_over is None else found.taken_over.nonce
        self.seen: Beat = found.beat
        self.began = self.confirmed = time.monotonic()
        self.note: Mapping[str, Any] = {}
        self.state: Literal["held", "lost", "released"] = "held"
        self.ending: str | None = None
        self.is_private = False
        self.turn: TurnInProgress | None = None
        self.recovery: Begun | None = found.recovery
        self._controls: dict[int, Drainable] = {}

    @property
    def key(self) -> tuple[str, int]:
        """The key of the lease in a process's tables."""
        return self.fence.thread_id, self.fence.token

    def meet(self, config: object) -> None:
        """Remember the run to which a config belongs. It ends at its next boundary once `end` has been called."""
        control = control_of(config)
        if control is None:
            return
        self._controls.pop(id(control), None)
        self._controls[id(control)] = control
        for old in tuple(self._controls)[:-MOST_CONTROLS]:
            self._controls.pop(old, None)
        # After it was added: `end` on another thread either finds it there, or has set `ending` before this line.
        if self.ending is not None:
            control.request_drain(self.ending)

    def end(self, reason: str) -> None:
        """Ask the runs of this lease to end, those that are still to come included."""
        self.ending = reason
        for control in tuple(self._controls.values()):
            control.request_drain(reason)

    def lose(self) -> None:
        """Note that the lease is lost, and ask its runs to end."""
        if self.state == "held":
            self.state = "lost"
            self.end(f"The lease of thread {self.fence.thread_id!r} is lost.")


class _Process:
    """The leases of one process.

    Attributes:
        held: Those that it has acquired and not released, by thread and token.
        places: By thread, the lease that it has, or the call that acquires it: one call at a time.
        reported: By nonce, those whose acquisition was reported, and whose end was not.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, int], Held] = {}
        self.places: dict[str, object] = {}
        self.reported: dict[str, Held] = {}

    def take(self, thread_id: str, place: object) -> bool:
        """Take the place of a thread for a call, unless another call has it. A lost lease does not keep it."""
        found = self.places.setdefault(thread_id, place)
        if isinstance(found, Held) and found.state != "held":
            self.leave(thread_id, found)
            found = self.places.setdefault(thread_id, place)
        return found is place

    def leave(self, thread_id: str, place: object) -> None:
        """Let other calls take the place of a thread, unless one already has. Idempotent."""
        if self.places.get(thread_id) is place:
            self.places.pop(thread_id, None)


class Leases:
    """The leases that are held through a saver. The copies of the saver that LangGraph makes share this object.

    Args:
        contexts: The context of each process. Its `fences` are the leases that flows may use.
        backend: Performs flows.
        background: Writes beats.
        subscribers: Get the events.
        writers: The option: whether a put needs a lease.
        behind: Performs flows that do not wait for trailing proofs: those of the background, and releases.
        trailing: The trailing proofs; `None` if no calls have any.
    """

    def __init__(
        self,
        contexts: PerProcess[Context],
        backend: Backend,
        background: Background,
        subscribers: Subscribers,
        writers: Literal["any", "leased"],
        *,
        behind: Performer,
        trailing: Trailing | None,
    ) -> None:
        self._contexts = contexts
        self._background = background
        self._subscribers = subscribers
        self._is_required = writers == "leased"
        self._processes = PerProcess(_Process)
        self._trailing = trailing
        self.backend = backend
        self.behind = behind

    # What LangGraph's calls need

    def fence_of(self, config: RunnableConfig) -> Fence | None:
        """The lease with which a config's puts are made; `None` for a config without one.

        Raises:
            FencedError: This process does not hold that lease, or has lost it.
            LeaseMismatchError: It is another thread's, or a lease is required and the config has none.
        """
        found = configs.configurable(config)
        if found.get(KEY) is None and not self._is_required:
            return None
        held = self._held_of(found)
        held.meet(config)
        return held.fence

    def meet(self, config: RunnableConfig) -> None:
        """Remember the run that reads with a config, if this process holds the lease that the config has."""
        key = configs.configurable(config).get(KEY)
        if key is not None:
            held = self._find(key)
            if held is not None:
                held.meet(config)

    def held_of(self, fence: Fence | None) -> Held | None:
        """What this process knows about a lease that it has acquired; `None` after its release."""
        return None if fence is None else self._processes.get().held.get((fence.thread_id, fence.token))

    def turn_of(self, fence: Fence | None) -> TurnInProgress | None:
        """The turn that a call of `run` works on under a lease, if there is one."""
        held = self.held_of(fence)
        return None if held is None else held.turn

    def turn_in(self, config: RunnableConfig) -> TurnInProgress | None:
        """The turn that a call of `run` works on under the lease that a config has, if there is one."""
        held = self.held_in(config)
        return None if held is None else held.turn

    def held_in(self, config: RunnableConfig) -> Held | None:
        """What this process knows about the lease that a config has."""
        key = configs.part(config, "configurable").get(KEY)
        return None if key is None else self._find(key)

    def note(self, fence: Fence, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]) -> Held | None:
        """Let the next beat say which step a checkpoint of the root graph has, and which nodes run after it.

        With a cipher, the beat has neither, unless `clear_metadata` names it.

        Returns:
            What this process knows about the lease; `None` after its release.
        """
        held = self.held_of(fence)
        if held is None:
            return None
        nodes = sorted(name[len(_NODES) :] for name in checkpoint["channel_values"] if name.startswith(_NODES))
        note = {"step": metadata.get("step"), "node": ", ".join(nodes)[:MAX_OWNER]}
        clear = self._contexts.get().clear_metadata
        held.note = {name: value for name, value in note.items() if value and (clear is None or name in clear)}
        return held

    def voting(self, request: Put, stored: Stored) -> Flow[None]:
        """Take part in a consistent set of the thread's team, after a put that has read the team's document."""
        held = self.held_of(request.fence)
        if held is not None and held.voter is not None:
            yield from held.voter.after_put(request.checkpoint_id, stored)

    def watching(self, config: object) -> _Watching:
        """A block that puts with a config: if it may not write, its run is asked to end."""
        return _Watching(self, config)

    def refuse(self, config: object, error: Exception) -> None:
        """Ask a run to end, because a put of it was refused. Only with `durability="sync"` the error does so itself."""
        control = control_of(config)
        if control is not None:
            control.request_drain(str(error))
        if isinstance(error, FencedError):
            held = self._find(configs.part(config, "configurable").get(KEY))
            if held is not None:
                self._lose(held)

    def _lose(self, held: Held) -> None:
        held.lose()
        self._contexts.get().fences.pop(held.key, None)
        self._report_end(held, "lost")

    def _report_acquired(self, held: Held, waited: float) -> None:
        self._processes.get().reported[held.fence.nonce] = held
        if self._subscribers.want(LeaseAcquired):
            thread_id, token = held.key
            self._subscribers.emit(LeaseAcquired(thread_id=thread_id, owner=held.owner, token=token, waited=waited))

    def _report_end(self, held: Held, reason: Literal["released", "lost"]) -> None:
        """Report that a lease is not held any more, once. A forked child does not report the end of its parent's."""
        is_first = self._processes.get().reported.pop(held.fence.nonce, None) is not None
        if is_first and self._subscribers.want(LeaseEnded):
            (thread_id, token), seconds = held.key, time.monotonic() - held.began
            self._subscribers.emit(
                LeaseEnded(thread_id=thread_id, owner=held.owner, token=token, held=seconds, reason=reason)
            )

    def _held_of(self, found: Mapping[str, Any]) -> Held:
        thread_id, key = configs.text_of(found, "thread_id"), found.get(KEY)
        if key is None:
            raise LeaseMismatchError(
                f"The saver was opened with writers='leased', and a config of thread {thread_id!r} has no lease. "
                "Nothing was stored. Use the lease's own config: graph.with_config(lease.config). A config that "
                "get_state or update_state returned has lost it."
            )
        if not _is_key(key) or key[0] != thread_id:
            of = repr(key[0]) if _is_key(key) else "no thread"
            raise LeaseMismatchError(
                f"The config names thread {thread_id!r}, and its lease is that of {of}. Nothing was stored. Use the "
                "config of a lease for the thread that it names."
            )
        held = self._find(key)
        if held is not None and held.state == "held":
            return held
        why = "it has lost it" if held is not None else "it was released, or another process acquired it"
        raise FencedError(
            f"This process does not hold the lease of thread {thread_id!r} that the config has: {why}. Nothing was "
            "stored. End the run, and acquire a lease for the next one. A forked process needs its own.",
            thread_id=thread_id,
        )

    def _find(self, key: Any) -> Held | None:
        """The lease of this process that a config's `__lg_lease` is. A deleted thread's tokens start again."""
        if not _is_key(key):
            return None
        held = self._processes.get().held.get(key[:2])
        return held if held is not None and held.fence.nonce == key[2] else None

    # What a `Lease` needs

    def has(self, held: Held) -> bool:
        """Whether this process has acquired a lease and not released it. A forked child has not."""
        return self._processes.get().held.get(held.key) is held

    def acquiring(self, lease: Lease) -> Flow[Held]:
        """Acquire the lease of a thread, and begin its beats.

        Raises:
            NotPrimaryError: The store is not the primary of two that replicate each other.
            ThreadBusyError: Another call of this process, or another process, held the lease for too long.
        """
        process, context, place = self._processes.get(), self._contexts.get(), object()
        request = flows.leases.Acquire(
            lease.thread_id,
            lease.owner,
            str(uuid4()),
            lease.ttl,
            take_over=lease.takes_over,
            team=None if lease.member is None else lease.member.team,
        )
        acquisition: flows.leases.Acquisition | None = None
        try:
            waited = yield from self._take_place(process, lease, place)
            acquisition = flows.leases.Acquisition(request, lease.wait - waited, context, lease.riders)
            found = yield from acquisition.flow()
            held = Held(found, lease.owner, self._voter(lease, found))
            for other in tuple(process.held.values()):
                if other.fence.thread_id == lease.thread_id and other.fence.token < held.fence.token:
                    self._lose(other)  # Its own commits and beats find out, too. This is sooner.
            process.held[held.key] = held
            context.fences[held.key] = held.fence
            if process.places.get(lease.thread_id) is place:
                process.places[lease.thread_id] = held
            beat = partial(self._beat, held, weakref.ref(lease))
            self._background.repeat(BEATS, request.nonce, lease.ttl / 3, beat)
            self._report_acquired(held, waited + acquisition.waited)
        except BaseException:
            if acquisition is not None and acquisition.is_open:
                self._give_back(request.thread_id, request.nonce, request.ttl)
            raise
        finally:
            process.leave(lease.thread_id, place)
        if found.taken_over is not None:
            former = found.taken_over
            self._subscribers.emit(
                LeaseTakenOver(
                    thread_id=lease.thread_id,
                    owner=lease.owner,
                    token=held.fence.token,
                    former=former.owner,
                    former_run_id=former.nonce,
                    downtime=former.downtime,
                    is_expired=former.is_expired,
                )
            )
        return held

    def _voter(self, lease: Lease, found: Acquired) -> Voter | None:
        """Votes for the member whose thread a lease is: the one that its caller named, or a holder before it."""
        if found.team is None:
            return None
        from langgraph_gcs_saver.saver.voter import Jobs, Voter  # noqa: PLC0415 - most processes need none

        member = lease.member or flows.members.Member.of(found.team, lease.thread_id)
        jobs = Jobs(self._background, self.behind)
        return None if member is None else Voter(member, self._contexts.get, jobs)

    def _take_place(self, process: _Process, lease: Lease, place: object) -> Flow[float]:
        """Wait until no other call of this process holds the lease. Returns the seconds that it has waited."""
        waited = 0.0
        if lease.takes_over:
            process.places[lease.thread_id] = place
        # By the place, because two calls of one process may have the same owner's name.
        while not process.take(lease.thread_id, place):
            if waited >= lease.wait:
                raise ThreadBusyError(
                    f"Another call of this process holds the lease of thread {lease.thread_id!r}. Wait for it with "
                    "`wait=`, or stop its run and take over with `take_over=True`.",
                    thread_id=lease.thread_id,
                )
            pause = min(lease.wait - waited, _POLL_SECONDS)
            yield from Pause(pause)
            waited += pause
        return waited

    def releasing(self, held: Held, beside: tuple[Write, ...] = ()) -> Flow[bool]:
        """End a lease of this process, and ask the runs that still use it to end.

        It first waits for trailing proofs, because those may write under the lease.

        Args:
            held: The lease.
            beside: What else the commit that releases it writes.

        Returns:
            Whether this process still had it.
        """
        if not self.has(held):
            return False
        if self._trailing is not None:
            yield from self._trailing.settled(held.fence.thread_id)
        released = yield from flows.leases.release(held.fence, self._contexts.get(), beside)
        if not released:
            self._report_end(held, "lost")
        self.forget(held)
        return released

    def _give_back(self, thread_id: str, nonce: str, ttl: float) -> None:
        """Release, in the background, a lease that no block will: its acquisition or its release was cut off.

        What was cut off may still be applied for a while, so this looks several times. After the ttl, the lease has
        expired.
        """
        process, context, name = self._processes.get(), self._contexts.get(), f"{nonce} ends"
        for held in tuple(process.held.values()):
            if held.fence.nonce == nonce:
                self.forget(held)
        for key, fence in tuple(context.fences.items()):
            if fence.nonce == nonce:
                context.fences.pop(key, None)
        context.given_up.put(nonce, True, len(nonce))
        until = time.monotonic() + ttl

        def job() -> None:
            is_done = False
            try:
                is_done = run(flows.leases.give_back(thread_id, nonce), self.behind)
            except GCSSaverError as error:
                logger.info("The lease of thread %r was not given back yet: %s", thread_id, error)
            if is_done or time.monotonic() > until:
                self._background.stop(BEATS, name)

        self._background.submit(BEATS, name, job)
        self._background.repeat(BEATS, name, ttl / _LOOKS, job)

    def raise_failed(self, held: Held) -> None:
        """Raise if the proof of a call that has returned has failed, once.

        Raises:
            CheckpointVerificationError: A proof has failed.
        """
        if self._trailing is not None:
            self._trailing.raise_failed(held.fence.thread_id)

    def forget(self, held: Held) -> None:
        """Write no more beats of a lease, and let no put use it. Without a release, it expires. Idempotent."""
        if not self.has(held):
            return
        process = self._processes.get()
        self._background.stop(BEATS, held.fence.nonce)
        if held.state == "held":
            held.state = "released"
            held.end(f"The lease of thread {held.fence.thread_id!r} was released.")
        process.leave(held.fence.thread_id, held)
        process.held.pop(held.key, None)
        self._contexts.get().fences.pop(held.key, None)
        if held.voter is not None:
            held.voter.stop()
        self._report_end(held, "released")

    def _beat(self, held: Held, lease: weakref.ref[Lease]) -> None:
        """Write a beat, in the background."""
        if not self.has(held):
            return
        if lease() is None:  # An exception struck between its acquisition and the block. So no block will release it.
            with self.leaving(held):
                run(self.releasing(held), self.behind)
            return
        began = time.monotonic()
        try:
            seen = run(flows.leases.beat(held.fence, held.seen, held.note), self.behind)
        except FencedError:
            self._lose(held)
        except GCSSaverError as error:
            logger.warning("The beat of thread %r was not written: %s", held.fence.thread_id, error)
            if time.monotonic() - held.confirmed > held.fence.ttl:
                self._lose(held)
        else:
            held.seen, held.confirmed = seen, began
            if seen.wish is not None:
                held.end(f"Another process asked to pause thread {held.fence.thread_id!r}.")
            elif held.state == "held":
                held.ending = None
            if held.voter is not None:
                held.voter.look()
        if held.state == "lost":
            self._background.stop(BEATS, held.fence.nonce)

    @contextmanager
    def leaving(self, held: Held) -> Iterator[None]:
        """A block that releases a lease at its end. If that fails, the lease expires, and the log says so."""
        fence = held.fence
        try:
            yield
        except GCSSaverError as error:
            self._give_back(fence.thread_id, fence.nonce, fence.ttl)
            logger.warning(
                "The lease of thread %r was not released. This is tried again, and it expires in %g s: %s",
                fence.thread_id,
                fence.ttl,
                error,
            )
        except BaseException:
            self._give_back(fence.thread_id, fence.nonce, fence.ttl)
            raise
        finally:
            self.forget(held)


def _is_key(key: Any) -> bool:
    """Whether a config's lease has the form that `Lease.config` gives it."""
    return isinstance(key, tuple) and [type(one) for one in key] == [str, int, str]


class _Watching:
    """A block that puts: a run that may not write is asked to end."""

    __slots__ = ("_config", "_leases")

    def __init__(self, leases: Leases, config: object) -> None:
        self._leases = leases
        self._config = config

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            controls.note_failed(self._config, error)
        if isinstance(error, (FencedError, LeaseMismatchError, NotPrimaryError, ThreadBusyError)):
            self._leases.refuse(self._config, error)


class Lease:
    """The right to write to a thread, for `with` or `async with`: one writer at a time.

    The block begins when the lease is acquired, and its end releases it. A job in the background proves every third of
    `ttl` that the process is alive. If the process crashes, the lease expires after `ttl` seconds.

    Use `config` for everything in the block that writes: `graph.with_config(lease.config).invoke(inputs, config)`. Each
    commit of such a put requires that the lease has not changed hands. So after a loss, `put` and `put_writes` raise
    `FencedError` and store nothing, even if the process was stopped for hours in between. The runs are asked to end at
    their next boundary between two steps. LangGraph then raises `GraphDrained`.

    A lease belongs to the process that acquired it. A forked child needs its own.

    Attributes:
        thread_id: The thread.
        ttl: Seconds without a sign of life after which another process may acquire the lease.
        wait: Seconds to wait for another holder.
        owner: The name of the holder.
        takes_over: Whether it takes the lease from a live holder.
        riders: What else the commits that take and release it write.
        member: The member of a team whose thread it is. The commit that takes the lease adds it to the team.
    """

    def __init__(
        self,
        leases: Leases,
        thread_id: str,
        *,
        ttl: float,
        wait: float,
        owner: str | None,
        take_over: bool,
        riders: Riders | None = None,
        member: Member | None = None,
    ) -> None:
        self.ttl = _seconds("ttl", ttl, MIN_TTL, MAX_TTL)
        self.wait = _seconds("wait", wait, 0.0, sys.float_info.max)
        configs.check_type("take_over", take_over, bool)
        if owner is None:
            owner = name_for_people()
        check_owner(owner)
        self.thread_id = thread_id
        self.owner = owner
        self.takes_over = take_over
        self.riders = riders or flows.leases.NoRiders()
        if member is not None:
            self.riders = flows.members.Joining(member, self.riders)
        self.member = member
        self._leases = leases
        self._held: Held | None = None

    def __repr__(self) -> str:
        state = "not acquired" if self._held is None else "lost" if self.lost else self._held.state
        return f"Lease({self.thread_id!r}, {state})"

    def __enter__(self) -> Self:
        self._held = run(self._leases.acquiring(self), self._leases.backend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._acquired()
        with self._leases.leaving(held):
            run(self._leases.releasing(held, self.riders.ending(error)), self._leases.behind)
        if error is None:
            self._leases.raise_failed(held)

    async def __aenter__(self) -> Self:
        self._held = await arun(self._leases.acquiring(self), self._leases.backend)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._acquired()
        with self._leases.leaving(held):
            await arun(self._leases.releasing(held, self.riders.ending(error)), self._leases.behind)
        if error is None:
            self._leases.raise_failed(held)

    def _acquired(self) -> Held:
        if self._held is None:
            raise InvalidInputError(
                f"The lease of thread {self.thread_id!r} has not been acquired. Enter it: "
                "`with saver.thread(…).lease() as lease:`, or `async with`."
            )
        return self._held

    @property
    def config(self) -> RunnableConfig:
        """The config of a run under this lease: `graph.with_config(lease.config)`.

        Its `configurable` has the thread's id and the lease. A `thread_id` that a run adds must be the same.

        Raises:
            InvalidInputError: The lease has not been acquired.
        """
        fence = self._acquired().fence
        return {"configurable": {"thread_id": self.thread_id, KEY: (fence.thread_id, fence.token, fence.nonce)}}

    @property
    def run_id(self) -> str:
        """The `run_id` of the checkpoints that are stored under this acquisition, unless a config names its own.

        It is not in `config`, because LangGraph takes a second call with the same `run_id` for a continued stream, and
        ignores its input.

        Raises:
            InvalidInputError: The lease has not been acquired.
        """
        return self._acquired().fence.nonce

    @property
    def former_run_id(self) -> str | None:
        """The `run_id` of the holder that had not released the lease, for `delete_for_runs`; `None` if it was free.

        Raises:
            InvalidInputError: The lease has not been acquired.
        """
        return self._acquired().former_run_id

    @property
    def token(self) -> int:
        """A number that grows with each holder of the thread's lease, for systems that check it themselves.

        Raises:
            InvalidInputError: The lease has not been acquired.
        """
        return self._acquired().fence.token

    @property
    def lost(self) -> bool:
        """Whether this process knows that it lost the lease. It may have lost it without having noticed yet."""
        held = self._held
        if held is None or held.state == "released":
            return False
        return held.state == "lost" or not self._leases.has(held)

    def release(self) -> bool:
        """Release the lease before the end of the block. Runs that still use it are asked to end. Idempotent.

        Returns:
            Whether this process still had it.

        Raises:
            CheckpointVerificationError: With `verify="pipelined"`, the proof of a call that has returned has failed.
                The lease is released nevertheless.
            InvalidInputError: The lease has not been acquired.
            StoreError: A service rejected a request, or did not answer before the deadline. The lease is still held.
        """
        held = self._acquired()
        has_released = run(self._leases.releasing(held), self._leases.behind)
        self._leases.raise_failed(held)
        return has_released

    async def arelease(self) -> bool:
        """Asynchronous twin of `release`."""
        held = self._acquired()
        has_released = await arun(self._leases.releasing(held), self._leases.behind)
        self._leases.raise_failed(held)
        return has_released


def _seconds(what: str, seconds: object, least: float, most: float) -> float:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not least <= seconds <= most:  # type: ignore[operator]  # a number by now
        limit = "" if most == sys.float_info.max else f" and at most {most:g}"
        raise InvalidInputError(f"{what} must be a number of seconds, at least {least:g}{limit}.")
    return float(seconds)  # type: ignore[arg-type]  # as above
