"""The measuring of one saver: an interceptor and a sink of events that note what happens, to be recorded later.

OpenTelemetry's SDK needs several microseconds to record a value, and a put has a dozen values. So a call only notes its
event and its requests. They are recorded when metrics are collected, on the thread that does so.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider, get_tracer_provider

from langgraph_gcs_saver.engine.effects import REQUESTS, Compute, Effect
from langgraph_gcs_saver.engine.interceptors import (
    APerform,
    APerformAll,
    GatherInterceptor,
    Interceptor,
    Perform,
    PerformAll,
)
from langgraph_gcs_saver.engine.per_process import AtFork
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import (
    CallEnded,
    CheckpointSaved,
    Event,
    LeaseAcquired,
    LeaseEnded,
    Replicated,
    ReplicationFailed,
    Subscribers,
)
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.connection import Connection, beside
from langgraph_gcs_saver.telemetry.billing import NOTHING, RULES, Bill
from langgraph_gcs_saver.telemetry.instruments import SCOPE, VERSION, Instruments, instruments_of
from langgraph_gcs_saver.telemetry.measures import Measured, Measures, of_request
from langgraph_gcs_saver.telemetry.metrics import LEASE_IDLE, LEASES_HELD, REPLICATION_LAG, Metric
from langgraph_gcs_saver.telemetry.phases import Step, Steps
from langgraph_gcs_saver.telemetry.spans import Spans
from langgraph_gcs_saver.telemetry.watching import StoreWatch

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from typing_extensions import Self

T = TypeVar("T")

MOST_EVENTS, MOST_REQUESTS = 4_000, 20_000
"""What waits for a collection, at most. With more, each call records the oldest one, as if there were no queue.

An event that waits keeps the locations of its checkpoint's values. A put makes four or five requests.
"""

_RECORDED_AT_ONCE = 500
"""How many are recorded between two looks at the clock."""

_TIMED = frozenset((*REQUESTS, Compute))


class Observing:
    """Notes what one saver does, and records it later. It is a sink of events.

    There is no lock, because each operation on a deque and a dict is atomic. A forked child begins with nothing.

    Args:
        instruments: Where it is recorded.
        spans: Makes spans; `None` for none.
        watch: Counts the leases and runs of the store; `None` for none.

    Attributes:
        events: Events that are not recorded yet, oldest first, with the context of their span if that is recorded.
        requests: Requests that are not recorded yet: the class of each, and what it is billed for.
        held: For each thread whose lease this process holds, its token and when its last step was durable, by the
            monotonic clock.
        marked: When the replica's mark was now, by the monotonic clock; `None` if this process does not move it.
    """

    def __init__(self, instruments: Instruments, spans: Spans | None, watch: StoreWatch | None) -> None:
        self._instruments = instruments
        self._spans = spans
        self._watch = watch
        self._measures = Measures()
        self.events: deque[tuple[Event, Context | None]] = deque()
        self.requests: deque[tuple[type[Effect[Any]], Bill]] = deque()
        self.held: dict[str, tuple[int, float]] = {}
        self.marked: float | None = None
        _observing.add(self)

    def forget(self) -> None:
        """Begin with nothing, as a forked child does: its parent records what it has noted, and holds its leases."""
        self.events.clear()
        self.requests.clear()
        self.held.clear()
        self.marked = None

    # A sink

    def attach(self, saver: Any) -> Callable[[Event], object]:  # noqa: ARG002 - a sink's signature
        """The handler of events."""
        return self.note

    def flush(self, timeout: float) -> bool:
        """Record what has happened."""
        return self.drain(time.monotonic() + timeout)

    # What happens

    def note(self, event: Event) -> None:
        """Note an event."""
        context = None
        try:
            if self._spans is not None and isinstance(event, CallEnded):
                context = self._spans.end(event)
        finally:  # The application's samplers and processors of spans may raise, and metrics do not need them.
            self._note(event, context)

    def _note(self, event: Event, context: Context | None) -> None:
        held = self.held
        if isinstance(event, CheckpointSaved):
            if held and (lease := held.get(event.thread_id)) is not None:
                held[event.thread_id] = (lease[0], time.monotonic())
        elif isinstance(event, LeaseAcquired):
            held[event.thread_id] = (event.token, time.monotonic())
        elif isinstance(event, LeaseEnded) and held.get(event.thread_id, (None,))[0] == event.token:
            held.pop(event.thread_id, None)
        elif isinstance(event, (Replicated, ReplicationFailed)) and event.lag is not None:
            self.marked = time.monotonic() - event.lag
        self.events.append((event, context))
        if len(self.events) > MOST_EVENTS:
            self._record_events(1)

    # What a collection of metrics needs

    def drain(self, until: float) -> bool:
        """Record what has happened, until a time by the monotonic clock. Returns whether everything was recorded."""
        for waiting, record in ((self.events, self._record_events), (self.requests, self.record_requests)):
            while waiting and time.monotonic() < until:
                record(_RECORDED_AT_ONCE)
        return not (self.events or self.requests)

    def gauges(self) -> Iterator[Measured]:
        """The present values of gauges."""
        held, marked, now = tuple(self.held.values()), self.marked, time.monotonic()
        yield LEASES_HELD, len(held), {}
        yield LEASE_IDLE, max([now - last for _, last in held], default=0.0), {}
        if marked is not None:
            yield REPLICATION_LAG, now - marked, {}
        if self._watch is not None:
            for (metric, state), count in self._watch.counts.items():
                yield metric, count, {"state": state}

    def end(self) -> None:
        """Record everything, and look at the store no more."""
        self.drain(float("inf"))
        self._instruments.remove(self)
        if self._watch is not None:
            self._watch.end()

    def _record_events(self, most: int) -> None:
        """Record the oldest events. A counter gets one value for all of them."""
        sums: defaultdict[tuple[Metric, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        for event, context in _taken(self.events, most):
            for metric, value, attributes in self._measures.of(event):
                if metric.kind == "counter":
                    sums[metric, tuple(attributes.items())] += value
                else:
                    self._instruments.record(metric, value, attributes, context)
        for (metric, items), value in sums.items():
            self._instruments.add(metric, value, dict(items))

    def record_requests(self, most: int) -> None:
        """Record so many of the oldest requests, equal ones together."""
        for (kind, bill), count in Counter(_taken(self.requests, most)).items():
            for metric, value, attributes in of_request(kind, bill):
                self._instruments.add(metric, count * value, attributes)


def _taken(waiting: deque[T], most: int) -> Iterator[T]:
    """The oldest ones, which are no longer waiting."""
    try:
        for _ in range(most):
            yield waiting.popleft()
    except IndexError:  # there are fewer, or another thread records, too
        return


_observing: AtFork[Observing] = AtFork(after_in_child=Observing.forget)


class Counting(Interceptor):
    """Notes requests."""

    def __init__(self, observing: Observing) -> None:
        self._observing = observing
        self._requests = observing.requests

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect, and note it if it is a request."""
        kind = type(effect)
        if kind not in RULES:
            return perform(effect)
        bill = NOTHING
        try:
            answer = perform(effect)
            bill = RULES[kind](effect, answer)
        finally:
            self._requests.append((kind, bill))
            if len(self._requests) > MOST_REQUESTS:
                self._observing.record_requests(1)
        return answer

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Perform one effect, and note it if it is a request."""
        kind = type(effect)
        if kind not in RULES:
            return await perform(effect)
        bill = NOTHING
        try:
            answer = await perform(effect)
            bill = RULES[kind](effect, answer)
        finally:
            self._requests.append((kind, bill))
            if len(self._requests) > MOST_REQUESTS:
                self._observing.record_requests(1)
        return answer


class Timing(GatherInterceptor):
    """Notes when each effect began and ended."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect, and note when."""
        if type(effect) not in _TIMED:
            return perform(effect)
        begin, answer = time.perf_counter(), None
        try:
            answer = perform(effect)
        finally:
            self._steps.note(Step((type(effect),), begin, time.perf_counter(), answer is not None))
        return answer

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Perform one effect, and note when."""
        if type(effect) not in _TIMED:
            return await perform(effect)
        begin, answer = time.perf_counter(), None
        try:
            answer = await perform(effect)
        finally:
            self._steps.note_in_task(Step((type(effect),), begin, time.perf_counter(), answer is not None))
        return answer

    def around_all(self, effects: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Perform effects at the same time, and note them as one step of the call."""
        begin = time.perf_counter()
        try:
            return perform(effects)
        finally:
            self._steps.note(_together(effects, begin))

    async def aaround_all(self, effects: Sequence[Effect[Any]], perform: APerformAll) -> Sequence[Any]:
        """Perform effects at the same time, and note them as one step of the call."""
        begin = time.perf_counter()
        try:
            return await perform(effects)
        finally:
            self._steps.note_in_task(_together(effects, begin))


