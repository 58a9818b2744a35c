import hashlib
import json
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress

import google_crc32c
import pytest
import zstandard
from Crypto.Cipher import AES
from hypothesis import example
from hypothesis import strategies as st

from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.errors import InvalidOptionError, ValueTooLargeError, WrongKeyError
from langgraph_gcs_saver.format import frames
from langgraph_gcs_saver.format.dictionary import BELOW, DICTIONARY
from langgraph_gcs_saver.format.frames import Codec, FrameError
from tests.patience import PATIENCE
from tests.unit.fuzz import fuzz

LEVEL = 3
CODEC = Codec(LEVEL)
TEXT = b"a frame of some text, some text, some text"

data = st.binary(max_size=300) | st.builds(
    lambda part, n: part * n, st.binary(min_size=1, max_size=20), st.integers(0, 99)
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
heads = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)

SKIPPABLE = struct.pack("<II", 0x184D2A50, 5) + b"hello"


def stated(plain, size):
    """A frame of `plain` whose header says that it holds `size` bytes."""
    frame = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(plain)
    header = zstandard.frame_header_size(frame)
    # https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1.1: single segment, 8 bytes of content size.
    return frame[:4] + bytes([0b11100000]) + struct.pack("<Q", size) + frame[header:]


# Frames


@fuzz(data, st.sampled_from([None, 1, 3, 12]))
@example(b"", 3)
@example(b"", None)
@example(b"\0" * 1_000_000, 3)
def test_round_trip(plain, level):
    stored = Codec(level).encode(plain)
    assert CODEC.decode(stored, len(plain)) == plain
    assert CODEC.decode_bounded(stored) == plain
    assert zstandard.get_frame_parameters(stored).content_size == len(plain)


BLOCK = 128 << 10
"""The largest block of a zstd frame."""


