"""Every effect passes through the interceptors, in both colors; and what the shipped ones count and delay."""

import asyncio
import time
from contextlib import closing

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import (
    REQUESTS,
    BlobRequest,
    Compute,
    DocumentRequest,
    Effect,
    Emit,
    Gather,
    GetBlob,
    Now,
    PutBlob,
)
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
from langgraph_gcs_saver.engine.runner import Backend, arun
from langgraph_gcs_saver.errors import InvalidOptionError, StoreUnavailableError
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.testing.interceptors import KINDS, CountingInterceptor, LatencyInterceptor
from tests.kit.performing import both, perform_async, perform_sync
from tests.system.build import cfg, noise, put, values


@pytest.fixture
def make_backend(tmp_path):
    opened = []

    def make(*interceptors):
        stores = LocalDocuments(tmp_path, timeout=900), LocalBlobs(tmp_path, timeout=900)
        opened.append(Backend(*stores, interceptors=interceptors))
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


class Noting(GatherInterceptor):
    """Notes what it stands around, before and after."""

    def __init__(self, notes, name=""):
        self.notes, self.name = notes, name

    def _note(self, when, what):
        self.notes.append(f"{when} {self.name}{what}")

    def around(self, effect, perform):
        self._note("before", type(effect).__name__)
        try:
            return perform(effect)
        finally:
            self._note("after", type(effect).__name__)

    async def aaround(self, effect, perform):
        self._note("before", type(effect).__name__)
        try:
            return await perform(effect)
        finally:
            self._note("after", type(effect).__name__)

    def around_all(self, effects, perform):
        self._note("before", len(effects))
        try:
            return perform(effects)
        finally:
            self._note("after", len(effects))

    async def aaround_all(self, effects, perform):
        self._note("before", len(effects))
        try:
            return await perform(effects)
        finally:
            self._note("after", len(effects))


def flow():
    yield from PutBlob("a", b"1")
    yield from Compute(lambda: None)
    yield from Compute(lambda: None, size=1 << 30)
    found = yield from Gather((GetBlob("a"), GetBlob("b")))
    alone = yield from Gather((GetBlob("a"),))
    none = yield from Gather(())
    return found, alone, none


@both
def test_every_effect_passes_through_once(make_backend, perform):
    notes = []
    assert perform(flow(), make_backend(Noting(notes))) == ((b"1", None), (b"1",), ())
    assert notes[:7] == [
        *("before PutBlob", "after PutBlob"),
        *("before Compute", "after Compute") * 2,
        "before 2",
    ]
    # Both at the same time, in any order.
    assert sorted(notes[7:11]) == ["after GetBlob"] * 2 + ["before GetBlob"] * 2
    assert notes[11:] == ["after 2", "before GetBlob", "after GetBlob"]


@both
def test_the_first_is_the_outermost(make_backend, perform):
    notes = []
    perform(iter_now(), make_backend(Noting(notes, "outer "), Noting(notes, "inner ")))
    assert notes == ["before outer Now", "before inner Now", "after inner Now", "after outer Now"]


def iter_now():
    return (yield from Now())


def test_the_effects_are_all_that_a_store_performs():
    def all_of(kind):
        return {kind, *(one for below in kind.__subclasses__() for one in all_of(below))}

    def names(kind):
        # Tests have effects of their own, too.
        return {one.__name__ for one in all_of(kind) - {kind} if one.__module__ == Effect.__module__}

    requests = names(DocumentRequest) | names(BlobRequest)
    assert requests == set(KINDS)
    assert len(KINDS) == len(REQUESTS)
    local = {"Gather", "Compute", "Durable", "Now", "Pause", "Emit", "Ask", "On"}
    assert names(Effect) - requests == {*local, "DocumentRequest", "BlobRequest"}


class Swapping(Interceptor):
    """Performs another effect, answers itself, and fails."""

    def around(self, effect, perform):
        match effect:
            case GetBlob("another"):
                return perform(GetBlob("a"))
            case GetBlob("answer"):
                return b"its own"
            case GetBlob("fail"):
                raise StoreUnavailableError("It fails.")
        return perform(effect)

    async def aaround(self, effect, perform):
        def answer(one):
            return one

        match self.around(effect, answer):
            case Effect() as other:
                return await perform(other)
            case other:
                return other


@both
def test_an_interceptor_may_do_anything(make_backend, perform):
    def asking():
        yield from PutBlob("a", b"1")
        found = yield from Gather((GetBlob("another"), GetBlob("answer")))
        try:
            yield from GetBlob("fail")
        except StoreUnavailableError as error:
            return found, str(error)

    assert perform(asking(), make_backend(Swapping())) == ((b"1", b"its own"), "It fails.")


