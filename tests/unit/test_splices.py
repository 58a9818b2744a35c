"""Splices: exact whatever changed where, small where little changed, and refused where they do not fit."""

import random
from contextlib import suppress

import pytest
from hypothesis import example
from hypothesis import strategies as st

from langgraph_gcs_saver.errors import WrongKeyError
from langgraph_gcs_saver.format import splices
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


@fuzz(st.integers(splices.HEAD_BYTES, MIN_BYTES - 1), st.integers(splices.HEAD_BYTES, MIN_BYTES - 1))
def test_the_first_and_the_last_difference_are_found(one, other):
    value, base = bytearray(noise(MIN_BYTES)), noise(MIN_BYTES)
    first, last = sorted((one, other))
    value[first] ^= 1
    value[last] ^= 2
    found = splices.find(bytes(value), base)
    shared = first + MIN_BYTES - last - 1
    if 2 * shared <= MIN_BYTES:
        assert found is None
    else:
        assert (found.head, found.end, found.tail) == (0, first, MIN_BYTES - last - 1)


def test_what_shares_little_is_not_spliced():
    for value in (noise(300_000, 2), BASE[:100_000] + noise(200_000, 2), BASE[:1000], BASE[5:] + b"window"):
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


@pytest.mark.parametrize(
    "numbers",
    [
        (17, 16, 0, 0),  # the first copy ends before it begins
        (0, 300_001, 0, 0),
        (0, 0, 300_001, 0),
        (0, 200_000, 100_001, 0),  # the copies overlap
        (0, 0, 0, 300_001),
        (0, 1 << 62, 0, 0),
    ],
)
def test_a_splice_that_its_base_does_not_allow_is_refused(numbers):
    stored = CODEC.encode(BASE + b"more", BASE)
    _, at = splices.parse(stored, len(BASE))
    forged = MARK + b"".join(map(number, numbers)) + stored[at:]
    with pytest.raises(FrameError):
        CODEC.decode(forged, len(BASE) + 4, BASE)


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
