"""`RTO`, the longest that a crash may set a run back, and how long a restore takes.

A restore reads a checkpoint in a few rounds, decodes its frames, and deserializes its values. An estimate assumes rates
that a process near its bucket reaches. `python -m benchmarks.objectives` prints what follows from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.records import record

ROUND_SECONDS = 0.1
"""One round of requests to Firestore or Cloud Storage, on a slow day."""

ROUNDS = 3
"""Rounds of a restore: the checkpoint; its frames and pending writes; whether a newer checkpoint is missing."""

READ_BYTES = 100e6
"""Bytes a second that a process reads from its bucket."""

DECODE_BYTES = 250e6
"""Bytes a second that a busy machine decompresses and compares with their digest."""

LOAD_BYTES = 100e6
"""Bytes a second that are deserialized."""

READ_SHARE = 1.25
"""Most bytes that are read for a value in several frames, as a multiple of its full frame."""

STATE_BYTES = 64 << 20

_THOUSANDS = 1_000_000


@record(frozen=True, slots=True, kw_only=True)
class Weight:
    """What a restore has to do.

    Attributes:
        requests: Documents and objects to read beside the checkpoint's own document, at least as many as can be read
            at the same time.
        parallel: How many can be read at the same time.
        read: Bytes to read.
        decoded: Bytes to decode: the values of all frames, those in the middle of a chain included.
        loaded: Bytes to deserialize.
        frames: Frames of the longest chain.
    """

    requests: int = 1
    parallel: int = 1
    read: float = 0.0
    decoded: float = 0.0
    loaded: float = 0.0
    frames: int = 1

    @property
    def _parts(self) -> tuple[float, float, float]:
        """Seconds of the rounds, of what grows with the state's size, and of what grows with the chain."""
        rounds = ROUNDS - 1 + max(1, math.ceil(self.requests / self.parallel))
        return (
            rounds * ROUND_SECONDS,
            self.read / READ_BYTES + self.loaded / LOAD_BYTES,
            self.decoded / DECODE_BYTES,
        )

    @property
    def seconds(self) -> float:
        """How long the restore takes, estimated."""
        return sum(self._parts)

    @property
    def advice(self) -> str:
        """What makes the restore shorter."""
        rounds, size, chain = self._parts
        if rounds > max(size, chain):
            return "It reads many objects. Pass larger `inline_max_bytes` or `max_threads`."
        if chain > size and self.frames > 1:
            return f"Its longest chain has {self.frames} frames. Pass a smaller `full_every`."
        return "Its state is large. Move large values out of the state, or shorten its lists."


def of_state(size: float, frames: int) -> Weight:
    """The most that a restore of a state has to do.

    Args:
        size: Bytes of the serialized state.
        frames: Most frames of a value's chain.
    """
    return Weight(
        read=size * (READ_SHARE if frames > 1 else 1.0), decoded=size * frames, loaded=size, frames=max(1, frames)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RTO:
    """A recovery time objective: how long a crash may set a run back.

    Attributes:
        minutes: The objective, in minutes. Both are added.
        seconds: The same in seconds.
        state_bytes: The largest state that you expect, in serialized bytes. A saver raises an error when it is made if
            it could not restore such a state in time.
    """

    minutes: float = 0.0
    seconds: float = 0.0
    state_bytes: int = STATE_BYTES

    def __post_init__(self) -> None:
        if not 0 < self.total < math.inf:
            raise InvalidInputError("RTO() needs a positive number of minutes or seconds.")
        if type(self.state_bytes) is not int or self.state_bytes < 0:
            raise InvalidInputError(f"state_bytes is {self.state_bytes!r}; it must be a number of bytes.")

    @property
    def total(self) -> float:
        """The objective in seconds."""
        return self.minutes * 60.0 + self.seconds

    def largest_state(self, frames: int) -> int:
        """Bytes of the largest state that is restored in time, in thousands, if no value has more frames.

        It is 0 if there is none.
        """
        least = of_state(0, frames).seconds
        spare, one = self.total - least, of_state(_THOUSANDS * 1e3, frames).seconds - least
        return max(0, 1000 * int(_THOUSANDS * spare / one))

    def check(self, frames: int) -> None:
        """Check that a state of `state_bytes` can be restored in time.

        Args:
            frames: Most frames of a value's chain.

        Raises:
            InvalidInputError: It cannot.
        """
        needed = of_state(self.state_bytes, frames).seconds
        if needed <= self.total:
            return
        most, full = self.largest_state(frames), of_state(self.state_bytes, 1).seconds
        ways = [
            f"full_every=1 (then it takes {full:.1f} s)" if full <= self.total else "",
            f"RTO(…, state_bytes={most}), if no state is larger" if most else "",
            "a longer objective",
        ]
        raise InvalidInputError(
            f"The objective is {self.total:g} s, and the restore of a state of {self.state_bytes:,} bytes, in chains "
            f"of at most {frames} frames, takes about {needed:.1f} s. Pass {'; or '.join(filter(None, ways))}."
        )
