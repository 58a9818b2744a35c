"""How both stores retry a request: until the service answers it or rejects it, or the time is up.

A service may accept a request and never answer. So an attempt gets a share of the call's time, and all attempts and
pauses together end at the call's deadline. Two requests of one call share that deadline. No library limits all of this
(checked: google-api-core 2.44 and tenacity 9.2):

- `google.api_core.retry` limits the total time only, so the first attempt may take all of it. It calls `on_error`
  before it has chosen the pause, and also if no attempt follows.
- tenacity limits the total time and the number of attempts. An attempt cannot find out how much time is left, and each
  request has a clock of its own. A request that succeeds at once takes 21 µs more.

With either library, this module would still need the clock and the shares, and save only the loop. The pauses are
google-api-core's.
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
"""The number of attempts that fit into the deadline, even if the server never answers."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 3.0
"""Upper limits of the first and of the longest pause, in seconds. Each pause is random, and the limit doubles."""

_SHORTEST = 0.001
"""Least seconds of an attempt, because grpc rejects zero and negative timeouts."""

OnRetry = Callable[[Retried], object]
"""Called before each further attempt, on the event loop if the request is asynchronous.

So it must not block. An exception that it raises ends the call.
"""


class TryAgain(Exception):  # noqa: N818 - it requests another attempt and is not a failure
    """Raised by an attempt, from the original error, if its request may be sent again.

    Args:
        reason: The cause, in a word or two.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Patience:
    """The time that one call may take, for the attempts of its requests and the pauses between them.

    It begins when the object is created.

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
        """Perform a request, with as many attempts as it needs.

        Args:
            request: The kind of request, for events.
            what: The purpose, for messages, such as "to read a document".
            attempt: Makes an attempt that ends within the given seconds. Raises `TryAgain` if another attempt may
                succeed.

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
                "have been applied nevertheless. Try again. If the error persists, check the network and the service."
            ) from error
        if self._on_retry is not None:
            self._on_retry(
                Retried(service=self._where, request=request, attempt=number, reason=again.reason, pause=pause)
            )
        return pause
