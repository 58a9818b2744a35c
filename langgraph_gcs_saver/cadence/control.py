"""`Control`: LangGraph asks it at each boundary between two steps, and it asks a policy."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl, get_runtime

from langgraph_gcs_saver.cadence.callbacks import Watcher
from langgraph_gcs_saver.cadence.meter import Meter
from langgraph_gcs_saver.cadence.policies import Policy, Stop, Store
from langgraph_gcs_saver.cadence.stopping import asks_to_stop
from langgraph_gcs_saver.errors import InvalidInputError

if TYPE_CHECKING:
    from langgraph.runtime import Runtime
    from typing_extensions import Self

_TASKS_HAVE_CONTEXTS = sys.version_info >= (3, 11)
"""Whether coroutines of nodes know the node's config."""


class Control(RunControl):
    """Ends or stores one run when a policy says so.

        graph.invoke(inputs, config, control=cadence.Control(policy))

    A `Stop` ends the run at the boundary: LangGraph raises `GraphDrained`. A `Store` waits until all finished steps are
    durable. This needs a `GCSSaver`, and it does nothing with `durability="exit"`. In a coroutine, `arun` and `astream`
    of this package wait; the graph's own `ainvoke` does not.

    Make one for each run. It listens to signals until it is closed or no longer used. A signal for which its run has
    not stopped by then, because the run was in its last step, is left to the next control.

    Args:
        policy: The policy.
        store: What a `Store` does. With `"segments"`, it ends the run; see `decision` and `next_segment`.
        crashes: Processes that crashed on this turn before, for `Adaptive`.

    Attributes:
        decision: Why the run was asked to end; `None` if it was not, or if other code has asked.
        is_due: Whether a `Store` waits for `adurable`.
        most_steps: Steps after which no segment ends any more; `None` if one may always end.

    Raises:
        InvalidInputError: `policy` is not a policy. Or a signal's handler is missing, and this is not the main thread.
            Or the system does not say how much memory the process uses.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        store: Literal["every_step", "segments"] = "every_step",
        crashes: int = 0,
        _before: Control | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            raise InvalidInputError(
                f"policy is of type {type(policy).__name__}; it must be one of `cadence`, or joined."
            )
        if store not in ("every_step", "segments"):
            raise InvalidInputError(f"store is {store!r}; it must be 'every_step' or 'segments'.")
        self.policy = policy
        self.decision: Store | Stop | None = None
        self.is_due = False
        self.meter: Meter = Meter(policy, crashes=crashes) if _before is None else _before.meter
        self.most_steps: int | None = None if _before is None else _before.most_steps
        self._ends_segments = store == "segments"
        self._watcher = Watcher(self.meter) if "callbacks" in policy.needs else None
        self._has_begun = False
        self._decided_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GraphDrained):
            self.meter.sampler.settle()
        self.close()

    def close(self) -> None:
        """Listen to signals no more. Idempotent."""
        self.meter.sampler.close()

    @property
    def callbacks(self) -> list[Watcher]:
        """Callbacks for the run's config, which some policies and hazards need, such as `Spend`; else none."""
        return [] if self._watcher is None else [self._watcher]

    @property
    def drain_requested(self) -> bool:
        """Whether the run has to end now. LangGraph asks this once at each boundary, and nodes may ask it too."""
        is_in_task = self._is_in_task(sys._getframe(1))  # noqa: SLF001 - Python 3.10 has no other way, see below
        if not self._is_asked():
            if is_in_task:
                # A node, or a boundary of a subgraph. Both may stop. But only the root graph's own steps are stored.
                self._stop_if_due()
            else:
                self._meet_boundary()
        is_asked = self._is_asked()
        if is_asked and not is_in_task and not isinstance(self.decision, Store):
            # LangGraph asks only where a step is due, so the run is drained now. A node may still finish the last one.
            self.meter.sampler.settle()
        return is_asked

    def _is_asked(self) -> bool:
        return RunControl.drain_requested.fget(self)  # type: ignore[attr-defined, no-any-return]  # the base's property

    def _is_in_task(self, asking: FrameType) -> bool:
        """Whether a task of this run asks, such as a node, or a subgraph in one. `asking` is the frame that asks."""
        runtime = _runtime()
        if runtime is not None:
            return runtime.control is self
        if _TASKS_HAVE_CONTEXTS:
            return False
        # The only task of a step is awaited, so it has the asyncio task of the root graph. LangGraph's loop says if it
        # is that of a subgraph. A node is not a loop.
        return _has_event_loop() and bool(getattr(asking.f_locals.get("self"), "is_nested", True))

    def _meet_boundary(self) -> None:
        if self._has_begun:
            self.meter.finish_step()
        else:
            self._has_begun = True
            if self._watcher is not None and self._watcher.root is None:
                raise InvalidInputError(
                    "The policy needs the run's callbacks. Pass `control.callbacks` in the config: "
                    "graph.invoke(inputs, {**config, 'callbacks': control.callbacks}, control=control)."
                )
        progress = self.meter.progress()
        found = self.policy.decide(progress)
        if isinstance(found, Stop):
            self._end(found)
        elif found is not None and progress.unstored_steps:
            self._store(found)

    def _stop_if_due(self) -> None:
        found = self.policy.decide(self.meter.progress())
        if isinstance(found, Stop):
            self._end(found)

    def _end(self, found: Store | Stop) -> None:
        self.decision = found
        self._decided_at = time.monotonic()
        self.request_drain(found.reason)

    def _store(self, found: Store) -> None:
        if self._ends_segments:
            if self.most_steps is None or self.meter.steps <= self.most_steps:
                self._end(found)
        elif _has_event_loop():  # Waiting would keep it from storing.
            self.is_due = True
        else:
            began = time.monotonic()
            while True:
                changed = threading.Event()
                if self.meter.is_durable(changed.set):
                    break
                changed.wait()
            self._note_durable(began)

    async def adurable(self) -> None:
        """Wait until all finished steps are durable, if a `Store` is due."""
        if not self.is_due:
            return
        self.is_due = False
        began, loop = time.monotonic(), asyncio.get_running_loop()
        while True:
            changed = asyncio.Event()
            if self.meter.is_durable(partial(_wake, loop, changed)):
                break
            await changed.wait()
        self._note_durable(began)

    def _note_durable(self, began: float) -> None:
        self.meter.store(time.monotonic() - began)
        if self.meter.failure is not None:
            self._end(Stop("A checkpoint was not stored. The error is in the log, and the saver's events report it."))
        else:
            self._stop_if_due()

    def next_segment(self, *, is_same_run: bool = False) -> Control:
        """The control of the next segment, after a `Store` ended this one. It counts on where this one has ended.

        Args:
            is_same_run: Whether callbacks see one run over all segments. Then those of this control serve the next one.
        """
        self.meter.store_all()
        self.meter.store(time.monotonic() - self._decided_at)
        found = Control(self.policy, store="segments", _before=self)
        if is_same_run:
            found._watcher = self._watcher
        return found

    # What the saver reports

    def meet_saver(self, *, stores_at_end: bool) -> None:
        """A saver that reports what it stores serves the run. With durability "exit", it stores at the end only."""
        self.meter.watch(stores_at_end=stores_at_end)

    def note_stored(self, step: object, *, is_input: bool) -> None:
        """A checkpoint of the root graph is durable."""
        if isinstance(step, int):
            self.meter.note_stored(step, is_input=is_input)

    def note_failed(self, error: BaseException) -> None:
        """A checkpoint or a write of the root graph was not stored."""
        self.meter.note_failed(error)


def milestone(name: str) -> None:
    """Say in a node that a milestone is reached: `Milestone()` stores after this step.

    It does nothing in a run without a `Control`. On Python 3.10, call it in synchronous nodes only.
    """
    runtime = _runtime()
    control = None if runtime is None else runtime.control
    if isinstance(control, Control):
        control.meter.reach(name)


def drain_requested() -> bool:
    """Whether the run has to end: for long nodes, which can then raise `GraphDrained`.

    It asks the policy of the run's `Control`, and the saver's `stop_on`. Outside of a run, it is false. On Python 3.10,
    call it in synchronous nodes only.
    """
    runtime = _runtime()
    control = None if runtime is None else runtime.control
    return control is not None and (control.drain_requested or asks_to_stop(control))


def _runtime() -> Runtime[Any] | None:
    if var_child_runnable_config.get() is None:
        return None
    try:
        return get_runtime()
    except (KeyError, RuntimeError):
        return None


def _has_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
