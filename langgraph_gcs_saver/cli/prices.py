"""List prices of storage, in US dollars. Commands that report costs accept other prices as options."""

from __future__ import annotations

OBJECT_PRICE = 0.02
"""One GiB of Standard storage for a month, in a region such as us-central1 (https://cloud.google.com/storage/pricing)."""

DOCUMENT_PRICE = 0.15
"""One GiB of documents for a month, in a region such as us-central1 (https://cloud.google.com/firestore/pricing)."""
