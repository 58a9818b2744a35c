"""Reads LangGraph's configs without importing LangGraph."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langgraph_gcs_saver.errors import InvalidConfigError, InvalidInputError
from langgraph_gcs_saver.format import keys

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

MAX_NAME = 200
"""Most characters in the name of a step, of a savepoint and of a compensation."""

_MISSING = object()

_ID_TYPES = (str, int, UUID)


def configurable(config: RunnableConfig) -> Mapping[str, Any]:
    """The `configurable` part of a config.

    Raises:
        InvalidConfigError: The config has no such part.
    """
    found = config.get("configurable") if isinstance(config, Mapping) else None
    if not isinstance(found, Mapping):
        raise InvalidConfigError(
            'The config has no "configurable". Pass {"configurable": {"thread_id": "…"}} to the graph.'
        )
    return found


def text_of(found: Mapping[str, Any], key: str, *, default: Any = _MISSING) -> str:
    """The text under a key of a config's `configurable`.

    Raises:
        InvalidConfigError: The key is missing and there is no default, or its value is of another type.
    """
    value = found.get(key)
    if value is None:
        value = default
    if value is _MISSING:
        raise InvalidConfigError(
            f'The config has no {key!r}. Pass {{"configurable": {{"{key}": "…"}}}}; a checkpointer needs it.'
        )
    if isinstance(value, str):
        return value
    if key == "thread_id":
        return str(value)  # PostgresSaver takes ints and UUIDs too.
    raise InvalidConfigError(f"{key!r} in the config is of type {type(value).__name__}; it must be a str.")


def thread_and_ns(config: RunnableConfig) -> tuple[str, str]:
    """The thread and the namespace of a config."""
    found = configurable(config)
    return text_of(found, "thread_id"), text_of(found, "checkpoint_ns", default="")


def checkpoint_id_of(config: RunnableConfig) -> str | None:
    """The checkpoint id of a config, if it has one."""
    found = configurable(config)
    return text_of(found, "checkpoint_id") if found.get("checkpoint_id") else None


def named(config: object) -> dict[str, Any]:
    """The thread, namespace, checkpoint and run that a config names, even if the config is otherwise invalid."""
    found = part(config, "configurable")
    # In the order in which LangGraph merges them into a checkpoint's metadata.
    run = part(config, "metadata").get("run_id")
    if not isinstance(run, str):
        run = found.get("run_id")
    return {
        "thread_id": _id(found.get("thread_id")),
        "checkpoint_ns": _id(found.get("checkpoint_ns")),
        "checkpoint_id": _id(found.get("checkpoint_id")),
        "run_id": run if isinstance(run, str) else None,
    }


def _id(value: object) -> str:
    return str(value) if isinstance(value, _ID_TYPES) else ""


def part(config: object, name: str) -> Mapping[Any, Any]:
    """A part of a config; empty if the config is invalid, or has none."""
    # A dict is recognized ten times faster than another mapping.
    found = config.get(name) if isinstance(config, (dict, Mapping)) else None
    return found if isinstance(found, (dict, Mapping)) else {}


def config_of(thread_id: Any, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names one checkpoint. `thread_id` has the type that the caller used."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def check_type(what: str, value: Any, kind: type) -> None:
    """Raise for an argument of another type.

    Raises:
        InvalidInputError: The argument is of another type.
    """
    if not isinstance(value, kind):
        raise InvalidInputError(f"{what} is of type {type(value).__name__}; it must be a {kind.__name__}.")


def check_name(what: str, name: object) -> str:
    """A name that people give to a part of a saga, if it can be stored and shown.

    Raises:
        InvalidInputError: It is no text, or empty, too long, or has null characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not keys.is_text(name) or "\0" in name:
        raise InvalidInputError(
            f"The name of a {what} must be text of 1 to {MAX_NAME} characters, without null characters."
        )
    return name


def seconds_of(what: str, time: datetime) -> float:
    """A datetime as seconds since the epoch. Without a time zone, it is local time.

    Raises:
        InvalidInputError: It is not a datetime, or the system cannot convert it, such as the year 1 in local time.
    """
    check_type(what, time, datetime)
    try:
        return time.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError(
            f"{what} is {time.isoformat()}, which this system cannot convert to a time stamp. Pass a datetime with a "
            "time zone, or one closer to now."
        ) from error


def check_unicode(what: str, text: str) -> None:
    """Raise for text that no service stores.

    Raises:
        InvalidInputError: It has lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what} {text!r} cannot be stored: it is not valid Unicode.") from None


def pin_request(config: RunnableConfig, label: str) -> tuple[str, str, str, str | None]:
    """The request of `pin`.

    Raises:
        InvalidConfigError: The config names no checkpoint.
        InvalidInputError: The label is not a str, or is longer than 500 characters.
    """
    check_type("label", label, str)
    if len(label) > 500:
        raise InvalidInputError(f"The label has {len(label)} characters; it must have at most 500.")
    check_unicode("The label", label)
    return (*_named(config), label)


def unpin_request(config: RunnableConfig) -> tuple[str, str, str, str | None]:
    """The request of `unpin`.

    Raises:
        InvalidConfigError: The config names no checkpoint.
    """
    return (*_named(config), None)


def _named(config: RunnableConfig) -> tuple[str, str, str]:
    thread_id, ns = thread_and_ns(config)
    return thread_id, ns, text_of(configurable(config), "checkpoint_id")


def check_found(request: tuple[str, str, str, str | None], found: bool) -> None:
    """Raise for a checkpoint that does not exist.

    Raises:
        InvalidConfigError: The checkpoint does not exist.
    """
    if not found:
        thread_id, ns, checkpoint_id, _ = request
        raise InvalidConfigError(f"Thread {thread_id!r}, namespace {ns!r} has no checkpoint {checkpoint_id!r}.")
