"""How much memory is in use: of the container's limit (cgroup v2, v1), of the process's limits, or of the machine.

Files are opened once, because opening one takes longer than all the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from langgraph_gcs_saver.errors import InvalidInputError

UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63."""

_STAT_BYTES = 16 << 10

Gauge = Callable[[float], float]
"""The part of a limit that is in use. If it is below the argument, it may be reported too high, but still below it."""


class MemoryGauge:
    """Measures memory. A forked child needs its own.

    Args:
        cgroups: Where cgroups are mounted.
        proc: Where the system describes processes.

    Raises:
        InvalidInputError: The system does not say how much memory the process uses.
    """

    def __init__(self, cgroups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> None:
        self._files: list[int] = []
        try:
            self._statm = self._open(proc / "self" / "statm")
            self._page = os.sysconf("SC_PAGE_SIZE")
            self._gauges = list(self._containers(cgroups, proc)) + list(self._process(proc))
        except (OSError, ValueError) as error:
            self.close()
            raise InvalidInputError(
                f"This system does not say how much memory a process uses ({error}). Leave out policies such as "
                "Memory(…)."
            ) from error

    def close(self) -> None:
        """Close the files. Idempotent."""
        files, self._files = self._files, []
        for file in files:
            os.close(file)

    def __del__(self) -> None:
        self.close()

    def rss(self) -> int:
        """Resident memory of the process, in bytes."""
        return self._pages(1)

    def part(self, least: float = 0.0) -> float:
        """The part of the tightest limit that is in use. If it is below `least`, it may be reported too high."""
        return max(gauge(least) for gauge in self._gauges)

    # Containers

    def _containers(self, cgroups: Path, proc: Path) -> Iterator[Gauge]:
        """The cgroup of the process and those around it: each may have a limit."""
        for line in _text(proc / "self" / "cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                for folder in _upwards(cgroups, path):
                    yield from self._container(folder, "memory.max", "memory.current", b"\ninactive_file ")
            elif "memory" in controllers.split(","):
                for folder in _upwards(cgroups / "memory", path):
                    yield from self._container(
                        folder, "memory.limit_in_bytes", "memory.usage_in_bytes", b"\ntotal_inactive_file "
                    )

    def _container(self, folder: Path, limit_name: str, used_name: str, inactive: bytes) -> Iterator[Gauge]:
        limit_text = _text(folder / limit_name).strip()
        if not limit_text.isdecimal() or not 0 < int(limit_text) < UNLIMITED:
            return
        limit = int(limit_text)
        try:
            used, stat = self._open(folder / used_name), self._open(folder / "memory.stat")
        except FileNotFoundError:
            return

        def part(least: float) -> float:
            bytes_used = int(os.pread(used, 32, 0))
            if bytes_used < least * limit:
                return bytes_used / limit
            # The system gives back what it only caches of files before it ends a process.
            found = os.pread(stat, _STAT_BYTES, 0).partition(inactive)[2]
            return (bytes_used - int(found.partition(b"\n")[0] or 0)) / limit

        yield part

    # The process and the machine

    def _process(self, proc: Path) -> Iterator[Gauge]:
        import resource  # noqa: PLC0415 - not every system has it

        for limit, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY and 0 < most < UNLIMITED:
                yield self._of_process(most, field)
        total = next((line for line in _text(proc / "meminfo").splitlines() if line.startswith("MemTotal:")), None)
        if total is not None:
            yield self._of_process(int(total.split()[1]) << 10, 1)

    def _of_process(self, most: int, field: int) -> Gauge:
        return lambda _least: self._pages(field) / most

    def _pages(self, field: int) -> int:
        return int(os.pread(self._statm, 256, 0).split()[field]) * self._page

    def _open(self, path: Path) -> int:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._files.append(file)
        return file


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a cgroup, and those around it. A container may see its own as the top, under a path of the host."""
    folder = mount / path.lstrip("/")
    if ".." in folder.parts or not folder.is_dir():
        folder = mount
    while True:
        yield folder
        if folder == mount:
            return
        folder = folder.parent


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        return ""
