"""What an event adds to the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_gcs_saver.engine import effects
from langgraph_gcs_saver.engine.effects import BlobRequest, Effect
from langgraph_gcs_saver.events import (
    CallEnded,
    CheckpointDamaged,
    CheckpointLoaded,
    CheckpointNotFound,
    CheckpointSaved,
    CheckpointSkipped,
    CheckpointsListed,
    CompensationEnded,
    Event,
    GetFailed,
    HistoryLoaded,
    LeaseEnded,
    LeaseTakenOver,
    OperationEnded,
    OperationLate,
    ParentForked,
    PutFailed,
    ReadFromMirror,
    RecoveryRecorded,
    Replicated,
    ReplicationFailed,
    RestoreTooSlow,
    Retried,
    RoleChanged,
    RowsDropped,
    RunEnded,
    SagaEnded,
    SetDecided,
    SetRestored,
    ThreadVerified,
    VerificationFailed,
    WritesSaved,
)
from langgraph_gcs_saver.policy.distinct import Distinct
from langgraph_gcs_saver.policy.namespaces import pattern_of
from langgraph_gcs_saver.telemetry.billing import Bill, dollars
from langgraph_gcs_saver.telemetry.metrics import (
    ANALYTICS_DROPPED,
    COMPENSATIONS,
    COST_ESTIMATED,
    DAMAGED,
    ERRORS,
    FENCED,
    FINDINGS,
    FORKS,
    GET_DURATION,
    GET_FETCHED,
    MIRROR_READS,
    OPERATIONS,
    OPERATIONS_LATE,
    PUT_DURATION,
    PUT_LAG,
    PUT_LOGICAL,
    PUT_STORED,
    RECOVERIES,
    RECOVERY_LOST,
    RECOVERY_RESTORE,
    REPLICATION_ENTRIES,
    REPLICATION_FAILURES,
    REPLICATION_SHIPPED,
    REQUEST_RETRIES,
    REQUESTS,
    RESTORES_SLOW,
    ROLES_CHANGED,
    RUN_DURATION,
    RUNS_ENDED,
    SAGAS,
    SET_DURATION,
    SET_RESTORES,
    SETS,
    TAKEOVERS,
    THREADS_STARTED,
    VERIFY_FAILURES,
    Metric,
)

Attributes = Mapping[str, str]

Measured = tuple[Metric, float, Attributes]
"""A metric, a value that it gets, and the attributes of that value."""

STORAGE, FIRESTORE = "storage", "firestore"

SERVICES: Mapping[str, str] = {
    kind.__name__: STORAGE if issubclass(kind, BlobRequest) else FIRESTORE for kind in effects.REQUESTS
}
"""The service of each kind of request."""

CALLS: Mapping[type[CallEnded], str] = {
    CheckpointSaved: "put",
    WritesSaved: "put_writes",
    CheckpointLoaded: "get_tuple",
    CheckpointNotFound: "get_tuple",
    CheckpointsListed: "list",
    HistoryLoaded: "get_delta_channel_history",
}
"""The call that each event ends. `PutFailed` and `GetFailed` name theirs."""

_FENCED = ("fenced", "operation-fenced")


def call_of(event: CallEnded) -> str:
    """The method that an event ends, without the `a` of its asynchronous twin."""
    return event.call if isinstance(event, (PutFailed, GetFailed)) else CALLS[type(event)]


def labels_of(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of an event as attributes."""
    return {f"label.{name}": value for name, value in labels.items()}


def _text(is_so: bool) -> str:
    return "true" if is_so else "false"