@pytest.mark.parametrize("size", [0, 1, 255, 256, BELOW - 1, BELOW, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1_000_000])
def test_without_a_level_a_size_tells_a_length_only(size):
    """Any zstd reads the frame, and every codec, with or without a dictionary."""
    codec = Codec(None)
    for plain in (bytes(size), random.Random(size).randbytes(size), (DICTIONARY * 500)[:size]):
        for base in (None, plain, b"another"):
            stored = codec.encode(plain, base)
            assert len(stored) == 14 + 3 * max(1, -(-size // BLOCK)) + size
            assert stored.endswith(plain) or size > BLOCK
            assert CODEC.decode(stored, size, base) == plain
            assert zstandard.ZstdDecompressor(max_window_size=BLOCK).decompress(stored, allow_extra_data=False) == plain
            stream = zstandard.ZstdDecompressor(max_window_size=BLOCK).decompressobj()
            assert stream.decompress(stored) == plain
            assert stream.eof
            assert not stream.unused_data
    assert Codec(None).decode_envelope(codec.encode_envelope(TEXT, PLACE), PLACE) == TEXT
    assert len(Codec(None, Eax("a key")).encode_envelope(TEXT, PLACE)) > len(TEXT) + 14 + 3


def edited(base, seed=0):
    """`base` with something inserted, something changed, and something behind it."""
    rng = random.Random(seed)
    at = rng.randrange(len(base) + 1)
    return base[:at] + rng.randbytes(rng.randrange(30)) + base[at + rng.randrange(30) :] + rng.randbytes(20)


@fuzz(data, data, st.sampled_from([None, 1, 3, 19]), st.sampled_from([None, "key one"]))
@example(b"", b"x" * 300, 3, None)
@example(b"x" * 300, b"", 3, None)
def test_incremental_round_trip(plain, base, level, key):
    codec = Codec(level, None if key is None else Eax(key))
    for value in (plain, base, edited(base)):
        stored = codec.encode(value, base)
        assert codec.decode(stored, len(value), base) == value


@pytest.mark.parametrize("size", [1000, BELOW - 1, BELOW, 300_000])
def test_an_incremental_frame_is_small(size):
    base = random.Random(size).randbytes(size)
    for value in (base, base + b"one more", b"one more" + base, base[: size // 2] + b"one more" + base[size // 2 :]):
        stored = CODEC.encode(value, base)
        assert len(stored) < 120
        assert CODEC.decode(stored, len(value), base) == value
    assert len(CODEC.encode(base[: size // 2], base)) < 60


def test_a_large_base_is_seen_whole():
    """With the level's own hash table only its tail would be."""
    rng = random.Random(8)
    base = b"".join(
        b"message %d: %s" % (n, rng.randbytes(rng.randrange(1500, 2500)).hex().encode()) for n in range(500)
    )
    assert len(base) > 1_900_000
    stored = CODEC.encode(base + b"one more", base)
    assert len(stored) < 2000
    assert CODEC.decode(stored, len(base) + 8, base) == base + b"one more"


@fuzz(st.binary(min_size=300, max_size=600), st.integers(0, 1 << 30), examples=200)
def test_a_wrong_base_never_gives_more_than_was_asked_for(base, seed):
    """zstd may not notice: the digest of the value decides, which is not this module's."""
    value, wrong = edited(base, seed), edited(base, seed + 1)
    stored = CODEC.encode(value, base)
    for other in (wrong, base[:-1], b"", None):
        with suppress(FrameError):
            assert len(CODEC.decode(stored, len(value), other)) == len(value)


def test_a_wrong_base_gives_another_value_or_an_error():
    base, rng = random.Random(1).randbytes(5000), random.Random(2)
    value = base + b"more"
    stored = CODEC.encode(value, base)
    for other in (rng.randbytes(5000), base[1:], base[::-1], base[:100], b"", None):
        with suppress(FrameError):
            assert CODEC.decode(stored, len(value), other) != value


def test_a_base_that_looks_like_a_trained_dictionary_is_raw_content():
    base = struct.pack("<I", 0xEC30A437) + random.Random(1).randbytes(3000)
    for value in (base, base + b"more"):
        stored = CODEC.encode(value, base)
        assert len(stored) < 100
        assert zstandard.get_frame_parameters(stored).dict_id == 0
        assert CODEC.decode(stored, len(value), base) == value
        assert CODEC.decode(CODEC.encode(value), len(value)) == value


@pytest.mark.parametrize("lie", [0, 5099, 5101, 1 << 40])
def test_an_incremental_frame_that_lies_about_its_size_is_refused(lie):
    base = random.Random(1).randbytes(5000)
    stored = CODEC.encode(base + bytes(100), base)
    with pytest.raises(FrameError):
        CODEC.decode(stored, min(lie, 1 << 20), base)
    header = zstandard.frame_header_size(stored)
    forged = stored[:4] + bytes([0b11100000]) + struct.pack("<Q", lie) + stored[header:]
    for size in {min(lie, 1 << 20), 5100}:
        with pytest.raises(FrameError):
            CODEC.decode(forged, size, base)


def test_anything_after_an_incremental_frame_is_refused():
    base = random.Random(1).randbytes(5000)
    stored = CODEC.encode(base, base)
    for junk in (b"\0", SKIPPABLE, stored):
        with pytest.raises(FrameError):
            CODEC.decode(stored + junk, len(base), base)


# The dictionary of format 1


def test_the_dictionary_can_never_change():
    assert hashlib.sha256(DICTIONARY).hexdigest() == "8c3e7ec3eb8f4940d333efc7e0705d0c621bd8501d37d382ec2427a20b5f648b"
    assert (len(DICTIONARY), BELOW) == (2488, 16 << 10)


def plain_zstd(stored):
    return zstandard.ZstdDecompressor().decompress(stored)


def with_dictionary(stored):
    raw = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=raw).decompress(stored)


def message(size):
    """What the dictionary knows, and then something that it does not."""
    return (DICTIONARY[:500] + random.Random(size).randbytes(size))[:size]


@pytest.mark.parametrize("size", [1, 100, 600, 5000, BELOW - 1])
def test_small_full_frames_have_the_dictionary(size):
    plain = message(size)
    stored = CODEC.encode(plain)
    assert with_dictionary(stored) == plain
    if size >= 100:
        assert len(stored) < len(zstandard.compress(plain, LEVEL)) - 50
        with suppress(zstandard.ZstdError):
            assert plain_zstd(stored) != plain
    assert CODEC.decode(stored, size) == CODEC.decode_bounded(stored) == plain


@pytest.mark.parametrize("size", [BELOW, BELOW + 1, 100_000])
def test_any_tool_reads_large_full_frames(size):
    plain = message(size)
    stored = CODEC.encode(plain)
    assert plain_zstd(stored) == plain
    assert CODEC.decode(stored, size) == CODEC.decode_bounded(stored, size) == plain


def test_an_incremental_frame_has_its_base_only():
    """Below the dictionary's bound too."""
    base = random.Random(3).randbytes(400)
    raw = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    stored = CODEC.encode(base + DICTIONARY[:300], base)
    assert zstandard.ZstdDecompressor(dict_data=raw).decompress(stored) == base + DICTIONARY[:300]


# Ciphers


class Eax:
    """AES-EAX, keyed by a text, with a name that says which."""

    def __init__(self, key, name=None):
        self.key, self.name = hashlib.sha256(key.encode()).digest(), key if name is None else name

    def encrypt(self, plaintext):
        cipher = AES.new(self.key, AES.MODE_EAX)
        data, tag = cipher.encrypt_and_digest(plaintext)
        return self.name, cipher.nonce + tag + data

    def decrypt(self, ciphername, ciphertext):
        if ciphername != self.name:
            raise ValueError(f"unknown key {ciphername}")
        cipher = AES.new(self.key, AES.MODE_EAX, nonce=ciphertext[:16])
        return cipher.decrypt_and_verify(ciphertext[32:], ciphertext[16:32])


SECRET = Codec(LEVEL, Eax("key one"))


@fuzz(data)
@example(b"")
def test_encrypted_round_trip(plain):
    stored = SECRET.encode(plain)
    assert stored[:1] == b"\x01"
    assert stored[1] == len("key one")
    assert stored[2:9] == b"key one"
    assert SECRET.decode(stored, len(plain)) == SECRET.decode_bounded(stored) == plain
    assert SECRET.encode(plain) != stored, "the nonce is used twice"


def test_it_is_compressed_before_it_is_encrypted():
    plain = TEXT * 1000
    assert len(SECRET.encode(plain)) < len(CODEC.encode(plain)) + 60
    assert len(SECRET.encode(plain + b"more", plain)) < 120


def test_nothing_of_the_value_is_readable():
    rng = random.Random(5)
    plain = b" ".join(b"word%d" % rng.randrange(10**6) for _ in range(2000))
    stored = SECRET.encode(plain) + SECRET.encode(plain[:300]) + SECRET.encode(plain, plain[:9000])
    assert not [at for at in range(len(plain) - 5) if plain[at : at + 5] in stored]
    assert b"\x28\xb5\x2f\xfd" not in stored, "a zstd frame in clear"


PLACE = ("lg_threads/e3-t/lg_checkpoints/I~!~", "manifest")


def test_clear_frames_are_read_with_a_cipher_only_where_they_are_accepted():
    accepts = Codec(LEVEL, Eax("key one"), accept_clear=True)
    long = TEXT * 3000
    for base, plain in ((None, TEXT), (TEXT, TEXT + b"more"), (long, long + b"more")):
        stored = CODEC.encode(plain, base)
        with pytest.raises(FrameError, match=r"^in clear$") as caught:
            SECRET.decode(stored, len(plain), base)
        assert caught.value.clear
        assert accepts.decode(stored, len(plain), base, name=PLACE[0]) == plain
    with pytest.raises(FrameError, match=r"^in clear$"):
        SECRET.decode_envelope(CODEC.encode_envelope(TEXT, PLACE), PLACE)
    assert accepts.decode_envelope(CODEC.encode_envelope(TEXT, PLACE), PLACE) == TEXT
    assert accepts.newly_accepted() == ["e3-t"]
    assert accepts.newly_accepted() == []
    accepts.decode(CODEC.encode(TEXT), len(TEXT), name="6b-1/~/1/v-0123456789ab.zst")
    assert accepts.newly_accepted() == ["6b-1"]


def test_what_is_neither_encrypted_nor_a_frame_is_damage():
    for first in range(256):
        stored = bytes([first]) + b"\0" * 40
        for codec in (SECRET, Codec(LEVEL, Eax("key one"), accept_clear=True)):
            with pytest.raises((FrameError, WrongKeyError)) as caught:
                codec.decode(stored, len(TEXT))
            # The mark of a splice, which needs a base.
            assert first in {2, 4} or not getattr(caught.value, "clear", False)


def test_an_envelope_is_bound_to_its_place_and_nothing_else_is():
    stored = SECRET.encode_envelope(TEXT, PLACE)
    assert SECRET.decode_envelope(stored, PLACE) == TEXT
    name, field = PLACE
    for other in ((name, "writes"), (f"{name}x", field), (name[:-1], "~\0manifest"), ("", f"{name}\0{field}")):
        for accepts in (False, True):
            with pytest.raises(FrameError, match=r"^bound to another place$") as caught:
                Codec(LEVEL, Eax("key one"), accept_clear=accepts).decode_envelope(stored, other)
            assert not caught.value.clear
    with pytest.raises(FrameError):
        SECRET.decode(stored, len(TEXT))
    with pytest.raises(FrameError, match=r"^not bound to its place$") as caught:
        SECRET.decode_envelope(SECRET.encode(TEXT), PLACE)
    assert caught.value.clear
    assert Codec(LEVEL, Eax("key one"), accept_clear=True).decode_envelope(SECRET.encode(TEXT), PLACE) == TEXT
    for end in range(len(stored)):
        with pytest.raises((FrameError, WrongKeyError)):
            SECRET.decode_envelope(stored[:end], PLACE)
    name, data = SECRET.cipher.encrypt(b"what another key of a cipher without authentication gives")
    with pytest.raises(FrameError) as caught:
        SECRET.decode_envelope(b"\x01" + bytes([len(name)]) + name.encode() + data, PLACE)
    assert not caught.value.clear


def test_without_a_cipher_an_envelope_is_a_full_frame():
    assert CODEC.encode_envelope(TEXT, PLACE) == CODEC.encode(TEXT)
    for place in (PLACE, ("", "")):
        assert CODEC.decode_envelope(CODEC.encode(TEXT), place) == TEXT
    with pytest.raises(WrongKeyError):
        CODEC.decode_envelope(SECRET.encode_envelope(TEXT, PLACE), PLACE)


OTHERS = [None, Eax("key two"), Eax("key two", name="key one"), Eax("key one", name="another")]


@pytest.mark.parametrize("cipher", OTHERS, ids=["none", "another key", "another key of that name", "another name"])
@pytest.mark.parametrize("base", [None, TEXT], ids=["full", "incremental"])
def test_another_key_is_no_damage(cipher, base):
    stored, other = SECRET.encode(TEXT, base), Codec(LEVEL, cipher)
    with pytest.raises(WrongKeyError, match="'key one'") as caught:
        other.decode(stored, len(TEXT), base)
    assert ("no `cipher`" in str(caught.value)) is (cipher is None)
    with pytest.raises(WrongKeyError):
        other.decode_bounded(stored)


def test_a_changed_ciphertext_is_never_a_value():
    """The key may be wrong, or the bytes may be. The caller finds out by a checksum of the stored bytes."""
    stored = SECRET.encode(TEXT)
    for at in range(len(stored)):
        damaged = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        with pytest.raises((WrongKeyError, FrameError)):
            SECRET.decode(damaged, len(TEXT))
    for end in range(len(stored)):
        with pytest.raises((WrongKeyError, FrameError)):
            SECRET.decode(stored[:end], len(TEXT))


def test_an_encrypted_frame_that_lies_about_its_size_is_refused():
    for lie in (0, len(TEXT) - 1, len(TEXT) + 1, 1 << 40):
        name, data = SECRET.cipher.encrypt(stated(TEXT, lie))
        forged = b"\x01" + bytes([len(name)]) + name.encode() + data
        with pytest.raises(FrameError):
            SECRET.decode(forged, len(TEXT))
        with pytest.raises(FrameError):
            SECRET.decode_bounded(forged)


def test_no_memory_is_no_wrong_key():
    class Full(Eax):
        def decrypt(self, ciphername, ciphertext):
            raise MemoryError

    with pytest.raises(MemoryError):
        Codec(LEVEL, Full("key one")).decode(SECRET.encode(TEXT), len(TEXT))


@pytest.mark.parametrize("name", ["", "é" * 127, "x" * 255])
def test_names_of_ciphers(name):
    codec = Codec(LEVEL, Eax("k", name=name))
    assert codec.decode(codec.encode(TEXT), len(TEXT)) == TEXT


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128])
def test_names_of_ciphers_that_are_too_long_are_refused(name):
    with pytest.raises(InvalidOptionError, match="255 bytes"):
        Codec(LEVEL, Eax("k", name=name)).encode(TEXT)


# Whether it is worth a try


def test_what_grew_shrank_or_was_edited_resembles():
    base = random.Random(1).randbytes(100_000)
    for value in (
        base,
        base + base[:500],
        base[:500] + base,
        base[:-500],
        base[500:],
        base[:50_000] + b"x" * 700 + base[50_000:],
        base[:50_000] + b"x" * 700 + base[50_700:],
        base[:10_000] + base[90_000:],
        base + random.Random(2).randbytes(90_000),
    ):
        assert frames.resembles(value, base)


def test_what_changed_entirely_does_not_resemble():
    base = random.Random(1).randbytes(100_000)
    for value in (random.Random(2).randbytes(100_000), random.Random(2).randbytes(5000), base[::-1]):
        assert not frames.resembles(value, base)
    some = ["the", "of", "and", "to", "in", "is", "it", "you", "that"]
    one, other = (" ".join(random.Random(seed).choices(some, k=9000)).encode() for seed in (1, 2))
    assert not frames.resembles(one, other)


def test_small_values_are_always_worth_a_try():
    for size in (0, 1, 383):
        assert frames.resembles(random.Random(1).randbytes(size), b"something else")
    assert not frames.resembles(random.Random(1).randbytes(384), bytes(384))


def test_to_look_takes_no_time():
    """Values that change entirely must cost hardly more than full frames."""
    base, value = (random.Random(seed).randbytes(2_000_000) for seed in (1, 2))
    began = time.process_time()
    for _ in range(10):
        frames.resembles(value, base)
    looked = time.process_time() - began
    began = time.process_time()
    CODEC.encode(value)
    assert looked / 10 < (time.process_time() - began) / 2


# Damage


def test_the_helper_that_forges_sizes_makes_valid_frames():
    assert CODEC.decode(stated(TEXT, len(TEXT)), len(TEXT)) == TEXT


@pytest.mark.parametrize("lie", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 10 * len(TEXT), 1 << 40, (1 << 64) - 1])
def test_a_size_that_lies_is_refused(lie):
    """Whether the reader believes the header or the manifest."""
    for size in (lie, len(TEXT)):
        with pytest.raises(FrameError):
            CODEC.decode(stated(TEXT, lie), min(size, 1 << 20))
    with pytest.raises(FrameError):
        CODEC.decode_bounded(stated(TEXT, lie))


@pytest.mark.parametrize("size", [0, len(TEXT) - 1, len(TEXT) + 1])
def test_another_size_than_expected_is_refused(size):
    with pytest.raises(FrameError, match=f"{len(TEXT)} bytes"):
        CODEC.decode(CODEC.encode(TEXT), size)


def test_the_bound_is_inclusive():
    stored = CODEC.encode(TEXT)
    assert CODEC.decode_bounded(stored, len(TEXT)) == TEXT
    with pytest.raises(FrameError):
        CODEC.decode_bounded(stored, len(TEXT) - 1)


@fuzz(data.filter(len))
def test_truncated_at_any_byte(plain):
    stored = CODEC.encode(plain)
    for end in range(len(stored)):
        with pytest.raises(FrameError):
            CODEC.decode(stored[:end], len(plain))


@pytest.mark.parametrize("plain", [TEXT, b"x", b"\0" * 5000], ids=["text", "one", "zeros"])
@pytest.mark.parametrize("junk", [b"\0", b"junk", SKIPPABLE, CODEC.encode(TEXT), CODEC.encode(b"")], ids=range(5))
def test_anything_after_the_frame_is_refused(plain, junk):
    for size in {len(plain), len(plain) + len(TEXT)}:
        with pytest.raises(FrameError):
            CODEC.decode(CODEC.encode(plain) + junk, size)
    with pytest.raises(FrameError):
        CODEC.decode_bounded(CODEC.encode(plain) + junk)


@pytest.mark.parametrize("damage", [b"junk", SKIPPABLE, CODEC.encode(b""), CODEC.encode(TEXT)], ids=range(4))
def test_anything_after_an_empty_frame_is_refused(damage):
    with pytest.raises(FrameError):
        CODEC.decode(CODEC.encode(b"") + damage, 0)


def test_a_truncated_empty_frame_is_refused():
    with pytest.raises(FrameError):
        CODEC.decode(CODEC.encode(b"")[:-1], 0)


@pytest.mark.parametrize("size", [0, 5])
def test_a_skippable_frame_is_no_frame(size):
    with pytest.raises(FrameError):
        CODEC.decode(SKIPPABLE, size)
    with pytest.raises(FrameError):
        CODEC.decode_bounded(SKIPPABLE)


def test_a_skippable_frame_before_another_is_refused():
    for size in (5, len(TEXT)):
        with pytest.raises(FrameError):
            CODEC.decode(SKIPPABLE + CODEC.encode(TEXT), size)


@pytest.mark.parametrize("stored", [b"", b"\x28", b"not a frame at all", zstandard.MAGIC_NUMBER.to_bytes(4, "little")])
def test_what_is_no_frame_is_refused(stored):
    for size in (0, 1, len(stored)):
        with pytest.raises(FrameError):
            CODEC.decode(stored, size)
    with pytest.raises(FrameError):
        CODEC.decode_bounded(stored)


def test_a_frame_without_a_stated_size_is_refused():
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(FrameError):
        CODEC.decode(stored, len(TEXT))
    with pytest.raises(FrameError):
        CODEC.decode_bounded(stored)


def test_a_little_on_a_large_base_takes_no_large_table(monkeypatch):
    """A table with room for every position of 64 MiB would take 256 MiB."""
    made, real = [], zstandard.ZstdCompressionParameters.from_level

    class Spy(zstandard.ZstdCompressionParameters):
        @staticmethod
        def from_level(level, **options):
            made.append((level, options["hash_log"]))
            return real(level, **options)

    monkeypatch.setattr(zstandard, "ZstdCompressionParameters", Spy)
    value = random.Random(1).randbytes(40_000)
    for base in (value * 10, value * 200):
        assert CODEC.decode(CODEC.encode(value, base), len(value), base) == value
    assert made == [(8, 18), (LEVEL, 20)]


def test_a_frame_that_asks_for_a_dictionary_is_refused():
    samples = [json.dumps({"number": n, "name": f"sample {n}", "square": n * n}).encode() for n in range(2000)]
    dictionary = zstandard.train_dictionary(4096, samples)
    stored = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[5])
    assert zstandard.get_frame_parameters(stored).dict_id
    with pytest.raises(FrameError):
        CODEC.decode(stored, len(samples[5]))


def test_random_bytes_cost_a_few_bytes():
    for size in (1, 15, 16, 100, 255, 256, 4096, 65_535, 65_536, 300_000):
        plain = random.Random(size).randbytes(size)
        # A header of 6 to 9 bytes, and 3 for each block of 128 KiB.
        assert len(CODEC.encode(plain)) <= size + 9 + 3 * (size // (128 << 10) + 1), size


@fuzz(data.filter(len), st.randoms(use_true_random=False))
def test_a_changed_byte_never_gives_more_than_was_asked_for(plain, rng):
    stored = bytearray(CODEC.encode(plain))
    stored[rng.randrange(len(stored))] ^= rng.randrange(1, 256)
    # All are fine: the digest of the value decides, which is not this module's. The first byte may come to say that the
    # frame was encrypted.
    with suppress(FrameError, WrongKeyError):
        assert len(CODEC.decode(bytes(stored), len(plain))) == len(plain)


BOMB = """
import resource, sys, threading
from langgraph_gcs_saver.format import frames
from langgraph_gcs_saver.format.dictionary import BELOW, DICTIONARY
from langgraph_gcs_saver.errors import InvalidOptionError, ValueTooLargeError, WrongKeyError

codec = frames.Codec(3)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # a failure must not take the machine along
stored = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for decode in (lambda: codec.decode(stored, 1000), lambda: codec.decode_bounded(stored)):
    try:
        decode()
    except frames.FrameError:
        refused += 1
print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _bomb():
    """1 GiB of zeros, as one frame that honestly says so."""
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=1 << 30)
    part = bytes(1 << 22)
    return b"".join([compressor.compress(part) for _ in range(256)] + [compressor.flush()])


@pytest.mark.skipif(sys.platform == "win32", reason="measures with `resource`")
@pytest.mark.parametrize("lies", [False, True], ids=["honest", "lying"])
def test_a_bomb_is_refused_before_anything_is_allocated(lies):
    bomb = _bomb()
    if lies:  # Says 1,000 bytes: zstd may not write more.
        header = zstandard.frame_header_size(bomb)
        bomb = bomb[:4] + bytes([0b11100000]) + struct.pack("<Q", 1000) + bomb[header:]
    assert len(bomb) < 64 << 10
    answer = subprocess.run([sys.executable, "-c", BOMB], input=bomb, capture_output=True, check=True, timeout=PATIENCE)
    refused, grown = map(int, answer.stdout.split())
    assert refused == 2, "nothing was refused: the bomb is broken"
    # Kilobytes on Linux, bytes on macOS.
    assert grown < (8 << 10 if sys.platform == "linux" else 8 << 20)


# Large values


@pytest.mark.parametrize("base", [None, bytes(3000)], ids=["full", "incremental"])
def test_values_over_the_bound_are_neither_encoded_nor_decoded(base):
    bounded = Codec(LEVEL, max_bytes=2000)
    assert bounded.decode(bounded.encode(bytes(2000), base), 2000, base) == bytes(2000)
    with pytest.raises(ValueTooLargeError, match=r"2,001 bytes.*max_value_bytes is 2,000"):
        bounded.encode(bytes(2001), base)
    stored = CODEC.encode(bytes(2001), base)
    with pytest.raises(ValueTooLargeError):
        bounded.decode(stored, 2001, base)


def test_a_value_over_the_bound_allocates_nothing():
    """Frames can be made that decompress to any size, and say so honestly."""
    stored = CODEC.encode(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueTooLargeError):
            Codec(LEVEL, max_bytes=1 << 20).decode(stored, 64 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        # A frame that is not as large as the manifest says is damage, whatever the bound.
        with pytest.raises(FrameError):
            Codec(LEVEL, max_bytes=1 << 20).decode(stored, 1000)
        with pytest.raises(FrameError):
            Codec(LEVEL, max_bytes=1 << 20).decode(CODEC.encode(bytes(1000)), 64 << 20)
    finally:
        tracemalloc.stop()


# Envelopes


@fuzz(heads, st.binary(max_size=100))
@example({}, b"")
@example({"lone": "\ud800", "nul": "\0", "é": -0.0, "big": 1 << 70, "small": 5e-324}, b"\0{}")
def test_envelopes_round_trip(head, tail):
    found, rest = frames.open_envelope(frames.envelope(head, tail))
    assert (found, rest) == (head, tail)
    assert repr(found) == repr(head)  # 1 is not 1.0, nor True


def test_the_tail_is_not_encoded():
    tail = bytes(range(256)) * 4
    assert len(frames.envelope({}, tail)) == 4 + 2 + len(tail)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_envelopes_take_no_number_that_json_has_not(number):
    with pytest.raises(ValueError, match="JSON"):
        frames.envelope({"a": number})


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\3{}",
        b"\xff\xff\xff\xff{}",
        b"\0\0\0\2{]",
        b"\0\0\0\2\xff\xff",
        b"\0\0\0\1\xd8",
        struct.pack(">I", 200_000) + b"[" * 200_000,
    ],
    ids=range(9),
)
def test_damaged_envelopes(plain):
    with pytest.raises(FrameError, match="envelope"):
        frames.open_envelope(plain)


@fuzz(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)), st.binary(max_size=20))
def test_truncated_envelopes(head, tail):
    whole = frames.envelope(head, tail)
    for end in range(len(whole) - len(tail)):
        with pytest.raises(FrameError):
            frames.open_envelope(whole[:end])


@fuzz(st.binary(max_size=40))
def test_any_bytes_are_an_envelope_or_an_error(plain):
    try:
        head, tail = frames.open_envelope(plain)
    except FrameError:
        return
    assert plain.endswith(tail)
    assert 4 + len(json.dumps(head)) >= 4


def test_an_envelope_over_the_limit_is_refused_by_what_it_says():
    assert frames.ENVELOPE_MAX_BYTES == 64 << 20
    with pytest.raises(FrameError):
        CODEC.decode_bounded(stated(TEXT, frames.ENVELOPE_MAX_BYTES + 1))


@fuzz(data)
@example(b"123456789")
def test_crc32c_is_written_as_cloud_storage_writes_it(plain):
    import base64

    assert int.from_bytes(base64.b64decode(crc32c(plain)), "big") == google_crc32c.value(plain)
    assert crc32c(b"123456789") == "4waSgw=="  # the check value of CRC-32C, 0xE3069283
