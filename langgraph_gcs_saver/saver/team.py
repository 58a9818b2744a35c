"""`Team`: several threads, and consistent sets of their checkpoints.

The protocols are in `flows/sets.py` and `flows/set_restores.py`. This module does not import LangGraph. So a command
that lists, checks or restores sets starts in a fraction of the time that an agent needs.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError, InvalidOptionError, SetAbortedError
from langgraph_gcs_saver.events import SetDecided, SetRestored
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sets import check_id
from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.process_names import name_for_people

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.results import Finding, RestorePlan, SetInfo
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.connection import Connection
    from langgraph_gcs_saver.saver.thread import Thread

logger = logging.getLogger("langgraph_gcs_saver")

MAX_TIMEOUT = 3600.0
"""Most seconds for which a set may be prepared: a limit that finds a mistake of units, such as milliseconds."""

MAX_RETENTION = 1000
"""Most sets that a team keeps. Each holds a checkpoint of each member, with the values that the checkpoint needs."""


class TeamSets:
    """The sets of a team, as `admin.team` has them: make, list, check, restore and delete them.

    A set is one checkpoint of each member's thread, all of the same instant: when the set was committed, no member had
    continued. Making this object reads nothing and writes nothing.

    Attributes:
        id: The team's id.
    """

    def __init__(
        self, connection: Connection, team_id: str, members: Iterable[str] = (), *, retention: int | None = None
    ) -> None:
        configs.check_type("The team's id", team_id, str)
        check_id("team id", team_id)
        self._connection = connection
        self._backend = connection._backend  # noqa: SLF001 - a part of the connection
        self.id = team_id
        self._named = dict.fromkeys(self._chosen(members))
        self.retention = retention

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def retention(self) -> int | None:
        """How many committed sets the team keeps; `None` for what is stored, which is 10 unless it was set.

        Each `checkpoint` of this object stores the number, and then ends the oldest sets beyond it. Their checkpoints
        are then pruned as all others are.
        """
        return self._retention

    @retention.setter
    def retention(self, keep: int | None) -> None:
        if keep is not None and (type(keep) is not int or not 1 <= keep <= MAX_RETENTION):
            raise InvalidOptionError(f"retention is {keep!r}; it must be a whole number from 1 to {MAX_RETENTION}.")
        self._retention = keep

    def threads(self) -> Mapping[str, str]:
        """The id of each member's thread, by the member's name: of those that have joined, and those named here.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._threads(), self._backend)

    async def athreads(self) -> Mapping[str, str]:
        """Asynchronous twin of `threads`."""
        return await arun(self._threads(), self._backend)

    def sets(self) -> Sequence[SetInfo]:
        """The sets of the team that are stored, newest first: committed, aborted, broken, and the one being prepared.

        Raises:
            DamageError: The document of a set is damaged.
            WrongKeyError: It is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._sets(), self._backend)

    async def asets(self) -> Sequence[SetInfo]:
        """Asynchronous twin of `sets`."""
        return await arun(self._sets(), self._backend)

    def checkpoint(
        self,
        label: str | None = None,
        *,
        timeout: float = 30.0,
        quiesce: bool = False,
        members: Iterable[str] | None = None,
    ) -> SetInfo:
        """Commit a set: one durable checkpoint of each member, all of the same instant. No run stops for it.

        Each process that runs a member votes for the checkpoint that it stored last, and this call votes for members
        that run nowhere. One commit then requires that no member has stored another checkpoint since, and holds the
        checkpoints of the set. If a member was faster, it votes again. The checkpoints stay while the set is kept,
        whatever prunes their threads.

        A set is about what is stored. A message that members exchange outside of the store may be in transit: pass
        `quiesce=True` if they do.

        Args:
            label: What to call the set, in at most 1,000 characters.
            timeout: Seconds after which the set is aborted, by the service's clock, from 1 to 3,600.
            quiesce: Also ask members that run under `run` to end at their next boundary, and wait until they have. They
                are `paused` then: `run` or a worker continues them.
            members: The members that the set has; all members of the team if not given. At most 100.

        Returns:
            The committed set. That older sets could not be deleted is only logged.

        Raises:
            ConflictError: Other processes changed the team in every try; call again.
            DamageError: The document of the set is damaged, or that of another one that is being prepared.
            InvalidIdError: The name of a member cannot be stored.
            InvalidInputError: An argument is of the wrong type, the team has no members, or more than 100.
            InvalidOptionError: `timeout` is outside its range.
            SetAbortedError: A member has no checkpoint, or continued each time until the timeout. Or, with `quiesce`,
                it still ran after that time; then no set was begun, and `set_id` is empty.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._checkpoint(label, timeout, members, quiesce=quiesce), self._backend)

    async def acheckpoint(
        self,
        label: str | None = None,
        *,
        timeout: float = 30.0,
        quiesce: bool = False,
        members: Iterable[str] | None = None,
    ) -> SetInfo:
        """Asynchronous twin of `checkpoint`."""
        return await arun(self._checkpoint(label, timeout, members, quiesce=quiesce), self._backend)

    def verify(self, saved: SetInfo | str) -> Sequence[Finding]:
        """Find what a restore of a set would miss. Changes nothing.

        This checks for each member that the checkpoint of the set exists, is the one that the set names, and is held.
        It reads every byte that a run would read after a restore: values, those of subgraphs that keep their state,
        and pending writes.

        Args:
            saved: The set, or its id.

        Returns:
            The findings; empty if the set is whole.

        Raises:
            InvalidInputError: There is no such set, it is another team's, or it was not committed.
            DamageError: The document of the set is damaged.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._verify(saved), self._backend)

    async def averify(self, saved: SetInfo | str) -> Sequence[Finding]:
        """Asynchronous twin of `verify`."""
        return await arun(self._verify(saved), self._backend)

    def restore(self, saved: SetInfo | str, *, dry_run: bool = False) -> RestorePlan:
        """Make the checkpoints of a set the newest ones of their threads again: of all members, or of none.

        It verifies the set, and takes over the leases of all members, which fences runs under way. Then one commit
        forks each thread from its checkpoint of the set. The history stays. `invoke(None, config)` then continues as
        it would have at the time of the set, and a question that was open is open again.

        Side effects are not undone. The plan lists the operations and sagas that were recorded after the set.

        Args:
            saved: The set, or its id.
            dry_run: Change nothing; return what would be done.

        Returns:
            What was done.

        Raises:
            CheckpointCorruptError: A checkpoint of the set is damaged. Nothing was changed.
            ConflictError: Another call restores the set, or other writers kept changing the threads. Nothing was
                changed.
            FencedError: Another process took over a lease of the restore. Nothing was changed.
            InvalidInputError: There is no such set, it is another team's, or it is being prepared or broken. Or the
                restore needs more writes or bytes than one commit may have. Nothing was changed.
            SetAbortedError: The set was aborted.
            ThreadBusyError: A thread is being deleted.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._restore(saved, dry_run=dry_run), self._backend)

    async def arestore(self, saved: SetInfo | str, *, dry_run: bool = False) -> RestorePlan:
        """Asynchronous twin of `restore`."""
        return await arun(self._restore(saved, dry_run=dry_run), self._backend)

    def remove(self, member: str) -> bool:
        """Take a member out of the team, such as an agent that has ended, or a mistyped name. Its thread stays.

        Sets keep its checkpoints. If it acquires a lease through `member` again, it joins again.

        Args:
            member: The member's name.

        Returns:
            Whether it was a member.

        Raises:
            InvalidIdError: The name cannot be stored.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._remove(member), self._backend)

    async def aremove(self, member: str) -> bool:
        """Asynchronous twin of `remove`."""
        return await arun(self._remove(member), self._backend)

    def delete_set(self, saved: SetInfo | str) -> None:
        """Delete a set. Its checkpoints stay, but the set does not hold them any more. Idempotent.

        Args:
            saved: The set, or its id.

        Raises:
            InvalidInputError: It is another team's.
            ConflictError: Other writers kept changing its checkpoints; call again.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        run(self._delete_set(saved), self._backend)

    async def adelete_set(self, saved: SetInfo | str) -> None:
        """Asynchronous twin of `delete_set`."""
        await arun(self._delete_set(saved), self._backend)

    def delete(self) -> None:
        """Delete the team with all its sets. The threads of its members stay. Idempotent.

        A set that is being prepared is aborted. End the members' runs first: a member that acquires a lease afterwards
        joins the team again.

        Raises:
            ConflictError: Other writers kept changing the team; call again.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        run(flows.sets.delete(self.id, self._context), self._backend)

    async def adelete(self) -> None:
        """Asynchronous twin of `delete`."""
        await arun(flows.sets.delete(self.id, self._context), self._backend)

    # What the methods have in common

    @property
    def _context(self) -> Context:
        return self._connection._context  # noqa: SLF001 - a part of the connection

    def _chosen(self, members: Iterable[str]) -> list[str]:
        if isinstance(members, str):
            raise InvalidInputError("members is one text where several names are expected. Pass a list of names.")
        chosen = list(dict.fromkeys(members))
        for name in chosen:
            _check_member(name)
        return chosen

    def _id_of(self, saved: SetInfo | str) -> str:
        if isinstance(saved, str):
            return saved
        team, set_id = getattr(saved, "team", None), getattr(saved, "set_id", None)
        if not isinstance(set_id, str):
            raise InvalidInputError(f"The set is of type {type(saved).__name__}; pass a SetInfo, or the id of a set.")
        if team != self.id:
            raise InvalidInputError(f"Set {set_id} is one of team {team!r}, not of team {self.id!r}.")
        return set_id

    def _threads(self) -> Flow[Mapping[str, str]]:
        joined = yield from flows.sets.members(self.id)
        return {name: keys.member_thread_id(self.id, name) for name in sorted({*joined, *self._named})}

    def _sets(self) -> Flow[Sequence[SetInfo]]:
        return (yield from flows.sets.listed(self.id, self._context))

    def _checkpoint(
        self, label: str | None, timeout: float, members: Iterable[str] | None, *, quiesce: bool
    ) -> Flow[SetInfo]:
        began = time.monotonic()
        _check(label, timeout)
        chosen = self._named if members is None else self._chosen(members)
        joined = yield from flows.sets.members(self.id)
        wanted = sorted({*joined, *chosen} if members is None else chosen)
        if not wanted:
            raise InvalidInputError(
                f"Team {self.id!r} has no members, so there is nothing to checkpoint. Name them with members=, or let "
                "them run under the lease of team.member(name)."
            )
        if quiesce:
            yield from flows.members.quiesce(self.id, wanted, timeout)
        record = yield from flows.sets.begin(self.id, wanted, label, timeout, self._context, retention=self.retention)
        for name in wanted:
            if name not in joined:
                yield from flows.sets.join(self.id, name)
        try:
            found = yield from flows.sets.prepare(self.id, record.set_id, self._context)
        except SetAbortedError as error:
            self._report(error.set_id, wanted, began, missing=error.missing)
            raise
        self._report(found.set_id, wanted, began)
        yield from self._retain()
        return flows.sets.info_of(found)

    def _retain(self) -> Flow[None]:
        """Delete the oldest sets. A failure is only logged: the new set is committed, and the next one tries again."""
        try:
            yield from flows.teams.retain(self.id, self._context)
        except GCSSaverError as error:
            logger.warning("The older sets of team %r were not deleted: %s", self.id, error)

    def _report(
        self, set_id: str, members: Sequence[str], began: float, missing: tuple[str, ...] | None = None
    ) -> None:
        subscribers = self._connection._subscribers  # noqa: SLF001 - a part of the connection
        if subscribers.want(SetDecided):
            subscribers.emit(
                SetDecided(
                    team=self.id,
                    set_id=set_id,
                    state="committed" if missing is None else "aborted",
                    members=len(members),
                    missing=missing or (),
                    seconds=time.monotonic() - began,
                )
            )

    def _verify(self, saved: SetInfo | str) -> Flow[Sequence[Finding]]:
        loads = self._connection._loads  # noqa: SLF001 - a part of the connection
        found = yield from flows.teams.verify_set(self.id, self._id_of(saved), loads, self._context)
        return cast("Sequence[Finding]", found)

    def _restore(self, saved: SetInfo | str, *, dry_run: bool) -> Flow[RestorePlan]:
        began = time.monotonic()
        plan = yield from flows.set_restores.restore(
            self.id, self._id_of(saved), dry_run=dry_run, owner=name_for_people(), context=self._context
        )
        subscribers = self._connection._subscribers  # noqa: SLF001 - a part of the connection
        if not dry_run and subscribers.want(SetRestored):
            seconds = time.monotonic() - began
            subscribers.emit(SetRestored(team=self.id, set_id=plan.set_id, threads=len(plan.threads), seconds=seconds))
        return plan

    def _remove(self, member: str) -> Flow[bool]:
        (name,) = self._chosen((member,))
        self._named.pop(name, None)
        return (yield from flows.sets.leave(self.id, name))

    def _delete_set(self, saved: SetInfo | str) -> Flow[None]:
        yield from flows.sets.end(self.id, self._id_of(saved), self._context)


def _check_member(name: object) -> None:
    configs.check_type("The name of a member", name, str)
    check_id("name of a member", cast("str", name))


def _check(label: str | None, timeout: float) -> None:
    if label is not None:
        configs.check_type("label", label, str)
        configs.check_unicode("The label", label)
    _check_seconds("timeout", timeout, 1)


def _check_seconds(name: str, seconds: float, least: int) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidInputError(f"{name} is of type {type(seconds).__name__}; it must be a number of seconds.")
    if not least <= seconds <= MAX_TIMEOUT:
        raise InvalidOptionError(f"{name} is {seconds!r}; it must be from {least} to {MAX_TIMEOUT:,.0f} seconds.")


class Team(TeamSets):
    """A team of threads: `saver.team`. Making one reads nothing and writes nothing; the team need not exist.

    A thread belongs to the team from the first lease that was acquired through `member`, or from the first set of a
    team that was made with its name.

    Attributes:
        id: The team's id.
        vote_wait: Most seconds for which a put of a member waits for the decision about a set, after another put has
            made that decision fail; `None` for the default: the measured time of two rounds, which grows fourfold with
            each further try that fails, up to 5 seconds after the last one.
    """

    def __init__(
        self,
        saver: GCSSaver,
        team_id: str,
        members: Iterable[str] = (),
        *,
        retention: int | None = None,
        vote_wait: float | None = None,
    ) -> None:
        super().__init__(saver, team_id, members, retention=retention)
        if vote_wait is not None:
            _check_seconds("vote_wait", vote_wait, 0)
        self._saver = saver
        self.vote_wait = vote_wait

    def member(self, name: str) -> Thread:
        """The handle of a member's thread. Its `lease` makes the thread a member of the team.

        The id of the thread is made of the team's id and the name: `team/name`. Two members never have the same thread.

        Args:
            name: The member's name.

        Raises:
            InvalidIdError: The name cannot be stored.
            InvalidInputError: It is not text.
        """
        from langgraph_gcs_saver.saver.thread import Thread  # noqa: PLC0415 - only a team with members needs it

        self._named.update(dict.fromkeys(self._chosen((name,))))
        member = flows.members.Member(self.id, name, self.vote_wait)
        return Thread(self._saver, self._saver._leases, member.thread_id, member)  # noqa: SLF001 - a part of the saver
