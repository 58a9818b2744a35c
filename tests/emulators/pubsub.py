"""Google's Pub/Sub emulator: where its jar is, and how to run it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.emulators.firestore import EmulatorNotFoundError, find_java, sdk_roots
from tests.emulators.process import HOST, EmulatorProcess

_LIB = Path("platform/pubsub-emulator/lib")


def find_jar() -> Path:
    """Return the emulator's jar.

    Raises:
        EmulatorNotFoundError: It is not on this machine.
    """
    for root in sdk_roots(shutil.which("gcloud")):
        for jar in sorted((root / _LIB).glob("cloud-pubsub-emulator-*-all.jar")):
            return jar
    raise EmulatorNotFoundError(
        "The Pub/Sub emulator is not on this machine. Install it with `gcloud components install pubsub-emulator` (or, "
        "for a gcloud from apt: apt-get install google-cloud-cli-pubsub-emulator)."
    )


class PubSubEmulator(EmulatorProcess):
    """The Pub/Sub emulator on 127.0.0.1. All messages are in memory."""

    name = "pubsub"

    @property
    def host(self) -> str:
        """What to set PUBSUB_EMULATOR_HOST to: `127.0.0.1:PORT`."""
        return f"{HOST}:{self.port}"

    def command(self, port: int) -> list[str]:
        """Return the command that serves `port`."""
        return [
            find_java(),
            "-Duser.language=en",
            "-Xmx256m",
            "-jar",
            str(find_jar()),
            f"--host={HOST}",
            f"--port={port}",
        ]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port."""
        return f"INFO: Server started, listening on {port}"
