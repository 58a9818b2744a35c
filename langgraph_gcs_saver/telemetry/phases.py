"""When a call performed its effects, for the events of its span.

No event marks the beginning of a call. So each thread, and each task of an event loop, notes its latest effects. When a
call has ended, those that fit into its duration are its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from langgraph_gcs_saver.engine.effects import (
    BlobRequest,
    Commit,
    Compute,
    DocumentRequest,
    Effect,
    HashBlob,
    PutBlob,
)
from langgraph_gcs_saver.records import record

_SLACK_SECONDS = 1.0
"""How long the system may stop a thread between the end of a call and its event. Older effects are not the call's."""

_MOST = 64
"""Effects that are noted. Few calls have more, and then their last ones are kept."""


@record(frozen=True, slots=True)
class Step:
    """An effect, or effects that were performed at the same time.

    Attributes:
        kinds: The class of each effect.
        begin: When it began, by `time.perf_counter`.
        end: When it ended.
        is_answered: Whether it returned something other than `None`: a commit that was applied, or a read.
    """

    kinds: tuple[type[Effect[Any]], ...]
    begin: float
    end: float
    is_answered: bool


@record(frozen=True, slots=True)
class Phase:
    """A part of a call.

    Attributes:
        name: One of `PHASES`.
        begin: When it began, by `time.perf_counter`.
        end: When it ended.
    """

    name: str
    begin: float
    end: float


PHASES = {
    "serialize": "`put` and `put_writes` check their arguments and serialize the values",
    "compress": "values are compared with earlier ones and compressed",
    "fetch": "documents and objects are read",
    "upload": "objects are created",
    "commit": "what was written becomes visible",
    "read back": "what was written is read and compared",
    "decode": "what was fetched is verified, decompressed and deserialized",
}
"""The parts of calls, and what happens in them."""


class _Latest:
    """The latest effects of a task, or of a thread.

    Attributes:
        owner: The task, as `id` gives it. A task that was started by another one inherits its context, and so this
            object, but is not its owner.
        steps: The effects.
    """

    __slots__ = ("owner", "steps")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.steps: deque[Step] = deque(maxlen=_MOST)


_of_task: ContextVar[_Latest] = ContextVar("langgraph-gcs-phases")


class Steps:
    """The latest effects, by thread and by task."""

    def __init__(self) -> None:
        self._local = threading.local()

    def note(self, step: Step) -> None:
        """Note an effect that this thread performed."""
        try:
            self._local.steps.append(step)
        except AttributeError:
            self._local.steps = deque((step,), maxlen=_MOST)

    def note_in_task(self, step: Step) -> None:
        """Note an effect that the current task performed."""
        owner = id(asyncio.current_task())
        latest = _of_task.get(None)
        if latest is None or latest.owner != owner:
            latest = _Latest(owner)
            _of_task.set(latest)
        latest.steps.append(step)

    def take(self, seconds: float) -> list[Step]:
        """The effects of the call that has just ended here, and took so many seconds.

        The time at which it ended is not known: the system may have stopped this thread since. So the end of its last
        effect counts as its end.
        """
        latest = _of_task.get(None)
        of_task = None if latest is None or latest.owner != _current_task() else latest.steps
        # A call may be synchronous although a task makes it. The newer notes are those of the call.
        both = [steps for steps in (of_task, getattr(self._local, "steps", None)) if steps]
        steps = max(both, key=lambda steps: steps[-1].end, default=None)
        if not steps:
            return []
        # clock: notes of a call without effects may be those of earlier work, if it is very recent
        is_old = steps[-1].end < time.perf_counter() - seconds - _SLACK_SECONDS
        since = steps[-1].end - seconds
        found = [] if is_old else [step for step in steps if step.begin >= since]
        steps.clear()
        return found


def _current_task() -> int | None:
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # no event loop runs in this thread
        return None


def phases(steps: Iterable[Step], since: float, *, writes: bool) -> list[Phase]:
    """The phases of a call: what it did, with consecutive effects of one kind together.

    Args:
        steps: Its effects in order.
        since: When the call began.
        writes: Whether the call is a `put` or `put_writes`.
    """
    found: list[Phase] = []
    has_committed = False
    for step in steps:
        name = _name(step, found[-1].name if found else "", writes=writes, has_committed=has_committed)
        has_committed |= name == "commit" and step.is_answered
        if name is None:
            continue
        if not found and writes and step.begin > since:
            found.append(Phase("serialize", since, step.begin))
        if found and found[-1].name == name:
            found[-1] = Phase(name, found[-1].begin, step.end)
        else:
            found.append(Phase(name, step.begin, step.end))
    return found


def _name(step: Step, before: str, *, writes: bool, has_committed: bool) -> str | None:
    """The phase that an effect belongs to, after another phase; `None` for waiting, clocks and events."""
    kinds = step.kinds
    if Commit in kinds:
        return "commit"
    if PutBlob in kinds:
        return "upload"
    if Compute in kinds:
        # The digests of uploads, to compare with.
        return "read back" if before in {"upload", "commit"} else "compress" if writes else "decode"
    if not any(issubclass(kind, (DocumentRequest, BlobRequest)) for kind in kinds):
        return None
    return "read back" if writes and (has_committed or HashBlob in kinds) else "fetch"
