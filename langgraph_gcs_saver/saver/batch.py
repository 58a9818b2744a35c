"""`Batch`: a loop over items that resumes after a crash, and that several processes can share.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import InvalidIdError, InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.flows import item_batches as flows
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import frames, keys
from langgraph_gcs_saver.format.item_batches import Failure, State
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.results import BatchProgress, ItemFailure
from langgraph_gcs_saver.saver.process_names import check_owner, is_gone, own_name

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.operations import Operations

T = TypeVar("T")

CHUNK = 100
"""Number of items in a chunk, if none is given and each item is flushed on its own."""

FLUSHES = 20
"""Flushes that make up a chunk at least, if none is given.

A chunk costs a worker three writes besides its flushes.
"""

_MAX_ERROR = 2000
"""Characters of an error's text that are stored."""

_BAR = 30

_DRAW_SECONDS = 0.1
"""How often the progress bar is drawn, at most."""


class Batch(Generic[T]):
    """A loop over items that resumes after the last item that was stored.

    Use it in a `with` or `async with` block, and iterate over it there. The loop hands out the items that are not done,
    in order. Call `done` or `fail` for each of them before the next one. The loop ends when every item is done, or has
    failed as often as `attempts` allows. If other processes work on the batch too, each item is handed to one of them,
    and the loop waits for theirs.

    One object serves one loop of one process. It is not for several threads at once.

    Attributes:
        id: The batch's id.
        already_done: Number of items that were done before the block was entered.
        context: What the first caller of this batch gave as `context`.
    """

    def __init__(
        self,
        saver: GCSSaver,
        thread_id: str,
        batch_id: str,
        items: Iterable[T],
        *,
        operations: Callable[[], Operations],
        key: Callable[[T], str] | None = None,
        chunk: int | None = None,
        flush: int = 1,
        attempts: int = 3,
        changed: flows.Changed = "raise",
        on_done: flows.OnDone = "raise",
        context: Any = None,
        timeout: float = 60.0,
        owner: str | None = None,
        progress: bool = False,
    ) -> None:
        if not isinstance(batch_id, str):
            raise InvalidIdError(f"The batch id is of type {type(batch_id).__name__}; it must be text.")
        keys.batch_doc(thread_id, batch_id)
        for name, number in (("flush", flush), ("attempts", attempts), ("chunk", 1 if chunk is None else chunk)):
            if type(number) is not int or number < 1:
                raise InvalidOptionError(f"{name} is {number!r}; it must be a whole number of at least 1.")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 5 <= timeout < float("inf"):
            raise InvalidOptionError(f"timeout is {timeout!r}; it must be a number of seconds of at least 5.")
        if changed not in ("raise", "merge"):
            raise InvalidOptionError(f"changed is {changed!r}; it must be 'raise' or 'merge'.")
        if on_done not in ("raise", "skip", "restart"):
            raise InvalidOptionError(f"on_done is {on_done!r}; it must be 'raise', 'skip' or 'restart'.")
        if owner is not None:
            check_owner(owner)
        if not frames.is_json(context):
            raise InvalidInputError("context cannot be stored: it must consist of JSON's types.")
        self.id = batch_id
        self.already_done = 0
        self.context: Any = None
        self._serde = saver.serde
        self._contexts = saver._contexts  # noqa: SLF001 - this loop is a part of the saver
        self._backend = saver._backend  # noqa: SLF001 - as above
        self._operations = operations
        self._key = key
        self._items: dict[str, T] = {}
        for number, item in enumerate(items):
            name = self._key_of(item, f"Item {number}")
            if name in self._items:
                raise InvalidInputError(f"Item {number} has the same key as an item before it. Keys must be unique.")
            self._items[name] = item
        self._request = flows.OpenBatch(
            thread_id,
            batch_id,
            tuple(self._items),
            max(CHUNK, FLUSHES * flush) if chunk is None else chunk,
            changed,
            on_done,
            context,
        )
        self._flush = flush
        self._worker = flows.Worker(
            own_name() if owner is None else f"owner:{owner}", attempts, timeout, flush == 1, time.monotonic, is_gone
        )
        self._draws = progress
        self._drawn = -_DRAW_SECONDS
        self._noted = 0.0
        self._process: int | None = None
        self._found: flows.Opened | None = None
        self._known = flows.Known()
        self._claim: flows.Claim | None = None
        self._chunk = 0
        self._queue: list[int] = []
        self._hand: int | None = None
        self._results: list[flows.Result] = []

    @property
    def _context(self) -> Context:
        return self._contexts.get()

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"

    # The block and the loop

    def __enter__(self) -> Self:
        run(self._open(), self._backend)
        return self

    async def __aenter__(self) -> Self:
        await arun(self._open(), self._backend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._leave(), self._backend)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await arun(self._leave(), self._backend)

    def __iter__(self) -> Iterator[T]:
        while True:
            self._draw()
            position = run(self._next(), self._backend)
            if position is None:
                return
            yield self._item(position)

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            self._draw()
            position = await arun(self._next(), self._backend)
            if position is None:
                return
            yield self._item(position)

    def done(self, item: T, output: Any = None) -> None:
        """Note that the item that the loop has handed out is done. It is durable when this returns, with `flush=1`.

        Args:
            item: The item.
            output: What to store with it; `None` for nothing.

        Raises:
            InvalidInputError: The loop has not handed out this item, or `done` or `fail` was called already.
            SerializationError: The output cannot be serialized. The item is still to be done.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        result = self._done(item, output)
        run(self._settle(result), self._backend)

    async def adone(self, item: T, output: Any = None) -> None:
        """Asynchronous twin of `done`."""
        result = self._done(item, output)
        await arun(self._settle(result), self._backend)

    def fail(self, item: T, error: BaseException | str) -> None:
        """Note that the item that the loop has handed out has failed.

        The loop hands it out again after the other items of its chunk, until it has failed as often as `attempts`
        allows.

        Args:
            item: The item.
            error: What to store: the exception, or a text.

        Raises:
            InvalidInputError: The loop has not handed out this item, or `done` or `fail` was called already.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        result = self._failed(item, error)
        run(self._settle(result), self._backend)

    async def afail(self, item: T, error: BaseException | str) -> None:
        """Asynchronous twin of `fail`."""
        result = self._failed(item, error)
        await arun(self._settle(result), self._backend)

    def finish(self, function: Callable[..., Any] | None = None, *, request: Any = None) -> Any:
        """Perform a final operation once, if one is given, and note that the batch is done.

        Call it after the loop, in the block. A later caller of the batch gets `BatchDoneError`, unless it passes
        `on_done`. Items that have failed do not keep a batch from being done.

        Args:
            function: The final operation, such as a submission. It is performed by `thread.operations.once`, with a key
                of this batch: without arguments, or with the key. If it raises, the batch is not done. From then on its
                list cannot change.
            request: Plain data that identifies what the function does.

        Returns:
            The function's result; `None` without a function, or if the batch was done before.

        Raises:
            InvalidInputError: Items are left, because the loop was left before its end, or another process has added
                items. Or the block has ended.
            BatchChangedError: Another process has restarted or deleted the batch.
            OutcomeUnknownError: An earlier call of `finish` crashed, and the function may have taken effect.
            OperationInProgressError: Another process is performing the function.
        """
        result = None
        if function is not None and run(self._finish("closing"), self._backend):
            result = self._operations().once("finish", function, request=request, key=self._final_key())
        run(self._finish("done"), self._backend)
        return result

    async def afinish(self, function: Callable[..., Any] | None = None, *, request: Any = None) -> Any:
        """Asynchronous twin of `finish`."""
        result = None
        if function is not None and await arun(self._finish("closing"), self._backend):
            result = await self._operations().aonce("finish", function, request=request, key=self._final_key())
        await arun(self._finish("done"), self._backend)
        return result

    # Reading

    @property
    def progress(self) -> BatchProgress:
        """How far the batch is, as far as this object knows. This reads nothing."""
        if self._found is None:
            return BatchProgress(0, 0, len(self._items))
        positions = set(self._found.listing.positions().values())
        done = self._known.done | {one.position for one in self._results if one.failure is None}
        failed = self._known.failures.keys() | {one.position for one in self._results if one.failure is not None}
        return BatchProgress(len(done & positions), len((failed & positions) - done), len(positions))

    def outputs(self) -> dict[str, Any]:
        """The outputs by the items' keys, in the order of the items. Items without an output are left out.

        Raises:
            BatchChangedError: Another process has restarted or deleted the batch.
            DamageError: A document of the batch is damaged.
            SerializationError: The serializer cannot read an output.
        """
        found = run(flows.outputs(self._opened(), self._context), self._backend)
        return self._loaded(found)

    async def aoutputs(self) -> dict[str, Any]:
        """Asynchronous twin of `outputs`."""
        found = await arun(flows.outputs(self._opened(), self._context), self._backend)
        return self._loaded(found)

    def failed(self) -> dict[str, ItemFailure]:
        """The items that have failed and are not done, by key, as they are now.

        Raises:
            BatchChangedError: Another process has restarted or deleted the batch.
            DamageError: A document of the batch is damaged.
        """
        self._found = run(flows.look(self._opened(), self._known, self._context), self._backend)
        return flows.failures(self._found, self._known)

    async def afailed(self) -> dict[str, ItemFailure]:
        """Asynchronous twin of `failed`."""
        self._found = await arun(flows.look(self._opened(), self._known, self._context), self._backend)
        return flows.failures(self._found, self._known)

    # What the methods have in common

    def _key_of(self, item: T, what: str) -> str:
        if self._key is None and not isinstance(item, str):
            raise InvalidInputError(f"{what} is of type {type(item).__name__}. Pass key=, which makes an item's key.")
        name: object = item if self._key is None else self._key(item)
        if not isinstance(name, str) or not keys.is_text(name):
            raise InvalidInputError(f"{what} has a key of type {type(name).__name__}. Keys must be Unicode text.")
        return name

    def _opened(self) -> flows.Opened:
        if self._found is None:
            raise InvalidInputError(f"Batch {self.id!r} is not open. Use it in a `with` or `async with` block.")
        return self._found

    def _working(self) -> flows.Opened:
        """The batch, if this object may work on it."""
        found = self._opened()
        if self._process != os.getpid():
            raise InvalidInputError(
                f"Batch {self.id!r} is not open in this process, or its block has ended. Open it in a block here."
            )
        return found

    def _item(self, position: int) -> T:
        return self._items[self._opened().listing.keys[position]]

    def _mine(self) -> list[int]:
        """Positions of the given items."""
        there = self._opened().listing.positions()
        return [there[name] for name in self._items if name in there]

    def _open(self) -> Flow[None]:
        if self._process is not None:
            raise InvalidInputError(f"Batch {self.id!r} was opened before. Make another one with `thread.batch`.")
        self._process = os.getpid()
        self._noted = self._worker.clock()
        self._found, self._known = yield from flows.open_batch(self._request, self._context)
        self.already_done = len(self._known.done.intersection(self._mine()))
        self.context = self._found.listing.context

    def _leave(self) -> Flow[None]:
        if self._process != os.getpid():
            return  # A forked child has no claim.
        self._process = -1
        self._draw(is_last=True)
        if self._draws:
            sys.stderr.write("\n")
        if self._results:
            yield from self._store(release=True)
        elif self._claim is not None:
            yield from flows.release(self._claim)

    def _next(self) -> Flow[int | None]:
        """The position of the next item; `None` if all are settled."""
        found = self._working()
        if self._hand is not None:
            raise InvalidInputError(
                f"The last item of batch {self.id!r} is neither done nor failed. Call `done` or `fail` before the loop "
                "continues."
            )
        if self._results and not self._queue:  # Storing them failed.
            yield from self._store(release=True)
        now = self._worker.clock()
        if now - self._noted >= flows.NOTE_SECONDS:
            self._noted = now
            yield from flows.note(found)
        claim = self._claim
        if claim is not None and self._queue and flows.is_due(claim, now, self._worker):
            if self._results:
                yield from self._store(release=False)
            else:
                self._claim = yield from flows.renew(claim, self._worker, self._context)
        if self._claim is None:
            self._queue = []
        if not self._queue:
            taken = yield from flows.take(found, self._mine(), self._known, self._worker, self._context)
            self._found, self._claim, self._queue = taken
            if self._claim is None:
                return None
            self._chunk = self._claim.chunk
        self._hand = self._queue.pop(0)
        return self._hand

    def _in_hand(self, item: T) -> int:
        listing = self._working().listing
        name = self._key_of(item, "The item")
        if self._hand is None or listing.keys[self._hand] != name:
            raise InvalidInputError(f"The loop over batch {self.id!r} has not handed out this item, or it is settled.")
        return self._hand

    def _done(self, item: T, output: Any) -> flows.Result:
        position = self._in_hand(item)
        value: Serialized | None = None
        if output is not None:
            value = dumps(self._serde, output, f"The output of an item of batch {self.id!r}")
            self._context.codec.refuse_large(len(value.data))
        return flows.Result(position, value)

    def _failed(self, item: T, error: BaseException | str) -> flows.Result:
        position = self._in_hand(item)
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return flows.Result(position, failure=Failure(position, reason[:_MAX_ERROR] or "failed"))

    def _settle(self, result: flows.Result) -> Flow[None]:
        position, self._hand = result.position, None
        self._results.append(result)
        if result.failure is not None:
            tried = sum(one.position == position and one.failure is not None for one in self._results)
            if self._known.tried(position) + tried < self._worker.attempts:
                self._queue.append(position)
        most = 1 if self._claim is None or self._claim.careful else self._flush
        if len(self._results) >= most or not self._queue:
            yield from self._store(release=not self._queue)

    def _store(self, *, release: bool) -> Flow[None]:
        try:
            self._claim = yield from flows.flush(
                self._opened(),
                self._chunk,
                self._claim,
                tuple(self._results),
                release=release,
                known=self._known,
                worker=self._worker,
                context=self._context,
            )
        except errors.BatchChangedError:
            self._results, self._claim = [], None  # There is nothing left that they could be stored for.
            raise
        self._results = []

    def _final_key(self) -> str:
        """The key of the final operation. A restarted batch has another one."""
        return f"batch {self.id} {self._opened().listing.epoch}"

    def _finish(self, to: State) -> Flow[bool]:
        """Set the state of the batch; whether it has that state now, rather than a later one."""
        self._found = yield from flows.close(self._working(), self._known, self._worker, to, self._context)
        return self._found.state == to

    def _loaded(self, found: dict[str, Serialized]) -> dict[str, Any]:
        return {name: loads(self._serde, value) for name, value in found.items()}

    def _draw(self, *, is_last: bool = False) -> None:
        # Counting looks at all items, so it does not happen after each.
        if self._draws and (is_last or time.monotonic() - self._drawn > _DRAW_SECONDS):
            self._drawn = time.monotonic()
            now = self.progress
            filled = _BAR * (now.done + now.failed) // max(now.items, 1)
            bar = f"\r{self.id} [{'#' * filled}{'-' * (_BAR - filled)}] {now}"
            sys.stderr.write(bar)
            sys.stderr.flush()
