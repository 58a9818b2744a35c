"""What the web says about a URL, by `HEAD`: no content is transferred."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import requests

from langgraph_gcs_saver.errors import InvalidInputError, PermissionDeniedError, StoreUnavailableError

_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_FORBIDDEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_FACTS = {"etag": "ETag", "last_modified": "Last-Modified", "length": "Content-Length"}


def look(url: str, timeout: float) -> Mapping[str, Any] | Exception | None:
    """What there is at a URL: facts, nothing, or why it is not known."""
    try:
        with _Session() as session:
            answer = session.head(url, allow_redirects=True, timeout=timeout, auth=_without_password)
    except (requests.RequestException, ValueError) as error:  # urllib3 has errors that requests does not translate
        if isinstance(error, ValueError):
            return InvalidInputError(f"no request can be made of the URL ({type(error).__name__})")
        return StoreUnavailableError(f"the server did not answer ({type(error).__name__})")
    status = answer.status_code
    if status in _GONE:
        return None
    if status in _FORBIDDEN:
        return PermissionDeniedError(f"the server does not show it to this process (status {status})")
    if not answer.ok:
        return StoreUnavailableError(f"the server answered with status {status}")
    return {key: answer.headers[name] for key, name in _FACTS.items() if name in answer.headers}


class _Session(requests.Session):
    """Sends the passwords of a `.netrc` file neither to hosts that a state names, nor to those that redirects name."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Add no password after a redirect."""


def _without_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
