"""What people do with a checkpointer, as scenarios: each takes a `Lab` and leaves its trace there.

Nodes that run at the same time wait for nothing but the store, so that a trace never depends on their timing.
"""

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel, EphemeralValue, Topic, UntrackedValue
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, Overwrite, RetryPolicy, Send, StateUpdate, interrupt
from pydantic import BaseModel

SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


class Log(TypedDict, total=False):
    log: Annotated[list, operator.add]
    note: str


def node(lab, name):
    """A node that counts its executions and writes its name."""

    def run(state):
        lab.count(name)
        return {"log": [name]}

    return run


def chain(lab, names="abcd", state=Log):
    builder = StateGraph(state)
    for name in names:
        builder.add_node(name, node(lab, name))
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder


# Interrupts


@scenario
async def interrupt_single(lab):
    def ask(state):
        lab.count("ask")
        return {"log": [interrupt({"question": "go on?", "log": state["log"]})]}

    builder = StateGraph(Log).add_node("a", node(lab, "a")).add_node("ask", ask).add_node("b", node(lab, "b"))
    builder.add_edge(START, "a").add_edge("a", "ask").add_edge("ask", "b").add_edge("b", END)
    graph = lab.graph(builder)
    await graph.invoke({"log": ["in"]})
    await graph.state()
    await graph.history()
    lab.restart()
    await graph.state()
    await graph.invoke(None)
    await graph.invoke(Command(resume="yes"))
    await graph.state()
    await graph.history()


@scenario
async def interrupt_several_times_in_one_node(lab):
    def ask(state):
        lab.count("ask")
        return {"log": [interrupt("first"), interrupt("second"), interrupt(None)]}

    graph = lab.graph(StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END))
    await graph.invoke({"log": []})
    for answer in ("one", {"two": 2}, 0):
        lab.restart()
        await graph.invoke(Command(resume=answer))
        await graph.state()
    await graph.history()


def _askers(lab, names):
    def asker(name):
        def ask(state):
            lab.count(name)
            return {"log": [f"{name}: {interrupt(f'{name}?')}"]}

        return ask

    builder = StateGraph(Log).add_node("join", node(lab, "join"))
    for name in names:
        builder.add_node(name, asker(name)).add_edge(START, name)
    return builder.add_edge([*names], "join").add_edge("join", END)


@scenario
async def interrupts_parallel_answered_by_id(lab):
    graph = lab.graph(_askers(lab, ["x", "y", "z"]))
    await graph.invoke({"log": []})
    lab.restart()
    state = await graph.state()
    await graph.invoke(Command(resume={one.id: one.value.upper() for one in state.interrupts}))
    await graph.history()


@scenario
async def interrupts_parallel_answered_one_by_one(lab):
    graph = lab.graph(_askers(lab, ["x", "y", "z"]))
    await graph.invoke({"log": []})
    for _ in range(3):
        lab.restart()
        state = await graph.state()
        first = min(state.interrupts, key=lambda one: one.value)
        await graph.invoke(Command(resume={first.id: first.value.upper()}))
        await graph.state()
    await graph.history()


@scenario
async def interrupts_in_parallel_sends(lab):
    def split(state):
        return [Send("ask", {"item": item}) for item in range(4)]

    def ask(state):
        lab.count(f"ask {state['item']}")
        if state["item"] % 2:
            return {"log": [f"no need {state['item']}"]}
        return {"log": [interrupt(state["item"])]}

    builder = StateGraph(Log).add_node("ask", ask).add_conditional_edges(START, split, ["ask"]).add_edge("ask", END)
    graph = lab.graph(builder)
    await graph.invoke({"log": []})
    state = await graph.state()
    lab.restart()
    await graph.invoke(Command(resume={one.id: f"answer {one.value}" for one in state.interrupts}))
    await graph.history()


