"""When a channel is heavy: it stores most of the bytes, and enough of them to be worth a change of the state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from langgraph_gcs_saver.records import record

SHARE = 0.5
"""A heavy channel stores at least this share of the bytes. Without it, at most half of them would be stored."""

MEAN_BYTES = 8 << 10
"""A heavy channel stores at least this many bytes for each checkpoint, on average.

Fewer bytes fit into the checkpoint's document, and take hardly any time. To keep 8 KiB there for ten weeks costs as
much as the operations that store the checkpoint (`python -m benchmarks.cost --frames`).
"""

Kind = Literal["rewritten", "growing"]


@record(frozen=True, slots=True)
class Stored:
    """The bytes that the values of a channel have stored, in some checkpoints.

    Attributes:
        channel: The channel.
        full: Bytes of values that were stored in full.
        incremental: Bytes of values that were stored as differences.
    """

    channel: str
    full: int
    incremental: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.full + self.incremental


@record(frozen=True, slots=True)
class Heavy:
    """A heavy channel.

    Attributes:
        channel: The channel.
        bytes: The bytes that it has stored.
        share: Their share of the bytes of all channels.
        kind: `rewritten` if most of them are of values that were stored in full, because they had little in common with
            those before. `growing` if most are differences.
    """

    channel: str
    bytes: int
    share: float
    kind: Kind


def heavy(sums: Iterable[Stored], checkpoints: int) -> Heavy | None:
    """The channel that is heavy, if there is one.

    Args:
        sums: What all channels have stored.
        checkpoints: In how many checkpoints.
    """
    found = list(sums)
    largest = max(found, key=lambda one: one.bytes, default=None)
    if largest is None or largest.bytes < MEAN_BYTES * max(1, checkpoints):
        return None
    share = largest.bytes / sum(one.bytes for one in found)
    kind: Kind = "rewritten" if largest.full >= largest.incremental else "growing"
    return Heavy(largest.channel, largest.bytes, share, kind) if share >= SHARE else None
