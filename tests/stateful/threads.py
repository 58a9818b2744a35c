"""A thread that has something of everything, and what readers get of a thread."""

import logging
import random
from contextlib import contextmanager

import pytest

from langgraph_gcs_saver.format import manifest
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.compat.xor_cipher import XorCipher

MOSTLY_LOCAL = pytest.mark.parametrize(
    "store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True
)
"""On the emulators by `make soak` only, where such a thread takes its time."""

LONG = "long thread id, " * 20
"""Over 200 bytes: names have its hash."""

VARIANTS = {
    "inline": {},
    "objects": {"inline_max_bytes": 0},
    "cipher": {"cipher": XorCipher(), "inline_max_bytes": 600},
    "stubs": {},
}
"""Ways to store a thread; `stored_as` does what options cannot."""


@contextmanager
def stored_as(variant, monkeypatch):
    """Options of a saver that stores in a way of `VARIANTS`; as `stubs`, no manifest fits its document."""
    with monkeypatch.context() as patch:
        if variant == "stubs":
            patch.setattr(manifest, "PAYLOAD_BYTES", 0)
        yield VARIANTS[variant]


def noise(seed, size=9000):
    return random.Random(f"noise {seed}").randbytes(size)


def message(n):
    rng = random.Random(f"message {n}")
    return {"id": n, "text": " ".join(f"{rng.randrange(10**6)}" for _ in range(40))}


def values(n, salt=""):
    """State of checkpoint `n`: growing, rarely changing, large, constant and empty values."""
    return {
        "messages": [f"{salt}{n}", *map(message, range(n))],
        "document": noise(f"{salt}{n // 20}"),
        "constant": {"same": "all the time"},
        "nothing": None,
        "empty": b"",
    }


def put(saver, thread, n, parent=None, *, ns="", run=None, roots=None, salt=""):
    """Put checkpoint `n` with `values`; what is the same as in its parent keeps the parent's version."""
    given = values(n, salt)
    versions = {**dict.fromkeys(given, version(n)), "constant": version(1)}
    new = set(given)
    if parent is not None:
        new.remove("constant")
        if n // 20 == parent // 20:
            new.remove("document")
            versions["document"] = version(parent)
    more = {"parents": roots or {}} if run is None else {"parents": roots or {}, "run_id": run}
    fresh = {channel: versions[channel] for channel in new}
    saver.put(cfg(thread, ns, parent), checkpoint(n, given, versions), metadata(step=n, **more), fresh)


ROOT = (10, 20, 30, 40, 45, 46, 50, 60, 70, 80)
"""Checkpoints of the root namespace: a line of tens, and a fork of 30 that ends with one that waits for an answer."""

LOST = 99
"""A checkpoint that was not stored, and has pending writes."""


def fill(saver, thread="t"):
    """Write a thread with a fork, namespaces of subgraphs, interrupts, and pending writes of all kinds."""
    for n in range(10, 81, 10):
        put(saver, thread, n, n - 10 or None, run=f"run {n // 30}")
    put(saver, thread, 45, 30, run="fork", salt="fork")
    put(saver, thread, 46, 45, run="fork", salt="fork")
    for ns, numbers, above in (
        ("sub:1", (21, 22), {"": cid(20)}),
        ("sub:2", (83, 84), {"": cid(80)}),
        ("sub:2|deep:3", (85,), {"": cid(80), "sub:2": cid(83)}),
        ("lasting", (26, 36, 56, 86), {"": cid(10)}),
        ("sub:4", (47,), {"": cid(46)}),
    ):
        for parent, n in zip((None, *numbers), numbers, strict=False):
            put(saver, thread, n, parent, ns=ns, run=f"run of {ns}", roots=above, salt=ns)
    # Repeated, with more: the first for a number wins, whichever document of the task holds it.
    for more in (("messages", "c"), ("messages", "d"), ("constant", noise("write"))):
        saver.put_writes(cfg(thread, n=40), [("messages", ["a", more[1]]), ("messages", "b"), more], "task", "~1")
        saver.put_writes(cfg(thread, n=40), [("messages", ["early", more[1]]), more], "zero", "~0")
    saver.put_writes(cfg(thread, n=40), [("document", noise("large", 150_000))], "large", "~2")
    saver.put_writes(cfg(thread, n=80), [("document", noise("larger", 150_000)), ("__error__", "oh")], "large", "~2")
    saver.put_writes(cfg(thread, n=30), [("__interrupt__", "asked")], "task", "~1")
    saver.put_writes(cfg(thread, n=30), [("__resume__", "answered")], "task", "~1")
    saver.put_writes(cfg(thread, n=46), [("__interrupt__", "asked")], "task", "~1")
    saver.put_writes(cfg(thread, "sub:1", 22), [("__interrupt__", "nobody will answer")], "task", "~1")
    saver.put_writes(cfg(thread, "sub:2", 84), [("messages", "in a subgraph")], "task" * 60, "~1")
    saver.put_writes(cfg(thread, n=LOST), [("messages", "early")], "task", "~1")


def told(found):
    """What a tuple says, but for the thread."""
    parent = None if found.parent_config is None else found.parent_config["configurable"]["checkpoint_id"]
    return parent, found.checkpoint, found.metadata, found.pending_writes


def everything(saver, thread="t"):
    """All checkpoints of a thread by namespace and number, read by their ids and, the same, in a list."""
    listed = list(saver.list(cfg(thread, None)))
    for one in listed:
        assert one.config["configurable"]["thread_id"] == thread
        assert saver.get_tuple(one.config) == one
    found = {(one.config["configurable"]["checkpoint_ns"], number(one)): told(one) for one in listed}
    assert len(found) == len(listed)
    return found


def check(make_saver, thread, expected, *, orphans=False, **options):
    """A thread reads as `expected`, by a saver without caches, without a warning, and all that it stores is whole.

    With `orphans`, objects of puts that lost a race may be there, which nothing refers to.
    """
    events = []
    with make_saver(**options, on_event=events.append) as saver:
        found = everything(saver, thread)
        assert sorted(found) == sorted(expected)
        assert found == expected, [key for key in found if found[key] != expected[key]]
        for ns in {ns for ns, _ in expected}:
            newest = max(n for other, n in expected if other == ns)
            assert told(saver.get_tuple(cfg(thread, ns))) == expected[ns, newest]
        findings = list(saver.admin.verify(thread, depth="data"))
        if orphans:
            findings = [one for one in findings if one.kind != "unreferenced" or not one.name.endswith(".zst")]
        assert findings == [], findings
    assert [event for event in events if event.level >= logging.WARNING] == []
