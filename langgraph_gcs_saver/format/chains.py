"""The choice of the earlier version that a value's frame builds on.

Versions of a channel are numbered from their base, the last full frame. To find the version that `k` builds on, write
`k` in base 5 and subtract one from its lowest nonzero digit. That version is always in the chain of version `k - 1`.
The digits' sum is the greatest number of incremental frames in a chain. With binary digits, chains would be a few
frames shorter, and a long chat would take a fifth more bytes (`docs/explanation/design/002-incremental-frames.md`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.format.blobs import digests_in
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, ChannelRef, FrameRef, Serialized
from langgraph_gcs_saver.records import record

MAX_FRAMES = 12
"""Most frames of a chain. A version whose chain would be longer builds on an earlier version."""

_RADIX = 5

MIN_BYTES = 256
"""Smallest value, in bytes, that gets an incremental frame. Below that, zstd's headers are as large as the value."""

_WORTH = 0.75
"""Largest incremental frame, as a share of a full one: a smaller gain is not worth a longer chain."""

_SIMILAR = 2
"""New bytes that resemble those near them take this many times fewer bytes than others, as a rule."""

_GREGORIAN_TICKS = 0x01B21DD213814000
"""100-nanosecond ticks from 1582-10-15, where UUIDs begin, to 1970-01-01 (RFC 9562, section 5.1)."""

_READ = 1.25
"""Most bytes to read for a value, as a multiple of its full frame. So a value that shrank soon gets its own base.

A value that grows keeps its base, however small the base has become. New bases would cost more than the larger steps
that an old base causes (`docs/explanation/design/029-shared-values.md`).
"""


@record(frozen=True, slots=True)
class Earlier:
    """A channel's version in the parent, which the next version may build on.

    Attributes:
        ref: The parent's ref.
        links: The ref's chain, as the child refers to it.
        values: The value of each link; `None` for a link whose value is not in memory.
    """

    ref: ChannelRef
    links: tuple[FrameRef, ...]
    values: Sequence[Digested | None]


@record(frozen=True, slots=True)
class Encoded:
    """A value's frame, and the content of its ref.

    Attributes:
        type: The serializer's type tag.
        value: The serialized value and its digest.
        frame: The frame; empty if the value has no bytes.
        links: The frames that it builds on, base first.
        k: The version's number, counted from the base.
        blobs: Digests of the blobs that the value names.
        format: Lowest version of the format whose readers can decode the frame.
    """

    type: str
    value: Digested
    frame: bytes | Pieces
    links: tuple[FrameRef, ...]
    k: int
    blobs: tuple[str, ...] = ()
    format: int = FORMAT


def encode(
    value: Serialized,
    earlier: Earlier | None,
    codec: Codec,
    full_every: int | timedelta | None,
    now: float,
    *,
    full: Callable[[bytes], bytes | Pieces] | None = None,
) -> Encoded:
    """Encode a value, incrementally if that saves enough.

    Args:
        value: The value.
        earlier: The version before it; `None` if the frame must be full.
        codec: Makes the frames.
        full_every: Versions, or time, after which a full frame is due. A lower value makes fewer versions depend on
            one object.
        now: The wall clock, in seconds since the epoch.
        full: Makes the full frames in place of the codec.
    """
    latest = None if earlier is None or earlier.ref.blobs else earlier.values[-1]
    listed = digests_in(value, None if latest is None else latest.data)
    at_hand = [] if earlier is None else [one for one in earlier.values if one is not None]
    size, digested = len(value.data), Digested.of(value.data, at_hand[-1] if at_hand else None)
    index = None
    if earlier is not None and size >= MIN_BYTES and not _is_due(earlier, full_every, now):
        index = _choose(earlier)
    if earlier is not None and index is not None:
        base = earlier.values[index]
        links = earlier.links[: index + 1]
        increment = None if base is None else codec.increment(value.data, base.data)
        if increment is not None and _may_pay(links, increment.new_bytes, size):
            frame, k = codec.encode_increment(increment), earlier.links[-1].k + 1
            if _pays(links, len(frame), size):
                return Encoded(value.type, digested, frame, links, k, listed, increment.format)
    whole = (full or partial(codec.encode, trained=True))(value.data) if value.data else b""
    return Encoded(value.type, digested, whole, (), 0, listed)


def _is_due(earlier: Earlier, full_every: int | timedelta | None, now: float) -> bool:
    if full_every is None:
        return False
    if isinstance(full_every, timedelta):
        written = _time_of(earlier.links[0])
        return written is not None and now - written >= full_every.total_seconds()
    return earlier.links[-1].k + 1 >= full_every


def _time_of(link: FrameRef) -> float | None:
    """When a frame was written, in seconds since the epoch, according to its checkpoint's id (UUID version 6)."""
    try:
        owner = uuid.UUID(link.owner)
    except ValueError:
        return None
    if owner.version != 6:
        return None
    ticks = (owner.int >> 80 << 12) | (owner.int >> 64 & 0xFFF)
    return (ticks - _GREGORIAN_TICKS) / 1e7


def ancestor(k: int) -> int:
    """The version that version `k` builds on: `k` with its lowest nonzero digit, in base 5, reduced by one."""
    unit = 1
    while k % (unit * _RADIX) == 0:
        unit *= _RADIX
    return k - unit


def _choose(earlier: Earlier) -> int | None:
    """Index of the link to build on: the ancestor, or else the latest link in memory that keeps the chain short."""
    wanted = ancestor(earlier.links[-1].k + 1)
    at_hand = [i for i, value in enumerate(earlier.values) if value is not None and i + 2 <= MAX_FRAMES]
    return max([i for i in at_hand if earlier.links[i].k == wanted] or at_hand, default=None)


def _may_pay(links: tuple[FrameRef, ...], new_bytes: int, size: int) -> bool:
    """Whether a frame may pay, judged by the bytes that it compresses.

    They have the same share of a full frame as of the value, or much less if the dictionary has similar ones.
    """
    return new_bytes == size or _pays(links, links[0].stored * new_bytes // (_SIMILAR * (links[0].size or 1)), size)


def _pays(links: tuple[FrameRef, ...], frame: int, size: int) -> bool:
    base = links[0]
    full = base.stored * size / (base.size or 1)  # an estimate: compressing the value again would cost what it saves
    increments = sum(link.stored for link in links[1:]) + frame
    return frame <= _WORTH * full and base.stored + increments <= _READ * full
