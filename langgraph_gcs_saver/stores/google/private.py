"""Every private name of Google's packages that this library touches.

These names have no public equivalent. Each function's docstring says what it reads. If a release lacks the name, the
error includes that docstring and the release. tests/unit/test_private.py tries each name on the installed release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from google.api_core.client_options import ClientOptions
from google.cloud import firestore, storage

from langgraph_gcs_saver.errors import StoreError

if TYPE_CHECKING:
    import grpc
    import requests
    from google.auth.credentials import Credentials

P = ParamSpec("P")
T = TypeVar("T")


def _of(package: ModuleType) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that reads private names of a package, to raise a clear error if a name is missing."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def read(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except (AttributeError, TypeError) as error:
                name = package.__name__.replace(".", "-")
                raise StoreError(
                    f"{name} {package.__version__} is not supported by this release of langgraph-gcs-saver: {error}. "
                    f"It needs: {(function.__doc__ or '').splitlines()[0]} Install an earlier release of {name}, "
                    "or a later one of langgraph-gcs-saver."
                ) from error

        return read

    return decorate


# google-cloud-firestore


@_of(firestore)
def database_id(client: firestore.Client) -> str:
    """The id of a client's database."""
    name: str = client._database
    return name


@_of(firestore)
def database_path(client: firestore.Client) -> str:
    """The path of a client's database, which is the prefix of its documents' names."""
    path: str = client._database_string
    return path


@_of(firestore)
def headers(client: firestore.Client) -> tuple[tuple[str, str], ...]:
    """The headers that a client sends with each request: the database, the emulator's token, and the client's name."""
    return (*client._rpc_metadata, client._client_info.to_grpc_metadata())


@_of(firestore)
def emulator(client: firestore.Client) -> str | None:
    """The address of the emulator that a client was created for."""
    host: str | None = client._emulator_host
    return host


@_of(firestore)
def target(client: firestore.Client) -> str:
    """The address of the service that a client was created for."""
    address: str = client._target
    return address


@_of(firestore)
def credentials(client: firestore.Client) -> Credentials:
    """The credentials of a client, for channels of event loops."""
    found: Credentials = client._credentials
    return found


@_of(firestore)
def channel(client: firestore.Client) -> grpc.Channel:
    """The channel of a client that the caller created and also uses."""
    found: grpc.Channel = client._firestore_api.transport.grpc_channel
    return found


@_of(firestore)
def twin(client: firestore.Client) -> firestore.Client:
    """A new client for the same database, with the same credentials and options, for a forked process."""
    found = firestore.Client(
        project=client.project,
        credentials=client._credentials,
        database=client._database,
        client_info=client._client_info,
        client_options=client._client_options,
    )
    found._emulator_host = client._emulator_host  # the environment variable may have changed since
    return found


# google-cloud-storage


@_of(storage)
def api_address(client: storage.Client) -> str:
    """The address of the service that a client was created for."""
    address: str = client._connection.API_BASE_URL
    return address


@_of(storage)
def session(client: storage.Client) -> requests.Session:
    """A client's session, whose connection pool must fit the saver's threads and is closed with the saver."""
    found: requests.Session = client._http
    return found


@_of(storage)
def own(client: storage.Client, session: requests.Session | None) -> storage.Client:
    """A client of the saver's own, with the credentials, project and address of the caller's client.

    Args:
        client: The caller's client.
        session: The session to use; `None` for a new one.
    """
    found = storage.Client(
        project=client.project,
        credentials=client._credentials,
        _http=session,
        client_info=client._initial_client_info,
        client_options=ClientOptions(
            api_endpoint=client._connection.API_BASE_URL,
            universe_domain=client.universe_domain,
            client_cert_source=client._client_cert_source,
        ),
        extra_headers=client._extra_headers,
    )
    found._connection.ALLOW_AUTO_SWITCH_TO_MTLS_URL = client._connection.ALLOW_AUTO_SWITCH_TO_MTLS_URL
    # From version 3.17 on, the client reads the bucket's metadata on threads of its own, to label traces. The requests
    # ignore our deadline, outlive `close`, and need a permission that roles/storage.objectUser does not give.
    found._bucket_metadata_cache = None
    return found


@_of(storage)
def lifecycle(bucket: storage.Bucket) -> tuple[Mapping[str, Any], ...]:
    """All lifecycle rules of a bucket. `lifecycle_rules` omits rules of kinds that the client does not know."""
    return tuple(bucket._properties.get("lifecycle", {}).get("rule", ()))
