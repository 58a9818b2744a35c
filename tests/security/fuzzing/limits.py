"""A limit of memory that the system enforces. Imports nothing that is large."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

ALLOWANCE = 256 << 20
"""Bytes that reading may take beside what the process has when all is loaded."""

SETTINGS = {
    # What is freed goes back to the system, such that its limit counts what is held.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(128 << 10),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 10),
}
"""Variables of the environment that a process must begin with."""


def held() -> int:
    """Bytes of private writable memory of this process, which `RLIMIT_DATA` limits."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    return int(line.split()[1]) << 10


def limit(allowance: int, base: int | None = None) -> None:
    """Have the system refuse memory beyond what is held now and an allowance, and beyond a base and twice that.

    The held memory drifts, because not all freed memory goes back to the system. A leak would do more than drift.
    """
    gc.collect()
    now = held()
    most = now + allowance if base is None else min(now + allowance, base + 2 * allowance)
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))


def lift() -> None:
    """Remove the limit, to report what has failed."""
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
