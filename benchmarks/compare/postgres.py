"""A PostgreSQL server for one run, in a temporary directory, with default settings: fsync is on."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from tests.emulators.process import HOST, free_port
from tests.patience import PATIENCE

_DEBIAN = "/usr/lib/postgresql/*/bin"
_READY = "database system is ready to accept connections"


class PostgresNotFoundError(RuntimeError):
    """PostgreSQL's server is not on this machine, or this user may not run it."""


def find_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the newest, where Debian keeps several.

    Raises:
        PostgresNotFoundError: There is none.
    """
    found = shutil.which(name)
    if found is None:
        versions = [path for path in Path("/").glob(f"{_DEBIAN[1:]}/{name}") if path.parts[-3].isdigit()]
        found = str(max(versions, key=lambda path: int(path.parts[-3]), default="")) or None
    if found is None:
        raise PostgresNotFoundError(
            f"There is no `{name}` on PATH or in {_DEBIAN}. Install PostgreSQL's server, on Debian: "
            "apt-get install postgresql"
        )
    return found


def conninfo(host: str) -> str:
    """The connection string for `host:port`; not encrypted, so that a proxy can read along."""
    return f"postgresql://bench@{host}/postgres?sslmode=disable&gssencmode=disable"


class Postgres:
    """A server on a free port of 127.0.0.1; `with` starts and stops it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()
        self.port = 0

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        initdb, postgres = find_program("initdb"), find_program("postgres")
        run_as = _unprivileged()
        if run_as:
            os.chown(self._directory, run_as["user"], run_as["group"])
        data, log_path = self._directory / "data", self._directory / "log"
        made = subprocess.run(
            [initdb, "--pgdata", data, "--username=bench", "--auth=trust", "--encoding=UTF8", "--no-locale"],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **run_as,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        self.port = free_port()
        settings = (f"port={self.port}", f"listen_addresses={HOST}", "unix_socket_directories=")
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [postgres, "-D", data, *(word for setting in settings for word in ("-c", setting))],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **run_as,
            )
        deadline = time.monotonic() + PATIENCE
        while _READY not in (said := log_path.read_text(errors="replace")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start; the end of its log:\n{said[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, and delete its cluster."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown: connections are cut, what was committed is kept
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """Arguments of `Popen` that make it run as another user: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise PostgresNotFoundError("PostgreSQL does not run as root, and there is no account `postgres` or `nobody`.")
