"""Splices: what a value shares with its base is copied, and only the rest, the literal, is compressed.

State usually changes in few places: a message is added or edited, a file is replaced, the oldest messages are left out.
zstd would index the whole base to find that out. It is much faster to compare the two, and to compress the literal with
the bytes near the changes as the dictionary (`docs/explanation/design/028-edits.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from langgraph_gcs_saver.format.common_bytes import same_after, same_before
from langgraph_gcs_saver.records import record

MARK, FIRST_MARK = b"\x04", b"\x02"
"""First byte of a splice, and of one as version 1 of the format has it. A zstd frame begins with 0x28."""

MIN_BYTES = 64 << 10
"""Smallest base and value to splice, in bytes. Below that, indexing the whole base takes hardly any time."""

MAX_COPIES = 4096
"""Most copies of a splice. A parsed splice takes less than 1 MiB of memory."""

ANCHOR_BYTES = 64
"""Bytes that are searched for to find the base's next common bytes, and thus the shortest copy.

`bytes.find` passes over several GB a second with that length, and boilerplate of messages is hardly ever as long.
"""

FORMAT = 2
"""Version of the stored format that has the splices that are written."""

_WINDOW_BYTES, _WINDOW_SHARE = 2 << 10, 2
"""Where an anchor is searched for: so many bytes of the base, and as many times the anchor's distance more."""

_STEP_BYTES = 1 << 10
"""What an anchor counts as work, besides the bytes that are searched. It takes about as long as to search these."""

_WORK_SHARE, _WORK_BYTES = 4, 64 << 10
"""Most bytes that are searched without a copy: this share of the bytes of both values, and so many more."""

_NEAR_BYTES, _NEAR_SHARE, _NEAR_TIMES, _NEAR_MAX = 16 << 10, 100, 64, 4 << 20
"""The size of the dictionary on either side of a change, before it is rounded up to a power of two.

It is `_NEAR_BYTES`, or the square of the literal's size divided by `_NEAR_SHARE` if that is more, and at most
`_NEAR_TIMES` the literal and `_NEAR_MAX`. A text usually occurs again near its last occurrence. A frame that builds on
a version five steps back has a literal five times as large. Such frames are made a fifth as often (`chains`), and are
most of what is stored. So they get a larger dictionary, although it takes more time.
"""

_MAX_NEAR = 63
"""Largest number for the size of a dictionary. Larger ones would be numbers of more than 64 bits."""


@record(frozen=True, slots=True)
class Copy:
    """A part of the base that the value has too.

    Attributes:
        literal: Bytes of the literal that precede it in the value, after the copy before it.
        start: Position in the base where it begins: not before the end of the copy before it.
        end: Position in the base where it ends.
    """

    literal: int
    start: int
    end: int


@record(frozen=True, slots=True)
class Splice:
    """How to build a value from its base and the literal.

    Attributes:
        copies: What is copied from the base. The rest of the literal follows the last copy.
        parts: Start and end of the parts of the base that make up the dictionary of the literal.
        header: The bytes that precede the literal's frame.
    """

    copies: Sequence[Copy]
    parts: Sequence[tuple[int, int]]
    header: bytes

    @property
    def copied(self) -> int:
        """Bytes of the value that are copied from the base."""
        return sum([copy.end - copy.start for copy in self.copies])

    def literal(self, plain: bytes) -> bytes:
        """The bytes of a value that are not copied."""
        view, found, at = memoryview(plain), list[memoryview](), 0
        for copy in self.copies:
            found.append(view[at : at + copy.literal])
            at += copy.literal + copy.end - copy.start
        return b"".join((*found, view[at:]))

    def dictionary(self, base: bytes) -> bytes:
        """The bytes of the base that the literal is compressed with."""
        view = memoryview(base)
        return b"".join([view[start:end] for start, end in self.parts])

    def join(self, literal: bytes, base: bytes) -> bytes:
        """The value, built from the literal and the base."""
        rest, source, found, at = memoryview(literal), memoryview(base), list[memoryview](), 0
        for copy in self.copies:
            found += (rest[at : at + copy.literal], source[copy.start : copy.end])
            at += copy.literal
        return b"".join((*found, rest[at:]))


