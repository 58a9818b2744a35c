"""Each alert's cause, in real runs: exactly that alert fires. In a clean run none does."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, cadence, compensation, monitoring
from langgraph_gcs_saver.cadence import objective as rates
from langgraph_gcs_saver.engine.effects import Commit, HashBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import SagaStuckError, StoreUnavailableError
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.monitoring.alerts import alerts
from langgraph_gcs_saver.monitoring.promql import dialect
from langgraph_gcs_saver.testing.interceptors import LatencyInterceptor
from tests.monitoring.promtool import PromtoolError, assert_firing
from tests.monitoring.series import Recording
from tests.patience import Clock, eventually
from tests.system.build import noise
from tests.system.raw import open_raw

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

DAY = 24 * 60
UNDO = "undo for test_alerts"

HOLDS = 5
"""Minutes for which an alert may have to hold."""


class State(TypedDict, total=False):
    left: int
    log: Annotated[list[str], operator.add]
    large: str


def step(state: State) -> State:
    return {"left": state["left"] - 1, "log": [f"step {state['left']}"], "large": state.get("large", "")[::-1]}


def graph_of(saver: GCSSaver, node: Callable[[State], State] = step) -> Any:
    graph = StateGraph(State)
    graph.add_node("step", node)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["left"] > 0 else END, ["step", END])
    return graph.compile(checkpointer=saver)


def config_of(thread: str, most: int = 100) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": most}


class Case:
    """Savers that are measured, on one store, and the alerts that fire by what they measure."""

    def __init__(self, uri: str, folder: Path, stack: ExitStack) -> None:
        self.uri = uri
        self.recording = Recording()
        self._folder = folder
        self._stack = stack

    def saver(self, *, uri: str | None = None, watch_store: timedelta | None = None, **options: Any) -> GCSSaver:
        """A saver that is measured."""
        saver = self._stack.enter_context(GCSSaver.from_conn_string(uri or self.uri, **options))
        return self.recording.watch(saver, watch_store)

    def run(self, saver: GCSSaver, thread: str = "t", steps: int = 3, large: str = "") -> None:
        """Run a graph."""
        graph_of(saver).invoke({"left": steps, "large": large}, config_of(thread, steps + 5), durability="sync")

    def assert_firing(self, *names: str, minutes: int, interval: int = 1, every: str = "1m", **bounds: float) -> None:
        """Assert that exactly these alerts fire at a minute, by the names of Prometheus and by those of OTLP."""
        series = self.recording.series(minutes, interval)
        for spoken in map(dialect, monitoring.NAMES):
            every_alert = alerts(monitoring.Bounds(**bounds), spoken)
            assert set(names) <= {one.name for one in every_alert}
            asked = " ".join(one.expression for one in every_alert)
            assert_firing(
                names,
                every_alert,
                {
                    one.written(spoken.names): values
                    for one, values in series.items()
                    if getattr(one, spoken.names) in asked
                },
                minutes=minutes,
                interval=f"{interval}m",
                every=every,
                folder=self._folder,
            )

    def value(self, name: str, **labels: str) -> float:
        """What a gauge measures now; 0 if it measures nothing."""
        return sum(
            value
            for series, value in self.recording.now().items()
            if series.otlp == name and all(f'{label}="{one}"' in series.labels for label, one in labels.items())
        )


@pytest.fixture
def case(store_uri: str, tmp_path: Path) -> Iterator[Case]:
    with ExitStack() as stack:
        yield Case(store_uri, tmp_path, stack)


def check_clean(case: Case, steps: int) -> None:
    """Run many steps under a lease, look at the thread, and find nothing; no alert fires meanwhile."""
    saver = case.saver(objective=cadence.RTO(minutes=5), labels=("agent",))
    graph, left = graph_of(saver), 10
    case.recording.at(0)
    for minute in range(1, left + 1):
        with saver.thread("t").lease() as lease:
            config = {**config_of("t", steps), **lease.config}
            graph.invoke({"left": steps // left}, config, durability="sync")
            case.recording.at(3 * minute)
    assert len(graph.get_state(config_of("t")).values["log"]) == steps
    assert list(saver.admin.verify("t", depth="data")) == []
    case.recording.at(3 * left + 3)
    for minutes in (4, 17, 3 * left + 3 + HOLDS):
        case.assert_firing(minutes=minutes)


def test_a_clean_run(case):
    check_clean(case, 300)


@pytest.mark.soak
def test_a_long_clean_run(case):
    check_clean(case, 10_000)


class Failing(Interceptor):
    """A store that is down while `is_down`."""

    is_down = False

    def around(self, effect: Any, perform: Any) -> Any:
        if self.is_down and isinstance(effect, Commit):
            raise StoreUnavailableError("The service did not answer.")
        return perform(effect)


def test_failures(case):
    failing = Failing()
    saver = case.saver(interceptors=[failing])
    case.run(saver, steps=18)
    case.recording.at(1)
    case.assert_firing(minutes=3)
    failing.is_down = True
    for thread in range(3):
        with pytest.raises(StoreUnavailableError):
            case.run(saver, f"down {thread}")
    case.recording.at(5)
    case.assert_firing("failures", minutes=7)


def test_few_failures_of_few_calls_are_no_alert(case):
    failing = Failing()
    failing.is_down = True
    with pytest.raises(StoreUnavailableError):
        case.run(case.saver(interceptors=[failing]))
    case.recording.at(1)
    case.assert_firing(minutes=3)


def check_growth(case: Case, *weeks: str) -> None:
    """Begin some threads a week, whose states have a size."""
    saver = case.saver()
    for week, large in enumerate(weeks):
        for thread in range(21):
            case.run(saver, f"{week} {thread}", steps=1, large=large)
        case.recording.at(week * 7 * DAY + 60)


def test_growth(case):
    check_growth(case, "", noise(3_000))
    case.assert_firing("growth", minutes=8 * DAY, interval=5, every="1d")


def test_the_same_again_is_no_growth(case):
    check_growth(case, "", "")
    case.assert_firing(minutes=8 * DAY, interval=5, every="1d")


def test_restore(case, monkeypatch):
    monkeypatch.setattr(rates, "ROUND_SECONDS", 0.01)  # or no saver could promise the objective
    case.run(case.saver())
    case.recording.at(1)
    case.assert_firing(minutes=3)
    objective = cadence.RTO(seconds=0.04, state_bytes=0)
    slow = case.saver(objective=objective, interceptors=[LatencyInterceptor({"QueryDocs": 0.05})])
    graph_of(slow).get_state(config_of("t"))
    case.recording.at(5)
    case.assert_firing("restore", minutes=7)


def test_cost(case):
    case.run(case.saver(), steps=20)
    case.recording.at(1)
    case.assert_firing(minutes=3)
    case.assert_firing("cost", minutes=3, budget=0.000_1)


def test_lag(case):
    slow = case.saver(interceptors=[LatencyInterceptor({"Commit": 0.05})])
    case.run(slow)
    case.recording.at(1)
    case.assert_firing(minutes=3 + HOLDS)
    case.assert_firing(minutes=3, lag=0.025)  # not for long enough
    case.assert_firing("lag", minutes=3 + HOLDS, lag=0.025)


def test_no_progress(case):
    saver = case.saver()
    began, may_end = threading.Event(), threading.Event()

    def hang(state: State) -> State:
        began.set()
        eventually(may_end.is_set)
        return step(state)

    def work() -> None:
        with saver.thread("t").lease() as lease:
            graph_of(saver, hang).invoke({"left": 1}, {**config_of("t"), **lease.config}, durability="sync")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        eventually(began.is_set)
        eventually(lambda: case.value("langgraph_gcs.lease.idle") > 0.2)
        case.recording.at(1)
        case.assert_firing(minutes=3)
        case.assert_firing("stalled", minutes=3, stalled=0.1)
    finally:
        may_end.set()
        thread.join()
    case.recording.at(5)
    case.assert_firing(minutes=7, stalled=0.1)


def damage(uri: str, saver: GCSSaver) -> None:
    """Flip a byte of the newest checkpoint's object."""
    raw = open_raw(uri)
    before = raw.objects()
    graph_of(saver).invoke({"left": 1, "large": noise(9_000)}, config_of("t"), durability="sync")
    for name, data in raw.objects().items():
        if name not in before:
            raw.set_object(name, data[:-1] + bytes([data[-1] ^ 1]))


