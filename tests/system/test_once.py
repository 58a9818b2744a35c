"""`once` in nodes, tasks and anywhere else: keys, exceptions, unknown outcomes, leases, and bad input."""

import asyncio
import operator
import threading
from datetime import timedelta
from functools import partial
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from langgraph_gcs_saver import NOT_DONE, UNKNOWN, GCSSaver, operations
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, HashBlob, Merge
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    ConflictError,
    InvalidConfigError,
    InvalidIdError,
    InvalidInputError,
    InvalidOptionError,
    NotDurableError,
    OperationFailedError,
    OperationFencedError,
    OperationInProgressError,
    OperationMismatchError,
    OutcomeUnknownError,
    ResultNotStoredError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.events import VerificationFailed
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.kit.provider import Provider
from tests.patience import PATIENCE

CONFIG = {"configurable": {"thread_id": "thread-1"}}
CRASH = "the outcome of this call is lost"


class State(TypedDict):
    seen: Annotated[list, operator.add]


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:", timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def ops(saver):
    return saver.thread("thread-1").operations


@pytest.fixture
def provider(tmp_path):
    return Provider(tmp_path / "calls")


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request):
    return request.param


def graph_of(saver, *nodes, **options):
    """A graph of nodes in a row."""
    graph = StateGraph(State)
    graph.add_sequence([(f"node-{number}", node) for number, node in enumerate(nodes)])
    graph.add_edge(START, "node-0")
    return graph.compile(checkpointer=saver, **options)


def invoke(graph, given, *, is_async=False, config=CONFIG, **options):
    if is_async:
        return asyncio.run(graph.ainvoke(given, config, **options))
    return graph.invoke(given, config, **options)


def node_that(function, is_async):
    """A node that performs an operation, in a coroutine if so wished."""
    if is_async:

        async def anode(state):
            return {"seen": [await function(operations().aonce)]}

        return anode

    def node(state):
        return {"seen": [function(operations().once)]}

    return node


def crashing(ops, key, name="charge", **options):
    """Leave an operation with an unknown outcome."""

    def crash():
        raise OSError(CRASH)

    with pytest.raises(OSError, match=CRASH):
        ops.once(name, crash, key=key, **options)


# Results and exceptions


def test_a_repeat_returns_the_recorded_result(ops, provider, is_async):
    def call():
        options = {"request": {"order": 17}, "key": "order-17"}
        charge = lambda key: {"receipt": provider.charge("card", key)}  # noqa: E731
        return (
            asyncio.run(ops.aonce("charge", charge, **options)) if is_async else ops.once("charge", charge, **options)
        )

    assert call() == call() == {"receipt": "receipt-1"}
    assert [one["key"] for one in provider.calls()] == ["order-17"]
    assert ops.unresolved() == []


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda: "without", "without"),
        (lambda key: key, "k"),
        (lambda *, key: key, "k"),
        (lambda key="default": key, "default"),
        (lambda other="default": other, "default"),
        (lambda *arguments: arguments, ()),
        (dict, {}),
    ],
)
def test_a_function_gets_the_key_if_it_has_a_parameter_for_it(ops, function, result):
    assert ops.once("charge", function, key="k") == result


def test_a_call_costs_two_commits_and_two_rounds():
    count = CountingInterceptor()
    with GCSSaver.from_conn_string("memory:", interceptors=[count]) as saver:
        ops = saver.thread("thread-1").operations
        ops.once("charge", lambda: 1, key="first")
        count.clear()
        ops.once("charge", lambda: 1, key="second")
    assert count.rounds == [("Commit",), ("Commit",)]


def test_so_does_the_first_call_in_a_graph():
    """The run's own puts have shown the process the thread, and the checkpoint that ordered the call."""
    count = CountingInterceptor()

    def node(state):
        count.clear()
        operations().once("charge", lambda: 1)
        seen.extend(count.rounds)

    seen = []
    with GCSSaver.from_conn_string("memory:", interceptors=[count]) as saver:
        graph_of(saver, node).invoke({"seen": []}, CONFIG, durability="sync")
    assert seen == [("Commit",), ("Commit",)]


class DeclinedError(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"declined: {code}")
        self.code = code
        self.hint = hint


