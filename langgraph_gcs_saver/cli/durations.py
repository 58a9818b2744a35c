"""Times as people type them: lengths such as `90s`, `15m`, `24h`, `7d`, and moments such as `2030-01-31T10:15`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

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


def instant(text: str) -> datetime:
    """The moment that a text means; for the `parser` of an option.

    ISO 8601, in UTC if it names no zone, as all tables show times; of a date its beginning; or a length of time, for
    so long ago.

    Raises:
        BadParameter: It means none, or one that is too long ago for Python.
    """
    stripped = text.strip()
    try:
        if re.fullmatch(r"[0-9]+[smhdw]", stripped):
            return datetime.now(timezone.utc) - duration(stripped)
        # Python 3.10 knows no Z.
        found = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", stripped))
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time. Write a date (2030-01-31), a date and time (2030-01-31T10:15, "
            "which is UTC unless a zone follows, such as +01:00), or how long ago (10m, 2h, 7d)."
        ) from None


def iso(seconds: float | None) -> str | None:
    """A time for JSON: ISO 8601 in UTC, to the microsecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
