"""What reading takes in memory, as a multiple of what is read: by `tracemalloc`, or in a process of its own."""

import asyncio
import subprocess
import sys
import tracemalloc

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import CheckpointCorruptError, ValueTooLargeError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.manifest import CHAIN_FRAMES, CHAIN_SIZES
from tests.patience import PATIENCE
from tests.security.forging import name_of
from tests.security.sealing import CODEC, msgpack_bytes, opened, seal, seal_writes, zeros
from tests.system.build import cfg, cid, noise, put, values

MIB = 1 << 20
NO_CACHE = {"cache_max_bytes": 0}


@pytest.fixture
def store_uri(tmp_path):
    """The embedded store only: values are decoded in one way, wherever they come from."""
    return f"file://{tmp_path}/store"


def peak_of(function):
    """What a function returns, or raises, and the most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        try:
            result = function()
        except (CheckpointCorruptError, ValueTooLargeError) as error:
            result = error
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_measure_sees_what_is_allocated():
    assert peak_of(lambda: len(bytes(64 * MIB)))[1] >= 64 * MIB


# Honest values


SIZE = 12 * MIB
VERSIONS = 25


def grow(saver, versions=VERSIONS, size=SIZE, **options):
    """A value of so many bytes, of which a few are new in each version."""
    value = [noise(MIB, n) for n in range(size // MIB)]
    for n in range(1, versions + 1):
        value = [*value, f"step {n}"]
        put(saver, n, {"large": value, "small": n}, parent=n - 1 or None, **options)
    return value


@pytest.mark.parametrize("read", ["get_tuple", "aget_tuple"])
def test_a_value_at_its_25th_version_takes_little_more_than_itself(read, make_saver, store_uri):
    """Its chain has some ten frames, each of which gives a value as large."""
    expected = grow(make_saver(cache_max_bytes=1 << 30, verify="off"))
    with GCSSaver.from_conn_string(store_uri, **NO_CACHE) as reader:
        reader.setup()
        found = []

        async def aget_tuple():
            found.append(await reader.aget_tuple(cfg()))

        if read == "get_tuple":
            _, peak = peak_of(lambda: found.append(reader.get_tuple(cfg())))
        else:
            _, peak = peak_of(lambda: asyncio.run(aget_tuple()))
    assert values(found[0])["large"] == expected
    # Of the value, the one before it, and what LangGraph makes of it, two at a time; and its frames at first.
    assert peak < 2.5 * SIZE, f"{peak / SIZE:.2f} times"


def test_the_chain_of_that_value_is_long(make_saver, raw):
    grow(make_saver(cache_max_bytes=1 << 30, verify="off"), size=4 * MIB)
    head, _ = opened(raw, name_of(VERSIONS))
    assert len(head["channels"]["large"]["chain"]) > 5


@pytest.mark.parametrize("how", ["list", "verify", "repair", "delta"])
def test_many_versions_take_no_more_than_some(how, make_saver, store_uri):
    """The 25 versions have 100 MiB together, and their chains twice as much."""
    size = 4 * MIB
    grow(make_saver(cache_max_bytes=1 << 30, verify="off"), size=size)
    with GCSSaver.from_conn_string(store_uri, **NO_CACHE) as reader:

        def read():
            match how:
                case "list":
                    assert sum(1 for _ in reader.list(cfg())) == VERSIONS
                case "verify":
                    assert list(reader.admin.verify("t", depth="data")) == []
                case "repair":
                    assert list(reader.admin.plan_repair("t")) == []
                case "delta":
                    reader.get_delta_channel_history(config=cfg(), channels=["large"])

        _, peak = peak_of(read)
    # A page of a listing has 64 MiB of values at most, and is held as values and as what was made of them; verify keeps
    # as much in a cache.
    most = {"list": 3 * 64 * MIB, "verify": 3 * 64 * MIB, "repair": 3 * 64 * MIB, "delta": 5 * size}[how]
    assert peak < most, f"{peak / MIB:.0f} MiB"


def test_a_page_is_bounded_by_its_pending_writes_too(make_saver, store_uri):
    saver = make_saver(verify="off", inline_max_bytes=0)
    size = 24 * MIB
    for n in range(1, 9):
        put(saver, n, {"a": n}, parent=n - 1 or None)
        saver.put_writes(cfg(n), [("a", noise(1000, n) + bytes(size))], "task")
    with GCSSaver.from_conn_string(store_uri, **NO_CACHE) as reader:

        def read():
            found = []
            for one in reader.list(cfg()):
                found.append((one.config["configurable"]["checkpoint_id"], len(one.pending_writes)))
                del one
            return found

        found, peak = peak_of(read)
    assert found == [(cid(n), 1) for n in range(8, 0, -1)]
    assert peak < 6 * size, f"{peak / size:.1f} times one checkpoint's"


def test_a_history_holds_no_writes_of_other_channels(make_saver, store_uri):
    saver = make_saver(verify="off", inline_max_bytes=0)
    size = 24 * MIB
    for n in range(1, 9):
        put(saver, n, {"a": n}, parent=n - 1 or None)
        saver.put_writes(cfg(n), [("other", noise(1000, n) + bytes(size)), ("delta", n)], "task")
    with GCSSaver.from_conn_string(store_uri, **NO_CACHE) as reader:
        found, peak = peak_of(lambda: reader.get_delta_channel_history(config=cfg(8), channels=["delta"])["delta"])
    assert [value for _, _, value in found["writes"]] == list(range(1, 8))
    assert peak < 6 * size, f"{peak / size:.1f} times one checkpoint's"


# Forged chains


LIMIT = 16 * MIB
"""`max_value_bytes` of the readers below."""


def chain_of(raw, name, count, size):
    """Forge a value whose chain has so many frames, each of a value of so many bytes, in a document's own frames."""
    inner, chain, before = b"", [], None
    for k in range(count):
        plain = msgpack_bytes(size) + k.to_bytes(4, "big") + bytes(size - 9)
        frame, digest = CODEC.encode(plain, before), digest_of(plain)
        chain.append({"k": k, "stored": len(frame), "at": len(inner), "size": size, "digest": digest[:8]})
        inner, before = inner + frame, plain
    last = chain[-1]
    del last["size"], last["digest"]
    head, tail = opened(raw, name)
    head["channels"] = {"v": {"type": "msgpack", "sha256": digest, "size": size, "chain": chain}}
    seal(raw, name, head, tail, frames=inner)
    return len(inner)


