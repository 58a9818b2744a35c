"""Services on loopback, made of Google's own message types, that accept, reject or never answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

Behave = Callable[[Any, grpc.ServicerContext], Any]
"""Returns the answer to a request, or aborts."""


@contextmanager
def serving(service: str, method: str, request: Any, response: Any, behave: Behave, *, streams: bool) -> Iterator[str]:
    """A service with one method; yields its `host:port`.

    Args:
        service: The full name of the service.
        method: The name of the method.
        request: The class of its requests.
        response: The class of its responses.
        behave: What it does with each request.
        streams: Whether requests and responses are streams.
    """
    kinds = {"request_deserializer": request.deserialize, "response_serializer": response.serialize}
    if streams:
        handler = grpc.stream_stream_rpc_method_handler(
            lambda requests, context: (behave(one, context) for one in requests), **kinds
        )
    else:
        handler = grpc.unary_unary_rpc_method_handler(behave, **kinds)
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def silent() -> Iterator[str]:
    """A port that accepts connections, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield "{}:{}".format(*listening.getsockname())


class Gate:
    """Behaves as a test says: records requests, and answers, fails or waits.

    Attributes:
        requests: The requests that arrived.
        statuses: What the next requests are answered with, instead of `answer`. Recorded nevertheless: the service has
            done what was asked, and the answer is lost.
        opened: Requests wait until it is set.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.requests: list[Any] = []
        self.statuses: list[grpc.StatusCode] = []
        self.opened = threading.Event()
        self.opened.set()

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Do it."""
        self.requests.append(request)
        self.opened.wait()
        if self.statuses:
            context.abort(self.statuses.pop(0), "as the test says")
        return self.answer
