"""Checkers: how it is found out what a reference refers to now, one for each scheme of URIs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langgraph_gcs_saver.engine.pool import Pool, Task
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph_gcs_saver.references.refs import Place

S = TypeVar("S")
T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds for all references of a scheme. A run that resumes waits for them, and its lease has a `ttl` of 60 s."""

AT_ONCE = 8
"""Requests at the same time. The sessions of requests and Google's client keep 10 connections to a host."""

Facts = Mapping[str, Any]
"""What identifies content: facts by name, each a text or a number. They are stored in references."""

Look = Callable[[Sequence[str]], Iterable[tuple[str, Facts | Exception | None]]]
"""Looks at URIs, and gives for each what is there: its facts, `None` for nothing, or why it cannot be seen."""

Outcome = Literal["ok", "changed", "missing", "unknown"]


@record(frozen=True, slots=True)
class Checker:
    """How references of a scheme are checked.

    Attributes:
        look: Looks at URIs. All that are to be checked come in one call. What it yields before an error counts.
        decides: Names of facts, in groups. The first group whose first fact is in the reference and is known now
            decides: its facts must be equal. Without groups, all facts must be equal that the two have in common.
        timeout: Seconds to wait for all of them.
    """

    look: Look
    decides: tuple[tuple[str, ...], ...] = ()
    timeout: float = TIMEOUT

    def is_same(self, then: Facts, now: Facts) -> bool:
        """Whether facts of a reference are those of now."""
        common = [name for name in then if name in now]
        chosen = next((group for group in self.decides if group[0] in common), common)
        # As text, because a person or another language may have written a number as text.
        return all(str(then[name]) == str(now[name]) for name in chosen if name in common)


_registered: dict[str, Checker] = {}


def register(scheme: str, look: Look, *, decides: Iterable[Sequence[str]] = (), timeout: float = TIMEOUT) -> None:
    """Check references of a scheme with a function of yours, in this process.

    This also replaces the checkers of `gs`, `https` and `http`, for example to use other credentials, or to restrict
    which hosts are asked.

    Args:
        scheme: What precedes `:` in the URIs, such as `s3`.
        look: Gets the URIs that are to be checked, all in one call, on a thread of its own. It yields pairs of a URI
            and what is there now: a mapping of facts, `None` for nothing, or an exception that says why it is not
            known.
        decides: Groups of facts that identify the content, the best first. See `Checker.decides`.
        timeout: Seconds to wait for the function. What it has not yielded by then is unknown.

    Raises:
        InvalidInputError: The scheme is none, the function is not callable, or the timeout is not positive.
    """
    if not scheme or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum():
        raise InvalidInputError(f"scheme is {scheme!r}; it must be the part of a URI before the colon, such as 's3'.")
    if not callable(look):
        raise InvalidInputError(f"look is of type {type(look).__name__}; it must be a function of a list of URIs.")
    if not timeout > 0:
        raise InvalidInputError(f"timeout is {timeout!r}; it must be a positive number of seconds.")
    _registered[scheme.lower()] = Checker(look, tuple(map(tuple, decides)), timeout)


def scheme_of(uri: str) -> str:
    """The scheme of a URI; empty if it has none."""
    before, colon, _ = uri.partition(":")
    return before.lower() if colon else ""


def find(scheme: str) -> Checker | None:
    """The checker of a scheme, if there is one."""
    return _registered.get(scheme) or _own(scheme)


@cache
def _own(scheme: str) -> Checker | None:
    if scheme == "gs":
        from langgraph_gcs_saver.stores.google import versions  # noqa: PLC0415 - few processes have such references

        # Only `crc32c` and `size` say whether the bytes are the same. An object that was copied back has a new number.
        return Checker(partial(each, partial(versions.look, timeout=TIMEOUT)), (("crc32c", "size"), ("generation",)))
    if scheme in ("https", "http"):
        from langgraph_gcs_saver.references.web import look  # noqa: PLC0415 - as above

        return Checker(
            partial(each, partial(look, timeout=TIMEOUT)), (("etag",), ("last_modified", "length"), ("length",))
        )
    return None


