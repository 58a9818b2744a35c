"""Frames: zstd frames of serialized values, and the small envelopes that carry JSON with a binary tail.

A frame always states its content size. It exceeds that size by no more than zstd's headers: zstd stores what it cannot
compress, and a codec can make it store everything. Frames are decoded without trusting them. python-zstandard
ignores `max_output_size` when the header carries a size (32 KB gave 1 GiB), and it accepts trailing junk. So both are
checked here first.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import zstandard

from langgraph_gcs_saver.errors import InvalidOptionError, ValueTooLargeError, WrongKeyError
from langgraph_gcs_saver.format import keys, splices, trained
from langgraph_gcs_saver.format.dictionary import BELOW, DICTIONARY
from langgraph_gcs_saver.format.trained import Dictionaries, Trained, name_of
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import CipherProtocol

ENVELOPE_MAX_BYTES = 64 << 20
"""Most bytes of an envelope in a document, and of a manifest anywhere. Pending writes in an object may be larger."""

STATE_VALUES = 64
"""Most bytes of all values of a checkpoint together, as a multiple of the most bytes of one value."""

HEAD_BYTES = 16 << 20
"""Largest head of an envelope, in bytes. A manifest with 5,000 channels and 12 frames in each has a head of 10 MiB."""

HEAD_PARTS = 1_500_000
"""Most values and keys in the head of an envelope, as `parts` counts them. The same manifest has a million."""

_PLAIN_HEAD = 256 << 10
"""Smaller heads are parsed without counting their parts. Parsed JSON takes up to 41 times its bytes in memory."""

_LENGTH = struct.Struct(">I")
_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

WINDOW_LOG_MAX = 27
"""Largest window: if base and value together exceed 128 MiB, zstd cannot refer to the beginning of the base."""

_CIPHER_MARK = b"\x01"
"""First byte of an encrypted frame; a zstd frame begins with 0x28."""

_PLACE_MARK = b"\x03"
"""First byte of an envelope's plaintext, before encryption. The digest of its place and the frame follow.

