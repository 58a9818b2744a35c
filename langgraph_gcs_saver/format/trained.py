"""Trained dictionaries: bytes that the small values of one store have in common.

zstd's trainer makes them from samples: https://facebook.github.io/zstd/zstd_manual.html, "Dictionary builder". Besides
the bytes, a trained dictionary has zstd's tables of how frequent symbols are, which small frames otherwise repeat.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
from collections.abc import Sequence
from typing import Any

import zstandard

from langgraph_gcs_saver.records import record

BELOW = 64 << 10
"""Values of at least this many bytes have no trained dictionary, because they gain little."""

SIZE = 112 << 10
"""Bytes of a dictionary, as zstd's own command makes them. One of 256 KiB saves 2 % more of the benchmark's corpora."""

MOST_BYTES = 1 << 20
"""Most bytes of a dictionary that is read."""

SAMPLE_BYTES = 16 << 20
"""Most bytes of all samples. zstd advises 100 times the dictionary; the trainer takes about ten times this memory."""

_LEAST_SAMPLES = 100
"""Fewest samples. With fewer, a dictionary is what these few values contain, and not what values have in common."""

_SEGMENT, _DMER = 2000, 8
"""The trainer's parameters `k` and `d`: the bytes of a piece of a sample, and of what is counted in it."""

_MAGIC = b"\x37\xa4\x30\xec"
"""What a trained dictionary begins with (RFC 8878, section 5). Its id follows, in 4 bytes."""

_ID = struct.Struct("<I")

_FIRST_ID = 32768
_IDS = (1 << 31) - _FIRST_ID
"""The range of ids that RFC 8878, section 5, leaves to private use."""

_DICTIONARY_ID = re.compile(r"[0-7][0-9a-f]{7}\Z")

_local = threading.local()


@record(frozen=True, slots=True)
class Trained:
    """A trained dictionary. Its id follows from its bytes, so a dictionary never changes.

    Attributes:
        id: Its id, in hex, as documents name it.
        data: Its bytes.
    """

    id: str
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> Trained:
        """The dictionary in these bytes.

        Raises:
            ValueError: They are no trained dictionary, or their id is not that of their content.
        """
        if data[:4] != _MAGIC or len(data) <= 8 or data[4:8] != _ID.pack(_id_of(data)):
            raise ValueError("no trained dictionary")
        return cls(name_of(_id_of(data)), data)

    def compress(self, plain: bytes, level: int) -> bytes:
        """A frame of `plain` that needs this dictionary, and names it in its header."""
        # Each thread keeps its contexts, as for the format's own dictionary.
        made: dict[tuple[str, int], zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
        if (self.id, level) not in made:
            made[self.id, level] = zstandard.ZstdCompressor(level=level, dict_data=_dictionary(self.data))
        found: bytes = made[self.id, level].compress(plain)
        return found

    @property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        """This thread's decompressor of frames that need the dictionary."""
        made: dict[str, zstandard.ZstdDecompressor] = _local.__dict__.setdefault("decompressors", {})
        if self.id not in made:
            made[self.id] = zstandard.ZstdDecompressor(dict_data=_dictionary(self.data))
        return made[self.id]


class Dictionaries:
    """The dictionaries that a process has.

    Attributes:
        wanted: The id of the one that new frames need; `None` for none.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self.wanted = wanted
        self._known: dict[str, Trained] = {}

    def __contains__(self, dictionary_id: str) -> bool:
        return dictionary_id in self._known

    def get(self, dictionary_id: str) -> Trained | None:
        """The dictionary with that id, if the process has it."""
        return self._known.get(dictionary_id)

    def add(self, dictionary: Trained) -> None:
        """Have a dictionary from now on."""
        self._known[dictionary.id] = dictionary


def is_id(value: object) -> bool:
    """Whether a value can be the id of a dictionary."""
    return isinstance(value, str) and _DICTIONARY_ID.match(value) is not None


def name_of(number: int) -> str:
    """The id of a dictionary as documents name it."""
    return f"{number:08x}"


def train(samples: Sequence[bytes]) -> Trained | None:
    """Train a dictionary; `None` if the samples are too few or have nothing in common. The same samples give the same.

    Args:
        samples: Serialized values and envelopes; more than `SAMPLE_BYTES` of them take more memory.
    """
    if len(samples) < _LEAST_SAMPLES:
        return None
    try:
        made = zstandard.train_dictionary(SIZE, list(samples), k=_SEGMENT, d=_DMER)
    except zstandard.ZstdError:
        return None
    data: bytes = made.as_bytes()
    return Trained.of(data[:4] + _ID.pack(_id_of(data)) + data[8:])


def _id_of(data: bytes) -> int:
    found = int.from_bytes(hashlib.sha256(data[:4] + data[8:]).digest()[:8], "big")
    return _FIRST_ID + found % _IDS


def _dictionary(data: bytes) -> Any:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_FULLDICT)
