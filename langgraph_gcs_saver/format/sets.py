"""Documents of teams: a team, its members, its sets, and the votes for a set.

A set's document has everything about the set in one sealed field, and the set's state once more in clear, for queries.
A vote is sealed as well. The documents of teams and members hold ids only, in clear like those of threads. What a
team's document says about the set that is being prepared is a hint: the set's own document decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, cast, get_args

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.errors import InvalidIdError
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import natural, optional, require, typed
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError
from langgraph_gcs_saver.records import record

State = Literal["preparing", "committed", "aborted", "broken"]
"""A set's states.

Its members vote; it holds one checkpoint of each; it holds none; a thread that it held was deleted by force.
"""

STATES: tuple[State, ...] = get_args(State)

SET = "set"
"""The field of a set's document that holds everything about the set."""

STATE = "state"
"""The field of a set's document with its state in clear."""

VOTE = "vote"
"""The field of a vote's document that holds the vote."""

TEAM, MEMBER = "team", "member"
"""The fields of a team's and of a member's document with the id."""

PREPARING, TIMEOUT, CONTENDED = "preparing", "timeout", "contended"
"""The fields of a team's document about the set that is being prepared.

They are its id, its timeout in seconds, and the number of tries to decide it that failed because members continued.
"""

RETENTION = "retention"
"""The field of a team's document with the number of committed sets that are kept."""

MAX_MEMBERS = 100
"""Most members of a set. The commit that decides makes two writes for each, and it is never split."""

MAX_SECONDS = 1e9
"""Longest timeout in a document."""

_DIGEST_DIGITS = 64


@record(frozen=True, slots=True)
class Vote:
    """A root checkpoint as a voter saw it.

    Attributes:
        checkpoint_id: The checkpoint.
        digest: The digest of its document, in hex.
        time: The update time of its document.
    """

    checkpoint_id: str
    digest: str
    time: int


@record(frozen=True, slots=True)
class Cut:
    """The checkpoint of one member in a set.

    Attributes:
        checkpoint_id: The checkpoint.
        digest: The digest of its document, in hex.
    """

    checkpoint_id: str
    digest: str


@record(frozen=True, slots=True, kw_only=True)
class SetRecord:
    """A set, as its document says.

    Attributes:
        team: The team.
        set_id: The set.
        state: Its state.
        members: The members, in order of their names.
        timeout: Seconds from `begun` after which it is aborted.
        label: What the caller called it.
        cut: The checkpoint of each member, by member; empty if the set was not committed.
        missing: If it was aborted, the members that had no checkpoint, or that did not stand still.
        decided: When it was committed or aborted, by the service's clock; `None` before that.
        restoring: Digits of the restore that has reserved it.
        restored: Digits of the last restore that has completed.
        restored_at: When that was, by the service's clock.
        begun: When the document was created.
        time: When the document last changed; 0 for a set that is not stored yet.
    """

    team: str
    set_id: str
    state: State
    members: tuple[str, ...]
    timeout: float
    label: str | None = None
    cut: Mapping[str, Cut] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    decided: int | None = None
    restoring: str | None = None
    restored: str | None = None
    restored_at: int | None = None
    begun: int = 0
    time: int = 0

    @property
    def name(self) -> str:
        """The name of its document."""
        return keys.set_doc(self.team, self.set_id)

    @property
    def hold(self) -> Hold:
        """What it writes into the checkpoints that it holds."""
        return Hold("set", self.team, self.set_id)

    def thread_id(self, member: str) -> str:
        """The thread of a member."""
        return keys.member_thread_id(self.team, member)

    def checkpoint(self, member: str) -> str:
        """The name of the document of a member's checkpoint."""
        return keys.checkpoint_doc(self.thread_id(member), "", self.cut[member].checkpoint_id)


@record(frozen=True, slots=True)
class Preparing:
    """What a team's document says about the set that is being prepared.

    Attributes:
        set_id: The set.
        contended: Number of tries to decide it that failed because members continued.
        timeout: Seconds after which it is aborted.
    """

    set_id: str
    contended: int = 0
    timeout: float = 0.0


# Ids


def check_id(what: str, text: str) -> str:
    """Check the id of a team or the name of a member. Holds name teams, so ids must be readable in names.

    Args:
        what: What it is, for the error.
        text: The id.

    Returns:
        The id.

    Raises:
        InvalidIdError: It is empty, too long, or not Unicode text.
    """
    if not text or keys.dec(keys.enc(text, what)) != text:
        raise InvalidIdError(
            f"The {what} {text[:40]!r}{'…' if len(text) > 40 else ''} cannot be used: it needs 1 to "
            f"{keys.MAX_ENCODED} bytes, where each character other than letters, digits, `_` and `-` counts as three "
            "or more. Choose a shorter one."
        )
    return text


# Writing


def fields_of(found: SetRecord, codec: Codec) -> dict[str, Any]:
    """The fields of a set's document."""
    head = {
        "team": found.team,
        "set": found.set_id,
        "state": found.state,
        "members": found.members,
        "timeout": found.timeout,
        "label": found.label,
        "cut": [[member, one.checkpoint_id, one.digest] for member, one in sorted(found.cut.items())],
        "missing": found.missing,
        "decided": found.decided,
        "restoring": found.restoring,
        "restored": None if found.restored is None else [found.restored, found.restored_at],
    }
    sealed = seals.close(frames.envelope(head), (found.name, SET), codec)
    return {"format": FORMAT, STATE: found.state, SET: sealed}


