"""One call of `run`: what it decides under its lease, and the calls of the graph that follow.

A turn begins with two calls of the graph. The first one stores the input, and ends before the first node: its control
has been asked to drain. The second one runs the nodes. So the input is durable before anything happens, and it is one
commit with the id of its request. If a process crashes, the next call finds the request at the tip, and continues.

With `store="segments"`, the second one is several calls. See `saver.segments`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.runtime import RunControl
from langgraph.types import Command, Interrupt
from langsmith.run_helpers import tracing_context

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.cadence.control import Control
from langgraph_gcs_saver.engine.effects import Commit, Doc, Flow, Write
from langgraph_gcs_saver.errors import CheckFailedError, InvalidConfigError, InvalidInputError, SerializationError
from langgraph_gcs_saver.flows import active, load, tips
from langgraph_gcs_saver.flows.runs import REQUEST, RUN, SEGMENT, Answer, Status
from langgraph_gcs_saver.format.serialization import dumps
from langgraph_gcs_saver.format.turns import Nodes, Turn
from langgraph_gcs_saver.results import GraphChanged
from langgraph_gcs_saver.saver import answers, arguments, configs, langgraph_private, restores
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.internals import Internals
from langgraph_gcs_saver.saver.lease import KEY as LEASE
from langgraph_gcs_saver.saver.lease import Lease
from langgraph_gcs_saver.saver.parts import of_snapshot
from langgraph_gcs_saver.saver.segments import Calls, GraphCall, Segments
from langgraph_gcs_saver.saver.turns import TurnInProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel
    from langgraph.types import StateSnapshot

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.cadence.policies import Policy
    from langgraph_gcs_saver.errors import SagaRolledBack
    from langgraph_gcs_saver.flows.fences import Fence
    from langgraph_gcs_saver.flows.members import Member, NamedTeam
    from langgraph_gcs_saver.format.manifest import Serialized
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

logger = logging.getLogger("langgraph_gcs_saver")

DURABILITIES = ("sync", "async", "exit")

_CHECK_ID = "lg_check"
"""The id of the interrupt that says what a check has found."""


class Running:
    """One call of `run`.

    Args:
        graph: The compiled graph.
        given: What the caller passes to the graph.
        config: The caller's config.
        request_id: The caller's id of the request, if there is one.
        context: The context of the graph's nodes.
        context_factory: The function that makes it.
        lease: Options of the lease.
        rest: The other arguments of the graph's own method.
        durability: When the graph's steps are stored; LangGraph's default if not given.
        policy: When to store, and when to stop.
        store: Whether every step is stored, or only where the policy says so.
        objective: The recovery time objective; the saver's if not given.
        team: The team whose member's thread it is, if any.
        references: What to do if references do not pass their check; `None` to check none.
        is_async: Whether the graph's coroutines are called.

    Raises:
        InvalidConfigError: The config names no thread, or names a checkpoint or a namespace.
        InvalidInputError: An argument is of the wrong type, or outside its range.
    """

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        given: Any,
        config: RunnableConfig | None,
        *,
        request_id: str | None,
        context: Any,
        context_factory: Callable[[], Any] | None,
        lease: Mapping[str, Any],
        rest: Mapping[str, Any],
        durability: str | None = None,
        policy: Policy | None = None,
        store: str = "every_step",
        objective: RTO | None = None,
        team: NamedTeam | None = None,
        references: str | None = None,
        is_async: bool = False,
    ) -> None:
        self.graph = graph
        self.given = given
        self.config: RunnableConfig = config or {}
        self.request_id = answers.check_request_id(request_id)
        self.durability = check_durability(durability, store)
        self._is_segmented = store == "segments"
        if context is not None and context_factory is not None:
            raise InvalidInputError("Pass `context` or `context_factory`, not both.")
        self.factory = context_factory
        self.context = context
        self.rest = rest
        self._stops = (_nodes_in(rest, "interrupt_before"), _nodes_in(rest, "interrupt_after"))
        self.is_async = is_async
        self.inside = Internals.of(_saver_of(graph))
        self.thread_id = self._thread_id()
        if references not in (None, "raise", "warn", "interrupt"):
            raise InvalidInputError(f"references is {references!r}; it must be 'raise', 'warn' or 'interrupt'.")
        if isinstance(given, Command) and isinstance(given.resume, Mapping) and _CHECK_ID in given.resume:
            raise InvalidInputError(
                f"The interrupt {_CHECK_ID!r} takes no answer, and a node that asks would get it. Nothing ran. To "
                "continue nevertheless, call again as before, without `references`."
            )
        self._references = references
        self._interrupts: tuple[Interrupt, ...] = ()
        self.in_progress = TurnInProgress()
        if objective is not None:
            restores.check(objective, self.inside.options)
            self.in_progress.objective = objective
        self._member = None if team is None else self._member_of(team)
        self.lease = None if LEASE in self._configurable else self._new_lease(lease)
        self.found: Status | None = None
        self.ended_at: str | None = None
        self._undoing: tuple[Write, ...] = ()
        self.action = "return"
        self.turn: Turn | None = None
        self.run_id = str(uuid4())
        # The last one, because it listens to signals until this is closed.
        self.control = _control(policy, store, rest)

    def close(self) -> None:
        """Let signals act as if this call were not there. Idempotent."""
        if self.control is not None:
            self.control.close()

    # The arguments

    @property
    def _configurable(self) -> Mapping[str, Any]:
        return self._merged("configurable")

    def _merged(self, part: str) -> dict[str, Any]:
        return {**configs.part(self.graph.config, part), **configs.part(self.config, part)}

    @property
    def graph_config(self) -> RunnableConfig:
        """What names the call to its saver: of what is bound to the graph, and of the caller's config."""
        return cast("RunnableConfig", {name: self._merged(name) for name in ("configurable", "metadata")})

    def _thread_id(self) -> str:
        found = self._configurable
        for key in ("checkpoint_id", "checkpoint_ns"):
            if found.get(key):
                raise InvalidConfigError(
                    f"The config has a {key!r}, and a run continues the newest checkpoint of the root graph. Leave it "
                    "out; use the graph's own methods to continue from another checkpoint."
                )
        return configs.text_of(found, "thread_id")

    def _new_lease(self, options: Mapping[str, Any]) -> Lease:
        return Lease(self.inside.leases, self.thread_id, riders=self, member=self._member, **options)

    def _member_of(self, team: NamedTeam) -> Member:
        """The member of a team whose thread it is.

        Raises:
            InvalidInputError: It is none, or the caller's lease is not that of a member.
        """
        found = flows.members.Member.of(team.id, self.thread_id, team.vote_wait)
        if found is None:
            raise InvalidInputError(
                f"Thread {self.thread_id!r} is not a thread of team {team.id!r}. Nothing ran. Use the id of a member's "
                "thread: team.member(name).id."
            )
        held = self.inside.leases.held_in(self.graph_config)
        if held is not None and (held.voter is None or held.voter.member.team != team.id):
            raise InvalidInputError(
                f"The config has a lease of thread {self.thread_id!r} that was not acquired for team {team.id!r}. "
                "Nothing ran. Acquire it with team.member(name).lease()."
            )
        return found

    def _fence(self) -> Fence:
        found = self.inside.leases.fence_of(self._with_lease())
        if found is None:
            raise AssertionError("the config has a lease")
        return found

    def _with_lease(self) -> RunnableConfig:
        own = {} if self.lease is None else configs.part(self.lease.config, "configurable")
        configurable = {**configs.part(self.config, "configurable"), "thread_id": self.thread_id, **own}
        if LEASE in self._configurable:
            configurable[LEASE] = self._configurable[LEASE]
        return cast("RunnableConfig", {**self.config, "configurable": configurable})

    @property
    def lease_run_id(self) -> str | None:
        """The `run_id` of checkpoints whose config names none, as `Lease.run_id`; `None` if the call got no lease."""
        if self.found is None:
            return None
        return self._configurable[LEASE][2] if self.lease is None else self.lease.run_id

    # The lease, and what rides in its commits

    @property
    def holding(self) -> AbstractContextManager[object]:
        """The block that has the lease."""
        return self.lease or nullcontext()

    @property
    def aholding(self) -> AbstractAsyncContextManager[object]:
        """The same for coroutines."""
        return self.lease or nullcontext()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The block within `holding` that works on the turn."""
        held = self.inside.leases.held_of(self._fence())
        if held is None:
            raise AssertionError("the lease is held")
        held.turn = self.in_progress
        try:
            with self.control or nullcontext():
                yield
        finally:
            held.turn = None

    @property
    def names(self) -> tuple[str, ...]:
        """The document of the turn, and the note that it has not finished."""
        return flows.runs.beside(self.thread_id)

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """Count this process among those that have worked on the turn, if there is one."""
        self._undoing = flows.runs.left(self.thread_id, docs)
        return flows.runs.begun(self.thread_id, docs)

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:
        """Say how this call has ended. Delete the document of a turn that has finished."""
        if self.found is None or self.ended_at is not None:
            return self._undoing
        has_turn = self.found.has_turn or self.in_progress.is_open
        is_left = isinstance(error, GeneratorExit)  # The caller has left the iteration over a stream.
        if error is None or (is_left and self.has_ended):
            # A graph that has not finished, and was not asked to end, waits for a person, or is at a breakpoint.
            return flows.runs.ended(self.thread_id, "finished" if self.is_finished else "waiting", has_turn=has_turn)
        is_asked = is_left or isinstance(error, GraphDrained)
        return flows.runs.ended(self.thread_id, "paused" if is_asked else "crashed", has_turn=has_turn)

    @property
    def is_finished(self) -> bool:
        """Whether the graph has finished, as far as this call knows."""
        last = self.in_progress.last
        if last is None:
            return self.found is not None and self.found.state == "finished"
        return not tips.due_in(last).tasks

    @property
    def was_finished(self) -> bool:
        """Whether an earlier call had finished what this one was called for."""
        is_new = self.action in ("start", "answer")
        return self.ended_at is not None or (not is_new and self.found is not None and self.found.state == "finished")

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for a stream whose reader leaves it."""
        return self.action == "return" or self.is_finished

    def end(self) -> Flow[None]:
        """What the release of a lease does otherwise, for a call under its caller's lease."""
        writes = self.ending(None)
        if self.lease is None and writes:
            yield from flows.leases.fenced(_commit(writes), self._fence())

    def rolled_back(self, error: SagaRolledBack) -> Flow[None]:
        """Complete the rollback of a saga that ended the run, and fork the thread from its savepoint.

        A node cannot do that, because its run would continue behind the fork.
        """
        if error.thread_id == self.thread_id:
            from langgraph_gcs_saver.saver.saga import Saga  # noqa: PLC0415 - few runs have sagas

            saga = Saga(_saver_of(self.graph), self.inside.leases, self.thread_id, error.saga_id)
            yield from saga.completing(self._fence())

    # Deciding

    def begin(self) -> Flow[None]:
        """Read the tip, decide, and store an answer.

        Raises:
            CheckFailedError: A node is due that the graph does not have.
            GraphRecursionError: The turn has no supersteps left.
        """
        inside = self.inside
        self.found = found = yield from flows.runs.status(self.thread_id, inside.loads, inside.context)
        is_command = isinstance(self.given, Command)
        kind = "nothing" if self.given is None else "command" if is_command else "input"
        self.action = flows.runs.decide(
            found, self.request_id, cast("Any", kind), is_at_breakpoint(self.graph, self.rest, found)
        )
        self.ended_at = found.end_of(self.request_id)
        if self.lease is None and self.action != "return":
            begun = active.noted(self.thread_id, "running")
            yield from flows.leases.fenced(_commit((begun,)), self._fence())
        if self.action in ("continue", "return"):
            self._compare(found)
        if self.ended_at is not None:
            yield from self._take_result(self.ended_at)
        if self.action in ("continue", "answer"):
            self._check_nodes(found)
            if self._references is not None and found.state != "finished":
                yield from self._check_references()
        if self.action in ("start", "answer"):
            self.turn = self._new_turn(found)
            content = None if self.request_id is None else answers.digest_of(self.given)
            opening = flows.runs.opening(found, self.turn, content, inside.context.codec)
            self.in_progress.opening = opening
            if self.action == "answer" and found.checkpoint_id is not None:
                yield from self._store_answer(found)
        elif self.action == "continue":
            self.turn = found.turn
            self.run_id = found.run_id or self.run_id
            stop = None if self.turn is None else self.turn.stop
            if stop is not None and found.state == "due" and found.step >= stop - 1:
                raise GraphRecursionError(
                    f"The turn of thread {self.thread_id!r} has taken all supersteps of its recursion limit, over all "
                    "processes that have worked on it. Begin another turn, with a higher `recursion_limit`."
                )
            yield from self._store_breakpoints()

    def _check_nodes(self, found: Status) -> None:
        """Check that the graph has the nodes that are due. LangGraph leaves others out, and ends as if it had finished.

        Raises:
            CheckFailedError: It lacks one.
        """
        missing = tuple(sorted({*found.due.nodes, *found.due.sends} - {*self.graph.nodes, "__start__", ""}))
        if missing:
            raise CheckFailedError(
                f"The graph {self.graph.get_name()!r} cannot resume thread {self.thread_id!r}: at checkpoint "
                f"{found.checkpoint_id!r}, {', '.join(map(repr, missing))} is due, and the graph has no such node. "
                "Nothing ran. Resume it with a graph that has the node, or leave the step out: begin a turn with "
                "another input.",
                thread_id=self.thread_id,
                missing=missing,
            )

    def _check_references(self) -> Flow[None]:
        """Check what the state refers to, and the graph, and do what the caller requested if something is wrong.

        Raises:
            CheckFailedError: Something is, and the caller requested an error.
        """
        from langgraph_gcs_saver.saver import check  # noqa: PLC0415 - few runs have references

        inside = self.inside
        found = check.problems((yield from check.checking(self.thread_id, self.graph, inside.loads, inside.context)))
        if not found:
            return
        text = check.summary(self.thread_id, found)
        if self._references == "raise":
            raise CheckFailedError(
                f"{text} Nothing ran. `findings` has the details. Restore what is missing, or resume without "
                "`references`.",
                thread_id=self.thread_id,
                missing=tuple(one.name for one in found if isinstance(one, GraphChanged) and one.kind == "node"),
                findings=found,
            )
        if self._references == "warn":
            logger.warning("%s The run continues.", text)
            return
        self.action = "return"
        self._interrupts = (Interrupt(value={"check": [dataclasses.asdict(one) for one in found]}, id=_CHECK_ID),)

    def _take_result(self, checkpoint_id: str) -> Flow[None]:
        """Read where an earlier request has ended, for the graph to show it.

        Raises:
            InvalidInputError: That was pruned.
        """
        inside = self.inside
        loaded = yield from load.get_tuple(self.thread_id, "", checkpoint_id, inside.loads, inside.context)
        if loaded is None:
            raise InvalidInputError(
                f"Request {self.request_id!r} of thread {self.thread_id!r} has finished, and its last checkpoint "
                f"{checkpoint_id!r} is gone, so its result cannot be returned. Nothing was run. To apply the input "
                "again, pass another `request_id`."
            )
        # A `Command` that followed has left its writes there.
        self.in_progress.tip = arguments.to_tuple(loaded, self.thread_id)._replace(pending_writes=[])

    def _compare(self, found: Status) -> None:
        """Warn if a repeated request has another input, which is ignored."""
        known = None if self.request_id is None or self.given is None else found.recent.find(self.request_id)
        if known is None or known.content is None or answers.digest_of(self.given) == known.content:
            return
        logger.warning(
            "Request %r of thread %r was repeated with another input, which is ignored. Another request needs another "
            "`request_id`.",
            self.request_id,
            self.thread_id,
        )

    def _new_turn(self, found: Status) -> Turn:
        limit = self._recursion_limit()
        return Turn(
            self.run_id,
            self.request_id,
            self.graph.get_name(),
            limit,
            None if limit is None else found.step + limit + 2,
            None if self.factory is None else _name_of(self.factory),
            self._stored_context(),
            *self._stops,
        )

    def _store_breakpoints(self) -> Flow[None]:
        """Store the breakpoints of this call, if the turn has others: they are those of the call that came last."""
        if self.turn is None or self._stops == (self.turn.before, self.turn.after):
            return
        before, after = self._stops
        self.turn = dataclasses.replace(self.turn, before=before, after=after)
        write = flows.runs.changed(self.thread_id, self.turn, self.inside.context.codec)
        yield from flows.leases.fenced(_commit((write,)), self._fence())

    def _recursion_limit(self) -> int | None:
        found = self.config.get("recursion_limit") or (self.graph.config or {}).get("recursion_limit")
        return found or langgraph_private.default_recursion_limit()

    def _stored_context(self) -> Serialized | None:
        if self.context is None:
            return None
        try:
            return dumps(self.inside.serde, _plain(self.context), "The context")
        except SerializationError as error:
            raise SerializationError(
                f"{error} A run stores its context, so that another process can resume it. Pass `context_factory=`, a "
                "function that makes the context again."
            ) from error

    def _store_answer(self, found: Status) -> Flow[None]:
        """Store a command before the graph gets it, in one commit with the turn that it begins."""
        command, opening = cast("Command[Any]", self.given), self.in_progress.opening
        yield from answers.storing(
            self.inside,
            found,
            command,
            request_id=self.request_id,
            run_id=self.run_id,
            opening=opening,
            fence=self._fence(),
        )
        self.in_progress.opening, self.in_progress.is_open = None, True

    # Calling the graph

    def first(self) -> GraphCall | None:
        """The call that stores the input, if there is one."""
        if self.action != "start":
            return None
        control = RunControl()
        control.request_drain("The input is stored.")
        config = self._config_of(0, langgraph_private.NOT_RESUMING)
        config.pop("run_id", None)
        config.pop("callbacks", None)
        return GraphCall(self.given, config, {"durability": "sync", "control": control})

    def check_first(self) -> None:
        """Check that the first call has stored the input.

        Raises:
            InvalidInputError: LangGraph did not take it as an input.
        """
        if not self.in_progress.is_open:
            raise InvalidInputError(
                f"The graph did not store the input for thread {self.thread_id!r}. LangGraph takes a call whose "
                "config has the newest checkpoint's `run_id` for a continued stream. Pass another `run_id`, or none."
            )

    def calls(self) -> Calls:
        """The calls that run the nodes."""
        more = {**self.rest, "durability": self.durability, "context": self._context()}
        found, given = cast("Status", self.found), None
        if self.action == "start":
            config = self._config_of(0, langgraph_private.NOT_RESUMING)
        elif self.action == "answer":
            given, config = self.given, self._config_of(0, {})
        else:
            given, config = self._pending(found.answer), self._config_of(found.segment + 1, {})
        if self.control is not None and self.action == "continue":
            _note_crashes(self.control, found)
        call = GraphCall(given, config, more)
        if not self._is_segmented:
            return Calls(self.graph, call, self.control)
        return Segments(
            self.graph,
            call,
            self.control,
            self.in_progress,
            tip=found.checkpoint_id,
            limit=config.get("recursion_limit") or self._recursion_limit(),
            is_async=self.is_async,
        )

    def _pending(self, answer: Answer | None) -> Command[Any] | None:
        """The command that the graph still needs, if it crashed before it had used it up."""
        if answer is None or answer.is_known:
            return None
        is_own = isinstance(self.given, Command) and answer.request_id == self.request_id is not None
        own = self.given if is_own else None
        command = own or Command(**answer.command)
        resume = command.resume
        if not isinstance(resume, Mapping) or flows.runs.interrupt_ids(resume) is None:
            return command
        left = {key: value for key, value in resume.items() if key in answer.ids}
        return dataclasses.replace(command, resume=left)

    def _context(self) -> Any:
        if self.context is not None:
            return self.context
        if self.factory is not None:
            return self.factory()
        stored = None if self.turn is None else self.turn.context
        return None if stored is None else self.inside.loads(stored)

    def _config_of(self, segment: int, more: Mapping[str, Any]) -> RunnableConfig:
        config: dict[str, Any] = {**self._with_lease()}
        config["configurable"] = {**config["configurable"], **more}
        request_id = self.request_id
        if self.action == "continue" and self.found is not None:
            # Another request of the same exchange may have begun the turn.
            request_id = self.found.request_id
        ids = {RUN: self.run_id, SEGMENT: segment} | ({} if request_id is None else {REQUEST: request_id})
        config["metadata"] = {**configs.part(self.config, "metadata"), **ids}
        limit = self._limit_left()
        if limit is not None:
            config["recursion_limit"] = limit
        return cast("RunnableConfig", config)

    def _limit_left(self) -> int | None:
        """The recursion limit for the call that runs the nodes."""
        if self.turn is None or self.turn.stop is None or self.found is None:
            return None
        step = self.found.step + (1 if self.action == "start" else 0)
        # LangGraph rejects a limit of 0, with which one more superstep would run. So a turn may take one too many.
        return max(1, self.turn.stop - step - 2)

    # Returning what is there

    def parts(self, snapshot: StateSnapshot) -> Iterator[Any]:
        """What `stream` yields for what is stored."""
        if self._interrupts:
            snapshot = snapshot._replace(interrupts=self._interrupts)
        return of_snapshot(snapshot, self.graph, self.rest)

    @property
    def state_config(self) -> RunnableConfig:
        """The config of the state to return."""
        return self._with_lease()


