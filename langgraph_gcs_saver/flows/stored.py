"""What a successful put has stored, as events report it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph_gcs_saver.engine.effects import PutBlob
from langgraph_gcs_saver.events import ValueStored
from langgraph_gcs_saver.format.manifest import ChannelRef
from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True)
class Stored:
    """What a put of a checkpoint or of pending writes has stored. Sizes are computed only when they are read.

    Attributes:
        attempts: The number of commits tried.
        is_new: Whether this call stored it, as far as it knows. If false, it was stored by an earlier call, or by a
            commit of this call whose answer was lost.
        channels: Where the checkpoint's values are.
        inline: What was stored in documents.
        uploads: What was uploaded.
    """

    attempts: int
    is_new: bool
    channels: Mapping[str, ChannelRef]
    inline: Sequence[bytes] = ()
    uploads: Sequence[PutBlob] = ()

    @property
    def size(self) -> int:
        """Bytes of the checkpoint's serialized values."""
        return sum(ref.size for ref in self.channels.values())

    @property
    def inline_bytes(self) -> int:
        """Bytes stored in documents."""
        return sum(map(len, self.inline))

    @property
    def object_bytes(self) -> int:
        """Bytes uploaded."""
        return sum(len(upload.data) for upload in self.uploads)


def values_of(channels: Mapping[str, ChannelRef]) -> tuple[ValueStored, ...]:
    """The values that the put of a checkpoint has stored. Its own frame is the last one of a value's chain."""
    return tuple(
        [
            ValueStored(channel, ref.size, ref.chain[-1].stored, len(ref.chain))
            for channel, ref in channels.items()
            if ref.chain and ref.chain[-1].owner is None
        ]
    )


def made_by(metadata: object) -> dict[str, Any]:
    """What made a checkpoint, by its metadata, which may be invalid."""
    found: Mapping[Any, Any] = metadata if isinstance(metadata, Mapping) else {}
    step, source = found.get("step"), found.get("source")
    return {"step": step if isinstance(step, int) else None, "source": source if isinstance(source, str) else ""}
