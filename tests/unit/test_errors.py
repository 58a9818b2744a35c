import copy
import inspect
import pickle
import re

import pytest
from langgraph.errors import GraphBubbleUp

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ClearTextError,
    FencedError,
    GCSSaverError,
    InvalidConfigError,
    ThreadBusyError,
)

# name: parents, kind, exit code. Kinds and exit codes are part of the API: only ever added to.
TREE = {
    "GCSSaverError": ("Exception", "error", 1),
    "InvalidInputError": ("GCSSaverError ValueError", "invalid-input", 2),
    "InvalidURIError": ("InvalidInputError", "invalid-uri", 2),
    "InvalidOptionError": ("InvalidInputError", "invalid-option", 2),
    "InvalidConfigError": ("InvalidInputError KeyError", "invalid-config", 2),
    "InvalidIdError": ("InvalidInputError", "invalid-id", 2),
    "ValueTooLargeError": ("InvalidInputError", "value-too-large", 2),
    "SerializationError": ("GCSSaverError TypeError", "serialization", 3),
    "SaverClosedError": ("GCSSaverError RuntimeError", "closed", 2),
    "NotInstalledError": ("GCSSaverError ImportError", "not-installed", 2),
    "DamageError": ("GCSSaverError", "damage", 4),
    "CheckpointCorruptError": ("DamageError", "corrupt", 4),
    "WrongKeyError": ("GCSSaverError", "wrong-key", 8),
    "ClearTextError": ("GCSSaverError", "clear-text", 9),
    "UnsupportedFormatError": ("GCSSaverError", "unsupported-format", 5),
    "ConflictError": ("GCSSaverError", "conflict", 6),
    "CheckFailedError": ("GCSSaverError RuntimeError", "check-failed", 2),
    "ThreadBusyError": ("GCSSaverError RuntimeError", "thread-busy", 10),
    "FencedError": ("GCSSaverError RuntimeError", "fenced", 10),
    "OperationFencedError": ("FencedError GraphBubbleUp", "operation-fenced", 10),
    "NotPrimaryError": ("GCSSaverError RuntimeError", "not-primary", 10),
    "OperationNotPrimaryError": ("NotPrimaryError GraphBubbleUp", "operation-not-primary", 10),
    "OperationError": ("GCSSaverError GraphBubbleUp", "operation", 1),
    "OperationInProgressError": ("OperationError", "operation-in-progress", 10),
    "OperationMismatchError": ("OperationError", "operation-mismatch", 2),
    "OutcomeUnknownError": ("OperationError", "outcome-unknown", 11),
    "NotDurableError": ("OperationError", "not-durable", 2),
    "ResultNotStoredError": ("OperationError", "result-not-stored", 3),
    "OperationFailedError": ("GCSSaverError RuntimeError", "operation-failed", 1),
    "BatchError": ("GCSSaverError GraphBubbleUp", "batch", 1),
    "BatchChangedError": ("BatchError", "batch-changed", 6),
    "BatchDoneError": ("BatchError", "batch-done", 2),
    "SetAbortedError": ("GCSSaverError RuntimeError", "set-aborted", 6),
    "ThreadInSetError": ("GCSSaverError RuntimeError", "thread-in-set", 2),
    "SagaError": ("GCSSaverError GraphBubbleUp", "saga", 1),
    "CompensationMissingError": ("SagaError", "compensation-missing", 2),
    "SagaStuckError": ("SagaError", "saga-stuck", 11),
    "SagaRolledBack": ("SagaError", "saga-rolled-back", 6),
    "LeaseMismatchError": ("GCSSaverError RuntimeError", "lease-mismatch", 2),
    "StoreError": ("GCSSaverError", "store", 7),
    "PermissionDeniedError": ("StoreError PermissionError", "permission-denied", 7),
    "StoreNotFoundError": ("StoreError", "store-not-found", 7),
    "TableMismatchError": ("StoreError", "table-mismatch", 7),
    "WrongStoreError": ("StoreError", "wrong-store", 7),
    "StoreUnavailableError": ("StoreError ConnectionError", "unavailable", 7),
    "CheckpointVerificationError": ("StoreError", "verification", 7),
    "SourceError": ("StoreError", "source", 7),
}
CLASSES = {name: found for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, Exception)}
CORRUPT = {"thread_id": "t", "checkpoint_ns": "n", "checkpoint_id": "c", "channel": "a", "frame": "b"}
WHERE = {
    CheckpointCorruptError: CORRUPT,
    ClearTextError: CORRUPT,
    errors.CheckFailedError: {"thread_id": "t", "missing": ("b",), "findings": ("f",)},
    ThreadBusyError: {"thread_id": "t", "owner": "o"},
    FencedError: {"thread_id": "t"},
    errors.OperationFencedError: {"thread_id": "t"},
    errors.NotPrimaryError: {"role": "fenced", "other": "gs://b", "epoch": 3},
    errors.OperationNotPrimaryError: {"role": "fenced", "other": "gs://b", "epoch": 3},
    errors.OperationFailedError: {"key": "k"},
    **{found: {"thread_id": "t", "key": "k"} for found in CLASSES.values() if issubclass(found, errors.OperationError)},
    errors.SetAbortedError: {"team": "t", "set_id": "s", "missing": ("m",)},
    errors.ThreadInSetError: {"thread_id": "t", "sets": ("s",)},
    **{found: {"thread_id": "t", "saga_id": "s"} for found in CLASSES.values() if issubclass(found, errors.SagaError)},
    **{
        found: {"thread_id": "t", "batch_id": "b"} for found in CLASSES.values() if issubclass(found, errors.BatchError)
    },
}
"""What the constructors of these need besides a message."""


