"""A trip of five steps, each of which a provider books and cancels, in processes that crash.

The provider's ledger is a file. It says what happened, whatever the processes know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, compensation, run
from langgraph_gcs_saver.errors import OutcomeUnknownError, SagaRolledBack, SagaStuckError
from langgraph_gcs_saver.results import SagaInfo
from tests.kit.provider import Provider

THREAD = "trip"
SAGA = "trip-7"
STEPS = ("flight", "hotel", "car", "guide", "pay")
OWNER = "worker"
CONFIG: Any = {"configurable": {"thread_id": THREAD}}


class Declined(Exception):  # noqa: N818 - it is an answer
    """The provider does not book the step."""


@compensation("cancel-booking", attempts=1)
def cancel(request: dict[str, str], result: str, key: str) -> None:
    """Cancel a booking."""
    Provider(request["ledger"]).charge(f"cancel {request['step']} {result}", key)


def book(ledger: Path, step: str, fails: str | None, key: str) -> str:
    """Book a step. It fails if it is the one that fails."""
    if step == fails:
        raise Declined(step)
    receipt: str = Provider(ledger).charge(f"book {step}", key)
    return receipt


def trip(saver: GCSSaver, ledger: Path, fails: str | None) -> None:
    """Book all steps, or cancel those that were booked."""
    with saver.thread(THREAD).saga(SAGA, owner=OWNER) as saga:
        for step in STEPS:
            request = {"ledger": str(ledger), "step": step}
            saga.once(
                step, partial(book, ledger, step, fails), request=request, undo="cancel-booking", errors=(Declined,)
            )


def in_block(saver: GCSSaver, ledger: Path, fails: str | None) -> None:
    """Book the trip in a block, under a lease. A crash is then noticed at once, by a process with the same name."""
    with saver.thread(THREAD).lease(owner=OWNER):
        trip(saver, ledger, fails)


def in_node(saver: GCSSaver, ledger: Path, fails: str | None) -> None:
    """Book the trip in a node."""
    build = StateGraph(dict)
    build.add_node("node", lambda _: trip(saver, ledger, fails))
    build.add_edge(START, "node")
    run(build.compile(checkpointer=saver), {}, CONFIG, request_id="r", owner=OWNER, durability="sync")


HOW: dict[str, Callable[[GCSSaver, Path, str | None], None]] = {"block": in_block, "node": in_node}


def proceed(saver: GCSSaver, ledger: Path, fails: str | None, how: str, *, gives_up: bool) -> str | tuple[str, ...]:
    """What a process does: it books the trip, or completes the rollback that an earlier process has begun.

    Args:
        saver: The process's saver.
        ledger: The provider's ledger.
        fails: The step that the provider declines, if any.
        how: Where the block is.
        gives_up: Whether it rolls the saga back if the outcome of a step is unknown; otherwise a person settles it.

    Returns:
        `done`, `compensated`, or the steps that a person has to settle.
    """
    saga = saver.thread(THREAD).saga(SAGA, owner=OWNER)
    try:
        HOW[how](saver, ledger, fails)
    except (Declined, SagaRolledBack):
        return _settled(saga.resume)
    except SagaStuckError as error:
        return error.steps
    except OutcomeUnknownError as error:
        if gives_up:
            return _settled(saga.rollback)
        return (next(one.name for one in saga.info().steps if one.key == error.key),)
    return saga.info().state


def _settled(act: Callable[[], SagaInfo]) -> str | tuple[str, ...]:
    try:
        return act().state
    except SagaStuckError as error:
        return error.steps


def settle(saver: GCSSaver, ledger: Path, steps: tuple[str, ...]) -> None:
    """What a person does: looks at the provider's ledger, and settles a step."""
    provider, saga = Provider(ledger), saver.thread(THREAD).saga(SAGA, owner=OWNER)
    for step in steps:
        found = next(one for one in saga.info().steps if one.name == step)
        canceled = _canceled(provider, step)
        booked = provider.calls(f"book {step}")
        if found.state == "done":  # its undo has no outcome
            saga.resolve(step, result=None) if canceled else saga.resolve(step, not_done=True)
        else:
            saga.resolve(step, result=booked[0]["receipt"]) if booked else saga.resolve(step, not_done=True)


def _canceled(provider: Provider, step: str) -> list[Any]:
    return [one for one in provider.calls() if one["what"].startswith(f"cancel {step} ")]


def check_stuck(ledger: Path, steps: tuple[str, ...]) -> None:
    """Check that the list has exactly the step that was under way when the process crashed."""
    provider = Provider(ledger)
    booked = [step for step in STEPS if provider.calls(f"book {step}")]
    canceled = [step for step in STEPS if _canceled(provider, step)]
    if canceled:  # an undo was under way: of the step canceled last, or of the one before it
        left = [*booked[: len(booked) - len(canceled) + 1]][-2:]
        assert len(steps) == 1, steps
        assert steps[0] in left, (steps, booked, canceled)
    else:  # the last step that was booked, or the one after it, or the undo of the last one
        assert len(steps) == 1, steps
        assert steps[0] in STEPS[max(0, len(booked) - 1) : len(booked) + 1], (steps, booked)


def check_world(ledger: Path, state: str, fails: str | None) -> None:
    """Check that the world has all of the trip, or nothing of it, and that nothing was booked or canceled twice."""
    provider = Provider(ledger)
    booked = {step: len(provider.calls(f"book {step}")) for step in STEPS}
    canceled = {step: len(_canceled(provider, step)) for step in STEPS}
    assert set(booked.values()) <= {0, 1}, booked
    if state == "done":
        assert fails is None
        assert (booked, canceled) == (dict.fromkeys(STEPS, 1), dict.fromkeys(STEPS, 0))
    else:
        assert state == "compensated"
        assert canceled == booked
