"""`run`, `arun`, `stream` and `astream`: one call that starts, resumes or returns a turn of a graph."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Literal

from langgraph.errors import GraphDrained

from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.errors import SagaRolledBack
from langgraph_gcs_saver.saver.parts import Collected
from langgraph_gcs_saver.saver.run_end import Calling
from langgraph_gcs_saver.saver.running import Running, silently
from langgraph_gcs_saver.saver.segments import without_callbacks

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.cadence.policies import Policy
    from langgraph_gcs_saver.flows.members import NamedTeam


def run(
    graph: Pregel[Any, Any, Any, Any],
    inputs: Any,
    config: RunnableConfig | None = None,
    *,
    request_id: str | None = None,
    context: Any = None,
    context_factory: Callable[[], Any] | None = None,
    durability: str | None = None,
    policy: Policy | None = None,
    store: Literal["every_step", "segments"] = "every_step",
    objective: RTO | None = None,
    ttl: float = 60.0,
    wait: float = 0.0,
    owner: str | None = None,
    take_over: bool = False,
    team: NamedTeam | None = None,
    references: Literal["raise", "warn", "interrupt"] | None = None,
    **rest: Any,
) -> Any:
    """Start a turn of a graph, resume it after a crash, or return its result. The same line is right each time.

        result = run(graph, inputs, {"configurable": {"thread_id": "thread-1"}}, request_id="req-81")

    This takes the thread's lease, reads its newest checkpoint, and does one of these things:

    - A step is due, and the request is the same, or none is given: it resumes. It does not apply the input again.
    - The turn has finished, and the request is the same: it returns the stored result. It returns that of an earlier
      request too.
    - The turn waits for a person: it returns the interrupts, unless `inputs` is a `Command` of another request.
    - Otherwise it starts a turn. The input, or the `Command`, is durable before the first node runs.

    Without a `request_id`, a retry looks like a new request. So the same input, given again after the turn has
    finished, is applied again.

    Args:
        graph: A compiled graph whose checkpointer is a `GCSSaver`.
        inputs: The input, a `Command`, or `None` to continue.
        config: The graph's config. It names the thread. With the config of a lease, the call uses that lease.
        request_id: Identifies the request, in at most 500 characters. A retry passes the same one.
        context: The context of the graph's nodes. It is stored until the turn has finished.
        context_factory: A function without arguments that makes the context, if it cannot be stored.
        durability: When steps are stored: `"sync"`, `"async"` or `"exit"`, as for the graph's own methods; `"async"` if
            not given.
        policy: When to store, and when to stop; see `cadence`.
        store: With `"every_step"`, `durability` decides when steps are stored. With `"segments"`, they are stored only
            where `policy` says so, where the graph waits for a person, and at the end.
        objective: A recovery time objective, such as `cadence.RTO(seconds=30)`, in place of the saver's. A
            `RestoreTooSlow` event reports a read of the newest checkpoint that takes longer, or is estimated to.
        ttl: Seconds without a sign of life after which the lease expires. See `Thread.lease`.
        wait: Seconds to wait for another holder of the lease.
        owner: The holder's name.
        take_over: Take the lease from a live holder too.
        team: The team, from `GCSSaver.team`, whose member's thread it is. The thread becomes a member of it, and takes
            part in its consistent sets.
        references: What to do if the run resumes, and `Thread.check` finds that a reference of the state is not `ok`,
            or that the graph lacks something: `"raise"` `CheckFailedError`, `"warn"` in the log, or return an
            `"interrupt"` that has the findings. An interrupt, too, comes before anything runs or is stored. To continue
            nevertheless, call again without this argument. By default, references are not checked.
        rest: Other arguments of the graph's `invoke`.

    Returns:
        What the graph's `invoke` returns.

    Raises:
        CheckFailedError: The thread has a step to do by a node that the graph does not have; or the check of the
            references failed.
        CheckpointCorruptError: The newest checkpoint is damaged, and there is no whole one.
        FencedError: Another process has taken the lease over.
        GraphDrained: The run was asked to end, such as by `Thread.pause` or a `Stop` of the policy. The lease is
            released, and the same line continues.
        GraphRecursionError: The turn has taken all supersteps of its `recursion_limit`, over all processes and
            segments.
        InvalidConfigError: The config names no thread, or names a checkpoint.
        InvalidInputError: An argument is of the wrong type, or outside its range. Or the result of an earlier request
            was pruned. Or the saver's options do not allow to meet `objective`. Or the thread is not one of `team`.
        SagaRolledBack: A node has rolled a saga back. The thread is forked from the savepoint, if there is one, and the
            next call continues from there.
        SerializationError: The context, or a `Command`, cannot be serialized.
        StoreError: A service rejected a request, or did not answer before the deadline.
        ThreadBusyError: Another process, or another call of this one, holds the lease.
    """
    collected = Collected(rest, graph)
    running = Running(
        graph,
        inputs,
        config,
        request_id=request_id,
        context=context,
        context_factory=context_factory,
        durability=durability,
        policy=policy,
        store=store,
        objective=objective,
        lease={"ttl": ttl, "wait": wait, "owner": owner, "take_over": take_over},
        team=team,
        references=references,
        rest=collected.arguments,
    )
    with Calling(running), running.holding, running.working():
        _begin(running)
        is_there = running.action == "return"
        for part in running.parts(graph.get_state(running.state_config)) if is_there else _calls(running):
            collected.add(part)
        return collected.result()


async def arun(
    graph: Pregel[Any, Any, Any, Any],
    inputs: Any,
    config: RunnableConfig | None = None,
    *,
    request_id: str | None = None,
    context: Any = None,
    context_factory: Callable[[], Any] | None = None,
    durability: str | None = None,
    policy: Policy | None = None,
    store: Literal["every_step", "segments"] = "every_step",
    objective: RTO | None = None,
    ttl: float = 60.0,
    wait: float = 0.0,
    owner: str | None = None,
    take_over: bool = False,
    team: NamedTeam | None = None,
    references: Literal["raise", "warn", "interrupt"] | None = None,
    **rest: Any,
) -> Any:
    """Asynchronous twin of `run`: it calls the graph's `ainvoke`."""
    collected = Collected(rest, graph)
    running = Running(
        graph,
        inputs,
        config,
        request_id=request_id,
        context=context,
        context_factory=context_factory,
        durability=durability,
        policy=policy,
        store=store,
        objective=objective,
        lease={"ttl": ttl, "wait": wait, "owner": owner, "take_over": take_over},
        team=team,
        references=references,
        rest=collected.arguments,
        is_async=True,
    )
    async with Calling(running), running.aholding:
        with running.working():
            await _abegin(running)
            if running.action == "return":
                for part in running.parts(await graph.aget_state(running.state_config)):
                    collected.add(part)
            else:
                async for part in _acalls(running):
                    collected.add(part)
            return collected.result()


