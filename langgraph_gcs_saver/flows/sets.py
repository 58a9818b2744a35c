"""Sets: one checkpoint of each member of a team, which together are a state that the team was in at one instant.

A coordinator begins a set. Members vote for the checkpoint that they have just stored, and continue. A decision is one
commit. It writes `committed` over `preparing`, as last seen, and a hold into each checkpoint, as it was when it was
voted for. A set that is not committed by its timeout is aborted, by any process.

Two rules make the checkpoints consistent:

- Each was the newest one of its member when it was read for the decision, and had been voted for before the first of
  these reads. So at that instant all of them were the newest ones.
- None has changed since it was voted for. So at the decision all of them exist, and no pruning or deletion that has
  not seen the hold removes one.

The second rule alone would not do. A child that inherits nothing, and a fork of an older checkpoint, do not change the
newest one. For a member that does not vote, the deciding process takes what it has read before as the vote. So it
needs no vote of an idle member, and of one whose node runs for minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Doc,
    Docs,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    Pause,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError, SetAbortedError, WrongKeyError
from langgraph_gcs_saver.flows.collections import damaged
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.manifests import read_manifest, report_clear
from langgraph_gcs_saver.flows.marks import move
from langgraph_gcs_saver.format import keys, manifest, sets
from langgraph_gcs_saver.format.holds import HOLDS, Hold, keys_of, with_hold, without_hold
from langgraph_gcs_saver.format.manifest import DamagedError, heir_of
from langgraph_gcs_saver.format.sets import MAX_MEMBERS, Cut, SetRecord, Vote, check_id, digest_of, preparing
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import SetInfo, at_time

POLL_SECONDS = 0.25
"""How often a process that waits for a decision looks at the votes."""

MAX_LABEL = 1000
"""Most characters of a label."""

_PER_PAGE = 300

_TIP_FIELDS = ("format", "ns", "manifest", "digest", "heir", "fence", HOLDS)
"""The fields of a checkpoint that say whether its document is whole, what a hold must leave as it is, and which lease
was held."""

_HINTS = (sets.PREPARING, sets.TIMEOUT, sets.CONTENDED)

_OPENING = 1 << 12
"""Opening a sealed document takes as long as handling so many bytes."""


# Members


def joining_names(team: str, member: str) -> tuple[str, ...]:
    """The documents that `joining` needs."""
    return keys.team_doc(team), keys.member_doc(team, member)


def joining(team: str, member: str, docs: Mapping[str, Doc]) -> tuple[Write, ...]:
    """The writes that make a thread a member of a team; none if it is one.

    Raises:
        InvalidIdError: The team or the member cannot have that name.
    """
    check_id("team id", team)
    check_id("name of a member", member)
    fields = sets.team_fields(team), sets.member_fields(member)
    names = joining_names(team, member)
    return tuple([Create(name, found) for name, found in zip(names, fields, strict=True) if name not in docs])


def join(team: str, member: str) -> Flow[None]:
    """Make a thread a member of a team.

    Raises:
        ConflictError: Others changed the team in every try.
        InvalidIdError: The team or the member cannot have that name.
    """
    names = joining_names(team, member)
    for _ in range(MAX_TRIES):
        writes = joining(team, member, (yield from GetDocs(names, mask=())))
        if not writes or (yield from Commit(writes)) is not None:
            return
    raise ConflictError(f"Team {team!r} changed {MAX_TRIES} times in a row. Call again.")


def leave(team: str, member: str) -> Flow[bool]:
    """Take a thread out of a team. Its sets keep its checkpoints. Returns whether it was a member."""
    name = keys.member_doc(team, member)
    is_there = name in (yield from GetDocs((name,), mask=()))
    yield from Commit((Delete(name),))
    return is_there


def members(team: str) -> Flow[list[str]]:
    """The members of a team, in order of their names."""
    docs = yield from _all(keys.members(team), ())
    return sorted(name for name in map(sets.member_of, docs) if name)


def _all(collection: str, mask: tuple[str, ...] | None, **query: Any) -> Flow[list[Doc]]:
    """All documents of a collection, read page by page."""
    found: list[Doc] = []
    while True:
        after = found[-1].name if found else None
        page = yield from QueryDocs(collection, after=after, limit=_PER_PAGE, mask=mask, **query)
        found += page
        if len(page) < _PER_PAGE:
            return found


# Beginning


def begin(
    team: str,
    members: Iterable[str],
    label: str | None,
    timeout: float,
    context: Context,
    *,
    retention: int | None = None,
) -> Flow[SetRecord]:
    """Begin a set. While another set of the team is being prepared, this helps to decide it.

    Args:
        team: The team. It is created if it does not exist.
        members: The members of the set.
        label: What to call it.
        timeout: Seconds after which the set is aborted, and for which this waits for another one.
        context: Options and caches.
        retention: The number of committed sets to note in the team's document; `None` leaves what is noted.

    Raises:
        ConflictError: Others changed the team in every try.
        InvalidIdError: The team or a member cannot have that name.
        InvalidInputError: There are no members, or too many, or the label or the timeout is too long.
        SetAbortedError: Another set was being prepared all the time.
        WrongKeyError: This process cannot read what the members store. Nothing was written.
    """
    names = _checked(team, members, label, timeout)
    now = yield from Now()
    time = at_time(int(now * 1e9)).strftime("%Y%m%d-%H%M%S%f")[:-3]
    wanted = SetRecord(
        team=team,
        set_id=f"{time}-{context.new_attempt()}",
        state="preparing",
        members=names,
        timeout=timeout,
        label=label,
    )
    yield from _check_key(wanted, context)
    for _ in range(MAX_TRIES):
        doc = yield from _unoccupied(wanted, context)
        times = yield from Commit(_beginning(wanted, doc, retention, context))
        if times is not None:
            return replace(wanted, begun=times[0], time=times[0])
        stored = (yield from GetDocs((wanted.name,))).get(wanted.name)
        if stored is not None:  # The answer of an earlier request was lost.
            return (yield from _parse(stored, context))
    raise ConflictError(f"Team {team!r} changed {MAX_TRIES} times in a row. Call again.")


def _checked(team: str, members: Iterable[str], label: str | None, timeout: float) -> tuple[str, ...]:
    """The members, in order of their names, each once."""
    check_id("team id", team)
    names = tuple(sorted({check_id("name of a member", member) for member in members}))
    if not 0 < len(names) <= MAX_MEMBERS:
        raise InvalidInputError(
            f"A set of team {team!r} would have {len(names)} members. It needs at least 1, and one commit holds at "
            f"most {MAX_MEMBERS}. Nothing was written. Name the members with `members=`."
        )
    if label is not None and len(label) > MAX_LABEL:
        raise InvalidInputError(f"A label has at most {MAX_LABEL:,} characters, and this one has {len(label):,}.")
    if not 0 < timeout <= sets.MAX_SECONDS:
        raise InvalidInputError(f"`timeout` is {timeout!r}. Pass a number of seconds above 0.")
    return names


def _check_key(wanted: SetRecord, context: Context) -> Flow[None]:
    """Check that this process has the key of the members. With another one, it would make sets that they cannot read.

    Raises:
        WrongKeyError: It has another key, or none.
    """
    for doc in (yield from newest_root(wanted.thread_id(wanted.members[0]))):
        with suppress(DamagedError):
            yield from read_manifest(doc, context.codec)


def _unoccupied(wanted: SetRecord, context: Context) -> Flow[Doc | None]:
    """The team's document once no other set is being prepared; `None` if it does not exist."""
    name = keys.team_doc(wanted.team)
    began = yield from Now()
    decider: Decider | None = None
    settled: str | None = None
    while True:
        doc = (yield from GetDocs((name,))).get(name)
        other = preparing(doc)
        if other is None or other.set_id == settled:
            return doc  # A decision also removes this, so what is still there is out of date.
        if decider is None or decider.set_id != other.set_id:
            decider = Decider(wanted.team, other.set_id, context)
        found = yield from decider.step()
        if found is None or found.state != "preparing":
            settled = other.set_id
            continue
        if (yield from Now()) - began > wanted.timeout:
            raise SetAbortedError(
                f"No set of team {wanted.team!r} was begun, because set {other.set_id!r} was being prepared for more "
                f"than {wanted.timeout:g} s. Call again once that one is decided.",
                team=wanted.team,
                set_id=other.set_id,
            )
        yield from decider.wait()


