"""`RunToolsOnce` in a `ToolNode` and in an agent: which calls run, what the model sees, and what ends the run."""

import asyncio
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, InjectedToolCallId, ToolException, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from langgraph_gcs_saver import NOT_DONE, GCSSaver, RunToolsOnce, errors, operations
from langgraph_gcs_saver.errors import (
    InvalidInputError,
    NotDurableError,
    OperationMismatchError,
    OutcomeUnknownError,
)
from tests.kit.provider import Provider
from tests.patience import PATIENCE

CONFIG = {"configurable": {"thread_id": "thread-1"}}
LOST = "the answer of the provider is lost"


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:", timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def provider(tmp_path):
    return Provider(tmp_path / "calls")


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request):
    return request.param


def charging(provider, *, then=None, is_async=False):
    """A tool that charges a card, and then does more."""
    if is_async:

        @tool
        async def card(order: int) -> Any:
            """Charge a card."""
            receipt = provider.charge("card")
            return receipt if then is None else then(receipt)

    else:

        @tool
        def card(order: int) -> Any:
            """Charge a card."""
            receipt = provider.charge("card")
            return receipt if then is None else then(receipt)

    return card


def lose(receipt):
    raise TimeoutError(LOST)


def lose_first():
    """What follows a charge: its answer is lost once, and then returned."""
    outcomes = iter([lose, str])

    def then(receipt):
        return next(outcomes)(receipt)

    return then


def graph_of(saver, tools, once, **options):
    """A graph whose input is the message of a model, and which ends after the tools."""
    options = {"wrap_tool_call": once.wrap_tool_call, "awrap_tool_call": once.awrap_tool_call, **options}
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(tools, **options))
    graph.add_edge(START, "tools")
    return graph.compile(checkpointer=saver)


def ordering(*calls, id_="call-1", **args):
    """The input that orders a call of `card`, or of the named tools."""
    names = calls or ("card",)
    made = [{"name": name, "args": args or {"order": 17}, "id": f"{id_}{n or ''}"} for n, name in enumerate(names)]
    return {"messages": [AIMessage("", tool_calls=made)]}


def invoke(graph, given, *, is_async=False, **options):
    if is_async:
        return asyncio.run(graph.ainvoke(given, CONFIG, **options))["messages"]
    return graph.invoke(given, CONFIG, **options)["messages"]


class Model(BaseChatModel):
    """Gives its answers in order."""

    answers: list[AIMessage]

    @property
    def _llm_type(self):
        return "model"

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self.answers.pop(0))])


def agent_of(saver, tools, middleware, *ids):
    """An agent whose model orders a call of `card` for each id, and then ends."""
    answers = [ordering(id_=id_)["messages"][0] for id_ in ids]
    return create_agent(Model(answers=[*answers, AIMessage("end")]), tools, middleware=middleware, checkpointer=saver)


ASK = {"messages": [HumanMessage("buy")]}


# One call


@pytest.mark.parametrize("handle", [True, False])
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_repeated_call_gets_the_recorded_answer(saver, provider, is_async, handle, durability):
    graph = graph_of(saver, [charging(provider, is_async=is_async)], RunToolsOnce(), handle_tool_errors=handle)
    first = invoke(graph, ordering(), is_async=is_async, durability=durability)[-1]
    again = invoke(graph, ordering(), is_async=is_async, durability=durability)[-1]
    assert (first.content, first.tool_call_id, first.name) == ("receipt-1", "call-1", "card")
    assert (again.content, again.tool_call_id, again.name) == ("receipt-1", "call-1", "card")
    assert invoke(graph, ordering(id_="call-2"), is_async=is_async)[-1].content == "receipt-2"
    assert len(provider.calls()) == 2


def test_it_is_middleware_of_an_agent(saver, provider, is_async):
    agent = agent_of(saver, [charging(provider, is_async=is_async)], [RunToolsOnce()], "call-1", "call-2")
    messages = invoke(agent, ASK, is_async=is_async)
    assert [one.content for one in messages if isinstance(one, ToolMessage)] == ["receipt-1", "receipt-2"]
    assert isinstance(RunToolsOnce(), AgentMiddleware)


