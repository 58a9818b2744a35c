"""Opens Google's stores with the caller's clients and credentials, or with those of the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import google.auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import firestore
from google.cloud.storage import Bucket, Client

from langgraph_gcs_saver.address import GoogleAddress
from langgraph_gcs_saver.engine.protocols import BlobStore
from langgraph_gcs_saver.errors import InvalidOptionError, InvalidURIError, PermissionDeniedError
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.stores.google import private
from langgraph_gcs_saver.stores.google.firestore import FirestoreDocuments
from langgraph_gcs_saver.stores.google.objects import GCSBlobs
from langgraph_gcs_saver.stores.google.retry import OnRetry

_EMULATOR_PROJECT = "langgraph-gcs-saver"
_TLS = "https://"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def open_google(
    address: GoogleAddress,
    options: Options,
    *,
    bucket: Bucket | str,
    firestore_client: firestore.Client | None,
    credentials: Credentials | None,
    on_retry: OnRetry | None = None,
    on_read: Callable[[ReadFromMirror], object],
) -> tuple[FirestoreDocuments, BlobStore]:
    """The two stores at an address.

    Args:
        address: Where the stores are.
        options: Timeouts and threads.
        bucket: A ready-made bucket, or a name.
        firestore_client: A ready-made client.
        credentials: Credentials for the clients that are created here; the environment's if not given. They are never
            sent in clear: if an emulator's variable is set, clients are anonymous, whatever is given.
        on_retry: Called before each further attempt of a request to either store.
        on_read: Called for each object that was read from the mirror.

    Raises:
        InvalidOptionError: The argument is not a client, or is a client for another project or database. Or nothing
            names a project.
        PermissionDeniedError: There are no credentials, or they cannot be read.
    """
    _check(address, firestore_client)
    made = firestore_client is None
    login = _Login(address, credentials)
    if isinstance(bucket, str):
        bucket = login.storage().bucket(bucket)
    if firestore_client is None:
        firestore_client = login.firestore(bucket.client.project)
    return (
        FirestoreDocuments(
            firestore_client,
            root=address.root or "",
            timeout=options.timeout,
            owns_client=made,
            on_retry=on_retry,
        ),
        _open_blobs(bucket, address, options, on_retry, on_read),
    )


def _open_blobs(
    bucket: Bucket,
    address: GoogleAddress,
    options: Options,
    on_retry: OnRetry | None,
    on_read: Callable[[ReadFromMirror], object],
) -> BlobStore:
    """The objects of a bucket, or of a bucket and its mirror. One client asks both, with the same credentials."""
    if address.mirror is None:
        return GCSBlobs(
            bucket,
            prefix=address.prefix,
            timeout=options.timeout,
            max_connections=options.max_threads,
            on_retry=on_retry,
        )
    from langgraph_gcs_saver.stores import mirrored  # noqa: PLC0415 - few stores have a mirror

    first, mirror = (
        GCSBlobs(
            one,
            prefix=address.prefix,
            timeout=options.timeout,
            read_timeout=read_timeout,
            max_connections=2 * options.max_threads,
            on_retry=on_retry,
        )
        for one, read_timeout in (
            (bucket, min(options.timeout, mirrored.READ_SECONDS)),
            (bucket.client.bucket(address.mirror, user_project=bucket.user_project), options.timeout),
        )
    )
    return mirrored.MirroredBlobs(first, mirror, max_threads=options.max_threads, on_read=on_read)


def resolved(address: GoogleAddress, documents: FirestoreDocuments) -> GoogleAddress:
    """An address with the project and the database of its client, which may be the environment's or the caller's."""
    return replace(address, project=documents.project, database=documents.database)


def open_storage() -> Client:
    """A client for objects of any bucket, with the credentials of the environment.

    Raises:
        PermissionDeniedError: There are no credentials, or they cannot be read.
    """
    return _Login(GoogleAddress(bucket="any"), None).storage()  # the login uses the project of an address only


def bucket_name(bucket: Bucket | str) -> str:
    """The name of a bucket that a caller gave.

    Raises:
        InvalidOptionError: The argument is not a bucket or a name.
        InvalidURIError: The argument is a connection string.
    """
    if isinstance(bucket, str):
        if "://" in bucket:
            raise InvalidURIError(
                "The bucket is a connection string, and GCSSaver needs a bucket's name. Open the string with "
                "GCSSaver.from_conn_string(…)."
            )
        return bucket
    if not isinstance(bucket, Bucket):
        raise InvalidOptionError(
            f"bucket is of type {type(bucket).__name__}. It must be a google.cloud.storage.Bucket, or a bucket's name."
        )
    return str(bucket.name)


def _check(address: GoogleAddress, client: object) -> None:
    if client is None:
        return
    if not isinstance(client, firestore.Client):
        raise InvalidOptionError(
            f"firestore is of type {type(client).__name__}. It must be a google.cloud.firestore.Client. Asynchronous "
            "calls use it too: their channels are created like its own."
        )
    database = private.database_id(client)
    # The default cannot be distinguished from a database that the caller named.
    if address.project not in {None, client.project} or address.database not in {"(default)", database}:
        raise InvalidOptionError(
            f"The client given as firestore is for the database {database!r} of project "
            f"{client.project!r}, but the arguments are project={address.project!r} and "
            f"database={address.database!r}. Pass either the client or these arguments."
        )


class _Login:
    """The credentials and the project of the clients that are created here, looked up when a client needs them.

    Google's clients look up both in one call, and the error of that call does not say which one is missing.

    Args:
        address: The project, if the caller named one.
        credentials: The caller's credentials, if given.
    """

    def __init__(self, address: GoogleAddress, credentials: Credentials | None) -> None:
        self._address = address
        self._given = credentials

    def storage(self) -> Client:
        """A client for Cloud Storage, which needs no project to use a bucket that exists."""
        project = self._address.project
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        host = emulator or os.environ.get("API_ENDPOINT_OVERRIDE", _TLS)  # as Google's client does
        # Credentials are never sent in clear. An emulator gets them only over TLS, if the caller passed them.
        if not host.startswith(_TLS) or (emulator and self._given is None):
            return Client(project=project or self._emulated_project(), credentials=AnonymousCredentials())
        credentials = self._credentials()
        return Client(project=project or self._project(), credentials=credentials)

    def firestore(self, of_bucket: str | None) -> firestore.Client:
        """A client for the database. If no project is named, the project is that of the bucket's client."""
        address = self._address
        if os.environ.get("FIRESTORE_EMULATOR_HOST"):  # in clear, and Google's client would send an id token
            project = address.project or self._emulated_project()
            return firestore.Client(project=project, database=address.database, credentials=AnonymousCredentials())
        credentials = self._credentials()
        named = address.project or of_bucket or self._project()
        if named is None:
            raise InvalidOptionError(
                f"Nothing names the Google Cloud project of the Firestore database {address.database!r}. Add "
                "`?project=PROJECT` to the connection string, pass `project=`, or set the environment variable "
                "GOOGLE_CLOUD_PROJECT."
            )
        return firestore.Client(project=named, database=address.database, credentials=credentials)

    def _emulated_project(self) -> str:
        return str(getattr(self._given, "project_id", None) or _EMULATOR_PROJECT)

    @cached_property
    def _environment(self) -> tuple[Credentials, str | None]:
        found: tuple[Credentials, str | None] = google.auth.default(scopes=(_SCOPE,))
        return found

    def _credentials(self) -> Credentials:
        if self._given is not None:
            return self._given
        try:
            return self._environment[0]
        except (GoogleAuthError, OSError) as error:
            raise PermissionDeniedError(
                f"No usable Google Cloud credentials were found ({error}). Run `gcloud auth application-default login`"
                ", run as a service account that has roles/datastore.user and roles/storage.objectUser, or pass "
                "`credentials=`."
            ) from error

    def _project(self) -> str | None:
        """The project that the environment or the credentials name; `None` if neither names one."""
        named = os.environ.get("GOOGLE_CLOUD_PROJECT") or getattr(self._given, "project_id", None)
        if named:
            return str(named)
        try:
            return self._environment[1]
        except (GoogleAuthError, OSError):
            return None  # without credentials the environment names no project either