def _beginning(wanted: SetRecord, doc: Doc | None, retention: int | None, context: Context) -> tuple[Write, ...]:
    hints: dict[str, Any] = {sets.PREPARING: wanted.set_id, sets.TIMEOUT: wanted.timeout}
    if retention is not None:
        hints[sets.RETENTION] = retention
    fields, name = {**sets.team_fields(wanted.team), **hints}, keys.team_doc(wanted.team)
    return (
        Create(wanted.name, sets.fields_of(wanted, context.codec)),
        Create(name, fields)
        if doc is None
        else Merge(name, fields, remove=(sets.CONTENDED,), update_time=doc.update_time),
    )


# Voting


def vote(set_name: str, member: str, found: Vote, context: Context) -> Flow[None]:
    """Vote for the newest checkpoint of a member, which has been stored. A vote binds neither side.

    Args:
        set_name: The name of the set's document.
        member: The member.
        found: Its checkpoint.
        context: Options and caches.
    """
    name = keys.vote_doc(set_name, member)
    yield from Commit((Merge(name, sets.vote_fields(name, found, context.codec)),))


def vote_in(doc: Doc) -> Vote | None:
    """The vote for the newest root checkpoint of a thread, whose document was read with at least `_TIP_FIELDS`.

    It is `None` if the document is damaged, or names a child that is missing. Then the thread has lost its tip.

    Raises:
        UnsupportedFormatError: A newer version of this library wrote it.
    """
    try:
        manifest.encoded_of(doc)
    except DamagedError:
        return None
    checkpoint_id, heir = keys.checkpoint_id_of(doc.name), heir_of(doc)
    is_lost = heir is not None and heir > checkpoint_id
    return None if is_lost else Vote(checkpoint_id, digest_of(doc), doc.update_time)