class FraudError(DeclinedError):
    pass


@pytest.mark.parametrize("hint", ["call the bank", object()])
def test_an_exception_that_is_an_answer_is_raised_again(ops, hint):
    calls = []

    def charge():
        calls.append(1)
        raise FraudError(5, hint=hint)

    for _ in range(2):
        with pytest.raises(FraudError, match="declined: 5") as caught:
            ops.once("charge", charge, key="k", errors=(DeclinedError,))
    assert calls == [1]
    assert vars(caught.value) == ({"code": 5, "hint": hint} if isinstance(hint, str) else {})
    with pytest.raises(OperationFailedError, match="FraudError: declined: 5"):
        ops.once("charge", charge, key="k")


def test_an_exception_that_proves_that_nothing_was_sent_leaves_nothing(ops):
    def refused():
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        ops.once("charge", refused, key="k", not_sent=(ConnectionRefusedError,))
    assert ops.unresolved() == []
    assert ops.once("charge", lambda: 1, key="k") == 1


def test_it_restores_an_earlier_unknown_outcome(ops):
    crashing(ops, "k")

    def refused():
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        ops.once("charge", refused, key="k", not_sent=(ConnectionRefusedError,), mode="at_least_once")
    assert [one.key for one in ops.unresolved()] == ["k"]
    with pytest.raises(OutcomeUnknownError):
        ops.once("charge", lambda: 1, key="k")


def test_a_result_that_cannot_be_serialized_is_returned_once(ops):
    lock = threading.Lock()
    assert ops.once("charge", lambda: lock, key="k") is lock
    with pytest.raises(ResultNotStoredError, match="is done and was not started again"):
        ops.once("charge", lambda: lock, key="k")


def test_another_request_or_name_with_the_same_key_is_a_mismatch(ops):
    ops.once("charge", lambda: 1, request={"cents": 990}, key="k")
    for name, request in (("charge", {"cents": 991}), ("refund", {"cents": 990})):
        with pytest.raises(OperationMismatchError) as caught:
            ops.once(name, lambda: 1, request=request, key="k")
        assert (caught.value.thread_id, caught.value.key) == ("thread-1", "k")


def test_scopes(saver):
    one, other = (saver.thread(name).operations for name in ("thread-1", "thread-2"))
    assert one.once("charge", lambda: 1, key="k") == 1
    assert other.once("charge", lambda: 2, key="k") == 2
    assert one.once("charge", lambda: 3, key="k", scope="store") == 3
    assert other.once("charge", lambda: 4, key="k", scope="store") == 3


# Unknown outcomes


def test_an_unknown_outcome_is_not_started_again(ops):
    crashing(ops, "k")
    with pytest.raises(OutcomeUnknownError, match="call `resolve`") as caught:
        ops.once("charge", lambda: 1, key="k")
    assert isinstance(caught.value, GraphBubbleUp)
    assert [(one.key, one.name, one.state) for one in ops.unresolved()] == [("k", "charge", "unknown")]


def test_a_person_resolves_it(saver, ops, is_async):
    def resolve(key, **verdict):
        return asyncio.run(ops.aresolve(key, **verdict)) if is_async else ops.resolve(key, **verdict)

    crashing(ops, "k")
    resolve("k", result={"receipt": "by hand"})
    assert ops.once("charge", lambda: 1, key="k") == {"receipt": "by hand"}
    with pytest.raises(ConflictError, match="'done'"):
        resolve("k", not_done=True)
    crashing(ops, "other")
    resolve("other", not_done=True)
    assert ops.once("charge", lambda: 1, key="other") == 1
    assert (asyncio.run(ops.aunresolved()) if is_async else ops.unresolved()) == []
    with pytest.raises(InvalidInputError, match="no operation 'missing'"):
        resolve("missing", not_done=True)
    crashing(ops, "third")
    for verdict in ({}, {"result": 1, "not_done": True}, {"not_done": "no"}):
        with pytest.raises(InvalidInputError, match=r"was not changed|must be a bool"):
            resolve("third", **verdict)
        with pytest.raises(InvalidInputError, match=r"was not changed|must be a bool"):
            saver.admin.resolve_operation("thread-1", "third", **verdict)
    assert [one.state for one in ops.unresolved()] == ["unknown"]
    resolve("third", result=None)
    assert ops.once("charge", lambda: 1, key="third") is None


