"""Compensations: the functions that undo a saga's steps. A step's record names one, so that another process finds it.

A function registers when its module is imported. So a process that rolls a saga back must import the modules that
define the compensations of its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import configs

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.operations import Mode

F = TypeVar("F", bound=Callable[..., Any])

MAX_ATTEMPTS = 100
MAX_BACKOFF = 3600.0
"""Most attempts of one rollback to undo a step, and the longest wait between two of them, in seconds."""

_MAX_VERSION = 2**31 - 1


@record(frozen=True, slots=True)
class Compensation:
    """A function that undoes a step.

    Attributes:
        name: Its name, as steps name it.
        version: Its version.
        function: Called with the step's request, the step's result, and a key.
        repeats: Whether it is called again, with the same key, if a process crashed while it called it.
        attempts: How often one rollback calls it if it raises.
        backoff: Seconds to wait after its first exception; twice as many after each further one.
        reconcile: Asks the provider about a step whose outcome is unknown, by the step's key.
    """

    name: str
    version: int
    function: Callable[..., Any]
    repeats: bool
    attempts: int
    backoff: float
    reconcile: Callable[[str], Any] | None


_KNOWN: dict[tuple[str, int], Compensation] = {}


def compensation(
    name: str,
    version: int = 1,
    *,
    mode: Mode = "at_most_once",
    attempts: int = 3,
    backoff: float = 1.0,
    reconcile: Callable[[str], Any] | None = None,
) -> Callable[[F], F]:
    """Register a function that undoes a step of a saga, under a name that other processes find.

        @compensation("cancel-hotel", version=1)
        def cancel_hotel(request, result, key): ...

    Define it at the top level of a module. A rollback calls it with the step's request, the step's result, and a key
    for the provider: all three by position. It may be a coroutine function; then roll back with `arollback`, `aresume`
    or `async with`.

    A step stores the name and version with which it was started. Keep a version for as long as sagas may need it, and
    give a new version to a function that reads other requests or results.

    If the function raises, the rollback calls it again, with the same key. So raise only if nothing was undone, or if
    the provider recognizes the key. After the last attempt, the saga is stuck, and `resume` tries again.

    Args:
        name: The name that steps pass as `undo`, in at most 200 characters.
        version: A whole number of at least 1.
        mode: `"at_least_once"` calls the function again, with the same key, if a process crashed while it called it.
            With `"at_most_once"`, the saga is then stuck until you call `resolve`.
        attempts: How often one rollback calls the function if it raises.
        backoff: Seconds to wait after the first exception; twice as many after each further one, up to an hour.
        reconcile: Asks the provider about a step whose outcome is unknown. It is called with the step's key, and
            returns the step's result, `NOT_DONE` or `UNKNOWN`.

    Returns:
        A decorator that returns the function itself.

    Raises:
        InvalidInputError: The name or version is invalid, or another function has both.
        InvalidOptionError: An option is outside its range.
    """
    _check_name(name, version)
    if mode not in ("at_most_once", "at_least_once"):
        raise InvalidOptionError(f'mode is {mode!r}; it must be "at_most_once" or "at_least_once".')
    if type(attempts) is not int or not 1 <= attempts <= MAX_ATTEMPTS:
        raise InvalidOptionError(f"attempts is {attempts!r}; it must be a whole number from 1 to {MAX_ATTEMPTS}.")
    if isinstance(backoff, bool) or not isinstance(backoff, (int, float)) or not 0 <= backoff <= MAX_BACKOFF:
        raise InvalidOptionError(f"backoff is {backoff!r}; it must be a number of seconds, at most {MAX_BACKOFF:g}.")
    if reconcile is not None and not callable(reconcile):
        raise InvalidOptionError("reconcile must be callable with the key.")
    options: dict[str, Any] = {"repeats": mode == "at_least_once", "attempts": attempts, "backoff": float(backoff)}

    def register(function: F) -> F:
        _register(Compensation(name, version, function, reconcile=reconcile, **options))
        return function

    return register


def _register(made: Compensation) -> None:
    name, version, function = made.name, made.version, made.function
    if not callable(function):
        raise InvalidInputError(f"Compensation {name!r} needs a function, not {type(function).__name__}.")
    # A module that is imported again, and a cell of a notebook that runs again, define the same function again.
    if _origin(_KNOWN.setdefault((name, version), made).function) != _origin(function):
        raise InvalidInputError(
            f"Compensation {name!r}, version {version}, is {_origin(_KNOWN[name, version].function)} already, so "
            f"{_origin(function)} was not registered. Use another name or version."
        )
    _KNOWN[name, version] = made


def _origin(function: Any) -> str:
    of = function if hasattr(function, "__qualname__") else type(function)
    return f"{of.__module__}.{of.__qualname__}"


def _check_name(name: object, version: object) -> None:
    configs.check_name("compensation", name)
    if type(version) is not int or not 1 <= version <= _MAX_VERSION:
        raise InvalidInputError(f"The version of compensation {name!r} must be a whole number of at least 1.")


def newest(name: str) -> Compensation | None:
    """The compensation of the highest version that this process knows."""
    return max((one for one in tuple(_KNOWN.values()) if one.name == name), key=lambda one: one.version, default=None)


def known(name: str, version: int) -> Compensation | None:
    """The compensation of a name and version; `None` if this process has not imported it."""
    return _KNOWN.get((name, version))


def has_coroutines() -> bool:
    """Whether this process knows a compensation that only a coroutine can call."""
    functions = [each for one in tuple(_KNOWN.values()) for each in (one.function, one.reconcile)]
    return any(inspect.iscoroutinefunction(one) for one in functions)