def test_parallel_calls(saver, provider, is_async):
    graph = graph_of(saver, [charging(provider, is_async=is_async)], RunToolsOnce())
    for _ in range(2):
        answers = invoke(graph, ordering("card", "card", "card"), is_async=is_async)[-3:]
        assert [one.tool_call_id for one in answers] == ["call-1", "call-11", "call-12"]
    assert len(provider.calls()) == 3


def test_nothing_runs_without_a_durable_order(saver, provider, is_async):
    graph = graph_of(saver, [charging(provider)], RunToolsOnce(), handle_tool_errors=True)
    with pytest.raises(NotDurableError):
        invoke(graph, ordering(), is_async=is_async, durability="exit")
    assert provider.calls() == []


# Which tools, and which key


@pytest.mark.parametrize("options", [{"read_only": {"card"}}, {"only": ["mail"]}])
def test_some_tools_run_as_usual(saver, provider, options):
    graph = graph_of(saver, [charging(provider)], RunToolsOnce(**options))
    for _ in range(2):
        invoke(graph, ordering(), durability="exit")
    assert len(provider.calls()) == 2


def test_a_tool_that_is_not_there_is_a_mistake_of_the_model(saver, provider):
    answer = invoke(graph_of(saver, [charging(provider)], RunToolsOnce()), ordering("unheard-of"))[-1]
    assert answer.status == "error"


def test_a_key_of_the_business_holds_for_calls_with_other_ids(saver, provider, is_async):
    seen = []

    def key_of(args, state):
        seen.append(len(state["messages"]))
        return f"order-{args['order']}"

    graph = graph_of(saver, [charging(provider)], RunToolsOnce(keys={"card": key_of}))
    for id_ in ("call-1", "call-2"):
        answer = invoke(graph, ordering(id_=id_), is_async=is_async, durability="exit")[-1]
        assert (answer.content, answer.tool_call_id) == ("receipt-1", id_)
    assert len(provider.calls()) == 1
    assert seen == [1, 3]
    found = saver.thread("thread-1").operations
    assert found.once("card", lambda: 1, request={"order": 17}, key="order-17").content == "receipt-1"


def test_the_same_key_with_other_arguments_ends_the_run(saver, provider):
    graph = graph_of(saver, [charging(provider)], RunToolsOnce(), handle_tool_errors=True)
    invoke(graph, ordering(order=1))
    with pytest.raises(OperationMismatchError):
        invoke(graph, ordering(order=2))
    assert len(provider.calls()) == 1


@pytest.mark.parametrize("key", [17, "", None])
def test_keys_are_text(saver, provider, key):
    once = RunToolsOnce(keys={"card": lambda args, state: key})
    with pytest.raises(InvalidInputError, match="must return a str"):
        invoke(graph_of(saver, [charging(provider)], once, handle_tool_errors=False), ordering())
    assert provider.calls() == []