It also distinguishes an envelope from a value. A user of an agent chooses the content of a value. Without the mark, an
attacker with write access could put the ciphertext of such a value in the place of a manifest.
"""

_PLACE_BYTES = 32
_SPLICES = (splices.MARK, splices.FIRST_MARK)
_CLEAR_MARKS = (zstandard.FRAME_HEADER, *_SPLICES)

Place = tuple[str, str]
"""The place of an envelope: the name of a document below the root, and the name of one of its fields."""

_SMALL_LEVEL = 8
"""Lowest level for small values. It saves bytes compared with level 3 and takes hardly any more time."""

_SMALL_BYTES, _SMALL_BASE_BYTES = 64 << 10, 4 << 20
"""A value and its base are small if both are below these: a table of every position of 4 MiB takes 16 MiB."""

_DICTIONARY_BYTES = 8 << 20
"""Largest base that is a dictionary as a whole. A frame with 8 MB takes 2 to 4 times the time of a full one."""

_EMPTY_LAST_BLOCK = b"\1\0\0"

_RAW_HEADER = struct.Struct("<4sBBQ")
"""Header of a frame that is stored, not compressed: the magic number, the descriptor, the window, the content size."""

_RAW_DESCRIPTOR = 0b1100_0000
"""The content size has 8 bytes; the frame has a window, but no checksum and no dictionary id."""

_RAW_WINDOW, _RAW_BLOCK_BYTES = 7 << 3, 128 << 10
"""A window of 2 ** (10 + 7) bytes, and the largest block of a frame with that window."""

_local = threading.local()


_MAX_REMEMBERED = 10_000
"""Most threads that a codec remembers as having something in clear."""


class FrameError(Exception):
    """Bytes that are not the expected frame; callers add which document or object holds them.

    Attributes:
        clear: The cipher does not vouch for the bytes: they are in clear, or not bound to their place.
    """

    def __init__(self, reason: str, *, clear: bool = False) -> None:
        super().__init__(reason)
        self.clear = clear


class DictionaryNeeded(FrameError):  # noqa: N818 - it is an answer: fetch this, and decode again
    """A frame needs a trained dictionary that the codec does not have.

    Attributes:
        id: The dictionary's id.
    """

    def __init__(self, dictionary_id: str) -> None:
        super().__init__(f"a frame that needs the dictionary {dictionary_id!r}")
        self.id = dictionary_id


@record(frozen=True, slots=True)
class Decoding:
    """The last step of decoding a frame.

    Attributes:
        finish: Gives the value; raises `FrameError` as `Codec.decode` does.
        needs_base: Whether `finish` copies from the base. If not, the caller may drop the base before it calls
            `finish`, because the decompressor has a copy of the whole base.
    """

    finish: Callable[[], bytes]
    needs_base: bool


@record(frozen=True, slots=True)
class Increment:
    """A value as a change of its base, before it is compressed.

    Attributes:
        plain: The value.
        base: The earlier value.
        splice: What is copied from the base; `None` if all of it is the dictionary.
    """

    plain: bytes
    base: bytes
    splice: splices.Splice | None

    @property
    def new_bytes(self) -> int:
        """Bytes of the value that are compressed, and not copied."""
        return len(self.plain) - (0 if self.splice is None else self.splice.copied)

    @property
    def format(self) -> int:
        """Lowest version of the stored format whose readers can decode it."""
        return 1 if self.splice is None else splices.FORMAT

    @classmethod
    def of(cls, plain: bytes, base: bytes) -> Increment:
        """The change from `base` to `plain`, whether or not it is worth its time."""
        return cls(plain, base, splices.find(plain, base))

    def is_worth_its_time(self) -> bool:
        """Whether compressing it takes less time than a full frame does, or probably makes a much smaller frame."""
        if self.splice is not None:
            return True
        return len(self.base) <= _DICTIONARY_BYTES and resembles(self.plain, self.base)

    def encode(self, level: int) -> bytes:
        """The frame, compressed at this level and not yet encrypted."""
        if self.splice is None:
            return _compress(self.plain, self.base, level)
        splice = self.splice
        return splice.header + _compress(splice.literal(self.plain), splice.dictionary(self.base), level)


@record(frozen=True, slots=True)
class Codec:
    """Encodes serialized values as stored frames, and decodes stored frames.

    A frame is *full* or *incremental*. An incremental frame is compressed with an earlier value as a raw-content
    dictionary, or spliced from that value. Full frames of small values use the format's own dictionary. With a cipher,
    a frame is compressed first and then encrypted, because ciphertexts do not compress. An envelope in a document is
    bound to its place: its plaintext begins with the digest of the place. A value needs no such digest, because a bound
    envelope holds the value's digest.

    Attributes:
        level: Compression level. `None` stores everything in full and uncompressed, so that the size of a frame depends
            on the size of its content only.
        cipher: Encrypts every frame, or `None`.
        max_bytes: Largest value, in bytes, that is encoded or decoded. A call may pass a higher limit as `least`, for
            manifests and pending writes, which are not values.
        accept_clear: With a cipher, whether frames in clear and envelopes that are not bound are decoded.
        dictionaries: The trained dictionaries that the process has.
    """

    level: int | None
    cipher: CipherProtocol | None = None
    max_bytes: int = 1 << 30
    accept_clear: bool = False
    dictionaries: Dictionaries = field(default_factory=Dictionaries)
    _proven: set[str] = field(default_factory=set)
    """Names under which the cipher has decrypted something, which proves that it has these keys."""
    _accepted: dict[str, bool] = field(default_factory=dict)
    """Segments of threads with something in clear that was accepted, and whether `newly_accepted` returned them."""

    @property
    def writing(self) -> Trained | None:
        """The trained dictionary of new frames, if there is one."""
        wanted = self.dictionaries.wanted
        return None if wanted is None or self.level is None else self.dictionaries.get(wanted)

    @property
    def lacking(self) -> str | None:
        """The id of the dictionary that new frames should have, and that the process does not have yet."""
        wanted = self.dictionaries.wanted
        return None if wanted is None or self.level is None or wanted in self.dictionaries else wanted

    def encode(self, plain: bytes, base: bytes | None = None, *, least: int = 0, trained: bool = False) -> bytes:
        """Make a frame of `plain`, incremental if there is a `base` and the codec compresses.

        With `trained`, a full frame has the trained dictionary. Its manifest must name that.

        Raises:
            ValueTooLargeError: `plain` is larger than `max_bytes`.
        """
        self.refuse_large(len(plain), least)
        if base is None or self.level is None:
            return self._encrypt(self._full(plain, trained=trained))
        return self._encrypt(Increment.of(plain, base).encode(self.level))

    def increment(self, plain: bytes, base: bytes) -> Increment | None:
        """The change from `base` to `plain`; `None` if a full frame is better, judged without making one.

        Raises:
            ValueTooLargeError: `plain` is larger than `max_bytes`.
        """
        self.refuse_large(len(plain))
        if self.level is None:
            return None
        found = Increment.of(plain, base)
        return found if found.is_worth_its_time() else None

    def encode_increment(self, increment: Increment) -> bytes:
        """Make the incremental frame of a value. The codec must compress."""
        return self._encrypt(increment.encode(self.level or 0))

    def encode_envelope(self, plain: bytes, place: Place, *, trained: bool = False) -> bytes:
        """Make the frame of an envelope in a document; with a cipher, bind it to its place.

        With `trained`, it has the trained dictionary. Its document must state the format that this needs.

        Raises:
            ValueTooLargeError: `plain` is larger than both `max_bytes` and `ENVELOPE_MAX_BYTES`.
        """
        self.refuse_large(len(plain), ENVELOPE_MAX_BYTES)
        frame = self._full(plain, trained=trained)
        return frame if self.cipher is None else self._encrypt(_PLACE_MARK + _digest_of(place) + frame)

    def _full(self, plain: bytes, *, trained: bool) -> bytes:
        if self.level is None:
            return _stored(plain)
        return compress(plain, self.level, self.writing if trained else None)

    def _encrypt(self, frame: bytes) -> bytes:
        if self.cipher is None:
            return frame
        name, data = self.cipher.encrypt(frame)
        return _label(name) + data

    def decode(self, stored: bytes, size: int, base: bytes | None = None, *, least: int = 0, name: str = "") -> bytes:
        """The value in a frame, which must have exactly `size` bytes.

        Args:
            stored: The frame.
            size: Bytes of the value.
            base: The earlier value that an incremental frame builds on.
            least: Bytes that the value may have even if `max_bytes` is lower.
            name: The document or object that holds the frame.

        Raises:
            FrameError: The bytes are not one whole frame of that size. Nothing larger than `size` was allocated. A
                wrong base may go unnoticed here, so the caller compares digests.
            ValueTooLargeError: The value is larger than `max_bytes`. Nothing was allocated.
        """
        return self.begin(stored, size, base, least=least, name=name).finish()

    def begin(self, stored: bytes, size: int, base: bytes | None = None, *, least: int = 0, name: str = "") -> Decoding:
        """Like `decode`, without the last step, which allocates the value. A caller may drop the base first."""
        frame = self._decrypted(stored, name)
        if base is not None and frame.startswith(_SPLICES):
            return self._begin_splice(frame, size, base, least)
        number = _check_size(frame, lambda found: found == size, has_dictionary=base is None)[1]
        self.refuse_large(size, least)
        decompressor = self._trained(number) if number else _decompressor_on(base, size)
        return Decoding(partial(_decompress, frame, decompressor), needs_base=False)

    def _begin_splice(self, frame: bytes, size: int, base: bytes, least: int) -> Decoding:
        try:
            splice = splices.parse(frame, size, len(base))
        except ValueError as error:
            raise FrameError(str(error)) from None
        rest, literal = frame[len(splice.header) :], size - splice.copied
        _check_size(rest, lambda found: found == literal)
        self.refuse_large(size, least)
        decompressor = _decompressor_on(splice.dictionary(base), literal)
        return Decoding(lambda: splice.join(_decompress(rest, decompressor), base), needs_base=True)

    def decode_bounded(self, stored: bytes, max_bytes: int = ENVELOPE_MAX_BYTES) -> bytes:
        """The value in a full frame, of at most `max_bytes`. For an envelope, call `decode_envelope`.

        Raises:
            FrameError: The bytes are not one whole frame, or state a larger size. Then nothing was allocated.
        """
        return _decode_bounded(self._decrypted(stored), max_bytes)

    def decode_envelope(self, stored: bytes, place: Place) -> bytes:
        """The envelope in a field of a document.

        Raises:
            FrameError: The bytes are not one whole frame, are too large, or are bound to another place.
        """
        frame = self._decrypted(stored, place[0])
        if is_encrypted(stored):
            if frame.startswith(_PLACE_MARK):
                end = len(_PLACE_MARK) + _PLACE_BYTES
                if frame[len(_PLACE_MARK) : end] != _digest_of(place):
                    raise FrameError("bound to another place")
                frame = frame[end:]
            elif frame.startswith(zstandard.FRAME_HEADER):
                self._accept("not bound to its place", place[0])
        size, number = _check_size(frame, lambda found: found <= ENVELOPE_MAX_BYTES, has_dictionary=True)
        return _decompress(frame, self._trained(number) if number else _decompressor_on(None, size))

    def dictionary_of(self, stored: bytes) -> Trained | None:
        """The trained dictionary of a full frame or an envelope that was decoded, if it has one."""
        frame = self._decrypted(stored)
        frame = frame[len(_PLACE_MARK) + _PLACE_BYTES :] if frame.startswith(_PLACE_MARK) else frame
        number = zstandard.get_frame_parameters(frame).dict_id
        return self.dictionaries.get(name_of(number)) if number else None

    def _trained(self, number: int) -> zstandard.ZstdDecompressor:
        dictionary_id = name_of(number)
        found = self.dictionaries.get(dictionary_id)
        if found is None:
            raise DictionaryNeeded(dictionary_id)
        return found.decompressor

    def vouches_for(self, stored: bytes) -> bool:
        """Whether an envelope that was read is encrypted and bound to its place.

        Without a cipher, always true, because no protection is expected.
        """
        if self.cipher is None or not self.accept_clear:
            return True
        return is_encrypted(stored) and self._decrypt(stored).startswith(_PLACE_MARK)

    def refuse_large(self, size: int, least: int = 0) -> None:
        """Raise `ValueTooLargeError` if `size` is more than both `max_bytes` and `least`."""
        if size > max(self.max_bytes, least):
            raise ValueTooLargeError(
                f"A serialized value has {size:,} bytes, and max_value_bytes is {self.max_bytes:,}. To store such "
                "values, pass a greater `max_value_bytes` to every saver that writes or reads them."
            )

    def refuse_large_state(self, size: int, what: str) -> None:
        """Raise `ValueTooLargeError` if the values of a checkpoint, or its pending writes, are too large together.

        Each may have `STATE_VALUES` times `max_bytes` together, and at least 64 MiB. `what` names them in the message.
        """
        most = max(STATE_VALUES * self.max_bytes, ENVELOPE_MAX_BYTES)
        if size > most:
            raise ValueTooLargeError(
                f"{what} have {size:,} bytes together. With a max_value_bytes of {self.max_bytes:,}, at most {most:,} "
                "are read or written. To store such states, pass a greater `max_value_bytes`."
            )

    def has_key(self, stored: bytes) -> bool:
        """Whether the saver is known to have the key of a frame that it cannot decrypt. Then the frame is damaged.

        The saver has the key of each name under which it decrypted something before. If the name in the frame is
        corrupt, the key of one of those names decrypts it. Without a cipher, no encrypted frame is expected, because
        manifests in clear refer to none.
        """
        if self.cipher is None:
            return True
        end = 2 + (stored[1] if len(stored) > 1 else 0)
        try:
            name = stored[2:end].decode()
        except UnicodeDecodeError:
            return True
        proven = tuple(self._proven)  # a copy, because other threads add to it
        return len(stored) < end or name in proven or any(self._opens(known, stored) for known in proven)

    def _opens(self, name: str, stored: bytes) -> bool:
        try:
            self._decrypt(_label(name) + stored[2 + len(name.encode()) :])
        except WrongKeyError:
            return False
        return True

    def newly_accepted(self) -> list[str]:
        """Segments of threads with something accepted that the cipher does not vouch for. Each is returned once."""
        found = [segment for segment, is_reported in list(self._accepted.items()) if not is_reported]
        if len(self._accepted) > _MAX_REMEMBERED:
            self._accepted.clear()
        self._accepted.update(dict.fromkeys(found, True))
        return found

    def _accept(self, what: str, name: str) -> None:
        """Note that bytes are decoded that the cipher does not vouch for; raise `FrameError` unless that is allowed."""
        if not self.accept_clear:
            raise FrameError(what, clear=True)
        self._accepted.setdefault(name.removeprefix(f"{keys.THREADS}/").partition("/")[0], False)

    def _decrypted(self, stored: bytes, name: str = "") -> bytes:
        """Decrypt stored bytes to a frame. With a cipher, they must be encrypted unless `accept_clear` is set."""
        if is_encrypted(stored):
            return self._decrypt(stored)
        if self.cipher is not None:
            if not stored.startswith(_CLEAR_MARKS):
                raise FrameError("neither encrypted nor a frame")
            self._accept("in clear", name)
        return stored

    def _decrypt(self, stored: bytes) -> bytes:
        end = 2 + (stored[1] if len(stored) > 1 else 0)
        name = stored[2:end].decode(errors="replace")
        if self.cipher is None:
            raise WrongKeyError(
                f"Stored data was encrypted with {name!r}, and the saver has no `cipher`. Pass the one that wrote it."
            )
        try:
            frame = self.cipher.decrypt(name, stored[end:])
        except MemoryError:
            raise
        except Exception as error:
            raise WrongKeyError(
                f"Stored data was encrypted with {name!r}, and the saver's `cipher` cannot decrypt it "
                f"({type(error).__name__}). Does it have another key?"
            ) from error
        self._proven.add(name)
        return frame


def is_encrypted(stored: bytes) -> bool:
    """Whether a frame is encrypted."""
    return stored.startswith(_CIPHER_MARK)


def begins_like_a_frame(stored: bytes) -> bool:
    """Whether bytes may be one or more frames, as far as their beginning shows without a key."""
    if stored.startswith((_CIPHER_MARK, *_SPLICES)):
        return True
    try:
        _check_size(stored, lambda size: size != zstandard.CONTENTSIZE_UNKNOWN, has_dictionary=True)
    except FrameError:
        return False
    return True


def _digest_of(place: Place) -> bytes:
    name, field_name = place
    return hashlib.sha256(b"%s\0%s" % (name.encode(), field_name.encode())).digest()


def _label(name: str) -> bytes:
    """The mark and the name that precede a ciphertext."""
    label = name.encode()
    if len(label) > 255:
        raise InvalidOptionError(
            f"The cipher's name {name[:40]!r}… is too long. A cipher's name has at most 255 bytes."
        )
    return _CIPHER_MARK + bytes([len(label)]) + label


def _stored(plain: bytes) -> bytes:
    """A zstd frame of raw blocks (RFC 8878, section 3.1.1). Any decoder reads it, even one with a dictionary."""
    pieces = [_RAW_HEADER.pack(zstandard.FRAME_HEADER, _RAW_DESCRIPTOR, _RAW_WINDOW, len(plain))]
    starts = range(0, len(plain) or 1, _RAW_BLOCK_BYTES)
    for start in starts:
        block = plain[start : start + _RAW_BLOCK_BYTES]
        is_last = start == starts[-1]
        pieces += ((len(block) << 3 | is_last).to_bytes(3, "little"), block)
    return b"".join(pieces)


def compress(plain: bytes, level: int, dictionary: Trained | None = None) -> bytes:
    """A full frame in clear: with the format's own dictionary if the value is small, or with a trained one."""
    is_small = len(plain) < BELOW
    if dictionary is not None and len(plain) < trained.BELOW:
        return dictionary.compress(plain, max(level, _SMALL_LEVEL) if is_small else level)
    found: bytes = _compressor(level, is_small).compress(plain)
    return found