def _nested(lab, checkpointer=None):
    def ask(state):
        lab.count("ask")
        return {"log": [interrupt("deep?")]}

    inner = StateGraph(Log).add_node("first", node(lab, "first")).add_node("ask", ask)
    inner.add_edge(START, "first").add_edge("first", "ask").add_edge("ask", END)
    middle = StateGraph(Log).add_node("before", node(lab, "before")).add_node("inner", inner.compile(checkpointer))
    middle.add_node("after", node(lab, "after"))
    middle.add_edge(START, "before").add_edge("before", "inner").add_edge("inner", "after").add_edge("after", END)
    outer = StateGraph(Log).add_node("top", node(lab, "top")).add_node("middle", middle.compile(checkpointer))
    outer.add_node("bottom", node(lab, "bottom"))
    return outer.add_edge(START, "top").add_edge("top", "middle").add_edge("middle", "bottom").add_edge("bottom", END)


@scenario
async def interrupt_in_subgraphs_of_two_levels(lab):
    graph = lab.graph(_nested(lab))
    await graph.invoke({"log": ["in"]})
    state = await graph.state(subgraphs=True)
    lab.restart()
    await graph.state(subgraphs=True)
    middle = state.tasks[0].state
    inner = middle.tasks[0].state
    await graph.history(middle.config)
    await graph.history(inner.config)
    await graph.invoke(Command(resume="answer"))
    await graph.state(subgraphs=True)
    history = await graph.history()
    # Back to before the subgraphs ran: they run again, in new namespaces, and ask again.
    before = next(one for one in history if one.next == ("middle",))
    await graph.invoke(None, before.config)
    await graph.invoke(Command(resume="other answer"))
    await graph.history()


@scenario
async def update_inside_an_interrupted_subgraph(lab):
    graph = lab.graph(_nested(lab))
    await graph.invoke({"log": ["in"]})
    inner = (await graph.state(subgraphs=True)).tasks[0].state.tasks[0].state
    await graph.update(inner.config, {"log": ["changed"]}, as_node="ask")
    lab.restart()
    await graph.state(subgraphs=True)
    await graph.invoke(None)
    await graph.history()


# Breakpoints


@scenario
async def breakpoints_at_compile_time(lab):
    graph = lab.graph(chain(lab), interrupt_before=["b"], interrupt_after=["c"])
    await graph.invoke({"log": ["in"]})
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    await graph.state()
    await graph.update("t", {"log": ["patched"]})
    await graph.invoke(None)
    await graph.history()


@scenario
async def breakpoints_at_run_time(lab):
    graph = lab.graph(chain(lab))
    await graph.invoke({"log": ["in"]}, interrupt_before="*")
    for _ in range(3):
        lab.restart()
        await graph.invoke(None, interrupt_after="*")
        await graph.state()
    await graph.invoke(None)
    await graph.history()


# Time travel


@scenario
async def replay_and_fork_from_old_checkpoints(lab):
    graph = lab.graph(chain(lab))
    await graph.invoke({"log": ["in"]})
    history = await graph.history()
    lab.restart()
    after_b = next(one for one in history if one.next == ("c",))
    await graph.invoke(None, after_b.config)
    await graph.invoke({"log": ["new input"]}, after_b.config)
    lab.restart()
    await graph.invoke({"log": ["again"]}, history[-1].config)
    await graph.state()
    await graph.state(after_b.config)
    # The finished run, invoked again without input, does nothing.
    await graph.invoke(None, history[0].config)
    await graph.history()
    await graph.history(before=after_b.config)
    await graph.history(limit=3)
    await graph.history(filter={"source": "input"})
    await graph.history(filter={"source": "loop", "step": 1})


@scenario
async def time_travel_to_before_an_interrupt(lab):
    def ask(state):
        lab.count("ask")
        return {"log": [interrupt("?")]}

    builder = StateGraph(Log).add_node("a", node(lab, "a")).add_node("ask", ask)
    graph = lab.graph(builder.add_edge(START, "a").add_edge("a", "ask").add_edge("ask", END))
    await graph.invoke({"log": []})
    asked = await graph.state()
    await graph.invoke(Command(resume="one"))
    lab.restart()
    await graph.state(asked.config)
    await graph.invoke(None, asked.config)
    await graph.invoke(Command(resume="two"))
    await graph.invoke(Command(resume="three"), asked.config)
    await graph.history()