@contextmanager
def silently() -> Iterator[None]:
    """A block whose calls leave no traces. It ends without an error when the graph has stored its input."""
    token = var_child_runnable_config.set(None)
    try:
        with tracing_context(enabled=False), suppress(GraphDrained):
            yield
    finally:
        var_child_runnable_config.reset(token)


def is_at_breakpoint(graph: Pregel[Any, Any, Any, Any], rest: Mapping[str, Any], found: Status) -> bool:
    """Whether a graph stops at its tip until it is called without an input, by its own breakpoints or a call's."""
    before = rest.get("interrupt_before") or graph.interrupt_before_nodes
    after = rest.get("interrupt_after") or graph.interrupt_after_nodes
    return found.is_at_breakpoint(before, after)


def breakpoints_of(turn: Turn | None) -> dict[str, Any]:
    """The arguments of the graph's own method that have the breakpoints of a turn."""
    return {} if turn is None else {"interrupt_before": turn.before or None, "interrupt_after": turn.after or None}


def _nodes_in(rest: Mapping[str, Any], name: str) -> Nodes:
    """The nodes of a breakpoint that a caller has passed; empty if it has passed none.

    Raises:
        InvalidInputError: They are neither names nor an asterisk.
    """
    found = rest.get(name) or ()
    if found == "*":
        return "*"
    # An iterator has no length, and is used up by the first look at it.
    if isinstance(found, str) or not isinstance(found, Collection) or not all(isinstance(one, str) for one in found):
        raise InvalidInputError(f"{name} is {found!r}; it must be a list of the names of nodes, or '*' for all.")
    return tuple(found)