@pytest.mark.parametrize("verdict", [("receipt-9", "receipt-9", 0), (NOT_DONE, "receipt-1", 1), (UNKNOWN, None, 0)])
def test_reconcile_decides(ops, provider, is_async, verdict):
    found, result, performed = verdict
    crashing(ops, "k")
    asked = []

    def reconcile(key):
        asked.append(key)
        return found

    async def areconcile(key):
        return reconcile(key)

    def again():
        charge = lambda key: provider.charge("card", key)  # noqa: E731
        if is_async:
            return asyncio.run(ops.aonce("charge", charge, key="k", reconcile=areconcile))
        return ops.once("charge", charge, key="k", reconcile=reconcile)

    if result is None:
        with pytest.raises(OutcomeUnknownError):
            again()
    else:
        assert again() == again() == result
    assert asked == ["k"]
    assert len(provider.calls()) == performed


def test_at_least_once_repeats_with_the_same_key(ops, provider):
    crashing(ops, "k")
    receipt = ops.once("charge", lambda key: provider.charge("card", key), key="k", mode="at_least_once")
    assert [one["key"] for one in provider.calls()] == ["k"]
    assert ops.once("charge", lambda: 1, key="k") == receipt


@pytest.mark.parametrize(("found", "result"), [("receipt-9", "receipt-9"), (NOT_DONE, 1), (UNKNOWN, 1)])
def test_reconcile_is_asked_before_an_operation_is_repeated(ops, found, result):
    crashing(ops, "k")
    assert ops.once("charge", lambda: 1, key="k", mode="at_least_once", reconcile=lambda key: found) == result


async def _coroutine(key=None):
    return "receipt"


def test_a_reconcile_that_fails_leaves_the_outcome_unknown(ops, is_async):
    crashing(ops, "k")

    def down(key):
        raise ConnectionError("the provider is down")

    async def adown(key):
        down(key)

    def again():
        if is_async:
            return asyncio.run(ops.aonce("charge", lambda: 1, key="k", reconcile=adown))
        return ops.once("charge", lambda: 1, key="k", reconcile=down)

    with pytest.raises(OutcomeUnknownError, match="`reconcile` raised ConnectionError"):
        again()
    assert [one.state for one in ops.unresolved()] == ["unknown"]


def test_a_coroutine_that_is_not_awaited_has_not_begun(ops):
    with pytest.raises(InvalidInputError, match="`aonce`"):
        ops.once("charge", lambda key: _coroutine(key=key), key="k")
    assert ops.once("charge", lambda: 1, key="k") == 1
    crashing(ops, "other")
    with pytest.raises(OutcomeUnknownError, match="only aonce awaits"):
        ops.once("charge", lambda: 1, key="other", reconcile=lambda key: _coroutine(key=key))


def test_an_error_of_this_library_may_prove_that_nothing_was_sent(ops):
    def refused():
        raise StoreUnavailableError("no answer")

    with pytest.raises(StoreUnavailableError):
        ops.once("charge", refused, key="k", not_sent=(StoreUnavailableError,))
    assert ops.once("charge", lambda: 1, key="k") == 1


def test_an_outcome_that_cannot_be_recorded_is_unknown_and_bubbles():
    """A handler of tool errors would show the store's error to the model, which would then try again."""

    class Failing(CountingInterceptor):
        fails = False

        def around(self, effect, perform):
            if self.fails and isinstance(effect, Commit):
                raise StoreUnavailableError("no answer")
            return perform(effect)

    failing = Failing()
    with GCSSaver.from_conn_string("memory:", interceptors=[failing]) as saver:
        ops = saver.thread("thread-1").operations

        def charge():
            failing.fails = True
            return 1

        with pytest.raises(OutcomeUnknownError, match="was not recorded: no answer"):
            ops.once("charge", charge, key="k")
        failing.fails = False
        with pytest.raises(OperationInProgressError):
            ops.once("charge", charge, key="k")


# Two calls