@scenario
async def update_state_on_old_checkpoints(lab):
    graph = lab.graph(chain(lab))
    await graph.invoke({"log": ["in"]})
    history = await graph.history()
    after_b = next(one for one in history if one.next == ("c",))
    fork = await graph.update(after_b.config, {"log": ["fork"]})
    await graph.state(fork)
    lab.restart()
    await graph.invoke(None, fork)
    other = await graph.update(after_b.config, {"log": ["other"], "note": "as a"}, as_node="a")
    await graph.state(other)
    await graph.invoke(None, other)
    await graph.state(after_b.config)
    await graph.history()


@scenario
async def update_state_of_every_kind(lab):
    graph = lab.graph(chain(lab))
    # Before anything ran.
    await graph.update("t", {"log": ["seed"], "note": "kept"}, as_node="a")
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    history = await graph.history()
    await graph.update(history[2].config, None, as_node="__copy__")
    await graph.state()
    await graph.update("t", {"log": ["as input"]}, as_node="__input__")
    await graph.state()
    await graph.update("t", None)
    await graph.state()
    await graph.update("t", None, as_node=END)
    await graph.state()
    lab.restart()
    await graph.history()


@scenario
async def bulk_updates(lab):
    graph = lab.graph(chain(lab))
    await graph.bulk_update(
        "t",
        [
            [StateUpdate({"log": ["in"]}, as_node="__input__")],
            [StateUpdate({"log": ["one"]}, as_node="a")],
            [StateUpdate({"log": ["two"]}, as_node="b"), StateUpdate({"log": ["three"], "note": "n"}, as_node="c")],
        ],
    )
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    await graph.history()


# Failing and continuing


class Done(TypedDict):
    done: Annotated[list, operator.add]


@scenario
async def fan_out_with_one_failing_task(lab):
    def split(state):
        return [Send("work", {"item": item}) for item in range(40)]

    def work(state):
        item = state["item"]
        if lab.count(f"work {item:02}") == 1 and item == 17:
            lab.wait_for_writes("t", "done", 39)
            raise ValueError("seventeen")
        return {"done": [item]}

    builder = StateGraph(Done).add_node("work", work).add_node("end", lambda state: {"done": [len(state["done"])]})
    builder.add_conditional_edges(START, split, ["work"]).add_edge("work", "end").add_edge("end", END)
    graph = lab.graph(builder)
    await graph.fails({"done": []})
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    await graph.history()


@scenario
async def error_then_resume_in_another_process(lab):
    def flaky(state):
        if lab.count("flaky") < 3:
            raise RuntimeError("not yet")
        return {"log": ["flaky"]}

    builder = StateGraph(Log).add_node("a", node(lab, "a")).add_node("flaky", flaky).add_node("z", node(lab, "z"))
    graph = lab.graph(builder.add_edge(START, "a").add_edge("a", "flaky").add_edge("flaky", "z").add_edge("z", END))
    await graph.fails({"log": ["in"], "note": "kept"})
    await graph.state()
    lab.restart()
    await graph.fails(None)
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    await graph.history()


@scenario
async def error_beside_a_finished_sibling(lab):
    def fails(state):
        if lab.count("fails") == 1:
            lab.wait_for_writes("t", "log", 1)
            raise RuntimeError("beside")
        return {"log": ["fails"]}

    builder = StateGraph(Log).add_node("ok", node(lab, "ok")).add_node("fails", fails).add_node("z", node(lab, "z"))
    builder.add_edge(START, "ok").add_edge(START, "fails").add_edge(["ok", "fails"], "z").add_edge("z", END)
    graph = lab.graph(builder)
    await graph.fails({"note": "n"})
    lab.restart()
    await graph.state()
    await graph.invoke(None)
    await graph.history()


@scenario
async def error_in_a_subgraph(lab):
    def flaky(state):
        if lab.count("flaky") == 1:
            raise RuntimeError("inside")
        return {"log": ["flaky"]}

    inner = StateGraph(Log).add_node("first", node(lab, "first")).add_node("flaky", flaky)
    inner.add_edge(START, "first").add_edge("first", "flaky").add_edge("flaky", END)
    outer = StateGraph(Log).add_node("top", node(lab, "top")).add_node("inner", inner.compile())
    graph = lab.graph(outer.add_edge(START, "top").add_edge("top", "inner").add_edge("inner", END))
    await graph.fails({"log": []})
    await graph.state(subgraphs=True)
    lab.restart()
    await graph.invoke(None)
    await graph.history()


