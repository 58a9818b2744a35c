"""Scenarios of other modules in a store that is replicated, beside a process that changes its role.

The flows pass through `roles.admit`, as those of a saver do. The world compares the documents before and after each
commit, and knows no more of the outbox than docs/reference/format.md says.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Create, Effect, Flow, GetDocs
from langgraph_gcs_saver.errors import NotPrimaryError
from langgraph_gcs_saver.flows import roles
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import regions
from langgraph_gcs_saver.format.regions import Role

from .world import Call, Check, Process, Run, World

WRONG = "ghost/ruled"
"""The document that names the first commit that breaks a rule."""

TO = "gs://elsewhere"

WHAT = {
    "lg_checkpoints": "put",
    "lg_writes": "writes",
    "lg_operations": "operation",
    "lg_batches": "batch",
    "lg_done": "batch",
    "lg_resume": "resume",
    "lg_sagas": "saga",
    "lg_blobs": "blob",
}
"""What entries call the documents of each replicated collection."""

EXCEPTED = {"heir", "fence", "holds", "objects", "run_id", "former_runs"}
"""Fields of a checkpoint whose changes need no entry."""


# The world


@cache
def ruled(kind: type[World]) -> type[World]:
    """A kind of world that also judges each commit by the role and the entries."""

    class Ruled(kind):  # type: ignore[misc,valid-type]
        def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
            answer, after = kind.perform(self, effect, stamp)
            if after is not self and not isinstance(after, Ruled):
                after = Ruled(after.table, after.blobs)
            if isinstance(effect, Commit) and answer is not None and after.doc(WRONG) is None:
                wrong = _wrong(self, after, effect)
                if wrong is not None:
                    note = World.perform(after, Commit((Create(WRONG, {"what": wrong}),)), 1)[1]
                    after = Ruled(note.table, note.blobs)
            return answer, after

    return Ruled


def _wrong(before: World, after: World, commit: Commit) -> str | None:
    told = set()
    for write in commit.writes:
        entry = after.doc(write.name) if write.name.startswith("lg_outbox/") else None
        if entry is not None:
            told.add((entry.fields["what"], entry.fields["name"]))
    for name in dict.fromkeys(write.name for write in commit.writes):
        what = _what(before, after, name)
        if what is None:
            continue
        if (what, name) not in told:
            return f"untold: {what} of {name}"
        role = before.doc(f"lg_region/role-{name.split('/')[1][:2]}")
        if role is None or role.fields["role"] != "primary":
            return f"not primary: {what} of {name} was stored"
    return None


def _what(before: World, after: World, name: str) -> str | None:
    """What the entry says about a document that a commit has changed; `None` if there is nothing to say."""
    segments = name.split("/")
    was, now = before.doc(name), after.doc(name)
    if segments[0] != "lg_threads" or len(segments) not in (2, 4):
        return None
    if len(segments) == 2:
        return "delete" if was is not None and now is None else None
    if segments[2] not in WHAT:
        return None
    there, here = ({} if doc is None else dict(doc.fields) for doc in (was, now))
    if segments[2] == "lg_checkpoints" and was is not None and now is not None:
        there, here = ({key: doc[key] for key in doc if key not in EXCEPTED} for doc in (there, here))
    if there == here and (was is None) == (now is None):
        return None
    is_stripped = segments[2] == "lg_checkpoints" and now is not None and "manifest" not in now.fields
    return "delete" if now is None or is_stripped else WHAT[segments[2]]


# Processes


def _admitted(call: Call, context: Context) -> Flow[Any]:
    return roles.admit(call.start(context), context.region)


def under_rule(process: Process) -> Process:
    """The process, as that of a saver: its flows look for the role of the store."""
    calls = tuple(replace(call, start=partial(_admitted, call)) for call in process.calls)
    return replace(process, calls=calls)


def becomes(name: regions.RoleName) -> Call:
    """Give the store a role, whatever it has."""

    def start(_: Context) -> Flow[None]:
        for _ in range(3):
            docs = yield from GetDocs(regions.ROLES)
            seen = regions.role_of(docs[regions.FIRST_ROLE])
            if (yield from Commit(Role(seen.epoch + 1, name, TO).writes(docs))) is not None:
                return

    return Call(f"become {name}", start)


def in_region(world: World, processes: tuple[Process, ...], *changes: Call) -> tuple[World, tuple[Process, ...]]:
    """A scenario in a store that is the primary, beside a process that changes that."""
    kind = ruled(type(world))
    _, primary = World.perform(world, Commit(Role(1, "primary", TO).writes({})), 1)
    changer = Process("=", changes)
    return kind(primary.table, primary.blobs), (*map(under_rule, processes), changer)


def has_stopped(run: Run) -> bool:
    """Whether a process has ended because the store is not the primary."""
    error = run.node.error
    return isinstance(error, NotPrimaryError) or isinstance(getattr(error, "__cause__", None), NotPrimaryError)


def _as_dead(run: Run) -> Run:
    node = copy.copy(run.node)
    node.error = None
    return replace(run, node=node, dead=True)


def judged(check: Check, *, may_stop: bool) -> Check:
    """The check of a scenario, and that of the rules here.

    A process that has ended because the store is not the primary looks as one that has crashed. It stores nothing.
    """

    def judge(world: World, runs: tuple[Run, ...]) -> str | None:
        wrong = world.doc(WRONG)
        if wrong is not None:
            return str(wrong.fields["what"])
        stopped = [run for run in runs if has_stopped(run)]
        if stopped and not may_stop:
            return f"stopped: {stopped[0].process.name} raised {stopped[0].node.error}"
        own = tuple(_as_dead(run) if has_stopped(run) else run for run in runs if run.process.name != "=")
        return check(world, own)

    return judge