def stream(
    graph: Pregel[Any, Any, Any, Any],
    inputs: Any,
    config: RunnableConfig | None = None,
    *,
    request_id: str | None = None,
    context: Any = None,
    context_factory: Callable[[], Any] | None = None,
    durability: str | None = None,
    policy: Policy | None = None,
    store: Literal["every_step", "segments"] = "every_step",
    objective: RTO | None = None,
    ttl: float = 60.0,
    wait: float = 0.0,
    owner: str | None = None,
    take_over: bool = False,
    team: NamedTeam | None = None,
    references: Literal["raise", "warn", "interrupt"] | None = None,
    **rest: Any,
) -> Iterator[Any]:
    """Like `run`, but yields what the graph's `stream` yields.

    The first `next` takes the lease, and the end of the iteration releases it. If you leave the iteration early, call
    `close()` on it.
    """
    running = Running(
        graph,
        inputs,
        config,
        request_id=request_id,
        context=context,
        context_factory=context_factory,
        durability=durability,
        policy=policy,
        store=store,
        objective=objective,
        lease={"ttl": ttl, "wait": wait, "owner": owner, "take_over": take_over},
        team=team,
        references=references,
        rest=rest,
    )
    with Calling(running), running.holding, running.working():
        _begin(running)
        if running.action == "return":
            yield from running.parts(graph.get_state(running.state_config))
        else:
            yield from _calls(running)


