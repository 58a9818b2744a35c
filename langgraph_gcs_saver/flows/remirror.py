"""Copies objects between a store's two buckets, until each is in both as it was written.

Of two copies that differ, the one with which every document that refers to the object can be read is the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from langgraph_gcs_saver.engine.effects import (
    Compute,
    DeleteBlobs,
    Doc,
    Effect,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    InBucket,
)
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.flows.sources import Found
from langgraph_gcs_saver.flows.survey import Survey, damage_of, damaged_values
from langgraph_gcs_saver.flows.unmirrored import Copies, findings, is_needed, shared
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.results import RepairPlan, RepairStep

T = TypeVar("T")

_DOCS_PER_PAGE = 20
"""How many documents are looked up at once. One that exists is enough."""


def sources_of(found: Survey, context: Context) -> Flow[dict[str, bool | None]]:
    """For each object of a thread whose copies are not alike, whether the mirror's is the right one; `None` if none is.

    An object that no bucket has as it was written stays as it is: its values may be found elsewhere.
    """
    damaged = {broken.step.name for broken in found.broken.values()}
    damaged |= {one.damage.frame or "" for one in (found.damaged_writes | found.damaged_plain).values()}
    referrers = found.referrers(found.copies)
    sources: dict[str, bool | None] = {}
    for name, copies in found.copies.items():
        if name in damaged:
            sources[name] = None
        elif copies.first is None or copies.mirror is None:
            sources[name] = copies.first is None
        else:
            sources[name] = yield from _right_copy(found, name, referrers[name], context)
    return sources


def _right_copy(found: Survey, name: str, referrers: Mapping[str, Doc], context: Context) -> Flow[bool | None]:
    fresh = replace(context, values=ByteCache(0), corrupt=ByteCache(0), binding=None)
    for mirror in (False, True):
        for doc in referrers:
            if not (yield from _in_one_bucket(_can_read(found, doc, name, fresh), name, mirror=mirror)):
                break
        else:
            return mirror
    return None


def _can_read(found: Survey, doc_name: str, name: str, context: Context) -> Flow[bool]:
    """Whether a document that refers to an object can be read, and so can what it has there."""
    if doc_name not in found.entries:
        _, stubs = (found.writes | found.plain)[doc_name]
        return (yield from damage_of(name, stubs[name], context)) is None
    doc = (yield from GetDocs((doc_name,))).get(doc_name)
    if doc is None:
        return True  # It was deleted since, and needs nothing.
    try:
        known = yield from read_manifest(doc, context.codec)
    except DamagedError:
        return False
    needing = {
        channel: ref
        for channel, ref in known.channels.items()
        if any(step.name == name for step in known.steps(channel))
    }
    return not (yield from damaged_values([Found(doc, replace(known, channels=needing))], context))


def _in_one_bucket(flow: Flow[T], name: str, *, mirror: bool) -> Flow[T]:
    """The flow, which gets the bytes of an object from one bucket only."""

    def of_bucket(effect: Effect[Any]) -> Effect[Any]:
        if isinstance(effect, Gather):
            return Gather(tuple(map(of_bucket, effect.effects)))
        if isinstance(effect, InBucket) and isinstance(effect.effect, GetBlob) and effect.effect.name == name:
            return Compute(_nothing)  # A reader that got wrong bytes asks the mirror.
        if isinstance(effect, GetBlob) and effect.name == name:
            return InBucket(effect, mirror=mirror)
        return effect

    return through(flow, lambda effect: iter(of_bucket(effect)))


def _nothing() -> None:
    """The answer of a store with one bucket to a question about the other one."""


def copy(
    name: str, copies: Copies, *, from_mirror: bool, referrers: Mapping[str, Doc] | None, context: Context
) -> Flow[None]:
    """Copy an object to the bucket that lacks it, or has other bytes.

    If the documents that refer to it are gone after that, a deletion is under way, which may have deleted the object
    before it was copied. So the copy is deleted.

    Args:
        name: The object.
        copies: Its copies.
        from_mirror: Whether the mirror's copy is the right one.
        referrers: The documents that refer to it, by name; `None` if it belongs to no thread.
        context: Options and caches.
    """
    data = yield from InBucket(GetBlob(name), mirror=from_mirror)
    if data is None:
        return
    target = partial(InBucket[Any], mirror=not from_mirror)
    if copies.first is not None and copies.mirror is not None:
        yield from target(DeleteBlobs((name,)))
    yield from target(context.upload(name, data))
    context.corrupt.drop(name)
    if referrers is not None and not (yield from _are_left(referrers)):
        yield from target(DeleteBlobs((name,)))


def _are_left(referrers: Mapping[str, Doc]) -> Flow[bool]:
    """Whether one of some documents still exists."""
    names = list(referrers)
    for at in range(0, len(names), _DOCS_PER_PAGE):
        now = yield from GetDocs(tuple(names[at : at + _DOCS_PER_PAGE]), mask=())
        if is_needed(referrers, now):
            return True
    return False


def repair_shared(*, dry_run: bool, context: Context) -> Flow[RepairPlan]:
    """Copy objects that belong to no thread to the bucket that lacks them. Copies that differ are left alone.

    A copy of an object that was deleted meanwhile is an orphan, which `collect` deletes.
    """
    found = yield from shared(context)
    steps = []
    for name, one in found.items():
        is_lacking = one.first is None or one.mirror is None
        steps.append(RepairStep(action="mirror" if is_lacking else "leave", name=name, reason=one.reason))
        if is_lacking and not dry_run:
            yield from copy(name, one, from_mirror=one.first is None, referrers=None, context=context)
    return RepairPlan(thread_id="", findings=tuple(findings("", found)), steps=tuple(steps))