@pytest.mark.parametrize(
    "options",
    [
        {"only": "card"},
        {"only": 3},
        {"only": [1]},
        {"read_only": "card"},
        {"errors": ValueError},
        {"keys": ["card"]},
        {"keys": {"card": "order"}},
        {"reconcile": {"card": 1}},
        {"keep": 30},
        {"timeout": 0},
        {"ask": 1},
        {"saver": object()},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidInputError):
        RunToolsOnce(**options)


# Exceptions


@pytest.mark.parametrize("handle", [True, False])
def test_a_tool_that_raises_has_an_unknown_outcome(saver, provider, is_async, handle):
    graph = graph_of(saver, [charging(provider, then=lose)], RunToolsOnce(), handle_tool_errors=handle)
    if handle:
        answer = invoke(graph, ordering(), is_async=is_async)[-1]
        assert (answer.status, LOST in answer.content) == ("error", True)
    else:
        with pytest.raises(TimeoutError, match=LOST):
            invoke(graph, ordering(), is_async=is_async)
    with pytest.raises(OutcomeUnknownError):
        invoke(graph, ordering(), is_async=is_async)
    found = saver.thread("thread-1").operations
    assert [(one.key, one.name) for one in found.unresolved()] == [("call-1", "card")]
    found.resolve("call-1", result="receipt-1")
    answer = invoke(graph, ordering(), is_async=is_async)[-1]
    assert (answer.content, answer.tool_call_id) == ("receipt-1", "call-1")
    assert len(provider.calls()) == 1


@pytest.mark.parametrize("handle", [True, False])
def test_an_exception_that_is_an_answer_is_raised_again(saver, provider, is_async, handle):
    def decline(receipt):
        raise ValueError("declined")

    graph = graph_of(
        saver, [charging(provider, then=decline)], RunToolsOnce(errors=(ValueError,)), handle_tool_errors=handle
    )
    for _ in range(2):
        if handle:
            answer = invoke(graph, ordering(), is_async=is_async)[-1]
            assert (answer.status, "declined" in answer.content) == ("error", True)
        else:
            with pytest.raises(ValueError, match="declined"):
                invoke(graph, ordering(), is_async=is_async)
    assert len(provider.calls()) == 1


@pytest.mark.parametrize("handle", [True, False])
def test_an_exception_that_proves_that_nothing_was_sent_allows_another_try(saver, provider, handle):
    refusals = iter([True, False])

    @tool
    def card(order: int) -> str:
        """Charge a card."""
        if next(refusals):
            raise ConnectionRefusedError
        return provider.charge("card")

    graph = graph_of(saver, [card], RunToolsOnce(not_sent=(ConnectionRefusedError,)), handle_tool_errors=handle)
    if handle:
        assert invoke(graph, ordering())[-1].status == "error"
    else:
        with pytest.raises(ConnectionRefusedError):
            invoke(graph, ordering())
    assert invoke(graph, ordering())[-1].content == "receipt-1"


@pytest.mark.parametrize("handle", [True, False])
def test_rejected_arguments_leave_nothing(saver, provider, is_async, handle):
    graph = graph_of(
        saver,
        [charging(provider, is_async=is_async)],
        RunToolsOnce(keys={"card": lambda args, state: "order-17"}),
        handle_tool_errors=handle,
    )
    if handle:
        assert invoke(graph, ordering(order="seventeen"), is_async=is_async)[-1].status == "error"
    else:
        with pytest.raises(Exception, match="Error invoking tool 'card'"):
            invoke(graph, ordering(order="seventeen"), is_async=is_async)
    # The model corrects them, under the same key.
    assert invoke(graph, ordering(id_="call-2"), is_async=is_async)[-1].content == "receipt-1"


def test_a_validation_error_of_the_tool_itself_is_no_rejection(saver, provider):
    """A ToolNode reports it as one, although the tool has charged the card."""

    class Reply(BaseModel):
        amount: int

    def parse(receipt):
        return Reply.model_validate({"amount": "none"})

    graph = graph_of(saver, [charging(provider, then=parse)], RunToolsOnce(), handle_tool_errors=True)
    assert invoke(graph, ordering())[-1].status == "error"
    with pytest.raises(OutcomeUnknownError):
        invoke(graph, ordering())
    assert len(provider.calls()) == 1


def test_an_error_that_the_tool_makes_an_answer_of_is_seen(saver, provider):
    def complain(receipt):
        raise ToolException("no")

    card = charging(provider, then=complain)
    card.handle_tool_error = True
    graph = graph_of(saver, [card], RunToolsOnce())
    assert invoke(graph, ordering())[-1].content == "no"
    with pytest.raises(OutcomeUnknownError):
        invoke(graph, ordering())


# Retries


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_retry_does_not_run_a_tool_twice(saver, provider, is_async, place):
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0, on_failure="continue")
    middleware = [retry, RunToolsOnce()] if place == "outside" else [RunToolsOnce(), retry]
    agent = agent_of(saver, [charging(provider, then=lose, is_async=is_async)], middleware, "call-1")
    with pytest.raises(OutcomeUnknownError):
        invoke(agent, ASK, is_async=is_async)
    assert len(provider.calls()) == 1
    assert [one.key for one in saver.thread("thread-1").operations.unresolved()] == ["call-1"]


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_retry_repeats_what_was_not_sent(saver, provider, is_async, place):
    refusals = iter([True, True, False])

    @tool
    def card(order: int) -> str:
        """Charge a card."""
        if next(refusals):
            raise ConnectionRefusedError
        return provider.charge("card")

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0)
    once = RunToolsOnce(not_sent=(ConnectionRefusedError,))
    agent = agent_of(saver, [card], [retry, once] if place == "outside" else [once, retry], "call-1")
    answers = [one.content for one in invoke(agent, ASK, is_async=is_async) if isinstance(one, ToolMessage)]
    assert answers == ["receipt-1"]
    assert saver.thread("thread-1").operations.unresolved() == []


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_retry_gets_an_answer_again(saver, provider, is_async, place):
    def decline(receipt):
        raise ValueError("declined")

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0, on_failure=str)
    once = RunToolsOnce(errors=(ValueError,))
    tools = [charging(provider, then=decline, is_async=is_async)]
    agent = agent_of(saver, tools, [retry, once] if place == "outside" else [once, retry], "call-1")
    answers = [one.content for one in invoke(agent, ASK, is_async=is_async) if isinstance(one, ToolMessage)]
    assert answers == ["declined"]
    assert len(provider.calls()) == 1
    assert saver.thread("thread-1").operations.unresolved() == []


