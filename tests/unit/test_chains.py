"""Which version a frame builds on, played through on chains in memory."""

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest
import zstandard
from hypothesis import strategies as st
from langgraph.checkpoint.base.id import uuid6

from langgraph_gcs_saver.format import chains
from langgraph_gcs_saver.format.chains import MAX_FRAMES, MIN_BYTES, Earlier, ancestor, encode
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import ChannelRef, FrameRef, Serialized
from tests.unit.fuzz import fuzz

CODEC = Codec(3)
NOW = 1_700_000_000.0


def text(number, words=40):
    rng = random.Random(number)
    return " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(5000)}" for _ in range(words)).encode()


START = b"".join(text(-n) for n in range(1, 100))


@dataclass
class Line:
    """A channel's versions, one after the other; `missing` are those that are not in memory."""

    full_every: object = None
    now: float = NOW
    plains: dict = field(default_factory=dict)
    frames: dict = field(default_factory=dict)
    missing: set = field(default_factory=set)
    history: list = field(default_factory=list)
    ref: ChannelRef | None = None

    def id(self, number):
        return str(number)

    def earlier(self):
        if self.ref is None or not self.ref.chain:
            return None
        links = self.ref.links(self.id(len(self.history) - 1))
        return Earlier(
            self.ref,
            links,
            [None if link.owner in self.missing else Digested.of(self.plains[link.owner]) for link in links],
        )

    def add(self, plain):
        found = encode(Serialized("t", plain), self.earlier(), CODEC, self.full_every, self.now)
        owner = self.id(len(self.history))
        self.plains[owner], self.frames[owner] = plain, found.frame
        chain = (*found.links, FrameRef(found.k, len(found.frame))) if found.frame else ()
        self.ref = ChannelRef("1", found.type, found.value.digest, len(plain), chain)
        self.history.append(found)
        return found

    def read(self):
        """The newest value, as a reader decodes it from its frames alone."""
        if not self.ref.chain:
            return b""
        value = None
        for link in self.ref.links(self.id(len(self.history) - 1)):
            value = CODEC.decode(self.frames[link.owner], link.size, value)
        return value

    def length(self):
        return len(self.ref.chain)


# The ancestor


