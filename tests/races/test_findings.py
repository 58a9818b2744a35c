"""What reviews and explorations found besides lost races, each as a test of its own."""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Compute, Effect, Emit, Flow, Gather, GetBlob, Now, QueryDocs
from langgraph_gcs_saver.engine.runner import OFFLOAD_BYTES, Backend, arun
from langgraph_gcs_saver.errors import GCSSaverError, InvalidConfigError, SerializationError
from langgraph_gcs_saver.events import CheckpointSkipped
from langgraph_gcs_saver.flows import load, save, threads
from langgraph_gcs_saver.flows.load import Search
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.arguments import put_request

from .world import (
    LARGE,
    LOADS,
    SERDE,
    SMALL,
    THREAD,
    State,
    World,
    checkpoint,
    config,
    dangling,
    list_flow,
    new_context,
    play,
    put_flow,
    random_bytes,
    state,
    values_of,
    writes_flow,
)

ALL = Search(THREAD, None, None, None, None)


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        yield saver


def _rpcs(seen: list[Effect[Any]]) -> list[Effect[Any]]:
    return [effect for effect in seen if not isinstance(effect, (Compute, Emit, Now))]


def _checkpoint_name(world: World) -> str:
    return next(doc.name for doc in world.checkpoints())


# Live objects: LangGraph hands over what the next step may change


async def _put_and_change(saver: GCSSaver, given: Any, parent: str | None, new_versions: Any) -> Any:
    """Change the objects of a checkpoint while it is stored; what is read must be as it was when `aput` was called."""
    given["versions_seen"] = {"node": {"x": "1"}}
    put = asyncio.ensure_future(saver.aput(config(THREAD, parent), given, {"source": "fork"}, new_versions))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given["channel_values"]["x"].append("changed")
    given["versions_seen"]["node"]["x"] = "changed"
    given["channel_versions"]["x"] = "changed"
    await put
    found = await saver.aget_tuple(config(THREAD))
    assert found is not None
    assert found.checkpoint["versions_seen"] == {"node": {"x": "1"}}
    assert found.checkpoint["channel_versions"]["x"] != "changed"
    return found.checkpoint["channel_values"]["x"]


async def test_a_fork_is_stored_as_it_was_when_the_call_was_made(saver: GCSSaver) -> None:
    assert await _put_and_change(saver, checkpoint("1", state(x=["a"], y="z")), None, {}) == ["a"]


async def test_a_large_step_is_stored_as_it_was_when_the_call_was_made(saver: GCSSaver) -> None:
    given = checkpoint("1", state(x=["a"], big=random_bytes("big", 2 * OFFLOAD_BYTES)))
    assert await _put_and_change(saver, given, None, dict(given["channel_versions"])) == ["a"]


async def test_a_value_that_the_parent_should_have_is_stored_as_it_was(saver: GCSSaver) -> None:
    given = checkpoint("1", state(x=["a"], y="z"))
    # The parent is not there, so `x` is needed after all.
    assert await _put_and_change(saver, given, "0", {"y": given["channel_versions"]["y"]}) == ["a"]


# The event loop


