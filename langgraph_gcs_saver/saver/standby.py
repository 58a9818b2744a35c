"""A worker whose store is not the primary of two: it waits, prepares, and begins when the store takes over."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.flows import roles
from langgraph_gcs_saver.flows.warm import AT_ONCE
from langgraph_gcs_saver.format.regions import FIRST_ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.flows.active import Listed
    from langgraph_gcs_saver.flows.all_threads import Pages
    from langgraph_gcs_saver.flows.context import Context

LOOK_SECONDS = 1.0
"""How often a waiting worker looks at the role of its store, more or less."""

WARM_SECONDS = 30.0
"""How often it reads the tips of threads. A tip that it knows costs a document, and its pending writes."""

WARM_THREADS = 50
"""Most threads whose tips it reads. A process resumes them one by one, and its cache is limited."""

logger = logging.getLogger("langgraph_gcs_saver")


def is_look(effect: object) -> bool:
    """Whether an effect reads the role of a store, and so shows that a worker has looked at it."""
    return isinstance(effect, GetDocs) and FIRST_ROLE in effect.names


class Standby:
    """What a worker knows of the role of its store, and the threads whose tips it reads ahead.

    Args:
        context: Options and caches.
        waits: Whether the worker looks again.

    Attributes:
        is_waiting: Whether the store was not the primary when the worker last looked.
    """

    def __init__(self, context: Context, *, waits: bool) -> None:
        self._context = context
        self._waits = waits
        self._cold: list[str] = []
        self._warmed: float | None = None
        self.is_waiting = False

    def may_take(self) -> Flow[bool]:
        """Look at the role. Returns whether the worker may take threads: the store is the primary, or has no role.

        Raises:
            DamageError: The document of the role is damaged.
            NotPrimaryError: The store is not the primary, and the worker looks only once.
        """
        region = self._context.region
        if region is None or region.is_plain:
            return True
        role = yield from roles.look()
        if role is not None and not role.is_primary:
            if not self._waits:
                roles.require_primary(role)
            self.wait()
            return False
        if self.is_waiting:
            logger.info("The store is the primary now, and the worker begins.")
        self.is_waiting = False
        return True

    def wait(self) -> None:
        """Note that the store is not the primary, and that the worker takes no threads until it is."""
        if not self.is_waiting:
            logger.info("The store is not the primary. The worker waits until it is.")
        self.is_waiting = True

    def pause(self) -> float:
        """Seconds until the next look of a worker that waits. Workers that began together do not stay together."""
        return LOOK_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311 - this is no secret

    def prepare(self, ready: Callable[[], Pages[Listed]]) -> Flow[None]:
        """While the worker waits: read the tips of threads that it would take, once in a while.

        Args:
            ready: Finds these threads.
        """
        now = time.monotonic()  # clock: how often tips are read, which nothing depends on
        if self._warmed is not None and now - self._warmed < WARM_SECONDS:
            return
        self._warmed = now
        next_page, some = ready(), list[str]()
        while len(some) < WARM_THREADS and (page := (yield from next_page())) is not None:
            some += [one.active.thread_id for one in page]
        yield from flows.warm.warm(some[:WARM_THREADS], self._context)

    def expect(self, found: Iterable[Listed]) -> None:
        """Note the threads that the worker takes next, in this order. Those whose process has crashed are cold."""
        self._cold = [one.active.thread_id for one in found if one.lease.owner is not None]

    def warm(self, thread_id: str) -> Flow[None]:
        """Before a thread is looked at: read its tip, if it is cold, together with those of the next cold threads."""
        if thread_id in self._cold:
            some, self._cold = self._cold[:AT_ONCE], self._cold[AT_ONCE:]
            yield from flows.warm.warm(some, self._context)
