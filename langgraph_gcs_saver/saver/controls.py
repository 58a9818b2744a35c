"""What a saver and the control of a run report to each other.

A `cadence.Control` needs to know what has become durable. Any other control is asked to end when `stop_on` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.langgraph_private import control_of, stores_at_end

if TYPE_CHECKING:
    from langgraph_gcs_saver.cadence.policies import Policy
    from langgraph_gcs_saver.cadence.stopping import Drainable


class Reports(Protocol):
    """The part of `cadence.Control` that is used here."""

    def meet_saver(self, *, stores_at_end: bool) -> None:
        """A saver that reports what it stores serves the run."""

    def note_stored(self, step: object, *, is_input: bool) -> None:
        """A checkpoint of the root graph is durable."""

    def note_failed(self, error: BaseException) -> None:
        """A checkpoint or a write of the root graph was not stored."""


class Controls:
    """The controls of the runs that a saver serves. The copies of the saver that LangGraph makes share this object.

    Args:
        stop_on: The option.
    """

    def __init__(self, stop_on: Policy | None) -> None:
        self._stopping = None
        if stop_on is not None:
            from langgraph_gcs_saver.cadence.stopping import Stopping  # noqa: PLC0415 - few savers need it

            self._stopping = Stopping(stop_on)

    def close(self) -> None:
        """Let signals act as if this saver were not there. Idempotent."""
        if self._stopping is not None:
            self._stopping.close()

    def asks(self, control: Drainable) -> bool:
        """Whether `stop_on` says that work that is no run has to end."""
        return self._stopping is not None and self._stopping.meet(control)

    def meet_reader(self, config: object) -> None:
        """A run reads where it continues."""
        control = control_of(config)
        if control is None:
            return
        if self._stopping is not None:
            self._stopping.meet(control)
        reports = _reports(control)
        if reports is not None and _is_root(config):
            reports.meet_saver(stores_at_end=stores_at_end(config))

    def meet_writer(self, config: object) -> bool:
        """A run stores something. Returns whether `stop_on` asks it to end."""
        control = None if self._stopping is None else control_of(config)
        return control is not None and self.asks(control)


def note_stored(config: object, metadata: Mapping[str, Any]) -> None:
    """Report that a checkpoint is durable, if the run's control needs to know."""
    reports = _reports(control_of(config))
    if reports is not None and _is_root(config):
        reports.note_stored(metadata.get("step"), is_input=metadata.get("source") == "input")


def note_failed(config: object, error: BaseException) -> None:
    """Report that something was not stored, if the run's control needs to know."""
    reports = _reports(control_of(config))
    if reports is not None and _is_root(config):
        reports.note_failed(error)


def _reports(control: Any) -> Reports | None:
    return control if hasattr(control, "note_stored") else None


def _is_root(config: object) -> bool:
    return not configs.part(config, "configurable").get("checkpoint_ns")