def find(plain: bytes, base: bytes) -> Splice | None:
    """How to splice a value; `None` unless the value and its base are large and share more than half of the value.

    It compares each byte of the value about once. To find where the base continues after a change, it searches at most
    as many bytes as are copied, a quarter of both, and 64 KiB.
    """
    if min(len(plain), len(base)) < MIN_BYTES:
        return None
    copies, at = list[Copy](), 0
    for place, start, size in _Search(plain, base).matches():
        copies.append(Copy(place - at, start, start + size))
        at = place + size
    gaps = [*(copy.literal for copy in copies), len(plain) - at]
    literal = sum(gaps)
    if 2 * literal >= len(plain):
        return None
    near = max(_NEAR_BYTES, min(literal * literal // _NEAR_SHARE, _NEAR_TIMES * literal, _NEAR_MAX))
    nears = [(near * gap // literal).bit_length() if gap else 0 for gap in gaps]
    return Splice(copies, _parts(copies, nears, len(base)), _header(copies, nears))


class _Search:
    """The search for what a value and its base have in common, in the order of both.

    Attributes:
        left: Bytes of the base that may still be searched.
    """

    def __init__(self, plain: bytes, base: bytes) -> None:
        self.plain = plain
        self.base = base
        self.left = (len(plain) + len(base)) // _WORK_SHARE + _WORK_BYTES

    def matches(self) -> Iterator[tuple[int, int, int]]:
        """The position of each common part in the value and in the base, and its size."""
        plain, base = self.plain, self.base
        at = start = 0
        for _ in range(MAX_COPIES - 1):
            found = self._next(at, start)
            if found is None:
                break
            yield found
            self.left += found[2]
            at, start = found[0] + found[2], found[1] + found[2]
        size = same_before(plain, len(plain), base, len(base), min(len(plain) - at, len(base) - start))
        if size >= ANCHOR_BYTES:
            yield len(plain) - size, len(base) - size, size

    def _next(self, at: int, start: int) -> tuple[int, int, int] | None:
        """The next common part from two positions on; `None` if there is none, or too much was searched."""
        distance = 0
        while self.left > 0 and start < len(self.base):
            place = at + distance
            anchor = self.plain[place : place + ANCHOR_BYTES]
            if len(anchor) < ANCHOR_BYTES:
                break
            found = self._find(anchor, place, at, start)
            if found >= 0:
                before = same_before(self.plain, place, self.base, found, min(distance, found - start))
                size = before + same_after(self.plain, place, self.base, found)
                return place - before, found - before, size
            distance = 2 * distance or ANCHOR_BYTES // 4
        return None

    def _find(self, anchor: bytes, place: int, at: int, start: int) -> int:
        """Where the base has an anchor, from `start` on; -1 if it is not found.

        It is usually where it would be if as much was added as removed, or if this was the last change.
        """
        for shift in (start - at, len(self.base) - len(self.plain)):
            if place + shift >= start and self.base.startswith(anchor, place + shift):
                return place + shift
        end = min(start + _WINDOW_BYTES + _WINDOW_SHARE * (place - at), len(self.base), start + self.left)
        self.left -= _STEP_BYTES + end - start
        return self.base.find(anchor, start, end)


def _parts(copies: Sequence[Copy], nears: Sequence[int], base_size: int) -> list[tuple[int, int]]:
    """The parts of the base that make up the dictionary: `2 ** near` bytes on either side of each change.

    A change is where the copy before it ends. No byte is in two parts, and a `near` of 0 stands for no part.
    """
    found, done, end = list[tuple[int, int]](), 0, 0
    for at, near in enumerate(nears):
        size = 1 << near if near else 0
        part = max(done, end - size), min(base_size, end + size)
        if part[0] < part[1]:
            found.append(part)
            done = part[1]
        end = copies[at].end if at < len(copies) else base_size
    return found


def _header(copies: Sequence[Copy], nears: Sequence[int]) -> bytes:
    end, numbers = 0, [len(copies)]
    for copy, near in zip(copies, nears, strict=False):
        numbers += (copy.literal, near, copy.start - end, copy.end - copy.start)
        end = copy.end
    return MARK + b"".join(map(_pack, (*numbers, nears[-1])))


def parse(stored: bytes, size: int, base_size: int) -> Splice:
    """Parse the splice of a value of `size` bytes on a base of `base_size` bytes.

    Raises:
        ValueError: The bytes are not a splice, or it copies bytes that the base or the value does not have.
    """
    numbers = _Numbers(stored, len(MARK))
    splice = _parse_first(numbers, size, base_size) if stored[:1] == FIRST_MARK else _parse(numbers, base_size)
    if sum([copy.literal for copy in splice.copies]) + splice.copied > size:
        raise ValueError("a splice that makes a larger value")
    return splice


def _parse(numbers: _Numbers, base_size: int) -> Splice:
    count = numbers.next()
    if count > MAX_COPIES:
        raise ValueError("a splice of too many copies")
    copies, nears, end = list[Copy](), list[int](), 0
    for _ in range(count):
        literal, near, skipped, size = [numbers.next() for _ in range(4)]
        copies.append(Copy(literal, end + skipped, end + skipped + size))
        nears.append(near)
        end += skipped + size
    nears.append(numbers.next())
    if end > base_size or max(nears) > _MAX_NEAR:
        raise ValueError("a splice that its base does not allow")
    return Splice(copies, _parts(copies, nears, base_size), numbers.read)


def _parse_first(numbers: _Numbers, size: int, base_size: int) -> Splice:
    """Parse a splice of version 1: a copy of the beginning, one of the end, and a dictionary that ends there."""
    head, end, tail, near = [numbers.next() for _ in range(4)]
    rest = base_size - tail
    literal = size - (end - head) - tail
    if not (head <= end <= rest and near <= rest and head <= literal):
        raise ValueError("a splice that its base does not allow")
    copies = Copy(head, head, end), Copy(literal - head, rest, base_size)
    return Splice(copies, [(near, rest)], numbers.read)


class _Numbers:
    """Numbers in LEB128: seven bits per byte, lowest first. Every byte except the last has its highest bit set."""

    def __init__(self, stored: bytes, at: int) -> None:
        self._stored = stored
        self._at = at

    @property
    def read(self) -> bytes:
        """What was read so far."""
        return self._stored[: self._at]

    def next(self) -> int:
        number = 0
        for place, byte in enumerate(self._stored[self._at : self._at + 9]):
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                self._at += place + 1
                return number
        raise ValueError("a number that does not end")


def _pack(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(0x80 | number & 0x7F)
        number >>= 7
    found.append(number)
    return bytes(found)