def _compressor(level: int, small: bool) -> zstandard.ZstdCompressor:
    # Each thread keeps its contexts: they are not thread-safe, and making one takes longer than a small value does.
    made: dict[tuple[int, bool], zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if (level, small) not in made:
        dictionary = _raw(DICTIONARY) if small else None
        made[level, small] = zstandard.ZstdCompressor(
            level=max(level, _SMALL_LEVEL) if small else level, dict_data=dictionary, write_content_size=True
        )
    return made[level, small]


def _raw(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compress(plain: bytes, base: bytes, level: int) -> bytes:
    # A level's default hash table indexes only the tail of a large dictionary. One message added to 1,500 makes a frame
    # of 98 KB with it, and of 0.6 KB with this size. A table half as large can already miss some of the dictionary.
    # From level 5 on, zstd keeps every position and needs more room for them.
    bits = (len(base) + len(plain)).bit_length()
    is_small = len(plain) < _SMALL_BYTES and len(base) < _SMALL_BASE_BYTES
    parameters = zstandard.ZstdCompressionParameters.from_level(
        max(level, _SMALL_LEVEL) if is_small else level,
        window_log=min(max(bits, zstandard.WINDOWLOG_MIN), WINDOW_LOG_MAX),
        hash_log=min(max(bits - (1 if is_small else 3), zstandard.HASHLOG_MIN), 26),
        write_content_size=True,
    )
    return zstandard.ZstdCompressor(dict_data=_raw(base), compression_params=parameters).compress(plain)


def _decompressor(small: bool) -> zstandard.ZstdDecompressor:
    made: dict[bool, zstandard.ZstdDecompressor] = _local.__dict__.setdefault("decompressors", {})
    if small not in made:
        made[small] = zstandard.ZstdDecompressor(dict_data=_raw(DICTIONARY) if small else None)
    return made[small]


_SAMPLE = 48
_SAMPLES = 8
_REACH = 2 << 10


def resembles(plain: bytes, base: bytes) -> bool:
    """Whether an incremental frame on `base` is worth its time, judged by 8 samples of `plain`.

    Half of the samples must be near their expected place: where they would be if something was inserted before or after
    them. A few samples are found in any two values, because all messages have the same field names. Sampling takes much
    less time than compressing, so a value that changed entirely costs little more than its full frame.
    """
    if len(plain) < _SAMPLE * _SAMPLES:
        return True
    shift = len(base) - len(plain)
    found = 0
    for number in range(_SAMPLES):
        at = (len(plain) - _SAMPLE) * number // (_SAMPLES - 1)
        sample = plain[at : at + _SAMPLE]
        found += base.startswith(sample, at) or any(
            base.find(sample, max(0, near - _REACH), max(0, near + _REACH)) >= 0 for near in {at, at + shift}
        )
        if found >= _SAMPLES // 2:
            return True
        if number - found >= _SAMPLES // 2:
            return False
    return False


def envelope(head: Any, tail: bytes = b"") -> bytes:
    """JSON of `head` followed by `tail`, to be encoded as one frame.

    The tail is not base64: a document of pending writes with 1.9 KB of text takes 978 bytes instead of 1,470.

    Raises:
        ValueTooLargeError: Readers would not parse the head, because it is too large.
    """
    text = _json(head).encode()
    if is_too_large(text, 0, len(text)):
        raise ValueTooLargeError(
            f"Its names, versions and sizes take {len(text):,} bytes of JSON with {parts(text, 0, len(text)):,} parts. "
            f"At most {HEAD_BYTES:,} bytes and {HEAD_PARTS:,} parts are read."
        )
    return _LENGTH.pack(len(text)) + text + tail


def parts(text: bytes, start: int, end: int) -> int:
    """An upper bound of the number of values and keys in JSON, minus one.

    Each value or key except the first follows one of four characters, which are counted. They are counted in texts too,
    so the real number may be lower. Parsed, each takes less than 100 bytes besides those of its characters.
    """
    return sum(text.count(mark, start, end) for mark in (b"[", b"{", b",", b":"))


def is_too_large(text: bytes, start: int, end: int) -> bool:
    """Whether JSON might take more than 256 MiB when it is parsed."""
    size = end - start
    return size > HEAD_BYTES or (size > _PLAIN_HEAD and parts(text, start, end) > HEAD_PARTS)


def is_json(value: Any) -> bool:
    """Whether the head of an envelope can hold a value."""
    try:
        _json(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and infinities are not JSON")


_parse = json.JSONDecoder(parse_constant=_refuse_constant).decode


def open_envelope(plain: bytes) -> tuple[Any, bytes]:
    """Undo `envelope`.

    Raises:
        FrameError: The bytes are not an envelope, or the head is too large. A head that is too large was not parsed.
    """
    end = _LENGTH.size + _LENGTH.unpack_from(plain)[0] if len(plain) >= _LENGTH.size else 0
    if not _LENGTH.size <= end <= len(plain):
        raise FrameError("an envelope that is cut off")
    if is_too_large(plain, _LENGTH.size, end):
        raise FrameError("an envelope whose head is too large")
    try:
        return _parse(plain[_LENGTH.size : end].decode("utf-8", "surrogatepass")), plain[end:]
    except (ValueError, RecursionError):
        raise FrameError("an envelope whose head is not JSON") from None


def _check_size(stored: bytes, accept: Callable[[int], bool], *, has_dictionary: bool = False) -> tuple[int, int]:
    """The size of the value in a frame, and the number of the trained dictionary that it needs, or 0."""
    try:
        parameters = zstandard.get_frame_parameters(stored)
    except zstandard.ZstdError:
        raise FrameError("not a zstd frame") from None
    if (parameters.dict_id and not has_dictionary) or not accept(parameters.content_size):
        raise FrameError(f"a frame of {parameters.content_size} bytes, which is not the expected size")
    # python-zstandard ignores the rest of a frame whose header states a size of 0.
    if not parameters.content_size and stored[zstandard.frame_header_size(stored) :] != _EMPTY_LAST_BLOCK:
        raise FrameError("an empty frame that is not empty")
    return parameters.content_size, parameters.dict_id


def _decode_bounded(frame: bytes, max_bytes: int) -> bytes:
    size, _ = _check_size(frame, lambda found: found <= max_bytes)
    return _decompress(frame, _decompressor_on(None, size))


def _decompressor_on(base: bytes | None, size: int) -> zstandard.ZstdDecompressor:
    """A decompressor for a value of `size` bytes. It has a copy of the base."""
    return _decompressor(size < BELOW) if base is None else zstandard.ZstdDecompressor(dict_data=_raw(base))


def _decompress(frame: bytes, decompressor: zstandard.ZstdDecompressor) -> bytes:
    try:
        plain: bytes = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"a frame that does not decompress: {error}") from None
    return plain
