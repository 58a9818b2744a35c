"""Data that can be computed again: values that a state does not store, and vectors that are kept outside of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol, TypeVar

from langgraph_gcs_saver.references.checkers import Facts

T = TypeVar("T")


def recomputed(state: Any, name: str, fn: Callable[[Any], T]) -> T:
    """A value of the state that is not stored: the one that is there, or else the one that a function computes.

    Declare the channel as untracked: `embeddings: Annotated[list[Any], UntrackedValue]`. LangGraph then keeps it while
    the graph runs, and stores it nowhere. After a crash, an interrupt, or a seam between segments it is missing, so
    `fn` computes it again:

        def search(state):
            embeddings = recomputed(state, "embeddings", lambda state: embed(state["texts"]))
            return {"found": nearest(embeddings), "embeddings": embeddings}

    Return the value from the node, as here, so that later nodes need not compute it again.

    Args:
        state: The state, as a node gets it: a mapping, or an object with attributes.
        name: The channel.
        fn: Computes the value from the state. It must give the same value again, and should have no side effect.

    Returns:
        The value. One that is `None` counts as missing.
    """
    found: T | None = _value(state, name)
    return fn(state) if found is None else found


async def arecomputed(state: Any, name: str, fn: Callable[[Any], Awaitable[T]]) -> T:
    """Asynchronous twin of `recomputed`: the function is a coroutine function."""
    found: T | None = _value(state, name)
    return await fn(state) if found is None else found


def _value(state: Any, name: str) -> Any:
    return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)


class VectorSearch(Protocol):
    """An index of vectors outside of the state, which holds the vectors' ids only.

    Adapters have these four methods. They are blocking, and may be called from several threads. Searching is left to
    the index's own client.
    """

    def put(self, vectors: Mapping[str, Sequence[float]], /) -> None:
        """Store vectors by their ids, in place of former ones."""

    def get(self, ids: Sequence[str], /) -> Mapping[str, Sequence[float]]:
        """The vectors with these ids, without those that are not there."""

    def exists(self, ids: Sequence[str], /) -> Iterable[str]:
        """Those of the ids that are there."""

    def delete(self, ids: Sequence[str], /) -> None:
        """Delete vectors. Ids that are not there are ignored."""


class InMemoryVectors:
    """A `VectorSearch` in the memory of the process, for tests and as an example of an adapter."""

    def __init__(self) -> None:
        self._vectors: dict[str, tuple[float, ...]] = {}
        self._lock = Lock()

    def put(self, vectors: Mapping[str, Sequence[float]], /) -> None:
        """Store vectors by their ids, in place of former ones."""
        made = {one: tuple(map(float, vector)) for one, vector in vectors.items()}
        with self._lock:
            self._vectors.update(made)

    def get(self, ids: Sequence[str], /) -> dict[str, tuple[float, ...]]:
        """The vectors with these ids, without those that are not there."""
        with self._lock:
            return {one: self._vectors[one] for one in ids if one in self._vectors}

    def exists(self, ids: Sequence[str], /) -> frozenset[str]:
        """Those of the ids that are there."""
        return frozenset(self.get(ids))

    def delete(self, ids: Sequence[str], /) -> None:
        """Delete vectors. Ids that are not there are ignored."""
        with self._lock:
            for one in ids:
                self._vectors.pop(one, None)


def look_in(index: VectorSearch) -> Callable[[Sequence[str]], Iterator[tuple[str, Facts | None]]]:
    """A function for `references.register` that checks references to vectors, such as `vectors:doc-17`.

    What follows the colon is the vector's id. Vectors have no facts: a reference to one is `ok` or `missing`.

    Args:
        index: The index.
    """

    def look(uris: Sequence[str]) -> Iterator[tuple[str, Facts | None]]:
        ids = {uri: uri.partition(":")[2] for uri in uris}
        there = frozenset(index.exists(tuple(ids.values())))
        yield from ((uri, {} if one in there else None) for uri, one in ids.items())

    return look
