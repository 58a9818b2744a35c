"""Splices: exact whatever changed where, small where little changed, and refused where they do not fit."""

import random
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example
from hypothesis import strategies as st

from langgraph_gcs_saver.errors import WrongKeyError
from langgraph_gcs_saver.format import frames, splices
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.splices import MARK, MIN_BYTES
from tests.unit.fuzz import fuzz

CODEC = Codec(3)


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


BASE = noise(300_000)


def length(value, base=BASE):
    """Length of a value's frame, which must be a splice, and decode to the value."""
    stored = CODEC.encode(value, base)
    assert stored[:1] == MARK
    assert CODEC.decode(stored, len(value), base) == value
    return len(stored)


@pytest.mark.parametrize(
    "value",
    [
        BASE,
        BASE + b"one more",
        b"one more" + BASE,
        BASE[:2] + b"\xff" + BASE[3:] + b"one more",
        BASE[:150_000] + b"one more" + BASE[150_000:],
        BASE[:150_000] + b"instead" + BASE[150_007:],
        BASE[:100_000] + BASE[110_000:],
        BASE[:-20_000],
        BASE[20_000:],
    ],
)
def test_what_changed_in_one_place_is_small(value):
    assert length(value) < 60


@fuzz(
    st.lists(st.tuples(st.integers(0, MIN_BYTES + 9), st.integers(0, 40), st.binary(max_size=40)), max_size=3),
    st.integers(0, 20),
    st.booleans(),
    examples=300,
)
def test_any_edits(edits, extra, repeats):
    """Also where a value repeats itself, so that what is the same at both ends overlaps."""
    base = b"ab" * (MIN_BYTES // 2) + b"c" * extra if repeats else noise(MIN_BYTES + extra)
    value = base
    for at, gone, put in edits:
        value = value[:at] + put + value[at + gone :]
    for one, other in ((value, base), (base, value)):
        stored = CODEC.encode(one, other)
        assert CODEC.decode(stored, len(one), other) == one


@fuzz(st.sets(st.integers(0, MIN_BYTES // 200), max_size=40))
@example({0, MIN_BYTES // 200})
def test_only_what_differs_is_in_the_literal(changed):
    """If what is between is not too short."""
    value, base = bytearray(noise(MIN_BYTES)), noise(MIN_BYTES)
    changed = [200 * at for at in sorted(changed)]
    for at in changed:
        value[at] ^= 1
    found = splices.find(bytes(value), base)
    between = [(one + 1, other) for one, other in pairwise([-1, *changed, MIN_BYTES]) if one + 1 < other]
    assert [(copy.start, copy.end) for copy in found.copies] == between
    assert found.literal(bytes(value)) == bytes(value[at] for at in changed)


def edited(base, *edits):
    """A value with parts of its base replaced: each edit is a position, how much is gone, and what is put there."""
    parts, done = [], 0
    for at, gone, put in sorted(edits):
        parts += (base[done:at], put)
        done = max(done, at + gone)
    return b"".join((*parts, base[done:]))


LARGE = noise(1_000_000)
EDITS = {
    "two places": [(200_000, 9, b"one"), (700_000, 0, b"another")],
    "the first bytes and two places": [(1, 2, b"new"), (300_000, 500, b""), (999_000, 1, b"more")],
    "the front, the middle and the end": [(0, 0, noise(900, 3)), (500_000, 3, b""), (1_000_000, 0, noise(300, 4))],
    "a window": [(0, 60_000, b""), (1_000_000, 0, noise(900, 3))],
    "large ones": [(100_000, 70_000, noise(90_000, 3)), (600_000, 90_000, noise(70_000, 4))],
    "twenty": [(45_000 * n, n, noise(50, n)) for n in range(1, 21)],
    "parts are gone": [(n * 100_000, 30_000, b"") for n in range(1, 9)],
}


@pytest.mark.parametrize("name", EDITS)
def test_what_changed_in_several_places_is_small(name):
    new = sum(len(put) for _, _, put in EDITS[name])
    assert length(edited(LARGE, *EDITS[name]), LARGE) < new + 30 * len(EDITS[name])


@fuzz(
    st.lists(st.tuples(st.integers(0, len(LARGE)), st.integers(0, 9000), st.binary(max_size=9000)), max_size=30),
    examples=30,
)
def test_many_edits_anywhere(edits):
    value = edited(LARGE, *edits)
    for one, other in ((value, LARGE), (LARGE, value)):
        stored = CODEC.encode(one, other)
        assert CODEC.decode(stored, len(one), other) == one


class Counted(bytes):
    """Bytes that count how many of them are searched or compared, and in how many calls."""

    work = calls = 0

    @classmethod
    def count(cls, size):
        cls.work += size
        cls.calls += 1

    def find(self, what, start, end):
        self.count(end - start)
        return super().find(what, start, end)

    def startswith(self, what, start):
        self.count(len(what))
        return super().startswith(what, start)

    def endswith(self, what, start, end):
        self.count(len(what))
        return super().endswith(what, start, end)


TEXT = b"the quick brown fox jumps over the lazy dog, and then it does so again. "
REPEATED = {
    "one byte": bytes(4_000_000),
    "a text": TEXT * 55_000,
    "a text with numbers": b"".join(TEXT + b"%d" % n for n in range(50_000)),
    "long parts": noise(70_000) * 50,
    "noise": noise(4_000_000),
}
CHANGES = {
    "twenty edits": lambda base: edited(base, *((150_000 * n, 7, b"edited %d" % n) for n in range(20))),
    "an edit each 300 bytes": lambda base: edited(base, *((300 * n, 7, b"edited %d" % n) for n in range(12_000))),
    "another order": lambda base: base[2_000_000:] + base[:2_000_000],
    "backwards": lambda base: base[::-1],
    "parts in another order": lambda base: b"".join(base[n : n + 10_000] for n in range(3_990_000, 0, -10_000)),
    "something else": lambda base: noise(len(base), 9),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", REPEATED)
def test_the_work_of_a_search_is_bounded(name, change):
    """It searches and compares less than twice the bytes of both, whatever they are."""
    base = REPEATED[name]
    value = CHANGES[change](base)
    Counted.work = Counted.calls = 0
    splice = splices.find(Counted(value), Counted(base))
    assert Counted.work < 2 * (len(value) + len(base)) + (1 << 20)
    assert Counted.calls < 100 * splices.MAX_COPIES
    if change == "twenty edits":
        assert len(splice.literal(value)) < 1000


def test_a_splice_has_a_limited_number_of_copies(monkeypatch):
    monkeypatch.setattr(splices, "MAX_COPIES", 5)
    value = edited(BASE, *((10_000 * n, 1, b"x!") for n in range(1, 12)), (100, 5, b""))
    stored = CODEC.encode(value, BASE)
    assert len(splices.parse(stored, len(value), len(BASE)).copies) == 5
    assert CODEC.decode(stored, len(value), BASE) == value
    monkeypatch.setattr(splices, "MAX_COPIES", 4)
    with pytest.raises(FrameError, match="too many copies"):
        CODEC.decode(stored, len(value), BASE)


def test_what_shares_little_is_not_spliced():
    for value in (noise(300_000, 2), BASE[:100_000] + noise(200_000, 2), BASE[:1000]):
        assert CODEC.encode(value, BASE)[:1] != MARK


def test_small_values_are_not_spliced():
    base = noise(MIN_BYTES - 1)
    assert CODEC.encode(base + b"more", base)[:1] != MARK


def test_new_text_is_compressed_with_what_is_near():
    """A message that was there before, near the end, costs next to nothing; the more is new, the further it is seen."""
    near, far = BASE[-15_000:-14_000], BASE[:1000]
    assert length(BASE + near) < 60
    assert length(BASE + far) > 1000
    assert length(BASE + BASE[:6000]) < 200


def test_encrypted():
    from tests.compat.xor_cipher import XorCipher

    secret = Codec(3, XorCipher())
    stored = secret.encode(BASE + b"more", BASE)
    assert stored[:1] == b"\x01"
    assert secret.decode(stored, len(BASE) + 4, BASE) == BASE + b"more"


def number(value):
    return splices._pack(value)


def first(numbers, value, base=BASE):
    """A splice as version 1 of the format has it."""
    head, end, tail, near = numbers
    literal = value[:head] + value[end : len(value) - tail]
    return b"\x02" + b"".join(map(number, numbers)) + frames._compress(literal, base[near : len(base) - tail], 3)


@pytest.mark.parametrize("put", [b"", b"something new", noise(5000, 2)])
@pytest.mark.parametrize("at", [16, 20_000, 300_000])
@pytest.mark.parametrize("head", [0, 16])
def test_splices_of_version_1_are_read(head, at, put):
    value = bytes(head) + BASE[head:at] + put + BASE[at:]
    stored = first((head, at, len(BASE) - at, max(0, at - 9000)), value)
    assert CODEC.decode(stored, len(value), BASE) == value


@pytest.mark.parametrize(
    "numbers",
    [
        (17, 16, 0, 0),  # the first copy ends before it begins
        (0, 300_001, 0, 0),
        (0, 0, 300_001, 0),
        (0, 200_000, 100_001, 0),  # the copies overlap
        (0, 0, 0, 300_001),
        (0, 1 << 62, 0, 0),
        (300_000, 300_000, 0, 0),  # the head is longer than the literal
    ],
)
def test_a_splice_of_version_1_that_its_base_does_not_allow_is_refused(numbers):
    frame = frames._compress(b"more", BASE, 3)
    with pytest.raises(FrameError):
        CODEC.decode(b"\x02" + b"".join(map(number, numbers)) + frame, len(BASE) + 4, BASE)


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 0, 0, 0, 300_001, 9),  # more than the base has
        (1, 0, 0, 1, 300_000, 9),
        (2, 0, 0, 0, 300_000, 0, 0, 0, 1, 9),
        (1, 0, 0, 1 << 62, 1 << 62, 9),
        (1, 0, 0, 0, 300_000, 64),  # a part of the dictionary of 2 ** 64 bytes
        (1, 0, 64, 0, 300_000, 9),
        (1, 5, 0, 0, 300_000, 9),  # more of the literal than there is
        (1, 1 << 40, 0, 0, 300_000, 9),
        (1 << 40, 0, 0, 0, 300_000, 9),
        (0, 14),  # copies less than the literal lacks
    ],
)
def test_a_splice_that_its_base_does_not_allow_is_refused(numbers):
    frame = frames._compress(b"more", BASE[-512:], 3)
    whole = MARK + b"".join(map(number, (1, 0, 0, 0, 300_000, 9)))
    assert CODEC.decode(whole + frame, len(BASE) + 4, BASE) == BASE + b"more"
    with pytest.raises(FrameError):
        CODEC.decode(MARK + b"".join(map(number, numbers)) + frame, len(BASE) + 4, BASE)


def test_what_is_cut_off_or_goes_on_is_refused():
    stored = CODEC.encode(BASE + b"more", BASE)
    for wrong in (*(stored[:n] for n in range(len(stored))), stored + b"x", MARK + b"\xff" * 40, MARK * 2 + stored):
        with pytest.raises(FrameError):
            CODEC.decode(wrong, len(BASE) + 4, BASE)


def test_a_lie_about_the_size_is_refused():
    stored = CODEC.encode(BASE + b"more", BASE)
    for size in (0, 4, len(BASE), len(BASE) + 3, len(BASE) + 5, 1 << 40):
        with pytest.raises(FrameError):
            CODEC.decode(stored, size, BASE)


def test_without_a_base_it_is_no_frame():
    stored = CODEC.encode(BASE + b"more", BASE)
    for decode in (lambda: CODEC.decode(stored, len(BASE) + 4), lambda: CODEC.decode_bounded(stored)):
        with pytest.raises(FrameError):
            decode()


@fuzz(st.integers(0, 39), st.integers(1, 255), examples=200)
@example(0, MARK[0] ^ 1)
def test_flipped_bytes_never_give_more_than_was_asked_for(at, mask):
    """Whether the result is right is for the digest to decide."""
    stored = bytearray(CODEC.encode(BASE + b"more of this and that", BASE))
    stored[at % len(stored)] ^= mask
    with suppress(FrameError, WrongKeyError):
        assert len(CODEC.decode(bytes(stored), len(BASE) + 21, BASE)) == len(BASE) + 21
