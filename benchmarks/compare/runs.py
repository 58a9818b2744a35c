"""The run: every workload on every saver, by turns, direct, with latency, and counted."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

from benchmarks.compare.prices import Stored
from benchmarks.compare.results import Row, Series, row
from benchmarks.compare.workloads import (
    PHASES,
    Measured,
    NotSharedError,
    Phase,
    RefusedError,
    Scale,
    Session,
    Workload,
    counted,
)
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

if TYPE_CHECKING:
    from benchmarks.compare.contenders import Contender
    from benchmarks.compare.services import Endpoints, Services


class Part:
    """One saver in one workload: what it measured, and whether it has failed.

    Attributes:
        is_out: It has failed, and takes no further part.
        played: Repetitions of the first phase.
        before: Bytes that were stored when it began.
        stored: Bytes that were stored when the first phase ended.
    """

    def __init__(self, workload: Workload, contender: Contender, space: str, notes: dict[str, Any]) -> None:
        self.workload = workload
        self.contender = contender
        self.space = space
        self.notes = notes
        self.measured = {operation: Measured() for operation in workload.operations}
        self.is_out = False
        self.played = 0
        self.before: Stored | None = None
        self.stored: Stored | None = None

    @contextmanager
    def guarded(self, session: Session) -> Iterator[None]:
        """A failure is this saver's, in this workload, and ends neither the others nor the run."""
        try:
            yield
        except NotSharedError as error:
            self._tell(session.failed, f"not shared: {error}")
        except RefusedError as error:
            self._fail(None, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is becomes a row
            self.notes["failed"] = _kind(error)
            self._fail(session.failed, _kind(error))

    def _fail(self, operation: str | None, error: str) -> None:
        self.is_out = True
        self._tell(operation, error)

    def _tell(self, operation: str | None, error: str) -> None:
        # What comes after an operation that fails in the same run was not reached.
        operations = list(self.workload.operations)
        first = operations.index(operation) if operation in operations else 0
        for at, name in enumerate(operations):
            measured = self.measured[name]
            if at >= first or not measured.seconds:
                measured.error = measured.error or error

    def rows(self) -> Iterator[Row]:
        steps = max(measured.steps for measured in self.measured.values())
        stored = self.stored
        if not self.workload.is_kept:
            steps *= self.played
        elif stored is not None and self.before is not None:
            total, objects = stored.total - self.before.total, stored.objects - self.before.objects
            stored = Stored(total // self.played, objects // self.played) if self.played else None
        for operation, measured in self.measured.items():
            yield row(self.workload, operation, self.contender, measured, stored=stored, steps=steps)


def _kind(error: Exception) -> str:
    """Its type, and that of what was tried again until time was up."""
    cause = getattr(error, "cause", None)
    return type(error).__name__ + (f" of {type(cause).__name__}" if isinstance(cause, Exception) else "")


class Run:
    """Runs workloads on savers.

    Args:
        services: They have been started.
        contenders: The savers.
        scale: How much of everything.
        say: Called with what was done.
    """

    def __init__(
        self, services: Services, contenders: Sequence[Contender], scale: Scale, say: Callable[[str], None]
    ) -> None:
        self._services = services
        self._contenders = contenders
        self._scale = scale
        self._say = say
        self.rows: list[Row] = []
        self.series: list[Series] = []

    def play(self, workloads: Iterable[Workload]) -> None:
        """Run all; rows come in the order of workloads, operations and savers."""
        for data, group in groupby(workloads, key=lambda workload: workload.data):
            self._play(data, list(group))

    def _play(self, data: str, group: list[Workload]) -> None:
        notes: dict[str, dict[str, Any]] = {contender.name: {} for contender in self._contenders}
        spaces = {contender.name: _slug(f"{data} {contender.name}") for contender in self._contenders}
        parts = [
            [Part(workload, one, spaces[one.name], notes[one.name]) for one in self._contenders] for workload in group
        ]
        with ExitStack() as stack:
            # Open until the end, for what `memory` stores is its own.
            fillers = _Savers(self._services.direct, stack)
            for phase in PHASES:
                with ExitStack() as own:
                    count = CountingInterceptor() if phase == "counted" else None
                    savers = fillers if phase == "direct" else _Savers(getattr(self._services, phase), own, count)
                    for of_workload in parts:
                        begin = time.perf_counter()
                        sessions = list(self._sessions(phase, of_workload, savers, fillers))
                        self._turns(of_workload[0].workload, phase, sessions)
                        if phase == "direct":
                            _finish(sessions)
                        self._say(f"{of_workload[0].workload.name}: {phase}, {time.perf_counter() - begin:.1f} s")
        for one in self._contenders:
            # Who stored nothing has no directory.
            with suppress(FileNotFoundError):
                one.drop(self._services.direct, spaces[one.name])
        for of_workload in parts:
            found = [found for part in of_workload for found in part.rows()]
            order = of_workload[0].workload.operations
            self.rows += sorted(found, key=lambda one: order.index(one.operation))
        self.series += [Series(name, tuple(kept["series"])) for name, kept in notes.items() if kept.get("series")]

    def _sessions(
        self, phase: Phase, parts: Iterable[Part], savers: _Savers, fillers: _Savers
    ) -> Iterator[tuple[Part, Session]]:
        """Those that take part, prepared and warm."""
        for part in parts:
            # What has no service has no latency and no requests.
            if part.is_out or (phase != "direct" and not part.contender.services):
                continue
            session = Session(
                contender=savers.contender(part),
                phase=phase,
                endpoints=savers.endpoints,
                space=part.space,
                scale=self._scale,
                notes=part.notes,
                measured=part.measured,
                counter=self._services.counter if phase == "counted" else None,
                count=savers.count,
            )
            with part.guarded(session):
                session.filler = fillers.of(part)
                session.saver = savers.of(part)
                if phase == "direct":
                    part.workload.prepare(session)
                    part.before = _stored(session) if part.workload.is_kept else None
                session.warming = True
                part.workload.warm_up(session)
                session.warming = False
            yield part, session

    def _turns(self, workload: Workload, phase: Phase, sessions: list[tuple[Part, Session]]) -> None:
        """Run by turns, so that whatever else the machine does meets all; each round begins with another saver."""
        gc.collect()
        spent = {id(session): 0.0 for _, session in sessions}
        for number in range(workload.count(phase, self._scale)):
            first = number % len(sessions) if sessions else 0
            for part, session in sessions[first:] + sessions[:first]:
                is_late = workload.is_cut_short(phase) and spent[id(session)] > self._scale.seconds[phase]
                if part.is_out or (number and is_late):
                    continue
                begin = time.perf_counter()
                session.number = number
                with part.guarded(session):
                    workload.run(session)
                    part.played += phase == "direct"
                spent[id(session)] += time.perf_counter() - begin


def _finish(sessions: Iterable[tuple[Part, Session]]) -> None:
    for part, session in sessions:
        # After a failure the number of runs that stored something is not known.
        if part.workload.counts_bytes and not (part.is_out and part.workload.is_kept):
            with part.guarded(session):
                part.stored = _stored(session)
                part.workload.finish(session, part.stored and part.stored.total)


def _stored(session: Session) -> Stored | None:
    total = session.stored()
    # Asked of those alone that keep objects beside documents.
    objects = getattr(session.contender, "objects", None)
    return None if total is None else Stored(total, objects(session.endpoints, session.space) if objects else 0)


class _Savers:
    """The savers that are open on some endpoints, each opened on first use.

    Attributes:
        endpoints: Of all of them.
        count: The rounds of all of them, in the phase that counts. They run by turns.
    """

    def __init__(self, endpoints: Endpoints, stack: ExitStack, count: CountingInterceptor | None = None) -> None:
        self.endpoints = endpoints
        self.count = count
        self._stack = stack
        self._savers: dict[str, Any] = {}

    def contender(self, part: Part) -> Contender:
        return part.contender if self.count is None else counted(part.contender, self.count)

    def of(self, part: Part) -> Any:
        name = part.contender.name
        if name not in self._savers:
            self._savers[name] = self._stack.enter_context(self.contender(part).open(self.endpoints, part.space))
        return self._savers[name]


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())