class Twice(AgentMiddleware):
    """Runs a tool again although it has succeeded."""

    def wrap_tool_call(self, request, handler):
        handler(request)
        return handler(request)


def test_middleware_that_runs_a_tool_twice(saver, provider):
    agent = agent_of(saver, [charging(provider)], [RunToolsOnce(), Twice()], "call-1")
    with pytest.raises(OutcomeUnknownError, match="was about to run twice"):
        invoke(agent, ASK)
    assert len(provider.calls()) == 1


# Unknown outcomes


@pytest.mark.parametrize("expected", [("receipt-1", "receipt-1", 1), (NOT_DONE, "receipt-2", 2)])
def test_reconcile_answers(saver, provider, is_async, expected):
    verdict, content, calls = expected
    card = charging(provider, then=lose_first())
    asked = []

    def reconcile(key):
        asked.append(key)
        return verdict

    graph = graph_of(saver, [card], RunToolsOnce(reconcile={"card": reconcile}), handle_tool_errors=True)
    invoke(graph, ordering(), is_async=is_async)
    answer = invoke(graph, ordering(), is_async=is_async)[-1]
    assert (answer.content, answer.status, answer.tool_call_id) == (content, "success", "call-1")
    assert asked == ["call-1"]
    assert len(provider.calls()) == calls


def test_the_model_does_not_see_that_reconcile_failed(saver, provider, is_async):
    """It would take it for an error of the tool, and order the payment again, with another id."""

    def reconcile(key):
        raise ConnectionError("the provider is down")

    once = RunToolsOnce(reconcile={"card": reconcile})
    graph = graph_of(saver, [charging(provider, then=lose)], once, handle_tool_errors=True)
    invoke(graph, ordering(), is_async=is_async)
    with pytest.raises(OutcomeUnknownError, match="`reconcile` raised ConnectionError"):
        invoke(graph, ordering(), is_async=is_async)


@pytest.mark.parametrize(("answer", "content"), [({"done": "by hand"}, "by hand"), ({"not_done": True}, "receipt-2")])
def test_a_person_is_asked(saver, provider, is_async, answer, content):
    card = charging(provider, then=lose_first())
    graph = graph_of(saver, [card], RunToolsOnce(ask=True), handle_tool_errors=True)
    invoke(graph, ordering(), is_async=is_async)
    run = asyncio.run(graph.ainvoke(ordering(), CONFIG)) if is_async else graph.invoke(ordering(), CONFIG)
    (asked,) = run["__interrupt__"]
    assert (asked.value["operation"], asked.value["key"]) == ("card", "call-1")
    assert invoke(graph, Command(resume=answer), is_async=is_async)[-1].content == content


def test_an_interrupt_in_a_tool(saver, provider, is_async):
    @tool
    def card(order: int) -> str:
        """Charge a card."""
        return f"{interrupt('may I?')}: {provider.charge('card')}"

    graph = graph_of(saver, [card], RunToolsOnce(), handle_tool_errors=True)
    run = asyncio.run(graph.ainvoke(ordering(), CONFIG)) if is_async else graph.invoke(ordering(), CONFIG)
    assert run["__interrupt__"][0].value == "may I?"
    assert provider.calls() == []
    assert invoke(graph, Command(resume="yes"), is_async=is_async)[-1].content == "yes: receipt-1"