async def astream(
    graph: Pregel[Any, Any, Any, Any],
    inputs: Any,
    config: RunnableConfig | None = None,
    *,
    request_id: str | None = None,
    context: Any = None,
    context_factory: Callable[[], Any] | None = None,
    durability: str | None = None,
    policy: Policy | None = None,
    store: Literal["every_step", "segments"] = "every_step",
    objective: RTO | None = None,
    ttl: float = 60.0,
    wait: float = 0.0,
    owner: str | None = None,
    take_over: bool = False,
    team: NamedTeam | None = None,
    references: Literal["raise", "warn", "interrupt"] | None = None,
    **rest: Any,
) -> AsyncIterator[Any]:
    """Asynchronous twin of `stream`: an asynchronous iterator, for `async for`. To leave it early, call `aclose()`."""
    running = Running(
        graph,
        inputs,
        config,
        request_id=request_id,
        context=context,
        context_factory=context_factory,
        durability=durability,
        policy=policy,
        store=store,
        objective=objective,
        lease={"ttl": ttl, "wait": wait, "owner": owner, "take_over": take_over},
        team=team,
        references=references,
        rest=rest,
        is_async=True,
    )
    async with Calling(running), running.aholding:
        with running.working():
            await _abegin(running)
            if running.action == "return":
                for part in running.parts(await graph.aget_state(running.state_config)):
                    yield part
            else:
                async with aclosing(_acalls(running)) as parts:
                    async for part in parts:
                        yield part


def _begin(running: Running) -> None:
    """Decide, and make the input durable."""
    runner.run(running.begin(), running.inside.backend)
    call = running.first()
    if call is not None:
        with silently():
            without_callbacks(running.graph).invoke(call.given, call.config, **call.arguments)
        running.check_first()


async def _abegin(running: Running) -> None:
    """Asynchronous twin of `_begin`."""
    await runner.arun(running.begin(), running.inside.backend)
    call = running.first()
    if call is not None:
        with silently():
            await without_callbacks(running.graph).ainvoke(call.given, call.config, **call.arguments)
        running.check_first()


def _calls(running: Running) -> Iterator[Any]:
    """Run the nodes, in one call of the graph or several."""
    calls, has_next = running.calls(), True
    while has_next:
        has_next = False
        try:
            with closing(calls.stream()) as parts:
                for part in parts:
                    yield from calls.show(part)
        except GraphDrained:
            yield from calls.end()
            has_next = calls.advance()
            if not has_next:
                raise
        except SagaRolledBack as error:
            runner.run(running.rolled_back(error), running.inside.backend)
            raise
        else:
            yield from calls.end()
    runner.run(running.end(), running.inside.backend)


async def _acalls(running: Running) -> AsyncGenerator[Any, None]:
    """Asynchronous twin of `_calls`. It waits where a `Store` of the policy is due."""
    calls, has_next = running.calls(), True
    while has_next:
        has_next = False
        try:
            async with aclosing(calls.astream()) as parts:
                async for part in parts:
                    for shown in calls.show(part):
                        yield shown
                    if calls.control is not None:
                        await calls.control.adurable()
        except GraphDrained:
            for shown in calls.end():
                yield shown
            has_next = calls.advance()
            if not has_next:
                raise
        except SagaRolledBack as error:
            await runner.arun(running.rolled_back(error), running.inside.backend)
            raise
        else:
            for shown in calls.end():
                yield shown
    await runner.arun(running.end(), running.inside.backend)