# Deciding


@record(frozen=True, slots=True)
class Look:
    """A set as it was read, for a decision.

    Attributes:
        found: The set.
        team: The team's document, if it exists.
        votes: The votes that were there before the tips were read, by member.
        tips: The newest root checkpoint of each member that has one.
        now: When the votes were read, by the service's clock.
    """

    found: SetRecord
    team: Doc | None
    votes: Mapping[str, Vote]
    tips: Mapping[str, Doc]
    now: int

    @property
    def is_over(self) -> bool:
        """Whether the set's timeout is over."""
        return self.now - self.found.begun > self.found.timeout * 1e9


def look(team: str, set_id: str, context: Context) -> Flow[Look | None]:
    """A set with its votes, and after these the newest checkpoints of its members; `None` if the set does not exist.

    Raises:
        DamageError: The set's document is damaged.
        UnsupportedFormatError: A newer version of this library wrote a document.
        WrongKeyError: A document is encrypted with another key.
    """
    name, team_name = keys.set_doc(team, set_id), keys.team_doc(team)
    docs, votes = yield from Gather(
        (GetDocs((name, team_name)), QueryDocs(keys.votes(name), limit=_PER_PAGE, mask=("format", sets.VOTE)))
    )
    if name not in docs:
        return None
    found = yield from _parse(docs[name], context)
    if found.state != "preparing":
        return Look(found, docs.get(team_name), {}, {}, docs.read_time)
    tips = yield from _tips(found)
    return Look(found, docs.get(team_name), (yield from _votes(found, votes, context)), tips, docs.read_time)