# What tools return and take


def test_a_command_is_recorded(saver, provider):
    @tool
    def card(order: int, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:
        """Charge a card."""
        message = ToolMessage(provider.charge("card"), tool_call_id=tool_call_id)
        return Command(update={"messages": [message]}, goto=[Send("end", {"messages": []})])

    once = RunToolsOnce(keys={"card": lambda args, state: "order-17"})
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([card], wrap_tool_call=once.wrap_tool_call))
    graph.add_node("end", lambda state: {"messages": [AIMessage("end")]})
    graph.add_edge(START, "tools")
    app = graph.compile(checkpointer=saver)
    for id_ in ("call-1", "call-2"):
        answer, end = invoke(app, ordering(id_=id_))[-2:]
        assert (answer.content, answer.tool_call_id, end.content) == ("receipt-1", id_, "end")
    assert len(provider.calls()) == 1


def test_injected_arguments_and_artifacts(saver, provider):
    @tool(response_format="content_and_artifact")
    def card(order: int, state: Annotated[dict, InjectedState]) -> tuple[str, dict]:
        """Charge a card."""
        return provider.charge("card"), {"messages": len(state["messages"])}

    graph = graph_of(saver, [card], RunToolsOnce())
    for _ in range(2):
        answer = invoke(graph, ordering())[-1]
        assert (answer.content, answer.artifact) == ("receipt-1", {"messages": 1})


class Charging(BaseTool):
    """A tool that is a class, and runs without LangChain's checks."""

    name: str = "card"
    description: str = "Charge a card."
    provider: Any = None

    def _run(self, order: int) -> str:
        return self.provider.charge("card")

    def invoke(self, input, config=None, **kwargs):  # noqa: A002 - LangChain's name
        return ToolMessage(self.provider.charge("card"), tool_call_id=input["id"], name=self.name)


def test_a_class_that_runs_in_its_own_way(saver, provider):
    graph = graph_of(saver, [Charging(provider=provider)], RunToolsOnce())
    for _ in range(2):
        assert invoke(graph, ordering())[-1].content == "receipt-1"
    assert len(provider.calls()) == 1


def test_operations_inside_of_a_tool_derive_their_keys_from_its_call(saver, provider, is_async):
    """Two calls of one tool at the same time, in one task."""

    @tool
    def card(order: int) -> str:
        """Charge a card."""
        return operations().once("charge", lambda key: f"{key} {provider.charge('card')}")

    graph = graph_of(saver, [card], RunToolsOnce())
    answers = invoke(graph, ordering("card", "card"), is_async=is_async)[-2:]
    assert [one.content.split()[0] for one in answers] == ["call-1:charge:0", "call-11:charge:0"]


def test_an_error_of_an_operation_in_a_tool_is_not_shown_to_the_model(saver, provider):
    found = saver.thread("thread-1").operations
    with pytest.raises(TimeoutError):
        found.once("charge", lambda: lose(provider.charge("card")), key="order-17")

    @tool
    def card(order: int) -> str:
        """Charge a card."""
        return operations().once("charge", lambda: provider.charge("card"), key="order-17")

    for once in (RunToolsOnce(), RunToolsOnce(read_only={"card"})):
        with pytest.raises(OutcomeUnknownError):
            invoke(graph_of(saver, [card], once, handle_tool_errors=True), ordering())
    assert len(provider.calls()) == 1


def test_a_saver_beside_another_checkpointer(saver, provider):
    from langgraph.checkpoint.memory import InMemorySaver

    keyed = RunToolsOnce(saver=saver, keys={"card": lambda args, state: "order-17"})
    graph = graph_of(InMemorySaver(), [charging(provider)], keyed)
    for _ in range(2):
        assert invoke(graph, ordering())[-1].content == "receipt-1"
    with pytest.raises(errors.InvalidInputError, match="of type InMemorySaver"):
        invoke(graph_of(InMemorySaver(), [charging(provider)], RunToolsOnce(), handle_tool_errors=False), ordering())
