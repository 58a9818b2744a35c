"""The shapes of LangGraph's checkpoints, metadata and versions, checked when they are stored and when they are read.

Digests reveal accidents only. An attacker who can write to a store can compute the digest of content that no writer
makes. Code that relies on types would then fail anywhere, with an error that explains nothing. So the shapes are
checked in one place, and content of another shape is reported as damage. Only the fields that the library or LangGraph
relies on are checked: a field may be absent, and unknown fields are fine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from langgraph_gcs_saver.portable import DELTA_COUNTERS, Stored

_INT64 = 1 << 63

_TEXT = frozenset((str,))
_USUAL_VERSIONS = frozenset((str, int))


def is_version(value: Any) -> bool:
    """Whether a value can be the version of a channel; `None` is a version that is not known."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int, Stored))


def _is_text_map(value: Any) -> bool:
    # The set of types is compared first because it is fast: every read does this, for about a hundred versions.
    return isinstance(value, Mapping) and (_TEXT.issuperset(map(type, value)) or all(map(_is_text, value)))


def _are_versions(value: Any) -> bool:
    return _is_text_map(value) and (
        _USUAL_VERSIONS.issuperset(map(type, value.values())) or all(map(is_version, value.values()))
    )


def _is_seen(value: Any) -> bool:
    return _is_text_map(value) and all(map(_are_versions, value.values()))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and -_INT64 <= value < _INT64


def _is_number(value: Any) -> bool:
    # LangGraph counts with integers. Another tool may have turned 1 into 1.0, which works everywhere.
    return math.isfinite(value) if isinstance(value, float) else _is_integer(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _are_channels(value: Any) -> bool:
    return _is_list(value) and all(isinstance(channel, str) for channel in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_ids(value: Any) -> bool:
    return _is_text_map(value) and all(isinstance(one, str) for one in value.values())


def _are_counters(value: Any) -> bool:
    return _is_text_map(value) and all(
        _is_list(count) and len(count) == 2 and all(map(_is_integer, count)) for count in value.values()
    )


def _or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _or_object(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    # An object, such as an enum, passes because the value behind another application's class is not known here.
    return lambda value: is_right(value) or isinstance(value, Stored)


_Expected = Mapping[str, tuple[Callable[[Any], bool], str]]

_CHECKPOINT: _Expected = {
    "v": (_or_object(_is_number), "a number"),
    "ts": (_or_object(_is_text), "text"),
    "channel_versions": (_are_versions, "a version for each channel"),
    "versions_seen": (_is_seen, "a version for each node and channel"),
    "updated_channels": (_or_none(_are_channels), "a list of channels"),
    "pending_sends": (_is_list, "a list"),
}

_METADATA: _Expected = {
    "source": (_or_none(_or_object(_is_text)), "text"),
    "step": (_or_none(_or_object(_is_number)), "a number"),
    "parents": (_or_none(_are_ids), "a checkpoint id for each namespace"),
    DELTA_COUNTERS: (_or_none(_are_counters), "two numbers for each channel"),
}


def wrong_in_checkpoint(fields: Any) -> str | None:
    """Says which field of a checkpoint does not have LangGraph's shape; `None` if all fields have it."""
    return _wrong(fields, "the checkpoint", _CHECKPOINT)


def wrong_in_metadata(fields: Any) -> str | None:
    """Says which field of a checkpoint's metadata does not have LangGraph's shape; `None` if all fields have it."""
    return _wrong(fields, "the metadata", _METADATA)


def _wrong(fields: Any, what: str, expected: _Expected) -> str | None:
    if not _is_text_map(fields):
        return f"{what} is not a mapping with text keys"
    for key, (is_right, kind) in expected.items():
        if key in fields and not is_right(fields[key]):
            return f"{key!r} of {what} is not {kind}"
    return None