class Measures:
    """Turns events into values of metrics, with a limit on namespaces and types of errors."""

    def __init__(self) -> None:
        self._namespaces = Distinct()
        self._errors = Distinct()

    def of(self, event: Event) -> Iterator[Measured]:
        """What an event adds to the metrics."""
        match event:
            case CallEnded():
                yield from self._call(event)
            case Retried():
                service = SERVICES.get(event.request, FIRESTORE)  # Firestore's are names of RPCs
                yield REQUEST_RETRIES, 1, {"service": service, "reason": event.reason}
            case VerificationFailed():
                yield VERIFY_FAILURES, 1, {}
            case CheckpointDamaged() | CheckpointSkipped():
                yield DAMAGED, 1, {}
            case ThreadVerified():
                yield FINDINGS, event.damaged, {}
            case ParentForked():
                yield FORKS, 1, {}
            case RestoreTooSlow():
                yield RESTORES_SLOW, 1, {"estimated": _text(event.is_estimated)}
            case LeaseTakenOver():
                yield TAKEOVERS, 1, {"expired": _text(event.is_expired)}
            case LeaseEnded(reason="lost"):
                yield FENCED, 1, {"call": "lease"}
            case OperationEnded():
                attributes = {"state": event.state, "recorded": _text(event.is_recorded)}
                yield OPERATIONS, 1, attributes
            case OperationLate():
                yield OPERATIONS_LATE, 1, {}
            case SagaEnded():
                yield SAGAS, 1, {"state": event.state}
            case CompensationEnded():
                yield COMPENSATIONS, 1, {"state": event.state}
            case SetDecided():
                yield SETS, 1, {"state": event.state}
                yield SET_DURATION, event.seconds, {"state": event.state}
            case SetRestored():
                yield SET_RESTORES, 1, {}
            case RunEnded():
                labels = labels_of(event.labels)
                ended = {"outcome": event.outcome, **labels}
                yield RUNS_ENDED, 1, {**ended, "resumed": _text(event.is_resumed)}
                yield RUN_DURATION, event.seconds, ended
            case RecoveryRecorded():
                recovery = {"kind": event.kind, **labels_of(event.labels)}
                yield RECOVERIES, 1, recovery
                if event.lost is not None:
                    yield RECOVERY_LOST, event.lost, recovery
                if event.restore is not None:
                    yield RECOVERY_RESTORE, event.restore, recovery
            case ReadFromMirror():
                yield MIRROR_READS, 1, {"reason": event.reason}
            case Replicated():
                yield REPLICATION_ENTRIES, event.entries, {}
                yield REPLICATION_SHIPPED, event.bytes, {}
            case ReplicationFailed():
                yield REPLICATION_FAILURES, 1, {"error.type": self._errors.of(error_type(event))}
            case RoleChanged():
                yield ROLES_CHANGED, 1, {"role": event.role, "cause": event.cause}
            case RowsDropped():
                yield ANALYTICS_DROPPED, event.rows, {"sink": event.sink}
            case _:
                return

    def _call(self, event: CallEnded) -> Iterator[Measured]:
        call, labels = call_of(event), labels_of(event.labels)
        graph = {"namespace": self._namespaces.of(pattern_of(event.checkpoint_ns)), **labels}
        ended = {"call": call, "outcome": event.outcome, **graph}
        duration = PUT_DURATION if call in ("put", "put_writes") else GET_DURATION
        yield duration, event.seconds, ended
        match event:
            case CheckpointSaved() | WritesSaved():
                by_call = {"call": call, **graph}
                yield PUT_STORED, event.inline_bytes + event.object_bytes, by_call
                yield PUT_LOGICAL, event.size, by_call
                if isinstance(event, CheckpointSaved):
                    yield from _saved(event, graph, labels)
            case CheckpointLoaded():
                yield GET_FETCHED, event.inline_bytes + event.object_bytes, {"call": call, **graph}
            case CheckpointsListed():
                yield GET_FETCHED, event.object_bytes, {"call": call, **graph}
            case PutFailed(outcome="failed") | GetFailed(outcome="failed"):
                yield ERRORS, 1, {"call": call, "error.type": self._errors.of(error_type(event)), **labels}
                if event.kind in _FENCED:
                    yield FENCED, 1, {"call": call}


def _saved(event: CheckpointSaved, graph: Attributes, labels: Attributes) -> Iterator[Measured]:
    if event.lag is not None:
        # Clocks may differ, and a negative value is no valid measurement.
        yield PUT_LAG, max(0.0, event.lag), graph
    if event.parent_id is None and not event.checkpoint_ns and event.outcome == "stored":
        yield THREADS_STARTED, 1, labels


def error_type(event: PutFailed | GetFailed | ReplicationFailed) -> str:
    """The `kind` of an error of this library, else the name of the exception's class."""
    return event.kind or event.error


def of_request(kind: type[Effect[Any]], bill: Bill) -> Iterator[Measured]:
    """What a request adds to the metrics.

    Args:
        kind: The class of the request.
        bill: What it is billed for.
    """
    service = {"service": SERVICES[kind.__name__]}
    yield REQUESTS, 1, {**service, "method": kind.__name__}
    if bill:
        yield COST_ESTIMATED, dollars(bill), service
