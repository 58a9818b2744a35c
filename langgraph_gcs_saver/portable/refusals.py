"""Messages for values that a serializer rejects: the reason and the place in the value, without showing the value.

A place is described by types, by fields that code declares, and by numbers. Keys of dicts are not shown, because a
graph may have made them from a user's words.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from langgraph_gcs_saver.errors import SerializationError

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

NOT_KEPT = "it would not be read back as it is"
"""The text of the error that a serializer raises for a value that it would change."""

_TRIES = 1_000
"""Most parts of a value that are serialized to find the part that is rejected."""

_CPU_SECONDS = 2.0
"""Most CPU time for that. Each part may be as large as the whole value, and an event loop may be waiting."""

_STEPS = 12
"""Steps of a path that are shown. Of a longer path, the steps in the middle are only counted."""

_KEY = 40
"""Characters of a key of edited JSON that are shown."""

_REASONS = re.compile(
    "|".join(
        map(
            re.escape,
            (
                NOT_KEPT,
                # ormsgpack, which LangGraph's serializer uses
                "Integer exceeds 64-bit range",
                "Recursion limit reached",
                "Recursion limit for default hook reached",
                "Dict key must a type serializable with OPT_NON_STR_KEYS",
                "Dict key must be str",
                "Type is not msgpack serializable",
                "string contains surrogates",
                # json
                "Circular reference detected",
                "Out of range float values are not JSON compliant",
                "is not JSON serializable",
                "keys must be str, int, float, bool or None",
                # pickle
                "cannot pickle",
                "Can't pickle",
                "Can't get local object",
                # text, and nesting, in any of them
                "surrogates not allowed",
                "maximum recursion depth exceeded",
                # reading
                "Unknown serialization type",
                "MAC check failed",
            ),
        )
    )
)
"""The constant texts that may be quoted from an exception. The text around them may come from a value."""


def check(serde: SerializerProtocol, value: Any, what: str) -> None:
    """Check that a serializer accepts a value. Arguments and error are those of `serialization.dumps`."""
    try:
        _typed(serde, value)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - as in `dumps`
        reason = reason_of(error)
    else:
        return
    raise refusal(serde, value, what, reason)


def refusal(serde: SerializerProtocol, value: Any, what: str, reason: str) -> SerializationError:
    """The error for a value that a serializer rejected for this reason.

    It describes the rejected part by its type, and by the numbers of items and names of fields that lead to it. It
    shows no value and no key.
    """
    return SerializationError(
        f"{what} cannot be serialized by {type(serde).__name__}: {_located(serde, value, reason)}. Remove such "
        "values, or pass a `serde` that handles them. Nothing was stored."
    )


def _typed(serde: SerializerProtocol, value: Any) -> tuple[str, bytes]:
    """The type tag and the bytes of a value."""
    kind, data = serde.dumps_typed(value)
    return kind, data if type(data) is bytes else bytes(data)


def step(key: Any) -> str:
    """An index, or a key of JSON that a user edits, as a step of a path: shortened and escaped."""
    return f"[{_shown(key)}]"


def reason_of(error: Exception) -> str:
    """The part of an exception that a message may show: its type, and a reason that is known to hold no content."""
    # Not `str(error)`, which would run the exception's own code.
    texts = (arg for arg in error.args if type(arg) is str)
    known = next((found[0] for found in map(_REASONS.search, texts) if found), None)
    return type(error).__name__ if known is None else f"{type(error).__name__}: {known}"


# The search for the rejected part of a value


def _located(serde: SerializerProtocol, value: Any, reason: str) -> str:
    """The reason and, as far as it can be found, the place. The serializer itself is tried on each part."""
    search = _Search(serde, value, reason, _TRIES, time.thread_time() + _CPU_SECONDS)
    # Attributes run the value's own code, which may raise anything. Then the message shows what was found so far.
    with suppress(Exception):
        search.descend()
    return search.description


class _SpentError(Exception):
    """The search has reached its limit of parts or CPU time."""


@dataclass(slots=True)
class _Search:
    """A search for the smallest part of a value that a serializer rejects.

    A part is entered only if it is rejected on its own. So the part that is found is always a cause, whatever the
    serializer does. Containers are halved: all tries of a container take about as long as two of the whole.

    Attributes:
        serde: The serializer.
        part: The smallest part found so far.
        reason: Why it is rejected.
        tries: How many parts may still be tried.
        end: The thread's CPU time at which the search ends, so that a busy machine does not shorten it.
        path: The steps that lead to the part.
        role: Whether the part is a value or a key.
        note: A second reason why it cannot be serialized; empty if there is none.
    """

    serde: SerializerProtocol
    part: Any
    reason: str
    tries: int
    end: float
    path: list[str] = field(default_factory=list)
    role: str = "a value"
    note: str = ""

    @property
    def description(self) -> str:
        """The reason, the type and the path."""
        steps = self.path
        if len(steps) > _STEPS:
            half = _STEPS // 2
            steps = [*steps[:half], f" … {len(steps) - _STEPS:,} more … ", *steps[-half:]]
        place = f" at {''.join(steps)}" if steps else ""
        return f"{self.reason}, for {self.role} of type {type(self.part).__name__}{place}{self.note}"

    def descend(self) -> None:
        """Go from part to part until none is rejected on its own."""
        above = {id(self.part): self.part}  # holding the part keeps its id from being reused
        while self._enter():
            if id(self.part) in above:
                self.note = ", which contains itself"
                return
            above[id(self.part)] = self.part

    def _enter(self) -> bool:
        """Enter the first part of the current part that is rejected on its own. False if there is none."""
        named = _fields(self.part)
        if named is not None:
            return any(self._take(name, child) for name, child in named)
        kind = next((kind for kind in _KINDS if isinstance(self.part, kind)), None)
        # If even an empty container is rejected, its parts are not the cause.
        if kind is None or not kind.__len__(self.part) or self._refusal(kind()) is not None:
            return False
        if kind is dict:
            return self._enter_dict(list(dict.items(self.part)))
        # `__iter__` of the kind, because the value's own may never end.
        parts: list[tuple[int, Any]] = list(enumerate(kind.__iter__(self.part)))
        ((index, child),) = self._halve(parts, lambda items: kind(child for _, child in items))
        return self._take("{…}" if issubclass(kind, set | frozenset) else step(index), child)

    def _enter_dict(self, items: list[tuple[Any, Any]]) -> bool:
        ((number, (key, child)),) = self._halve(list(enumerate(items)), lambda some: dict(item for _, item in some))
        if self._take(_item(number), child):
            return True
        reason = self._refusal({key: None})
        if reason is not None:
            self.path.append(_item(number))
            self.part, self.reason, self.role = key, reason, "a key"
        return False  # The search ends at a key, because no step leads into one.

    def _halve(self, items: list[tuple[Any, Any]], build: Callable[[Iterable[tuple[Any, Any]]], Any]) -> Any:
        """The item that remains after dropping one half of the items, again and again, while the rest is rejected."""
        while len(items) > 1:
            left = items[: len(items) // 2]
            items = left if self._refusal(build(left)) is not None else items[len(left) :]
        return items

    def _take(self, name: str, child: Any) -> bool:
        reason = self._refusal(child)
        if reason is None:
            return False
        self.path.append(name)
        self.part, self.reason = child, reason
        return True

    def _refusal(self, value: Any) -> str | None:
        """Why the serializer rejects a value; `None` if it accepts it."""
        if self.tries == 0 or time.thread_time() > self.end:
            raise _SpentError
        self.tries -= 1
        try:
            _typed(self.serde, value)
        except Exception as error:  # noqa: BLE001 - as in `dumps`
            return reason_of(error)
        return None


_KINDS = (dict, list, tuple, set, frozenset, deque)


def _fields(value: Any) -> list[tuple[str, Any]] | None:
    """The fields of an object of a kind that serializers know, each with its step; `None` for any other value."""
    from langgraph.checkpoint.serde.types import SendProtocol  # noqa: PLC0415 - needed for errors only
    from langgraph.store.base import Item  # noqa: PLC0415 - as above

    kind = type(value)
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        names = [one.name for one in fields(value)]
    elif isinstance(value, tuple) and hasattr(kind, "_fields"):
        names = list(cast("Any", kind)._fields)
    elif hasattr(kind, "model_dump") or hasattr(kind, "__fields__"):  # Pydantic, of version 2 or 1
        declared = getattr(kind, "model_fields" if hasattr(kind, "model_fields") else "__fields__")
        found = vars(value) | (getattr(value, "__pydantic_extra__", None) or {})
        # Undeclared fields are named at run time, as keys are, so their names are not shown.
        return [(f".{n}" if n in declared else _item(at), child) for at, (n, child) in enumerate(found.items())]
    elif isinstance(value, SendProtocol | Item):
        names = list(getattr(kind, "__slots__", ("node", "arg")))
    else:
        return None
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _item(number: int) -> str:
    """The step to an item of a dict, by its number in the order of the dict."""
    return f"[item {number}]"


def _shown(key: Any) -> str:
    """A key as messages may show it. Text is shortened, and a key that is not plain is shown as its type."""
    if type(key) is str:
        return repr(key) if len(key) <= _KEY else f"{key[:_KEY]!r}…"
    if key is None or type(key) in (bool, float) or (type(key) is int and key.bit_length() <= 64):
        return repr(key)
    return f"<{type(key).__name__}>"
