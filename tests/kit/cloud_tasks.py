"""A queue that delivers tasks as Cloud Tasks does: by HTTP, at least once, and again after each answer but 2xx."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.patience import PATIENCE

_PAUSE = 0.1
"""Seconds between two attempts. The real queue waits longer after each, and after 429 and 503 as `Retry-After` says."""


class Task:
    """A task, and what came of it.

    Attributes:
        name: The last part of its name.
        answers: The status of each attempt; 0 if there was no answer.
    """

    def __init__(self, name: str, url: str, body: bytes, copies: int) -> None:
        self.name = name
        self.url = url
        self.body = body
        self.answers: list[int] = []
        self.left = copies
        self._changed = threading.Condition()

    def note(self, status: int) -> None:
        """Note an answer."""
        with self._changed:
            self.answers.append(status)
            self.left -= 200 <= status < 300
            self._changed.notify_all()

    @property
    def is_done(self) -> bool:
        """Whether each copy was answered by 2xx."""
        return self.left == 0

    def wait(self) -> None:
        """Wait until it is done."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.is_done, PATIENCE), self.answers


class Queue:
    """A queue of tasks, and the part of Cloud Tasks' API that adds one."""

    def __init__(self, url: str) -> None:
        self.api = url
        self.tasks: dict[str, Task] = {}
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def add(self, name: str, url: str, body: Any, copies: int = 1) -> Task | None:
        """Add a task, unless one of that name was added before. Several copies of it are delivered at the same time."""
        task = Task(name, url, body if isinstance(body, bytes) else json.dumps(body).encode(), copies)
        with self._lock:
            if name in self.tasks:
                return None
            self.tasks[name] = task
        for _ in range(copies):
            threading.Thread(target=self._deliver, args=(task,), daemon=True).start()
        return task

    def again(self, name: str) -> Task:
        """Deliver a task that was done once more, as the real queue does in rare cases."""
        before = self.tasks.pop(name)
        found = self.add(name, before.url, before.body)
        assert found is not None
        return found

    def close(self) -> None:
        """Deliver nothing more."""
        self._is_over.set()

    def _deliver(self, task: Task) -> None:
        attempts = 0
        while not self._is_over.is_set():
            headers = {
                "content-type": "application/json",
                "user-agent": "Google-Cloud-Tasks",
                "x-cloudtasks-taskname": task.name,
                "x-cloudtasks-taskretrycount": str(attempts),
            }
            try:
                status = httpx.post(task.url, content=task.body, headers=headers, timeout=PATIENCE).status_code
            except httpx.TransportError:
                status = 0
            task.note(status)
            if 200 <= status < 300:
                return
            attempts += 1
            self._is_over.wait(_PAUSE)


@contextmanager
def queue() -> Iterator[Queue]:
    """A queue whose API has a port of its own."""

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))["task"]
            request, name = body["httpRequest"], body["name"].rpartition("/tasks/")[2]
            assert self.path == f"/v2/{body['name'].rpartition('/tasks/')[0]}/tasks"
            assert request["httpMethod"] == "POST"
            is_new = found.add(name, request["url"], b64decode(request["body"])) is not None
            self.send_response(200 if is_new else 409)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    found = Queue(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.close()
        server.shutdown()
        thread.join()
        server.server_close()
