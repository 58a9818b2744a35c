"""The contract of the stores, as tests: subclass `StoreContract`, provide two fixtures, inherit the tests.

```python
class TestMyStore(StoreContract):
    @pytest.fixture
    def documents(self) -> Iterator[DocumentStore]:
        with closing(MyDocuments(...)) as documents:
            yield documents

    @pytest.fixture
    def blobs(self) -> Iterator[BlobStore]: ...
```

Both must be empty at the start of every test. The tests need pytest and hypothesis. The contract leaves out what
differs between services: the largest commit and the resolution of times.
"""

# ruff: noqa: D102 - the name and body of a test say what it checks

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, TypeVar

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Docs,
    EnsureBucket,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    ListCollections,
    Merge,
    PutBlob,
    QueryDocs,
    ReadBucket,
    SetLifecycle,
    Write,
)
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.errors import InvalidInputError, SaverClosedError, StoreError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing import PATIENCE

T = TypeVar("T")

RACERS = 8

Times = tuple[int, ...] | None


class Documents:
    """One face of a document store, its synchronous or its asynchronous methods, behind plain calls."""

    def __init__(self, store: DocumentStore) -> None:
        self.store = store

    def get(self, *names: str, mask: tuple[str, ...] | None = None) -> Docs:
        """Perform a `GetDocs`."""
        return self.store.get_docs(GetDocs(names, mask))

    def query(self, collection: str, **options: Any) -> list[Doc]:
        """Perform a `QueryDocs`."""
        return self.store.query_docs(QueryDocs(collection, **options))

    def collections(self, document: str) -> list[str]:
        """Perform a `ListCollections`."""
        return self.store.list_collections(ListCollections(document))

    def commit(self, *writes: Write) -> Times:
        """Perform a `Commit`."""
        return self.store.commit(Commit(writes))

    def race(self, writes: list[Write]) -> list[Times]:
        """Perform commits of one write each at the same time."""
        return _at_once([partial(self.commit, write) for write in writes])

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def dispose(self) -> None:
        """Release what the adapter itself holds."""


class AsyncDocuments(Documents):
    """The asynchronous face, on an event loop of its own."""

    def __init__(self, store: DocumentStore) -> None:
        super().__init__(store)
        self._loop = asyncio.new_event_loop()

    def get(self, *names: str, mask: tuple[str, ...] | None = None) -> Docs:
        """Perform a `GetDocs`."""
        return self._loop.run_until_complete(self.store.aget_docs(GetDocs(names, mask)))

    def query(self, collection: str, **options: Any) -> list[Doc]:
        """Perform a `QueryDocs`."""
        return self._loop.run_until_complete(self.store.aquery_docs(QueryDocs(collection, **options)))

    def collections(self, document: str) -> list[str]:
        """Perform a `ListCollections`."""
        return self._loop.run_until_complete(self.store.alist_collections(ListCollections(document)))

    def commit(self, *writes: Write) -> Times:
        """Perform a `Commit`."""
        return self._loop.run_until_complete(self.store.acommit(Commit(writes)))

    def race(self, writes: list[Write]) -> list[Times]:
        """Perform commits of one write each at the same time."""

        async def gather() -> list[Times]:
            return await asyncio.gather(*(self.store.acommit(Commit((write,))) for write in writes))

        return self._loop.run_until_complete(gather())

    def close(self) -> None:
        """Close the store."""
        self._loop.run_until_complete(self.store.aclose())

    def dispose(self) -> None:
        """Close the store and the event loop."""
        self.close()
        self._loop.close()


def _at_once(calls: list[Callable[[], T]]) -> list[T]:
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(PATIENCE)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def _names(docs: list[Doc]) -> list[str]:
    return [doc.name for doc in docs]


def _ids(docs: list[Doc]) -> list[str]:
    return [doc.name.rsplit("/", 1)[1] for doc in docs]


def _exact(value: object) -> object:
    """A value to compare by: 1, 1.0 and True differ, and NaN equals itself."""
    if isinstance(value, Mapping):
        return {name: _exact(inner) for name, inner in value.items()}
    return (type(value).__name__, repr(value))


# In order: `!`, `%`, `-` and `.` sort before `/`. That joins the segments of a name, but does not count in their order.
IDS = ("!", "%2F", "-", "-!", "0", "0!", "0%", "0-", "0.x", "00", "A", "Z", "_x", "a", "a!b", "a-b", "aa", "b", "~")

FILTERED: dict[str, dict[str, Any]] = {
    "absent": {},
    "bytes": {"v": b"1"},
    "empty": {"v": ""},
    "false": {"v": False},
    "float": {"v": 1.0},
    "half": {"v": 1.5},
    "int": {"v": 1},
    "large": {"v": 2**53 + 1},
    "long": {"v": "x" * 256 + "a"},
    "longer": {"v": "x" * 256 + "b"},
    "map": {"v": {"v": 1}},
    "none": {"v": None},
    "text": {"v": "1"},
    "true": {"v": True},
    "zero": {"v": 0},
}