class _Documents:
    """The documents and objects of a world, as stores; a suspension stands for each RPC."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def _perform(self, effect: Effect[Any]) -> Any:
        await asyncio.sleep(0)
        answer, self.world = self.world.perform(effect, time.time_ns())
        return answer

    aget_docs = aquery_docs = acommit = _perform

    def put_blob(self, effect: Effect[Any]) -> Any:
        answer, self.world = self.world.perform(effect, time.time_ns())
        return answer

    get_blob = put_blob


class _Timed:
    """Awaits a coroutine and notes the most CPU seconds that it takes its event loop's thread between two awaits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.longest = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            begun = time.thread_time()
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            finally:
                self.longest = max(self.longest, time.thread_time() - begun)
            try:
                step = partial(self._coroutine.send, (yield waited_for))
            except BaseException as error:
                step = partial(self._coroutine.throw, error)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """The garbage collector's pauses are the interpreter's, and come anywhere."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(("channels", "length"), [(3000, 15), (600, 50)])
async def test_many_channels_do_not_hold_up_the_event_loop(channels: int, length: int) -> None:
    context = new_context("a")
    stores: Any = _Documents(World())
    backend = Backend(stores, stores)
    told = []

    async def perform(what: str, flow: Flow[Any]) -> None:
        timed = _Timed(arun(flow, backend))
        await timed
        if timed.longest > 0.05:
            told.append(f"{what} took {timed.longest * 1000:.0f} ms at a stretch")

    found: State = {f"channel{number}": ("1", number) for number in range(channels)}
    await perform("first put", put_flow(context, "00", None, found))
    for number in range(1, length):
        found = {**found, "channel1": (str(number), -number)}
        put = put_flow(context, f"{number:02}", f"{number - 1:02}", found, ["channel1"])
        await perform("put", put)
    for reader in (context, new_context("b")):
        await perform("get_tuple", load.get_tuple(THREAD, "", None, LOADS, reader))
        await perform("list", list_flow(ALL, None, reader))
    backend._threads().beside.close(None)
    assert not told


# Runs


def test_deleting_a_thread_removes_the_runs_of_replaced_contents_too() -> None:
    context, world = new_context("a"), World()
    for run, value in (("r1", b"1"), ("r2", b"2"), ("r3", b"3"), ("r2", b"4")):
        _, world = play(put_flow(context, "1", None, state(x=value), run=run), world)
    assert len([name for name in world.docs if name.startswith(keys.RUNS)]) == 3
    _, world = play(threads.delete_thread(THREAD, context), world)
    assert not world.docs


def test_a_thread_that_somebody_else_deleted_gets_its_documents_again() -> None:
    here, there, world = new_context("a"), new_context("b"), World()
    _, world = play(put_flow(here, "1", None, state(x=1)), world)
    _, world = play(threads.delete_thread(THREAD, there), world)
    # Within the minute in which a process does not note again that a thread is active.
    _, world = play(put_flow(here, "2", None, state(x=2), now=5.0), world)
    assert world.doc(keys.run_doc("r1", THREAD)) is not None
    thread = world.doc(keys.thread_doc(THREAD))
    assert thread is not None
    assert thread.fields["thread_id"] == THREAD


@pytest.mark.parametrize("run_id", [5, True, None, 1.5])
def test_a_run_id_that_is_no_text_can_be_asked_for(saver: GCSSaver, run_id: Any) -> None:
    saver.put(config(THREAD), checkpoint("1", {}), {"run_id": run_id}, {})  # type: ignore[typeddict-item]
    saver.put(config(THREAD), checkpoint("2", {}), {"run_id": "5"}, {})
    found = list(saver.list(config(THREAD), filter={"run_id": run_id}))
    assert [t.checkpoint["id"] for t in found] == ["1"]
    assert found[0].metadata["run_id"] == run_id


# Damage


LONG = "x" * 300
"""An id that is a hash in names, from which it cannot be read back."""


def test_a_damaged_checkpoint_of_a_long_thread_id_is_told_of() -> None:
    context = new_context("a")
    _, world = play(put_flow(context, "1", None, state(a="mine"), thread_id=LONG), World())
    name = _checkpoint_name(world)
    world = world.changed(name, digest=b"damaged")
    # A thread whose id is what the document's name shows of the other's.
    hostile = name.split("/")[1]
    for other in (hostile, hostile[3:]):
        _, world = play(put_flow(context, "1", None, state(a="another's"), thread_id=other), world)
    for search in (Search(LONG, None, None, None, None), Search(None, None, None, None, None)):
        seen: list[Effect[Any]] = []
        found, _ = play(list_flow(search, None, context), world, seen)
        assert {loaded.manifest.thread_id for loaded in found} == (
            set() if search.thread_id else {hostile, hostile[3:]}
        )
        skipped = [e.event for e in seen if isinstance(e, Emit) and isinstance(e.event, CheckpointSkipped)]
        assert len(skipped) == 1
        assert skipped[0].checkpoint_id == "1"


def test_a_document_whose_frames_are_no_bytes_is_stepped_over_and_replaced() -> None:
    context = new_context("a")
    channels = state(a=random_bytes("a", SMALL))
    _, world = play(put_flow(context, "1", None, channels), World())
    world = world.changed(_checkpoint_name(world), frames="text")
    seen: list[Effect[Any]] = []
    found, _ = play(list_flow(ALL, None, context), world, seen)
    assert not found
    assert any(isinstance(e, Emit) and isinstance(e.event, CheckpointSkipped) for e in seen)
    for other in (context, new_context("b")):
        _, healed = play(put_flow(other, "1", None, channels), world)
        assert dangling(healed) is None
        loaded, _ = play(load.get_tuple(THREAD, "", "1", LOADS, new_context("c")), healed)
        assert dict(loaded.values) == values_of(channels)


# What a listing costs


def _history(length: int) -> World:
    """Checkpoints of which each has three pending writes in objects, and few are rare."""
    world, context, without = World(), new_context("a"), new_context("b", inline=0)
    for number in range(length):
        parent = f"{number - 1:04}" if number else None
        metadata = {"source": "loop", "step": number, "rare": number % 50 == 0, "odd key": number == 0}
        _, world = play(put_flow(context, f"{number:04}", parent, state(a=number), metadata=metadata), world)
        for task in "xyz":
            writes = [("c", random_bytes(f"{task}{number}", LARGE))]
            _, world = play(writes_flow(without, f"{number:04}", task, writes), world)
    return world


@pytest.fixture(scope="module")
def history() -> World:
    return _history(100)


def test_a_filter_that_few_match_reads_only_their_pending_writes(history: World) -> None:
    # Damage to the writes of a checkpoint that does not match changes nothing.
    unwanted = next(
        name for name in history.docs if f"/{keys.WRITES}/" in name and keys.writes_checkpoint_id_of(name) == "0025"
    )
    for world in (history, history.changed(unwanted, writes=b"damaged")):
        seen: list[Effect[Any]] = []
        found, _ = play(
            list_flow(Search(THREAD, None, None, None, {"rare": True}), None, new_context("c")), world, seen
        )
        assert [loaded.manifest.checkpoint_id for loaded in found] == ["0050", "0000"]
        assert all(len(loaded.writes) == 3 for loaded in found)
        gathered = [one for e in seen if isinstance(e, Gather) for one in e.effects]
        assert sum(isinstance(one, GetBlob) for one in gathered) == 6
        assert not any(isinstance(e, GetBlob) for e in seen), "an object by itself is a round by itself"
        assert len(_rpcs(seen)) <= 4


def test_objects_of_pending_writes_are_read_in_one_round(history: World) -> None:
    seen: list[Effect[Any]] = []
    found, _ = play(load.get_tuple(THREAD, "", "0001", LOADS, new_context("c")), history, seen)
    assert len(found.writes) == 3
    assert len([e for e in _rpcs(seen) if not isinstance(e, Gather) or e.effects]) <= 3


def test_a_filter_that_only_we_can_apply_does_not_read_one_by_one(history: World) -> None:
    seen: list[Effect[Any]] = []
    found, _ = play(list_flow(Search(THREAD, None, None, None, {"odd key": True}), 1, new_context("c")), history, seen)
    assert [loaded.manifest.checkpoint_id for loaded in found] == ["0000"]
    queries = [e for e in seen if isinstance(e, QueryDocs) and e.collection.endswith(keys.CHECKPOINTS)]
    assert len(queries) <= 100 // load.CHECKPOINTS_PER_PAGE + 1


def test_a_listing_of_all_threads_needs_no_index(history: World) -> None:
    seen: list[Effect[Any]] = []
    search = Search(None, "", None, None, {"rare": True, "source": "loop"})
    found, _ = play(list_flow(search, 1, new_context("c")), history, seen)
    assert len(found) == 1
    groups = [e for e in seen if isinstance(e, QueryDocs) and e.group]
    assert groups
    assert not any(query.where for query in groups)


# Memory and size


def test_heads_take_no_more_memory_than_they_are_counted_for() -> None:
    context = new_context("a")
    given = checkpoint("1", state(a=1))
    given["versions_seen"] = {f"node{n}": {f"channel{c}": f"{c:032}.{n:016}" for c in range(50)} for n in range(50)}
    request = put_request(
        config(THREAD),
        given,
        {"source": "loop", "long": "x" * 50_000},
        {"a": "1"},
        serde=SERDE,
        context=context,
        now=0.0,
    )
    play(save.put(request, context), World())
    heads = context.heads
    assert len(pickle.dumps([head for head, _ in heads._entries.values()])) <= heads._bytes


def test_more_metadata_than_a_document_can_index_is_refused_before_anything_is_written(saver: GCSSaver) -> None:
    metadata: Any = {f"k{number}": "v" * 200 for number in range(6000)}
    with pytest.raises(InvalidConfigError, match="metadata"):
        saver.put(config(THREAD), checkpoint("1", state(a=1)), metadata, {})
    assert saver.get_tuple(config(THREAD)) is None


# Secrets


class _Telltale:
    def dumps_typed(self, value: Any) -> tuple[str, bytes]:
        if isinstance(value, str):
            raise TypeError(f"cannot write {value!r}")
        return SERDE.dumps_typed(value)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        raise ValueError(f"cannot read {data!r}")


def _told(call: Callable[[], Any], expected: type[GCSSaverError]) -> str:
    with pytest.raises(expected) as caught:
        call()
    return "".join(traceback.format_exception(caught.value))


def test_no_traceback_shows_what_the_serialiser_says_of_the_state(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri, serde=_Telltale()) as telltale, GCSSaver.from_conn_string(uri) as saver:
        secret = checkpoint("1", state(a="STATE"))
        put = partial(telltale.put, config(THREAD), secret, {}, secret["channel_versions"])
        told = _told(put, SerializationError)
        assert "STATE" not in told.replace('"STATE"', "")
        write = partial(telltale.put_writes, config(THREAD, "1"), [("a", "STATE")], "task")
        assert "STATE" not in _told(write, SerializationError).replace('"STATE"', "")
        saver.put(config(THREAD), secret, {}, secret["channel_versions"])
        assert "STATE" not in _told(partial(telltale.get_tuple, config(THREAD)), SerializationError)
