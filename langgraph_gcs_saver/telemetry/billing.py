"""What Google's services bill for a request, and what that costs by list prices.

Sources: https://cloud.google.com/firestore/pricing and https://cloud.google.com/storage/pricing. The embedded store
bills nothing. Its requests are counted as if Google Cloud had performed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph_gcs_saver.engine.effects import (
    REQUESTS,
    Commit,
    CopyBlob,
    Delete,
    Effect,
    EnsureBucket,
    GetBlob,
    GetDocs,
    HashBlob,
    InBucket,
    ListBlobs,
    ListCollections,
    PutBlob,
    QueryDocs,
    ReadBucket,
    SetLifecycle,
)
from langgraph_gcs_saver.policy.prices import CLASS_A_PRICE, CLASS_B_PRICE, DELETE_PRICE, READ_PRICE, WRITE_PRICE

PRICES: Mapping[str, float] = {
    "document reads": READ_PRICE,
    "document writes": WRITE_PRICE,
    "document deletes": DELETE_PRICE,
    "object class A": CLASS_A_PRICE,
    "object class B": CLASS_B_PRICE,
}
"""US dollars for one of each unit."""

Bill = tuple[tuple[str, int], ...]
"""How many of each unit."""

Rule = Callable[[Any, Any], Bill]
"""What a request is billed for, by the request and its answer."""

NOTHING: Bill = ()
"""The bill of a request that is free, or that failed. Google may bill some that failed."""


def dollars(bill: Bill) -> float:
    """What a bill costs."""
    return sum(count * PRICES[unit] for unit, count in bill)


def _commit(effect: Commit, answer: object) -> Bill:
    if answer is None:  # a precondition failed, and nothing was written
        return NOTHING
    deletes = [*map(type, effect.writes)].count(Delete)
    writes = ("document writes", len(effect.writes) - deletes)
    return (writes, ("document deletes", deletes)) if deletes else (writes,)


def _always(bill: Bill) -> Rule:
    return lambda effect, answer: bill  # noqa: ARG005 - the signature of all rules


_free, _class_a, _class_b = _always(NOTHING), _always((("object class A", 1),)), _always((("object class B", 1),))

RULES: Mapping[type[Effect[Any]], Rule] = {
    **dict.fromkeys(REQUESTS, _free),
    Commit: _commit,
    # A document that does not exist is billed, too.
    GetDocs: lambda effect, answer: (("document reads", len(effect.names)),),  # noqa: ARG005 - the same
    # A query is billed for one document at least.
    QueryDocs: lambda effect, answer: (("document reads", max(1, len(answer))),),  # noqa: ARG005 - the same
    ListCollections: _always((("document reads", 1),)),
    PutBlob: _class_a,
    CopyBlob: _class_a,
    ListBlobs: _class_a,
    EnsureBucket: _class_a,
    SetLifecycle: _class_a,
    GetBlob: _class_b,
    HashBlob: _class_b,
    ReadBucket: _class_b,
    InBucket: lambda effect, answer: RULES[type(effect.effect)](effect.effect, answer),
}
"""What a request of each class is billed for."""