class Plain:
    """No subclass: the two methods are enough."""

    def __init__(self):
        self.seen = []

    def around(self, effect, perform):
        self.seen.append(type(effect))
        return perform(effect)

    async def aaround(self, effect, perform):
        self.seen.append(type(effect))
        return await perform(effect)


def name_of(value):
    return type(value).__name__


@pytest.mark.parametrize("wrong", [None, "count", 3, [object()], {"a": Plain()}, Plain()], ids=name_of)
def test_what_is_no_interceptor_is_refused(tmp_path, wrong):
    with pytest.raises(InvalidOptionError, match=r"interceptors is .* must be a list of objects with .* aaround"):
        GCSSaver.from_conn_string(f"file://{tmp_path}", interceptors=wrong)


def test_a_saver_passes_all_it_does_through_its_interceptors(make_saver):
    plain, count = Plain(), CountingInterceptor()
    saver = make_saver(interceptors=[plain, count])
    put(saver, 1, {"small": 1, "large": noise(20_000), "also": noise(30_000, "b")})
    written = list(count.rounds)
    assert ("PutBlob", "PutBlob") in [tuple(sorted(kinds)) for kinds in written]
    assert any("Commit" in kinds for kinds in written)
    assert {Compute, Emit} & set(plain.seen)
    count.clear()
    assert values(saver.get_tuple(cfg()))["small"] == 1
    found = asyncio.run(saver.aget_tuple(cfg()))
    assert values(found)["small"] == 1
    rounds = [sorted(kinds) for kinds in count.rounds]
    assert rounds[0] == ["QueryDocs", "QueryDocs"]
    assert rounds == rounds[: len(rounds) // 2] * 2, "both take the same rounds"
    assert {kind.__name__ for kind in plain.seen} >= set(count.requests)


# What is shipped


@both
def test_rounds_are_counted(make_backend, perform):
    count, second = CountingInterceptor(), CountingInterceptor()
    perform(flow(), make_backend(count, second))
    assert count.rounds == second.rounds == [("PutBlob",), ("GetBlob", "GetBlob"), ("GetBlob",)]
    assert count.requests == {"PutBlob": 1, "GetBlob": 3}
    count.clear()
    assert (count.rounds, second.requests.total()) == ([], 4)


@both
def test_local_acts_and_empty_gathers_are_no_rounds(make_backend, perform):
    def local():
        yield from Now()
        yield from Gather((Compute(int), Compute(str)))

    count = CountingInterceptor()
    perform(local(), make_backend(count))
    assert count.rounds == []


@both
def test_a_request_that_fails_counts(make_backend, perform):
    def failing():
        return (yield from GetBlob("fail"))

    count = CountingInterceptor()
    with pytest.raises(StoreUnavailableError):
        perform(failing(), make_backend(count, Swapping()))
    assert count.rounds == [("GetBlob",)]


def test_calls_at_the_same_time_have_rounds_of_their_own(make_backend):
    count = CountingInterceptor()
    backend = make_backend(count)

    async def many():
        await asyncio.gather(*(arun(flow(), backend) for _ in range(5)))

    asyncio.run(many())
    assert sorted(count.rounds) == sorted([("PutBlob",), ("GetBlob", "GetBlob"), ("GetBlob",)] * 5)


def test_latency_is_added_to_requests_by_kind(make_backend, monkeypatch):
    waited, real = [], asyncio.sleep
    monkeypatch.setattr(time, "sleep", waited.append)

    async def sleep(seconds):
        waited.append(seconds)
        await real(0)  # clock: it gives others a turn

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for perform in (perform_sync, perform_async):
        for given, expected in (
            (0.5, [0.5] * 4),
            ({"GetBlob": 2, "DeleteBlobs": 9}, [2] * 3),
            ({}, []),
        ):
            with closing(make_backend(LatencyInterceptor(given))) as backend:
                perform(flow(), backend)
            assert [one for one in waited if one] == expected
            waited.clear()


@pytest.mark.parametrize("wrong", [-1, {"GetBlob": -0.1}, {"Compute": 1}, {"get_blob": 1}], ids=repr)
def test_wrong_latencies_are_refused(wrong):
    with pytest.raises(InvalidOptionError, match=r"negative|There is no request"):
        LatencyInterceptor(wrong)
    assert LatencyInterceptor(dict.fromkeys(KINDS, 1))
