"""How both stores try a request again: until it is answered, refused, or out of time.

A service may accept a request and never answer. So an attempt gets a share of the call's time, and all attempts and
pauses together end at the call's deadline. Two requests of one call share that deadline. No library bounds all of this
(looked at: google-api-core 2.44, tenacity 9.2):

- `google.api_core.retry` bounds the whole and nothing else: the first attempt may take all of it. It calls `on_error`
  before it has chosen the pause, and also when no attempt follows.
- tenacity bounds the whole and the number of attempts. An attempt cannot ask it how long it may take, and each request
  begins to count for itself. A request that succeeds at once takes 21 µs more.

With either, the clock and the shares would still be ours; only the loop would not. The pauses are google-api-core's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.api_core.retry import exponential_sleep_generator

from langgraph_gcs_saver.errors import StoreUnavailableError
from langgraph_gcs_saver.events import Retried

T = TypeVar("T")

ATTEMPTS = 3
"""So many attempts fit the deadline, even when the server never answers any of them."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 3.0
"""Seconds before the second attempt, doubled from there on; each pause is random between zero and that."""

_SHORTEST = 0.001
"""Seconds that an attempt gets at least; grpc takes zero or less for a mistake."""

OnRetry = Callable[[Retried], object]
"""Called before each further attempt, where the request is made: on the event loop if that is asynchronous.

So it must not wait; what it raises ends the call.
"""


class TryAgain(Exception):  # noqa: N818 - not a failure: another attempt will do
    """What an attempt raises, from what it met, if its request may be sent again.

    Args:
        reason: What it met, in a word or two.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Patience:
    """The time that one call may take: the attempts of its requests, and the pauses between them.

    It begins when this is made.

    Args:
        where: The service, for messages.
        total: Seconds.
        on_retry: Called before each further attempt.
    """

    def __init__(self, where: str, total: float, on_retry: OnRetry | None = None) -> None:
        self._where = where
        self._began = time.monotonic()
        self._end = self._began + total
        self._longest = total / ATTEMPTS
        self._on_retry = on_retry
        self._pauses = exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE)

    def perform(self, request: str, what: str, attempt: Callable[[float], T]) -> T:
        """Perform a request, in as many attempts as it takes.

        Args:
            request: Its kind, for events.
            what: What is asked for, for messages: "to read a document".
            attempt: Makes an attempt that ends within so many seconds. Raises `TryAgain` if another one may do.

        Raises:
            StoreUnavailableError: No time is left.
        """
        number = 1
        while True:
            try:
                return attempt(self._share())
            except TryAgain as again:
                pause = self._pause(request, what, number, again)
                number += 1
            time.sleep(pause)

    async def aperform(self, request: str, what: str, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Asynchronous twin of `perform`."""
        number = 1
        while True:
            try:
                return await attempt(self._share())
            except TryAgain as again:
                pause = self._pause(request, what, number, again)
                number += 1
            await asyncio.sleep(pause)

    def _share(self) -> float:
        """Seconds that the next attempt may take."""
        return max(_SHORTEST, min(self._longest, self._end - time.monotonic()))

    def _pause(self, request: str, what: str, number: int, again: TryAgain) -> float:
        """Seconds to wait before an attempt."""
        pause: float = next(self._pauses)
        error = again.__cause__ or again
        now = time.monotonic()
        if now + pause >= self._end:
            raise StoreUnavailableError(
                f"{self._where} did not manage {what} in {now - self._began:.1f} s ({again.reason}). A write may "
                "have been applied all the same. Call again; if this lasts, check network and service."
            ) from error
        if self._on_retry is not None:
            self._on_retry(
                Retried(service=self._where, request=request, attempt=number, reason=again.reason, pause=pause)
            )
        return pause
