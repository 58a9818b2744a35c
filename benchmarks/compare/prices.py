"""What the counted operations and the stored bytes cost by public list prices: one table, with its date.

Amounts are US dollars, without the free quota, discounts, taxes and the network: services and callers in one region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from langgraph_gcs_saver.policy.prices import DOCUMENT_PRICE, OBJECT_PRICE

CHECKED = "2026-11-21"
"""When the table was last compared with copies of the pages that it names."""

FIRESTORE = "https://cloud.google.com/firestore/pricing"
STORAGE = "https://cloud.google.com/storage/pricing"

GIB = 1 << 30
MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """One line of a price list.

    Attributes:
        unit: What is billed, by the name that `Traffic.operations` has for it.
        dollars: For so many of them.
        per: How many.
        where: The region and the kind of service.
        page: The public page that lists it.
    """

    unit: str
    dollars: float
    per: int
    where: str
    page: str

    def __str__(self) -> str:
        per = "GiB and month" if self.unit.startswith("stored") else f"{self.per:,}"
        return f"| {self.unit} | ${self.dollars:g} per {per} | {self.where} | {self.page} |"


_REGION = "Firestore Standard, us-central1"
_MULTI = "Firestore Standard, nam5"
_BUCKET = "Cloud Storage Standard, us-central1"

OPERATIONS = (
    Price("document reads", 0.03, 100_000, _REGION, FIRESTORE),
    Price("document writes", 0.09, 100_000, _REGION, FIRESTORE),
    Price("document deletes", 0.01, 100_000, _REGION, FIRESTORE),
    Price("object class A", 0.005, 1_000, _BUCKET, STORAGE),
    Price("object class B", 0.0004, 1_000, _BUCKET, STORAGE),
    Price("object deletes", 0.0, 1_000, _BUCKET, STORAGE),
)
"""By these the dollars of the results are computed."""

KEEPING = (
    Price("stored documents", DOCUMENT_PRICE, GIB, _REGION, FIRESTORE),
    Price("stored objects", OBJECT_PRICE, GIB, _BUCKET, STORAGE),
)
"""A GiB and month; the same numbers as `langgraph-gcs stats` goes by."""

MULTI_REGION = (
    Price("document reads", 0.06, 100_000, _MULTI, FIRESTORE),
    Price("document writes", 0.18, 100_000, _MULTI, FIRESTORE),
    Price("document deletes", 0.02, 100_000, _MULTI, FIRESTORE),
    Price("stored documents", 0.18, GIB, _MULTI, FIRESTORE),
)
"""For those who keep their documents in two regions: twice the operations. No result is computed by these."""

UNPRICED: Mapping[str, str] = MappingProxyType({"queries": "an instance, by the hour: its vCPUs, memory and disk"})
"""Operations that no price list names, and what is billed instead."""

NOTHING = "nothing: a file or the memory of this machine"


def billed_by(services: Iterable[str]) -> str | None:
    """What is billed instead of operations, for a saver on these services; `None` if operations are."""
    used = frozenset(services)
    if "postgres" in used:
        return UNPRICED["queries"]
    return None if used else NOTHING


def dollars(operations: Mapping[str, float]) -> float | None:
    """What these operations cost; `None` if some of them have no price.

    Raises:
        KeyError: An operation is neither in the table nor known to have no price.
    """
    if any(number and unit in UNPRICED for unit, number in operations.items()):
        return None
    prices = {price.unit: price.dollars / price.per for price in OPERATIONS} | dict.fromkeys(UNPRICED, 0.0)
    return sum(prices[unit] * number for unit, number in operations.items())


def per_million(operations: Mapping[str, float], steps: float) -> float | None:
    """What a million steps cost, when these are the operations of `steps` of them."""
    each = dollars(operations)
    return None if each is None else each / steps * MILLION


@dataclass(frozen=True)
class Stored:
    """Bytes in a store.

    Attributes:
        total: All of them.
        objects: Those that are objects, in a saver that keeps documents too.
    """

    total: int
    objects: int = 0


def monthly(stored: Stored, steps: float, services: Iterable[str]) -> float | None:
    """What it costs to keep for a month what a million steps leave, when so many left `stored`.

    `None` where bytes are not what is billed.
    """
    used = frozenset(services)
    if "postgres" in used or not used:
        return None
    document, kept = (price.dollars / price.per for price in KEEPING)
    objects = stored.objects if "firestore" in used else stored.total
    return ((stored.total - objects) * document + objects * kept) / steps * MILLION


def table() -> str:
    """The price list as Markdown."""
    head = "| unit | price | service | listed at |\n|---|---|---|---|\n"
    return head + "\n".join(map(str, (*OPERATIONS, *KEEPING, *MULTI_REGION)))
