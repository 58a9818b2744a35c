"""Splices: what a value shares with its base at the begin and the end is copied, and only the rest is compressed.

State grows at its end, as a rule: in a chat's 800 KB, a step changes the number of messages in the first bytes, and
adds a message. zstd would index all of the base to find that out; comparing the two, and compressing the new message
with what is near it as the dictionary, takes a small part of that time (`docs/explanation/design/006-splices.md`).
"""

from __future__ import annotations

from langgraph_gcs_saver.format.common_bytes import same_from, same_to_end
from langgraph_gcs_saver.records import record

MARK = b"\x02"
"""First byte of a splice; a zstd frame begins with 0x28."""

MIN_BYTES = 64 << 10
"""Smallest base and value to splice: below, indexing all of the base takes no time to speak of."""

HEAD_BYTES = 16
"""A list's length stands in front of it, so the first bytes may differ where the rest goes on as before."""

NEAR_BYTES, NEAR_SHARE = 16 << 10, 100
"""How much of the base before the change is the dictionary: so many bytes, or the square of the literal's over that.

A text comes again near to where it was, as a rule. What builds on a version five steps back holds five times as much,
and comes a fifth as often (`chains`): it may look further, which takes time, and is most of what is stored.
"""


@record(frozen=True, slots=True)
class Splice:
    """How to make a value of its base and of a few bytes of its own, the literal.

    The value is the literal's first `head` bytes, the base from `head` to `end`, the rest of the literal, and the last
    `tail` bytes of the base.

    Attributes:
        head: Bytes of the literal before the first copy.
        end: Where the first copy ends in the base.
        tail: Length of the second copy.
        near: Where the dictionary begins in the base; it ends where the second copy begins.
    """

    head: int
    end: int
    tail: int
    near: int

    @property
    def copied(self) -> int:
        """Bytes of the value that are the base's."""
        return self.end - self.head + self.tail

    def literal(self, plain: bytes) -> bytes:
        """The bytes of a value that are not copied."""
        return plain[: self.head] + plain[self.end : len(plain) - self.tail]

    def dictionary(self, base: bytes) -> bytes:
        """The bytes of the base that the literal is compressed with."""
        return base[self.near : len(base) - self.tail]

    def join(self, literal: bytes, base: bytes) -> bytes:
        """The value."""
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
        """The mark and four numbers, to stand before the literal's frame."""
        return MARK + b"".join(map(_pack, (self.head, self.end, self.tail, self.near)))


def find(plain: bytes, base: bytes) -> Splice | None:
    """How to splice a value, if it and its base are large, and share more than half of it."""
    if min(len(plain), len(base)) < MIN_BYTES:
        return None
    head = 0 if plain[:HEAD_BYTES] == base[:HEAD_BYTES] else HEAD_BYTES
    end = same_from(head, plain, base)
    tail = same_to_end(min(len(plain), len(base)) - end, plain, base)
    literal = len(plain) - end - tail + head
    near = max(NEAR_BYTES, literal * literal // NEAR_SHARE)
    return Splice(head, end, tail, max(0, end - near)) if 2 * literal < len(plain) else None


def parse(stored: bytes, base_size: int) -> tuple[Splice, int]:
    """A splice on a base of so many bytes, and where the literal's frame begins.

    Raises:
        ValueError: The bytes are not a splice that such a base allows.
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
    """A number as LEB128: seven bits a byte, the lowest first; all bytes but the last have their highest bit set."""
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