def _commit(writes: tuple[Write, ...]) -> Flow[None]:
    yield from Commit(writes)


def _note_crashes(control: Control, found: Status) -> None:
    """Let the policy know of the processes that crashed on this turn, and which nodes were due then."""
    control.meter.crashes = max(0, found.attempts - 1)
    if control.meter.crashes:
        control.meter.crashed_nodes = frozenset({*found.due.nodes, *found.due.sends} - {"__start__"})


def _saver_of(graph: Any) -> GCSSaver:
    saver = getattr(graph, "checkpointer", None)
    # A `GCSSaver`, which imports this module.
    if not isinstance(saver, Connection) or not isinstance(saver, BaseCheckpointSaver):
        raise InvalidInputError(
            f"The graph's checkpointer is of type {type(saver).__name__}, and a run needs a GCSSaver. Compile the "
            "graph with `checkpointer=GCSSaver(…)`."
        )
    return cast("GCSSaver", saver)


def check_durability(durability: str | None, store: str) -> str:
    """The durability of the graph's calls.

    Raises:
        InvalidInputError: There is none of that name, or it does not go together with `store`.
    """
    if store not in ("every_step", "segments"):
        raise InvalidInputError(f"store is {store!r}; it must be 'every_step' or 'segments'.")
    if store == "segments" and durability not in (None, "exit"):
        raise InvalidInputError(
            f"durability is {durability!r}, and store is 'segments', whose steps are not stored one by one. Leave "
            "`durability` out."
        )
    found = durability or ("exit" if store == "segments" else "async")
    if found not in DURABILITIES:
        raise InvalidInputError(f"durability is {durability!r}; it must be one of {', '.join(DURABILITIES)}.")
    return found


def _control(policy: Policy | None, store: str, rest: Mapping[str, Any]) -> Control | None:
    if policy is None:
        return None
    if rest.get("control") is not None:
        raise InvalidInputError("Pass `policy` or `control`, not both. A run makes the control of its policy.")
    return Control(policy, store=cast("Any", store))


def _name_of(factory: Any) -> str:
    return f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def _plain(context: Any) -> Any:
    """A context as LangGraph makes it again from the graph's `context_schema`: the fields of a dataclass or a model."""
    if dataclasses.is_dataclass(context) and not isinstance(context, type):
        return {one.name: getattr(context, one.name) for one in dataclasses.fields(context)}
    dump = getattr(context, "model_dump", None)
    return dump() if callable(dump) else context