def test_a_second_call_meets_the_first(ops):
    began, may_end = threading.Event(), threading.Event()

    def slow():
        began.set()
        assert may_end.wait(PATIENCE)
        return "first"

    results = []
    first = threading.Thread(target=lambda: results.append(ops.once("charge", slow, key="k", timeout=PATIENCE)))
    first.start()
    assert began.wait(PATIENCE)
    with pytest.raises(OperationInProgressError):
        ops.once("charge", lambda: "second", key="k")
    may_end.set()
    first.join()
    assert results == ["first"]
    assert ops.once("charge", lambda: "third", key="k") == "first"


def test_a_process_that_was_suspended_claims_again(ops, monkeypatch):
    """Between the claim and the function, more time passed than the claim is in progress for."""
    times = iter([0.0, 61.0, 61.0, 62.0])
    monkeypatch.setattr("langgraph_gcs_saver.saver.operations.time.monotonic", lambda: next(times))
    assert ops.once("charge", lambda: 1, key="k") == 1
    assert list(times) == []


# Leases


def take(saver, thread_id="thread-1"):
    """A lease of the thread, without what keeps it alive."""
    name, context = keys.fence_doc(thread_id), saver._context

    def flow():
        doc = (yield from GetDocs((name,))).get(name)
        token = 1 if doc is None else doc.fields["token"] + 1
        nonce = context.new_attempt()
        fields = {"token": token, "nonce": nonce, "owner": "test", "ttl": 60}
        (time,) = yield from Commit((Merge(name, fields),))
        return Fence(thread_id=thread_id, token=token, nonce=nonce, time=time, ttl=60)

    fence = run(flow(), saver._backend)
    context.fences[thread_id, fence.token] = fence
    return fence


def leased(fence):
    return {"configurable": {"thread_id": "thread-1", "__lg_lease": (fence.thread_id, fence.token, fence.nonce)}}


def test_a_lost_lease_starts_nothing(saver, ops, provider):
    first = take(saver)
    assert ops.once("charge", lambda: 1, key="k") == 1
    take(saver)
    del saver._context.fences["thread-1", 2]
    with pytest.raises(OperationFencedError) as caught:
        ops.once("charge", lambda key: provider.charge("card", key), key="other")
    assert isinstance(caught.value, GraphBubbleUp)
    assert first.token == 1
    assert provider.calls() == []


def test_a_claim_of_a_lost_lease_is_unknown_at_once(saver, ops):
    """Without a lease it would be in progress for a minute."""
    take(saver)

    def stolen():
        take(saver)
        with pytest.raises(OutcomeUnknownError):
            ops.once("charge", lambda: "second", key="k")
        return "first"

    # The holder's outcome is recorded, although the lease is lost.
    assert ops.once("charge", stolen, key="k") == "first"
    assert ops.once("charge", lambda: "third", key="k") == "first"


def test_a_lease_that_is_given_up_between_claim_and_function_starts_nothing(provider):
    class GivingUp(CountingInterceptor):
        def around(self, effect, perform):
            result = perform(effect)
            if isinstance(effect, Commit) and any("/lg_operations/" in one.name for one in effect.writes):
                saver._context.fences.clear()
            return result

    with GCSSaver.from_conn_string("memory:", interceptors=[GivingUp()]) as saver:
        take(saver)
        ops = saver.thread("thread-1").operations
        with pytest.raises(OperationFencedError):
            ops.once("charge", lambda: provider.charge("card"), key="k")
        assert provider.calls() == []
        assert ops.once("charge", lambda: 1, key="k") == 1  # the claim was withdrawn


def test_a_late_outcome_does_not_change_the_result_that_was_given(saver, ops):
    take(saver)

    def stolen():
        take(saver)
        ops.resolve("k", result="by hand")
        return "late"

    assert ops.once("charge", stolen, key="k") == ops.once("charge", lambda: 1, key="k") == "by hand"


def test_a_late_outcome_beside_another_attempt_is_unknown(saver, ops):
    take(saver)

    def stolen():
        take(saver)
        with pytest.raises(OSError, match=CRASH):
            ops.once("charge", crash, key="k", mode="at_least_once")
        return "late"

    def crash():
        raise OSError(CRASH)

    with pytest.raises(OutcomeUnknownError):
        ops.once("charge", stolen, key="k")
    assert [one.late for one in ops.unresolved()] == [1]


