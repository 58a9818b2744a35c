"""The end of a call of `run`: it is reported, and after a drain, sinks pass on what they hold back."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from langgraph.errors import GraphDrained

from langgraph_gcs_saver.events import RunEnded, RunOutcome
from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.connection import DRAIN_SECONDS

if TYPE_CHECKING:
    from typing_extensions import Self

    from langgraph_gcs_saver.saver.running import Running


class Calling:
    """The block of one call of `run`, for `with` and `async with`. The lease is taken and released inside of it.

    Args:
        running: The call.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._began = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        if isinstance(error, GraphDrained):
            self._running.inside.subscribers.flush(DRAIN_SECONDS)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        if isinstance(error, GraphDrained):
            await self._running.inside.subscribers.aflush(DRAIN_SECONDS)

    def _end(self, error: BaseException | None) -> None:
        running = self._running
        running.close()
        if running.inside.subscribers.want(RunEnded):
            running.inside.subscribers.emit(_ended(running, error, time.perf_counter() - self._began))


def _ended(running: Running, error: BaseException | None, seconds: float) -> RunEnded:
    found, config = running.found, running.graph_config
    active = None if found is None else found.active
    outcome = _outcome(running, error)
    return RunEnded(
        thread_id=running.thread_id,
        run_id=configs.named(config)["run_id"] or running.lease_run_id,
        outcome=outcome,
        is_resumed=running.action == "continue" and not running.was_finished,
        attempts=0 if found is None else max(1, 0 if active is None else active.attempts),
        steps=running.in_progress.steps,
        error=type(error).__name__ if outcome in ("drained", "failed", "interrupted") else "",
        labels=running.inside.labels.of(config),
        seconds=seconds,
    )


def _outcome(running: Running, error: BaseException | None) -> RunOutcome:
    if isinstance(error, GeneratorExit) and running.has_ended:
        error = None  # The reader of a stream has left it behind its last part.
    if isinstance(error, GraphDrained):
        return "drained"
    if error is not None:
        return "failed" if isinstance(error, Exception) else "interrupted"
    if running.was_finished:
        return "returned"
    return "finished" if running.is_finished else "waiting"
