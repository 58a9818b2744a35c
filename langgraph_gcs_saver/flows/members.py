"""Members of a team: the threads that a consistent set has a checkpoint of.

A member is a thread whose lease names a team. The name stays in the fence, so a process that resumes the thread after a
crash is the same member, whether or not its caller names the team.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from langgraph_gcs_saver.engine.effects import Doc, Write
from langgraph_gcs_saver.flows import sets
from langgraph_gcs_saver.flows.leases import Riders
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.records import record


class NamedTeam(Protocol):
    """What a run needs of a team's handle."""

    @property
    def id(self) -> str:
        """The team's id."""
        ...

    @property
    def vote_wait(self) -> float | None:
        """Most seconds for which a member's put waits for the decision of a set; `None` for the measured time."""
        ...


@record(frozen=True, slots=True)
class Member:
    """A member of a team.

    Attributes:
        team: The team.
        name: The member's name in it.
        vote_wait: Most seconds for which a put waits for the decision of a set; `None` for the measured time.
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

    def __init__(self, member: Member, others: Riders) -> None:
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
