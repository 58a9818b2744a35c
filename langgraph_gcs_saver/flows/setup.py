"""Sets up a store: creates what is missing, proves that the saver may write, and applies settings of the platform."""

from __future__ import annotations

import json
from typing import Any

from langgraph_gcs_saver import provisioning
from langgraph_gcs_saver.engine.effects import (
    BucketSettings,
    Commit,
    Delete,
    DeleteBlobs,
    Effect,
    EnsureBucket,
    ExemptField,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    InBucket,
    Merge,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.errors import PermissionDeniedError, StoreError, StoreNotFoundError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import SetupReport

TRIES = 5
"""How often the bucket's rules are read again because another program changed its settings meanwhile."""

_BY_HAND = "Or ask an administrator to apply {} (`setup(write_settings=…)`; see docs/guides/platform-settings.md)."


def setup(location: str | None, context: Context, *, platform: bool = False) -> Flow[SetupReport]:
    """Create the bucket if it is missing, then write, read and delete a document and an object.

    With `platform`, also apply settings of the platform. If the platform refuses one, the report says so, and no error
    is raised.

    Raises:
        PermissionDeniedError: Documents or objects cannot be written.
        StoreNotFoundError: The database does not exist; or the bucket does not, and these credentials cannot create it.
    """
    done: list[str] = []
    missing: list[str] = []
    warnings: list[str] = []
    try:
        done.append((yield from EnsureBucket(location)))
    except PermissionDeniedError as error:
        # The saver needs no permission to look at the bucket. Writing the probe below decides.
        missing.append(str(error))
    if context.is_mirrored:
        yield from _look_at_mirror(context)
    probe = f"lg_setup/{context.new_attempt()}"
    blob = f"{keys.PROBES}/{context.new_attempt()}"
    content = probe.encode()
    yield from PutBlob(blob, content)
    try:
        if (yield from GetBlob(blob)) != content:
            raise StoreError(f"The object {blob!r} was written, but reads differently. Is the bucket transformed?")
    finally:
        yield from DeleteBlobs((blob,))
    both = " in both buckets" if context.is_mirrored else ""
    done.append(f"Objects can be written, read and deleted{both}.")
    yield from Commit((Merge(probe, {"probe": content}),))
    try:
        found = (yield from GetDocs((probe,))).get(probe)
        if found is None or found.fields.get("probe") != content:
            raise StoreError(f"The document {probe!r} was written, but reads differently.")
    finally:
        yield from Commit((Delete(probe),))
    done.append("Documents can be written, read and deleted.")
    bucket = yield from ReadBucket()
    if platform:
        bucket = yield from _lay_lifecycle(bucket, done, missing)
        yield from _exempt_fields(done, missing)
    files: dict[str, str] = {}
    if bucket is not None:
        files = provisioning.settings_files(bucket)
        warnings += _warnings("The bucket", bucket)
    mirror = (yield from InBucket(ReadBucket(), mirror=True)) if context.is_mirrored else None
    if mirror is not None:
        warnings += _warnings("The mirror", mirror)
        if bucket is not None and bucket.location == mirror.location != "":
            warnings.append(
                f"The bucket and its mirror are both in {mirror.location}, so one outage there affects both. "
                "Choose a mirror in another region."
            )
    return SetupReport(tuple(done), tuple(missing), tuple(warnings), files)


def _look_at_mirror(context: Context) -> Flow[None]:
    """Check that the mirror exists: it should be in another region, which only its owner can choose.

    Raises:
        StoreNotFoundError: There is no such bucket.
    """
    try:
        yield from InBucket(GetBlob(f"{keys.PROBES}/place"), mirror=True)
    except StoreNotFoundError as error:
        name = None if context.binding is None else context.binding.place.mirror
        raise StoreNotFoundError(
            f"The mirror {name!r} does not exist. Create it in another region than the bucket: `gcloud storage buckets"
            f" create gs://{name} --location=REGION --uniform-bucket-level-access --public-access-prevention`."
        ) from error


def _warnings(which: str, bucket: BucketSettings) -> list[str]:
    return [
        f"{which}'s lifecycle rule {json.dumps(dict(rule))} may delete objects that checkpoints need, because later "
        "steps build on old objects. Remove the rule, or exclude this prefix from it. To delete old data, use `prune` "
        "and `delete_thread`."
        for rule in provisioning.deleting(bucket)
    ]


def ping(context: Context) -> Flow[None]:
    """Query the database and read an object of each bucket, at the same time. None of them needs to exist.

    The database gets a query, because reading one missing document takes a second request to rule out a missing
    database.

    Raises:
        StoreError: The database, the bucket or its mirror is missing, denies access, or does not answer.
    """
    probe = GetBlob(f"{keys.PROBES}/ping")
    both = InBucket(probe, mirror=False), InBucket(probe, mirror=True)
    probes: tuple[Effect[Any], ...] = both if context.is_mirrored else (probe,)
    yield from Gather((QueryDocs(keys.THREADS, limit=1, mask=()), *probes))


def _lay_lifecycle(bucket: BucketSettings | None, done: list[str], missing: list[str]) -> Flow[BucketSettings | None]:
    """Add the lifecycle rules that the bucket lacks, and keep its own.

    Returns:
        The bucket's settings as last read.
    """
    by_hand = _BY_HAND.format(provisioning.LIFECYCLE_FILE)
    for _ in range(TRIES):
        if bucket is None:
            done.append("Objects are not stored in a bucket: there are no lifecycle rules to set.")
            return bucket
        if bucket.rules is None:
            missing.append(
                "The bucket's lifecycle rules cannot be read, and so were not changed. Grant the credentials the role "
                f"roles/storage.admin on the bucket. {by_hand} That file replaces all of the bucket's rules, so add "
                "the existing ones to it."
            )
            return bucket
        rules = provisioning.merged(bucket)
        if rules == bucket.rules:
            done.append("The bucket has the lifecycle rules.")
            return bucket
        try:
            laid = yield from SetLifecycle(rules, bucket.metageneration)
        except StoreError as error:
            missing.append(f"{_described(error)} {by_hand}")
            return bucket
        if laid:
            added = rules[len(bucket.rules) :]
            done.append(f"The bucket got the lifecycle rules {json.dumps([dict(rule) for rule in added])}.")
            return bucket
        bucket = yield from ReadBucket()
    missing.append(
        "Other programs kept changing the bucket's settings, so its lifecycle rules were not changed. Call again. "
        f"{by_hand}"
    )
    return bucket


def _exempt_fields(done: list[str], missing: list[str]) -> Flow[None]:
    """Exempt the large fields from single-field indexes, except where an administrator has chosen indexes for them."""
    pairs = provisioning.unindexed()
    try:
        found = yield from Gather(tuple(ReadIndexing(*pair) for pair in pairs))
        if None in found:
            done.append("The store of documents has no index settings: there are no fields to exempt.")
            return
        state = dict(zip(pairs, found, strict=True))
        for pair in [pair for pair, indexing in state.items() if indexing == "automatic"]:
            yield from ExemptField(*pair)
    except StoreError as error:
        missing.append(f"{_described(error)} {_BY_HAND.format(provisioning.INDEXES_FILE)}")
        return
    for indexing, what in (
        ("automatic", "Now exempt from single-field indexes"),
        ("exempt", "Exempt from single-field indexes already"),
        ("chosen", "Left with the indexes that an administrator chose"),
    ):
        names = [f"{collection}.{name}" for (collection, name), is_now in state.items() if is_now == indexing]
        if names:
            done.append(f"{what}: {', '.join(names)}.")


def _described(error: StoreError) -> str:
    """The error's message, with the service's own message if the error only refers to it."""
    return str(error) if isinstance(error, PermissionDeniedError) else f"{error} ({error.__cause__})"
