"""Documents of batches: the list of items, and the items that were done or have failed.

The list gives each item a position, which never becomes that of another item. A list that changes gets longer at its
end, and marks the items that it has lost. So a document of done items, which names positions, keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from langgraph_gcs_saver.engine.effects import Doc, Fields
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import natural, require, typed
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.records import record

State = Literal["open", "closing", "done"]

STATES: tuple[State, ...] = ("open", "closing", "done")
"""The states of a batch: items may remain; all are settled and the final operation may have begun; it has ended."""

STATE = "state"
"""The field of a batch's document with its state."""

LIST = "list"
"""The field of a batch's document with the list of items."""

ITEMS = "items"
"""The field of a document of done items that names them."""

OUTPUTS = "outputs"
"""The field of a document of done items with their outputs. It is absent if no item has one."""

CLAIM = "claim"
"""The field of a claim's document that says who has claimed a chunk."""

INLINE_BYTES = 128 << 10
"""Largest sealed list or outputs in a document; larger ones are in an object."""


@record(frozen=True, slots=True)
class Listing:
    """The list of a batch's items.

    Attributes:
        batch_id: The batch.
        epoch: Distinguishes the batch from earlier ones with the same id: before a restart, or before a deletion.
        chunk: Number of items in a chunk, which a worker claims as a whole.
        keys: The items' keys, by position.
        removed: Positions of items that the list has lost.
        context: JSON that the first caller gave.
    """

    batch_id: str
    epoch: str
    chunk: int
    keys: tuple[str, ...]
    removed: frozenset[int] = frozenset()
    context: Any = None

    def envelope(self) -> bytes:
        """The stored form.

        Raises:
            ValueTooLargeError: Readers would not parse it.
        """
        head = {
            "batch": self.batch_id,
            "epoch": self.epoch,
            "chunk": self.chunk,
            "keys": self.keys,
            "removed": sorted(self.removed),
            "context": self.context,
        }
        return frames.envelope(head)

    def positions(self) -> dict[str, int]:
        """Positions of the items that are on the list, by key."""
        return {key: at for at, key in enumerate(self.keys) if at not in self.removed}


@record(frozen=True, slots=True)
class Failure:
    """A failed attempt at an item, or several.

    Attributes:
        position: The item.
        reason: The error's text; empty if the workers of the item crashed.
        times: Number of attempts.
    """

    position: int
    reason: str
    times: int = 1


@record(frozen=True, slots=True)
class Settled:
    """A document of done items.

    Attributes:
        epoch: The epoch of the batch.
        done: Positions of items that were done.
        failed: Failed attempts.
        has_outputs: Whether the document has outputs of these items.
    """

    epoch: str
    done: tuple[int, ...]
    failed: tuple[Failure, ...] = ()
    has_outputs: bool = False

    def envelope(self) -> bytes:
        """The stored form."""
        failed = [[one.position, one.reason, one.times] for one in self.failed]
        head = {"epoch": self.epoch, "done": self.done, "failed": failed, "outputs": self.has_outputs}
        return frames.envelope(head)

    def fits(self, listing: Listing) -> bool:
        """Whether all of its items have a position in a list."""
        positions = (*self.done, *(one.position for one in self.failed))
        return max(positions, default=-1) < len(listing.keys)


@record(frozen=True, slots=True)
class Claimed:
    """What the document of a claim says.

    Attributes:
        epoch: The epoch of the batch.
        nonce: Distinguishes the claim from all others.
        owner: The process that has it.
        careful: Whether that process flushes each item on its own.
        suspect: The first item that was left when it claimed the chunk.
        crashes: How often in a row a careful process has crashed at that item.
    """

    epoch: str
    nonce: str
    owner: str
    careful: bool
    suspect: int
    crashes: int

    def fields(self, name: str, codec: Codec) -> dict[str, Any]:
        """The fields of its document."""
        head = {
            "epoch": self.epoch,
            "nonce": self.nonce,
            "owner": self.owner,
            "careful": self.careful,
            "suspect": self.suspect,
            "crashes": self.crashes,
        }
        return {"format": FORMAT, CLAIM: seals.close(frames.envelope(head), (name, CLAIM), codec)}


Outputs = Sequence[tuple[int, Serialized]]
"""Outputs of items by position."""


def outputs_envelope(outputs: Outputs) -> bytes:
    """The stored form of outputs."""
    head = {"outputs": [[at, value.type, len(value.data)] for at, value in outputs]}
    return frames.envelope(head, b"".join(value.data for _, value in outputs))


# Reading


def state_field(state: State, epoch: str, name: str, codec: Codec) -> bytes:
    """The field `STATE` of the batch's document `name`. It is sealed, because a batch that is done is not handled."""
    return seals.close(frames.envelope({"state": state, "epoch": epoch}), (name, STATE), codec)


def state_of(doc: Doc, codec: Codec, epoch: str | None = None) -> State:
    """The state of a batch.

    Args:
        doc: The batch's document.
        codec: Reads frames.
        epoch: The epoch of its list, if that is known. The state must be of the same one.

    Raises:
        DamagedError: The document is not one of a batch.
        UnsupportedFormatError: A newer version wrote it.
    """
    seals.check_format(doc, "Batch")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, STATE, codec))
    try:
        require(head["state"] in STATES and _epoch(head["epoch"]) == (epoch or head["epoch"]))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"the state of a batch does not parse: {type(error).__name__}", frame=doc.name) from None
    return cast("State", head["state"])