@scenario
async def retry_within_a_run(lab):
    def flaky(state):
        if lab.count("flaky") < 3:
            raise RuntimeError("retried")
        return {"log": ["flaky"]}

    policy = RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=3, retry_on=RuntimeError)
    builder = StateGraph(Log).add_node("flaky", flaky, retry_policy=policy).add_edge(START, "flaky")
    graph = lab.graph(builder.add_edge("flaky", END))
    await graph.invoke({"log": ["in"]})
    await graph.history()


# Durability


def _durable(durability):
    async def durable(lab):
        graph = lab.graph(_nested(lab))
        await graph.invoke({"log": ["in"]}, durability=durability)
        await graph.state(subgraphs=True)
        await graph.history()
        lab.restart()
        await graph.invoke(Command(resume="answer"), durability=durability)
        await graph.history()
        await graph.invoke({"log": ["second turn"]}, durability=durability)
        lab.restart()
        await graph.state(subgraphs=True)
        await graph.invoke(Command(resume="second answer"), durability=durability)
        await graph.history()

    durable.__name__ = f"durability_{durability}"
    return durable


def _durable_error(durability):
    async def durable(lab):
        def flaky(state):
            if lab.count("flaky") == 1:
                raise RuntimeError("not yet")
            return {"log": ["flaky"]}

        builder = StateGraph(Log).add_node("a", node(lab, "a")).add_node("flaky", flaky)
        graph = lab.graph(builder.add_edge(START, "a").add_edge("a", "flaky").add_edge("flaky", END))
        await graph.fails({"log": ["in"]}, durability=durability)
        lab.restart()
        await graph.state()
        await graph.invoke(None, durability=durability)
        await graph.history()

    durable.__name__ = f"error_with_durability_{durability}"
    return durable


for _durability in ("sync", "async", "exit"):
    scenario(_durable(_durability))
    scenario(_durable_error(_durability))


# The functional API


@scenario
async def functional_tasks_and_interrupt(lab):
    @task
    def double(number):
        lab.count(f"double {number}")
        return number * 2

    def make(saver):
        @entrypoint(checkpointer=saver)
        def flow(number):
            lab.count("flow")
            doubled = [future.result() for future in [double(number), double(number + 1)]]
            answer = interrupt({"doubled": doubled})
            return {"doubled": doubled, "answer": answer, "again": double(sum(doubled)).result()}

        return flow

    graph = lab.graph(make)
    await graph.invoke(3)
    await graph.state()
    lab.restart()
    await graph.invoke(Command(resume="fine"))
    await graph.state()
    await graph.history()


@scenario
async def functional_previous_and_final(lab):
    def make(saver):
        @entrypoint(checkpointer=saver)
        def total(number: int, *, previous: Any = None) -> entrypoint.final[str, dict]:
            lab.count("total")
            before = (previous or {"sum": 0})["sum"]
            return entrypoint.final(value=f"{before}+{number}", save={"sum": before + number})

        return total

    graph = lab.graph(make)
    for number in (1, 2, 3):
        lab.restart()
        await graph.invoke(number)
    await graph.invoke(10, "other")
    history = await graph.history()
    await graph.invoke(100, history[-2].config)
    await graph.history()


@scenario
async def functional_error_then_resume(lab):
    @task
    def step(name):
        if lab.count(name) == 1 and name == "second":
            raise ValueError("second")
        return name

    def make(saver):
        @entrypoint(checkpointer=saver)
        def flow(value):
            lab.count("flow")
            return [step("first").result(), step("second").result(), value]

        return flow

    graph = lab.graph(make)
    await graph.fails("input")
    await graph.state()
    lab.restart()
    await graph.invoke(None)
    await graph.history()


# Subgraphs with a memory of their own


class Inner(TypedDict):
    seen: Annotated[list, operator.add]
    log: list


