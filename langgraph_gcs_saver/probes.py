"""`asgi`: endpoints by which a platform finds out whether a process serves, and whether threads make progress."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import ThreadState
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

Message = MutableMapping[str, Any]
App = Callable[
    [Mapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_WORKED_ON: tuple[ThreadState, ...] = ("running", "crashed", "paused", "due", "poison")
"""The states of threads that have a step to do."""


def asgi(saver: GCSSaver, *, stalled_after: timedelta) -> App:
    """An ASGI application with three endpoints, to be mounted in a server.

        app.mount("/health", probes.asgi(saver, stalled_after=timedelta(minutes=10)))

    - `/livez` always answers 200: the event loop works. Restart a process that does not answer.
    - `/readyz` answers 200 if the store can be reached (`saver.ping`), and 503 if not.
    - `/progress` answers 503 if a thread has a step to do and stored none for `stalled_after`. It looks at all threads
      that `run` works on or has left, and reads the newest checkpoint of each. So do not ask it every second. Do not
      restart a process because of it: the thread may be another process's.

    The answers are JSON. They have numbers, and no ids of threads.

    Args:
        saver: The saver.
        stalled_after: See `/progress`.

    Raises:
        InvalidInputError: `stalled_after` is not a positive timedelta.
    """
    if not isinstance(stalled_after, timedelta) or stalled_after <= timedelta():
        raise InvalidInputError(f"stalled_after is {stalled_after!r}; it must be a positive timedelta.")

    async def app(
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, found = await _answer(scope, saver, stalled_after)
            body = b"" if scope["method"] == "HEAD" else json.dumps(found).encode()
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return app


async def _live(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """The lifespan of an application that is not mounted in another one."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _answer(scope: Mapping[str, Any], saver: GCSSaver, stalled_after: timedelta) -> tuple[int, Mapping[str, Any]]:
    """The status and the content of an answer."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if scope["method"] not in ("GET", "HEAD"):
        return 405, {"error": "method not allowed"}
    if path == "/livez":
        return 200, {"status": "alive"}
    try:
        if path == "/readyz":
            await saver.aping()
            return 200, {"status": "ready"}
        if path == "/progress":
            return await _progress(saver, stalled_after)
    except GCSSaverError as error:
        return 503, {"error": error.kind}
    return 404, {"error": "not found"}


async def _progress(saver: GCSSaver, stalled_after: timedelta) -> tuple[int, Mapping[str, Any]]:
    threads = dict.fromkeys(_WORKED_ON, 0)
    stalled = 0
    for state in _WORKED_ON:
        async for one in saver.runs(state=state):
            threads[state] += 1
            stalled += one.is_stalled(stalled_after)
    return (503 if stalled else 200), {"stalled": stalled, "threads": threads}
