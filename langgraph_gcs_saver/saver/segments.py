"""The calls of the graph that run the nodes of a turn: one call, or one for each segment.

With `store="segments"`, each call stores only its end, which is where the policy asked to store. The next one continues
there, from memory, so that the nodes get the same objects as in one call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.runnables.config import merge_configs
from langgraph.errors import GraphRecursionError

from langgraph_gcs_saver.cadence.policies import Store
from langgraph_gcs_saver.flows.runs import SEGMENT
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import configs, langgraph_private
from langgraph_gcs_saver.saver.one_run import OneRun
from langgraph_gcs_saver.saver.parts import Seams, Shape

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel

    from langgraph_gcs_saver.cadence.control import Control
    from langgraph_gcs_saver.saver.turns import TurnInProgress

Graph = TypeVar("Graph", bound="Pregel[Any, Any, Any, Any]")


@record(frozen=True, slots=True)
class GraphCall:
    """A call of the graph: what it gets, its config, and the other arguments."""

    given: Any
    config: RunnableConfig
    arguments: Mapping[str, Any]


class Calls:
    """One call of the graph.

    Args:
        graph: The graph.
        call: The call, without its control.
        control: The control of the policy, if there is one.

    Attributes:
        graph: The graph to call.
        call: The call to make.
        control: The control of that call.
    """

    def __init__(self, graph: Pregel[Any, Any, Any, Any], call: GraphCall, control: Control | None) -> None:
        self.graph = graph
        self.control = control
        self.call = call if control is None else _controlled(call, control)

    def stream(self) -> Generator[Any, None, None]:
        """Make the call."""
        found = self.graph.stream(self.call.given, self.call.config, **self.call.arguments)
        return cast("Generator[Any, None, None]", found)

    def astream(self) -> AsyncGenerator[Any, None]:
        """The same for coroutines."""
        found = self.graph.astream(self.call.given, self.call.config, **self.call.arguments)
        return cast("AsyncGenerator[Any, None]", found)

    def show(self, part: Any) -> Iterable[Any]:
        """What to yield when the graph yields a part."""
        return (part,)

    def end(self) -> Iterable[Any]:
        """What to yield when the call has ended."""
        return ()

    def advance(self) -> bool:
        """Go to the call that follows one that was drained. Returns whether there is one, or the run has to end."""
        return False


class Segments(Calls):
    """Several calls of the graph, which look like one.

    Args:
        graph: The graph.
        call: The first call, without its control.
        control: The control of the policy; without one, the first call is the last one.
        turn: The turn that the calls work on.
        tip: The checkpoint at which the first call begins, if there is one.
        limit: The recursion limit of all calls together.
        is_async: Whether the graph's coroutines are called.
    """

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        call: GraphCall,
        control: Control | None,
        turn: TurnInProgress,
        *,
        tip: str | None,
        limit: int | None,
        is_async: bool,
    ) -> None:
        super().__init__(graph, call, control)
        self._callbacks = call.config.get("callbacks")
        self._turn = turn
        self._first_tip = tip
        self._idle = 0
        self._one = OneRun(self._has_next)
        config: RunnableConfig = self.call.config
        if limit is not None:
            config = {**config, "recursion_limit": limit}
        if control is not None:
            # LangGraph rejects a limit of 0. So no segment may end where the next one would have none.
            control.most_steps = None if limit is None else limit - 1
        turn.keeps_tips = True
        self._seams = self._hidden(Shape.of(call.arguments, graph.stream_mode))
        self.call = replace(self.call, config=self._one.config(config, graph.config, is_async=is_async))
        if self._one.is_whole:
            # The callbacks that are bound to the graph are in the config.
            self.graph = without_callbacks(graph)

    def _hidden(self, shape: Shape) -> Seams | None:
        repeats_values = not langgraph_private.NOT_RESUMING
        if not shape.names_checkpoints and not repeats_values:
            return None
        parents: dict[str, str | None] = {}
        if shape.names_checkpoints:
            self._turn.parents = parents
        return Seams(shape, parents, tip=self._tip, repeats_values=repeats_values)

    @property
    def _tip(self) -> str | None:
        """The newest checkpoint of the root graph that is stored."""
        last = self._turn.last
        return self._first_tip if last is None else str(last["id"])

    def show(self, part: Any) -> Iterable[Any]:
        """What to yield when the graph yields a part."""
        return (part,) if self._seams is None else self._seams.show(part)

    def end(self) -> Iterable[Any]:
        """What to yield when a segment has ended."""
        return () if self._seams is None else self._seams.end(self._tip)

    def _ends_segment(self) -> bool:
        return self.control is not None and isinstance(self.control.decision, Store)

    def _has_next(self) -> bool:
        """Whether the call that was drained has ended a segment, and another one follows."""
        return self._ends_segment() and (self._turn.tip is not None or self._idle == 0)

    def advance(self) -> bool:
        """Go to the next segment. Returns whether there is one, or the run has to end.

        Raises:
            GraphRecursionError: Two segments in a row have stored nothing.
        """
        before, control = self.call, self.control
        if control is None or not self._ends_segment():
            return False
        if not self._has_next():
            raise GraphRecursionError(
                f"Two segments of thread {configs.part(before.config, 'configurable')['thread_id']!r} have ended "
                "without a step that was stored, so the run would not come to an end."
            )
        self._idle = 0 if self._turn.tip is not None else self._idle + 1
        config = cast("RunnableConfig", dict(before.config))
        config["configurable"] = {**configs.part(config, "configurable"), **langgraph_private.NOT_RESUMING}
        metadata = configs.part(config, "metadata")
        config["metadata"] = {**metadata, SEGMENT: metadata[SEGMENT] + 1}
        if control.most_steps is not None:
            config["recursion_limit"] = control.most_steps + 1 - control.meter.steps
        self.control = control.next_segment(is_same_run=self._one.is_whole)
        arguments = {**before.arguments, "control": self.control}
        if not self._one.is_whole:
            config.pop("run_id", None)
            config["callbacks"] = _with_callbacks(self._callbacks, self.control)
        self.call = GraphCall(None, config, arguments)
        return True


def without_callbacks(graph: Graph) -> Graph:
    """A graph without the callbacks that were bound to it."""
    config = dict(graph.config or {})
    return graph if config.pop("callbacks", None) is None else graph.copy({"config": config})


def _controlled(call: GraphCall, control: Control) -> GraphCall:
    config = cast("RunnableConfig", {**call.config})
    config["callbacks"] = _with_callbacks(config.get("callbacks"), control)
    return replace(call, config=config, arguments={**call.arguments, "control": control})


def _with_callbacks(callbacks: Callbacks, control: Control) -> Callbacks:
    return merge_configs({"callbacks": callbacks}, {"callbacks": [*control.callbacks]}).get("callbacks")
