"""Agents at work: processes that write threads, read them and look after them, all at the same time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.behaviour.api import cfg, checkpoint, metadata, number, version

THREADS = ("t", "u")
KEPT = 4


def state(thread: str, n: int) -> dict[str, Any]:
    rng = random.Random(f"{thread} {n // 5}")
    return {"log": [f"{thread} {k}" * 10 for k in range(n)], "large": rng.randbytes(20_000), "same": "always"}


def put(saver: GCSSaver, thread: str, n: int) -> None:
    values = state(thread, n)
    versions = {"log": version(n), "large": version(n // 5 * 5 or 1), "same": version(1)}
    parent = n - 1 or None
    fresh = {name: one for name, one in versions.items() if parent is None or one == version(n)}
    saver.put(cfg(thread, n=parent), checkpoint(n, values, versions), metadata(step=n, run_id=f"run {n % 3}"), fresh)
    saver.put_writes(cfg(thread, n=n), [("log", [f"{thread} {n}"])], "task")


def is_right(found: Any, thread: str, *, may_lack_writes: bool = False) -> bool:
    n = number(found)
    writes = [("task", "log", [f"{thread} {n}"])]
    return found.checkpoint["channel_values"] == state(thread, n) and (
        found.pending_writes == writes or (may_lack_writes and not found.pending_writes)
    )


class World:
    """Processes that share a store until all writers are done.

    Args:
        open_saver: Opens a saver, as another process would. The caller that made this function closes it.
        steps: How many each thread has in the end.
        attempt: Makes a call, perhaps again and again.
        after: Called after each step of the first thread, with its number.

    Attributes:
        done: The last step that was acknowledged, by thread.
    """

    def __init__(
        self,
        open_saver: Callable[[], GCSSaver],
        steps: int,
        *,
        attempt: Callable[[Callable[[], None]], None] = lambda call: call(),
        after: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = dict.fromkeys(THREADS, 0)
        self._open = open_saver
        self._steps = steps
        self._attempt = attempt
        self._after = after
        self._is_over = threading.Event()

    def write(self, thread: str) -> None:
        saver = self._open()
        for n in range(1, self._steps + 1):
            self._attempt(partial(put, saver, thread, n))
            self.done[thread] = n
            if n % 7 == 0:
                saver = self._open()  # another process, that has no cache
            if thread == THREADS[0]:
                self._after(n)

    def until_over(self, act: Callable[[GCSSaver, int], None]) -> int:
        saver, turn = self._open(), 0
        while not self._is_over.is_set() or not turn:
            self._attempt(partial(act, saver, turn))
            turn += 1
            if turn % 5 == 0:
                saver = self._open()
        return turn

    def read(self, saver: GCSSaver, turn: int) -> None:
        thread = THREADS[turn % 2]
        acknowledged = self.done[thread]
        found = saver.get_tuple(cfg(thread))
        assert found is not None or not acknowledged
        if found is not None:
            assert number(found) >= acknowledged
            assert is_right(found, thread, may_lack_writes=True)
            assert "recovered_from" not in found.metadata
        for one in saver.list(cfg(thread), limit=3):
            assert is_right(one, thread, may_lack_writes=True)

    def look_after(self, saver: GCSSaver, turn: int) -> None:
        thread = THREADS[turn % 2]
        saver.prune([thread], strategy=KeepLast(KEPT))
        saver.delete_thread(f"copy {turn}")  # What an attempt that failed has left.
        saver.copy_thread(thread, f"copy {turn}")
        copied = list(saver.list(cfg(f"copy {turn}")))
        assert all(is_right(one, thread, may_lack_writes=True) for one in copied)
        assert [one for one in saver.admin.verify(f"copy {turn}", depth="data") if one.is_damage] == []
        if turn % 2:
            saver.delete_thread(f"copy {turn}")

    def verify(self, saver: GCSSaver, turn: int) -> None:
        assert [one for one in saver.admin.verify(THREADS[turn % 2], depth="data") if one.is_damage] == []

    def live(self) -> None:
        with ThreadPoolExecutor() as pool:
            others = [pool.submit(self.until_over, act) for act in (self.read, self.look_after, self.verify)]
            writers = [pool.submit(self.write, thread) for thread in THREADS]
            try:
                for one in writers:
                    one.result()
            finally:
                self._is_over.set()
            for one in others:
                assert one.result()

    def check(self, saver: GCSSaver) -> None:
        """All that was acknowledged and not pruned is there, exactly, and nothing is damaged."""
        saver.admin.collect()
        assert [one for one in saver.admin.verify(depth="data") if one.is_damage] == []
        for thread in THREADS:
            found = list(saver.list(cfg(thread)))
            assert [number(one) for one in found][:KEPT] == list(range(self._steps, self._steps - KEPT, -1))
            assert all(is_right(one, thread) for one in found)
