"""Postpones Python's garbage collection while a large state is deserialized.

Thousands of new messages start the collector many times, and in some of these runs it visits every object of the
process. All threads wait meanwhile, event loops included. With LangGraph and Google's clients loaded, that takes 50 ms
for a 5 MB state of messages (`benchmarks/event_loop.py`). The work itself holds the loop for 1 ms. None of the new
objects can be garbage before the state is complete.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from langgraph_gcs_saver.engine.turn import Turn

T = TypeVar("T")

LARGE_BYTES = 256 << 10
"""The number of serialized bytes from which it matters."""

_turn = Turn()
_users: set[object] = set()
_was_enabled = False


def put_off(size: int, function: Callable[[], T]) -> T:
    """Call a function with automatic garbage collection off, if it makes objects from at least `LARGE_BYTES` bytes.

    Calls may overlap in many threads. The collector is on again after the last one, if it was on before the first.

    Args:
        size: Serialized bytes that the function makes objects from.
        function: The function.
    """
    if size < LARGE_BYTES:
        return function()
    me = object()
    try:
        try:
            _turn.run(partial(_enter, me))
            return function()
        finally:
            _turn.run(partial(_leave, me))
    finally:
        _turn.run(partial(_leave, me))  # in case an exception struck the line above


def _enter(me: object) -> None:
    global _was_enabled  # noqa: PLW0603 - the collector is global too
    if not _users:
        _was_enabled = gc.isenabled()
    _users.add(me)
    gc.disable()


def _leave(me: object) -> None:
    global _was_enabled  # noqa: PLW0603 - as above
    _users.discard(me)
    if not _users and _was_enabled:
        gc.enable()
        _was_enabled = False


def _reset() -> None:
    """In a forked child, forget the calls of other threads, because these threads do not exist there."""
    global _turn  # noqa: PLW0603 - as above
    _turn = Turn()
    _users.clear()
    _leave(object())


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset)
