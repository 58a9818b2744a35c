"""Which signals the process got, for runs that stop at them.

The handler stays installed and is transparent: a signal for which no run listens acts as if it were not there. So
nothing has to be removed when a run ends, which only the main thread could do.
"""

from __future__ import annotations

import signal
import threading
import weakref
from types import FrameType
from typing import Any

from langgraph_gcs_saver.errors import InvalidInputError

_first: dict[int, Any] = {}
"""By signal, the handler that was there before ours was first installed."""

_before: dict[int, Any] = {}
"""By signal, the handler that was there before ours was last installed."""

_under_way: dict[int, bool] = {}
"""The signals that are handled at this moment, and whether a run has waited for each."""

_listeners: dict[int, tuple[weakref.ref[Listener], _Heard]] = {}
"""Those that listen, by identity, with what they have heard."""

_pending: list[int] = []
"""The signals for which a run could not stop any more, each once for each such run. The next runs stop for them."""


class _Heard:
    """What a listener has heard. It is there once the listener is gone.

    Attributes:
        received: The signals so far.
        unsettled: Those of them that pass on to another listener if this one ends. Which thread passes one on is
            decided by `pop`, which is atomic.
    """

    __slots__ = ("received", "unsettled")

    def __init__(self) -> None:
        self.received: frozenset[int] = frozenset()
        self.unsettled: dict[int, bool] = {}

    def note(self, number: int, *, passes_on: bool) -> None:
        """Note a signal."""
        self.received |= {number}
        if passes_on:
            self.unsettled[number] = True

    def pass_on(self) -> None:
        """Leave what is unsettled to the next listener."""
        _pending.extend(number for number in tuple(self.unsettled) if self.unsettled.pop(number, False))


class Listener:
    """The signals that the process gets from now on, of those that it listens to.

    Args:
        signals: Their numbers.
        passes_on: Whether this listens for a run that stops at a signal. If it ends without a call of `settle`, the
            next such listener gets the signal.

    Raises:
        InvalidInputError: A handler is missing, and this is not the main thread.
    """

    __slots__ = ("__weakref__", "_heard", "passes_on", "signals")

    def __init__(self, signals: frozenset[int], *, passes_on: bool = False) -> None:
        self.signals = signals
        self.passes_on = passes_on
        self._heard = heard = _Heard()
        for one in signals:
            install(one)
        if signals:
            key = id(self)
            _listeners[key] = (weakref.ref(self, lambda _: _end(key)), heard)
        if passes_on:
            for one in signals:
                if _take(one):
                    heard.note(one, passes_on=True)

    @property
    def received(self) -> frozenset[int]:
        """The signals so far."""
        return self._heard.received

    def look(self) -> frozenset[int]:
        """The signals so far. A handler that other code has put in place of ours is chained again, where possible."""
        if self.signals and threading.get_ident() == threading.main_thread().ident:
            for one in self.signals:
                if signal.getsignal(one) is not handle:
                    install(one)
        return self.received

    def settle(self) -> None:
        """The run stops for the signals so far, and its caller will know."""
        self._heard.unsettled.clear()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        _end(id(self))


def _end(key: int) -> None:
    found = _listeners.pop(key, None)
    if found is not None:
        found[1].pass_on()


def _take(number: int) -> bool:
    """Take a pending signal, if there is one."""
    try:
        _pending.remove(number)
    except ValueError:
        return False
    return True


def install(number: int) -> None:
    """Install the handler of a signal, in front of the one that is there. Idempotent.

    Raises:
        InvalidInputError: This is not the main thread, or the signal cannot be handled.
    """
    found = signal.getsignal(number) if 0 < number < signal.NSIG else None
    if found is handle:
        return
    if threading.get_ident() != threading.main_thread().ident:
        if number in _before:
            return  # Other code has replaced it since. The next look in the main thread puts it back.
        raise InvalidInputError(
            f"Only the main thread can install a handler for signal {number}. Call `Signal({number}).listen()` there, "
            "before runs begin on other threads."
        )
    try:
        signal.signal(number, handle)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"Signal {number} cannot be handled: {error}.") from error
    _first.setdefault(number, found)
    _before[number] = found


def handle(number: int, frame: FrameType | None) -> None:
    """The handler: note the signal for those that listen, and do what would have been done without it."""
    if number in _under_way:
        # A handler that came later calls ours, because ours was there before it.
        _act(_first.get(number), number, frame, is_noted=_under_way[number])
        return
    _under_way[number] = _note(number)
    try:
        _act(_before.get(number), number, frame, is_noted=_under_way[number])
    finally:
        del _under_way[number]


def _note(number: int) -> bool:
    """Note a signal for those that listen. Returns whether it is new to one of them."""
    is_new = False
    for key, (reference, heard) in tuple(_listeners.items()):
        listener = reference()
        if listener is not None and number in listener.signals and number not in heard.received:
            heard.note(number, passes_on=listener.passes_on)
            is_new = True
            if key not in _listeners:  # Another thread has closed it meanwhile.
                heard.pass_on()
    return is_new


def _forget(number: int) -> None:
    """Settle a signal: it acts on the process itself."""
    for _, heard in tuple(_listeners.values()):
        heard.unsettled.pop(number, None)
    while _take(number):
        pass


def _act(before: Any, number: int, frame: FrameType | None, *, is_noted: bool) -> None:
    """Do what a handler does, or what the system does without one. If the signal was noted, only other code's acts."""
    if callable(before) and before is not signal.default_int_handler:
        before(number, frame)
    elif not is_noted and before is not signal.SIG_IGN:
        _forget(number)
        if callable(before):
            before(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, handle)  # Only reached for a signal that does not end the process.
