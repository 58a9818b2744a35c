"""The Cloud Storage emulator's process; what it serves is in `storage_server`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.emulators.process import HOST, EmulatorProcess


class StorageEmulator(EmulatorProcess):
    """The Cloud Storage emulator on 127.0.0.1.

    Args:
        log_path: File to append its output to; a new temporary one by default.
        directory: Where to keep buckets and objects, for later starts; by default `stop` and `kill` lose them.
    """

    name = "storage"

    def __init__(self, log_path: Path | None = None, directory: Path | None = None) -> None:
        super().__init__(log_path)
        self.directory = directory

    @property
    def url(self) -> str:
        """What to set STORAGE_EMULATOR_HOST to: `http://127.0.0.1:PORT`."""
        return f"http://{HOST}:{self.port}"

    def command(self, port: int) -> list[str]:
        """Return the command that serves `port`."""
        kept = [] if self.directory is None else ["--directory", str(self.directory)]
        return [sys.executable, "-m", "tests.emulators.storage_server", "--port", str(port), *kept]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port."""
        return str(port)
