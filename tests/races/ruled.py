"""Scenarios of other modules in a store that is replicated, beside a process that changes its role.

The flows pass through `roles.admit`, as those of a saver do. The world compares the documents before and after each
commit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Effect, Flow, GetDocs, Merge
from langgraph_gcs_saver.errors import FencedError, NotPrimaryError
from langgraph_gcs_saver.flows import roles
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys, regions
from langgraph_gcs_saver.format.regions import Role, digits_of
from tests.kit import outbox

from .world import Call, Check, Process, Run, World, region_of

WRONG = "ghost/ruled"
"""The document that names the first commit that breaks a rule."""

EPOCH = "ghost/epoch"
"""The document that says in which epoch of the role the last lease was acquired."""

# The world


@cache
def ruled(kind: type[World]) -> type[World]:
    """A kind of world that also judges each commit by the role and the entries."""

    class Ruled(kind):  # type: ignore[misc,valid-type]
        def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
            answer, after = kind.perform(self, effect, stamp)
            if after is not self and not isinstance(after, Ruled):
                after = _as(Ruled, after, after)
            if isinstance(effect, Commit) and answer is not None:
                for name, fields in self._notes([write.name for write in effect.writes], after):
                    note = World.perform(after, Commit((Merge(name, fields),)), 1)[1]
                    after = _as(Ruled, after, note)
            return answer, after

        def _notes(self, names: list[str], after: World) -> Iterator[tuple[str, dict[str, Any]]]:
            """Documents that note what the rules need later: in which epoch a lease was acquired, and what is wrong."""
            wrong = outbox.fault(names, self.doc, after.doc)
            for name in names:
                was, now = self.doc(name), after.doc(name)
                role = self.doc(keys.role_doc(digits_of(name))) if keys.is_fence_doc(name) else None
                if role is None:
                    continue
                if outbox.is_acquired(name, was, now):
                    yield EPOCH, {"epoch": role.fields["epoch"]}
                held = self.doc(EPOCH)
                has_stored = any(one.startswith(keys.OUTBOX) for one in names)
                if was == now and has_stored and held is not None and held.fields["epoch"] != role.fields["epoch"]:
                    wrong = wrong or f"stale lease: of epoch {held.fields['epoch']}, in {role.fields['epoch']}"
            if wrong is not None and after.doc(WRONG) is None:
                yield WRONG, {"what": wrong}

    return Ruled


def _as(kind: type[World], like: World, content: World) -> World:
    """A world of another kind, with the documents and objects of one world, and all else that another one knows."""
    made = kind(content.table, content.blobs)
    for name, value in vars(like).items():
        if name not in vars(made) and not isinstance(getattr(type(like), name, None), cached_property):
            setattr(made, name, value)
    return made


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
            # A change that leaves the store the primary keeps the epoch, as one that completes a forced failover.
            is_other = name != seen.name
            role = Role(seen.epoch + is_other, name, outbox.TO if is_other else f"{seen.to}/")
            if (yield from Commit(role.writes(docs))) is not None:
                return

    return Call(f"become {name}", start)


def in_region(world: World, processes: tuple[Process, ...], *changes: Call) -> tuple[World, tuple[Process, ...]]:
    """A scenario in a store that is the primary, beside a process that changes that."""
    kind = ruled(type(world))
    _, primary = World.perform(world, Commit(Role(1, "primary", outbox.TO).writes({})), 1)
    changer = Process("=", changes)
    return _as(kind, world, primary), (*map(under_rule, processes), changer)


def has_stopped(run: Run) -> bool:
    """Whether a process has ended because the store is not the primary, or was not meanwhile."""
    error = run.node.error
    if isinstance(error, FencedError) and "epoch" in str(error):
        return True
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
