"""Exceptions that strike a call at each of its steps, as a signal's handler can raise them in the main thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Struck(BaseException):
    """As `KeyboardInterrupt`, but not pytest's."""


class SoftTimeLimit(Exception):  # noqa: N818 - as Celery's SoftTimeLimitExceeded
    """An exception that `except Exception` catches."""


class _Tracer:
    def __init__(self, at: int, error: type[BaseException], modules: tuple[str, ...], *, opcodes: bool) -> None:
        self._left = at
        self._error = error
        self._modules = modules
        self._opcodes = opcodes
        self.place = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if self._modules and not frame.f_code.co_filename.endswith(self._modules):
            return None
        frame.f_trace_opcodes = self._opcodes
        return self._step(frame, event, argument)

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        if event in ("call", "opcode" if self._opcodes else "line"):
            self._left -= 1
            if self._left < 0:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} ({event}, {frame.f_lasti})"
                raise self._error
        return self._step


def strikes(
    function: Callable[[], object],
    error: type[BaseException],
    *modules: str,
    opcodes: bool = False,
    every: int = 1,
    but: tuple[type[BaseException], ...] = (),
) -> Iterator[str]:
    """Call a function again and again, and raise at another of its steps each time, until a call has no further step.

    A step is a line, or an instruction of the interpreter, of the modules named and of what they call in these.

    Args:
        function: What is called.
        error: What is raised.
        modules: Ends of the names of source files; all if none is given.
        opcodes: Whether to strike at each instruction, not only at each line.
        every: Strike at each so manieth step only.
        but: What the function itself may raise.

    Yields:
        The place of each strike, after it.
    """
    at = 0
    while True:
        tracer = _Tracer(at, error, modules, opcodes=opcodes)
        before = sys.gettrace()
        try:
            sys.settrace(tracer)
            function()
        except error:
            pass
        except but:
            assert not tracer.place, f"what struck at {tracer.place} became another error"
        finally:
            sys.settrace(before)
        if not tracer.place:
            assert at, "the function has no step in these modules"
            return
        yield tracer.place
        at += every
