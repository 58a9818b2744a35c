"""Metadata filters: which part of a checkpoint's metadata Firestore indexes, and how `list(filter=…)` uses it.

Firestore narrows the query; `matches` then decides. Both compare as the Postgres saver does. Numbers compare by value
(1 == 1.0), a boolean never equals a number, and a missing key equals nothing, not even `None`. Some metadata is not
indexed here: `None`, long strings, containers, and keys that Firestore would need quoted. Only `matches` checks these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from langgraph_gcs_saver.format.keys import SIMPLE_FIELD

MAX_STRING = 256
"""Longest indexed string, in bytes. Firestore indexes only the first 1,500 bytes of a string."""

_INT64 = 1 << 63

RUN_ID = "run_id"

MAX_BYTES = 256 << 10
"""Most bytes of indexed metadata in a document; Firestore allows 1 MiB for all of it."""


def size(found: object) -> int:
    """Bytes of a `filter` field, roughly as Firestore counts them; 0 for a corrupt field."""
    if not isinstance(found, Mapping):
        return 0
    return sum(len(k) + 9 + (len(v.encode()) if isinstance(v, str) else 0) for k, v in found.items())


def _indexable(key: str, value: Any) -> bool:
    if not isinstance(key, str) or not SIMPLE_FIELD.match(key):
        return False
    if isinstance(value, str):
        try:
            return len(value.encode()) <= MAX_STRING
        except UnicodeEncodeError:
            return False
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return -_INT64 <= value < _INT64
    if isinstance(value, float):
        return math.isfinite(value)
    return False


def _stored(value: Any) -> Any:
    """The value as a plain bool, int, float or str, because metadata may hold subclasses, such as enums."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    raise TypeError(type(value).__name__)


def index(metadata: Mapping[str, Any], clear: frozenset[str] | None = None) -> dict[str, Any]:
    """The part of `metadata` that the document's `filter` field holds; only keys in `clear`, unless it is `None`."""
    return {
        k: _stored(v) for k, v in metadata.items() if k != RUN_ID and (clear is None or k in clear) and _indexable(k, v)
    }


def clear_part(found: object, clear: frozenset[str] | None) -> object:
    """The part of a stored `filter` field that a copy may keep in clear; the whole field if `clear` is `None`."""
    if clear is None:
        return found
    return {key: value for key, value in found.items() if key in clear} if isinstance(found, Mapping) else None


def where(wanted: Mapping[str, Any] | None, clear: frozenset[str] | None = None) -> tuple[tuple[str, Any], ...]:
    """The equality filters that Firestore can apply for `wanted`."""
    if not wanted:
        return ()
    return tuple(
        (RUN_ID if k == RUN_ID else f"filter.{k}", _stored(v))
        for k, v in wanted.items()
        # A run id that is not text is stored in the metadata only.
        if (clear is None or k in clear) and _indexable(k, v) and (k != RUN_ID or isinstance(v, str))
    )


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether the metadata has every key of the filter, with an equal value."""
    return not wanted or all(k in metadata and _equal(metadata[k], v) for k, v in wanted.items())


def _equal(found: Any, wanted: Any) -> bool:
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
