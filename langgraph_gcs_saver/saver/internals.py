"""What runs, answers and workers use of a saver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langgraph_gcs_saver.engine.runner import Backend
    from langgraph_gcs_saver.events import Subscribers
    from langgraph_gcs_saver.flows.context import Context, Loads
    from langgraph_gcs_saver.options import Options
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.controls import Controls
    from langgraph_gcs_saver.saver.labels import Labels
    from langgraph_gcs_saver.saver.lease import Leases


@record(frozen=True, slots=True)
class Internals:
    """The parts of a saver that one call of `run`, `answer` or `recover` needs, in the process that makes the call.

    Attributes:
        serde: The serializer.
        loads: Reads values with it.
        context: Options and caches of the process.
        backend: Performs flows.
        leases: The leases of the process.
        controls: What `stop_on` asks to end.
        options: The saver's options.
        subscribers: Get the events.
        labels: Reads the labels of a call.
    """

    serde: SerializerProtocol
    loads: Loads
    context: Context
    backend: Backend
    leases: Leases
    controls: Controls
    options: Options
    subscribers: Subscribers
    labels: Labels

    @classmethod
    def of(cls, saver: GCSSaver) -> Internals:
        """Those of a saver."""
        return cls(
            saver.serde,
            saver._loads,  # noqa: SLF001 - they are parts of the saver, and this is the one place that looks for them
            saver._context,  # noqa: SLF001
            saver._backend,  # noqa: SLF001
            saver._leases,  # noqa: SLF001
            saver._controls,  # noqa: SLF001
            saver._options,  # noqa: SLF001
            saver._subscribers,  # noqa: SLF001
            saver._labels,  # noqa: SLF001
        )