@pytest.mark.parametrize(
    "lease",
    [("thread-1", 1), ("thread-1", 7, "nonce"), ("thread-1", 1, "another nonce"), ("thread-2", 1, None), "thread-1"],
)
def test_a_config_with_another_lease_starts_nothing(saver, provider, lease):
    """A put says so too, but another checkpointer does not know leases."""
    with saver.thread("thread-1").lease(), saver.thread("thread-2").lease() as other:
        lease = tuple(other.run_id if part is None else part for part in lease) if lease != "thread-1" else lease
        found = lambda: operations(saver=saver)  # noqa: E731
        graph = graph_of(
            InMemorySaver(), lambda state: found().once("charge", lambda: provider.charge("card"), key="k")
        )
        config = {"configurable": {"thread_id": "thread-1", "__lg_lease": lease}}
        with pytest.raises(OperationFencedError, match="does not hold"):
            graph.invoke({"seen": []}, config)
    assert provider.calls() == []


def test_a_node_uses_the_lease_of_its_config(saver, provider):
    fence = take(saver)

    def node(state):
        take(saver)
        return {"seen": [operations().once("charge", lambda: provider.charge("card"), key="k")]}

    with pytest.raises(OperationFencedError):
        graph_of(saver, node).invoke({"seen": []}, leased(fence), durability="exit")
    assert provider.calls() == []


# Derived keys


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_node_that_runs_again_gets_its_results(saver, provider, is_async, durability):
    failures = iter([True, False])

    async def abuy(once):
        found = [await once("charge", lambda: provider.charge("card")) for _ in range(2)]
        if next(failures):
            raise OSError(CRASH)
        return found

    def buy(once):
        found = [once("charge", lambda: provider.charge("card")) for _ in range(2)]
        if next(failures):
            raise OSError(CRASH)
        return found

    graph = graph_of(saver, node_that(abuy if is_async else buy, is_async))
    with pytest.raises(OSError, match=CRASH):
        invoke(graph, {"seen": []}, is_async=is_async, durability=durability)
    found = invoke(graph, None, is_async=is_async, durability=durability)
    assert found["seen"] == [["receipt-1", "receipt-2"]]
    assert len(provider.calls()) == 2


def test_a_node_that_is_retried_gets_its_result(saver, provider):
    failures = iter([True, False])

    def node(state):
        receipt = operations().once("charge", lambda: provider.charge("card"))
        if next(failures):
            raise ConnectionError(CRASH)
        return {"seen": [receipt]}

    graph = StateGraph(State)
    graph.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.0, jitter=False))
    graph.add_edge(START, "node")
    assert graph.compile(checkpointer=saver).invoke({"seen": []}, CONFIG)["seen"] == ["receipt-1"]


def test_a_call_that_is_repeated_because_it_raised_is_the_same_operation(saver, provider):
    def lost():
        provider.charge("card")
        raise TimeoutError(CRASH)

    def node(state):
        with pytest.raises(TimeoutError):
            operations().once("charge", lost)
        operations().once("charge", lost)

    with pytest.raises(OutcomeUnknownError):
        graph_of(saver, node).invoke({"seen": []}, CONFIG)
    assert len(provider.calls()) == 1


def test_each_task_and_each_visit_of_a_node_has_its_own_keys(saver, provider):
    def node(state):
        return {"seen": [operations().once("charge", lambda: provider.charge("card"))]}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_conditional_edges(START, lambda state: [Send("node", state), Send("node", state)])
    app = graph.compile(checkpointer=saver)
    for _ in range(2):
        app.invoke({"seen": []}, CONFIG)
    assert len({one["receipt"] for one in provider.calls()}) == 4


def test_calls_at_the_same_time_need_a_key(saver):
    def node(state):
        found = operations()
        with pytest.raises(InvalidInputError, match="Give each a `key`"):
            found.once("charge", lambda: found.once("charge", lambda: 1))
        return {"seen": [found.once("charge", lambda: found.once("refund", lambda: 1))]}

    # The first call's function raised, so its outcome is unknown.
    with pytest.raises(OutcomeUnknownError):
        graph_of(saver, node).invoke({"seen": []}, CONFIG)


