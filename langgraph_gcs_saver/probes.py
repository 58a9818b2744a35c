"""`asgi`: endpoints by which a platform finds out whether a process serves, and whether threads make progress."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import ThreadState
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

Message = MutableMapping[str, Any]
App = Callable[
    [Mapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

Found = tuple[int, Mapping[str, Any]]
"""A status, and what is said."""

_WORKED_ON: tuple[ThreadState, ...] = ("running", "crashed", "paused", "due", "poison")
"""The states of threads that have a step to do."""


_READY_SECONDS = 1.0
"""How long an answer of `/readyz` is given again, so that many probes do not become many reads."""

_PROGRESS_SECONDS = 10.0
"""The least time for which an answer of `/progress` is given again."""

_PROGRESS_TIMES = 10.0
"""An answer of `/progress` is given again for this many times as long as it took. So it costs a tenth at most."""


def asgi(saver: GCSSaver, *, stalled_after: timedelta, timeout: timedelta = timedelta(seconds=5)) -> App:
    """An ASGI application with three endpoints, to be mounted in a server.

        app.mount("/health", probes.asgi(saver, stalled_after=timedelta(minutes=10)))

    - `/livez` always answers 200: the event loop works. Restart a process that does not answer.
    - `/readyz` answers 200 if the store can be reached (`saver.ping`), and 503 if not.
    - `/progress` answers 503 if a thread has a step to do and stored none for `stalled_after`. It looks at all threads
      that `run` works on or has left, and reads the newest checkpoint of each. Do not restart a process because of it:
      the thread may be another process's.

    However many probes ask, one at a time asks the store. An answer of `/readyz` is given again for a second. One of
    `/progress` is given again for 10 seconds, or for 10 times as long as it took. If the store is slow, the answer is
    503 with the error `no-answer` after `timeout`.

    The answers are JSON. They have numbers, and no ids of threads.

    Args:
        saver: The saver.
        stalled_after: See `/progress`.
        timeout: How long a probe waits for the store. Choose it shorter than your platform does.

    Raises:
        InvalidInputError: `stalled_after` or `timeout` is not a positive timedelta.
    """
    for name, value in (("stalled_after", stalled_after), ("timeout", timeout)):
        if not isinstance(value, timedelta) or value <= timedelta():
            raise InvalidInputError(f"{name} is {value!r}; it must be a positive timedelta.")
    seconds = timeout.total_seconds()
    checks: dict[str, Callable[[], Awaitable[Found]]] = {
        "/livez": _alive,
        "/readyz": _Shared(partial(_ready, saver), seconds, _READY_SECONDS),
        "/progress": _Shared(partial(_progress, saver, stalled_after), seconds, _PROGRESS_SECONDS, _PROGRESS_TIMES),
    }

    async def app(
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            check = checks.get(_path(scope))
            answer: Found = (404, {"error": "not found"})
            if scope["method"] not in ("GET", "HEAD"):
                answer = (405, {"error": "method not allowed"})
            elif check is not None:
                answer = await check()
            status, found = answer
            body = json.dumps(found).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
            ]
            if status == 405:
                headers.append((b"allow", b"GET, HEAD"))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


async def _live(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """The lifespan of an application that is not mounted in another one."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _path(scope: Mapping[str, Any]) -> str:
    """The path below the one at which the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


async def _alive() -> Found:
    return 200, {"status": "alive"}


async def _ready(saver: GCSSaver) -> Found:
    await saver.aping()
    return 200, {"status": "ready"}


async def _progress(saver: GCSSaver, stalled_after: timedelta) -> Found:
    threads = dict.fromkeys(_WORKED_ON, 0)
    stalled = 0
    for state in _WORKED_ON:
        async for one in saver.runs(state=state):
            threads[state] += 1
            stalled += one.is_stalled(stalled_after)
    return (503 if stalled else 200), {"stalled": stalled, "threads": threads}


class _Shared:
    """A check of the store that all probes share: one is under way at a time, and its answer is kept for a while.

    A check that takes too long continues without its probes, and the next ones wait for the same check.

    Args:
        check: The check.
        timeout: Seconds that a probe waits.
        least: Seconds for which an answer is kept, at least.
        times: An answer is kept this many times as long as it took.
    """

    def __init__(
        self, check: Callable[[], Coroutine[Any, Any, Found]], timeout: float, least: float, times: float = 0.0
    ) -> None:
        self._check = check
        self._timeout = timeout
        self._least = least
        self._times = times
        self._task: asyncio.Task[Found] | None = None
        self._found: Found | None = None
        self._until = 0.0

    async def __call__(self) -> Found:
        """The answer."""
        if self._found is not None and time.monotonic() < self._until:
            return self._found
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._look())
        done, _ = await asyncio.wait({self._task}, timeout=self._timeout)
        return self._task.result() if done else (503, {"error": "no-answer"})

    async def _look(self) -> Found:
        began = time.monotonic()
        try:
            found = await self._check()
        except GCSSaverError as error:
            found = 503, {"error": error.kind}
        now = time.monotonic()
        self._found, self._until = found, now + max(self._least, self._times * (now - began))
        return found