@scenario
async def subgraph_keeps_its_own_state(lab):
    def remember(state):
        return {"seen": [f"turn {len(state['seen'])}"], "log": [f"seen {len(state['seen'])}"]}

    inner = StateGraph(Inner).add_node("remember", remember).add_edge(START, "remember").add_edge("remember", END)
    outer = StateGraph(Log).add_node("inner", inner.compile(checkpointer=True)).add_node("b", node(lab, "b"))
    graph = lab.graph(outer.add_edge(START, "inner").add_edge("inner", "b").add_edge("b", END))
    for turn in range(3):
        lab.restart()
        await graph.invoke({"log": [f"in {turn}"]})
    await graph.state(subgraphs=True)
    await graph.state({"configurable": {"thread_id": "t", "checkpoint_ns": "inner"}})
    await graph.history({"configurable": {"thread_id": "t", "checkpoint_ns": "inner"}})
    await graph.invoke({"log": ["elsewhere"]}, "other")
    await graph.history()


@scenario
async def subgraph_with_memory_interrupts(lab):
    graph = lab.graph(_nested(lab, checkpointer=True))
    await graph.invoke({"log": ["in"]})
    await graph.state(subgraphs=True)
    lab.restart()
    await graph.invoke(Command(resume="answer"))
    await graph.invoke({"log": ["second"]})
    await graph.state(subgraphs=True)
    await graph.invoke(Command(resume="second answer"))
    await graph.history()


@scenario
async def subgraph_called_inside_a_node(lab):
    def ask(state):
        return {"log": [interrupt("inside a function")]}

    inner = StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()

    def call(state):
        lab.count("call")
        return {"log": [len(inner.invoke({"log": state["log"]})["log"])]}

    graph = lab.graph(StateGraph(Log).add_node("call", call).add_edge(START, "call").add_edge("call", END))
    await graph.invoke({"log": ["in"]})
    lab.restart()
    await graph.state(subgraphs=True)
    await graph.invoke(Command(resume="yes"))
    await graph.history()


# Kinds of state


@scenario
async def messages_are_added_replaced_and_removed(lab):
    def answer(state):
        number = len(state["messages"])
        return {"messages": [AIMessage(f"answer {number}", id=f"ai{number}")]}

    builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)
    graph = lab.graph(builder)
    for turn in range(4):
        await graph.invoke({"messages": [HumanMessage(f"question {turn}", id=f"h{turn}")]})
    lab.restart()
    await graph.update("t", {"messages": [RemoveMessage("ai1"), HumanMessage("replaced", id="h0")]})
    await graph.state()
    await graph.invoke({"messages": [HumanMessage("after", id="h9")]})
    await graph.update("t", {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("only", id="h10")]})
    lab.restart()
    await graph.invoke({"messages": [HumanMessage("last", id="h11")]})
    await graph.history()


@scenario
async def defer_runs_last(lab):
    builder = StateGraph(Log)
    for name in ("a", "b", "b2", "c"):
        builder.add_node(name, node(lab, name))
    builder.add_node("last", node(lab, "last"), defer=True)
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge("b", "b2")
    builder.add_edge("b2", "last").add_edge("c", "last").add_edge("last", END)
    graph = lab.graph(builder, interrupt_before=["b2"])
    await graph.invoke({"log": ["in"]})
    lab.restart()
    await graph.invoke(None)
    await graph.history()


@dataclass
class Point:
    x: int
    y: list = field(default_factory=list)


class Person(BaseModel):
    name: str
    place: Point | None = None


class Odd(TypedDict, total=False):
    person: Person | None
    point: Point
    passing: Annotated[str, EphemeralValue]
    topic: Annotated[list, Topic(str, accumulate=True)]
    secret: Annotated[Any, UntrackedValue]
    nothing: None
    log: Annotated[list, operator.add]


@scenario
async def state_of_odd_types(lab):
    def first(state):
        return {"person": Person(name="Ada", place=Point(1, [2])), "topic": "one", "log": [state.get("passing")]}

    def second(state):
        lab.note("person", state["person"])
        return {"point": state["person"].place, "topic": "two", "secret": "s", "nothing": None, "log": [b"\0", 1.5]}

    def third(state):
        return {"person": None, "log": [state.get("passing"), state.get("secret"), {"k": (1, 2)}, {3}]}

    builder = StateGraph(Odd).add_node("first", first).add_node("second", second).add_node("third", third)
    builder.add_edge(START, "first").add_edge("first", "second").add_edge("second", "third").add_edge("third", END)
    graph = lab.graph(builder, interrupt_after=["first"])
    await graph.invoke({"passing": "by", "log": []})
    lab.restart()
    await graph.state()
    await graph.invoke(None)
    await graph.history()


