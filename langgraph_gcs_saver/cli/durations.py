"""Lengths of time as people type them: `90s`, `15m`, `24h`, `7d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "write a whole number and a unit: 90s, 15m, 24h, 7d or 2w"


def duration(text: str) -> timedelta:
    """The length of time that a text means; for the `parser` of an option.

    Raises:
        BadParameter: It means none, or one that is too long for Python.
    """
    found = re.fullmatch(r"([0-9]{1,18})([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: {_FORMS}.")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long.") from None


def positive_duration(text: str) -> timedelta:
    """As `duration`, for one that must not be nothing."""
    found = duration(text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no time at all: {_FORMS}.")
    return found
