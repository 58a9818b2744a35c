"""Trained dictionaries: their ids, their frames, and what no dictionary can be made of."""

import random

import pytest
import zstandard

from langgraph_gcs_saver.format import frames, trained
from langgraph_gcs_saver.format.trained import Trained

SHARED = random.Random(1).randbytes(3000)


def samples(count, seed=2):
    """Values that have some bytes in common, and others of their own."""
    rng = random.Random(seed)
    return [SHARED[at : at + 1500] + rng.randbytes(200) for at in (rng.randrange(1500) for _ in range(count))]


@pytest.fixture(scope="module")
def dictionary():
    found = trained.train(samples(300))
    assert found is not None
    return found


def test_a_frame_needs_the_dictionary_and_names_it(dictionary):
    (plain,) = samples(1, seed=3)
    stored = dictionary.compress(plain, 3)
    assert len(stored) < 400
    assert len(frames.compress(plain, 3)) > 1500
    assert dictionary.decompressor.decompress(stored) == plain
    assert trained.name_of(zstandard.get_frame_parameters(stored).dict_id) == dictionary.id
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompress(stored)


def test_the_same_samples_give_the_same_dictionary(dictionary):
    assert trained.train(samples(300)) == dictionary
    assert trained.train(samples(300, seed=4)) != dictionary


def test_a_dictionary_is_what_its_id_says(dictionary):
    assert Trained.of(dictionary.data) == dictionary
    assert 32768 <= int(dictionary.id, 16) < 1 << 31, "RFC 8878 leaves these ids to private use"
    for at in (0, 4, 7, 8, 1000, len(dictionary.data) - 1):
        wrong = bytearray(dictionary.data)
        wrong[at] ^= 1
        with pytest.raises(ValueError, match="no trained dictionary"):
            Trained.of(bytes(wrong))
    for data in (b"", dictionary.data[:8], dictionary.data[:-1], SHARED):
        with pytest.raises(ValueError, match="no trained dictionary"):
            Trained.of(data)


@pytest.mark.parametrize("given", [[], samples(99), [b""] * 200])
def test_no_dictionary_is_made_of_too_little(given):
    assert trained.train(given) is None


def test_a_large_value_has_no_trained_dictionary(dictionary):
    for size, has in ((trained.BELOW - 1, True), (trained.BELOW, False)):
        stored = frames.compress(bytes(size), 3, dictionary)
        assert bool(zstandard.get_frame_parameters(stored).dict_id) is has
