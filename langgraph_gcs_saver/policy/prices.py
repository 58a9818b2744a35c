"""List prices in US dollars, in a region such as us-central1. What reports costs accepts other prices.

Sources: https://cloud.google.com/firestore/pricing (Standard edition) and https://cloud.google.com/storage/pricing.
"""

from __future__ import annotations

_GIB = 1 << 30

OBJECT_PRICE = 0.02
"""One GiB of Standard storage for a month."""

DOCUMENT_PRICE = 0.15
"""One GiB of documents for a month."""

READ_PRICE, WRITE_PRICE, DELETE_PRICE = 0.03 / 100_000, 0.09 / 100_000, 0.01 / 100_000
"""One read, write or deletion of a document."""

CLASS_A_PRICE, CLASS_B_PRICE = 0.005 / 1_000, 0.0004 / 1_000
"""One request to Cloud Storage that creates or lists objects, and one that reads an object. Deletions are free."""


def storage_cost(
    document_bytes: int,
    object_bytes: int,
    *,
    document_price: float = DOCUMENT_PRICE,
    object_price: float = OBJECT_PRICE,
) -> float:
    """What it costs to store bytes for a month, in US dollars.

    Args:
        document_bytes: Bytes in documents.
        object_bytes: Bytes in objects.
        document_price: The price of one GiB of documents for a month.
        object_price: The price of one GiB of objects for a month.
    """
    return (document_bytes * document_price + object_bytes * object_price) / _GIB