def _votes(found: SetRecord, docs: Sequence[Doc], context: Context) -> Flow[dict[str, Vote]]:
    """The votes of a set's members. A damaged one does not count, and a later vote replaces it."""

    def parsed() -> dict[str, Vote]:
        by_name = {doc.name: doc for doc in docs}
        votes = {}
        for member in found.members:
            doc = by_name.get(keys.vote_doc(found.name, member))
            if doc is not None:
                with suppress(DamagedError):
                    votes[member] = sets.vote_of(doc, context.codec)
        return votes

    return (yield from Compute(parsed, size=_OPENING * len(docs)))


def _tips(found: SetRecord) -> Flow[dict[str, Doc]]:
    """The newest root checkpoint of each member that has one."""
    tips: dict[str, Doc] = {}
    after: dict[str, str | None] = dict.fromkeys(found.members)
    while after:
        pages = yield from Gather(tuple([newest_root(found.thread_id(member), name) for member, name in after.items()]))
        newest = {member: page[0] for member, page in zip(after, pages, strict=True) if page}
        # A query finds the namespace by a field, which can be corrupt.
        tips |= {member: doc for member, doc in newest.items() if keys.is_in_ns(doc.name, "")}
        after = {member: doc.name for member, doc in newest.items() if member not in tips}
    return tips


def newest_root(thread_id: str, after: str | None = None) -> QueryDocs:
    """The query for the newest root checkpoint of a thread, or for the one before `after`, as `vote_in` needs it."""
    where = (("ns", keys.enc("")),)
    return QueryDocs(keys.checkpoints(thread_id), where, after=after, limit=1, mask=_TIP_FIELDS)


class Decider:
    """One process's tries to decide a set.

    Attributes:
        team: The team.
        set_id: The set.
        context: Options and caches.
        seen: The tips of the last look, by member: what this process votes for on behalf of members that do not.
        busy: The members that had no whole checkpoint, or did not stand still, in the last look.
        looks: Number of looks.
    """

    def __init__(self, team: str, set_id: str, context: Context) -> None:
        self.team = team
        self.set_id = set_id
        self.context = context
        self.seen: dict[str, Vote] = {}
        self.busy: tuple[str, ...] = ()
        self.looks = 0

    def step(self) -> Flow[SetRecord | None]:
        """Look at the set, and decide it if possible: its state after that; `None` if it does not exist.

        Raises:
            DamageError: The set's document is damaged.
        """
        found = yield from look(self.team, self.set_id, self.context)
        if found is None or found.found.state != "preparing":
            return None if found is None else found.found
        chosen = self._chosen(found)
        if found.is_over:
            return (yield from self._write(found, replace(found.found, state="aborted", missing=self.busy), {}))
        if len(chosen) == len(found.found.members):
            cut = {member: Cut(one.checkpoint_id, one.digest) for member, one in chosen.items()}
            return (yield from self._write(found, replace(found.found, state="committed", cut=cut), chosen))
        if any(member in found.tips for member in self.busy):
            yield from self._contend(found.team)
        return found.found

    def wait(self) -> Flow[None]:
        """Wait before the next step. The second look follows the first one at once."""
        if self.looks > 1:
            yield from Pause(POLL_SECONDS)

    def _chosen(self, found: Look) -> dict[str, Vote]:
        """The votes that are for the newest checkpoint of their member."""
        now = {member: one for member, doc in found.tips.items() if (one := vote_in(doc)) is not None}
        chosen = {member: one for member, one in now.items() if one in (found.votes.get(member), self.seen.get(member))}
        known = self.seen.keys() | found.votes.keys()
        self.busy = tuple(
            [one for one in found.found.members if one not in now or (one in known and one not in chosen)]
        )
        self.seen = now
        self.looks += 1
        return chosen

    def _write(self, found: Look, decided: SetRecord, chosen: Mapping[str, Vote]) -> Flow[SetRecord | None]:
        """Write a decision, over the set as it was seen; the set after that."""
        writes: list[Write] = [
            Merge(decided.name, sets.fields_of(decided, self.context.codec), update_time=decided.time)
        ]
        for member, one in chosen.items():
            doc, thread_id = found.tips[member], decided.thread_id(member)
            writes.append(Merge(doc.name, with_hold(doc, decided.hold.key), update_time=one.time))
            writes.append(move(thread_id, self.context))
        writes += _without_hint(found.team, decided.set_id)
        times = yield from Commit(tuple(writes))
        for member in chosen:
            self.context.outdate(found.tips[member])
        if times is not None:
            return replace(decided, decided=times[0], time=times[0])
        names = decided.name, keys.team_doc(self.team)
        docs = yield from GetDocs(names)
        if decided.name not in docs:
            return None
        now = yield from _parse(docs[decided.name], self.context)
        if now.state == "preparing":
            yield from self._contend(docs.get(names[1]))
        return now

    def _contend(self, team: Doc | None) -> Flow[None]:
        """Note in the team's document that members continued, so that they wait for the next decision.

        If another process changes the document meanwhile, it notes the same, or has decided.
        """
        hint = preparing(team)
        if team is not None and hint is not None and hint.set_id == self.set_id:
            yield from Commit((Merge(team.name, {sets.CONTENDED: hint.contended + 1}, update_time=team.update_time),))


