"""Members of a team: the threads that a consistent set has a checkpoint of.

A member is a thread whose lease names a team. The name stays in the fence, so a process that resumes the thread after a
crash is the same member, whether or not its caller names the team.

A vote stops no run. So a set of members that store something every few milliseconds would never be committed: between
the last vote and the decision, one of them continues. Each try that is lost for that reason is counted in the team's
document. Once it has been counted, each put of a member waits after its vote, for longer with each further try.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from langgraph_gcs_saver.engine.effects import Doc, Flow, GetDocs, Now, Pause, Write
from langgraph_gcs_saver.errors import SetAbortedError
from langgraph_gcs_saver.flows import leases, sets
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sets import Preparing, Vote, preparing
from langgraph_gcs_saver.records import record

_ROUNDS = 2
"""After its vote, a put waits for so many rounds: the coordinator reads the votes and their checkpoints."""

_FACTOR, _MOST_TRIES = 4, 10
"""The wait grows by this factor with each try to decide that was lost, up to so many.

By `python -m benchmarks.teams`, 100 members are in a set after 2.7 s. With a factor of 2 it is 4 s, because each try of
a coordinator with 16 threads takes half a second, and the first tries are lost.
"""

_LEAST_ROUND, _MOST_ROUND = 0.005, 1.0
"""Bounds, in seconds, of the time that a round is taken for. Below, a pause would be mostly requests."""

MOST_WAIT = 5.0
"""Longest time, in seconds, for which a put waits for the next try to decide, unless `vote_wait` says more."""

_LONGEST = 60.0
"""Longest time, in seconds, for which a put waits, whatever the team's document says, unless `vote_wait` says more."""


class NamedTeam(Protocol):
    """What a run needs of a team's handle."""

    @property
    def id(self) -> str:
        """The team's id."""
        ...

    @property
    def vote_wait(self) -> float | None:
        """Most seconds for which a member's put waits for the decision of a set; `None` for what `stand` says."""
        ...


@record(frozen=True, slots=True)
class Member:
    """A member of a team.

    Attributes:
        team: The team.
        name: The member's name in it.
        vote_wait: Most seconds for which a put waits for the decision of a set; `None` for what `stand` says.
    """

    team: str
    name: str
    vote_wait: float | None = None

    @classmethod
    def of(cls, team: str, thread_id: str, vote_wait: float | None = None) -> Member | None:
        """The member whose thread a thread is; `None` if it is not a thread of that team."""
        name = keys.member_of(team, thread_id)
        return None if name is None else cls(team, name, vote_wait)

    @property
    def thread_id(self) -> str:
        """The id of its thread."""
        return keys.member_thread_id(self.team, self.name)


class Joining:
    """Riders that make a thread a member of its team in the commit that takes the lease, beside others.

    Args:
        member: The member.
        others: What else rides in the lease's commits.
    """

    def __init__(self, member: Member, others: leases.Riders) -> None:
        self._member = member
        self._others = others

    @property
    def names(self) -> tuple[str, ...]:
        """The documents of the team and of the member, and those that the others need."""
        return (*self._others.names, *sets.joining_names(self._member.team, self._member.name))

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """Those of the two documents that are missing, and what the others write."""
        joining = sets.joining(self._member.team, self._member.name, docs)
        return (*self._others.taking(docs), *joining)

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:
        """What the others write: a member stays one after its lease has ended."""
        return self._others.ending(error)


# Voting


def hear(member: Member) -> Flow[Preparing | None]:
    """The set of a member's team that is being prepared, if any."""
    name = keys.team_doc(member.team)
    return preparing((yield from GetDocs((name,))).get(name))


def tip(member: Member) -> Flow[Vote | None]:
    """The newest root checkpoint of a member's thread, as a vote for it; `None` if there is none to vote for."""
    docs = yield from sets.newest_root(member.thread_id)
    return sets.vote_in(docs[0]) if docs and keys.is_in_ns(docs[0].name, "") else None


