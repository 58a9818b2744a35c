"""Graphs that charge a card and send a mail, in processes that kill themselves at one effect; run as a program.

The program imports everything once, and forks a process for each run.
"""

import asyncio
import json
import operator
import os
import signal
import sys
import time
import traceback
import uuid
from collections import Counter
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langgraph_gcs_saver import GCSSaver, Interceptor, RunToolsOnce, errors, operations
from langgraph_gcs_saver.engine.effects import Commit, Create, GetDocs
from tests.kit.provider import Provider

THREAD = "buyer"
CONFIG = {"configurable": {"thread_id": THREAD}}
WHAT = ("mail", "card")


class KillAt(Interceptor):
    """Kills the process before or after the effect of a kind with a number. Notes all effects."""

    def __init__(self, kind, number, when):
        self._at = (kind, number)
        self._when = when
        self._seen = Counter()
        self.trace = []

    def _number(self, effect):
        kind = type(effect).__name__
        self._seen[kind] += 1
        self.trace.append((kind, self._seen[kind]))
        return self.trace[-1]

    def around(self, effect, perform):
        at = self._number(effect)
        self._kill(at, "before")
        result = perform(effect)
        self._kill(at, "after")
        return result

    async def aaround(self, effect, perform):
        at = self._number(effect)
        self._kill(at, "before")
        result = await perform(effect)
        self._kill(at, "after")
        return result

    def _kill(self, at, when):
        if (at, when) == (self._at, self._when):
            os.kill(os.getpid(), signal.SIGKILL)


class Later(Interceptor):
    """A service whose clock is two minutes ahead, so that a claim without a lease counts as crashed."""

    def around(self, effect, perform):
        return self._later(effect, perform(effect))

    async def aaround(self, effect, perform):
        return self._later(effect, await perform(effect))

    def _later(self, effect, result):
        if isinstance(effect, GetDocs) and result.read_time:
            result.read_time += 120 * 10**9
        return result


class SlowPuts(Interceptor):
    """Delays commits of checkpoints, so that tools are ready before the checkpoint that ordered them is durable."""

    def __init__(self, seconds):
        self._seconds = seconds

    def _pause_of(self, effect):
        is_put = isinstance(effect, Commit) and any("/lg_checkpoints/" in one.name for one in effect.writes)
        return self._seconds if is_put and isinstance(effect.writes[0], Create) else 0

    def around(self, effect, perform):
        time.sleep(self._pause_of(effect))  # clock: puts are slow; no outcome depends on it
        return perform(effect)

    async def aaround(self, effect, perform):
        await asyncio.sleep(self._pause_of(effect))  # clock: as above
        return await perform(effect)


class Buyer(BaseChatModel):
    """Orders both tools, with new ids each time it is asked, and then ends."""

    @property
    def _llm_type(self):
        return "buyer"

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if any(isinstance(one, ToolMessage) for one in messages):
            answer = AIMessage("bought")
        else:
            calls = [{"name": what, "args": {"order": 17}, "id": uuid.uuid4().hex} for what in WHAT]
            answer = AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


class State(TypedDict):
    bought: Annotated[list, operator.add]


def tools_of(provider, is_async):
    if is_async:

        @tool
        async def mail(order: int) -> str:
            """Send a mail."""
            return provider.charge("mail")

        @tool
        async def card(order: int) -> str:
            """Charge a card."""
            return provider.charge("card")
    else:

        @tool
        def mail(order: int) -> str:
            """Send a mail."""
            return provider.charge("mail")

        @tool
        def card(order: int) -> str:
            """Charge a card."""
            return provider.charge("card")

    return [mail, card]


def node_graph(saver, provider, is_async, options):
    def buy(what):
        return lambda key: provider.charge(what, key)

    chosen = {"request": {"order": 17}, "mode": options.get("mode", "at_most_once")}
    if is_async:

        async def node(state):
            found = operations()
            return {"bought": [await found.aonce(what, buy(what), **chosen) for what in WHAT]}
    else:

        def node(state):
            return {"bought": [operations().once(what, buy(what), **chosen) for what in WHAT]}

    graph = StateGraph(State)
    graph.add_node("buy", node)
    graph.add_edge(START, "buy")
    return graph.compile(checkpointer=saver), {"bought": []}


def task_graph(saver, provider, is_async, options):
    if is_async:

        @task
        async def buy(what: str) -> str:
            return await operations().aonce("buy", lambda key: provider.charge(what, key), request=what)

        @entrypoint(checkpointer=saver)
        async def shop(order: int) -> list:
            return [await buy(what) for what in WHAT]
    else:

        @task
        def buy(what: str) -> str:
            return operations().once("buy", lambda key: provider.charge(what, key), request=what)

        @entrypoint(checkpointer=saver)
        def shop(order: int) -> list:
            return [one.result() for one in [buy(what) for what in WHAT]]

    return shop, 17


