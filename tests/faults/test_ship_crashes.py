"""A shipper that crashes at any effect leaves a target that is whole, and another shipper completes its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import replication
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.results import Finding
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg
from tests.kit.regions import begin, left_of, outbox, replicated, ship, stores
from tests.stateful.threads import everything, put

Change = Callable[[GCSSaver], Any]


def _stores(saver: GCSSaver) -> None:
    put(saver, "t", 30, 20, run="r")
    saver.put_writes(cfg(n=30), [("messages", "x" * 2000)], "task", "~1")
    saver.thread("t").operations.once("charge", lambda: "y" * 2000, key="k")
    put(saver, "t", 40, 30, run="r")


def _replaces(saver: GCSSaver) -> None:
    saver.delete_thread("t")
    put(saver, "t", 10, salt="again")
    put(saver, "t", 20, 10, salt="again")


CHANGES: dict[str, Change] = {
    "stores": _stores,
    "prunes": lambda saver: saver.prune(["t"], strategy=KeepLast(1)),
    "deletes": lambda saver: saver.delete_thread("t"),
    "replaces": _replaces,
}


def _may_be_left(found: Finding) -> bool:
    """Whether a crash leaves it: objects whose document has not come or is gone, and the mark of a deletion."""
    return found.kind == "unreferenced" or found.name == keys.thread_doc("t")


class Regions:
    """Two stores in memory, and processes that ship from one to the other."""

    def __init__(self, change: Change) -> None:
        source, target = MemoryDocuments(), MemoryDocuments()
        self._tables: list[Any] = [source.table, target.table]
        self._blobs: list[Any] = [MemoryBlobs().objects, MemoryBlobs().objects]
        self.stops(None, _fill)
        self.stops(None, change, ships=False)

    def stops(self, stop_after: int | None, change: Change = lambda _: None, *, ships: bool = True) -> int:
        """Let a process change the source, and ship. It crashes after so many effects. Returns their number."""
        documents = [MemoryDocuments(table) for table in self._tables]
        blobs = [MemoryBlobs(objects) for objects in self._blobs]
        options: dict[str, Any] = {"inline_max_bytes": 600, "timeout": 1.0}  # clock: what a reader waits for a deletion
        source = CrashingSaver(stores=(documents[0], blobs[0]), **options)
        target = CrashingSaver(stores=(documents[1], blobs[1]), **options)
        with source, target:
            change(source)
            if change is _fill:
                begin(source, target)
            source.plan = target.plan = plan = Plan(stop_after)
            try:
                if ships and change is not _fill:
                    run(replication.ship_once(context=target._context), stores(source, target))
            except Crashed:
                assert stop_after is not None
            source.plan = target.plan = Plan()
            if change is _fill:
                ship_everything(source, target)
            self._check(source, target, is_whole=ships and stop_after is None)
            self._tables = [one.table for one in documents]
            self._blobs = [one.objects for one in blobs]
        return len(plan.done)

    def _check(self, source: CrashingSaver, target: CrashingSaver, *, is_whole: bool) -> None:
        found = [one for one in target.admin.verify("t", depth="data") if is_whole or not _may_be_left(one)]
        assert found == []
        everything(target)
        newest = target.get_tuple(cfg())
        assert newest is None or newest.checkpoint["channel_values"]
        if is_whole:
            assert outbox(source) == []
            assert replicated(target) == replicated(source)
            assert everything(target) == everything(source)
            if target.get_tuple(cfg()) is None:
                assert left_of(target, "t") == left_of(source, "t") == []
            ship(source, target)


def _fill(saver: GCSSaver) -> None:
    put(saver, "t", 10, run="r")
    put(saver, "t", 20, 10, run="r")
    put(saver, "t", 21, ns="sub", run="r")
    saver.put_writes(cfg(n=10), [("messages", "x" * 2000)], "task", "~1")


def ship_everything(source: GCSSaver, target: GCSSaver) -> None:
    run(replication.reconcile("t", context=target._context), stores(source, target))


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", CHANGES)
def test_crashes_before_and_after_every_effect(name: str, stride: int) -> None:
    count = Regions(CHANGES[name]).stops(None)
    assert count > 10
    for stop_after in range(0, count + 1, stride):
        regions = Regions(CHANGES[name])
        regions.stops(stop_after)
        regions.stops(None)