def test_damage(case):
    saver = case.saver(inline_max_bytes=0)
    case.run(saver)
    case.recording.at(1)
    case.assert_firing(minutes=3)
    damage(case.uri, saver)
    reader = case.saver()
    graph_of(reader).get_state(config_of("t"))
    case.recording.at(5)
    case.assert_firing("damage", minutes=7)


class Misreads(Interceptor):
    """Reads the first object back otherwise than it was written."""

    has_misread = False

    def around(self, effect: Any, perform: Any) -> Any:
        found = perform(effect)
        if isinstance(effect, HashBlob) and not self.has_misread:
            self.has_misread = True
            return "0" * 64
        return found


def test_data_that_reads_back_otherwise_is_damage(case):
    misreads = Misreads()
    case.run(case.saver(interceptors=[misreads], inline_max_bytes=0))
    assert misreads.has_misread
    case.recording.at(1)
    case.assert_firing("damage", minutes=3)


def test_a_finding_is_damage(case):
    saver = case.saver(inline_max_bytes=0)
    damage(case.uri, saver)
    case.recording.at(1)
    assert list(case.saver().admin.verify("t", depth="data"))
    case.recording.at(5)
    case.assert_firing("damage", minutes=7)


def crash(case: Case) -> None:
    """Acquire a lease, and never release it."""
    case.saver().thread("t").lease().__enter__()


