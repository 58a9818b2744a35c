"""`Voter`: takes part in the consistent sets of a team, for one member under its lease.

A put reads the team's document beside its own reads. While no set is being prepared, that is all. Otherwise a job in
the background votes for the checkpoint just stored, and looks again every second until the set is decided. If a try to
decide was lost because members continued, the put itself votes and waits, so that the next try can succeed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from langgraph_gcs_saver.engine.effects import Flow, Now
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.flows import members, sets
from langgraph_gcs_saver.format.keys import team_doc
from langgraph_gcs_saver.format.sets import Preparing, Vote, preparing
from langgraph_gcs_saver.saver.background import Background, Kind

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.runner import Performer
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.flows.members import Member
    from langgraph_gcs_saver.flows.stored import Stored

VOTES = Kind("votes", most=10_000, wait=0.0)
"""Votes: a job for each member, repeated while a set is being prepared. `close` drops them, because they are hints."""

LOOK_SECONDS = 1.0
"""How often a member looks at a set that is being prepared. The end of its timeout is noticed that much later."""

logger = logging.getLogger("langgraph_gcs_saver")


class Jobs:
    """Looks in the background, at most one at a time for each member.

    Args:
        background: Does the jobs.
        backend: Performs their flows.
    """

    def __init__(self, background: Background, backend: Performer) -> None:
        self._background = background
        self._backend = backend

    def now(self, key: str, look: Callable[[], Flow[None]]) -> None:
        """Look, unless a look of this key waits already."""
        self._background.submit(VOTES, key, self._job(look))

    def again(self, key: str, look: Callable[[], Flow[None]]) -> None:
        """Look every `LOOK_SECONDS`, until `stop`. Idempotent."""
        self._background.repeat(VOTES, key, LOOK_SECONDS, self._job(look))

    def stop(self, key: str) -> None:
        """Look no more. Idempotent."""
        self._background.stop(VOTES, key)

    def _job(self, look: Callable[[], Flow[None]]) -> Callable[[], None]:
        return lambda: run(look(), self._backend)


class Voter:
    """Votes for one member.

    Args:
        member: The member.
        context: Makes the context of the process.
        jobs: Looks in the background.

    Attributes:
        beside: The document that a put reads beside its own reads.
    """

    def __init__(self, member: Member, context: Callable[[], Context], jobs: Jobs) -> None:
        self.member = member
        self.beside = (team_doc(member.team),)
        self._context = context
        self._jobs = jobs
        self._stored: Vote | None = None
        self._voted: tuple[str, Vote] | None = None
        self._heard: tuple[str, float] | None = None

    def after_put(self, checkpoint_id: str, stored: Stored) -> Flow[None]:
        """Take part in the set that is being prepared, if there is one, after a put that has read `beside`."""
        found = None if stored.beside is None else preparing(stored.beside.get(self.beside[0]))
        if found is None:
            return
        vote = None if stored.time is None else Vote(checkpoint_id, stored.digest.hex(), stored.time)
        # Before the wait, which ends no later than the set, and the set may have lost its coordinator.
        self._jobs.again(self.member.thread_id, self._look)
        if found.contended and vote is not None:
            self._stored = None  # A look that comes late must not vote for an older one.
            yield from self._safely(self._stand(found, vote))
        else:
            self._stored = vote
            self._jobs.now(self.member.thread_id, self._look)

    def look(self) -> None:
        """Find out in the background whether a set is being prepared. If so, take part."""
        self._jobs.now(self.member.thread_id, self._look)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        self._jobs.stop(self.member.thread_id)

    def _stand(self, found: Preparing, vote: Vote) -> Flow[None]:
        began = yield from Now()
        yield from members.vote(self.member, found, vote, self._context())
        self._voted = found.set_id, vote
        yield from members.stand(self.member, found, (yield from Now()) - began)

    def _look(self) -> Flow[None]:
        yield from self._safely(self._take_part())

    def _take_part(self) -> Flow[None]:
        """Vote, and decide once the timeout is over."""
        found = yield from members.hear(self.member)
        if found is None:
            self._heard = None
            self.stop()
            return
        self._jobs.again(self.member.thread_id, self._look)
        now = yield from Now()
        if self._heard is None or self._heard[0] != found.set_id:
            self._heard = found.set_id, now
        # The hold of an earlier set changes a checkpoint too. So what a put has stored counts only once.
        vote, self._stored = self._stored, None
        vote = vote or (yield from members.tip(self.member))
        if vote is not None and self._voted != (found.set_id, vote):
            yield from members.vote(self.member, found, vote, self._context())
            self._voted = found.set_id, vote
        # This is only when to look at the set's own times, so that the process's clock is good enough.
        if not 0 <= now - self._heard[1] < found.timeout:
            yield from sets.decide(self.member.team, found.set_id, self._context())

    def _safely(self, flow: Flow[None]) -> Flow[None]:
        """A flow whose failure is only logged: the checkpoint is stored, and others can vote for it."""
        try:
            yield from flow
        except GCSSaverError as error:
            logger.warning("Member %r of team %r did not vote: %s", self.member.name, self.member.team, error)
