"""A restore in a fresh process: the time from the start of a process until it has a thread's newest checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from langgraph_gcs_saver.cli.views.terminal import (
    CommandError,
    accept_clear,
    global_cipher,
    open_saver,
    printable,
    store_named,
)


def restore(thread_id: str, *, store: str | None, cipher: str | None) -> float:
    """Restore a thread in a fresh process. Returns the seconds that it took.

    The process starts Python, imports LangGraph, opens the store, and reads the newest checkpoint, as one after a crash
    does. It makes no objects of the user's classes.

    Args:
        thread_id: The thread.
        store: What `--store` says.
        cipher: What `--cipher` says.

    Raises:
        CommandError: It failed.
    """
    typed = cipher if cipher is not None else global_cipher.get()
    request = {
        "thread": thread_id,
        "store": store_named(store),
        "cipher": typed,
        "accept_clear": accept_clear.get(),
        "path": sys.path,
    }
    begun = time.perf_counter()  # clock: the result of a measurement
    ended = subprocess.run(  # noqa: S603 - this program
        [sys.executable, "-m", __name__], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun  # clock: as above
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise CommandError(f"a fresh process did not restore thread {thread_id!r}: {printable(last)}")
    return seconds


def main() -> None:
    """Do what standard input says, in the fresh process."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    accept_clear.set(request["accept_clear"])
    with open_saver(request["store"], request["cipher"]) as saver:
        saver.get_tuple({"configurable": {"thread_id": request["thread"]}})


if __name__ == "__main__":
    main()
