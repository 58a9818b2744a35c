"""Splices: the bytes that a value shares with its base at both ends are copied, and only the rest is compressed.

State usually grows at its end. In a chat of 800 KB, a step changes the number of messages in the first bytes and adds
a message. zstd would index the whole base to find that out. It is much faster to compare the two, and to compress the
new message with the bytes near it as the dictionary (`docs/explanation/design/006-splices.md`).
"""

from __future__ import annotations

from langgraph_gcs_saver.format.common_bytes import same_from, same_to_end
from langgraph_gcs_saver.records import record

MARK = b"\x02"
"""First byte of a splice; a zstd frame begins with 0x28."""

MIN_BYTES = 64 << 10
"""Smallest base and value to splice, in bytes. Below that, indexing the whole base takes hardly any time."""

HEAD_BYTES = 16
"""Bytes at the beginning that may differ: a list's length precedes it, and the rest may be the same as before."""

NEAR_BYTES, NEAR_SHARE = 16 << 10, 100
"""The size of the dictionary, which is the part of the base just before the change.

It is `NEAR_BYTES`, or the square of the literal's size divided by `NEAR_SHARE` if that is more. A text usually occurs
again near its last occurrence. A frame that builds on a version five steps back has a literal five times as large. Such
frames are made a fifth as often (`chains`), and are most of what is stored. So they get a larger dictionary, although
it takes more time.
"""


@record(frozen=True, slots=True)
class Splice:
    """How to build a value from its base and the literal, a few bytes of the value's own.

    The value is the literal's first `head` bytes, the base from `head` to `end`, the rest of the literal, and the last
    `tail` bytes of the base.

    Attributes:
        head: Bytes of the literal before the first copy.
        end: Position in the base where the first copy ends.
        tail: Length of the second copy.
        near: Position in the base where the dictionary begins. It ends where the second copy begins.
    """

    head: int
    end: int
    tail: int
    near: int

    @property
    def copied(self) -> int:
        """Bytes of the value that are copied from the base."""
        return self.end - self.head + self.tail

    def literal(self, plain: bytes) -> bytes:
        """The bytes of a value that are not copied."""
        return plain[: self.head] + plain[self.end : len(plain) - self.tail]

    def dictionary(self, base: bytes) -> bytes:
        """The bytes of the base that the literal is compressed with."""
        return base[self.near : len(base) - self.tail]

    def join(self, literal: bytes, base: bytes) -> bytes:
        """The value, built from the literal and the base."""
        copies = memoryview(base)
        return b"".join(
            (
                literal[: self.head],
                copies[self.head : self.end],
                literal[self.head :],
                copies[len(base) - self.tail :],
            )
        )

    def to_bytes(self) -> bytes:
        """The mark and the four numbers, which precede the literal's frame."""
        return MARK + b"".join(map(_pack, (self.head, self.end, self.tail, self.near)))


def find(plain: bytes, base: bytes) -> Splice | None:
    """How to splice a value; `None` unless the value and its base are large and share more than half of the value."""
    if min(len(plain), len(base)) < MIN_BYTES:
        return None
    head = 0 if plain[:HEAD_BYTES] == base[:HEAD_BYTES] else HEAD_BYTES
    end = same_from(head, plain, base)
    tail = same_to_end(min(len(plain), len(base)) - end, plain, base)
    literal = len(plain) - end - tail + head
    near = max(NEAR_BYTES, literal * literal // NEAR_SHARE)
    return Splice(head, end, tail, max(0, end - near)) if 2 * literal < len(plain) else None


def parse(stored: bytes, base_size: int) -> tuple[Splice, int]:
    """Parse a splice on a base of `base_size` bytes, and find where the literal's frame begins.

    Raises:
        ValueError: The bytes are not a splice, or it copies bytes that the base does not have.
    """
    at = len(MARK)
    numbers = []
    for _ in range(4):
        number, at = _unpack(stored, at)
        numbers.append(number)
    found = Splice(*numbers)
    room = base_size - found.tail
    if not (found.head <= found.end <= room and found.near <= room):
        raise ValueError("a splice that its base does not allow")
    return found, at


def _pack(number: int) -> bytes:
    """A number as LEB128: seven bits per byte, lowest first. Every byte except the last has its highest bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(0x80 | number & 0x7F)
        number >>= 7
    found.append(number)
    return bytes(found)


def _unpack(stored: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(stored[at : at + 9]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError("a number that does not end")
