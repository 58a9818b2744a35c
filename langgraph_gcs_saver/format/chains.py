"""Which earlier version a value's frame builds on.

Versions of a channel are numbered from their base, the last full frame. Version `k` builds on the version whose number,
written in base 5, has the lowest digit of `k` that is not zero reduced by one. That version is always in the chain of
version `k - 1`, and a chain has at most as many incremental frames as the digits' sum. With binary digits chains are
shorter by a few frames and a long chat takes a fifth more bytes (`docs/explanation/design/002-incremental-frames.md`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec, resembles
from langgraph_gcs_saver.format.manifest import ChannelRef, FrameRef, Serialized
from langgraph_gcs_saver.records import record

MAX_FRAMES = 12
"""Most frames of a chain; a version whose own would be longer builds on an earlier one."""

_RADIX = 5

MIN_BYTES = 256
"""Smallest value that is worth an incremental frame: below, zstd's headers weigh as much as the value."""

OUTWEIGH = 1.5
"""A new base is due when the incremental frames of a chain together weigh so many times what their base does."""

_WORTH = 0.75
"""An incremental frame must be smaller than a full one by a quarter, or it is not worth a longer chain."""

_GREGORIAN_TICKS = 0x01B21DD213814000
"""100-nanosecond ticks from 1582-10-15, where UUIDs begin, to 1970-01-01 (RFC 9562, section 5.1)."""

_READ = 1.25
"""Most bytes to read for a value, as a multiple of its full frame; a shrunken value soon gets a base of its own."""


@record(frozen=True, slots=True)
class Earlier:
    """A channel's version in the parent, to build on.

    Attributes:
        ref: The parent's ref.
        links: Its chain, as the child refers to it.
        values: The value of each link, if it is at hand.
    """

    ref: ChannelRef
    links: tuple[FrameRef, ...]
    values: Sequence[Digested | None]


@record(frozen=True, slots=True)
class Encoded:
    """A value's frame, and what its ref will say.

    Attributes:
        type: The serialiser's type tag.
        value: The serialised value, and its digest.
        frame: The frame; empty for zero bytes.
        links: The frames that it builds on, base first.
        k: Its number since the base.
    """

    type: str
    value: Digested
    frame: bytes
    links: tuple[FrameRef, ...]
    k: int


def encode(
    value: Serialized, earlier: Earlier | None, codec: Codec, full_every: int | timedelta | None, now: float
) -> Encoded:
    """Encode a value, incrementally where that pays.

    Args:
        value: The value.
        earlier: The version before it, if it may be built on.
        codec: Makes the frames.
        full_every: Versions, or time, after which a full frame is due: the fewer, the less depends on one object.
        now: The wall clock, seconds since the epoch.
    """
    at_hand = [] if earlier is None else [one for one in earlier.values if one is not None]
    size, digested = len(value.data), Digested.of(value.data, at_hand[-1] if at_hand else None)
    index = None
    if earlier is not None and size >= MIN_BYTES and not _is_due(earlier, full_every, now):
        index = _choose(earlier)
    if earlier is not None and index is not None:
        base = earlier.values[index]
        if base is not None and resembles(value.data, base.data):
            frame = codec.encode(value.data, base.data)
            links = earlier.links[: index + 1]
            if _pays(links, frame, size):
                return Encoded(value.type, digested, frame, links, earlier.links[-1].k + 1)
    frame = codec.encode(value.data) if value.data else b""
    return Encoded(value.type, digested, frame, (), 0)


def _is_due(earlier: Earlier, full_every: int | timedelta | None, now: float) -> bool:
    if full_every is None:
        return False
    if isinstance(full_every, timedelta):
        written = _time_of(earlier.links[0])
        return written is not None and now - written >= full_every.total_seconds()
    return earlier.links[-1].k + 1 >= full_every


def _time_of(link: FrameRef) -> float | None:
    """When a frame was written, in seconds since the epoch, as its checkpoint's id says (UUID version 6)."""
    try:
        owner = uuid.UUID(link.owner)
    except ValueError:
        return None
    if owner.version != 6:
        return None
    ticks = (owner.int >> 80 << 12) | (owner.int >> 64 & 0xFFF)
    return (ticks - _GREGORIAN_TICKS) / 1e7


def ancestor(k: int) -> int:
    """The version that version `k` builds on: the lowest digit that is not zero, in base 5, is reduced by one."""
    unit = 1
    while k % (unit * _RADIX) == 0:
        unit *= _RADIX
    return k - unit


def _choose(earlier: Earlier) -> int | None:
    """The link to build on: the ancestor, or the nearest at hand that keeps the chain short."""
    wanted = ancestor(earlier.links[-1].k + 1)
    at_hand = [i for i, value in enumerate(earlier.values) if value is not None and i + 2 <= MAX_FRAMES]
    return max([i for i in at_hand if earlier.links[i].k == wanted] or at_hand, default=None)


def _pays(links: tuple[FrameRef, ...], frame: bytes, size: int) -> bool:
    base = links[0]
    full = base.stored * size / (base.size or 1)  # an estimate: compressing again to know would cost what is saved
    increments = sum(link.stored for link in links[1:]) + len(frame)
    return (
        increments <= OUTWEIGH * base.stored
        and len(frame) <= _WORTH * full
        and base.stored + increments <= _READ * full
    )