# Commands


class Where(TypedDict):
    log: Annotated[list, operator.add]
    where: str


@scenario
async def commands_goto_update_and_resume(lab):
    def route(state) -> Command[Literal["left", "right"]]:
        lab.count("route")
        where = interrupt("where to?")
        return Command(goto=where, update={"log": ["route"], "where": where})

    builder = StateGraph(Where).add_node("route", route).add_node("left", node(lab, "left"))
    builder.add_node("right", node(lab, "right")).add_edge(START, "route")
    graph = lab.graph(builder)
    await graph.invoke({"log": ["in"], "where": ""})
    lab.restart()
    await graph.invoke(Command(resume="left", update={"log": ["from outside"]}))
    await graph.invoke(Command(goto="right", update={"where": "given"}))
    lab.restart()
    await graph.invoke(Command(goto=[Send("left", {"log": [], "where": "x"}), "right"]))
    await graph.history()


@scenario
async def command_to_the_parent_graph(lab):
    def leave(state):
        return Command(graph=Command.PARENT, goto="target", update={"log": ["left"], "where": "up"})

    inner = StateGraph(Where).add_node("leave", leave).add_edge(START, "leave").compile()
    outer = StateGraph(Where).add_node("inner", inner, destinations=("target",)).add_node("target", node(lab, "target"))
    graph = lab.graph(outer.add_edge(START, "inner"), interrupt_before=["target"])
    await graph.invoke({"log": [], "where": "down"})
    lab.restart()
    await graph.state()
    await graph.invoke(None)
    await graph.history()


# Streaming


def _streamed(stream_mode, subgraphs=False):
    async def streamed(lab):
        def write(state):
            get_stream_writer()({"custom": len(state["log"])})
            return {"log": ["write"]}

        inner = StateGraph(Log).add_node("write", write).add_edge(START, "write").add_edge("write", END).compile()

        def ask(state):
            return {"log": [interrupt("?")]}

        builder = StateGraph(Log).add_node("inner", inner).add_node("ask", ask).add_node("b", node(lab, "b"))
        builder.add_edge(START, "inner").add_edge("inner", "ask").add_edge("ask", "b").add_edge("b", END)
        graph = lab.graph(builder)
        await graph.stream({"log": ["in"]}, stream_mode=stream_mode, subgraphs=subgraphs)
        lab.restart()
        await graph.stream(Command(resume="yes"), stream_mode=stream_mode, subgraphs=subgraphs)
        history = await graph.history()
        await graph.stream(None, history[-2].config, stream_mode=stream_mode, subgraphs=subgraphs)

    name = stream_mode if isinstance(stream_mode, str) else "_and_".join(stream_mode)
    streamed.__name__ = f"stream_{name}{'_of_subgraphs' * subgraphs}"
    return streamed


for _mode in ("values", "updates", "custom", "tasks", "checkpoints", "debug"):
    scenario(_streamed(_mode))
scenario(_streamed(["values", "updates", "checkpoints"]))
scenario(_streamed(["updates", "checkpoints"], subgraphs=True))


# Long and many


@scenario
async def a_long_conversation(lab):
    def loop(state):
        return {"log": [{"turn": len(state["log"]), "text": "word " * len(state["log"])}]}

    def route(state):
        return "loop" if len(state["log"]) % 12 else END

    builder = StateGraph(Log).add_node("loop", loop).add_edge(START, "loop").add_conditional_edges("loop", route)
    graph = lab.graph(builder)
    for turn in range(3):
        lab.restart()
        await graph.invoke({"log": [f"turn {turn}"], "note": f"note {turn}"})
    history = await graph.history()
    await graph.history(limit=5, before=history[7].config)
    await graph.state(history[20].config)


@scenario
async def threads_with_similar_ids(lab):
    graph = lab.graph(chain(lab, "ab"))
    threads = ["a", "a_b", "a/b", "a%2Fb", "A", "ä", "a b", "..", "__x__"]
    for thread in threads:
        await graph.invoke({"log": [f"for {thread}"]}, thread)
    await graph.update("a", {"log": ["only here"]})
    lab.restart()
    for thread in threads:
        await graph.state(thread)
        await graph.history(thread)


