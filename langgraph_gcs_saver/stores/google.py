"""Opening Google's stores: clients from what the caller gave, or from the environment."""

from __future__ import annotations

import os

from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import firestore
from google.cloud.storage import Bucket, Client

from langgraph_gcs_saver.errors import InvalidOptionError, PermissionDeniedError
from langgraph_gcs_saver.options import GoogleAddress, Options
from langgraph_gcs_saver.stores.firestore import FirestoreDocuments
from langgraph_gcs_saver.stores.gcs import GCSBlobs

_EMULATOR_PROJECT = "langgraph-gcs-saver"


def open_google(
    address: GoogleAddress,
    options: Options,
    *,
    bucket: Bucket | str,
    firestore_client: firestore.Client | None,
    credentials: Credentials | None,
) -> tuple[FirestoreDocuments, GCSBlobs]:
    """The two stores at an address.

    Args:
        address: Where they are.
        options: Timeouts and threads.
        bucket: A ready-made bucket, or a name.
        firestore_client: A ready-made client.
        credentials: Credentials for the clients that are made here; the environment's if not given. Where an emulator's
            variable is set, anonymous ones.

    Raises:
        InvalidOptionError: What was given is no client, or one for another project or database.
        PermissionDeniedError: There are no credentials.
    """
    _check(address, firestore_client)
    made = firestore_client is None
    try:
        if isinstance(bucket, str):
            bucket = _storage_client(address, credentials).bucket(bucket)
        if firestore_client is None:
            firestore_client = _firestore_client(address, credentials, bucket)
    except (GoogleAuthError, OSError) as error:
        # Without a project google-cloud raises OSError ("Project was not passed …").
        raise PermissionDeniedError(
            f"There are no usable Google Cloud credentials or no project ({error}). Run `gcloud auth "
            "application-default login`, or give the service account of this machine roles/datastore.user and "
            "roles/storage.objectUser, and name the project in the connection string (`?project=…`)."
        ) from error
    return (
        FirestoreDocuments(firestore_client, root=address.root or "", timeout=options.timeout, owns_client=made),
        GCSBlobs(bucket, prefix=address.prefix, timeout=options.timeout, max_connections=options.max_threads),
    )


def bucket_name(bucket: Bucket | str) -> str:
    """The name of a bucket that a caller gave.

    Raises:
        InvalidOptionError: It is none.
    """
    if isinstance(bucket, str):
        return bucket
    if not isinstance(bucket, Bucket):
        raise InvalidOptionError(
            f"bucket is of type {type(bucket).__name__}; it must be a google.cloud.storage.Bucket, or its name."
        )
    return str(bucket.name)


def _check(address: GoogleAddress, client: object) -> None:
    if client is None:
        return
    if not isinstance(client, firestore.Client):
        raise InvalidOptionError(
            f"firestore is of type {type(client).__name__}; it must be a google.cloud.firestore.Client. Asynchronous "
            "calls use it as well: their channels are made like its own."
        )
    # The default cannot be told from a database that was named.
    if address.project not in {None, client.project} or address.database not in {"(default)", client._database}:  # noqa: SLF001
        raise InvalidOptionError(
            f"The client given as firestore is for the database {client._database!r} of project "  # noqa: SLF001
            f"{client.project!r}, but project={address.project!r} and database={address.database!r} were asked for. "
            "Leave them out, or the client."
        )


def _storage_client(address: GoogleAddress, credentials: Credentials | None) -> Client:
    if os.environ.get("STORAGE_EMULATOR_HOST") and credentials is None:
        return Client(project=address.project or _EMULATOR_PROJECT, credentials=AnonymousCredentials())
    return Client(project=address.project, credentials=credentials)


def _firestore_client(address: GoogleAddress, credentials: Credentials | None, bucket: Bucket) -> firestore.Client:
    if os.environ.get("FIRESTORE_EMULATOR_HOST") and credentials is None:
        project, credentials = address.project or _EMULATOR_PROJECT, AnonymousCredentials()
    else:
        project = address.project or bucket.client.project
    return firestore.Client(project=project, database=address.database, credentials=credentials)