def digits(k):
    return [] if k == 0 else [*digits(k // 5), k % 5]


def test_the_ancestor_by_its_definition():
    for k in range(1, 5000):
        reduced = digits(k)
        at = max(i for i, digit in enumerate(reduced) if digit)
        reduced[at] -= 1
        assert ancestor(k) == sum(digit * 5**place for place, digit in enumerate(reversed(reduced)))


def test_the_ancestor_is_always_in_the_chain_of_the_version_before():
    def chain(k):
        return [0] if k == 0 else [*chain(ancestor(k)), k]

    for k in range(1, 2000):
        assert ancestor(k) in chain(k - 1)
        assert len(chain(k)) == 1 + sum(digits(k))


# A long chat


@pytest.fixture(scope="module")
def chat():
    """A value that grows by one message, 700 times, and each version's chain."""
    line, value, seen = Line(), START, []
    for number in range(700):
        value += text(number)
        found = line.add(value)
        seen.append((found, line.ref))
        if number % 25 == 0 or number > 680:
            assert line.read() == value
    return line, seen


def test_every_version_builds_on_its_ancestor(chat):
    """… which the parent's chain has, unless the version's own chain would be too long."""
    _, seen = chat
    before, long = None, 0
    for found, ref in seen:
        if found.links:
            parent = [link.k for link in before.chain]
            assert found.k == parent[-1] + 1
            if found.links[-1].k != ancestor(found.k):
                long += 1
                assert 1 + sum(digits(found.k)) > MAX_FRAMES
        else:
            assert found.k == 0
        before = ref
    assert long < 100


def test_chains_are_short(chat):
    _, seen = chat
    assert MAX_FRAMES == 12
    assert max(len(ref.chain) for _, ref in seen) <= MAX_FRAMES
    assert max(len(ref.chain) for _, ref in seen) > 6, "this chat is too short to show it"


def test_the_bytes_of_a_chain_stay_near_those_of_a_full_frame(chat):
    line, seen = chat
    for number, (_, ref) in enumerate(seen[::50]):
        stored = sum(frame.stored for frame in ref.chain)
        full = len(zstandard.compress(line.plains[str(number * 50)], 3))
        assert stored <= 1.3 * full


def test_history_is_sub_linear(chat):
    line, seen = chat
    stored = sum(len(found.frame) for found, _ in seen)
    assert stored < 8 * len(zstandard.compress(line.plains["699"], 3))
    assert 2 <= sum(found.k == 0 for found, _ in seen) < 20


def test_digests_and_sizes_of_links_are_those_of_their_values(chat):

    line, seen = chat
    for found, _ in seen[::7]:
        for link in found.links:
            assert link.size == len(line.plains[link.owner])
            assert Digested.of(line.plains[link.owner]).digest.startswith(link.digest)
            assert len(link.digest) == 8


@fuzz(
    st.lists(st.sampled_from(["append", "edit", "shrink", "replace", "same", "empty", "tiny"]), max_size=40), st.data()
)
def test_any_sequence_reads_back(steps, data):
    """Whatever is missing from memory."""
    line, value = Line(full_every=data.draw(st.sampled_from([None, 1, 5]))), START[:3000]
    line.add(value)
    for number, step in enumerate(steps):
        rng = random.Random(number)
        at = rng.randrange(len(value) or 1)
        value = {
            "append": value + text(number, 5),
            "edit": value[:at] + text(number, 3) + value[at + 10 :],
            "shrink": value[: at + 1],
            "replace": rng.randbytes(len(value)),
            "same": value,
            "empty": b"",
            "tiny": b"x",
        }[step]
        line.missing = {owner for owner in line.plains if rng.random() < 0.3}
        found = line.add(value)
        assert line.read() == value
        assert line.length() <= MAX_FRAMES
        assert line.length() == 0 or line.ref.chain[0].k == 0
        assert not line.missing & {link.owner for link in found.links[-1:]}, "it built on what was not at hand"
        assert found.value.data == value


# When it does not pay


def test_small_values_are_full_frames():
    line = Line()
    for size in (MIN_BYTES - 2, MIN_BYTES - 1):
        assert line.add(START[:size]).links == ()
    assert MIN_BYTES == 256
    line = Line()
    line.add(START[:MIN_BYTES])
    assert line.add(START[: MIN_BYTES - 1]).links == ()
    line.add(START[:MIN_BYTES])
    assert line.add(START[:MIN_BYTES] + b"!").links


def test_values_of_no_bytes_have_no_frame():
    line = Line()
    line.add(START)
    found = line.add(b"")
    assert (found.frame, found.links, found.k, found.value.data) == (b"", (), 0, b"")
    assert line.ref.chain == ()
    assert line.add(START).links == (), "nothing to build on"


def test_a_value_that_changes_entirely_is_a_full_frame():
    line = Line()
    for seed in range(5):
        found = line.add(random.Random(seed).randbytes(50_000))
        assert (found.links, found.k) == ((), 0)


def test_a_frame_that_saves_little_is_a_full_one():
    """Who reads the value must read the base too."""
    line, rng = Line(), random.Random(1)
    old, new = rng.randbytes(40_000), rng.randbytes(40_000)
    line.add(old)
    mixed = b"".join((old if n % 8 else new)[n * 1000 : n * 1000 + 1000] for n in range(40))
    assert line.add(mixed).links, "seven eighths of it are known"
    line = Line()
    line.add(old)
    mixed = b"".join((old if n % 3 else new)[n * 1000 : n * 1000 + 1000] for n in range(40))
    assert line.add(mixed).links == (), "two thirds of it are known"


def test_a_value_that_grows_keeps_its_base():
    """However small the base has become, while a reader fetches little more than a full frame."""
    line, value = Line(), START[:8000]
    for number in range(120):
        value += text(number)
        assert bool(line.add(value).links) == bool(number)
    base, *increments = [frame.stored for frame in line.ref.chain]
    assert sum(increments) > 2 * base
    assert base + sum(increments) <= 1.25 * len(CODEC.encode(value))
    assert line.read() == value


def test_a_value_that_shrank_gets_a_base_of_its_own():
    """Otherwise readers would always fetch a large base for a small value."""
    line = Line()
    line.add(START)
    found = line.add(START[: len(START) // 10])
    assert found.links == ()
    assert len(found.frame) < len(line.history[0].frame) / 5
    line = Line()
    line.add(START)
    assert line.add(START[: -len(START) // 20]).links, "a little smaller is no reason"


# When it is due


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_full_frame_every_so_many_versions(every):
    line, value = Line(full_every=every), START
    for number in range(12):
        value += text(number, 3)
        assert line.add(value).k == number % every
    assert {found.k for found in line.history} == set(range(every))


@dataclass
class Dated(Line):
    """Versions of checkpoints whose ids contain the time."""

    ids: list = field(default_factory=list)
    clock: float = NOW
    make: object = None

    def id(self, number):
        while len(self.ids) <= number:
            self.ids.append(str((self.make or uuid_of)(self.clock)))
        return self.ids[number]


def uuid_of(seconds):
    """A UUID of version 6 by RFC 9562: 60 bits of 100 ns since 1582-10-15, the most significant first."""
    import uuid

    began = datetime(1582, 10, 15, tzinfo=timezone.utc).timestamp()
    ticks = round((seconds - began) * 10_000_000)
    return uuid.UUID(int=ticks >> 12 << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | 2 << 62 | 12345)


def test_the_time_of_an_id_is_langgraphs():
    import time

    before = time.time()
    found = chains._time_of(FrameRef(0, 1, owner=str(uuid6())))
    assert before - 0.001 < found <= time.time()
    assert abs(chains._time_of(FrameRef(0, 1, owner=str(uuid_of(NOW)))) - NOW) < 1e-3


@pytest.mark.parametrize(("hours", "full"), [(0, False), (1.9, False), (2, True), (3, True), (-5, False)])
def test_a_full_frame_after_so_much_time(hours, full):
    """Since the base was written, not since the last version; clocks may disagree."""
    line = Dated(full_every=timedelta(hours=2))
    line.add(START)
    line.clock = NOW + 3600
    line.now = NOW + 3600
    assert line.add(START + b"a").k == 1
    line.now = NOW + hours * 3600
    assert (line.add(START + b"ab").links == ()) is full


@pytest.mark.parametrize("make", [lambda _: "an id", lambda _: "00000000-0000-4000-8000-000000000000"])
def test_ids_that_tell_no_time_are_never_due(make):
    line = Dated(full_every=timedelta(hours=1))
    line.make = make
    line.add(START)
    line.now = NOW + 1e9
    line.plains = {line.ids[0]: START}
    assert line.earlier().links[0].owner == line.ids[0]
    found = encode(Serialized("t", START + b"a"), line.earlier(), CODEC, line.full_every, line.now)
    assert found.links


# What is at hand


def long_chain(count=11):
    line, value = Line(), START
    for number in range(count):
        value += text(number, 2)
        line.add(value)
    assert line.history[-1].k == count - 1
    return line, value + b"next"


def test_without_the_ancestor_the_nearest_at_hand_is_taken():
    line, value = long_chain()
    owners = [link.owner for link in line.earlier().links]
    line.missing = {str(ancestor(len(line.history)))}
    at_hand = [owner for owner in owners if owner not in line.missing]
    assert line.missing & set(owners)
    found = line.add(value)
    assert found.links[-1].owner == at_hand[-1]
    assert line.read() == value


def test_with_only_the_base_at_hand_the_base_is_taken():
    line, value = long_chain()
    line.missing = set(line.plains) - {"0"}
    found = line.add(value)
    assert [link.owner for link in found.links] == ["0"]
    assert found.k == len(line.history) - 1
    assert line.read() == value


def test_with_nothing_at_hand_it_is_a_full_frame():
    line, value = long_chain()
    line.missing = set(line.plains)
    assert (line.add(value).links, line.history[-1].k) == ((), 0)


def test_a_chain_is_never_longer_than_the_bound_whatever_is_missing():
    """If only the last version is ever cached, each one builds on the one before."""
    line, value = Line(), START
    for number in range(40):
        value += text(number, 1)
        line.missing = set(line.plains) - {str(len(line.history) - 1)}
        line.add(value)
        assert line.length() <= MAX_FRAMES
        assert line.read() == value
    assert max(len(found.links) + 1 for found in line.history) == MAX_FRAMES


def test_equal_values_are_told_by_their_digest():
    """The frame is not used: the flow takes the parent's ref."""
    line = Line()
    first, second = line.add(START), line.add(START)
    assert (first.type, first.value) == (second.type, second.value)


def test_a_parent_without_earlier_values_is_a_full_frame():
    for earlier in (None, replace(long_chain()[0].earlier(), values=[None] * 20)):
        assert encode(Serialized("t", START), earlier, CODEC, None, NOW).links == ()


# Large values that change in several places


def moving(number):
    """A window of 300 lines that has moved on by so many lines, and in which two lines differ each time."""
    lines = [text(n) for n in range(number, number + 300)]
    lines[40], lines[200] = text(5000 + number), text(6000 + number)
    return START + b"".join(lines)


def test_a_window_with_edits_is_stored_as_what_changed():
    line = Line()
    for number in range(12):
        line.add(moving(number))
        assert line.read() == moving(number)
    full, *increments = line.history
    assert len(full.value.data) > 64 << 10
    assert full.format == 1
    assert {one.format for one in increments} == {2}
    assert sum(len(one.frame) for one in increments) < 0.5 * len(full.frame)


def test_a_large_value_is_compressed_once_if_a_look_shows_that_an_increment_does_not_pay(monkeypatch):
    line, base = Line(), random.Random(1).randbytes(200_000)
    line.add(base)
    made = []
    monkeypatch.setattr(Codec, "encode_increment", lambda *_: made.append(1))
    found = line.add(base[:50_000] + random.Random(2).randbytes(40_000))
    assert (found.k, found.format, made) == (0, 1, [])
    found = line.add(random.Random(3).randbytes(9 << 20))
    found = line.add(found.value.data[::-1])
    assert (found.k, made) == (0, [])


def test_without_compression_nothing_is_compared():
    assert Codec(None).increment(bytes(100_000), bytes(100_000)) is None