def tool_node_graph(saver, provider, is_async, options):
    once = RunToolsOnce()
    tools = ToolNode(
        tools_of(provider, is_async),
        handle_tool_errors=options.get("handle", True),
        wrap_tool_call=once.wrap_tool_call,
        awrap_tool_call=once.awrap_tool_call,
    )
    model = Buyer()
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver), {"messages": [("user", "buy")]}


def agent_graph(saver, provider, is_async, options):
    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0.0)
    middleware = [RunToolsOnce()]
    if options.get("retry"):
        middleware.insert(0 if options["retry"] == "outside" else 1, retry)
    agent = create_agent(Buyer(), tools_of(provider, is_async), middleware=middleware, checkpointer=saver)
    return agent, {"messages": [("user", "buy")]}


GRAPHS = {"node": node_graph, "task": task_graph, "tool-node": tool_node_graph, "agent": agent_graph}


def one_run(directory, scenario, interceptors) -> Any:
    """Begin or resume the thread, and run it to its end."""
    slow = SlowPuts(scenario.get("slow", 0))
    with GCSSaver.from_conn_string(f"file://{directory}/store", interceptors=[*interceptors, slow]) as saver:
        # An operation that may be repeated relies on a provider that knows its keys.
        provider = Provider(f"{directory}/calls", known_keys=scenario.get("mode") == "at_least_once")
        graph, inputs = GRAPHS[scenario["kind"]](saver, provider, scenario["is_async"], scenario)
        given = inputs if saver.get_tuple(CONFIG) is None else None
        durability = scenario["durability"]
        if scenario["is_async"]:
            return asyncio.run(graph.ainvoke(given, CONFIG, durability=durability))
        return graph.invoke(given, CONFIG, durability=durability)


def forked(function):
    """Call a function in a process of its own; return how that ended: `killed`, or what the function returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            found = function()
        except BaseException:
            found = f"failed: {traceback.format_exc()}"
        with os.fdopen(write, "w") as file:
            json.dump(found, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return "killed"
    return json.loads(told)


def traced(directory, scenario):
    noting = KillAt("", 0, "")
    one_run(directory, scenario, [noting])
    return noting.trace


def begun(directory, scenario, at, when):
    one_run(directory, scenario, [KillAt(*at, when)])
    return "ended"


def resumed(directory, scenario):
    try:
        one_run(directory, scenario, [Later()])
    except errors.OutcomeUnknownError as error:
        return f"unknown: {error.key}"
    return "ended"


def resolved(directory, key):
    """Settle an unknown outcome by what the provider knows."""
    with GCSSaver.from_conn_string(f"file://{directory}/store", interceptors=[Later()]) as saver:
        found = saver.thread(THREAD).operations
        (seen,) = [one for one in found.unresolved() if one.key == key]
        what = seen.name
        if what == "buy":  # a task, whose name says less than its key
            done = [one for one in Provider(f"{directory}/calls").calls() if one["key"] == key]
        else:
            done = Provider(f"{directory}/calls").calls(what)
        if done:
            found.resolve(key, result=done[0]["receipt"])
        else:
            found.resolve(key, not_done=True)
        return "resolved" if done else "allowed"


def counts(directory):
    return dict(Counter(one["what"] for one in Provider(f"{directory}/calls").calls()))


def check(directory, scenario, at, when):
    """Kill a run at one effect, and resume it until it ends. Nothing happens twice, and at the end nothing is open."""
    ended = [forked(lambda: begun(directory, scenario, at, when))]
    while ended[-1] != "ended":
        assert max(counts(directory).values(), default=0) <= 1, (ended, counts(directory))
        assert len(ended) < 9, ended
        assert not ended[-1].startswith("failed"), ended[-1]
        if ended[-1].startswith("unknown: "):
            key = ended[-1].removeprefix("unknown: ")
            ended.append(forked(lambda key=key: resolved(directory, key)))
            assert ended[-1] in ("resolved", "allowed"), ended[-1]
        ended.append(forked(lambda: resumed(directory, scenario)))
    assert counts(directory) == dict.fromkeys(WHAT, 1), (ended, counts(directory))
    return ended


def main(directory, scenario, number, seed):
    Path(directory, "whole").mkdir(parents=True)
    trace = forked(lambda: traced(f"{directory}/whole", scenario))
    assert isinstance(trace, list), trace
    points = [((kind, at), when) for kind, at in trace for when in ("before", "after")]
    acts = [point for point in points if point[0][0] == "Ask"]
    assert acts
    chosen = points
    if number < len(points):
        # After the first side effect, and before the second one, which is where it matters most.
        chosen = [acts[1], acts[2], *Random(seed).sample(points, number - 2)]
    found = Counter()
    for place, (at, when) in enumerate(chosen):
        Path(directory, str(place)).mkdir()
        ended = check(f"{directory}/{place}", scenario, at, when)
        found.update(one.partition(":")[0] for one in ended)
    print(json.dumps(found))


if __name__ == "__main__":
    for which, one in enumerate(json.loads(sys.argv[2])):
        main(f"{sys.argv[1]}/{which}", one, int(sys.argv[3]), int(sys.argv[4]) + which)
