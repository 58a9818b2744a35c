"""A lock for code that runs in the main thread, where a signal may raise between any two bytecodes.

An exception can strike between `with lock` and its block (in CPython 3.14, https://github.com/python/cpython/issues/148874).
The lock then stays locked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SPIN_SECONDS = 0.0002


class Turn:
    """A lock that is held briefly, and that no exception leaves locked.

    A call holds it, not a thread. So a call can release it twice. If an exception strikes the first release, the second
    one still happens.
    """

    def __init__(self) -> None:
        self._holder: dict[None, object] = {}

    def run(self, function: Callable[[], T]) -> T:
        """Call a function while no other call holds the lock."""
        me = object()
        try:
            try:
                while self._holder.setdefault(None, me) is not me:
                    time.sleep(SPIN_SECONDS)
                return function()
            finally:
                self._let_go(me)
        finally:
            self._let_go(me)  # in case an exception struck the line above

    def _let_go(self, me: object) -> None:
        if self._holder.get(None) is me:
            self._holder.pop(None, None)
