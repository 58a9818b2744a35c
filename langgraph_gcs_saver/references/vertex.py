"""Vectors in Vertex AI Vector Search."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import requests

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.references.checkers import TIMEOUT, each
from langgraph_gcs_saver.stores.google.retry import Patience
from langgraph_gcs_saver.stores.google.vectors import UnknownIdError, VertexEndpoint

T = TypeVar("T")

AT_A_TIME = 100
"""Vectors of a request. As JSON, 100 vectors of 3,072 numbers are about 6 MB.

The service reads at most 1,000 in a request; see
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.indexEndpoints/readIndexDatapoints. It
documents no limit for writes.
"""

_SIZES = (AT_A_TIME, 10, 1)
"""How many vectors a request reads, at first and if one of them is missing.

A missing vector fails the whole request, without saying which one is missing:
https://github.com/googleapis/python-aiplatform/issues/2854. With these sizes, one missing vector costs 20 requests
more, and no number of them costs more than 1.11 requests for each.
"""


class VertexVectors:
    """A `VectorSearch` in Vertex AI Vector Search.

    The index must allow streaming updates, and its endpoint must be public. The credentials need the permissions
    `aiplatform.indexes.update`, `aiplatform.indexEndpoints.get` and `aiplatform.indexEndpoints.queryVectors`. A vector
    that was just stored or deleted may take some seconds to become visible.

    A request that fails for a passing reason is repeated. All methods raise these errors:

    - `PermissionDeniedError`: there are no credentials, or they lack a permission.
    - `StoreNotFoundError`: there is no such endpoint, or the index is not deployed to it.
    - `StoreUnavailableError`: Vertex AI did not answer in time.
    - `InvalidInputError`: Vertex AI rejects the request, for example because vectors have the wrong length.

    Args:
        endpoint: The name of the index endpoint: `projects/PROJECT/locations/LOCATION/indexEndpoints/ENDPOINT`.
        deployed_index: The id of the index at this endpoint.
        session: Sends the requests, with authorization, and is used by several threads. If not given, an
            `AuthorizedSession` of google-auth with the credentials of the environment.
        timeout: Seconds for a call, with its retries.

    Raises:
        InvalidInputError: The name has another form, or the timeout is not positive.
    """

    def __init__(
        self, endpoint: str, deployed_index: str, *, session: requests.Session | None = None, timeout: float = TIMEOUT
    ) -> None:
        if not timeout > 0:
            raise InvalidInputError(f"timeout is {timeout!r}; it must be a positive number of seconds.")
        self._endpoint = VertexEndpoint(endpoint, deployed_index, session)
        self._timeout = timeout

    def put(self, vectors: Mapping[str, Sequence[float]], /) -> None:
        """Store vectors by their ids, in place of former ones and of their restricts and crowding tags.

        If this raises, some of the vectors may be stored. Call it again with the same ones.
        """
        points = [{"datapointId": one, "featureVector": _numbers(vector)} for one, vector in vectors.items()]
        call = _Call(self._timeout)
        for part in _parts(points, AT_A_TIME):
            self._endpoint.write("upsertDatapoints", {"datapoints": part}, "to store vectors", call.patience())

    def get(self, ids: Sequence[str], /) -> dict[str, tuple[float, ...]]:
        """The vectors with these ids, without those that are not there."""
        call = _Call(self._timeout)
        found: dict[str, tuple[float, ...]] = {}
        left = list(dict.fromkeys(ids))
        for size in _SIZES:
            parts, left = _parts(left, size), []
            for part, answer in each(lambda part: self._endpoint.read(part, call.patience()), parts):
                if isinstance(answer, UnknownIdError):
                    left.extend(part)
                elif isinstance(answer, Exception):
                    raise answer
                else:
                    found.update(answer)
            if not left:
                return found
        # An index that was undeployed meanwhile gives the same answers. Then nothing is known about its vectors.
        self._endpoint.find(call.patience())
        return found

    def exists(self, ids: Sequence[str], /) -> frozenset[str]:
        """Those of the ids that are there. The service has no cheaper way to find out than to read the vectors."""
        return frozenset(self.get(ids))

    def delete(self, ids: Sequence[str], /) -> None:
        """Delete vectors. Ids that are not there are ignored."""
        call = _Call(self._timeout)
        for part in _parts(list(dict.fromkeys(ids)), AT_A_TIME):
            self._endpoint.write("removeDatapoints", {"datapointIds": part}, "to delete vectors", call.patience())


class _Call:
    """The time of a call, whose requests may be sent by several threads.

    Args:
        seconds: How long it may take.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def patience(self) -> Patience:
        """What is left of it, for a request."""
        return Patience("Vertex AI", max(0.0, self._end - time.monotonic()))


def _numbers(vector: Sequence[float]) -> list[float]:
    numbers = [float(one) for one in vector]
    if not all(map(math.isfinite, numbers)):
        raise InvalidInputError("A vector has a number that is infinite or NaN. No vector was stored.")
    return numbers


def _parts(whole: Sequence[T], size: int) -> list[Sequence[T]]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]
