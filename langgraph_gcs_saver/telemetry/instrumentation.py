"""The measuring of one saver: an interceptor and a sink of events that note what happens, to be recorded later.

OpenTelemetry's SDK needs several microseconds to record a value, and a put has a dozen values. So a call only notes its
event and its requests. They are recorded when metrics are collected, on the thread that does so.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider, get_tracer_provider

from langgraph_gcs_saver.engine import effects
from langgraph_gcs_saver.engine.effects import Effect, Emit, Now, Pause
from langgraph_gcs_saver.engine.interceptors import (
    APerform,
    APerformAll,
    GatherInterceptor,
    Perform,
    PerformAll,
)
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import CallEnded, CheckpointSaved, Event, LeaseAcquired, LeaseEnded, Subscribers
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.connection import Connection, beside
from langgraph_gcs_saver.telemetry.billing import Bill, billed, dollars
from langgraph_gcs_saver.telemetry.instruments import SCOPE, VERSION, Instruments, instruments_of
from langgraph_gcs_saver.telemetry.measures import SERVICES, Measured, Measures
from langgraph_gcs_saver.telemetry.metrics import COST_ESTIMATED, LEASE_IDLE, LEASES_HELD, REQUESTS, Metric
from langgraph_gcs_saver.telemetry.phases import Step, Steps
from langgraph_gcs_saver.telemetry.spans import Spans
from langgraph_gcs_saver.telemetry.watching import StoreWatch

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from typing_extensions import Self

MOST_PENDING = 20_000
"""What waits for a collection, at most. With more, each call records the oldest one, as if there were no queue."""

_RECORDED_AT_ONCE = 500
"""How many are recorded between two looks at the clock."""

_SILENT = frozenset((Now, Emit, Pause))
_REQUESTS = frozenset(effects.REQUESTS)


class _Ended(NamedTuple):
    """An event, and the context of its span if that is recorded."""

    event: Event
    context: Context | None


class _Requested(NamedTuple):
    """A request that has ended: the name of its class, and what it is billed for."""

    kind: str
    bill: Bill


class _Process:
    """What has happened in one process.

    Attributes:
        pending: What is not recorded yet, oldest first.
        held: For each thread whose lease this process holds, its token and when its last step was durable, by the
            monotonic clock.
    """

    def __init__(self) -> None:
        self.pending: deque[_Ended | _Requested] = deque()
        self.held: dict[str, tuple[int, float]] = {}


class Observing:
    """Notes what one saver does, and records it later. It is a sink of events.

    There is no lock, because each operation on a deque and a dict is atomic. A forked child begins with nothing.

    Args:
        instruments: Where it is recorded.
        spans: Makes spans; `None` for none.
        watch: Counts the leases and runs of the store; `None` for none.
    """

    def __init__(self, instruments: Instruments, spans: Spans | None, watch: StoreWatch | None) -> None:
        self._instruments = instruments
        self._spans = spans
        self._watch = watch
        self._measures = Measures()
        self._processes = PerProcess(_Process)

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
        process, context = self._processes.get(), None
        if isinstance(event, CallEnded):
            if self._spans is not None:
                context = self._spans.end(event)
            if isinstance(event, CheckpointSaved) and (held := process.held.get(event.thread_id)) is not None:
                process.held[event.thread_id] = (held[0], time.monotonic())
        elif isinstance(event, LeaseAcquired):
            process.held[event.thread_id] = (event.token, time.monotonic())
        elif isinstance(event, LeaseEnded) and process.held.get(event.thread_id, (None,))[0] == event.token:
            process.held.pop(event.thread_id, None)
        self._add(process, _Ended(event, context))

    def note_request(self, kind: type[Effect[Any]], bill: Bill) -> None:
        """Note a request that has ended."""
        self._add(self._processes.get(), _Requested(kind.__name__, bill))

    def _add(self, process: _Process, one: _Ended | _Requested) -> None:
        process.pending.append(one)
        if len(process.pending) > MOST_PENDING:
            self._record(process, 1)

    # What a collection of metrics needs

    def drain(self, until: float) -> bool:
        """Record what has happened, until a time by the monotonic clock. Returns whether everything was recorded."""
        process = self._processes.peek()
        while process is not None and process.pending and time.monotonic() < until:
            self._record(process, _RECORDED_AT_ONCE)
        return process is None or not process.pending

    def gauges(self) -> Iterator[Measured]:
        """The present values of gauges."""
        process = self._processes.peek()
        held = () if process is None else tuple(process.held.values())
        now = time.monotonic()
        yield LEASES_HELD, len(held), {}
        yield LEASE_IDLE, max((now - last for _, last in held), default=0.0), {}
        if self._watch is not None:
            for (metric, state), count in self._watch.counts.items():
                yield metric, count, {"state": state}

    def end(self) -> None:
        """Record everything, and look at the store no more."""
        self.drain(float("inf"))
        self._instruments.remove(self)
        if self._watch is not None:
            self._watch.end()

    def _record(self, process: _Process, most: int) -> None:
        """Record the oldest ones. A counter gets one value for all of them."""
        sums: defaultdict[tuple[Metric, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        for _ in range(most):
            try:
                one = process.pending.popleft()
            except IndexError:  # another thread records, too
                break
            context = one.context if isinstance(one, _Ended) else None
            for metric, value, attributes in self._measured(one):
                if metric.kind == "counter":
                    sums[metric, tuple(attributes.items())] += value
                else:
                    self._instruments.record(metric, value, attributes, context)
        for (metric, items), value in sums.items():
            self._instruments.add(metric, value, dict(items))

    def _measured(self, one: _Ended | _Requested) -> Iterable[Measured]:
        if isinstance(one, _Ended):
            return self._measures.of(one.event)
        service = {"service": SERVICES[one.kind]}
        requested = (REQUESTS, 1, {**service, "method": one.kind})
        return (requested, (COST_ESTIMATED, dollars(one.bill), service)) if one.bill else (requested,)


class Timing(GatherInterceptor):
    """Notes requests, and for spans when each effect began and ended.

    Args:
        observing: Gets the requests.
        steps: Gets the times; `None` if there are no spans.
    """

    def __init__(self, observing: Observing, steps: Steps | None) -> None:
        self._observing = observing
        self._steps = steps

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect, and note it."""
        kind = type(effect)
        if kind in _SILENT or (self._steps is None and kind not in _REQUESTS):
            return perform(effect)
        begin, answer = time.perf_counter(), None
        try:
            answer = perform(effect)
        finally:
            self._note_request(effect, answer)
            if self._steps is not None:
                self._steps.note(Step((kind,), begin, time.perf_counter(), answer is not None))
        return answer

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Perform one effect, and note it."""
        kind = type(effect)
        if kind in _SILENT or (self._steps is None and kind not in _REQUESTS):
            return await perform(effect)
        begin, answer = time.perf_counter(), None
        try:
            answer = await perform(effect)
        finally:
            self._note_request(effect, answer)
            if self._steps is not None:
                self._steps.note_in_task(Step((kind,), begin, time.perf_counter(), answer is not None))
        return answer

    def around_all(self, group: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Perform effects at the same time, and note them as one step of the call."""
        if self._steps is None:
            return perform(group)
        begin = time.perf_counter()
        try:
            return perform(group)
        finally:
            self._steps.note(_together(group, begin))

    async def aaround_all(self, group: Sequence[Effect[Any]], perform: APerformAll) -> Sequence[Any]:
        """Perform effects at the same time, and note them as one step of the call."""
        if self._steps is None:
            return await perform(group)
        begin = time.perf_counter()
        try:
            return await perform(group)
        finally:
            self._steps.note_in_task(_together(group, begin))

    def _note_request(self, effect: Effect[Any], answer: Any) -> None:
        if type(effect) in _REQUESTS:
            # A request that failed may not be billed.
            self._observing.note_request(type(effect), billed(effect, answer))


def _together(group: Sequence[Effect[Any]], begin: float) -> Step:
    return Step(tuple([type(effect) for effect in group]), begin, time.perf_counter(), is_answered=True)


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
        backend.intercept(Timing(observing, steps)),
        saver.subscribe(observing),
        observing.end,
        lambda: _measured.discard(subscribers),
    )
    return Instrumentation(ends)