def decide(team: str, set_id: str, context: Context) -> Flow[SetRecord | None]:
    """Decide a set, in one try: commit it if all members have voted for what is still their newest checkpoint.

    Past the set's timeout, by the service's times, it is aborted.

    Returns:
        The set, if it is decided; `None` if it is not, or does not exist.

    Raises:
        DamageError: The set's document is damaged.
    """
    found = yield from Decider(team, set_id, context).step()
    return None if found is None or found.state == "preparing" else found


def prepare(team: str, set_id: str, context: Context) -> Flow[SetRecord]:
    """Wait until a set is decided, and decide it.

    Returns:
        The set, which is committed, or broken since.

    Raises:
        DamageError: The set's document is damaged.
        SetAbortedError: It was aborted, or deleted.
    """
    decider = Decider(team, set_id, context)
    while True:
        found = yield from decider.step()
        if found is None or found.state == "aborted":
            raise _aborted(team, set_id, found)
        if found.state != "preparing":
            return found
        yield from decider.wait()


def _aborted(team: str, set_id: str, found: SetRecord | None) -> SetAbortedError:
    missing = () if found is None else found.missing
    if found is None:
        why, advice = "it was deleted while it was being prepared", "Call again."
    elif missing:
        why = f"these members had no checkpoint, or stored new ones all the time: {', '.join(missing)}"
        advice = (
            "`Team.threads` says which threads they are: each needs a checkpoint. If they have some, call again with a "
            "longer timeout, or with quiesce. To make a set without a member, name the others in `members=`."
        )
    else:
        why, advice = f"no process decided it within {found.timeout:g} s", "Call again."
    return SetAbortedError(
        f"Set {set_id!r} of team {team!r} was not committed, because {why}. No checkpoint is held. {advice}",
        team=team,
        set_id=set_id,
        missing=missing,
    )


def _without_hint(team: Doc | None, set_id: str) -> tuple[Write, ...]:
    """The write that removes from a team's document what it says about a set that is decided, if it says it.

    It needs no precondition. No other set begins while the document names this one, and the set is as it was seen.
    """
    hint = preparing(team)
    return () if team is None or hint is None or hint.set_id != set_id else (Merge(team.name, {}, remove=_HINTS),)


# Reading


def read(team: str, set_id: str, context: Context) -> Flow[SetRecord]:
    """A set.

    Raises:
        DamageError: Its document is damaged.
        InvalidInputError: The team has no such set.
    """
    name = keys.set_doc(team, set_id)
    doc = (yield from GetDocs((name,))).get(name)
    if doc is None:
        raise InvalidInputError(f"Team {team!r} has no set {set_id!r}. List its sets with `langgraph-gcs team show`.")
    return (yield from _parse(doc, context))


