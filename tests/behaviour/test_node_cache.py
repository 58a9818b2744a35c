"""`FirestoreCache` with real graphs: nodes that do not run again, expiry, damage, ciphers, large results."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import Any, TypedDict

import pytest
from langgraph.cache.base import FullKey
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from langgraph_gcs_saver import FirestoreCache
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine.effects import REQUESTS, Commit, ListBlobs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor
from langgraph_gcs_saver.flows import node_cache
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import node_cache as module


class State(TypedDict, total=False):
    x: int
    y: Any


NS = ("nodes", "double")
KEY: FullKey = (NS, "k")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock of the cache, which a test moves."""

    class Clock:
        now = 1_790_000_000 * 10**9

        def time_ns(self) -> int:
            return self.now

    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def doubling(cache: Any, saver: Any, ran: list[int], ttl: int | None = None) -> Any:
    def double(state: State) -> dict[str, Any]:
        ran.append(state["x"])
        return {"y": 2 * state["x"]}

    build = StateGraph(State)
    build.add_node("double", double, cache_policy=CachePolicy(ttl=ttl))
    build.add_edge(START, "double")
    return build.compile(checkpointer=saver, cache=cache)


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def test_a_node_does_not_run_again(make_saver: Any, clock: Any) -> None:
    ran: list[int] = []
    first, second = make_saver(), make_saver()
    assert doubling(FirestoreCache(first), first, ran, ttl=60).invoke({"x": 2}, config("a"))["y"] == 4
    graph = doubling(FirestoreCache(second), second, ran, ttl=60)
    assert graph.invoke({"x": 2}, config("b"))["y"] == 4
    assert asyncio.run(graph.ainvoke({"x": 2}, config("c")))["y"] == 4
    assert ran == [2]
    assert graph.invoke({"x": 3}, config("d"))["y"] == 6
    clock.now += 61 * 10**9
    assert graph.invoke({"x": 2}, config("e"))["y"] == 4
    assert ran == [2, 3, 2]
    graph.clear_cache()
    graph.invoke({"x": 2}, config("f"))
    assert ran == [2, 3, 2, 2]


def test_it_behaves_like_langgraphs_own(saver: Any, clock: Any) -> None:
    cache, other = FirestoreCache(saver), (("nodes", "other"), "k")
    forever: FullKey = (NS, "forever")
    assert cache.get([]) == cache.get([KEY]) == {}
    cache.set(
        {KEY: ([1, None], 60), other: ("o", None), forever: ({"a": 1}, None), (("nodes",), "double/k"): (0, None)}
    )
    assert cache.get([KEY, other, forever, (NS, "none")]) == {KEY: [1, None], other: "o", forever: {"a": 1}}
    cache.set({KEY: ("new", 10)})
    assert cache.get([KEY]) == {KEY: "new"}
    clock.now += 10 * 10**9
    assert cache.get([KEY, forever]) == {forever: {"a": 1}}
    cache.clear([NS])
    assert cache.get([KEY, forever, other]) == {other: "o"}
    cache.clear()
    assert cache.get([other, (("nodes",), "double/k")]) == {}

    async def coroutines() -> None:
        await cache.aset({KEY: (1, None)})
        assert await cache.aget([KEY]) == {KEY: 1}
        await cache.aclear()
        assert await cache.aget([KEY]) == {}
        assert await cache.asweep() == 0

    asyncio.run(coroutines())


def blobs(saver: Any) -> list[str]:
    return [blob.name for blob in saver._backend.perform(ListBlobs(keys.CACHE_BLOBS))]


def documents(saver: Any) -> Any:
    return saver._backend.perform(QueryDocs(keys.CACHE))


