"""A TCP relay on an asyncio loop: bytes pass as they are, at once or a fixed time after they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tests.emulators.process import HOST

BACKLOG = 1024


class Watch(Protocol):
    """Reads along on one connection, when bytes are handed over."""

    def sent(self, data: bytes) -> None:
        """From the client."""

    def answered(self, data: bytes) -> None:
        """To the client."""

    def ended(self) -> None:
        """The connection is closed."""


class Relay:
    """Listens on a free port of 127.0.0.1, and hands bytes to and fro.

    Each piece waits by itself, so a stream of them is as fast as without the wait, and all in their order.

    Args:
        target: `host:port`.
        forth: Seconds that bytes wait on their way to the target.
        back: Seconds that they wait on their way to the client.
        watch: Makes what reads along on a new connection.
    """

    def __init__(
        self, target: str, *, forth: float = 0.0, back: float = 0.0, watch: Callable[[], Watch] | None = None
    ) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._forth, self._back = forth, back
        self._watch = watch
        self._ends: set[_End] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on the running event loop; the port."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, HOST, 0, backlog=BACKLOG)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        while self._ends:
            for end in self._ends:
                end.transport.abort()
            await asyncio.sleep(0)

    def _accept(self) -> _End:
        loop = asyncio.get_running_loop()
        reader = None if self._watch is None else self._watch()
        client, server = _End(self._ends, self._forth), _End(self._ends, self._back)
        if reader is not None:
            client.watch, server.watch, server.ended = reader.sent, reader.answered, reader.ended
        client.other, server.other = server, client
        client.connect = lambda: loop.create_connection(lambda: server, self._host, self._port)
        return client


class _End(asyncio.Protocol):
    """One of a connection's two ends: what comes in here leaves at the other."""

    other: _End
    connect: Callable[[], Any] | None = None
    watch: Callable[[bytes], None] | None = None
    ended: Callable[[], None] | None = None

    def __init__(self, ends: set[_End], delay: float) -> None:
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self._delay = delay
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_done = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ends.add(self)
        if self.connect is not None:
            transport.pause_reading()
            self._task = self._loop.create_task(self._open(self.connect))

    async def _open(self, connect: Callable[[], Any]) -> None:
        try:
            await connect()
        except OSError:
            self.transport.abort()  # as its client sees a service that is gone
            return
        if self.transport.is_closing():  # the client did not wait for it
            self.other.transport.close()
        else:
            self.transport.resume_reading()
            self._due()

    def data_received(self, data: bytes) -> None:
        self._pass(data)

    def eof_received(self) -> bool:
        self._pass(b"")
        return True  # the other direction continues

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._ends.discard(self)
        self._pass(None)
        if self.ended is not None:
            self.ended()

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def _pass(self, data: bytes | None) -> None:
        if not (self._delay or self._waiting or self.other.transport is None):
            self._hand_over(data)
            return
        self._waiting.append((self._loop.time() + self._delay, data))
        if len(self._waiting) == 1:
            self._loop.call_at(self._waiting[0][0], self._due)

    def _due(self) -> None:
        if self.other.transport is None:
            return  # `_open` calls this again: Python 3.10 reads although it was paused
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            self._hand_over(self._waiting.popleft()[1])
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._due)

    def _hand_over(self, data: bytes | None) -> None:
        sink = self.other.transport
        if sink is None or sink.is_closing():
            return
        if data is None:
            sink.close()
        elif not data:
            sink.write_eof()
            self._is_done = True
            if self.other._is_done:  # asyncio leaves it to us to close what has ended in both directions
                self.transport.close()
                sink.close()
        else:
            if self.watch is not None:
                self.watch(data)
            sink.write(data)