def records(team: str, context: Context) -> Flow[list[SetRecord]]:
    """All sets of a team, newest first.

    Raises:
        DamageError: A set's document is damaged.
    """
    docs = yield from _all(keys.sets(team), None)
    found = yield from Compute(lambda: [_parsed(doc, context) for doc in docs], size=_OPENING * len(docs))
    yield from report_clear(context.codec)
    return _newest_first(found)


def _newest_first(found: Iterable[SetRecord]) -> list[SetRecord]:
    return sorted(found, key=lambda one: (one.begun, one.set_id), reverse=True)


def _readable(docs: Iterable[Doc], context: Context) -> list[SetRecord]:
    found = []
    for doc in docs:
        with suppress(DamagedError):
            found.append(sets.parse(doc, context.codec))
    return found


def listed(team: str, context: Context) -> Flow[list[SetInfo]]:
    """All sets of a team as callers get them, newest first.

    Raises:
        DamageError: A set's document is damaged.
    """
    return [info_of(found) for found in (yield from records(team, context))]


def info_of(found: SetRecord) -> SetInfo:
    """A set as callers get it."""
    return SetInfo(
        team=found.team,
        set_id=found.set_id,
        state=found.state,
        label=found.label,
        members=found.members,
        cut={member: one.checkpoint_id for member, one in found.cut.items()},
        begun=at_time(found.begun),
        decided=None if found.decided is None else at_time(found.decided),
        missing=found.missing,
        restored=None if found.restored_at is None else at_time(found.restored_at),
    )


def _parse(doc: Doc, context: Context) -> Flow[SetRecord]:
    found = yield from Compute(partial(_parsed, doc, context), size=_OPENING)
    yield from report_clear(context.codec)
    return found


