"""Listings of random histories, some of them damaged, against a list comprehension."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Effect, Emit
from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.events import CheckpointSkipped
from langgraph_gcs_saver.flows import load
from langgraph_gcs_saver.flows.load import Loaded, Search
from langgraph_gcs_saver.format import keys

from .world import LOADS, State, World, list_flow, new_context, play, put_flow, values_of, writes_flow

THREADS = ["t", "t_b", "", "x" * 300, "é/..\0"]
NAMESPACES = ["", "a", "a|b", "n" * 300, '!"~']
IDS = [*(f"{number:02}" for number in range(13)), "a", "ab", "é", "\U0001f600"]
FILTERS: list[dict[str, Any] | None] = [
    None,
    {"source": "loop"},
    {"step": 1},
    {"step": True},
    {"step": None},
    {"k.y": 1},
    {"source": "loop", "step": 1.0},
    {"extra": [1]},
    {"nobody has it": None},
]

Key = tuple[str, str, str]
"""Thread, namespace and id of a checkpoint."""


@dataclass(frozen=True, slots=True)
class _History:
    """A store, and what was put into it.

    Attributes:
        world: The store.
        metadata: The metadata of each checkpoint.
        whole: What reading a checkpoint by its id gives, for those that are not damaged.
    """

    world: World
    metadata: dict[Key, dict[str, Any]]
    whole: dict[Key, Loaded]


def _history(choose: random.Random) -> _History:
    world, context = World(), new_context("a")
    values: dict[Key, dict[str, Any]] = {}
    metadata: dict[Key, dict[str, Any]] = {}
    for number in range(choose.randint(1, 25)):
        thread_id, ns, checkpoint_id = key = (choose.choice(THREADS), choose.choice(NAMESPACES), choose.choice(IDS))
        parents = [known[2] for known in values if known[:2] == key[:2] and known != key]
        channels: State = {
            channel: (f"{number}", choose.randbytes(choose.choice([0, 5, 300])))
            for channel in choose.sample("pqr", choose.randint(0, 3))
        }
        values[key], metadata[key] = values_of(channels), _metadata(choose)
        put = put_flow(
            context,
            checkpoint_id,
            choose.choice([None, None, *parents]),
            channels,
            thread_id=thread_id,
            ns=ns,
            metadata=metadata[key],
        )
        _, world = play(put, world)
        for task in choose.sample("xyz", choose.randint(0, 2)):
            writes = [("c", task), ("__error__", "e")]
            _, world = play(writes_flow(context, checkpoint_id, task, writes, thread_id=thread_id, ns=ns), world)
    world, damaged = _damaged(world, values, choose)
    whole = {}
    for key, stored in values.items():
        try:
            loaded, _ = play(load.get_tuple(*key, LOADS, new_context("b")), world)
        except CheckpointCorruptError:
            continue  # Damaged itself, or it inherits from one that is.
        assert dict(loaded.values) == stored
        whole[key] = loaded
    assert not damaged & whole.keys()
    return _History(world, metadata, whole)


def _metadata(choose: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": choose.choice(["loop", "input"]),
        "step": choose.choice([1, 1.0, True, None, 2]),
        "k.y": choose.choice([1, "x"]),
    }
    return found | ({"extra": [1]} if choose.random() < 0.3 else {})


def _damaged(world: World, stored: Iterable[Key], choose: random.Random) -> tuple[World, set[Key]]:
    damaged = set()
    for key in stored:
        if choose.random() < 0.15:
            field = choose.choice(["digest", "manifest", "frames"])
            world = world.changed(keys.checkpoint_doc(*key), **{field: choose.choice([b"damaged", "no bytes"])})
            if field != "frames":  # A checkpoint is whole without them if no value of its is in them.
                damaged.add(key)
    return world, damaged


def _wanted(history: _History, search: Search) -> set[Key]:
    def matches(key: Key) -> bool:
        thread_id, ns, checkpoint_id = key
        found = history.metadata[key]
        return (
            search.thread_id in (None, thread_id)
            and search.ns in (None, ns)
            and search.checkpoint_id in (None, checkpoint_id)
            and (search.before is None or checkpoint_id < search.before)
            and all(_equal(found[k], v) if k in found else False for k, v in (search.wanted or {}).items())
        )

    return set(filter(matches, history.whole))


def _equal(found: Any, wanted: Any) -> bool:
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


def _search(choose: random.Random) -> Search:
    thread_id = choose.choice([*THREADS, None])
    return Search(
        thread_id=thread_id,
        ns=None if thread_id is None else choose.choice([*NAMESPACES, None, None]),
        checkpoint_id=choose.choice([None] * 4 + [choose.choice(IDS)]),
        before=choose.choice([None, None, choose.choice(IDS)]),
        wanted=choose.choice(FILTERS),
    )


def _check(history: _History, search: Search, limit: int | None) -> None:
    seen: list[Effect[Any]] = []
    found: list[Loaded] = []
    if limit != 0:  # with 0, GCSSaver.list reads no page
        found, _ = play(list_flow(search, limit, new_context("c")), history.world, seen)
    got = [(loaded.manifest.thread_id, loaded.manifest.ns, loaded.manifest.checkpoint_id) for loaded in found]
    wanted = _wanted(history, search)
    assert len(set(got)) == len(got), f"{search} gives some twice"
    assert set(got) <= wanted, f"{search} gives {set(got) - wanted}"
    assert len(got) == (len(wanted) if limit is None else min(limit, len(wanted))), f"{search} lacks some"
    if search.thread_id is not None:
        newest = sorted((checkpoint_id for _, _, checkpoint_id in wanted), reverse=True)
        assert [checkpoint_id for _, _, checkpoint_id in got] == newest[: len(got)], f"{search} is out of order"
    for key, loaded in zip(got, found, strict=True):
        whole = history.whole[key]
        assert (loaded.values, loaded.writes, loaded.metadata) == (whole.values, whole.writes, whole.metadata)
    skipped = [e.event for e in seen if isinstance(e, Emit) and isinstance(e.event, CheckpointSkipped)]
    ids = {checkpoint_id for _, _, checkpoint_id in history.metadata.keys() - history.whole.keys()}
    assert {event.checkpoint_id for event in skipped} <= ids, "something whole was stepped over"
    if limit is None and search == Search(None, None, None, None, None):
        assert len(skipped) == len(history.metadata) - len(history.whole), "something was left out without a word"


def _try(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(seed)
    monkeypatch.setattr(load, "CHECKPOINTS_PER_PAGE", choose.choice([1, 2, 3, 7, 50]))
    monkeypatch.setattr(load, "PAGE_BYTES", choose.choice([50, 300, 64 << 20]))
    history = _history(choose)
    _check(history, Search(None, None, None, None, None), None)
    for _ in range(15):
        _check(history, _search(choose), choose.choice([None, None, 0, 1, 2, 5]))


@pytest.mark.parametrize("part", range(15))
def test_a_listing_gives_what_is_whole_and_wanted(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20 * part, 20 * part + 20):
        _try(seed, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("thousands", range(1, 5))
def test_listings_of_many_histories(thousands: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(1000 * thousands, 1000 * thousands + 1000):
        _try(seed, monkeypatch)
