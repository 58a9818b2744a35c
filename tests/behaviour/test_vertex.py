"""Vectors in Vertex AI Vector Search, on its REST interface."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials
from requests.adapters import HTTPAdapter

from langgraph_gcs_saver import VectorSearch, references
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.references import InMemoryVectors, checkers
from langgraph_gcs_saver.references.vertex import AT_A_TIME, VertexVectors
from tests.emulators.vertex import DEPLOYED, ENDPOINT, Vertex, error, serving

MANY = {f"doc-{number}": (float(number), 0.5) for number in range(2 * AT_A_TIME + 50)}


@pytest.fixture
def served() -> Iterator[tuple[Vertex, HTTPAdapter]]:
    with serving() as found:
        yield found


@pytest.fixture
def vertex(served: tuple[Vertex, HTTPAdapter]) -> Vertex:
    return served[0]


def session(adapter: HTTPAdapter, credentials: Any) -> AuthorizedSession:
    made = AuthorizedSession(credentials)
    made.mount("https://", adapter)
    return made


@pytest.fixture
def index(served: tuple[Vertex, HTTPAdapter]) -> VertexVectors:
    return VertexVectors(ENDPOINT, DEPLOYED, session=session(served[1], AnonymousCredentials()))


def behave_as_the_protocol_says(index: VectorSearch) -> None:
    index.put({})
    index.put({"a": [1, 2.5], "b": (3, 4)})
    index.put({"b": [0.5, 0.5]})
    assert index.get(["a", "b", "a", "none"]) == {"a": (1.0, 2.5), "b": (0.5, 0.5)}
    assert index.get([]) == {}
    assert set(index.exists(["none", "a"])) == {"a"}
    index.delete(["b", "none", "b"])
    index.delete([])
    assert index.get(["b"]) == {}
    assert set(index.exists(["a", "b"])) == {"a"}


def test_it_behaves_as_the_one_in_memory(index: VertexVectors) -> None:
    behave_as_the_protocol_says(InMemoryVectors())
    behave_as_the_protocol_says(index)


def test_many_vectors_go_in_parts(vertex: Vertex, index: VertexVectors) -> None:
    index.put(MANY)
    assert index.get(list(MANY)) == MANY
    index.delete(list(MANY))
    assert vertex.points == {}
    expected = {"GET": 1, "upsertDatapoints": 3, "readIndexDatapoints": 3, "removeDatapoints": 3}
    assert Counter(vertex.asked) == expected


@pytest.mark.parametrize(("missing", "reads"), [(1, 3 + 10 + 10), (5, 3 + 10 + 10), (250, 3 + 25 + 250)])
def test_missing_vectors_are_found_in_few_requests(
    vertex: Vertex, index: VertexVectors, missing: int, reads: int
) -> None:
    index.put(MANY)
    gone = list(MANY)[:missing]
    index.delete(gone)
    vertex.asked.clear()
    assert index.get(list(MANY)) == {one: MANY[one] for one in MANY if one not in gone}
    assert Counter(vertex.asked) == {"readIndexDatapoints": reads, "GET": 1}


def test_a_service_that_leaves_out_what_is_missing(vertex: Vertex, index: VertexVectors) -> None:
    index.put({"a": [1, 2]})
    vertex.fail = [(200, {"datapoints": [{"datapointId": "a", "featureVector": [1, 2]}]})]
    assert index.get(["a", "b"]) == {"a": (1.0, 2.0)}
    vertex.fail = [(200, {})]
    assert index.get(["b"]) == {}


def test_nothing_is_missing_in_an_index_that_was_undeployed(vertex: Vertex, index: VertexVectors) -> None:
    index.put({"a": [1, 2]})
    assert index.exists(["a"])
    vertex.deployed = vertex.deployed[:1]
    with pytest.raises(e.StoreNotFoundError, match="No index 'docs_v1' is deployed to the endpoint"):
        index.exists(["a"])


def test_passing_errors_are_retried_and_others_are_not(vertex: Vertex, index: VertexVectors) -> None:
    index.put({"a": [1, 2]})
    vertex.fail = [(429, {}), (503, b"not JSON")]
    assert index.get(["a"]) == {"a": (1.0, 2.0)}
    vertex.asked.clear()
    vertex.fail = [error(400, "FAILED_PRECONDITION")]
    with pytest.raises(e.InvalidInputError, match="status 400 FAILED_PRECONDITION"):
        index.put({"a": [1, 2]})
    assert vertex.asked == ["upsertDatapoints"]


CALLS: list[Callable[[VertexVectors], object]] = [
    lambda index: index.put({"a": [1, 2]}),
    lambda index: index.get(["a"]),
    lambda index: index.exists(["a"]),
    lambda index: index.delete(["a"]),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (error(403, "PERMISSION_DENIED"), e.PermissionDeniedError),
        (error(401, "UNAUTHENTICATED"), e.PermissionDeniedError),
        ((404, b"<html>a proxy</html>"), e.InvalidInputError),
        (error(404, "UNIMPLEMENTED"), e.InvalidInputError),
        ((302, {}), e.InvalidInputError),
        ((200, b"<html>a portal</html>"), e.StoreUnavailableError),
        ((200, []), e.StoreUnavailableError),
    ],
)
def test_errors_have_types(
    vertex: Vertex, index: VertexVectors, call: Callable[[VertexVectors], object], answer: Any, raised: type[Exception]
) -> None:
    index.put({"a": [1, 2]})
    vertex.fail = [answer]
    with pytest.raises(raised):
        call(index)


def test_an_endpoint_that_cannot_be_used(vertex: Vertex, index: VertexVectors) -> None:
    vertex.fail = [error(404, "NOT_FOUND")]
    with pytest.raises(e.StoreNotFoundError, match="has no index endpoint"):
        index.get(["a"])
    vertex.domain = None
    with pytest.raises(e.InvalidInputError, match="is not public"):
        index.put({"a": [1, 2]})
    vertex.domain = "host.example"
    index.put({"a": [1, 2]})
    assert index.exists(["a"])
    vertex.fail = [error(404, "NOT_FOUND")]
    with pytest.raises(e.StoreNotFoundError, match="has no index 'projects/1"):
        index.put({"a": [1, 2]})


def test_arguments_are_checked(vertex: Vertex, index: VertexVectors) -> None:
    for name in ("8", "projects/1/locations/x.example/indexEndpoints/8", f"{ENDPOINT}/x", f"{ENDPOINT}?x"):
        with pytest.raises(e.InvalidInputError, match="endpoint is"):
            VertexVectors(name, DEPLOYED)
    with pytest.raises(e.InvalidInputError, match="timeout is 0"):
        VertexVectors(ENDPOINT, DEPLOYED, timeout=0)
    with pytest.raises(e.InvalidInputError, match="infinite or NaN"):
        index.put({"a": [1, float("nan")]})
    assert vertex.asked == []
    with pytest.raises(e.InvalidInputError, match="Check the length"):
        index.put({"a": [1, 2, 3]})


def test_a_server_that_does_not_answer(vertex: Vertex, served: tuple[Vertex, HTTPAdapter]) -> None:
    anonymous = session(served[1], AnonymousCredentials())
    index = VertexVectors(ENDPOINT, DEPLOYED, session=anonymous, timeout=0.2)  # clock: it is to pass
    stop, answer = threading.Event(), vertex.answer
    vertex.answer = lambda *request: (stop.wait(), answer(*request))[1]  # type: ignore[method-assign]
    try:
        with pytest.raises(e.StoreUnavailableError, match="Vertex AI did not manage to find the index"):
            index.get(["a"])
    finally:
        stop.set()


def test_requests_are_authorized(
    vertex: Vertex, served: tuple[Vertex, HTTPAdapter], tmp_path: Any, monkeypatch: Any
) -> None:
    index = VertexVectors(ENDPOINT, DEPLOYED, session=session(served[1], Credentials("a-token")))
    index.put({"a": [1, 2]})
    index.get(["a"])
    assert vertex.authorized == ["Bearer a-token"] * 3
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with pytest.raises(e.PermissionDeniedError, match="No usable Google Cloud credentials"):
        VertexVectors(ENDPOINT, DEPLOYED).get(["a"])


def test_threads_share_one(vertex: Vertex, index: VertexVectors) -> None:
    def use(number: int) -> bool:
        index.put({f"doc-{number}": [number, 1]})
        return index.get([f"doc-{number}", "none"]) == {f"doc-{number}": (float(number), 1.0)}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(24)))
    assert len(vertex.points) == 24


def test_references_to_them_are_checked(vertex: Vertex, index: VertexVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_registered", {})
    references.register("vectors", references.look_in(index))
    index.put({"doc-17": [0.1, 0.7]})
    stored = references.Ref.of("vectors:doc-17")
    assert stored == {"type": "lg_ref", "uri": "vectors:doc-17"}
    places = list(references.find([stored, {"type": "lg_ref", "uri": "vectors:none"}]))
    assert [outcome for outcome, _ in checkers.check(places)] == ["ok", "missing"]
    vertex.fail = [error(403, "PERMISSION_DENIED")]
    assert [outcome for outcome, _ in checkers.check(places)] == ["unknown", "unknown"]