PRECONDITIONS: dict[str, Callable[[int], Write]] = {
    "create of what exists": lambda _: Create("c/there", {"v": 2}),
    "merge of another version": lambda time: Merge("c/there", {"v": 2}, update_time=time - 1_000_000),
    "merge of a missing document": lambda time: Merge("c/missing", {"v": 2}, update_time=time),
    "check of another version": lambda time: Merge("c/there", {}, update_time=time - 1_000_000),
    "check of a missing document": lambda time: Merge("c/missing", {}, update_time=time),
    "delete of another version": lambda time: Delete("c/there", update_time=time - 1_000_000),
    "delete of a missing document": lambda time: Delete("c/missing", update_time=time),
}

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
_FIELD_NAMES = st.from_regex(r"[A-Za-z_.`\\ é0-9!-]{1,8}", fullmatch=True).filter(
    lambda name: not (name.startswith("__") and name.endswith("__"))
)
_FIELDS = st.dictionaries(
    _FIELD_NAMES,
    _SCALARS
    | st.dictionaries(_FIELD_NAMES, _SCALARS | st.dictionaries(_FIELD_NAMES, _SCALARS, max_size=2), max_size=3),
    max_size=5,
)
_fresh = count()


class DocumentContract:
    """Tests of a `DocumentStore`, each through both faces. Provide the fixture `documents`."""

    @pytest.fixture(params=[Documents, AsyncDocuments], ids=["sync", "async"])
    def docs(self, request: pytest.FixtureRequest, documents: DocumentStore) -> Iterator[Documents]:
        """The store under test, through one of its faces."""
        face: Documents = request.param(documents)
        yield face
        face.dispose()

    # Reading

    def test_get_returns_what_exists(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {"v": 1}), Create("c/b", {}), Create("c/a/d/a", {"v": 2}))
        found = docs.get("c/a", "c/missing", "c/b", "c/a/d/a", "c/a")
        assert {name: dict(doc.fields) for name, doc in found.items()} == {
            "c/a": {"v": 1},
            "c/b": {},
            "c/a/d/a": {"v": 2},
        }
        assert all(doc.name == name for name, doc in found.items())
        assert docs.get("c/missing") == {}

    def test_reads_of_several_names_say_when(self, docs: Documents) -> None:
        """The age of a document is measured by the service's own times, whether or not the others exist."""
        first = docs.commit(Create("c/a", {"x": 1}))
        read = docs.get("c/a", "c/missing").read_time
        assert first is not None
        assert first[0] <= read
        second = docs.commit(Merge("c/a", {"x": 2}))
        assert second is not None
        assert read <= second[0] <= docs.get("c/missing", "c/a", mask=()).read_time <= docs.get("c/b", "c/c").read_time

    def test_get_limits_fields_to_the_mask(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {"x": 1, "y": None, "filter": {"step": 3, "more": 4}}))
        (whole,) = docs.get("c/a").values()
        for mask, expected in (
            ((), {}),
            (("x",), {"x": 1}),
            (("y", "z"), {"y": None}),
            (("filter",), {"filter": {"step": 3, "more": 4}}),
            (("x", "filter.step"), {"x": 1, "filter": {"step": 3}}),
        ):
            (doc,) = docs.get("c/a", mask=mask).values()
            assert dict(doc.fields) == expected
            assert (doc.create_time, doc.update_time) == (whole.create_time, whole.update_time)

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(several=st.lists(_FIELDS, min_size=1, max_size=8))
    def test_fields_come_back_exactly(self, docs: Documents, several: list[dict[str, Any]]) -> None:
        names = [f"c/{next(_fresh)}" for _ in several]
        created, merged = names[::2], names[1::2]
        written = dict(zip(names, several, strict=True))
        docs.commit(*(Create(n, written[n]) for n in created), *(Merge(n, written[n]) for n in merged))
        found = docs.get(*names)
        assert {name: _exact(doc.fields) for name, doc in found.items()} == {n: _exact(f) for n, f in written.items()}

    def test_field_names_are_literal(self, docs: Documents) -> None:
        fields = {"a.b": 1, "-1": 2, "0": 3, "é `\\": 4, "a": {"b": 5, "c.d": 6}}
        docs.commit(Merge("c/x", fields))
        assert docs.get("c/x")["c/x"].fields == fields
        docs.commit(Merge("c/x", {"-1": 7}, remove=("a.b", "é `\\")))
        assert docs.get("c/x")["c/x"].fields == {"-1": 7, "0": 3, "a": {"b": 5, "c.d": 6}}

    def test_empty_effects(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {}))
        assert docs.get() == {}
        assert docs.commit() == ()
        assert docs.query("c", limit=0) == []

    def test_large_documents(self, docs: Documents) -> None:
        names = [f"c/{i}" for i in range(4)]
        data = bytes(range(256)) * 3400
        assert docs.commit(*(Create(name, {"v": data, "i": i}) for i, name in enumerate(names)))
        found = docs.get(*names)
        assert [found[name].fields for name in names] == [{"v": data, "i": i} for i in range(4)]
        assert [doc.fields["v"] for doc in docs.query("c")] == [data] * 4

    # Commits

    def test_create(self, docs: Documents) -> None:
        times = docs.commit(Create("c/a", {"v": 1}), Create("c/b", {"v": 2}))
        assert times is not None
        found = docs.get("c/a", "c/b")
        assert [found[name].update_time for name in ("c/a", "c/b")] == list(times)
        assert all(doc.create_time == doc.update_time > 0 for doc in found.values())

    def test_merge_creates_and_leaves_other_fields(self, docs: Documents) -> None:
        assert docs.commit(Merge("c/a", {"x": 1, "y": 2, "m": {"a": 1, "b": 2}}, remove=("nothing",)))
        created = docs.get("c/a")["c/a"]
        assert created.fields == {"x": 1, "y": 2, "m": {"a": 1, "b": 2}}
        times = docs.commit(Merge("c/a", {"x": 3, "z": None, "m": {"c": 3}}, remove=("y",)))
        merged = docs.get("c/a")["c/a"]
        assert merged.fields == {"x": 3, "z": None, "m": {"c": 3}}
        assert times == (merged.update_time,)
        assert merged.create_time == created.create_time
        assert merged.update_time > created.update_time

    def test_update_time_moves_with_every_change(self, docs: Documents) -> None:
        times: list[int] = []
        for i in range(10):
            done = docs.commit(Merge("c/a", {"v": i}))
            assert done is not None
            times += done
        assert times == sorted(set(times))
        docs.commit(Delete("c/a"))
        again = docs.commit(Create("c/a", {"v": 9}))
        assert again is not None
        assert again[0] > times[-1]
        assert docs.get("c/a")["c/a"].create_time == again[0]

    @pytest.mark.parametrize(
        "same",
        [
            Merge("c/a", {}),
            Merge("c/a", {"x": 1}),
            Merge("c/a", {"m": {"a": b"\0"}, "f": 1.5, "n": None}, remove=("missing",)),
        ],
        ids=["nothing", "one field", "many"],
    )
    def test_merge_that_changes_nothing_keeps_update_time(self, docs: Documents, same: Merge) -> None:
        created = docs.commit(Create("c/a", {"x": 1, "m": {"a": b"\0"}, "f": 1.5, "n": None}))
        assert created is not None
        before = docs.get("c/a")
        assert docs.commit(same) == created
        checked = Merge(same.name, same.fields, same.remove, update_time=created[0])
        assert docs.commit(checked) == created
        assert docs.get("c/a") == before
        mixed = docs.commit(checked, Merge("c/b", {"v": 1}))
        assert mixed is not None
        assert mixed[0] == created[0] < mixed[1]

    def test_preconditions_that_hold(self, docs: Documents) -> None:
        created = docs.commit(Create("c/a", {"v": 1}))
        assert created is not None
        merged = docs.commit(Merge("c/a", {"w": 2}, update_time=created[0]))
        assert merged is not None
        assert docs.get("c/a")["c/a"].fields == {"v": 1, "w": 2}
        assert docs.commit(Merge("c/a", {}, update_time=created[0])) is None
        assert docs.commit(Merge("c/a", {}, update_time=merged[0])) == merged
        assert docs.commit(Delete("c/a", update_time=created[0])) is None
        assert docs.commit(Delete("c/a", update_time=merged[0])) == (0,)
        assert docs.get("c/a") == {}

    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("kind", PRECONDITIONS)
    def test_one_failed_precondition_applies_nothing(self, docs: Documents, kind: str, position: int) -> None:
        created = docs.commit(Create("c/there", {"v": 1}), Create("c/gone", {"v": 1}))
        assert created is not None
        before = docs.query("c")
        writes: list[Write] = [Create("c/new", {"v": 1}), Delete("c/gone"), Merge("c/merged", {"v": 1})]
        writes[position:position] = [PRECONDITIONS[kind](created[0])]
        assert docs.commit(*writes) is None
        assert docs.query("c") == before
        del writes[position]
        times = docs.commit(*writes)
        assert times is not None
        assert times[1] == 0
        assert _ids(docs.query("c")) == ["merged", "new", "there"]

    def test_delete(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {"v": 1}), Create("c/a/d/x", {"v": 1}))
        assert docs.commit(Delete("c/missing"), Delete("c/a")) == (0, 0)
        assert list(docs.get("c/a", "c/a/d/x")) == ["c/a/d/x"], "a document's subcollections stay"
        assert docs.commit(Delete("c/a")) == (0,)

    def test_writes_to_one_document_apply_in_order(self, docs: Documents) -> None:
        times = docs.commit(
            Create("c/a", {"x": 1, "y": 1}),
            Merge("c/a", {"x": 2}),
            Merge("c/a", {"z": 3}, remove=("y",)),
            Create("c/b", {}),
            Delete("c/b"),
        )
        assert times is not None
        doc = docs.get("c/a", "c/b")
        assert list(doc) == ["c/a"]
        assert doc["c/a"].fields == {"x": 2, "z": 3}
        assert times[2:] == (doc["c/a"].update_time, times[3], 0)

    @pytest.mark.parametrize("bad", [2**63, [1], {"m": [1]}, "\ud800", {1: 2}, ...], ids=repr)
    def test_what_is_not_a_field_is_refused(self, docs: Documents, bad: object) -> None:
        with pytest.raises(InvalidInputError):
            docs.commit(Create("c/a", {"v": 1}), Create("c/b", {"v": bad}))
        assert docs.query("c") == []

    def test_documents_over_the_limit_are_refused(self, docs: Documents) -> None:
        with pytest.raises(StoreError):
            docs.commit(Create("c/small", {"v": 1}), Create("c/large", {"v": bytes(1_100_000)}))
        assert docs.query("c") == []
        assert docs.commit(Create("c/small", {"v": 1}))

    # Races

    def test_one_of_many_creates_wins(self, docs: Documents) -> None:
        for turn in range(5):
            name = f"c/{turn}"
            results = docs.race([Create(name, {"v": i}) for i in range(RACERS)])
            (winner,) = [i for i, times in enumerate(results) if times is not None]
            doc = docs.get(name)[name]
            assert doc.fields == {"v": winner}
            assert results[winner] == (doc.update_time,)

    def test_one_of_many_conditional_merges_wins(self, docs: Documents) -> None:
        last = docs.commit(Create("c/a", {"v": None}))
        for turn in range(5):
            assert last is not None
            fields = [{"v": i, f"{turn}-{i}": 1} for i in range(RACERS)]
            results = docs.race([Merge("c/a", mine, update_time=last[0]) for mine in fields])
            (winner,) = [i for i, times in enumerate(results) if times is not None]
            doc = docs.get("c/a")["c/a"]
            assert doc.fields.items() >= fields[winner].items()
            assert results[winner] == (doc.update_time,)
            last = results[winner]
        assert len(doc.fields) <= 6, "losers left nothing"

    def test_unconditional_merges_all_apply(self, docs: Documents) -> None:
        assert None not in docs.race([Merge("c/a", {f"f{i}": i}) for i in range(RACERS)])
        assert docs.get("c/a")["c/a"].fields == {f"f{i}": i for i in range(RACERS)}

    # Queries

    def test_query_is_in_order_of_names(self, docs: Documents) -> None:
        for name in reversed(IDS):
            # Decoys: a subcollection, one of the same id, and collections whose names are close to this one's.
            docs.commit(
                Create(f"c/x/d/{name}", {}),
                Create(f"c/x/d/{name}/e/0", {}),
                Create(f"c/x/d/{name}/d/0", {}),
                Create(f"c/x!/d/{name}", {}),
                Create(f"c/x/d!/{name}", {}),
                Create(f"c/x0/d/{name}", {}),
            )
        assert _names(docs.query("c/x/d")) == [f"c/x/d/{name}" for name in IDS]
        assert docs.query("c/x/e") == []
        assert docs.query("c") == [], "documents that only have subcollections do not exist"

    def test_query_of_names_as_this_library_makes_them(self, docs: Documents) -> None:
        ids = ["", "0", "1f0", "1f0-a", "1f1", "a/b", "é", "\U0001f600"]
        docs.commit(*(Create(keys.checkpoint_doc("t", ns, id_), {"ns": ns}) for id_ in ids for ns in ("", "sub|x")))
        collection = keys.checkpoints("t")
        newest_first = sorted(ids, key=str.encode, reverse=True)
        found = [keys.checkpoint_id_of(doc.name) for doc in docs.query(collection, where=(("ns", "sub|x"),))]
        assert found == newest_first
        for id_ in ids:
            start, end = keys.checkpoint_range("t", id_)
            assert _names(docs.query(collection, start=start, end=end)) == sorted(
                keys.checkpoint_doc("t", ns, id_) for ns in ("", "sub|x")
            )

    def test_query_bounds(self, docs: Documents) -> None:
        docs.commit(*(Create(f"c/{name}", {}) for name in IDS))
        middle = len(IDS) // 2
        for i, name in enumerate(IDS):
            assert _ids(docs.query("c", start=f"c/{name}")) == list(IDS[i:])
            assert _ids(docs.query("c", after=f"c/{name}")) == list(IDS[i + 1 :])
            assert _ids(docs.query("c", end=f"c/{name}")) == list(IDS[:i])
            assert _ids(docs.query("c", start=f"c/{IDS[middle]}", end=f"c/{name}")) == list(IDS[middle:i])
            assert _ids(docs.query("c", after=f"c/{name}", end=f"c/{IDS[middle]}")) == list(IDS[i + 1 : middle])
            assert _ids(docs.query("c", start=f"c/{IDS[middle]}", after=f"c/{name}")) == list(IDS[max(middle, i + 1) :])
        assert _ids(docs.query("c", start="c/0!0", end="c/a!a")) == [i for i in IDS if "0!0" <= i < "a!a"]

    def test_query_pages(self, docs: Documents) -> None:
        docs.commit(*(Create(f"c/{name}", {"even": i % 2 == 0}) for i, name in enumerate(IDS)))
        for where, expected in ((), IDS), ((("even", True),), IDS[::2]):
            found: list[str] = []
            after = None
            while page := docs.query("c", where=where, after=after, limit=4):
                assert len(page) <= 4
                found += _ids(page)
                after = page[-1].name
            assert found == list(expected)

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            (1, ["float", "int"]),
            (1.0, ["float", "int"]),
            (1.5, ["half"]),
            (0, ["zero"]),
            (2**53 + 1, ["large"]),
            (True, ["true"]),
            (False, ["false"]),
            (None, ["none"]),
            ("1", ["text"]),
            ("", ["empty"]),
            ("x" * 256 + "b", ["longer"]),
            (b"1", ["bytes"]),
            ("nowhere", []),
        ],
        ids=repr,
    )
    def test_query_filters(self, docs: Documents, asked: object, expected: list[str]) -> None:
        docs.commit(*(Create(f"c/{name}", fields) for name, fields in FILTERED.items()))
        docs.commit(*(Create(f"n/{name}", {"filter": fields, "v": 1}) for name, fields in FILTERED.items()))
        docs.commit(Create("n/scalar", {"filter": 1}), Create("n/other", {"v": asked}))
        assert _ids(docs.query("c", where=(("v", asked),))) == expected
        assert _ids(docs.query("n", where=(("filter.v", asked),))) == expected

    def test_query_filters_together(self, docs: Documents) -> None:
        docs.commit(
            *(
                Create(f"c/{i:03}", {"ns": "a" if i % 2 else "b", "filter": {"step": i % 3, "source": "loop"}})
                for i in range(60)
            )
        )
        where = (("ns", "a"), ("filter.step", 1), ("filter.source", "loop"))
        expected = [f"{i:03}" for i in range(60) if i % 2 and i % 3 == 1]
        assert _ids(docs.query("c", where=where)) == expected
        assert _ids(docs.query("c", where=where, limit=3)) == expected[:3], "the limit counts what matches"
        assert _ids(docs.query("c", where=where, start="c/013", end="c/031", limit=2)) == ["013", "019"]
        assert _ids(docs.query("c", where=where, after="c/013", limit=2)) == ["019", "025"]
        assert docs.query("c", where=(*where, ("filter.step", 2))) == []

    def test_query_masks(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {"x": 1, "y": {"z": 2, "w": 3}}), Create("c/b", {"x": 1}))
        whole = docs.query("c")
        for mask, expected in (
            (None, [{"x": 1, "y": {"z": 2, "w": 3}}, {"x": 1}]),
            ((), [{}, {}]),
            (("y",), [{"y": {"z": 2, "w": 3}}, {}]),
            (("y.z",), [{"y": {"z": 2}}, {}]),
        ):
            found = docs.query("c", where=(("x", 1),), mask=mask)
            assert [doc.fields for doc in found] == expected
            assert [(d.name, d.create_time, d.update_time) for d in found] == [
                (d.name, d.create_time, d.update_time) for d in whole
            ]

    def test_query_of_a_collection_group(self, docs: Documents) -> None:
        # Segments are compared one by one: `x` comes before `x!` and `x-`, although `x/` sorts after them as text.
        parents = ["!", "x", "x!", "x-", "x.y", "x0", "~"]
        for i, parent in enumerate(parents):
            docs.commit(
                *(
                    Create(f"t/{parent}/c/{name}", {"i": i, "odd": bool(n % 2)})
                    for n, name in enumerate(("0", "0!", "1"))
                ),
                Create(f"t/{parent}", {"i": i, "odd": True}),
                Create(f"t/{parent}/d/0", {"i": i, "odd": True}),  # another id
                Create(f"r/{parent}/c/0", {"i": i, "odd": True}),  # below another root
                Create(f"u/{parent}/c/0", {"i": i, "odd": True}),
            )
        docs.commit(Create("c/0", {"i": 0, "odd": True}))
        expected = [f"t/{parent}/c/{name}" for parent in parents for name in ("0", "0!", "1")]
        everything: dict[str, Any] = {"group": True, "start": "t/!", "end": "t/~~"}
        assert _names(docs.query("c", **everything)) == expected
        assert _names(docs.query("c", group=True, start="t/x", end="t/x-")) == expected[3:9]
        assert _names(docs.query("c", group=True, start="t/x/c/0!", end="t/x-/c/1")) == expected[4:11]
        assert _names(docs.query("c", **everything, limit=2, mask=())) == expected[:2]
        assert _names(docs.query("c", **everything, after=expected[4], limit=3)) == expected[5:8]

    def test_queries_of_a_collection_group_that_need_an_index_do_not_exist(self) -> None:
        # An emulator would answer them. In production, automatic indexes serve only single collections.
        for bounds in ({}, {"start": "t/!"}, {"end": "t/~"}, {"start": "t/!", "end": "t/~", "where": (("odd", True),)}):
            with pytest.raises(ValueError, match="no filter"):
                QueryDocs("c", group=True, **bounds)

    def test_query_of_all_threads(self, docs: Documents) -> None:
        threads = ["", "a", "a/b", "..", "é", "z" * 300]
        docs.commit(*(Create(keys.checkpoint_doc(thread, "", "1"), {"ns": ""}) for thread in threads))
        docs.commit(Create(f"{keys.RUNS}/0-x/{keys.CHECKPOINTS}/1", {"ns": ""}))
        start, end = keys.all_checkpoints_range()
        found = docs.query(keys.CHECKPOINTS, group=True, start=start, end=end)
        assert _names(found) == sorted(keys.checkpoint_doc(thread, "", "1") for thread in threads)

    # Collections

    def test_collections_below_a_document(self, docs: Documents) -> None:
        docs.commit(
            Create("t/x", {}),
            Create("t/x/b/1", {}),
            Create("t/x/b/2", {}),
            Create("t/x/B/1", {}),
            Create("t/x/é/1", {}),
            Create("t/x/deep/1/b/1", {}),  # Below `deep`, which holds no document itself.
            Create("t/x/deep/1/only/1", {}),
            Create("t/x-/c/1", {}),
            Create("t/y/d/1", {}),  # below a document that does not exist
            Create("other/x/b/1", {}),
        )
        assert docs.collections("t/x") == ["B", "b", "deep", "é"]
        assert docs.collections("t/x/deep/1") == ["b", "only"]
        assert docs.collections("t/y") == ["d"]
        assert docs.collections("t/x/b/1") == []
        assert docs.collections("t/nobody") == []
        docs.commit(Delete("t/x/b/1"), Delete("t/x/deep/1/b/1"), Delete("t/x/deep/1/only/1"))
        assert docs.collections("t/x") == ["B", "b", "é"]

    def test_many_collections_below_a_document(self, docs: Documents) -> None:
        ids = [f"c{number:03}" for number in range(400)]
        docs.commit(*(Create(f"t/x/{id_}/1", {}) for id_ in ids))
        assert docs.collections("t/x") == ids

    # Closing

    def test_closed_store_refuses(self, docs: Documents) -> None:
        docs.commit(Create("c/a", {}))
        docs.close()
        docs.close()
        for call in (
            lambda: docs.get("c/a"),
            lambda: docs.query("c"),
            lambda: docs.collections("c/a"),
            lambda: docs.commit(Create("c/b", {})),
        ):
            with pytest.raises(SaverClosedError):
                call()

    def test_unused_store_closes(self, docs: Documents) -> None:
        docs.close()
        with pytest.raises(SaverClosedError):
            docs.get("c/a")


