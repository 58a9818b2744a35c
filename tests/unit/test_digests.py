"""Digests of values: the same whatever was known before, and another one for any other value."""

import hashlib
import random

import pytest
from hypothesis import strategies as st

from langgraph_gcs_saver.format import digests
from langgraph_gcs_saver.format.digests import BLOCK_BYTES, Digested
from tests.unit.fuzz import fuzz


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES])
def test_a_small_value_has_its_sha256(size):
    found = Digested.of(noise(size))
    assert (found.digest, found.leaves) == (hashlib.sha256(noise(size)).hexdigest(), b"")


@pytest.mark.parametrize("size", [BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 5 * BLOCK_BYTES - 7])
def test_a_large_value_has_that_of_its_blocks(size):
    data = noise(size)
    leaves = b"".join(hashlib.sha256(data[at : at + BLOCK_BYTES]).digest() for at in range(0, size, BLOCK_BYTES))
    found = Digested.of(data)
    assert (found.digest, found.leaves) == (hashlib.sha256(b"\1" + leaves).hexdigest(), leaves)
    # What the digest of blocks is made of is a value too, and has another digest.
    assert Digested.of(b"\1" + leaves + bytes(BLOCK_BYTES)).digest != found.digest


edits = st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 70_000), st.binary(max_size=9)), max_size=3)


@fuzz(st.integers(0, 200_000), edits, examples=300)
def test_what_is_known_changes_nothing(size, changes):
    before = noise(size)
    after = before
    for at, gone, put in changes:
        after = after[:at] + put + after[at + gone :]
    assert Digested.of(after, Digested.of(before)) == Digested.of(after)
    assert (Digested.of(after).digest == Digested.of(before).digest) == (after == before)


def test_only_blocks_that_changed_are_hashed(monkeypatch):
    hashed = []

    class Counting:
        @staticmethod
        def sha256(data):
            hashed.append(len(data))
            return hashlib.sha256(data)

    before = Digested.of(noise(10 * BLOCK_BYTES + 5))
    monkeypatch.setattr(digests, "hashlib", Counting)
    after = before.data[:2] + b"\xff" + before.data[3:] + b"more"
    Digested.of(after, before)
    assert hashed == [BLOCK_BYTES, 9, 1 + 11 * 32]
