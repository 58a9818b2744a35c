import time
from datetime import datetime, timedelta, timezone

import pytest
import typer

from langgraph_gcs_saver.cli.durations import duration, instant, positive_duration


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        (" 1h ", timedelta(hours=1)),
        ("007d", timedelta(days=7)),
    ],
)
def test_what_people_type(text, meant):
    assert duration(text) == positive_duration(text) == meant


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7 d", "-1h", "1.5h", "7D", "1h30m", "1y", "\u0667d", "7d\n7d", "9" * 5000 + "s"]
)
def test_what_is_no_length_of_time(text):
    with pytest.raises(typer.BadParameter, match=r"not a length of time: .*90s, 15m, 24h, 7d or 2w"):
        duration(text)


def test_the_ends():
    assert duration("0s") == timedelta()
    with pytest.raises(typer.BadParameter, match="must be more than zero"):
        positive_duration("0d")
    with pytest.raises(typer.BadParameter, match="too long"):
        duration("999999999999w")


UTC = timezone.utc


@pytest.fixture
def local_zone(monkeypatch):
    """Two hours before UTC, all year: no time that is typed depends on where it is."""
    monkeypatch.setenv("TZ", "LOCAL-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T10:15", datetime(2030, 1, 31, 10, 15, tzinfo=UTC)),
        (" 2030-01-31 10:15:30 ", datetime(2030, 1, 31, 10, 15, 30, tzinfo=UTC)),
        ("2030-01-31T10:15Z", datetime(2030, 1, 31, 10, 15, tzinfo=UTC)),
        ("2030-01-31 10:15:30z", datetime(2030, 1, 31, 10, 15, 30, tzinfo=UTC)),
        ("2030-01-31T10:15:30+01:00", datetime(2030, 1, 31, 9, 15, 30, tzinfo=UTC)),
        ("2030-01-31T10:15:30.123456+00:00", datetime(2030, 1, 31, 10, 15, 30, 123456, tzinfo=UTC)),
    ],
)
@pytest.mark.usefixtures("local_zone")
def test_moments(text, meant):
    assert instant(text) == meant


@pytest.mark.parametrize(("text", "ago"), [("0s", 0), ("10m", 600), (" 2h ", 7200), ("7d", 7 * 86400)])
def test_so_long_ago(text, ago):
    before = datetime.now(UTC)
    found = instant(text)
    assert before - timedelta(seconds=ago) <= found <= datetime.now(UTC) - timedelta(seconds=ago)


@pytest.mark.parametrize(
    "text", ["", "now", "10", "10:15", "2030", "2030-13-01", "2030-02-30T10:00", "-1h", "9" * 12 + "w"]
)
def test_what_is_no_moment(text):
    with pytest.raises(typer.BadParameter):
        instant(text)
