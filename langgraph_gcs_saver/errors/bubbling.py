"""The errors that end a run when a node or a tool raises them, because nothing may catch them as a tool's mistake.

Handlers of tool errors show every other exception to the model, which then calls the tool again. LangGraph lets a
`GraphBubbleUp` pass. `langgraph_gcs_saver.errors` offers these classes, and imports them on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from langgraph.errors import GraphBubbleUp

from langgraph_gcs_saver.errors import FencedError, GCSSaverError, NotPrimaryError

__all__ = [
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
]


class OperationError(GCSSaverError, GraphBubbleUp):
    """Base of the errors about one operation. Nothing was started.

    Attributes:
        thread_id: The thread; `None` if all threads share the operation.
        key: The operation's key.
    """

    kind = "operation"

    def __init__(self, message: str, *, thread_id: str | None, key: str) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException.__reduce__ would call the class with the message only.
        return partial(type(self), thread_id=self.thread_id, key=self.key), self.args


class OperationInProgressError(OperationError):
    """Another call has claimed the operation, and may still be performing it. Wait, and call again."""

    kind = "operation-in-progress"
    exit_code = 10


class OperationMismatchError(OperationError):
    """The key belongs to an operation with another name or another request. Nothing was started."""

    kind = "operation-mismatch"
    exit_code = 2


class OutcomeUnknownError(OperationError):
    """An earlier attempt may or may not have taken effect. Find out, and call `resolve`.

    Attributes:
        performed: Returns or raises what the operation returned or raised, if only its record failed. `None` in any
            other case, and after pickling.
    """

    performed: Callable[[], Any] | None = None

    kind = "outcome-unknown"
    exit_code = 11


class NotDurableError(OperationError):
    """The checkpoint that ordered the operation is not stored, so a crash would order it again under another key.

    Nothing was started. Use `durability="sync"` or `"async"`, and a checkpointer, or give the operation a key.
    """

    kind = "not-durable"
    exit_code = 2


class ResultNotStoredError(OperationError):
    """The operation has ended, but its result could not be stored, or cannot be read. It is not performed again."""

    kind = "result-not-stored"
    exit_code = 3


class OperationFencedError(FencedError, GraphBubbleUp):
    """This process has lost the thread's lease, so it did not start the operation. Stop the run.

    Attributes:
        thread_id: The thread of the lease.
    """

    kind = "operation-fenced"


class OperationNotPrimaryError(NotPrimaryError, GraphBubbleUp):
    """The store is not the primary, so the operation was not started. The primary's process starts it.

    Attributes:
        role: What the store is: `replica`, or `fenced` if it was the primary.
        other: The connection string of the other store.
        epoch: The number of the change of roles that made it so.
        retry_after: Seconds after which a caller may try again.
    """

    kind = "operation-not-primary"


class BatchError(GCSSaverError, GraphBubbleUp):
    """Base of the errors about a batch of items. No item was skipped, and what was flushed stays.

    Attributes:
        thread_id: The thread.
        batch_id: The batch.
    """

    kind = "batch"

    def __init__(self, message: str, *, thread_id: str, batch_id: str) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.batch_id = batch_id

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id, batch_id=self.batch_id), self.args


class BatchChangedError(BatchError):
    """A batch has other items than the caller, or another process has restarted or deleted it.

    Attributes:
        thread_id: The thread.
        batch_id: The batch.
        added: Keys of the caller's items that the batch does not have.
        removed: Keys of the batch's items that the caller does not have.
    """

    kind = "batch-changed"
    exit_code = 6

    def __init__(
        self,
        message: str,
        *,
        thread_id: str,
        batch_id: str,
        added: tuple[str, ...] = (),
        removed: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, thread_id=thread_id, batch_id=batch_id)
        self.added = added
        self.removed = removed

    def __reduce__(self) -> tuple[Any, ...]:
        ids = {"thread_id": self.thread_id, "batch_id": self.batch_id}
        return partial(type(self), added=self.added, removed=self.removed, **ids), self.args


class BatchDoneError(BatchError):
    """A batch is done. Open it with `on_done="skip"` to read its outputs, or with `on_done="restart"`."""

    kind = "batch-done"
    exit_code = 2


class SagaError(GCSSaverError, GraphBubbleUp):
    """Base of the errors about a saga.

    Attributes:
        thread_id: The thread.
        saga_id: The saga.
    """

    kind = "saga"

    def __init__(self, message: str, *, thread_id: str, saga_id: str) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.saga_id = saga_id

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id, saga_id=self.saga_id), self.args


class CompensationMissingError(SagaError):
    """This process knows no compensation of the name and version that a step needs. Nothing was started or undone.

    Import the module that defines it with `@compensation`, and call again. The commands take it as `--app MODULE`.
    """

    kind = "compensation-missing"
    exit_code = 2


class SagaStuckError(SagaError):
    """A saga cannot end, or its rollback cannot continue. What was undone stays undone.

    Settle the steps with `resolve`. Then call `resume`, or `finish` if no rollback has begun.

    Attributes:
        thread_id: The thread.
        saga_id: The saga.
        steps: The names of the steps that stop it, newest first.
    """

    kind = "saga-stuck"
    exit_code = 11

    def __init__(self, message: str, *, thread_id: str, saga_id: str, steps: tuple[str, ...] = ()) -> None:
        super().__init__(message, thread_id=thread_id, saga_id=saga_id)
        self.steps = steps

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id, saga_id=self.saga_id, steps=self.steps), self.args


class SagaRolledBack(SagaError):  # noqa: N818 - it reports what has happened, and the name is promised
    """The saga was rolled back since this process opened it, or by this call within a node. End the run.

    Attributes:
        thread_id: The thread.
        saga_id: The saga.
        config: Names the checkpoint of the savepoint from which to continue; `None` if there is none. After a rollback
            in a node, `resume` or `run` outside the graph makes it the newest state of the thread.
    """

    kind = "saga-rolled-back"
    exit_code = 6

    def __init__(self, message: str, *, thread_id: str, saga_id: str, config: Any = None) -> None:
        super().__init__(message, thread_id=thread_id, saga_id=saga_id)
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id, saga_id=self.saga_id, config=self.config), self.args
