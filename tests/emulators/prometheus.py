"""`promtool`, which evaluates PromQL: where it is, and how to fetch it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.emulators.process import run
from tests.patience import PATIENCE


def _cache() -> Path:
    """Where a fetched `promtool` is kept."""
    return Path.home() / ".cache" / "langgraph-gcs-saver-tests"


_WAYS = """\
Ways to get it:
  - apt-get install prometheus, or any other package of Prometheus with promtool on PATH;
  - set PROMTOOL to the path of a promtool."""


class PromtoolNotFoundError(RuntimeError):
    """`promtool` is not on this machine and could not be fetched."""


def find_promtool() -> Path | None:
    """Return `promtool` if it is on this machine.

    Raises:
        PromtoolNotFoundError: PROMTOOL names a file that is not there.
    """
    named = os.environ.get("PROMTOOL")
    if named:
        if not Path(named).is_file():
            raise PromtoolNotFoundError(f"PROMTOOL is {named!r}, which is not a file.\n{_WAYS}")
        return Path(named).resolve()
    found = shutil.which("promtool") or shutil.which("promtool", path=_cache())
    return None if found is None else Path(found)


def _fetch() -> str:
    """Unpack Debian's package into the cache, which takes no root; return why that failed."""
    missing = [program for program in ("apt-get", "dpkg") if shutil.which(program) is None]
    if missing:
        return f"there is no {missing[0]} on PATH"
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        folder = Path(made)
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        # A machine may have no lists of packages yet, and this user may not be allowed to fetch them for all.
        own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User="]
        complaint = ""
        for commands in (
            (["apt-get", "download", "prometheus"],),
            (["apt-get", *own, "update"], ["apt-get", *own, "download", "prometheus"]),
        ):
            for command in commands:
                _, complaint = run(command, PATIENCE, folder)
            package = next(folder.glob("prometheus_*.deb"), None)
            if package is not None:
                _, complaint = run(["dpkg", "-x", str(package), str(folder / "unpacked")], PATIENCE)
                unpacked = folder / "unpacked" / "usr" / "bin" / "promtool"
                if unpacked.is_file():
                    unpacked.replace(cache / "promtool")
                    return ""
        return complaint or "the package has no promtool"


def ensure_promtool() -> Path:
    """Return `promtool`; fetch it if it is not on this machine.

    Raises:
        PromtoolNotFoundError: It is nowhere and cannot be fetched; the message says the ways to get it.
    """
    found = find_promtool()
    if found is None:
        complaint = _fetch()
        found = find_promtool()
        if found is None:
            raise PromtoolNotFoundError(
                f"promtool is not on this machine, and fetching Debian's package failed: {complaint}\n{_WAYS}"
            )
    return found
