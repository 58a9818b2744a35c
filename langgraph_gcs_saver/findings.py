"""What `verify` finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.records import record

Depth = Literal["metadata", "existence", "data"]
"""How far to look: documents only; and whether each object is there, with its size and checksum; and every value."""

DEPTHS: tuple[Depth, ...] = ("metadata", "existence", "data")


NOT_CHECKED: Mapping[Depth | Literal["threads", "history"], tuple[str, ...]] = {
    "threads": ("missing checkpoints", "pending writes", "objects", "values"),
    "history": ("missing checkpoints", "pending writes", "contents of objects", "values"),
    "metadata": ("objects", "values"),
    "existence": ("values",),
    "data": ("deserialization",),
}
"""What may be damaged unnoticed: after `verify`, by its depth, and in what `threads` and `history` say of damage."""


def not_checked(parts: tuple[str, ...]) -> str:
    """One sentence that says what was not checked, and another one that says what would check it."""
    said = f"Not checked: {', '.join(parts)}."
    return said if parts == NOT_CHECKED["data"] else f"{said} Use `langgraph-gcs verify --depth data`."


def check_depth(depth: str) -> Depth:
    """The depth, if it is one.

    Raises:
        InvalidOptionError: It is not.
    """
    for known in DEPTHS:
        if depth == known:
            return known
    raise InvalidOptionError(f"depth is {depth!r}; it must be one of {', '.join(DEPTHS)}.")


@record(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: `missing` (referred to, and not there), `corrupt` (not what was written, or not where it was written),
            `clear` (not protected by the saver's cipher), or `unreferenced` (there, and nothing refers to it: what a
            call that died has left, or one that is under way has just uploaded).
        thread_id: The thread.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint that wrote it.
        channel: The channel whose value it holds, if it is one channel's.
        name: Name of the document or object.
        reason: What is wrong with it.
        affects: Ids of the checkpoints that cannot be read for it, newest first.
    """

    kind: Literal["missing", "corrupt", "clear", "unreferenced"]
    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""
    channel: str | None = None
    name: str
    reason: str
    affects: tuple[str, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether something that was stored cannot be read, or not be found; `clear` counts, for it is not read."""
        return self.kind != "unreferenced"

    def __str__(self) -> str:
        where = f"{self.name} (thread {self.thread_id!r}"
        if self.checkpoint_id:
            where += f", namespace {self.checkpoint_ns!r}, checkpoint {self.checkpoint_id}"
        if self.channel is not None:
            where += f", channel {self.channel!r}"
        affects = f"; {len(self.affects)} checkpoints cannot be read for it" if self.affects else ""
        return f"{self.kind}: {where}): {self.reason}{affects}"
