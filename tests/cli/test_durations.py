from datetime import timedelta

import pytest
import typer

from langgraph_gcs_saver.cli.durations import duration, positive_duration


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
    with pytest.raises(typer.BadParameter, match=r"no length of time: .*90s, 15m, 24h, 7d or 2w"):
        duration(text)


def test_the_ends():
    assert duration("0s") == timedelta()
    with pytest.raises(typer.BadParameter, match="no time at all"):
        positive_duration("0d")
    with pytest.raises(typer.BadParameter, match="too long"):
        duration("999999999999w")
