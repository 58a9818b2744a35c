"""Reads an object from the mirror if its bytes in the bucket are wrong, which only its reader can know.

The store itself does so if an object is missing, or has another checksum than its reader expects.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from langgraph_gcs_saver.engine.effects import Compute, Emit, Flow, GetBlob, InBucket
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import DamagedError, Stub

T = TypeVar("T")


def read_object(name: str, stub: Stub, open_: Callable[[bytes | None], T]) -> Flow[T]:
    """What an object holds.

    Args:
        name: The object.
        stub: The reference to it.
        open_: Opens its bytes, which are `None` for a missing object. It proves them by their digest.

    Raises:
        DamagedError: The object is missing, or has wrong bytes in each bucket.
        FrameError: The same, if `open_` raises it.
    """
    stored = yield from GetBlob(name, length=stub.fetched)
    return (yield from opened(name, stub, stored, open_))


def opened(name: str, stub: Stub, stored: bytes | None, open_: Callable[[bytes | None], T]) -> Flow[T]:
    """What an object holds whose bytes were read; for the arguments, see `read_object`, which raises the same."""
    try:
        return (yield from Compute(partial(open_, stored), size=stub.size))
    except (DamagedError, FrameError):
        # While the bucket is away, the bytes were the mirror's. So each bucket is asked before damage is reported.
        for mirror in (True, False):
            other = yield from InBucket(GetBlob(name, length=stub.fetched), mirror=mirror)
            if other is None or other == stored:
                continue
            with suppress(DamagedError, FrameError):
                found = yield from Compute(partial(open_, other), size=stub.size)
                if mirror:
                    yield from report_read(name)
                return found
        raise


def report_read(name: str) -> Flow[None]:
    """Report that an object was read from the mirror, because the bucket's bytes were wrong."""
    yield from Emit(ReadFromMirror(thread_id=keys.told_thread_of_blob(name), name=name, reason="corrupt"))