def digest_of(plain):
    return Digested.of(plain).digest


def test_a_long_chain_of_bombs_takes_two_of_its_values(make_saver, raw):
    """A few stored kilobytes could take a hundred times as much memory."""
    put(make_saver(), 1, {"v": 1})
    stored = chain_of(raw, name_of(1), 16, LIMIT)
    assert stored < 20_000
    with raw.reader(max_value_bytes=LIMIT, **NO_CACHE) as reader:
        found, peak = peak_of(lambda: reader.get_tuple(cfg(1)))
    assert len(values(found)["v"]) == LIMIT - 5, "the forgery is no good"
    assert peak < 2.5 * LIMIT, f"{peak / LIMIT:.1f} times"


def test_a_chain_of_too_many_frames_is_damage_before_anything_is_fetched(make_saver, raw):
    put(make_saver(), 1, {"v": 1})
    chain_of(raw, name_of(1), CHAIN_FRAMES, 100)  # 64 frames of 100 bytes are more than 16 times 100 bytes
    head, tail = opened(raw, name_of(1))
    fetched = []
    with raw.reader() as reader:
        for length in (CHAIN_FRAMES, CHAIN_FRAMES + 1):
            chain = [{"k": k, "stored": 9, "in": cid(77), "size": 100, "digest": "0" * 8} for k in range(length)]
            chain[0]["size"] = 100 * CHAIN_FRAMES  # so that it is the number of frames, not their sizes
            head["channels"]["v"]["chain"] = chain
            seal(raw, name_of(1), head, tail)
            with pytest.raises(CheckpointCorruptError) as caught:
                reader.get_tuple(cfg(1))
            fetched.append("a frame is missing" in caught.value.reason)
            assert "does not parse: a chain of too many frames" in caught.value.reason or fetched[-1]
    assert fetched == [True, False]


@pytest.mark.parametrize(("count", "is_read"), [(CHAIN_SIZES, True), (CHAIN_SIZES + 1, False)])
def test_a_chain_of_values_that_are_too_large_together(count, is_read, make_saver, raw):
    """The work is bounded, too: at most sixteen times that of the largest value."""
    put(make_saver(), 1, {"v": 1})
    chain_of(raw, name_of(1), count, 1000)
    with raw.reader() as reader:
        if is_read:
            assert len(values(reader.get_tuple(cfg(1)))["v"]) == 995
        else:
            with pytest.raises(CheckpointCorruptError, match="together are too large"):
                reader.get_tuple(cfg(1))


def test_every_value_of_a_chain_is_held_to_the_limit(make_saver, raw):
    """A base that is larger than the value: its saver had a greater limit."""
    put(make_saver(), 1, {"v": 1})
    base = noise(200) + bytes(LIMIT)
    plain = msgpack_bytes(1000) + noise(995)
    full, frame = CODEC.encode(base), CODEC.encode(plain, base)
    head, tail = opened(raw, name_of(1))
    chain = [
        {"k": 0, "stored": len(full), "size": len(base), "digest": digest_of(base)[:8]},
        {"k": 1, "stored": len(frame), "at": len(full)},
    ]
    head["channels"] = {"v": {"type": "msgpack", "sha256": digest_of(plain), "size": len(plain), "chain": chain}}
    seal(raw, name_of(1), head, tail, frames=full + frame)
    with raw.reader() as reader:
        assert values(reader.get_tuple(cfg(1)))["v"] == noise(995)
    with raw.reader(max_value_bytes=LIMIT) as reader:
        error, peak = peak_of(lambda: reader.get_tuple(cfg(1)))
    assert isinstance(error, ValueTooLargeError)
    assert peak < LIMIT


