"""What the sinks of Google's services have in common: clients for each process, and errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from langgraph_gcs_saver.analytics.base import RowSink
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.errors import (
    GCSSaverError,
    PermissionDeniedError,
    StoreError,
    StoreNotFoundError,
    StoreUnavailableError,
)

T = TypeVar("T")

_TRANSIENT = (
    api.ServerError,  # 5xx: unavailable, a deadline, internal
    api.TooManyRequests,
    api.Aborted,
    api.Cancelled,
    auth.TransportError,
    ConnectionError,
)


class ServiceSink(RowSink[T]):
    """A sink whose rows go to a service of Google.

    Args:
        client: A client to use. By default each process makes its own, with the credentials of its environment.
        endpoint: `host:port` of an emulator, which is called without TLS and credentials.
        options: See `RowSink`.

    Attributes:
        where: What rows are written to, for messages.
        role: The role that it takes.
    """

    where: str
    role: str

    def __init__(self, client: Any, endpoint: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._clients: PerProcess[Any] = PerProcess(
            lambda: (
                self.connect(None if endpoint is None else grpc.insecure_channel(endpoint))
                if client is None
                else client
            )
        )

    @abstractmethod
    def connect(self, channel: grpc.Channel | None) -> Any:
        """A client; on the channel to an emulator, if there is one."""

    def call(self, request: Callable[[Any], None]) -> None:
        """Make a request.

        Raises:
            GCSSaverError: It failed. `StoreUnavailableError` if it may succeed later.
        """
        try:
            request(self._clients.get())
        except (api.GoogleAPIError, auth.GoogleAuthError, ConnectionError) as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> GCSSaverError:
        """An error that says what to do."""
        if isinstance(error, _TRANSIENT):
            return StoreUnavailableError(f"{self.where} did not accept rows: {error}. They are sent again.")
        if isinstance(error, api.NotFound):
            return StoreNotFoundError(f"{self.where} does not exist. Create it.")
        if isinstance(error, (api.Forbidden, api.Unauthorized, auth.GoogleAuthError)):
            return PermissionDeniedError(
                f"These credentials may not write to {self.where}. Grant them {self.role}: {error}"
            )
        return StoreError(f"{self.where} did not accept rows: {error}")
