"""Binds a store to another bucket or prefix on purpose, once its objects are there."""

from __future__ import annotations

from dataclasses import replace

from langgraph_gcs_saver.engine.effects import Commit, Flow, GetDocs
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError
from langgraph_gcs_saver.flows.all_threads import START, next_thread
from langgraph_gcs_saver.flows.context import Context, Loads, Place
from langgraph_gcs_saver.flows.places import claim_mirror, look_for_bucket, place_of, written
from langgraph_gcs_saver.flows.survey import survey
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import RebindPlan

EXAMPLES = 5
"""How many names of missing objects a plan contains."""


def rebind(*, force: bool, dry_run: bool, loads: Loads, context: Context) -> Flow[RebindPlan]:
    """Bind the store to the context's place, if every object that documents refer to is there. No object is touched.

    Raises:
        ConflictError: Another process bound the store meanwhile.
        InvalidInputError: Objects are missing at the new place, and `force` is false; or the store is embedded.
        StoreNotFoundError: There is no such bucket.
    """
    binding = context.binding
    if binding is None:
        raise InvalidInputError("The embedded store keeps documents and objects together: there is nothing to bind.")
    note = (yield from GetDocs((keys.PLACE,))).get(keys.PLACE)
    found = None if note is None else place_of(note)
    yield from look_for_bucket()
    plan = yield from _plan(found, binding.place, loads, replace(context, binding=None))
    if dry_run:
        return plan
    if plan:
        if plan.missing and not force:
            raise InvalidInputError(
                f"{plan.missing} of the {plan.objects} objects that the store refers to are not in {plan.place!r}, "
                f"such as {plan.examples[0]!r}. Nothing was changed. Copy them there first, or pass `force=True` "
                "(`--force`) to give them up."
            )
        # After a failover, the bucket that was the first one before is the mirror, and has the store's objects.
        yield from claim_mirror(binding.place, may_have_objects=True, takes_over=force)
        if (yield from Commit((written(binding.place, note),))) is None:
            # This call's own commit, whose answer was lost?
            now = (yield from GetDocs((keys.PLACE,))).get(keys.PLACE)
            if now is None or place_of(now) != binding.place:
                raise ConflictError(
                    f"The store was not bound to {str(binding.place)!r}, because another process bound it meanwhile. "
                    "See where the objects are, and call again."
                )
    binding.is_bound = True
    return plan


def _plan(bound: Place | None, place: Place, loads: Loads, context: Context) -> Flow[RebindPlan]:
    threads = objects = 0
    missing: list[str] = []
    tries = Tries()
    cursor = START
    while (step := (yield from next_thread(cursor, tries, context))) is not None:
        thread_id, cursor = step
        if thread_id is None:
            continue
        threads += 1
        found = yield from survey(thread_id, "existence", loads, context)
        damaged = {one.name for one in found.findings() if one.is_damage and keys.is_blob(one.name)}
        wanted = damaged | {name for name in found.referenced() if keys.is_blob(name)}
        objects += len(wanted)
        # A survey reports the first missing frame of each value only, so later ones are looked for here.
        missing += sorted(damaged | (wanted - found.blobs.keys()))
    tries.end()
    return RebindPlan(
        bound=None if bound is None else str(bound),
        place=str(place),
        threads=threads,
        objects=objects,
        missing=len(missing),
        examples=tuple(missing[:EXAMPLES]),
    )