def _together(effects: Sequence[Effect[Any]], begin: float) -> Step:
    return Step(tuple([type(effect) for effect in effects]), begin, time.perf_counter(), is_answered=True)


class Instrumentation:
    """The measuring of a saver, until `end` or the end of a `with` block.

    It also ends with the saver: `close` records what is left.
    """

    def __init__(self, ends: Sequence[Callable[[], object]]) -> None:
        self._ends = list(ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Measure the saver no more. What has happened so far is recorded. Idempotent."""
        while self._ends:
            self._ends.pop(0)()


_measured: WeakSet[Subscribers] = WeakSet()
"""One for each store that is measured. A saver, its copies and its `admin` share it."""


def begin(
    saver: Connection,
    meter_provider: MeterProvider | None,
    tracer_provider: TracerProvider | None,
    watch_store: timedelta | None,
    *,
    thread_ids: bool,
) -> Instrumentation:
    """Measure a saver; see `langgraph_gcs_saver.telemetry.instrument`."""
    if not isinstance(saver, Connection):
        raise InvalidInputError(f"saver is of type {type(saver).__name__}; it must be a GCSSaver or an Admin.")
    if watch_store is not None and (not isinstance(watch_store, timedelta) or watch_store <= timedelta()):
        raise InvalidInputError(f"watch_store is {watch_store!r}; it must be a positive timedelta, or None.")
    subscribers, backend = saver._subscribers, saver._backend  # noqa: SLF001 - a feature of this package
    if subscribers in _measured:
        raise InvalidInputError(
            "This saver is measured already, and each call would count twice. The savers that share its store are "
            "measured with it. To change the arguments, first call `end` on what `instrument` returned."
        )
    instruments = instruments_of(meter_provider or get_meter_provider())
    traces = tracer_provider or get_tracer_provider()
    steps = None if isinstance(traces, NoOpTracerProvider) else Steps()
    spans = None if steps is None else Spans(traces.get_tracer(SCOPE, VERSION), steps, thread_ids=thread_ids)
    watch = None if watch_store is None else StoreWatch(beside(saver, Admin), watch_store.total_seconds())
    observing = Observing(instruments, spans, watch)
    instruments.observe(observing)
    _measured.add(subscribers)
    ends = (
        backend.intercept(Counting(observing)),
        *(() if steps is None else (backend.intercept(Timing(steps)),)),
        saver.subscribe(observing),
        observing.end,
        lambda: _measured.discard(subscribers),
    )
    return Instrumentation(ends)
