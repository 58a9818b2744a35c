"""Checks of parsed documents. A value that no writer makes is a `ValueError`, and the reader's `DamagedError`."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def require(is_right: bool) -> None:
    """Check a statement about a document.

    Raises:
        ValueError: It is not true.
    """
    if not is_right:
        raise ValueError("not as any writer makes it")


def typed(value: Any, kind: type[T]) -> T:
    """The value, if it is of a type, and not of one derived from it, as a boolean is an integer.

    Raises:
        ValueError: It is not.
    """
    require(type(value) is kind)
    found: T = value
    return found


def optional(value: Any, kind: type[T]) -> T | None:
    """The same for a value that may be absent.

    Raises:
        ValueError: It is there, and of another type.
    """
    return None if value is None else typed(value, kind)


def natural(value: Any, bits: int = 53) -> int:
    """The value, if it is an integer from 0, of that many bits at most. With 53 bits, it is exact in any JSON reader.

    Raises:
        ValueError: It is not.
    """
    number = typed(value, int)
    require(0 <= number < 1 << bits)
    return number
