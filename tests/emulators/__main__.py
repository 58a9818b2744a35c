"""Emulators for working by hand: `python -m tests.emulators` runs both until Ctrl-C; `--check` only finds programs."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from tests.emulators import pubsub
from tests.emulators.firestore import EmulatorNotFoundError, FirestoreEmulator, ensure_jar, find_java
from tests.emulators.process import EmulatorStartError
from tests.emulators.prometheus import PromtoolNotFoundError, ensure_promtool
from tests.emulators.storage import StorageEmulator


def _serve() -> None:
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with FirestoreEmulator() as firestore, StorageEmulator() as storage:
        print(f"export FIRESTORE_EMULATOR_HOST={firestore.host}")
        print(f"export STORAGE_EMULATOR_HOST={storage.url}", flush=True)
        print(f"Logs: {firestore.log_path} {storage.log_path}. Ctrl-C ends both.", file=sys.stderr)
        done.wait()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulators", description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="find or fetch the emulators that are jars, and promtool, say where, and end",
    )
    try:
        if parser.parse_args().check:
            print(f"{ensure_jar()} and {pubsub.ensure_jar()} (run with {find_java()})")
            print(ensure_promtool())
        else:
            _serve()
    except (EmulatorNotFoundError, EmulatorStartError, PromtoolNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
