"""How both of Google's stores retry. tests/contract/test_google.py checks which errors are worth another attempt."""

import asyncio

import pytest

from langgraph_gcs_saver.errors import StoreError, StoreUnavailableError
from langgraph_gcs_saver.stores.google.retry import ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE, Patience, TryAgain
from tests.patience import PATIENCE

SOON = 0.2
"""A deadline that is to pass; more or fewer attempts may be made before it."""


class Log:
    """The events that a hook received, and the attempts between them."""

    def __init__(self):
        self.hooked, self.order = [], []

    def hook(self, event):
        self.hooked.append(event)
        self.order.append("hook")

    def failing(self, times):
        """An attempt that fails so often, with a `LookupError` of its own each time, and then gives its share."""
        errors = [LookupError(number) for number in range(times)]
        planned = iter(errors)

        def attempt(seconds):
            self.order.append("attempt")
            for error in planned:
                raise TryAgain("LOST") from error
            return seconds

        return attempt, errors


@pytest.fixture(params=["sync", "async"])
def perform(request):
    """Performs a request in one way or the other."""

    def asynchronous(patience, request, what, attempt):
        async def aattempt(seconds):
            return attempt(seconds)

        return asyncio.run(patience.aperform(request, what, aattempt))

    return Patience.perform if request.param == "sync" else asynchronous


def test_the_hook_is_called_before_each_further_attempt(perform):
    log = Log()
    attempt, _ = log.failing(2)
    perform(Patience("It", PATIENCE, log.hook), "Do", "to do it", attempt)
    assert log.order == ["attempt", "hook", "attempt", "hook", "attempt"]
    assert [(told.service, told.request, told.attempt, told.reason) for told in log.hooked] == [
        ("It", "Do", 1, "LOST"),
        ("It", "Do", 2, "LOST"),
    ]
    assert all(0 <= told.pause <= FIRST_PAUSE * 2**place for place, told in enumerate(log.hooked))
    assert FIRST_PAUSE * 2 < LONGEST_PAUSE


def test_without_further_attempts_there_is_no_hook(perform):
    log = Log()
    attempt, _ = log.failing(0)
    assert perform(Patience("It", PATIENCE, log.hook), "Do", "to do it", attempt) <= PATIENCE / ATTEMPTS
    assert log.order == ["attempt"]


def test_an_attempt_gets_its_share_of_the_time_and_no_more_than_is_left(perform):
    shares, patience = [], Patience("It", SOON)

    def attempt(seconds):
        shares.append(seconds)
        raise TryAgain("LOST")

    with pytest.raises(StoreUnavailableError):
        perform(patience, "Do", "to do it", attempt)
    assert all(0 < share <= SOON / ATTEMPTS for share in shares)
    with pytest.raises(StoreUnavailableError):  # a second request of the same call
        perform(patience, "Do", "to do it otherwise", attempt)
    assert shares == sorted(shares, reverse=True)


def test_the_end_says_what_was_asked_and_why(perform):
    log = Log()
    attempt, errors = log.failing(1000)
    with pytest.raises(
        StoreUnavailableError, match=r"^It did not manage to do it in \d+\.\d s \(LOST\)\. A write may "
    ) as end:
        perform(Patience("It", SOON, log.hook), "Do", "to do it", attempt)
    tries = log.order.count("attempt")
    assert end.value.__cause__ is errors[tries - 1]
    assert len(log.hooked) == tries - 1, "none is announced that does not follow"


def test_what_no_attempt_helps_against_is_raised_at_once(perform):
    log, refused = Log(), StoreError("no")

    def attempt(seconds):
        log.order.append("attempt")
        raise refused

    with pytest.raises(StoreError) as raised:
        perform(Patience("It", PATIENCE, log.hook), "Do", "to do it", attempt)
    assert raised.value is refused
    assert log.order == ["attempt"]


def test_an_attempt_that_met_no_error_of_another_is_its_own_reason(perform):
    log, plan = Log(), [TryAgain("it is gone")]

    def attempt(seconds):
        if plan:
            raise plan.pop()

    perform(Patience("It", PATIENCE, log.hook), "Do", "to do it", attempt)
    assert [told.reason for told in log.hooked] == ["it is gone"]


async def test_a_pause_can_be_cancelled():
    reached = asyncio.Event()

    async def attempt(seconds):
        raise TryAgain("LOST")

    patience = Patience("It", PATIENCE, lambda *told: reached.set())
    task = asyncio.create_task(patience.aperform("Do", "to do it", attempt))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