def make(found, text="What happened. What to do."):
    return found(text, **WHERE.get(found, {}))


def test_the_tree():
    found = {
        name: (" ".join(parent.__name__ for parent in error.__bases__), error.kind, error.exit_code)
        for name, error in CLASSES.items()
    }
    assert found == TREE


def test_what_bubbles_up_in_a_graph_is_not_caught_as_a_mistake_of_a_tool():
    bubbling = {name for name, error in CLASSES.items() if issubclass(error, GraphBubbleUp)}
    assert bubbling == {
        "BatchChangedError",
        "BatchDoneError",
        "BatchError",
        "CompensationMissingError",
        "NotDurableError",
        "OperationError",
        "OperationFencedError",
        "OperationInProgressError",
        "OperationMismatchError",
        "OperationNotPrimaryError",
        "OutcomeUnknownError",
        "ResultNotStoredError",
        "SagaError",
        "SagaRolledBack",
        "SagaStuckError",
    }


def test_kinds_are_unique_words():
    kinds = [error.kind for error in CLASSES.values()]
    assert len(set(kinds)) == len(kinds)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", kind) for kind in kinds)


def test_exit_codes_are_ours():
    """0 is success; 126 and up are the shell's."""
    assert all(1 <= error.exit_code < 126 for error in CLASSES.values())


def test_the_tree_is_drawn_as_it_is():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error|SagaRolledBack)( \(\w+\))?(\s|$)", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            bases = path[depth - 1] if depth else "Exception"
            drawn[found[2]] = bases + (f" {found[3].strip(' ()')}" if found[3] else "")
    assert drawn == {name: parents for name, (parents, _, _) in TREE.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_documented(name):
    assert CLASSES[name].__doc__.strip().endswith(".") or "Attributes:" in CLASSES[name].__doc__
    assert CLASSES[name].__module__ in {"langgraph_gcs_saver.errors", "langgraph_gcs_saver.errors.bubbling"}
    assert getattr(errors, name) is CLASSES[name]


@pytest.mark.parametrize("name", CLASSES)
def test_messages_read_as_written(name):
    """A KeyError shows its message's repr, an OSError its number."""
    error = make(CLASSES[name], 'It\'s "so"\nhere')
    assert str(error).startswith('It\'s "so"\nhere')
    assert isinstance(error, GCSSaverError)
    assert str(GCSSaverError()) == ""


def test_a_config_error_is_caught_as_what_callers_expect():
    with pytest.raises(KeyError, match=r"^no thread_id$"):
        raise InvalidConfigError("no thread_id")
    with pytest.raises(ValueError, match=r"^no thread_id$"):
        raise InvalidConfigError("no thread_id")


@pytest.mark.parametrize("of", [CheckpointCorruptError, ClearTextError])
def test_what_cannot_be_read_says_where(of):
    error = of("A value is missing", **CORRUPT)
    for part in ("A value is missing", "thread 't'", "namespace 'n'", "checkpoint 'c'", "channel 'a'", "'b'"):
        assert part in str(error)
    assert {name: getattr(error, name) for name in CORRUPT} == CORRUPT
    assert error.reason == "A value is missing"
    short = of("x", thread_id="t", checkpoint_ns="", checkpoint_id="c")
    assert (short.channel, short.frame) == (None, None)
    assert "channel" not in str(short)
    assert "stored as" not in str(short)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_errors_cross_process_borders(name, again):
    """A pool breaks, or waits forever, if a worker raises an error that cannot be unpickled."""
    error = make(CLASSES[name])
    found = again(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
