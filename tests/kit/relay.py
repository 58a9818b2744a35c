"""A server that becomes unreachable and comes back, while the server itself keeps running."""

import socket
import threading
from contextlib import suppress

from typing_extensions import Self

from tests.emulators.process import HOST, free_port


class Relay:
    """A port that leads to a server, while `with` holds and it is not cut off.

    Args:
        target: `host:port` of the server.

    Attributes:
        host: `host:port` of the relay.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._port = free_port()
        self.host = f"{HOST}:{self._port}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def restore(self) -> None:
        """Accept connections, on the same port as before."""
        listener = socket.create_server((HOST, self._port))
        self._open = {listener}
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            ended, self._open = self._open, set()
        for one in ended:
            with suppress(OSError):  # The other side has ended it.
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # It was cut off.
            while True:
                self._connect(listener, listener.accept()[0])

    def _connect(self, listener: socket.socket, client: socket.socket) -> None:
        pair = client, socket.create_connection(self._target)
        with self._lock:
            is_open = listener in self._open
            if is_open:
                self._open.update(pair)
        for one, other in (pair, pair[::-1]):
            if is_open:
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()
            else:
                one.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):  # Either side has ended it, or it was cut off.
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
