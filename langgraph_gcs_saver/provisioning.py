"""What the platform can do for a store by itself: settings of the bucket, and of Firestore's single-field indexes.

`setup(platform=True)` lays these settings; where it may not, the files that are made here are for someone who may.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from langgraph_gcs_saver.address import GoogleAddress, parse
from langgraph_gcs_saver.engine.effects import BucketSettings, Rule
from langgraph_gcs_saver.engine.files import make_directory, write_file
from langgraph_gcs_saver.format import registry

NEARLINE_AFTER = 30
"""Days until an object moves to Nearline storage, which bills 30 days at least
(https://cloud.google.com/storage/docs/storage-classes#nearline)."""

ABORT_AFTER = 7
"""Days until a multipart upload that nobody completed is aborted. This library's own uploads are resumable ones, which
expire after a week without a rule (https://cloud.google.com/storage/docs/resumable-uploads#session-uris); copies by
other tools may be multipart."""

INDEXES_FILE = "firestore.indexes.json"
LIFECYCLE_FILE = "bucket-lifecycle.json"

_NEVER_MATCHES = ("customTimeBefore", "daysSinceCustomTime", "daysSinceNoncurrentTime", "noncurrentTimeBefore")
"""Conditions that need a custom time, which this library's objects have not, or that an object is no longer live."""


def unindexed() -> list[tuple[str, str]]:
    """Pairs of a collection id and a field that no query filters by, and that is large or changes with every step.

    Indexes are most of what a document costs to store and to write. A field of bytes is indexed with its first 1,500
    (https://firebase.google.com/docs/firestore/quotas), twice. `*` is every field: pending writes are found by name
    only.
    """
    return [(entry.id, field) for entry in registry.every() for field in entry.unindexed]


def lifecycle_rules(prefix: str, *, autoclass: bool = False) -> tuple[Rule, ...]:
    """The lifecycle rules for a store's objects. None of them deletes: a base outlives the step that wrote it.

    https://cloud.google.com/storage/docs/lifecycle has the format, and which conditions an action takes.

    Args:
        prefix: What names of objects begin with, its slash included; empty for the whole bucket.
        autoclass: Whether the bucket has Autoclass, which manages all storage classes by itself
            (https://cloud.google.com/storage/docs/autoclass).
    """
    ours = {"matchesPrefix": [prefix]} if prefix else {}
    abort = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": ABORT_AFTER, **ours}}
    nearline = {
        "action": {"type": "SetStorageClass", "storageClass": "NEARLINE"},
        "condition": {"age": NEARLINE_AFTER, "matchesStorageClass": ["STANDARD"], **ours},
    }
    return (abort,) if autoclass else (nearline, abort)


def merged(bucket: BucketSettings) -> tuple[Rule, ...]:
    """The bucket's rules as they are and in their order, and behind them those of ours that it lacks."""
    found = bucket.rules or ()
    wanted = lifecycle_rules(bucket.prefix, autoclass=bucket.autoclass)
    return (*found, *(rule for rule in wanted if rule not in found))


def deleting(bucket: BucketSettings) -> list[Rule]:
    """Rules of the bucket that may delete objects that checkpoints need."""
    return [
        rule
        for rule in bucket.rules or ()
        if rule.get("action", {}).get("type") == "Delete" and _may_match(rule.get("condition", {}), bucket.prefix)
    ]


def _may_match(condition: Mapping[str, Any], prefix: str) -> bool:
    """Whether a live object of a store can meet a rule's condition; one that is not known here is taken for met."""
    if condition.get("isLive") is False or condition.get("numNewerVersions"):
        return False  # names are never used twice, so no object of ours has newer versions
    if any(key in condition for key in _NEVER_MATCHES):
        return False
    prefixes, suffixes = condition.get("matchesPrefix"), condition.get("matchesSuffix")
    return (not prefixes or any(_begins(prefix, begin) for begin in prefixes)) and (
        not suffixes or any(end.endswith(".zst") or ".zst".endswith(end) for end in suffixes)
    )


def _begins(prefix: str, begin: str) -> bool:
    """Whether a name of ours, `{prefix}{two hex digits}-…`, can begin with `begin`."""
    if len(begin) <= len(prefix):
        return prefix.startswith(begin)
    return begin.startswith(prefix) and bool(re.match(r"[0-9a-f](\Z|[0-9a-f](\Z|-))", begin[len(prefix) :]))


def settings_files(bucket: BucketSettings) -> dict[str, str]:
    """Files that lay the same settings by hand: their names, and their texts.

    `firestore.indexes.json` is as the Firebase CLI deploys it, `bucket-lifecycle.json` as `gcloud storage buckets
    update --lifecycle-file` takes it. That replaces all rules of the bucket, so those that are known are in the file.
    """
    overrides = [{"collectionGroup": group, "fieldPath": field, "indexes": []} for group, field in unindexed()]
    return {
        INDEXES_FILE: _json({"indexes": [], "fieldOverrides": overrides}),
        LIFECYCLE_FILE: _json({"lifecycle": {"rule": merged(bucket)}}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def write_settings(directory: str | os.PathLike[str], conn_string: str) -> tuple[Path, ...]:
    """Write the files that lay a store's settings by hand, without asking any service.

    They are `firestore.indexes.json` and `bucket-lifecycle.json`; `docs/guides/platform-settings.md` says how to apply
    them. Lifecycle rules that the bucket has already are not known here, and are missing in the second one.

    Args:
        directory: Where to write them; made if it is missing.
        conn_string: The store's connection string. The embedded store has no settings, and gets no files.

    Returns:
        The files.

    Raises:
        InvalidURIError: The connection string names no store.
        OSError: A file cannot be written.
    """
    address = parse(conn_string)
    if not isinstance(address, GoogleAddress):
        return ()
    prefix = f"{address.prefix}/" if address.prefix else ""
    return write_files(directory, settings_files(BucketSettings(prefix, rules=None)).items())


def write_files(directory: str | os.PathLike[str], files: Iterable[tuple[str, str]]) -> tuple[Path, ...]:
    """Write texts to files of a directory, which is made if it is missing, for this user alone; returns the files.

    Raises:
        OSError: A file cannot be written.
    """
    make_directory(Path(directory))
    written = []
    for name, text in files:
        path = Path(directory, name)
        write_file(path, text.encode(), replace=True)
        written.append(path)
    return tuple(written)
