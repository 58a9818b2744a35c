"""Google's Pub/Sub emulator: where its jar is, and how to run it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.emulators.firestore import EmulatorNotFoundError, fetch, find_java, sdk_roots
from tests.emulators.process import HOST, EmulatorProcess

_LIB = Path("platform/pubsub-emulator/lib")


def find_jar() -> Path | None:
    """Return the emulator's jar if it is on this machine."""
    directories = [root / _LIB for root in sdk_roots(shutil.which("gcloud"))]
    directories += sorted(Path.home().glob(".cache/firebase/emulators/pubsub-emulator-*/pubsub-emulator/lib"))
    jars = (jar for directory in directories for jar in sorted(directory.glob("cloud-pubsub-emulator-*.jar")))
    return next(jars, None)


def ensure_jar() -> Path:
    """Return the emulator's jar; fetch it if it is not on this machine.

    Raises:
        EmulatorNotFoundError: It is nowhere and cannot be fetched.
    """
    tried = [] if find_jar() is not None else fetch("pubsub-emulator", "pubsub", find_jar)
    jar = find_jar()
    if jar is None:
        raise EmulatorNotFoundError(
            "The Pub/Sub emulator is not on this machine, and fetching it failed: "
            f"{'; '.join(tried)}. For a gcloud from apt, run: apt-get install google-cloud-cli-pubsub-emulator"
        )
    return jar


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
            str(ensure_jar()),
            f"--host={HOST}",
            f"--port={port}",
        ]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port."""
        return f"INFO: Server started, listening on {port}"