def check(places: Sequence[Place]) -> list[tuple[Outcome, str]]:
    """Check references: the outcome of each, and the reason. Each URI is looked at once, all schemes at once."""
    uris: dict[str, dict[str, None]] = {}
    for one in places:
        uris.setdefault(scheme_of(one.uri), {})[one.uri] = None
    found = {scheme: checker for scheme in uris if (checker := find(scheme)) is not None}
    seen, why = _look(found, {scheme: tuple(uris[scheme]) for scheme in found})
    return [_outcome(one, found, seen, why) for one in places]


def _outcome(
    one: Place, found: Mapping[str, Checker], seen: Mapping[str, Facts | Exception | None], why: Mapping[str, str]
) -> tuple[Outcome, str]:
    scheme = scheme_of(one.uri)
    if scheme not in found:
        return "unknown", f"no checker knows the scheme {scheme!r}"
    if one.uri not in seen:
        return "unknown", why.get(scheme, "its checker did not say anything about it")
    now = seen[one.uri]
    if isinstance(now, Exception):
        return "unknown", str(now) or type(now).__name__
    if now is None:
        return "missing", "there is nothing at the URI"
    if found[scheme].is_same(one.facts, now):
        return "ok", ""
    return "changed", "it is not what it was when the reference was made"


def _look(
    checkers: Mapping[str, Checker], uris: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Facts | Exception | None], dict[str, str]]:
    """What is at URIs, as far as it is known in time, and by scheme why the rest is not known."""
    answers: SimpleQueue[tuple[str, str | None, Any]] = SimpleQueue()
    began = time.monotonic()
    ends = {scheme: began + one.timeout for scheme, one in checkers.items()}
    pool = Pool("langgraph-gcs-check", max(1, len(checkers)))
    for scheme, checker in checkers.items():
        pool.submit(Task(partial(_put_all, scheme, checker.look, uris[scheme], ends[scheme], answers), _forget))
    seen: dict[str, Facts | Exception | None] = {}
    why: dict[str, str] = {}
    while ends:
        left = max(ends.values()) - time.monotonic()
        try:
            scheme, uri, now = answers.get(timeout=max(0.0, left))
        except Empty:
            break
        if uri is not None:
            seen.setdefault(uri, now)
            continue
        ends.pop(scheme, None)
        if now is not None:
            why[scheme] = f"its checker raised {type(now).__name__}"
    for scheme in ends:
        why[scheme] = f"its checker did not answer within {checkers[scheme].timeout:g} s"
    return seen, why


def _put_all(
    scheme: str, look: Look, uris: Sequence[str], end: float, answers: SimpleQueue[tuple[str, str | None, Any]]
) -> None:
    try:
        for uri, now in look(uris):
            answers.put((scheme, uri, now))
            if time.monotonic() >= end:
                return  # Our caller has given up, so the checker need not look at the rest.
    except Exception as error:  # noqa: BLE001 - a user's function; the finding names it
        answers.put((scheme, None, error))
    else:
        answers.put((scheme, None, None))


def _forget(_: Task[None]) -> None:
    """The outcome of a task that has put all that it found into a queue."""


def each(one: Callable[[S], T], arguments: Sequence[S]) -> Iterator[tuple[S, T | Exception]]:
    """Call a function for each argument, several at once, and yield what it returns or raises, as it comes.

    The next call begins when an answer is taken. So no calls begin after the caller has stopped to iterate.
    """
    answers: SimpleQueue[Task[tuple[S, T | Exception]]] = SimpleQueue()
    pool = Pool("langgraph-gcs-check", min(AT_ONCE, len(arguments)) or 1)
    left = iter(arguments)
    for argument in islice(left, AT_ONCE):
        pool.submit(Task(partial(_outcome_of, one, argument), answers.put))
    for _ in arguments:
        task = answers.get()
        error = task.take_error()
        if error is not None:
            raise error
        yield task.result
        for argument in islice(left, 1):
            pool.submit(Task(partial(_outcome_of, one, argument), answers.put))


def _outcome_of(one: Callable[[S], T], argument: S) -> tuple[S, T | Exception]:
    try:
        return argument, one(argument)
    except Exception as error:  # noqa: BLE001 - a strange URI must not hide what is known about others
        return argument, error