def test_a_large_result_is_an_object(saver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, large = FirestoreCache(saver), secrets.token_hex(node_cache.INLINE_BYTES)
    cache.set({KEY: (large, 86400), (NS, "small"): ("s", None)})
    [first] = blobs(saver)
    assert cache.get([KEY]) == {KEY: large}
    cache.set({KEY: (large, 86400)})
    assert (len(blobs(saver)), cache.sweep(), len(blobs(saver))) == (2, 0, 2)  # too young
    monkeypatch.setattr(module, "ORPHAN_AGE", -3600)
    assert cache.sweep() == 0
    [second] = blobs(saver)
    assert second != first
    saver.admin.collect(orphan_age=timedelta())
    assert blobs(saver) == [second]
    cache.set({KEY: (large, -1)})
    assert cache.sweep() == 1
    assert blobs(saver) == []
    assert cache.get([KEY, (NS, "small")]) == {(NS, "small"): "s"}
    cache.set({KEY: (large, None)})
    cache.clear([NS])
    assert blobs(saver) == documents(saver) == []


def test_what_is_damaged_counts_as_missing(saver: Any, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []
    graph = doubling(FirestoreCache(saver), saver, ran)
    graph.invoke({"x": 2}, config("a"))
    [doc] = documents(saver)
    entry = bytearray(doc.fields[node_cache.ENTRY])
    for at in range(0, len(entry), 7):
        flipped = bytes(entry[:at]) + bytes([entry[at] ^ 1]) + bytes(entry[at + 1 :])
        assert saver._backend.perform(Commit((Merge(doc.name, {node_cache.ENTRY: flipped}),)))
        assert FirestoreCache(saver).get([]) == {}
        found, unreadable = read(saver, doc.name)
        assert (found, unreadable) == ({}, 1), at
    assert graph.invoke({"x": 2}, config("b"))["y"] == 4
    assert ran == [2, 2]
    assert "1 cached results cannot be read" in caplog.text
    assert graph.invoke({"x": 2}, config("c"))["y"] == 4
    assert ran == [2, 2]
    # Of another type.
    for wrong in (5, True, "text", {"a": 1}):
        assert saver._backend.perform(Commit((Merge(doc.name, {node_cache.ENTRY: wrong}),)))
        assert read(saver, doc.name) == ({}, 1)
    assert saver._backend.perform(Commit((Merge(doc.name, {node_cache.ENTRY: doc.fields[node_cache.ENTRY]}),)))
    # In the place of another one.
    cache = FirestoreCache(saver)
    cache.set({KEY: (1, None)})
    [doc] = [one for one in documents(saver) if one.name == keys.cache_doc(*KEY)]
    other = keys.cache_doc(NS, "other")
    assert saver._backend.perform(Commit((Merge(other, {n: doc.fields[n] for n in ("format", node_cache.ENTRY)}),)))
    assert cache.get([(NS, "other")]) == {}
    assert cache.sweep() == 1
    assert saver._backend.perform(Commit((Merge(doc.name, {"format": 99}),)))
    assert (cache.get([KEY]), cache.sweep()) == ({}, 0)


def read(saver: Any, name: str) -> Any:
    from langgraph_gcs_saver.engine.runner import run

    return run(node_cache.read((name,), 0, saver._context), saver._backend)


class Xor:
    """A cipher of one key."""

    def __init__(self, key: int) -> None:
        self.key = key

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return f"xor-{self.key}", bytes(one ^ self.key for one in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        if ciphername != f"xor-{self.key}":
            raise ValueError
        return bytes(one ^ self.key for one in ciphertext)


@pytest.mark.parametrize("value", ["a secret", "a secret" + "x" * (1 << 20)], ids=["small", "large"])
def test_a_cipher(make_saver: Any, value: str) -> None:
    mine, others, clear = make_saver(cipher=Xor(7)), make_saver(cipher=Xor(9)), make_saver()
    FirestoreCache(mine).set({KEY: (value, None)})
    assert FirestoreCache(mine).get([KEY]) == {KEY: value}
    assert FirestoreCache(others).get([KEY]) == FirestoreCache(clear).get([KEY]) == {}
    assert FirestoreCache(others).sweep() == 0
    assert FirestoreCache(mine).get([KEY]) == {KEY: value}
    stored = [bytes(doc.fields[node_cache.ENTRY]) for doc in documents(clear)]
    assert not any(b"secret" in one for one in stored)
    # With a cipher, nothing in clear is read.
    FirestoreCache(clear).set({KEY: (value, None)})
    assert FirestoreCache(mine).get([KEY]) == {}


def test_pickles_are_neither_written_nor_read(saver: Any) -> None:
    with pytest.raises(e.InvalidOptionError, match="pickle"):
        FirestoreCache(saver, serde=JsonPlusSerializer(pickle_fallback=True))
    wrapped = EncryptedSerializer(Xor(7), JsonPlusSerializer(pickle_fallback=True))
    with pytest.raises(e.InvalidOptionError, match="pickle"):
        FirestoreCache(saver, serde=wrapped)
    cache = FirestoreCache(saver)
    with pytest.raises(e.SerializationError):
        cache.set({KEY: (lambda: None, None)})
    assert cache.get([KEY]) == {}
    pickled: Any = type("Pickled", (), {"dumps_typed": lambda _, value: ("pickle", b"cos\nabort\n(tR.")})()
    FirestoreCache(saver, serde=pickled).set({KEY: (1, None)})
    assert cache.get([KEY]) == {}


def test_the_database_can_delete_what_has_expired(saver: Any, store_uri: str, clock: Any) -> None:
    """The field of a TTL policy is a time of Firestore's."""
    far = 10**12  # seconds; Firestore has no time after the year 9999
    FirestoreCache(saver).set({KEY: (1, 60), (NS, "forever"): (1, None), (NS, "far"): (1, far)})
    found = {doc.name: doc.fields[node_cache.EXPIRES] for doc in documents(saver)}
    assert found.pop(keys.cache_doc(NS, "forever")) is None
    assert found.pop(keys.cache_doc(NS, "far")) is None
    [expires] = found.values()
    assert expires.timestamp_value.seconds == clock.now // 10**9 + 60


class Around(GatherInterceptor):
    """Counts rounds of requests, and calls a function before an effect that it chooses."""

    def __init__(self) -> None:
        self.rounds = 0
        self.before: Any = lambda effect: None

    def around(self, effect: Any, perform: Any) -> Any:
        self.rounds += isinstance(effect, REQUESTS)
        self.before(effect)
        return perform(effect)

    def around_all(self, effects: Any, perform: Any) -> Any:
        return perform(effects)


class CrashError(Exception):
    """The process ends here."""


def test_a_crash_leaves_what_was_there_and_an_object_that_is_swept(make_saver: Any, monkeypatch: Any) -> None:
    around = Around()
    cache = FirestoreCache(make_saver(interceptors=[around]))
    cache.set({KEY: ("old", None)})

    def crash(effect: Any) -> None:
        if isinstance(effect, Commit):
            raise CrashError

    around.before = crash
    with pytest.raises(CrashError):
        cache.set({KEY: (secrets.token_hex(node_cache.INLINE_BYTES), None)})
    other = make_saver()
    assert len(blobs(other)) == 1
    assert FirestoreCache(other).get([KEY]) == {KEY: "old"}
    monkeypatch.setattr(module, "ORPHAN_AGE", -3600)
    assert FirestoreCache(other).sweep() == 0
    assert blobs(other) == []
    assert FirestoreCache(other).get([KEY]) == {KEY: "old"}


def test_a_sweep_deletes_nothing_that_was_replaced_meanwhile(make_saver: Any) -> None:
    around = Around()
    sweeping, writing = FirestoreCache(make_saver(interceptors=[around])), FirestoreCache(make_saver())
    writing.set({KEY: ("old", -1)})

    def replaced(effect: Any) -> None:
        if isinstance(effect, Commit):
            writing.set({KEY: ("new", None)})

    around.before = replaced
    assert sweeping.sweep() == 0
    assert writing.get([KEY]) == {KEY: "new"}


def test_all_keys_of_a_step_are_one_request(make_saver: Any) -> None:
    around = Around()
    cache = FirestoreCache(make_saver(interceptors=[around]))
    wanted: list[FullKey] = [(NS, str(number)) for number in range(20)]
    cache.set({one: (int(one[1]), None) for one in wanted})
    around.rounds = 0
    assert cache.get(wanted) == {one: int(one[1]) for one in wanted}
    assert around.rounds == 1
    cache.get([])
    assert around.rounds == 1
