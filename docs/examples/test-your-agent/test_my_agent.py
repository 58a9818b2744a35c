"""Whatever kills the agent, and whenever: the order is paid once."""

from typing import Any

from my_agent import build

from langgraph_gcs_saver.testing import Attempt, kill_everywhere

ORDER = {"order": 17, "cents": 990, "log": []}


def check(result: dict[str, Any], attempt: Attempt) -> None:
    assert result["receipt"] == "receipt of order-17"
    assert result["log"] == ["approved: yes", "paid"]
    charges = (attempt.folder / "charges.txt").read_text(encoding="utf-8")
    assert charges.splitlines() == ["order-17"], "the order was not paid once"


def test_it_survives_exceptions_everywhere() -> None:
    kill_everywhere(build, ORDER, check, answers=["yes"], mode="crash")


def test_it_survives_real_kills() -> None:
    report = kill_everywhere(build, ORDER, check, answers=["yes"], limit=3)
    print(report)
