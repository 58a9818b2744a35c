"""An emulator in a process of its own: start on a free port, wait until it is ready, stop, kill, start again."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from typing_extensions import Self

from tests.patience import PATIENCE, eventually

HOST = "127.0.0.1"

_ROOT = Path(__file__).resolve().parents[2]

# Below the range from which the kernel takes ports of outgoing connections (32768 on Linux, 49152 elsewhere). In that
# range, a client that reconnects to a killed server's port can be given the same port as its own. It then connects to
# itself, and the restarted server finds its port taken.
_PORTS = range(20_000, 32_000)


def run(command: list[str], seconds: float, folder: Path | None = None) -> tuple[str, str]:
    """Run a command; return its output and, when it failed, what it complained about."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return "", f"no end after {seconds:.0f} s"
    except OSError as error:
        return "", str(error)
    if done.returncode != 0:
        return "", (done.stderr or done.stdout).strip()[-1000:] or f"exit code {done.returncode}"
    return done.stdout.strip(), ""


class EmulatorStartError(RuntimeError):
    """An emulator did not become ready; the message holds the end of its log."""


def free_port() -> int:
    """Return a port of 127.0.0.1 where no process listens at this moment."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise EmulatorStartError(f"100 ports between {_PORTS.start} and {_PORTS.stop} of {HOST} are all taken")


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return the status and the beginning of an answer; the status is 0 if there is none."""
    # Not urllib.request, which would send even this to a proxy that the environment names.
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(100)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class EmulatorProcess(ABC):
    """An emulator's process; `with` starts and stops it.

    Args:
        log_path: File to append the emulator's output to; a new temporary one by default.
    """

    name: ClassVar[str]

    def __init__(self, log_path: Path | None = None) -> None:
        if log_path is None:
            log_path = Path(tempfile.mkdtemp(prefix=f"{self.name}-emulator-")) / "log"
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """Return the command that serves `port` of 127.0.0.1."""

    @abstractmethod
    def announcement(self, port: int) -> str:
        """Return what the emulator writes to its log once it holds the port."""

    def answers(self, port: int) -> bool:
        """Return whether the emulator answers requests."""
        status, body = get(port, "/")
        return status == 200 and body.strip().lower() == b"ok"

    @property
    def port(self) -> int:
        """The port of the last successful start; it stays known after `stop` and `kill`."""
        if self._port is None:
            raise RuntimeError(f"the {self.name} emulator was never started")
        return self._port

    @property
    def pid(self) -> int:
        """Id of the running process."""
        if self._process is None:
            raise RuntimeError(f"the {self.name} emulator is not running")
        return self._process.pid

    def start(self, port: int | None = None) -> None:
        """Start, and return when requests are answered.

        Args:
            port: Port to serve. The default is a free one, or another one if a different process takes that first.

        Raises:
            EmulatorStartError: It ended by itself, or did not answer within `PATIENCE`.
        """
        if self._process is not None:
            raise RuntimeError(f"the {self.name} emulator is running already")
        for attempt in range(1, 4):
            chosen = free_port() if port is None else port
            try:
                self._start(chosen)
            except EmulatorStartError as error:
                if attempt == 3 or isinstance(error.__cause__, TimeoutError):
                    raise
            else:
                self._port = chosen
                return

    def _start(self, port: int) -> None:
        with self.log_path.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                self.command(port), cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait(self._process, port, begin)
        except BaseException:
            self.kill()
            raise

    def _wait(self, process: subprocess.Popen[bytes], port: int, begin: int) -> None:
        def is_ready() -> bool:
            if self._announced(port, begin) and self.answers(port):
                return True
            if process.poll() is not None:
                raise EmulatorStartError(self._complaint(f"ended with code {process.returncode}", begin))
            return False

        try:
            eventually(is_ready)
        except TimeoutError as error:
            raise EmulatorStartError(self._complaint(f"was not ready after {PATIENCE:g} s", begin)) from error

    def _log(self, begin: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _announced(self, port: int, begin: int) -> bool:
        # An answer alone does not show which process gave it: another run's emulator may just have taken the port.
        return self.announcement(port) in self._log(begin).splitlines()

    def _complaint(self, what: str, begin: int) -> str:
        return f"The {self.name} emulator {what}; the end of its log ({self.log_path}):\n{self._log(begin)[-3000:]}"

    def stop(self) -> None:
        """Ask the process to end, and kill it when it hangs. Does nothing when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the process at once, with SIGKILL. Does nothing when it is not running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