@scenario
async def metadata_and_tags_of_the_caller(lab):
    def config(**more):
        return {
            "configurable": {"thread_id": "t", "user": "ada", "flag": True, **more},
            "metadata": {"tenant": "x", "step": 99, "source": "mine", "nested": {"a": 1}, "ratio": 0.5},
            "tags": ["one"],
        }

    graph = lab.graph(chain(lab))
    await graph.invoke({"log": ["in"]}, config())
    lab.restart()
    await graph.update(config(), {"log": ["update"]})
    await graph.history(filter={"tenant": "x"})
    await graph.history(filter={"user": "ada", "step": 2})
    await graph.history(filter={"ratio": 0.5, "source": "loop"})
    await graph.history(filter={"tenant": "y"})


# Delta channels


def fold(state, writes):
    return state + [item for write in writes for item in write]


class Delta(TypedDict, total=False):
    items: Annotated[list, DeltaChannel(fold, snapshot_frequency=4)]
    rare: Annotated[list, DeltaChannel(fold, snapshot_frequency=1000)]
    count: int


def _delta(lab):
    def left(state):
        return {"items": [f"l{len(state['items'])}"], "count": state.get("count", 0) + 1}

    def right(state):
        return {"items": [f"r{len(state['items'])}"], "rare": [len(state.get("rare", []))]}

    def both(state):
        return {"items": ["both"]}

    builder = StateGraph(Delta).add_node("left", left).add_node("right", right).add_node("both", both)
    builder.add_edge(START, "left").add_edge(START, "right").add_edge(["left", "right"], "both")
    return builder.add_edge("both", END)


@scenario
async def delta_channels_through_history(lab):
    graph = lab.graph(_delta(lab))
    for turn in range(6):
        lab.restart()
        await graph.invoke({"items": [f"turn {turn}"], "rare": ["in"] * (turn == 0)})
    lab.restart()
    history = await graph.history()
    await graph.state(history[9].config)


@scenario
async def delta_channels_forked_updated_and_overwritten(lab):
    graph = lab.graph(_delta(lab))
    for turn in range(3):
        await graph.invoke({"items": [f"turn {turn}"]})
    history = await graph.history()
    lab.restart()
    old = history[4]
    await graph.invoke(None, old.config)
    fork = await graph.update(history[5].config, {"items": ["forked"]}, as_node="both")
    await graph.state(fork)
    await graph.invoke({"items": ["on the fork"]}, fork)
    await graph.update("t", {"items": Overwrite(["fresh"])}, as_node="both")
    lab.restart()
    await graph.state()
    for turn in range(3):
        await graph.invoke({"items": [f"later {turn}"], "rare": ["r"]})
    lab.restart()
    await graph.history()


@scenario
async def delta_channels_across_interrupt_error_and_durability(lab):
    def ask(state):
        if lab.count("ask") == 2:
            raise RuntimeError("once")
        return {"items": [interrupt(len(state["items"]))]}

    builder = StateGraph(Delta).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END)
    graph = lab.graph(builder)
    await graph.invoke({"items": ["in"]}, durability="sync")
    lab.restart()
    await graph.fails(Command(resume="lost?"), durability="async")
    lab.restart()
    await graph.state()
    await graph.invoke(Command(resume="kept"), durability="exit")
    for turn in range(5):
        await graph.invoke({"items": [f"turn {turn}"]}, durability="exit")
        await graph.invoke(Command(resume=turn), durability="exit")
    lab.restart()
    await graph.history()


class Plain(TypedDict, total=False):
    items: Annotated[list, operator.add]


@scenario
async def plain_channel_becomes_a_delta_channel(lab):
    def add(state):
        return {"items": [len(state["items"])]}

    def build(state):
        return StateGraph(state).add_node("add", add).add_edge(START, "add").add_edge("add", END)

    old, new = lab.graph(build(Plain)), lab.graph(build(Delta))
    await old.invoke({"items": ["plain"]})
    await old.invoke({"items": ["plain again"]})
    lab.restart()
    await new.state()
    for turn in range(3):
        await new.invoke({"items": [f"delta {turn}"]})
    lab.restart()
    await new.history()
