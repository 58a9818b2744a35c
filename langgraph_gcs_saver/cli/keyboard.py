"""Single keys from a terminal, without Enter, and Ctrl-Z. The terminal's settings are always restored at the end."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """While the block runs, a function that waits for a key, at most so many seconds, and returns it, or an empty text.

    Ctrl-C still raises `KeyboardInterrupt`. If standard input is no terminal, or on Windows, there are no keys.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    device = sys.stdin.fileno()
    before = termios.tcgetattr(device)
    try:
        tty.setcbreak(device)
        yield lambda seconds: _key(device, seconds)
    finally:
        termios.tcsetattr(device, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(device: int, seconds: float) -> str:
    if not select.select([device], [], [], seconds)[0]:
        return ""
    # An arrow key is one read of several bytes, and none of ours. A terminal that is gone reads as empty.
    found = os.read(device, 64)
    if not found:
        raise EOFError
    return found.decode("ascii", "replace")


@contextmanager
def suspension() -> Iterator[threading.Event]:
    """While the block runs, Ctrl-Z sets an event instead. The block restores the terminal and calls `suspend`."""
    asked = threading.Event()
    if sys.platform == "win32":
        yield asked
        return
    before = signal.signal(signal.SIGTSTP, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTSTP, before)


def suspend(asked: threading.Event) -> None:
    """Stop this process until the shell continues it, as Ctrl-Z does."""
    asked.clear()
    if sys.platform != "win32":
        os.kill(os.getpid(), signal.SIGSTOP)