def vote_fields(name: str, vote: Vote, codec: Codec) -> dict[str, Any]:
    """The fields of the document `name` of a vote."""
    head = {"checkpoint": vote.checkpoint_id, "digest": vote.digest, "time": vote.time}
    return {"format": FORMAT, VOTE: seals.close(frames.envelope(head), (name, VOTE), codec)}


def team_fields(team: str) -> dict[str, Any]:
    """The fields of a team's document that does not exist yet."""
    return {"format": FORMAT, TEAM: team}


def member_fields(member: str) -> dict[str, Any]:
    """The fields of the document of a member."""
    return {"format": FORMAT, MEMBER: member}


# Reading


def parse(doc: Doc, codec: Codec) -> SetRecord:
    """The set of a document.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "Set")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, SET, codec))
    try:
        found = _parsed(doc, head)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a set does not parse: {type(error).__name__}", frame=doc.name) from None
    if doc.fields.get(STATE) != found.state:
        raise DamagedError("a set's state differs from the one that queries see", frame=doc.name)
    return found


def _parsed(doc: Doc, head: Any) -> SetRecord:
    team, set_id, state = typed(head["team"], str), typed(head["set"], str), head["state"]
    require(state in STATES and keys.is_text(team) and keys.is_text(set_id) and keys.set_doc(team, set_id) == doc.name)
    members = _names(head["members"])
    require(0 < len(members) <= MAX_MEMBERS and list(members) == sorted(set(members)))
    cut = {typed(member, str): Cut(_checkpoint_id(id_), _digest(digest)) for member, id_, digest in head["cut"]}
    is_held = state in ("committed", "broken")
    require(tuple(sorted(cut)) == (members if is_held else ()))
    missing = _names(head["missing"])
    require(set(missing) <= set(members))
    decided = None if head["decided"] is None else natural(head["decided"], bits=63)
    restored, restored_at = (None, None) if head["restored"] is None else head["restored"]
    if state != "preparing" and decided is None:
        decided = doc.update_time
    if restored is not None and restored_at is None:
        restored_at = doc.update_time
    return SetRecord(
        team=team,
        set_id=set_id,
        state=cast("State", state),
        members=members,
        timeout=_seconds(head["timeout"]),
        label=optional(head["label"], str),
        cut=cut,
        missing=missing,
        decided=decided,
        restoring=optional(head["restoring"], str),
        restored=optional(restored, str),
        restored_at=None if restored_at is None else natural(restored_at, bits=63),
        begun=doc.create_time,
        time=doc.update_time,
    )


def vote_of(doc: Doc, codec: Codec) -> Vote:
    """The vote of a document.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "Vote")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, VOTE, codec))
    try:
        return Vote(_checkpoint_id(head["checkpoint"]), _digest(head["digest"]), natural(head["time"], bits=63))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a vote does not parse: {type(error).__name__}", frame=doc.name) from None


def digest_of(doc: Doc) -> str:
    """The digest of a checkpoint's document, in hex; empty if it has none that a writer makes."""
    found = doc.fields.get("digest")
    return found.hex() if isinstance(found, bytes) else ""


def preparing(team: Doc | None) -> Preparing | None:
    """The set that a team's document says is being prepared, if any. Damaged fields count as absent."""
    if team is None:
        return None
    fields = team.fields
    set_id, contended, timeout = fields.get(PREPARING), fields.get(CONTENDED), fields.get(TIMEOUT)
    if not isinstance(set_id, str) or not keys.is_text(set_id) or not set_id:
        return None
    return Preparing(
        set_id,
        contended if isinstance(contended, int) and 0 <= contended < 1 << 31 else 0,
        float(timeout) if isinstance(timeout, (int, float)) and 0 <= timeout <= MAX_SECONDS else 0.0,
    )


def retention_of(team: Doc | None) -> int | None:
    """The number of committed sets that a team keeps, if its document says it."""
    found = None if team is None else team.fields.get(RETENTION)
    return found if type(found) is int and 0 < found < 1 << 31 else None


def team_id_of(doc: Doc) -> str | None:
    """The team of a team's document; `None` if another program created the document."""
    return keys.thread_id_of(doc.name.rpartition("/")[2])


def member_of(doc: Doc) -> str | None:
    """The name of a member, from the name of its document; `None` if another program created the document."""
    return keys.dec(doc.name.rpartition("/")[2])


def _names(found: Any) -> tuple[str, ...]:
    require(isinstance(found, Sequence) and not isinstance(found, (str, bytes)))
    return tuple([typed(one, str) for one in found])


def _checkpoint_id(value: Any) -> str:
    found = typed(value, str)
    require(keys.is_text(found) and 0 < len(found.encode()) <= keys.MAX_CHECKPOINT_ID)
    return found


def _digest(value: Any) -> str:
    found = typed(value, str)
    require(len(found) == _DIGEST_DIGITS and set(found) <= set("0123456789abcdef"))
    return found


def _seconds(value: Any) -> float:
    require(type(value) in (int, float) and 0 <= value <= MAX_SECONDS)
    return float(value)