def test_a_call_outside_of_a_run_needs_a_key(saver, ops):
    with pytest.raises(InvalidInputError, match="needs a `key`"):
        ops.once("charge", lambda: 1)
    with pytest.raises(InvalidConfigError, match=r"saver\.thread\(id\)\.operations"):
        operations()
    with pytest.raises(InvalidConfigError, match="not one of a running node"):
        operations(CONFIG)


def test_a_config_that_is_passed_serves_where_there_is_no_context(saver):
    async def node(state, config):
        found = {}
        thread = threading.Thread(target=lambda: found.update(at=operations(config)))  # it has no context
        thread.start()
        thread.join()
        return {"seen": [await found["at"].aonce("charge", lambda: 1)]}

    from langchain_core.runnables import RunnableConfig

    node.__annotations__["config"] = RunnableConfig
    assert invoke(graph_of(saver, node), {"seen": []}, is_async=True)["seen"] == [1]


def test_another_checkpointer_needs_a_saver_and_keys(saver):
    def node(state):
        with pytest.raises(InvalidInputError, match="of type InMemorySaver"):
            operations()
        return {"seen": [operations(saver=saver).once("charge", lambda: 1, key="k")]}

    assert graph_of(InMemorySaver(), node).invoke({"seen": []}, CONFIG)["seen"] == [1]


# The barrier


def test_nothing_starts_without_a_durable_order(saver, provider, is_async):
    """With `durability="exit"`, a killed run would begin again, and derive another key."""

    def buy(once):
        return once("charge", lambda: provider.charge("card"))

    async def abuy(once):
        return await buy(once)

    graph = graph_of(saver, node_that(abuy if is_async else buy, is_async))
    with pytest.raises(NotDurableError, match='durability="exit"'):
        invoke(graph, {"seen": []}, is_async=is_async, durability="exit")
    assert provider.calls() == []
    # The failed run has stored its checkpoint at its end, so the resumed one has a durable order.
    invoke(graph, None, is_async=is_async, durability="exit")
    assert len(provider.calls()) == 1


def test_a_key_of_the_business_needs_no_order(saver, provider):
    graph = graph_of(
        saver, lambda _: {"seen": [operations().once("charge", lambda: provider.charge("card"), key="order-17")]}
    )
    assert graph.invoke({"seen": []}, CONFIG, durability="exit")["seen"] == ["receipt-1"]


@pytest.mark.parametrize("checkpointer", [None, True, False])
def test_subgraphs(saver, provider, checkpointer):
    def node(state):
        return {"seen": [operations().once("charge", lambda: provider.charge("card"))]}

    graph = graph_of(saver, graph_of(checkpointer, node))
    if checkpointer is False:
        with pytest.raises(NotDurableError, match="checkpointer=False"):
            graph.invoke({"seen": []}, CONFIG, durability="async")
        assert provider.calls() == []
    else:
        assert graph.invoke({"seen": []}, CONFIG)["seen"] == ["receipt-1"]


def test_the_order_of_a_subgraph_includes_that_of_its_parent(saver, provider):
    """The parent's checkpoint is lost in a crash, so its task runs again, and orders the subgraph's nodes again."""
    may_put = threading.Event()

    class Held(GCSSaver):
        def put(self, config, checkpoint, metadata, new_versions):
            if metadata["step"] == 0 and not config["configurable"].get("checkpoint_ns"):
                assert may_put.wait(PATIENCE)
            return super().put(config, checkpoint, metadata, new_versions)

    def node(state):
        try:
            return {"seen": [operations().once("charge", lambda: provider.charge("card"))]}
        finally:
            may_put.set()  # the run waits for it at its end

    with Held.from_conn_string("memory:", timeout=0.1) as held:  # clock: how long to wait in vain
        graph = graph_of(held, graph_of(None, node))

        with pytest.raises(NotDurableError, match="was not stored within"):
            graph.invoke({"seen": []}, CONFIG, durability="async")
    assert provider.calls() == []


# Interrupts