def listing_of(name: str, head: Any) -> Listing:
    """Parse the head of a list.

    Args:
        name: Name of the batch's document.
        head: The head.

    Raises:
        DamagedError: It does not parse.
    """
    try:
        found = Listing(
            typed(head["batch"], str),
            _epoch(head["epoch"]),
            natural(head["chunk"]),
            tuple([typed(key, str) for key in head["keys"]]),
            frozenset([natural(at) for at in head["removed"]]),
            head["context"],
        )
        require(keys.enc(found.batch_id) == keys.batch_segment_of(name))
        require(found.chunk > 0 and len(set(found.keys)) == len(found.keys))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a batch does not parse: {type(error).__name__}", frame=name) from None
    return found


def settled_of(doc: Doc, codec: Codec) -> Settled:
    """Read a document of done items, without their outputs.

    Raises:
        DamagedError: It is damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    seals.check_format(doc, "Items of a batch")
    if not keys.is_done_doc(doc.name):
        raise DamagedError("it does not have the name of a batch's items", frame=doc.name)
    head, _ = seals.opened(doc.name, seals.plain_of(doc, ITEMS, codec))
    try:
        failed = [Failure(natural(at), typed(reason, str), natural(times)) for at, reason, times in head["failed"]]
        done = tuple([natural(at) for at in head["done"]])
        return Settled(_epoch(head["epoch"]), done, tuple(failed), typed(head["outputs"], bool))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"items of a batch do not parse: {type(error).__name__}", frame=doc.name) from None


def claim_of(doc: Doc, codec: Codec) -> Claimed:
    """Read the document of a claim.

    Raises:
        DamagedError: It is damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    seals.check_format(doc, "Claim")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, CLAIM, codec))
    try:
        return Claimed(
            epoch=_epoch(head["epoch"]),
            nonce=typed(head["nonce"], str),
            owner=typed(head["owner"], str),
            careful=typed(head["careful"], bool),
            suspect=natural(head["suspect"]),
            crashes=natural(head["crashes"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a claim does not parse: {type(error).__name__}", frame=doc.name) from None


def check_outputs(doc: Doc, settled: Settled) -> None:
    """Check that a document has outputs if it says so.

    Raises:
        DamagedError: It does not.
    """
    if (OUTPUTS in doc.fields) is not settled.has_outputs:
        raise DamagedError("it has no outputs, or has some that it does not name", frame=doc.name)


def outputs_of(name: str, plain: bytes) -> Outputs:
    """Parse outputs.

    Args:
        name: Name of the document or object that holds them.
        plain: Their envelope.

    Raises:
        DamagedError: They do not parse.
    """
    head, tail = seals.opened(name, plain)
    found = []
    start = 0
    try:
        for at, kind, size in head["outputs"]:
            end = start + natural(size)
            require(end <= len(tail))
            found.append((natural(at), Serialized(typed(kind, str), tail[start:end])))
            start = end
        require(start == len(tail))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"outputs of a batch do not parse: {type(error).__name__}", frame=name) from None
    return found


def _epoch(value: Any) -> str:
    require(keys.ATTEMPT.match(typed(value, str)) is not None)
    return str(value)


# The registry


def batch_objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The object of a batch's list, if it has one, by name.

    Raises:
        DamagedError: The document is damaged.
    """
    state_of(doc, codec)
    head, _ = seals.opened(doc.name, seals.plain_of(doc, LIST, codec))
    found = stub_of(head)
    if found is None:
        state_of(doc, codec, listing_of(doc.name, head).epoch)
    return _blobs(doc, found)


def done_objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The object of the outputs in a document of done items, if it has one, by name.

    Raises:
        DamagedError: The document is damaged.
    """
    check_outputs(doc, settled_of(doc, codec))
    if OUTPUTS not in doc.fields:
        return {}
    plain = seals.plain_of(doc, OUTPUTS, codec)
    found = stub_of(seals.opened(doc.name, plain)[0])
    if found is None:
        outputs_of(doc.name, plain)
    return _blobs(doc, found)


def _blobs(doc: Doc, found: Stub | None) -> dict[str, Stub]:
    return {} if found is None else {keys.batch_blob(doc.name, found.attempt): found}


def _sealed_fields(doc: Doc) -> list[str]:
    return [field for field in (STATE, LIST, ITEMS, OUTPUTS) if field in doc.fields]


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether the cipher does not vouch for all of a document of a batch, which can be read."""
    return not all(codec.vouches_for(doc.fields[field][seals.SEAL_BYTES :]) for field in _sealed_fields(doc))


def copied(doc: Doc, name: str, attempt: Callable[[str], str], codec: Codec) -> Fields:
    """The fields of the copy `name` of a document.

    Raises:
        DamagedError: The document is damaged.
    """
    return {**doc.fields, **{field: seals.moved(doc, field, name, attempt, codec) for field in _sealed_fields(doc)}}


def equal(doc: Doc, fields: Fields, codec: Codec) -> bool:
    """Whether a document has the content of the given fields, although a cipher encrypts it differently each time."""
    other = replace(doc, fields=fields)
    sealed = _sealed_fields(doc)
    if sealed != _sealed_fields(other) or any(doc.fields[key] != fields.get(key) for key in doc.fields.keys() - sealed):
        return False
    try:
        return all(seals.plain_of(doc, field, codec) == seals.plain_of(other, field, codec) for field in sealed)
    except DamagedError:
        return False
