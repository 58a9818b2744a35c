"""What Cloud Storage says about objects of any bucket: generation, checksum and size, without their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.errors import InvalidInputError, PermissionDeniedError, StoreUnavailableError
from langgraph_gcs_saver.stores.google import clients

_client = PerProcess(clients.open_storage)


def look(uri: str, timeout: float) -> Mapping[str, Any] | Exception | None:
    """What there is at `gs://BUCKET/OBJECT`: facts, nothing, or why it is not known."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket or not name:
        return InvalidInputError("the URI has another form than gs://BUCKET/OBJECT")
    try:
        # Our caller waits for a time that is shorter than the client's own retries.
        found = _client.get().bucket(bucket).get_blob(name, timeout=timeout, retry=None)
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError, PermissionDeniedError) as error:
        return PermissionDeniedError(f"these credentials may not see the object ({type(error).__name__})")
    except (exceptions.GoogleAPIError, requests.RequestException, ConnectionError, ValueError) as error:
        return StoreUnavailableError(f"Cloud Storage did not say what is there ({type(error).__name__})")
    return None if found is None else {"generation": found.generation, "crc32c": found.crc32c, "size": found.size}