def test_an_interrupt_inside_runs_again_when_it_is_answered(saver, provider, is_async):
    def approve():
        answer = interrupt("may I?")
        return f"{answer}: {provider.charge('card')}"

    async def abuy(once):
        return await once("charge", approve)

    graph = graph_of(saver, node_that(abuy if is_async else lambda once: once("charge", approve), is_async))
    assert "__interrupt__" in invoke(graph, {"seen": []}, is_async=is_async)
    assert invoke(graph, Command(resume="yes"), is_async=is_async)["seen"] == ["yes: receipt-1"]
    assert len(provider.calls()) == 1


@pytest.mark.parametrize("verdict", [({"done": "by hand"}, "by hand", 0), ({"not_done": True}, "receipt-1", 1)])
def test_a_person_is_asked_by_an_interrupt(saver, ops, provider, verdict):
    answer, result, performed = verdict
    crashing(ops, "k")
    graph = graph_of(
        saver, lambda _: {"seen": [operations().once("charge", lambda: provider.charge("card"), key="k", ask=True)]}
    )
    (asked,) = graph.invoke({"seen": []}, CONFIG)["__interrupt__"]
    assert (asked.value["operation"], asked.value["key"]) == ("charge", "k")
    assert graph.invoke(Command(resume=answer), CONFIG)["seen"] == [result]
    assert len(provider.calls()) == performed


def test_a_wrong_answer_starts_nothing(saver, ops, provider):
    crashing(ops, "k")
    graph = graph_of(saver, lambda _: operations().once("charge", lambda: provider.charge("card"), key="k", ask=True))
    graph.invoke({"seen": []}, CONFIG)
    with pytest.raises(OutcomeUnknownError, match="neither"):
        graph.invoke(Command(resume="yes"), CONFIG)
    assert provider.calls() == []


def test_an_answer_and_the_function_s_own_interrupt_are_not_mistaken(saver, ops):
    crashing(ops, "k")
    graph = graph_of(
        saver, lambda _: {"seen": [operations().once("charge", lambda: interrupt("pin?"), key="k", ask=True)]}
    )
    graph.invoke({"seen": []}, CONFIG)
    (asked,) = graph.invoke(Command(resume={"not_done": True}), CONFIG)["__interrupt__"]
    assert asked.value == "pin?"
    assert graph.invoke(Command(resume="1234"), CONFIG)["seen"] == ["1234"]


def test_a_subgraph_that_hands_over_to_another_node_is_not_called_twice(saver, provider):
    """Its exception ends the work. An interrupt's lets the function run again."""
    inner = StateGraph(State)
    inner.add_node("inner", lambda state: Command(goto="other", graph=Command.PARENT, update={"seen": ["handed over"]}))
    inner.add_edge(START, "inner")
    called, failures = inner.compile(), iter([True, False])

    def work():
        provider.charge("card")
        return called.invoke({"seen": []})

    def node(state):
        try:
            operations().once("charge", work)
        finally:
            if next(failures):
                raise OSError(CRASH)

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_node("other", lambda state: {"seen": ["other"]})
    graph.add_edge(START, "node")
    app = graph.compile(checkpointer=saver)
    with pytest.raises(OSError, match=CRASH):
        app.invoke({"seen": []}, CONFIG)
    assert app.invoke(None, CONFIG)["seen"] == ["handed over", "other"]
    assert len(provider.calls()) == 1


# Bad input


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"key": 17}, InvalidInputError),
        ({"key": ""}, InvalidInputError),
        ({"key": "\ud800"}, InvalidIdError),
        ({"key": "k", "request": object()}, InvalidInputError),
        ({"key": "k", "scope": "world"}, InvalidInputError),
        ({"key": "k", "mode": "twice"}, InvalidInputError),
        ({"key": "k", "keep": 30}, InvalidInputError),
        ({"key": "k", "keep": timedelta(0)}, InvalidInputError),
        ({"key": "k", "timeout": 0}, InvalidInputError),
        ({"key": "k", "timeout": True}, InvalidInputError),
        ({"key": "k", "errors": [ValueError]}, InvalidOptionError),
        ({"key": "k", "not_sent": (1,)}, InvalidOptionError),
        ({"key": "k", "reconcile": 1}, InvalidOptionError),
        ({"key": "k", "timeout": float("nan")}, InvalidOptionError),
        ({"key": "k", "timeout": float("inf")}, InvalidOptionError),
        ({"key": "k", "timeout": "60"}, InvalidOptionError),
        ({"key": "k", "ask": "no"}, InvalidInputError),
    ],
)
def test_bad_options_start_nothing(saver, ops, provider, options, kind):
    with pytest.raises(kind):
        ops.once("charge", lambda: provider.charge("card"), **options)
    assert provider.calls() == []
    assert run(GetDocs((keys.operation_doc("thread-1", "k"),)).__iter__(), saver._backend) == {}


