"""Putting off Python's garbage collection while a large state is deserialised.

Thousands of new messages make the collector look at every object of the process, some of the times that it starts, and
all threads stand still meanwhile, event loops included: 50 ms for a 5 MB state of messages in a process with LangGraph
and Google's clients loaded (`benchmarks/event_loop.py`), where the work itself holds the loop for 1 ms. None of the new
objects can be garbage before the state is complete.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_BYTES = 256 << 10
"""Serialised bytes from which it matters."""

_lock = threading.Lock()
_users = 0
_was_enabled = False


@contextmanager
def put_off(size: int) -> Iterator[None]:
    """Run a block with automatic garbage collection off, if it makes objects of so many serialised bytes.

    Blocks may overlap in many threads. The collector is on again after the last one, if it was on before the first.
    """
    global _users, _was_enabled  # noqa: PLW0603 - the collector is global too
    if size < LARGE_BYTES:
        yield
        return
    with _lock:
        if not _users:
            _was_enabled = gc.isenabled()
            gc.disable()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users and _was_enabled:
                gc.enable()


def _reset() -> None:
    """In a forked child: the threads that were inside are not there to come out again."""
    global _lock, _users  # noqa: PLW0603
    _lock = threading.Lock()
    if _users and _was_enabled:
        gc.enable()
    _users = 0


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset)