def vote(member: Member, found: Preparing, chosen: Vote, context: Context) -> Flow[None]:
    """Vote for a checkpoint of a member."""
    yield from sets.vote(keys.set_doc(member.team, found.set_id), member.name, chosen, context)


def stand(member: Member, found: Preparing, turn: float) -> Flow[None]:
    """Wait, after a vote, until the set is decided, or until the time for that is over.

    The time begins with that of two rounds, and grows fourfold with each try to decide that was lost. It starts over
    with each such try, because the process that decides is alive then, and its next try succeeds once all members stand
    still. So it only has to become longer than one try takes, and after a crash of that process it ends.

    Args:
        member: The member.
        found: The set.
        turn: Seconds that a round takes, such as that of the vote.
    """
    turn = min(max(_LEAST_ROUND, turn), _MOST_ROUND)
    waited = since = 0.0
    while (left := _left(member, found, turn, waited, since)) > 0:
        pause = min(left, turn)
        yield from Pause(pause)
        now = yield from hear(member)
        if now is None or now.set_id != found.set_id:
            return
        waited += pause + turn
        if now.contended != found.contended:
            found, since = now, waited


def _left(member: Member, found: Preparing, turn: float, waited: float, since: float) -> float:
    """Seconds for which a put still waits for a decision.

    Args:
        member: The member.
        found: The set.
        turn: Seconds that a round takes.
        waited: Seconds that the put has waited.
        since: How many of them had passed when it learned of the last try that was lost.
    """
    if member.vote_wait is not None:
        return min(member.vote_wait, found.timeout) - waited
    wait: float = _ROUNDS * turn * _FACTOR ** min(found.contended - 1, _MOST_TRIES)
    return min(min(wait, MOST_WAIT) + since, found.timeout, _LONGEST) - waited


# Quiescing


def quiesce(team: str, names: Iterable[str], timeout: float) -> Flow[None]:
    """Ask the runs of members to end at their next boundary, and wait until no process holds the members' leases.

    A holder finds the wish with its next beat, up to a third of its lease's `ttl` later. A lease that has expired is
    that of a crashed run, which does nothing. This does not keep a run from starting once it has returned.

    Args:
        team: The team.
        names: The members.
        timeout: Seconds to wait.

    Raises:
        ConflictError: A beat changed in every try to ask its writer.
        SetAbortedError: Some members still run after that time. Runs that have not found the wish by then do not end.
    """
    threads = {keys.member_thread_id(team, name): name for name in names}
    asked: dict[str, str] = {}
    began, paused = (yield from Now()), 0.0
    while True:
        busy = yield from _held(threads)
        if not busy:
            return
        if max(paused, (yield from Now()) - began) >= timeout:
            break
        for lease in busy:
            if asked.get(lease.thread_id) != lease.nonce:
                yield from leases.pause(lease.thread_id, cancel=False)
                asked[lease.thread_id] = lease.nonce
        yield from Pause(leases.POLL_SECONDS)
        paused += leases.POLL_SECONDS
    for lease in busy:
        yield from leases.pause(lease.thread_id, cancel=True)
    missing = tuple(sorted([threads[lease.thread_id] for lease in busy]))
    raise SetAbortedError(
        f"No set of team {team!r} was begun: these members were asked to end their runs, and still ran after "
        f"{timeout:g} s: {', '.join(missing)}. Call again, with a longer timeout.",
        team=team,
        set_id="",
        missing=missing,
    )


def _held(threads: Iterable[str]) -> Flow[list[leases.Lease]]:
    """The leases of threads that a process holds, and that have not expired."""
    names = [name for thread_id in threads for name in (keys.fence_doc(thread_id), keys.beat_doc(thread_id))]
    docs = yield from GetDocs(tuple(names))
    found = [leases.lease_in(thread_id, docs) for thread_id in threads]
    return [lease for lease in found if lease.owner is not None and not lease.is_expired]
