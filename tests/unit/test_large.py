"""Full frames that are made in pieces."""

import hashlib

import pytest

from langgraph_gcs_saver.engine.pieces import Pieces, crc32c
from langgraph_gcs_saver.errors import ValueTooLargeError
from langgraph_gcs_saver.format import large
from langgraph_gcs_saver.format.frames import Codec
from tests.system.build import noise

CODEC = Codec(3)


class Reversing:
    """A cipher of a sort."""

    def encrypt(self, plaintext):
        return "reversed", plaintext[::-1]

    def decrypt(self, ciphername, ciphertext):
        return ciphertext[::-1]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(large, "LARGE_BYTES", 100_000)
    monkeypatch.setattr(large, "_SLICE_BYTES", 30_000)


def encode(*parts, codec=CODEC, most=1000, **options):
    return large.encode(*parts, codec=codec, most=most, hashed=True, **options)


@pytest.mark.parametrize("parts", [(noise(100_000),), (noise(5), b"", noise(60_000), b"x" * 70_000)])
def test_pieces_are_one_frame_of_all_parts(parts):
    found = encode(*parts)
    frame, again = b"".join(found), b"".join(found)
    assert isinstance(found, Pieces)
    assert frame == again
    plain = b"".join(parts)
    assert CODEC.decode(frame, len(plain)) == plain
    assert (found.size, found.crc32c) == (len(frame), crc32c(frame))
    assert found.sha256 == hashlib.sha256(frame).hexdigest()


def test_pieces_are_not_described_before_they_were_made():
    found = encode(noise(100_000))
    next(iter(found))
    assert (found.size, found.crc32c, found.sha256) == (0, "", "")
    found.measure()
    assert found.size > 100_000


def test_a_small_frame_is_a_whole():
    """Nothing shows that before it was made: half of it may be."""
    frame = encode(bytes(200_000), most=1000)
    assert isinstance(frame, bytes)
    assert CODEC.decode(frame, 200_000) == bytes(200_000)
    assert isinstance(encode(bytes(200_000), most=len(frame) - 1), Pieces)
    assert encode(bytes(200_000), most=len(frame)) == frame


@pytest.mark.parametrize("codec", [Codec(None), Codec(3, cipher=Reversing())], ids=["stored", "encrypted"])
def test_what_cannot_be_made_in_pieces_is_a_whole(codec):
    frame = encode(noise(50_000), noise(60_000), codec=codec)
    assert codec.decode(frame, 110_000) == noise(50_000) + noise(60_000)


def test_a_value_below_the_limit_is_encoded_as_ever():
    assert encode(noise(99_999)) == CODEC.encode(noise(99_999))


def test_a_value_that_is_too_large():
    codec = Codec(3, max_bytes=150_000)
    with pytest.raises(ValueTooLargeError):
        encode(noise(100_000), noise(50_001), codec=codec)
    assert isinstance(encode(noise(100_000), noise(50_001), codec=codec, least=150_001), Pieces)
