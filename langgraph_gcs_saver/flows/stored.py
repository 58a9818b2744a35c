"""The result of a successful put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langgraph_gcs_saver.engine.effects import PutBlob
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
