"""Scenarios of other modules in a store that is replicated, beside a process that changes its role.

The flows pass through `roles.admit`, as those of a saver do. The world compares the documents before and after each
commit.
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
from tests.kit import outbox

from .world import Call, Check, Process, Run, World, region_of

WRONG = "ghost/ruled"
"""The document that names the first commit that breaks a rule."""

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
                wrong = outbox.fault([write.name for write in effect.writes], self.doc, after.doc)
                if wrong is not None:
                    note = World.perform(after, Commit((Create(WRONG, {"what": wrong}),)), 1)[1]
                    after = Ruled(note.table, note.blobs)
            return answer, after

    return Ruled


# Processes


def _admitted(call: Call, context: Context) -> Flow[Any]:
    return roles.admit(call.start(context), region_of(context))


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
            if (yield from Commit(Role(seen.epoch + 1, name, outbox.TO).writes(docs))) is not None:
                return

    return Call(f"become {name}", start)


def in_region(world: World, processes: tuple[Process, ...], *changes: Call) -> tuple[World, tuple[Process, ...]]:
    """A scenario in a store that is the primary, beside a process that changes that."""
    kind = ruled(type(world))
    _, primary = World.perform(world, Commit(Role(1, "primary", outbox.TO).writes({})), 1)
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
