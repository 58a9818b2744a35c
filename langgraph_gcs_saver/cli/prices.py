"""List prices of what is kept, in US dollars; the commands that tell them take others as options."""

from __future__ import annotations

OBJECT_PRICE = 0.02
"""A GiB of Standard storage and month in a region such as us-central1 (https://cloud.google.com/storage/pricing)."""

DOCUMENT_PRICE = 0.15
"""A GiB of documents and month in a region such as us-central1 (https://cloud.google.com/firestore/pricing)."""
