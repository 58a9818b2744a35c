"""Teams as a whole: the list of them, what is wrong with their sets, and their deletion.

The protocol of one set is in `flows/sets.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from langgraph_gcs_saver.engine.effects import Doc, Flow, GetDocs, ListBlobs, QueryDocs
from langgraph_gcs_saver.errors import ClearTextError, InvalidInputError
from langgraph_gcs_saver.flows import sets
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.resumable import Damage, damage_at
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import keys_of
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, kind_of
from langgraph_gcs_saver.format.sets import SetRecord, digest_of, parse, retention_of, team_id_of
from langgraph_gcs_saver.results import Finding, TeamInfo

TEAMS_PER_PAGE = 20
"""How many teams are listed at once."""

RETENTION = 10
"""How many committed sets a team keeps that does not say a number. Each holds history that pruning would remove."""

_SETS_PER_PAGE = 20
"""How many sets are read at once; each names a checkpoint of each of up to 100 members, in about 15 KB."""

_CHECKED_BY = ("format", "ns", "digest", "holds")
"""The fields of a checkpoint's document that are compared with a set."""


def listed(context: Context) -> Pages[TeamInfo]:
    """Pages of the teams of a store. A team that cannot be read does not stop the others; its error comes last."""
    tries, next_page = Tries(), _pages()

    def page() -> Flow[Sequence[TeamInfo] | None]:
        docs = yield from next_page()
        if docs is None:
            tries.end()
            return None
        found = []
        for doc in docs:
            one = yield from tries.of(_info(doc, context))
            found += [] if one is None else [one]
        return found

    return page


def _pages() -> Callable[[], Flow[Sequence[Doc] | None]]:
    """Pages of the documents of teams."""
    after: str | None = None
    is_end = False

    def page() -> Flow[Sequence[Doc] | None]:
        nonlocal after, is_end
        if is_end:
            return None
        docs = yield from QueryDocs(keys.TEAMS, after=after, limit=TEAMS_PER_PAGE)
        is_end = len(docs) < TEAMS_PER_PAGE
        after = docs[-1].name if docs else None
        return docs

    return page


def _info(doc: Doc, context: Context) -> Flow[TeamInfo | None]:
    team = team_id_of(doc)
    if team is None:
        return None
    members = yield from sets.members(team)
    found = yield from sets.listed(team, context)
    return TeamInfo(
        team=team,
        threads={name: keys.member_thread_id(team, name) for name in members},
        retention=retention_of(doc) or RETENTION,
        sets=tuple(found),
    )


def retain(team: str, context: Context) -> Flow[None]:
    """End the oldest sets of a team, all but as many as it keeps."""
    name = keys.team_doc(team)
    doc = (yield from GetDocs((name,))).get(name)
    yield from sets.retain(team, retention_of(doc) or RETENTION, context)


# Checking


def survey(context: Context) -> Flow[list[Finding]]:
    """What is wrong with the sets of all teams, as far as documents show it: their own, and those that they hold.

    Verifying the threads finds damaged values, so this does not read them.
    """
    found: list[Finding] = []
    next_page = _pages()
    while (docs := (yield from next_page())) is not None:
        for doc in docs:
            team = team_id_of(doc)
            if team is None:
                found.append(_finding(doc.name, "it is no team's document", kind="corrupt"))
            else:
                found += yield from _survey_team(team, context)
    return found


def _survey_team(team: str, context: Context) -> Flow[list[Finding]]:
    found: list[Finding] = []
    after: str | None = None
    while docs := (yield from QueryDocs(keys.sets(team), after=after, limit=_SETS_PER_PAGE)):
        for doc in docs:
            try:
                one = parse(doc, context.codec)
            except DamagedError as damage:
                found.append(_finding(doc.name, damage.reason, kind="clear" if damage.clear else "corrupt"))
                continue
            if one.state == "committed":
                found += yield from _survey_set(one)
        after = docs[-1].name
    return found


def _survey_set(one: SetRecord) -> Flow[list[Finding]]:
    """What is wrong with the documents of the checkpoints that a set names.

    The set may be ended meanwhile, which removes its holds. So it is looked up again before anything is reported.
    """
    names = {one.checkpoint(member): member for member in one.members}
    docs = yield from GetDocs(tuple(names), mask=_CHECKED_BY)
    found = [finding for name, member in names.items() for finding in _wrong(docs.get(name), one, member)]
    if found:
        now = (yield from GetDocs((one.name,), mask=("state",))).get(one.name)
        if now is None or now.create_time != one.begun or now.fields.get("state") != one.state:
            return []
    return found


def _wrong(doc: Doc | None, one: SetRecord, member: str) -> list[Finding]:
    cut, make = one.cut[member], partial(Finding, thread_id=one.thread_id(member), name=one.checkpoint(member))
    make = partial(make, checkpoint_id=cut.checkpoint_id)
    if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
        return [make(kind="missing", reason=f"{one.hold} needs it", affects=(cut.checkpoint_id,))]
    found = []
    if digest_of(doc) != cut.digest:
        found.append(make(kind="corrupt", reason=f"it is not the checkpoint that {one.hold} names"))
    if one.hold.key not in keys_of(doc):
        found.append(make(kind="corrupt", reason=f"{one.hold} does not hold it, so it may be pruned"))
    return found


def verify_set(team: str, set_id: str, loads: Loads, context: Context) -> Flow[list[Finding]]:
    """What a restore of a set would miss. This reads every byte that a run would read after it.

    Raises:
        InvalidInputError: There is no such set, or it was not committed.
        DamageError: The document of the set is damaged.
        WrongKeyError: Something is encrypted with another key, or the saver has none.
    """
    one = yield from sets.read(team, set_id, context)
    if not one.cut:
        raise InvalidInputError(f"{str(one.hold).capitalize()} is {one.state}, so it has no checkpoints.")
    found = yield from _survey_set(one)
    gone = {finding.thread_id for finding in found if finding.kind == "missing"}
    for member in one.members:
        if one.thread_id(member) not in gone:
            damage = yield from damage_at(one.thread_id(member), one.cut[member].checkpoint_id, loads, context)
            for error in damage:
                found.append((yield from _finding_of(error)))
    return found


def _finding_of(error: Damage) -> Flow[Finding]:
    """The finding about damage that a read has met."""
    name = error.frame or keys.checkpoint_doc(error.thread_id, error.checkpoint_ns, error.checkpoint_id)
    return Finding(
        kind="clear" if isinstance(error, ClearTextError) else ("corrupt" if (yield from _exists(name)) else "missing"),
        thread_id=error.thread_id,
        checkpoint_ns=error.checkpoint_ns,
        checkpoint_id=error.checkpoint_id,
        channel=error.channel,
        name=name,
        reason=error.reason,
        affects=(error.checkpoint_id,),
    )


def _exists(name: str) -> Flow[bool]:
    """Whether there is a document, or an object, of that name."""
    if name.startswith(f"{keys.THREADS}/"):
        return name in (yield from GetDocs((name,), mask=()))
    return any(one.name == name for one in (yield from ListBlobs(name, limit=1, checksums=False)))


def _finding(name: str, reason: str, kind: Literal["corrupt", "clear"]) -> Finding:
    return Finding(kind=kind, thread_id="", name=name, reason=reason)
