"""A cache with a limit in bytes, which drops the least recently used values first.

It is never a source of truth: any value may be dropped at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from langgraph_gcs_saver.engine.turn import Turn

K = TypeVar("K")
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Maps keys to values of a stated size. Many threads can use it at the same time.

    Args:
        max_bytes: The maximum size of all values together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._is_counted = True
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._turn = Turn()

    def get(self, key: K) -> V | None:
        """The value of a key, which becomes the most recently used one; `None` if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        with suppress(KeyError):  # dropped meanwhile
            self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep `value`, of `size` bytes, and drop the least recently used values until everything fits."""
        self._turn.run(partial(self._put, key, value, size))

    def drop(self, key: K) -> None:
        """Forget a key."""
        self._turn.run(partial(self._drop, key))

    def _put(self, key: K, value: V, size: int) -> None:
        self._drop(key)
        if size > self._max_bytes:
            return
        self._is_counted = False
        self._entries[key] = (value, size)
        self._bytes += size
        self._is_counted = True
        while self._bytes > self._max_bytes:
            self._is_counted = False
            # A single step, because `get` changes the order without taking a turn.
            _, (_, oldest) = self._entries.popitem(last=False)
            self._bytes -= oldest
            self._is_counted = True

    def _drop(self, key: K) -> None:
        if not self._is_counted:  # an exception was raised between a change and its count
            self._bytes = sum(size for _, size in list(self._entries.values()))
        self._is_counted = False
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
        self._is_counted = True