@pytest.mark.parametrize("function", [None, lambda a, b: 1, _coroutine])
def test_functions_that_cannot_be_called(ops, function):
    with pytest.raises(InvalidInputError):
        ops.once("charge", function, key="k")
    assert ops.unresolved() == []


@pytest.mark.parametrize("name", ["", 3])
def test_names_are_text(ops, name):
    with pytest.raises(InvalidInputError):
        ops.once(name, lambda: 1, key="k")


def test_cancellation_leaves_an_unknown_outcome(ops):
    async def main():
        began = asyncio.Event()

        async def forever():
            began.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(ops.aonce("charge", forever, key="k"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [one.state for one in ops.unresolved()] == ["unknown"]


# Requests that fail, before the function begins and after it has ended


class Failing(CountingInterceptor):
    """Fails the first commits from now on, which may still be applied."""

    def __init__(self):
        super().__init__()
        self.times = 0
        self.applies = False
        self.error = StoreUnavailableError

    def around(self, effect, perform):
        if self.times and isinstance(effect, Commit):
            self.times -= 1
            if self.applies:
                perform(effect)
            raise self.error("no answer")
        return perform(effect)


@pytest.fixture
def failing():
    return Failing()


@pytest.fixture
def failing_ops(failing):
    with GCSSaver.from_conn_string("memory:", interceptors=[failing], timeout=PATIENCE) as saver:
        ops = saver.thread("thread-1").operations
        ops.once("charge", lambda: 0, key="first")
        yield ops


@pytest.mark.parametrize("error", [StoreUnavailableError, KeyboardInterrupt])
def test_a_claim_whose_commit_is_cut_off_is_withdrawn(failing, failing_ops, error):
    failing.times, failing.applies, failing.error = 1, True, error
    with pytest.raises(error):
        failing_ops.once("charge", lambda: 1, key="k")
    assert failing_ops.once("charge", lambda: 2, key="k") == 2


def test_an_error_about_an_existing_operation_bubbles(failing, failing_ops):
    crashing(failing_ops, "k")
    failing.times = 1
    with pytest.raises(OutcomeUnknownError, match="no answer"):
        failing_ops.once("charge", lambda: 1, key="k", mode="at_least_once")


def test_a_failed_record_loses_neither_the_exception_nor_the_result(failing, failing_ops):
    def not_sent():
        failing.times = 1
        raise LookupError(CRASH)

    with pytest.raises(LookupError, match=CRASH):
        failing_ops.once("charge", not_sent, key="a", not_sent=(LookupError,))

    def charge():
        failing.times = 1
        return "receipt"

    with pytest.raises(OutcomeUnknownError) as caught:
        failing_ops.once("charge", charge, key="b")
    assert caught.value.performed() == "receipt"


def test_a_bound_key_stays():
    with GCSSaver.from_conn_string("memory:") as saver:
        bound = partial(lambda key: key, key="mine")
        assert saver.thread("t").operations.once("charge", bound, key="k") == "mine"


class Misreads(Interceptor):
    """Reads the first object otherwise than it was written."""

    number = 0

    def around(self, effect, perform):
        found = perform(effect)
        if isinstance(effect, HashBlob):
            self.number += 1
            return "0" * 64 if self.number == 1 else found
        return found


def test_a_result_that_reads_back_otherwise_is_reported_and_written_again():
    events, large = [], "x" * (1 << 20)
    with GCSSaver.from_conn_string(
        "memory:", interceptors=[Misreads()], on_event=events.append, zstd_level=None
    ) as saver:
        operations = saver.thread("t").operations
        assert operations.once("charge", lambda: large, key="order-17") == large
        assert operations.once("charge", lambda: "again", key="order-17") == large
    assert [(one.thread_id, one.attempt) for one in events if isinstance(one, VerificationFailed)] == [("t", 1)]
