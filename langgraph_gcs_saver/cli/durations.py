"""Times as people type them: durations such as `90s`, `15m`, `24h`, `7d`, and moments such as `2030-01-31T10:15`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "write a whole number and a unit: 90s, 15m, 24h, 7d or 2w"


def duration(text: str) -> timedelta:
    """Parse a length of time; the `parser` of an option.

    Raises:
        BadParameter: The text is not a length of time, or the length is too long for Python.
    """
    found = re.fullmatch(r"([0-9]{1,18})([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a length of time: {_FORMS}.")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long.") from None


def positive_duration(text: str) -> timedelta:
    """Parse like `duration`, but accept only more than zero."""
    found = duration(text)
    if not found:
        raise typer.BadParameter(f"{text!r} must be more than zero: {_FORMS}.")
    return found


def instant(text: str) -> datetime:
    """Parse a moment; the `parser` of an option.

    A moment is ISO 8601. It is in UTC if it names no zone, as in all tables. A date means its beginning. A length of
    time means that long ago.

    Raises:
        BadParameter: The text is not a moment, or the moment is too long ago for Python.
    """
    stripped = text.strip()
    try:
        if re.fullmatch(r"[0-9]+[smhdw]", stripped):
            return datetime.now(timezone.utc) - duration(stripped)
        # Python 3.10 does not parse Z.
        found = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", stripped))
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time. Write a date (2030-01-31), a date and time (2030-01-31T10:15, "
            "which is UTC unless a zone follows, such as +01:00), or how long ago (10m, 2h, 7d)."
        ) from None


def iso(seconds: float | None) -> str | None:
    """A time for JSON: ISO 8601 in UTC, to the microsecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
