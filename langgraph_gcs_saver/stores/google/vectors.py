"""Requests to Vertex AI Vector Search, by its REST interface, so that no other package is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import google.auth
import requests
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession

from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.errors import (
    InvalidInputError,
    PermissionDeniedError,
    StoreNotFoundError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.stores.google.retry import Patience, TryAgain

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ENDPOINT = re.compile(r"projects/[^/?#]+/locations/(?P<location>[a-z0-9-]+)/indexEndpoints/[^/?#]+")
_HEADERS = {"Content-Type": "application/json"}
_TRANSIENT = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_FORBIDDEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class UnknownIdError(LookupError):
    """One of the ids that a request reads is not there; or the index is not, which gives the same answer."""


class DeployedIndex(NamedTuple):
    """Where the vectors are.

    Attributes:
        name: The name of the index, to which they are written.
        url: The URL of its deployment, from which they are read.
    """

    name: str
    url: str


class VertexEndpoint:
    """An index endpoint of Vertex AI, and one of the indexes that are deployed to it.

    Each method raises `PermissionDeniedError`, `StoreNotFoundError`, `StoreUnavailableError` and `InvalidInputError`.

    Args:
        name: `projects/PROJECT/locations/LOCATION/indexEndpoints/ENDPOINT`.
        deployed: The id of the deployed index.
        session: Sends the requests; with the credentials of the environment if not given.

    Raises:
        InvalidInputError: The name has another form.
    """

    def __init__(self, name: str, deployed: str, session: requests.Session | None) -> None:
        named = _ENDPOINT.fullmatch(name)
        if named is None:
            raise InvalidInputError(
                f"endpoint is {name!r}; it must be projects/PROJECT/locations/LOCATION/indexEndpoints/ENDPOINT."
            )
        self._service = f"https://{named['location']}-aiplatform.googleapis.com/v1"
        self._name = name
        self._deployed = deployed
        self._session = PerProcess(_authorized if session is None else lambda: session)
        self._found: DeployedIndex | None = None

    def find(self, patience: Patience) -> DeployedIndex:
        """Find the index, with a request."""
        try:
            seen = self._send("GET", f"{self._service}/{self._name}", None, "to find the index", patience)
        except UnknownIdError as error:
            raise StoreNotFoundError(f"Vertex AI has no index endpoint {self._name!r}.") from error
        index = next((one["index"] for one in seen.get("deployedIndexes", ()) if one.get("id") == self._deployed), None)
        if index is None:
            raise StoreNotFoundError(
                f"No index {self._deployed!r} is deployed to the endpoint {self._name!r}. "
                "`gcloud ai index-endpoints describe` lists the deployed ones."
            )
        domain = seen.get("publicEndpointDomainName")
        if not domain:
            raise InvalidInputError(
                f"The endpoint {self._name!r} is not public, so its vectors cannot be read by REST. Deploy the index "
                "to a public endpoint, or write an adapter for your network."
            )
        self._found = DeployedIndex(index, f"https://{domain}/v1/{self._name}")
        return self._found

    def write(self, method: str, body: Mapping[str, Any], what: str, patience: Patience) -> None:
        """Change the index.

        Args:
            method: `upsertDatapoints` or `removeDatapoints`.
            body: What it takes.
            what: The purpose, for messages, such as "to store vectors".
            patience: The time of the call.
        """
        index = (self._found or self.find(patience)).name
        try:
            self._send("POST", f"{self._service}/{index}:{method}", body, what, patience)
        except UnknownIdError as error:
            raise StoreNotFoundError(f"Vertex AI has no index {index!r} any longer. Check the endpoint.") from error

    def read(self, ids: Sequence[str], patience: Patience) -> dict[str, tuple[float, ...]]:
        """Vectors by their ids.

        Raises:
            UnknownIdError: One of them is not there. The service does not say which one.
        """
        url = (self._found or self.find(patience)).url
        body = {"deployedIndexId": self._deployed, "ids": ids}
        seen = self._send("POST", f"{url}:readIndexDatapoints", body, "to read vectors", patience)
        return {
            one["datapointId"]: tuple(map(float, one.get("featureVector", ()))) for one in seen.get("datapoints", ())
        }

    def _send(
        self, method: str, url: str, body: Mapping[str, Any] | None, what: str, patience: Patience
    ) -> Mapping[str, Any]:
        data = None if body is None else json.dumps(body)

        def attempt(seconds: float) -> Mapping[str, Any]:
            try:
                answer = self._session.get().request(
                    method, url, data=data, headers=_HEADERS, timeout=seconds, allow_redirects=False
                )
            except (requests.RequestException, TransportError) as error:
                raise TryAgain(type(error).__name__) from error
            except GoogleAuthError as error:
                raise PermissionDeniedError(f"Vertex AI did not accept the credentials ({error}).") from error
            return _content(answer, what)

        return patience.perform(method, what, attempt)


def _authorized() -> requests.Session:
    try:
        credentials, _ = google.auth.default(scopes=(_SCOPE,))
    except (GoogleAuthError, OSError) as error:
        raise PermissionDeniedError(
            f"No usable Google Cloud credentials were found ({error}). Run `gcloud auth application-default login`, or "
            "pass `session=`."
        ) from error
    session: requests.Session = AuthorizedSession(credentials)
    return session


def _content(answer: requests.Response, what: str) -> Mapping[str, Any]:
    """The JSON of an answer."""
    status, found = answer.status_code, _json(answer)
    if status == HTTPStatus.OK:
        if not isinstance(found, Mapping):
            raise StoreUnavailableError(f"Vertex AI did not answer a request {what} with JSON. Try again.")
        return found
    cause, word = exceptions.from_http_response(answer), _word(found)
    if status in _TRANSIENT:
        raise TryAgain(f"status {status}") from cause
    if status in _FORBIDDEN:
        raise PermissionDeniedError(
            f"The credentials do not allow a request {what} (status {status}). The documentation of VertexVectors "
            "lists the permissions."
        ) from cause
    if status == HTTPStatus.NOT_FOUND and word == "NOT_FOUND":
        raise UnknownIdError(what) from cause
    raise InvalidInputError(
        f"Vertex AI rejected a request {what} (status {status} {word}). Check the length of the vectors, and that the "
        "index allows streaming updates."
    ) from cause


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _word(found: Any) -> str:
    """What the service calls an error, such as `INVALID_ARGUMENT`; empty if another server has answered."""
    try:
        return str(found["error"]["status"])
    except (LookupError, TypeError):
        return ""
