"""Holds: sets and savepoints that need a checkpoint to stay.

A checkpoint's document has a field `holds`: a map. A key of it names a hold: the set of a team, or the savepoint of a
saga. Its value is always true. A pin is the user's own; a hold belongs to the set or saga that wrote it, which alone
removes it. While a checkpoint has a hold, nothing prunes it, and what a held root checkpoint needs stays with it.

A key is `set TEAM SET` or `savepoint SAGA NAME`, each part as `keys.enc` encodes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.records import record

HOLDS = "holds"
"""The field of a checkpoint's document."""

Kind = Literal["set", "savepoint"]


@record(frozen=True, slots=True)
class Hold:
    """A hold.

    Attributes:
        kind: What holds the checkpoint.
        owner: The team, or the saga.
        name: The set, or the savepoint.
    """

    kind: Kind
    owner: str
    name: str

    @property
    def key(self) -> str:
        """Its key in the map."""
        return f"{self.kind} {keys.enc(self.owner)} {keys.enc(self.name)}"

    def __str__(self) -> str:
        if self.kind == "set":
            return f"set {self.name} of team {self.owner}"
        return f"savepoint {self.name} of saga {self.owner}"


def keys_of(doc: Doc) -> tuple[str, ...]:
    """The keys of a checkpoint's holds, those included that this version cannot parse."""
    found = doc.fields.get(HOLDS)
    if not isinstance(found, Mapping):
        return ()
    return tuple(sorted([key for key in found if isinstance(key, str)]))


def holds_of(doc: Doc) -> tuple[Hold, ...]:
    """The holds of a checkpoint. A key that this version cannot parse is a hold of kind "set" without an owner."""
    return tuple([parse(key) for key in keys_of(doc)])


def parse(key: str) -> Hold:
    """The hold of a key."""
    parts = key.split(" ")
    if len(parts) == 3 and parts[0] in ("set", "savepoint"):
        return Hold(cast("Kind", parts[0]), keys.told_id(parts[1]), keys.told_id(parts[2]))
    return Hold("set", "", key)


def with_hold(doc: Doc, key: str) -> dict[str, Any]:
    """The field of a checkpoint's document with one hold more."""
    return {HOLDS: {**dict.fromkeys(keys_of(doc), True), key: True}}


def without_hold(doc: Doc, key: str) -> dict[str, Any]:
    """The field of a checkpoint's document without a hold; an empty map if it was the last."""
    return {HOLDS: {other: True for other in keys_of(doc) if other != key}}
