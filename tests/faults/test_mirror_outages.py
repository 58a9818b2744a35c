"""A store in two buckets, one of which is away: nothing acknowledged is lost, and reads continue."""

from __future__ import annotations

import operator
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, TypedDict

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import StoreUnavailableError
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.testing.storage_proxy import StorageProxy
from tests.kit.impatience import impatient
from tests.system.build import cfg, checkpoint, cid, version

SECONDS = 0.3
"""How long a call waits for a bucket that is away. Requests to other services keep all their time."""

METADATA = {"source": "loop", "step": 0, "parents": {}}


class Region:
    """Two buckets behind a proxy, and the names of both."""

    def __init__(self, stack: ExitStack, storage_url: str, project: str) -> None:
        anonymous = AnonymousCredentials()
        self._stack = stack
        self._savers: list[GCSSaver] = []
        self.proxy = stack.enter_context(StorageProxy(storage_url))
        through = {"api_endpoint": self.proxy.url}
        self._client = storage.Client(project=project, credentials=anonymous, client_options=through)
        plain = storage.Client(project=project, credentials=anonymous)
        self.first, self.mirror = (plain.create_bucket(f"test-{uuid.uuid4().hex}") for _ in range(2))
        self._documents = firestore.Client(project=project, credentials=anonymous)
        for one in (self._client, plain, self._documents):
            stack.callback(one.close)

    def saver(self, **options: Any) -> GCSSaver:
        """A saver with caches of its own, which knows both buckets."""
        bucket = self._client.bucket(self.first.name)
        options = {"mirror": self.mirror.name, **options}
        saver = GCSSaver(bucket, firestore=self._documents, prefix="agents", root="one/store", **options)
        self._savers.append(saver)
        return self._stack.enter_context(saver)

    def alone(self) -> GCSSaver:
        """A saver on the mirror alone, after a failover."""
        saver = GCSSaver(self.mirror.name, firestore=self._documents, prefix="agents", root="one/store")
        saver.admin.rebind()
        return self._stack.enter_context(saver)

    def away(self, bucket: Any, how: str = "reset") -> None:
        """All requests to a bucket fail from now on."""
        self.proxy.outages = {bucket.name: how}
        for saver in self._savers:
            blobs: Any = saver._backend.blobs
            one = blobs.buckets[bucket.name == self.mirror.name]
            one._timeout = one._read_timeout = SECONDS

    def back(self) -> None:
        """Both buckets answer again, to new savers."""
        self.proxy.outages = {}


@pytest.fixture
def region(firestore_emulator: str, storage_emulator: str, project_id: str) -> Iterator[Region]:
    with ExitStack() as stack:
        yield Region(stack, storage_emulator, project_id)


def large(number: int) -> str:
    """A text that is too large for a document, and shares nothing with others."""
    return random.Random(number).randbytes(140_000).hex()


def put(saver: GCSSaver, number: int) -> None:
    parent = number - 1 or None
    saver.put(cfg(parent), checkpoint(number, {"v": large(number)}), METADATA, {"v": version(number)})


def value(saver: GCSSaver) -> Any:
    found = saver.get_tuple(cfg())
    return None if found is None else found.checkpoint["channel_values"]["v"]


class State(TypedDict):
    seen: Annotated[list[int], operator.add]
    noise: bytes


def build(saver: GCSSaver, steps: int, *, before: Callable[[int], None] = lambda _: None) -> Any:
    """A graph whose every step stores an object."""

    def step(state: State) -> dict[str, Any]:
        number = len(state["seen"])
        before(number)
        return {"seen": [number], "noise": random.Random(number).randbytes(12_000)}

    builder = StateGraph(State)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: END if len(state["seen"]) >= steps else "step")
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("steps", [12, pytest.param(500, marks=pytest.mark.soak)])
def test_a_run_whose_bucket_is_killed_loses_no_step(region: Region, steps: int) -> None:
    """The bucket does not return. The run continues on the mirror, with every step that it had stored."""
    config = {"configurable": {"thread_id": "t"}, "recursion_limit": steps + 5}
    middle = steps // 2

    def kill(number: int) -> None:
        if number == middle:
            region.away(region.first)

    graph = build(region.saver(inline_max_bytes=2000, cache_max_bytes=0), steps, before=kill)
    with pytest.raises(StoreUnavailableError):
        graph.invoke({"seen": [], "noise": b""}, config, durability="sync")
    # Reads continue without the bucket.
    found = graph.get_state(config).values
    # The last step's pending writes were stored if they were small enough for a document.
    assert found["seen"] in (list(range(middle)), list(range(middle + 1))), "a step that was stored is lost"
    after = region.alone()
    done = build(after, steps).invoke(None, config, durability="sync")
    assert done["seen"] == list(range(steps))
    assert done["noise"] == random.Random(steps - 1).randbytes(12_000)
    assert [one for one in after.admin.verify(depth="data") if one.is_damage] == []


@pytest.mark.parametrize("how", ["stall", pytest.param("503", marks=pytest.mark.soak)])
def test_reads_do_not_wait_for_a_bucket_again(region: Region, how: str) -> None:
    put(region.saver(), 1)
    put(region.saver(), 2)
    events: list[Any] = []
    reader = region.saver(on_event=events.append, cache_max_bytes=0)
    assert value(reader) == large(2)
    region.away(region.first, how)
    assert value(reader) == large(2)
    asked = region.proxy.faults.happened.total()
    found = reader.get_tuple(cfg(1))
    assert found is not None
    assert found.checkpoint["channel_values"]["v"] == large(1)
    assert region.proxy.faults.happened.total() == asked, "the bucket was asked again"
    read = [event for event in events if isinstance(event, ReadFromMirror)]
    assert [event.reason for event in read] == ["unavailable"] * 2


@pytest.mark.parametrize("which", ["first", "mirror"])
def test_a_put_needs_both_buckets(region: Region, which: str) -> None:
    saver = region.saver()
    put(saver, 1)
    region.away(getattr(region, which))
    with pytest.raises(StoreUnavailableError):
        put(saver, 2)
    with pytest.raises(StoreUnavailableError):
        saver.delete_thread("t")
    assert saver.admin.checkpoint_ids(cfg()) in ([], [cid(1)])
    region.back()
    saver = impatient(region.saver())  # The deletion above crashed.
    put(saver, 1)
    put(saver, 2)
    assert value(region.saver()) == large(2)
    assert [one for one in saver.admin.verify(depth="data") if one.kind != "unreferenced"] == []
    saver.delete_thread("t")
    for bucket in (region.first, region.mirror):
        assert [blob.name for blob in bucket.list_blobs(prefix="agents/") if "~setup" not in blob.name] == []
