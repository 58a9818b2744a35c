"""The Cloud Storage emulator's process; what it serves is in `storage_server`."""

from __future__ import annotations

import sys

from tests.emulators.process import HOST, EmulatorProcess


class StorageEmulator(EmulatorProcess):
    """The Cloud Storage emulator on 127.0.0.1. Everything is in its memory: `stop` and `kill` lose it."""

    name = "storage"

    @property
    def url(self) -> str:
        """What to set STORAGE_EMULATOR_HOST to: `http://127.0.0.1:PORT`."""
        return f"http://{HOST}:{self.port}"

    def command(self, port: int) -> list[str]:
        """Return the command that serves `port`."""
        return [sys.executable, "-m", "tests.emulators.storage_server", "--port", str(port)]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port."""
        return str(port)
