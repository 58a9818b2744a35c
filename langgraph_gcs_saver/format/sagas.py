"""The documents of sagas: steps that are all done, or all undone.

A document has one sealed envelope that says everything about its saga. The state is also in clear, for queries. The
steps and their undos are operations (`format.operations`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

from langgraph_gcs_saver.engine.effects import Delete, Doc, Fields, Merge, Write
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import natural, optional, require, typed
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Stub
from langgraph_gcs_saver.format.operations import seconds
from langgraph_gcs_saver.records import record

State = Literal["running", "done", "compensating", "compensated", "stuck"]

STATES: tuple[State, ...] = ("running", "done", "compensating", "compensated", "stuck")

ROLLING_BACK: tuple[State, ...] = ("compensating", "stuck")
"""States of a saga whose rollback has not ended."""

SAGA = "saga"
"""The field that holds everything about a saga."""

DOCUMENT = "document"
"""The field of a note at the store's root that names the saga's document."""


@record(frozen=True, slots=True)
class Savepoint:
    """A point between two steps, to which a saga can be rolled back.

    Attributes:
        name: Its name, which no other savepoint of the saga has.
        checkpoint_id: The checkpoint of the root namespace that it holds; `None` if the thread had none, or in a copy.
    """

    name: str
    checkpoint_id: str | None


@record(frozen=True, slots=True)
class Saga:
    """A saga, as its document says.

    Attributes:
        document: The document's name.
        thread_id: The thread.
        saga_id: The saga.
        state: `compensating` from the beginning of a rollback, and `compensated` when all steps are undone. `stuck` if
            the rollback cannot continue.
        epoch: Counts the rollbacks after which the saga continued.
        keep: Seconds for which the saga is kept after its end.
        by: Digits of the call that last changed the state.
        target: The savepoint to which it is rolled back; `None` for the beginning, and if it is not rolled back.
        savepoints: Its savepoints, oldest first.
        is_forgotten: Whether its deletion has begun, because it has expired.
        time: The document's update time.
    """

    document: str
    thread_id: str
    saga_id: str
    state: State
    epoch: int
    keep: float
    by: str
    target: str | None = None
    savepoints: tuple[Savepoint, ...] = ()
    is_forgotten: bool = False
    time: int = 0

    @property
    def segment(self) -> str:
        """The encoded id, which its steps have in a field that queries filter by."""
        return self.document.rpartition("/")[2]

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do. A `compensated` saga with a target still continues from its savepoint."""
        return self.state == "done" or (self.state == "compensated" and self.target is None)

    @property
    def is_rolling_back(self) -> bool:
        """Whether its rollback has begun, and a step may be left to undo."""
        return self.state in ROLLING_BACK

    @property
    def continues(self) -> bool:
        """Whether all is undone that a rollback to a savepoint had to undo, and the saga continues from there."""
        return self.state == "compensated" and self.target is not None

    @property
    def held_by_target(self) -> str | None:
        """The checkpoint that the target holds, if there is a target and it holds one."""
        return next((one.checkpoint_id for one in self.savepoints if one.name == self.target), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its savepoints, oldest first."""
        return tuple([one.name for one in self.savepoints])

    def position(self, target: str | None) -> int:
        """The number of savepoints up to a target; 0 for `None`. Steps that were claimed at so many or more are undone.

        Raises:
            ValueError: The saga has no such savepoint.
        """
        return 0 if target is None else self.names.index(target) + 1


def fields_of(saga: Saga, codec: Codec) -> dict[str, Any]:
    """The fields of a saga's document."""
    head: dict[str, Any] = {
        "id": saga.saga_id,
        "state": saga.state,
        "epoch": saga.epoch,
        "keep": saga.keep,
        "by": saga.by,
        "savepoints": [[one.name, one.checkpoint_id] for one in saga.savepoints],
    }
    if saga.target is not None:
        head["target"] = saga.target
    if saga.is_forgotten:
        head["forgotten"] = True
    stored = seals.close(frames.envelope(head), (saga.document, SAGA), codec)
    return {"format": FORMAT, "state": saga.state, SAGA: stored}


def note(document: str, fields: Fields) -> Write:
    """The write that keeps the list of rollbacks that have not ended, for a commit that changes a saga's document.

    Args:
        document: The name of the saga's document.
        fields: Its fields; none if it is deleted.
    """
    name, state = keys.rollback_doc(document), fields.get("state")
    return Merge(name, {DOCUMENT: document, "state": state}) if state in ROLLING_BACK else Delete(name)


def noted(doc: Doc) -> str | None:
    """The name of the saga's document that a note names; `None` if this library did not write the note."""
    name = doc.fields.get(DOCUMENT)
    if not isinstance(name, str) or keys.rollback_doc(name) != doc.name:
        return None
    segments = name.split("/")
    is_saga = len(segments) == 4 and segments[::2] == [keys.THREADS, keys.SAGAS]
    return name if is_saga and keys.is_thread_segment(segments[1]) and keys.is_saga_doc(name) else None


def parse(doc: Doc, codec: Codec) -> Saga:
    """The saga of a document.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "Saga")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, SAGA, codec))
    try:
        found = _parsed(doc, head)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a saga does not parse: {type(error).__name__}", frame=doc.name) from None
    if doc.fields.get("state") != found.state:
        raise DamagedError("a saga's state differs from the one that queries see", frame=doc.name)
    return found


def _parsed(doc: Doc, head: Any) -> Saga:
    saga_id, state = typed(head["id"], str), head["state"]
    require(keys.enc(saga_id) == doc.name.rpartition("/")[2] and state in STATES)
    savepoints = tuple([Savepoint(typed(name, str), optional(held, str)) for name, held in head["savepoints"]])
    target = optional(head.get("target"), str)
    names = [one.name for one in savepoints]
    require(len(set(names)) == len(names) and (target is None or target in names))
    return Saga(
        document=doc.name,
        thread_id=keys.told_thread_id(keys.thread_segment_of(doc.name)),
        saga_id=saga_id,
        state=cast("State", state),
        epoch=natural(head["epoch"]),
        keep=seconds(head["keep"]),
        by=typed(head["by"], str),
        target=target,
        savepoints=savepoints,
        is_forgotten=typed(head.get("forgotten", False), bool),
        time=doc.update_time,
    )


# What other calls do with sagas


def objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The objects of a saga's document: none.

    Raises:
        DamagedError: The document is damaged.
    """
    parse(doc, codec)
    return {}


def needed(doc: Doc, codec: Codec) -> dict[str, str]:
    """The checkpoints of the root namespace that a saga may continue from, by id, with the reason.

    Raises:
        DamagedError: The document is damaged.
    """
    saga = parse(doc, codec)
    held = [one for one in saga.savepoints if one.checkpoint_id is not None and not saga.has_ended]
    return {str(one.checkpoint_id): f"savepoint {one.name!r} of saga {saga.saga_id!r} holds it" for one in held}


def copied(doc: Doc, name: str, attempt: Callable[[str], str], codec: Codec) -> Fields:
    """The fields of a saga's document, as the document `name` elsewhere would have them.

    The processes that work on the saga know nothing of the copy. So a person has to decide there whether to roll it
    back: it is `stuck`, unless it has ended. Its savepoints hold no checkpoint, because holds are not carried.

    Args:
        doc: The document.
        name: The name of the copy.
        attempt: Not used, because a saga has no objects.
        codec: Reads and makes envelopes.

    Raises:
        DamagedError: The document is damaged.
    """
    del attempt
    saga = parse(doc, codec)
    savepoints = tuple([replace(one, checkpoint_id=None) for one in saga.savepoints])
    state: State = saga.state if saga.has_ended else "stuck"
    return fields_of(replace(saga, document=name, state=state, savepoints=savepoints), codec)


def equal(doc: Doc, fields: Fields, codec: Codec) -> bool:
    """Whether a document is a copy with the given fields. Each encryption has other bytes."""
    try:
        return parse(doc, codec) == parse(replace(doc, fields=fields), codec)
    except DamagedError:
        return False


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether the cipher does not vouch for a saga's document, which can be read."""
    return not codec.vouches_for(doc.fields[SAGA][seals.SEAL_BYTES :])