# In the order of their bytes, where `-`, `.` < `/` < `0`.
BLOBS = ("t/~/x!-1.zst", "t0/%2F/a-1.zst", "t0/%2F/a-2.zst", "t0/a-/1", "t0/a.zst", "t0/a/1", "t0/a/~1", "t0/a0/1", "u")
BLOB_ORDER = tuple(sorted(BLOBS, key=str.encode))


class BlobContract:
    """Tests of a `BlobStore`. Provide the fixture `blobs`."""

    @pytest.mark.parametrize("size", [0, 1, 8192, 12_000_000])
    def test_blobs_round_trip(self, blobs: BlobStore, size: int) -> None:
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        blobs.put_blob(PutBlob("t/a", data))
        assert blobs.get_blob(GetBlob("t/a")) == data
        (info,) = blobs.list_blobs(ListBlobs(""))
        crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
        assert (info.name, info.size, info.crc32c) == ("t/a", size, crc32c)
        assert info.create_time > 0

    @pytest.mark.parametrize("size", [0, 8192, 12_000_000])
    @pytest.mark.parametrize("checked", [True, False])
    def test_blobs_in_pieces(self, blobs: BlobStore, size: int, *, checked: bool) -> None:
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        for _ in range(2):  # as after a lost answer
            pieces = Pieces(lambda: (data[at : at + 100_000] for at in range(0, size, 100_000)), hashed=True)
            effect = PutBlob("t/a", pieces, checked=checked)
            blobs.put_blob(effect)
            assert blobs.get_blob(GetBlob("t/a")) == data
            (info,) = blobs.list_blobs(ListBlobs(""))
            assert (effect.size, effect.crc32c()) == (info.size, info.crc32c)
            assert effect.sha256() == blobs.hash_blob(HashBlob("t/a"))
        with pytest.raises(StoreError):
            blobs.put_blob(PutBlob("t/a", Pieces(lambda: iter([b"two"]), hashed=False), checked=checked))
        assert blobs.get_blob(GetBlob("t/a")) == data

    def test_missing_blobs(self, blobs: BlobStore) -> None:
        assert blobs.get_blob(GetBlob("t/a")) is None
        assert blobs.get_blob(GetBlob("t/a", start=3, length=4)) is None
        assert blobs.list_blobs(ListBlobs("")) == []
        blobs.put_blob(PutBlob("t/a/b", b"x"))
        assert blobs.get_blob(GetBlob("t/a")) is None
        assert blobs.get_blob(GetBlob("t/a/b/c")) is None

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (0, 4, b"0123"),
            (3, 4, b"3456"),
            (9, 1, b"9"),
            (8, 100, b"89"),
            (0, 10, b"0123456789"),
            (10, None, b""),
            (11, 2, b""),
            (3, 0, b""),
        ],
    )
    def test_ranges_of_blobs(self, blobs: BlobStore, start: int, length: int | None, expected: bytes) -> None:
        blobs.put_blob(PutBlob("t/a", b"0123456789"))
        assert blobs.get_blob(GetBlob("t/a", start, length)) == expected

    @pytest.mark.parametrize("size", [0, 1, 8192, 12_000_000])
    def test_hash_of_a_blob(self, blobs: BlobStore, size: int) -> None:
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        assert blobs.hash_blob(HashBlob("t/a")) is None
        blobs.put_blob(PutBlob("t/a", data))
        blobs.put_blob(PutBlob("t/b", data + b"x"))
        assert blobs.hash_blob(HashBlob("t/a")) == hashlib.sha256(data).hexdigest()
        assert blobs.hash_blob(HashBlob("t/b")) == hashlib.sha256(data + b"x").hexdigest()
        assert blobs.hash_blob(HashBlob("t")) is None
        assert blobs.hash_blob(HashBlob("t/a/b")) is None
        blobs.delete_blobs(DeleteBlobs(("t/a",)))
        assert blobs.hash_blob(HashBlob("t/a")) is None, "the hash is that of the current content"

    def test_put_blob_without_a_checksum(self, blobs: BlobStore) -> None:
        for name, data in (("t/a", b"one"), ("t/empty", b""), ("t/large", bytes(9_000_000))):
            for _ in range(2):
                blobs.put_blob(PutBlob(name, data, checked=False))
            blobs.put_blob(PutBlob(name, data))
            assert blobs.get_blob(GetBlob(name)) == data
            with pytest.raises(StoreError):
                blobs.put_blob(PutBlob(name, b"two", checked=False))
            assert blobs.get_blob(GetBlob(name)) == data

    def test_put_blob_again(self, blobs: BlobStore) -> None:
        blobs.put_blob(PutBlob("t/a", b"one"))
        before = blobs.list_blobs(ListBlobs("t/"))
        blobs.put_blob(PutBlob("t/a", b"one"))
        assert blobs.list_blobs(ListBlobs("t/")) == before, "the same upload again is success and changes nothing"
        for other in (b"two", b""):
            with pytest.raises(StoreError):
                blobs.put_blob(PutBlob("t/a", other))
            assert blobs.get_blob(GetBlob("t/a")) == b"one"

    def test_race_for_one_blob(self, blobs: BlobStore) -> None:
        def put(name: str, data: bytes) -> bool:
            try:
                blobs.put_blob(PutBlob(name, data))
            except StoreError:
                return False
            return True

        datas = [bytes([i]) * 100_000 for i in range(RACERS)]
        wins = _at_once([partial(put, "t/different", data) for data in datas])
        assert sum(wins) == 1
        assert blobs.get_blob(GetBlob("t/different")) == datas[wins.index(True)]
        assert all(_at_once([partial(put, "t/same", b"x" * 100_000)] * RACERS))

    def test_list_blobs(self, blobs: BlobStore) -> None:
        for name in BLOBS:
            blobs.put_blob(PutBlob(name, name.encode()))
        listed = blobs.list_blobs(ListBlobs(""))
        assert [info.name for info in listed] == list(BLOB_ORDER)
        assert [info.size for info in listed] == [len(name) for name in BLOB_ORDER]
        for prefix in ("t", "t/", "t0/", "t0/a", "t0/a/", "t0/a/1", "t0/%2F/a-", "nothing/", "t0/a/1/"):
            expected = [name for name in BLOB_ORDER if name.startswith(prefix)]
            assert [info.name for info in blobs.list_blobs(ListBlobs(prefix))] == expected
            for after in (*BLOBS, "t0/", "t0/a", "zzz", "!"):
                found = blobs.list_blobs(ListBlobs(prefix, after=after))
                assert [info.name for info in found] == [name for name in expected if name.encode() > after.encode()]

    @pytest.mark.parametrize("limit", [1, 2, 4, 100])
    def test_list_blobs_in_pages(self, blobs: BlobStore, limit: int) -> None:
        for name in BLOBS:
            blobs.put_blob(PutBlob(name, b"x"))
        found: list[BlobInfo] = []
        after = None
        while page := blobs.list_blobs(ListBlobs("t", after=after, limit=limit)):
            assert len(page) <= limit
            found += page
            after = page[-1].name
        assert [info.name for info in found] == [name for name in BLOB_ORDER if name.startswith("t")]

    def test_delete_blobs(self, blobs: BlobStore) -> None:
        names = [f"t/{i % 7}/{i:03}" for i in range(100)]
        for name in (*names, "t/stays"):
            blobs.put_blob(PutBlob(name, b"x"))
        blobs.delete_blobs(DeleteBlobs((names[0], "t/missing", "other/missing")))
        assert blobs.get_blob(GetBlob(names[0])) is None
        assert blobs.get_blob(GetBlob(names[1])) == b"x"
        blobs.delete_blobs(DeleteBlobs(tuple(names)))
        assert [info.name for info in blobs.list_blobs(ListBlobs(""))] == ["t/stays"]
        blobs.put_blob(PutBlob(names[0], b"other"))
        assert blobs.get_blob(GetBlob(names[0])) == b"other"
        blobs.delete_blobs(DeleteBlobs(()))

    def test_blob_names_as_this_library_makes_them(self, blobs: BlobStore) -> None:
        ids = ["", ".", "..", "a/b", "a_b", "a", "é\0", "x" * 400]
        names = [keys.blob(thread, ns, "1", "messages", "ab") for thread in ids for ns in ids]
        for name in names:
            blobs.put_blob(PutBlob(name, name.encode()))
        for thread in ids:
            listed = blobs.list_blobs(ListBlobs(keys.thread_blobs(thread)))
            assert [info.name for info in listed] == sorted(keys.blob(thread, ns, "1", "messages", "ab") for ns in ids)
        assert all(blobs.get_blob(GetBlob(name)) == name.encode() for name in names)

    def test_ensure_bucket(self, blobs: BlobStore) -> None:
        for _ in range(2):
            assert blobs.ensure_bucket(EnsureBucket())
        blobs.put_blob(PutBlob("t/a", b"x"))
        assert blobs.ensure_bucket(EnsureBucket())
        assert blobs.get_blob(GetBlob("t/a")) == b"x"

    def test_closed_blobs_refuse(self, blobs: BlobStore) -> None:
        blobs.put_blob(PutBlob("t/a", b"x"))
        blobs.close()
        blobs.close()
        calls: list[Callable[[], object]] = [
            lambda: blobs.get_blob(GetBlob("t/a")),
            lambda: blobs.hash_blob(HashBlob("t/a")),
            lambda: blobs.put_blob(PutBlob("t/b", b"x")),
            lambda: blobs.list_blobs(ListBlobs("")),
            lambda: blobs.delete_blobs(DeleteBlobs(("t/a",))),
            lambda: blobs.ensure_bucket(EnsureBucket()),
            lambda: blobs.read_bucket(ReadBucket()),
            lambda: blobs.set_lifecycle(SetLifecycle((), 1)),
        ]
        for call in calls:
            with pytest.raises(SaverClosedError):
                call()


class StoreContract(DocumentContract, BlobContract):
    """The whole contract. Provide the fixtures `documents` and `blobs`."""
