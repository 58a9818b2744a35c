"""The settings by which the platform helps a store: the bucket's, and those of Firestore's single-field indexes.

`setup(platform=True)` applies these settings. Where its credentials may not, this module writes files with them, which
an administrator can apply.
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
"""Days until an object moves to Nearline storage, which bills at least 30 days
(https://cloud.google.com/storage/docs/storage-classes#nearline)."""

ABORT_AFTER = 7
"""Days until an incomplete multipart upload is aborted. This library's own uploads are resumable, and expire after a
week without a rule (https://cloud.google.com/storage/docs/resumable-uploads#session-uris). Other tools may copy objects
by multipart uploads."""

INDEXES_FILE = "firestore.indexes.json"
LIFECYCLE_FILE = "bucket-lifecycle.json"

_NEVER_MATCHES = ("customTimeBefore", "daysSinceCustomTime", "daysSinceNoncurrentTime", "noncurrentTimeBefore")
"""Conditions that no live object of this library meets: they need a custom time, or an object that is not live."""


def unindexed() -> list[tuple[str, str]]:
    """Pairs of a collection id and a field that no query filters by, and that is large or changes with every step.

    Most of the cost of a document, to store and to write, is its indexes. The first 1,500 bytes of a bytes field are
    indexed (https://firebase.google.com/docs/firestore/quotas), twice. `*` means every field, because pending writes
    are found by name only.
    """
    below_threads = [(entry.id, field) for entry in registry.every() for field in entry.unindexed]
    return [*below_threads, *registry.UNINDEXED_AT_ROOT]


def lifecycle_rules(prefix: str, *, autoclass: bool = False) -> tuple[Rule, ...]:
    """The lifecycle rules for a store's objects. None of them deletes: a base outlives the step that wrote it.

    https://cloud.google.com/storage/docs/lifecycle describes the format, and the conditions that an action takes.

    Args:
        prefix: The prefix of all object names, with its slash; empty for the whole bucket.
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
    """The bucket's rules, unchanged and in their order, followed by those of ours that it lacks."""
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
    """Whether a live object of a store can meet a rule's condition. Parts that are not known here count as met."""
    if condition.get("isLive") is False or condition.get("numNewerVersions"):
        return False  # no name is used twice, so no object of ours has newer versions
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
    """The names and texts of files from which an administrator applies the same settings.

    The Firebase CLI deploys `firestore.indexes.json`, and `gcloud storage buckets update --lifecycle-file` takes
    `bucket-lifecycle.json`. That command replaces all rules of the bucket, so the file holds those that are known.
    """
    overrides = [{"collectionGroup": group, "fieldPath": field, "indexes": []} for group, field in unindexed()]
    return {
        INDEXES_FILE: _json({"indexes": [], "fieldOverrides": overrides}),
        LIFECYCLE_FILE: _json({"lifecycle": {"rule": merged(bucket)}}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def write_settings(directory: str | os.PathLike[str], conn_string: str) -> tuple[Path, ...]:
    """Write files from which an administrator applies a store's settings. No service is called.

    They are `firestore.indexes.json` and `bucket-lifecycle.json`; `docs/guides/platform-settings.md` says how to apply
    them. The second file lacks the lifecycle rules that the bucket has already, because they are not known here.

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
    """Write texts to files in a directory, which is made if it is missing, and return their paths.

    A name may have a slash: that directory is made too. Only this user can read the files.

    Raises:
        OSError: A file cannot be written.
    """
    make_directory(Path(directory))
    written = []
    for name, text in files:
        path = Path(directory, name)
        make_directory(path.parent)
        write_file(path, text.encode(), replace=True)
        written.append(path)
    return tuple(written)