def _parsed(doc: Doc, context: Context) -> SetRecord:
    try:
        return sets.parse(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


# Ending


def end(team: str, set_id: str, context: Context) -> Flow[None]:
    """Delete a set: take off its holds, and delete its document and the votes for it.

    Raises:
        ConflictError: Others changed the set, or what it holds, in every try.
    """
    name, team_name = keys.set_doc(team, set_id), keys.team_doc(team)
    for _ in range(MAX_TRIES):
        docs, votes = yield from Gather(
            (GetDocs((name, team_name)), QueryDocs(keys.votes(name), limit=_PER_PAGE, mask=()))
        )
        writes: list[Write] = []
        if name in docs:
            writes += yield from _ending(team, set_id, docs[name], context)
            writes += _without_hint(docs.get(team_name), set_id)
        writes += [Delete(doc.name) for doc in votes]
        if not writes:
            return
        # All holds go with the document, and as many votes as have room.
        yield from Commit(tuple(writes[: max(limits.COMMIT_WRITES, len(writes) - len(votes))]))
    raise ConflictError(
        f"Set {set_id!r} of team {team!r} was not deleted: other writers changed it, or checkpoints that it holds, "
        f"{MAX_TRIES} times in a row. Call again."
    )


def _ending(team: str, set_id: str, doc: Doc, context: Context) -> Flow[list[Write]]:
    """The writes that delete the document of a set, and take off its holds."""
    key = Hold("set", team, set_id).key
    try:
        found = sets.parse(doc, context.codec)
        held = (yield from GetDocs(tuple(map(found.checkpoint, found.cut)), mask=(HOLDS,))) if found.cut else Docs()
    except (DamagedError, WrongKeyError):
        held = yield from _held(team, key)  # The document does not say what it holds.
    return [
        Delete(doc.name, update_time=doc.update_time),
        *(
            Merge(one.name, without_hold(one, key), update_time=one.update_time)
            for one in held.values()
            if key in keys_of(one)
        ),
    ]


def _held(team: str, key: str) -> Flow[Docs]:
    """The checkpoints of a team's members that have a hold."""
    found: list[Doc] = []
    for member in (yield from members(team)):
        collection = keys.checkpoints(keys.member_thread_id(team, member))
        found += [doc for doc in (yield from _all(collection, (HOLDS,))) if key in keys_of(doc)]
    return Docs(found)


def retain(team: str, keep: int, context: Context) -> Flow[None]:
    """Delete the oldest sets of a team: all but the `keep` newest committed ones, and the `keep` newest other ones.

    A set whose document is damaged stays. `records` reports it.

    Raises:
        ConflictError: Others changed a set, or what it holds, in every try.
    """
    docs = yield from _all(keys.sets(team), None)
    readable = yield from Compute(partial(_readable, docs, context), size=_OPENING * len(docs))
    found = [one for one in _newest_first(readable) if one.state != "preparing"]
    committed = [one for one in found if one.state == "committed"]
    others = [one for one in found if one.state != "committed"]
    over = [*committed[keep:], *others[keep:]]
    for one in reversed(over):
        yield from end(team, one.set_id, context)
    if over:
        yield from _delete_strays(team)


def delete(team: str, context: Context) -> Flow[None]:
    """Delete a team: its sets with their holds, its members' entries, and its document. The threads stay.

    Raises:
        ConflictError: Others changed the team, a set, or what it holds, in every try.
    """
    name = keys.team_doc(team)
    for _ in range(MAX_TRIES):
        there = (yield from GetDocs((name,), mask=())).get(name)
        names = []
        for doc in (yield from _all(keys.sets(team), ())):
            set_id = keys.told_id(doc.name.rpartition("/")[2])
            yield from end(team, set_id, context)
            # No writer gives a set another name than the one of its id.
            names += [doc.name] if keys.set_doc(team, set_id) != doc.name else []
        names += [doc.name for doc in (yield from _all(keys.members(team), ()))]
        yield from _delete(names)
        yield from _delete_strays(team)
        # A set that was begun meanwhile has changed the team's document.
        if there is None or (yield from Commit((Delete(name, update_time=there.update_time),))) is not None:
            return
    raise ConflictError(f"Team {team!r} changed {MAX_TRIES} times in a row. Call again.")


def _delete_strays(team: str) -> Flow[None]:
    """Delete votes for sets that do not exist. A voter that stopped for a while writes them."""
    start, end_ = keys.all_votes_range(team)
    strays = yield from _all(keys.VOTES, (), start=start, end=end_, group=True)
    # A set is created before its votes, so one that is not there now was deleted.
    there = {doc.name for doc in (yield from _all(keys.sets(team), ()))}
    yield from _delete([doc.name for doc in strays if keys.set_of_vote(doc.name) not in there])


def _delete(names: Sequence[str]) -> Flow[None]:
    for at in range(0, len(names), limits.COMMIT_WRITES):
        yield from Commit(tuple([Delete(name) for name in names[at : at + limits.COMMIT_WRITES]]))


def break_(hold: Hold, context: Context) -> Flow[None]:
    """Mark the set of a hold as broken, if it is committed, before a checkpoint that it holds is deleted by force.

    Raises:
        ConflictError: Others changed the set in every try.
    """
    if hold.kind != "set" or not hold.owner:
        return
    name = keys.set_doc(hold.owner, hold.name)
    for _ in range(MAX_TRIES):
        doc = (yield from GetDocs((name,))).get(name)
        if doc is None:
            return
        try:
            found = sets.parse(doc, context.codec)
        except DamagedError:
            return  # It cannot be read as a committed set.
        if found.state != "committed":
            return
        broken = sets.fields_of(replace(found, state="broken"), context.codec)
        if (yield from Commit((Merge(name, broken, update_time=found.time),))) is not None:
            return
    raise ConflictError(f"Set {hold.name!r} of team {hold.owner!r} changed {MAX_TRIES} times in a row. Call again.")