def test_leases_that_are_taken_over(case):
    crash(case)
    case.recording.at(1)
    case.assert_firing(minutes=3)
    saver = case.saver(interceptors=[Clock()])
    with saver.thread("t").lease(wait=200) as lease:
        graph_of(saver).invoke({"left": 2}, {**config_of("t"), **lease.config}, durability="sync")
        # The record of the recovery is written in the background.
        eventually(lambda: case.value("langgraph_gcs.recovery.restore_count") == 1)
    case.recording.at(5)
    case.assert_firing("expired", minutes=7)
    case.assert_firing("expired", "restore", minutes=7, objective=0.000_001)  # a recovery takes longer


def test_leases_that_have_expired(case, monkeypatch):
    crash(case)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + int(100e9))  # the clock of the embedded store
    case.saver(watch_store=timedelta(hours=1))
    eventually(lambda: case.value("langgraph_gcs.leases", state="expired") == 1)
    case.recording.at(1)
    case.assert_firing("expired", minutes=3)


@compensation(UNDO, attempts=1)
def refuse(request: Any, result: Any, key: str) -> None:
    """Undoes nothing."""
    raise ConnectionError


def test_a_rollback_that_is_stuck(case):
    saver = case.saver()
    case.run(saver)
    saga = saver.thread("t").saga("trip-7")
    saga.once("book", lambda: "hotel", irreversible=True)
    saga.savepoint("booked")
    saga.once("pay", lambda: "paid", undo=UNDO)
    saga.finish()
    case.recording.at(1)
    case.assert_firing(minutes=3)
    with pytest.raises(SagaStuckError):
        saga.rollback("booked")
    case.recording.at(5)
    case.assert_firing("stuck", minutes=7)
    saga.resolve("pay", result=None)
    assert saga.resume().state == "running"
    case.recording.at(70)
    case.assert_firing(minutes=72)


def test_a_replica_that_is_behind(case):
    """It has everything until the follower hangs, and then the time since the mark grows."""
    saver, replica = case.saver(), case.saver(uri=f"{case.uri}-replica")
    saver.admin.replicate(replica)
    case.run(saver)
    followed = iter(saver.admin.follow(replica))
    assert next(followed).threads == 1
    case.recording.at(1)
    case.assert_firing(minutes=3)
    case.run(saver)
    eventually(lambda: case.value("langgraph_gcs.replication.lag") > 0.2)
    case.recording.at(5)
    case.assert_firing("behind", minutes=7, behind=0.1)
    next(followed)
    case.recording.at(9)
    case.assert_firing(minutes=11)


def test_replication_that_has_stopped(case):
    """The follower is killed. What it measured ends, so nothing is behind that could be seen."""
    saver, replica = case.saver(), case.saver(uri=f"{case.uri}-replica")
    saver.admin.replicate(replica)
    followed = iter(saver.admin.follow(replica))
    next(followed)
    case.recording.at(1)
    case.recording.ended(5)
    case.assert_firing(minutes=13)  # a restart takes no longer
    case.assert_firing("unfollowed", minutes=17)
    case.recording.at(20)
    case.assert_firing(minutes=22)
    case.recording.ended(25)
    case.assert_firing(minutes=25 + DAY + 10)


def test_reads_from_a_mirror(case):
    saver = case.saver()
    case.recording.at(1)
    case.assert_firing(minutes=3)
    saver._subscribers.emit(ReadFromMirror(name="an object", reason="unavailable"))
    case.recording.at(5)
    case.assert_firing("mirror", minutes=7)


def test_another_alert_than_the_expected_one_is_noticed(case):
    """These tests can fail."""
    case.run(case.saver(), steps=20)
    case.recording.at(1)
    for expected in ((), ("cost", "lag"), ("damage",)):
        with pytest.raises(PromtoolError, match="FAILED"):
            case.assert_firing(*expected, minutes=3, budget=0.000_1)
