"""The size of documents, as Firestore counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph_gcs_saver.engine.effects import Doc


def document_bytes(doc: Doc) -> int:
    """A document's fields, with their names, and its own name.

    https://firebase.google.com/docs/firestore/storage-size, without the 48 bytes that Firestore adds to each.
    """
    return sum(len(segment) + 1 for segment in doc.name.split("/")) + _fields_bytes(doc.fields)


def _fields_bytes(fields: Mapping[str, Any]) -> int:
    total = 0
    for name, value in fields.items():
        total += len(name) + 1
        match value:
            case None | bool():
                total += 1
            case int() | float():
                total += 8
            case str():
                total += len(value.encode()) + 1
            case bytes():
                total += len(value)
            case _:
                total += _fields_bytes(value)
    return total
