"""Google's Firestore emulator: where its jar is, how to fetch it, how to run it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.emulators.process import HOST, EmulatorProcess, run
from tests.patience import PATIENCE

_IN_SDK = Path("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")

_SYSTEM_SDKS = (Path("/usr/lib/google-cloud-sdk"), Path("/usr/share/google-cloud-sdk"))

_WAYS = """\
Ways to get it:
  - set FIRESTORE_EMULATOR_JAR to the path of a cloud-firestore-emulator*.jar;
  - gcloud components install cloud-firestore-emulator
    (or, for a gcloud from apt: apt-get install google-cloud-cli-firestore-emulator);
  - npx firebase-tools setup:emulators:firestore
    (keeps it in ~/.cache/firebase/emulators/);
  - run an emulator yourself and set FIRESTORE_EMULATOR_HOST to its host:port.
It runs on Java 17 or newer; the newest ask for Java 21."""


class EmulatorNotFoundError(RuntimeError):
    """The Firestore emulator, or the Java to run it, is not on this machine and could not be fetched."""


def sdk_roots(gcloud: str | None) -> list[Path]:
    """Return the directories in which the SDK may be, if `gcloud` is on PATH at that place."""
    roots = [*_SYSTEM_SDKS, Path.home() / "google-cloud-sdk"]
    return roots if gcloud is None else [Path(gcloud).resolve().parent.parent, *roots]


def _version(jar: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", jar.name))


def find_jar() -> Path | None:
    """Return the emulator's jar if it is on this machine.

    Raises:
        EmulatorNotFoundError: FIRESTORE_EMULATOR_JAR names a file that is not there.
    """
    named = os.environ.get("FIRESTORE_EMULATOR_JAR")
    if named:
        if not Path(named).is_file():
            raise EmulatorNotFoundError(f"FIRESTORE_EMULATOR_JAR is {named!r}, which is not a file.\n{_WAYS}")
        return Path(named).resolve()
    gcloud = shutil.which("gcloud")
    for root in sdk_roots(gcloud):
        if (root / _IN_SDK).is_file():
            return root / _IN_SDK
    cached = Path.home().joinpath(".cache/firebase/emulators").glob("cloud-firestore-emulator-v*.jar")
    newest = max(cached, key=_version, default=None)
    if newest is None and gcloud is not None:
        # Last, because it takes seconds. Needed where `gcloud` is a wrapper and not a link into the SDK.
        sdk, _ = run([gcloud, "info", "--format=value(installation.sdk_root)"], seconds=PATIENCE)
        if sdk and (Path(sdk) / _IN_SDK).is_file():
            return Path(sdk) / _IN_SDK
    return newest


def fetch(component: str, service: str, find: Callable[[], Path | None]) -> list[str]:
    """Try to fetch an emulator's jar with what is on PATH; return what was tried and why it failed.

    Args:
        component: The emulator's name among the components of gcloud.
        service: The service's name among the emulators of Firebase.
        find: Looks for the jar.
    """
    tried = []
    for program, arguments in (
        ("gcloud", ["components", "install", component, "--quiet"]),
        ("npx", ["--yes", "firebase-tools@15.34.2", f"setup:emulators:{service}"]),
    ):
        path = shutil.which(program)
        words = " ".join([program, *arguments])
        if path is None:
            tried.append(f"{words}: there is no {program} on PATH")
            continue
        _, complaint = run([path, *arguments], PATIENCE)
        if find() is not None:
            break
        tried.append(f"{words}: {complaint or 'done, but the jar is in none of the known places'}")
    return tried


def ensure_jar() -> Path:
    """Return the emulator's jar; fetch it if it is not on this machine.

    Raises:
        EmulatorNotFoundError: It is nowhere and cannot be fetched; the message says the ways to get it.
    """
    jar = find_jar()
    if jar is not None:
        return jar
    tried = fetch("cloud-firestore-emulator", "firestore", find_jar)
    jar = find_jar()
    if jar is None:
        attempts = "\n".join(f"  - {line}" for line in tried)
        raise EmulatorNotFoundError(
            f"The Firestore emulator is not on this machine, and fetching it failed:\n{attempts}\n{_WAYS}"
        )
    return jar


def find_java() -> str:
    """Return the path of `java`.

    Raises:
        EmulatorNotFoundError: There is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise EmulatorNotFoundError(
            "The Firestore emulator needs Java 17 or newer, and there is no `java` on PATH or in JAVA_HOME. "
            "Install one (for example: apt-get install default-jre-headless), or run an emulator elsewhere and set "
            "FIRESTORE_EMULATOR_HOST to its host:port."
        )
    return java


class FirestoreEmulator(EmulatorProcess):
    """The Firestore emulator on 127.0.0.1. All data is in memory: `stop` and `kill` lose it, except after `save`."""

    name = "firestore"
    _saved: Path | None = None

    @property
    def host(self) -> str:
        """What to set FIRESTORE_EMULATOR_HOST to: `127.0.0.1:PORT`."""
        return f"{HOST}:{self.port}"

    def save(self, project: str) -> None:
        """Export a project's documents; the next starts begin with them, in every project, until `forget`.

        What is written meanwhile may be missing. At a start documents get new times, as in a database that was
        restored: exports do not hold them.

        Raises:
            RuntimeError: The emulator refused.
        """
        name = f"{project}-{time.monotonic_ns()}"
        folder = self.log_path.parent
        body = {
            "database": f"projects/{project}/databases/(default)",
            "export_directory": str(folder),
            "export_name": name,
        }
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            path = f"/emulator/v1/projects/{project}:export"
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"the firestore emulator did not export {project}: {answer!r}")
        self._saved = folder / name / f"{name}.overall_export_metadata"

    def forget(self) -> None:
        """Let the next start begin with nothing."""
        self._saved = None

    def command(self, port: int) -> list[str]:
        """Return the command that serves `port`: the jar itself, because gcloud's wrapper would leave Java running."""
        saved = [] if self._saved is None else [f"--import-data={self._saved}"]
        return [
            find_java(),
            "-Duser.language=en",
            "-Xmx512m",
            "-cp",
            str(ensure_jar()),
            "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
            f"--host={HOST}",
            f"--port={port}",
            *saved,
        ]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port."""
        return "Dev App Server is now running."
