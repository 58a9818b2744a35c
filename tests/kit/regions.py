"""Two open stores of which one is replicated to the other, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Flow, GetBlob, GetDocs, ListBlobs, QueryDocs
from langgraph_gcs_saver.engine.named_stores import NamedStores
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import replication
from langgraph_gcs_saver.flows.shipments import SHIPPED
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of
from langgraph_gcs_saver.format.regions import ROLES, Role, RoleName
from langgraph_gcs_saver.results import Reconciled, Shipped

OWN = ("fence", "heir", "holds", SHIPPED)
"""Fields of a checkpoint that are not carried. The heir is written with the child."""


def set_role(saver: GCSSaver, name: RoleName, epoch: int = 1) -> None:
    """Give a store a role, as a failover does."""

    def flow() -> Flow[object]:
        return (yield from Commit(Role(epoch, name, "memory:").writes((yield from GetDocs(ROLES)))))

    assert run(flow(), saver._as_shipper) is not None


def begin(source: GCSSaver, target: GCSSaver) -> None:
    """Begin the replication of a store to another one. Savers look for a role at their first commit only."""
    set_role(target, "replica")
    set_role(source, "primary")


def stores(source: GCSSaver, target: GCSSaver) -> NamedStores:
    return NamedStores({SOURCE: source._as_shipper, TARGET: target._as_shipper}, home=TARGET)


def ship(source: GCSSaver, target: GCSSaver) -> Shipped:
    """One pass over the outbox of the source, which ships all of it."""
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [one.error for one in found.failures] == []
    assert outbox(source) == []
    return found


def reconcile(source: GCSSaver, target: GCSSaver, *, heals: bool = True) -> list[Reconciled]:
    """Compare all threads, and ship what the target lacks."""
    page = replication.reconcile_all(heals=heals, context=target._context)
    found: list[Reconciled] = []
    while (some := run(page(), stores(source, target))) is not None:
        found += some
    return found


def outbox(saver: GCSSaver) -> list[str]:
    """Names of the entries of a store's outbox."""
    return [doc.name for doc in run(iter(QueryDocs(keys.OUTBOX, mask=())), saver._as_shipper)]


Stored = tuple[dict[str, Mapping[str, Any]], dict[str, bytes]]


def replicated(saver: GCSSaver) -> Stored:
    """What a store has of replicated collections: fields of documents, and objects, without what is not carried."""
    docs: dict[str, Mapping[str, Any]] = {}
    end = keys.all_checkpoints_range()[1]
    for entry in registry.COLLECTIONS:
        if entry.replicated is None:
            continue
        query = QueryDocs(entry.id, start=f"{keys.THREADS}/!", end=end, group=True)
        for doc in run(iter(query), saver._as_shipper):
            if entry.id != keys.CHECKPOINTS:
                docs[doc.name] = doc.fields
            elif kind_of(doc) is DocumentKind.CHECKPOINT:
                docs[doc.name] = {key: value for key, value in doc.fields.items() if key not in OWN}
    for doc in run(iter(QueryDocs(keys.operations(None))), saver._as_shipper):
        docs[doc.name] = doc.fields
    return docs, objects(saver)


def objects(saver: GCSSaver) -> dict[str, bytes]:
    """The objects of a store's threads, and its dictionaries."""
    found: dict[str, bytes] = {}
    page = ListBlobs("")
    while blobs := run(iter(page), saver._as_shipper):
        for blob in blobs:
            if not blob.name.startswith((keys.PROBES, keys.CACHE_BLOBS)):
                found[blob.name] = run(iter(GetBlob(blob.name)), saver._as_shipper)
        page = replace(page, after=blobs[-1].name)
    return found


def left_of(saver: GCSSaver, thread_id: str) -> list[str]:
    """Names of documents and objects of a thread."""
    segment = keys.spread(thread_id)
    ids = [entry.id for entry in registry.COLLECTIONS]
    queries = [QueryDocs(f"{keys.THREADS}/{segment}/{id_}", mask=()) for id_ in ids]
    docs = [doc.name for query in queries for doc in run(iter(query), saver._as_shipper)]
    own = run(iter(GetDocs((f"{keys.THREADS}/{segment}", f"{keys.ACTIVE}/{segment}"))), saver._as_shipper)
    return [*own, *docs, *(name for name in objects(saver) if name.startswith(f"{segment}/"))]