def test_many_channels_of_one_frame(make_saver, raw):
    """One frame of a kilobyte, referred to by a hundred channels: more than one checkpoint may have."""
    limit = MIB
    put(make_saver(), 1, {"v": 1})
    frame, digest = zeros(limit, msgpack_bytes(limit))
    head, tail = opened(raw, name_of(1))
    ref = {"type": "msgpack", "sha256": digest, "size": limit, "chain": [{"k": 0, "stored": len(frame)}]}
    head["channels"] = {f"channel {n}": ref for n in range(200)}
    seal(raw, name_of(1), head, tail, frames=frame)
    with raw.reader(max_value_bytes=limit, **NO_CACHE) as reader:
        error, peak = peak_of(lambda: reader.get_tuple(cfg(1)))
        assert isinstance(error, ValueTooLargeError)
        assert peak < 70 * limit
        # It is looked at without holding what it is made of.
        _, peak = peak_of(lambda: list(reader.admin.verify("t", depth="data")))
        assert peak < 5 * limit


def test_a_listing_of_bombs(make_saver, raw):
    """Twelve checkpoints, each with a chain of three values of 16 MiB: a page holds few of them at once."""
    saver = make_saver(incremental=False)
    for n in range(1, 13):
        put(saver, n, {"v": 1}, parent=n - 1 or None)
        chain_of(raw, name_of(n), 3, LIMIT)
    with raw.reader(max_value_bytes=LIMIT, **NO_CACHE) as reader:
        count, peak = peak_of(lambda: sum(1 for _ in reader.list(cfg())))
        assert count == 12
        assert peak < 14 * LIMIT, f"{peak / LIMIT:.1f} times"
        findings, peak = peak_of(lambda: [one for one in reader.admin.verify("t", depth="data") if one.is_damage])
        assert findings == []
        assert peak < 20 * LIMIT, f"{peak / LIMIT:.1f} times"


def test_damaged_values_are_not_kept(make_saver, raw):
    """A finding says what is wrong with a value. An exception's traceback would hold the value that it was built on."""
    saver = make_saver(incremental=False)
    for n in range(1, 9):
        put(saver, n, {"v": 1}, parent=n - 1 or None)
        chain_of(raw, name_of(n), 3, LIMIT)
        head, tail = opened(raw, name_of(n))
        head["channels"]["v"]["sha256"] = "0" * 64
        seal(raw, name_of(n), head, tail)
    with raw.reader(max_value_bytes=LIMIT, **NO_CACHE) as reader:
        findings, peak = peak_of(lambda: [one for one in reader.admin.verify("t", depth="data") if one.is_damage])
    assert len(findings) == 8
    assert peak < 10 * LIMIT, f"{peak / LIMIT:.1f} times"


@pytest.mark.parametrize("fields", [4, 60])
def test_pending_writes_that_are_many_bombs(fields, make_saver, raw):
    """Each field may have 64 MiB; what one checkpoint has of them is bounded."""
    limit = MIB
    saver = make_saver()
    put(saver, 1, {"v": 1})
    name = keys.special_writes_doc("t", "", cid(1), "task")
    data = msgpack_bytes(8 * MIB) + bytes(8 * MIB - 5)
    stored = {"format": 1}
    for n in range(fields):
        seal_writes(raw, name, {"path": "", "writes": [[-n - 1, "v", "msgpack", len(data)]]}, data, field=f"w{n}")
        stored |= raw.documents()[name]
    raw.set_document(name, stored)
    with raw.reader(max_value_bytes=limit, **NO_CACHE) as reader:
        found, peak = peak_of(lambda: reader.get_tuple(cfg(1)))
    if fields == 4:
        assert len(found.pending_writes) == 4
    else:
        assert isinstance(found, ValueTooLargeError)
    assert peak < 3 * 64 * MIB, f"{peak / MIB:.0f} MiB"


def test_a_put_never_holds_a_large_frame(make_saver):
    """The frame is as large as the value. The serializer takes no memory, because it returns bytes as they are."""
    size = 40 * MIB
    value, saver = noise(size), make_saver()
    _, peak = peak_of(lambda: put(saver, 1, {"large": value}))
    assert peak < size / 5, f"{peak / size:.2f} times"
    assert values(make_saver().get_tuple(cfg()))["large"] == value


# Beside other work: a process's resident memory

_CHILD = """
import sys
from pathlib import Path
from langgraph_gcs_saver import GCSSaver

def resident(what):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) << 10

with GCSSaver.from_conn_string(sys.argv[1], cache_max_bytes=0) as saver:
    saver.setup()
    before = resident("VmRSS:")
    found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
    print(resident("VmHWM:") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_resident_memory_of_a_read(make_saver, store_uri):
    """As the system sees it; glibc gives blocks of 32 MiB and more back at once."""
    size = 40 * MIB
    grow(make_saver(cache_max_bytes=1 << 30, verify="off"), versions=9, size=size)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, store_uri], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert int(done.stdout) < 3.2 * size, f"{int(done.stdout) / size:.2f} times"
