"""A proxy in front of Firestore that fails as planned: answers are lost, late or never sent, connections are reset.

```python
with FirestoreProxy("127.0.0.1:8080") as proxy:  # the emulator's address
    saver = ...  # made while FIRESTORE_EMULATOR_HOST is proxy.host
    proxy.faults = Faults(Fault("Commit", "lost", nth=2))
    ...
    assert proxy.faults.happened == {("Commit", "lost"): 1}
```

Messages pass as the bytes that they are, in both directions, with their metadata. `storage_proxy` does the same for
Cloud Storage. A client must withstand:

- `lost`: the request was carried out, but the answer says that the service is unavailable.
- `lost-reset`: the request was carried out, then the connection is reset, with all requests that are under way on it.
- `silent`: the request was carried out, but no answer comes for as long as the client waits.
- `stall`: the request was not carried out, and no answer comes.
- `late`: the request is carried out after the client has given up waiting, and perhaps has retried.
- `reset`: the connection is reset, and nothing was carried out.
- `cut` (of streams): only some of the answers come, then the error.
- a status, such as `unavailable`: the proxy answers, and nothing is carried out.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.testing import PATIENCE

if TYPE_CHECKING:
    from typing_extensions import Self

STATUSES = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "internal": grpc.StatusCode.INTERNAL,
    "aborted": grpc.StatusCode.ABORTED,
}

KINDS = (*STATUSES, "lost", "lost-reset", "silent", "stall", "late", "reset")
"""Faults of every RPC."""

STREAM_KINDS = (*KINDS, "cut")
"""Faults of an RPC that answers with a stream."""

STREAMS = frozenset({"BatchGetDocuments", "RunQuery", "RunAggregationQuery"})
"""RPCs that answer with a stream. Others are forwarded as one answer to one request."""

LATE_SECONDS = 0.2
"""How long after the client gave up a late request arrives."""

_THREADS = 64
_PIECE = 64 << 10
_RESET = struct.pack("ii", 1, 0)
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A service that was killed and started again must not seem gone for longer than it is.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


@record(frozen=True, slots=True)
class Fault:
    """A fault, and the requests that it affects.

    Attributes:
        call: The kind of the requests: an RPC's name (`Commit`), or one of `storage_proxy.CALLS`.
        kind: What goes wrong.
        nth: The first request that it affects, counted from 1 in the order of arrival.
        times: How many requests in a row it affects.
    """

    call: str
    kind: str
    nth: int = 1
    times: int = 1

    def hits(self, call: str, number: int) -> bool:
        """Whether it affects the `number`th request of a kind."""
        return self.call == call and self.nth <= number < self.nth + self.times


class Faults:
    """Decides what goes wrong, and counts requests by kind, and faults that have happened. Safe for threads.

    Args:
        planned: These faults happen. If several affect the same request, the first one happens.
        probability: The probability of a fault for a request without a planned one.
        kinds: What may then go wrong; everything if not given.
        seed: Seed of the random choices. The order of arrival still decides which request gets which choice.
    """

    def __init__(
        self, *planned: Fault, probability: float = 0.0, kinds: frozenset[str] | None = None, seed: int = 0
    ) -> None:
        self.requests: Counter[str] = Counter()
        self.happened: Counter[tuple[str, str]] = Counter()
        self._planned = planned
        self._probability = probability
        self._kinds = kinds
        self._random = random.Random(seed)  # noqa: S311 - a seed must give the same faults again
        self._lock = threading.Lock()

    def choose(self, call: str, possible: tuple[str, ...]) -> str | None:
        """Count a request, and return what goes wrong with it.

        Raises:
            ValueError: The planned fault cannot happen to such a request.
        """
        with self._lock:
            self.requests[call] += 1
            for fault in self._planned:
                if fault.hits(call, self.requests[call]):
                    if fault.kind not in possible:
                        raise ValueError(f"{fault} cannot happen; there are: {', '.join(possible)}.")
                    return fault.kind
            if self._random.random() < self._probability:
                return self._random.choice([kind for kind in possible if self._kinds is None or kind in self._kinds])
            return None

    def note(self, call: str, kind: str) -> None:
        """Count a fault that happened."""
        with self._lock:
            self.happened[call, kind] += 1


class Latecomers:
    """Requests that are carried out after their clients have given up."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def settle(self, seconds: float) -> None:
        """Wait until all of them have been carried out.

        Raises:
            TimeoutError: Some are still under way after this many seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._count, seconds):
                raise TimeoutError(f"{self._count} late requests are still under way.")


@record(frozen=True, slots=True)
class _Outcome:
    """What the service answered: messages, and a status if they did not end well."""

    answers: list[bytes]
    error: tuple[grpc.StatusCode, str] | None = None


class FirestoreProxy:
    """Forwards every RPC to a Firestore emulator, except for what `faults` says. A context manager.

    Args:
        target: `host:port` of the emulator. It need not run.
        faults: What goes wrong; nothing if not given. You can replace it at any time.

    Attributes:
        host: `host:port` to set FIRESTORE_EMULATOR_HOST to.
    """

    def __init__(self, target: str, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self._late = Latecomers()
        self._channel: Any = grpc.insecure_channel(target, options=_OPTIONS)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="firestore-proxy"),
            handlers=[_Handler(self._answer)],
            options=(*_OPTIONS[:2], ("grpc.so_reuseport", 0)),
        )
        self._relay = _Relay(self._server.add_insecure_port("127.0.0.1:0"))
        self.host = f"127.0.0.1:{self._relay.port}"
        self._server.start()

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until late requests have been carried out.

        Raises:
            TimeoutError: Some are still under way after this many seconds.
        """
        self._late.settle(seconds)

    def close(self) -> None:
        """End all connections. Requests under way end as unavailable."""
        self._server.stop(None).wait()
        self._relay.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, method: str, request: bytes, context: Any) -> Iterator[bytes]:
        call = method.rpartition("/")[2]
        faults = self.faults
        kind = faults.choose(call, STREAM_KINDS if call in STREAMS else KINDS)
        if kind in STATUSES:
            faults.note(call, kind)
            context.abort(STATUSES[kind], "a fault of the proxy")
        if kind == "reset":
            faults.note(call, kind)
            self._relay.reset(context.peer())
            context.abort(grpc.StatusCode.UNAVAILABLE, "a fault of the proxy")
        if kind in {"stall", "late"}:
            with self._late:
                faults.note(call, kind)
                _await_end(context)
                if kind == "late":
                    time.sleep(LATE_SECONDS)
                    self._forward(method, request, context)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "a fault of the proxy")
        outcome = self._forward(method, request, context)
        if kind is not None:
            faults.note(call, kind)
            if kind == "cut":
                yield from outcome.answers[: (len(outcome.answers) + 1) // 2]
            elif kind == "lost-reset":
                self._relay.reset(context.peer())
            elif kind == "silent":
                _await_end(context)
            context.abort(grpc.StatusCode.UNAVAILABLE, "a fault of the proxy")
        yield from outcome.answers
        if outcome.error is not None:
            context.abort(*outcome.error)

    def _forward(self, method: str, request: bytes, context: Any) -> _Outcome:
        metadata = [pair for pair in context.invocation_metadata() if pair[0] != "user-agent"]
        options: dict[str, Any] = {"metadata": metadata, "timeout": PATIENCE}
        answers: list[bytes] = []
        try:
            if method.rpartition("/")[2] in STREAMS:
                answers.extend(self._channel.unary_stream(method)(request, **options))
            else:
                answers.append(self._channel.unary_unary(method)(request, **options))
        except grpc.RpcError as error:
            found: Any = error
            return _Outcome(answers, (found.code(), found.details() or ""))
        return _Outcome(answers)


class _Handler(grpc.GenericRpcHandler):
    """Serves every method with one function, without parsing messages."""

    def __init__(self, answer: Callable[[str, bytes, Any], Iterator[bytes]]) -> None:
        self._answer = answer

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method
        if method.rpartition("/")[2] in STREAMS:
            return grpc.unary_stream_rpc_method_handler(partial(self._answer, method))
        return grpc.unary_unary_rpc_method_handler(partial(self._one, method))

    def _one(self, method: str, request: bytes, context: Any) -> bytes:
        (answer,) = self._answer(method, request, context)
        return answer


def _await_end(context: Any) -> None:
    """Wait until the client has given up, or the server ends."""
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(PATIENCE)


class _Relay:
    """Passes bytes between clients and a port, because grpc cannot reset a client's connection itself."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._clients: dict[int, socket.socket] = {}  # by the port of the connection to the target
        self._broken: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def reset(self, peer: str) -> None:
        """Reset the connection of a client, which grpc shows as `ipv4:127.0.0.1:PORT`."""
        number = int(peer.rpartition(":")[2])
        with self._lock:
            client = self._clients.get(number)
            if client is None:
                return  # Another request of the same connection was first.
            self._broken.add(number)
        # Only reading ends here. Ending writing would close the connection in an orderly way before the reset.
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """End all connections and threads."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            clients, threads = list(self._clients.values()), list(self._threads)
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _start(self, function: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=function, args=args, name="firestore-proxy-relay", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            number = server.getsockname()[1]
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._clients[number] = client
            back = self._start(self._pump, server, client, number)
            self._pump(client, server, number)
            back.join()
            with self._lock:
                del self._clients[number]
                self._broken.discard(number)

    def _pump(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                sink.sendall(data)
        with self._lock:
            is_broken = number in self._broken
        if not is_broken or sink is not self._clients[number]:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
