"""Changes to bytes, to trees of JSON and MessagePack, and to frames; all of them by a given `random.Random`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import ormsgpack
import zstandard

EXTREMES = [
    *(0, 1, -1, 2, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    *(1 << 32, (1 << 53) - 1, 1 << 53, (1 << 63) - 1, -1 << 63),
]
"""Numbers at the ends of what fits somewhere; all fit 64 bits with a sign."""

MORE = [1 << 63, (1 << 64) - 1, 1 << 64, 10**400, -(10**400), 0.0, -0.0, 1.5, 1e308, float("nan"), float("inf")]

TEXTS = ["", "~", "#", "\x00", "/", "__x__", "\ud800", "é" * 300, "x" * 5000, "\U0001d4b3" * 9, "t", "lc", "%2F", "!"]


# Bytes


def _flip(rng: Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _put_in(rng: Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8, 64, 4096)))


def _write_over(rng: Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    # Types and lengths of MessagePack, marks of frames, ends of numbers.
    some = (b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\x7f\xff\xff\xff\x05")
    written = rng.choice((*some, b"\xc1", b"\x01", b"\x02", b"\x03", b"\xff" * 9, b"\x00" * 8, zstandard.FRAME_HEADER))
    data[at : at + len(written)] = written


def _number(rng: Random, data: bytearray) -> None:
    at, size = rng.randint(0, len(data)), rng.choice((1, 2, 4, 8))
    number = rng.choice(EXTREMES) % (1 << 8 * size)
    data[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _cut_out(rng: Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    del data[at : at + rng.choice((1, 1, 2, 4, 16, 1 << 16))]


def _cut_off(rng: Random, data: bytearray) -> None:
    del data[rng.randint(0, len(data)) :]


def _repeat(rng: Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    part = bytes(data[at : at + rng.choice((1, 4, 16, 256))])
    data[at:at] = part * min(rng.choice((1, 2, 16, 1000)), (1 << 20) // max(1, len(part)))


def _swap(rng: Random, data: bytearray) -> None:
    first, second = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    data[:] = data[second:] + data[first:second] + data[:first]


_BYTES = (_flip, _flip, _flip, _put_in, _write_over, _number, _number, _cut_out, _cut_off, _repeat, _swap)


def in_bytes(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes in one to eight places; `others` are what parts are taken from."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if others and rng.random() < 0.1:
            other = rng.choice(others)
            at = rng.randint(0, len(found))
            begin = rng.randint(0, len(other))
            found[at : rng.randint(at, len(found))] = other[begin : rng.randint(begin, len(other))]
        else:
            rng.choice(_BYTES)(rng, found)
    return bytes(found)


# Trees


class Ext:
    """An extension of MessagePack, with what is inside it."""

    def __init__(self, code: int, inner: Any) -> None:
        self.code = code
        self.inner = inner


Path = list[Any]


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node)
    if isinstance(node, list):
        return list(range(len(node)))
    return ["inner"] if isinstance(node, Ext) else []


def _child(node: Any, key: Any) -> Any:
    return node.inner if isinstance(node, Ext) else node[key]


def _set(node: Any, key: Any, value: Any) -> None:
    if isinstance(node, Ext):
        node.inner = value
    else:
        node[key] = value


def _place(rng: Random, tree: Any) -> tuple[Any, Any]:
    """A node and the key of one of its children, at random; the tree is not empty."""
    node = tree
    while True:
        key = rng.choice(_children(node))
        child = _child(node, key)
        if not _children(child) or rng.random() < 0.2:
            return node, key
        node = child


def _odd(rng: Random, leaves: Sequence[Any]) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(EXTREMES)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return copy.deepcopy(rng.choice(([], {}, [[]], {"": None}, {"x": {"y": []}}, [0] * 64, ["x", 1])))
    if kind == 3:
        return rng.choice((None, True, False))
    return rng.choice(leaves)


def _changed(rng: Random, value: Any, leaves: Sequence[Any]) -> Any:
    """Another value that is near."""
    if isinstance(value, bool) or value is None:
        return _odd(rng, leaves)
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value << 20, value // 2))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), value * 2, value[::-1], "\0" + value, value + "~"))
    if isinstance(value, bytes):
        return in_bytes(rng, value)
    if isinstance(value, list):
        return rng.choice(
            (value[::-1], value[:-1], value * 2, [*value, _odd(rng, leaves)], dict.fromkeys(map(str, value)))
        )
    if isinstance(value, dict):
        return rng.choice((list(value.values()), {**value, rng.choice(TEXTS): _odd(rng, leaves)}, list(value)))
    if isinstance(value, Ext):
        return Ext(rng.choice((*range(8), 127)), value.inner)
    return _odd(rng, leaves)


def in_tree(rng: Random, tree: Any, others: Sequence[Any] = (), leaves: Sequence[Any] = MORE) -> Any:
    """Change a tree in one to four places; `others` are what parts are taken from. The given one stays as it is."""
    before, tree = tree, copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not _children(tree) or rng.random() < 0.01:
            tree = _odd(rng, leaves)
            continue
        node, key = _place(rng, tree)
        match rng.randrange(9):
            case 0 | 1:
                _set(node, key, _odd(rng, leaves))
            case 2 | 3:
                _set(node, key, _changed(rng, _child(node, key), leaves))
            case 4:
                if isinstance(node, Ext):
                    node.inner = b""
                else:
                    del node[key]
            case 5:
                # From another place, of this tree or of another one.
                other, there = _place(rng, rng.choice([one for one in (tree, *others) if _children(one)]))
                _set(node, key, copy.deepcopy(_child(other, there)))
            case 6:
                if isinstance(node, dict):
                    node[rng.choice((*map(str, node), *TEXTS))] = node.pop(key)
            case 7:
                wrapped = _child(node, key)
                for _ in range(rng.choice((1, 2, 50, 150))):
                    wrapped = [wrapped]
                _set(node, key, wrapped)
            case 8:
                times = rng.choice((2, 10, 100, 3000))
                if isinstance(node, list):
                    node[key:key] = [node[key]] * times
                elif isinstance(node, dict):
                    node.update({f"{key}{n}": node[key] for n in range(times)})
    return tree if _is_small(tree) else before


def _is_small(tree: Any) -> bool:
    """Whether it has no more parts than a test should hold; what is in several places counts there."""
    pending, parts = [tree], 0
    while pending and parts < 100_000:
        node = pending.pop()
        parts += 1 + (len(node) // 64 if isinstance(node, (str, bytes)) else 0)
        pending.extend(_child(node, key) for key in _children(node))
    return not pending


def in_json(rng: Random, tree: Any, others: Sequence[Any] = ()) -> bytes:
    """JSON of a changed tree, which may be changed as text, too."""
    try:
        text = json.dumps(in_tree(rng, tree, others)).encode()
    except (RecursionError, ValueError):
        text = json.dumps(tree).encode()
    match rng.randrange(24):
        case 0:
            return in_bytes(rng, text)
        case 1:
            deep = rng.choice((100, 1000, 100_000))
            return text.replace(b"null", b"[" * deep + b"]" * deep, 1)
        case 2:
            digits = rng.choice((b"1" * 5000, b"1e999", b"-Infinity", b"NaN", b"0x10", b"01", b"1" * 300_000))
            return text.replace(b"0", digits, 1)
        case 3:
            count = rng.choice((1000, 100_000, 1_600_000, 12_000_000))
            return text.replace(b"null", b"[" + rng.choice((b"0,", b"[],", b"{},")) * count + b"0]", 1)
    return text


# MessagePack


def tree_of(data: bytes) -> Any:
    """What MessagePack says, with what is inside its extensions.

    Raises:
        ValueError: It is none.
    """

    def opened(code: int, inner: bytes) -> Ext:
        try:
            return Ext(code, tree_of(inner))
        except ValueError:
            return Ext(code, inner)

    return ormsgpack.unpackb(data, ext_hook=opened, option=ormsgpack.OPT_NON_STR_KEYS)


def packed(tree: Any) -> bytes:
    """Undo `tree_of`; an extension that holds bytes has them as they are.

    Raises:
        TypeError: It holds what MessagePack cannot.
    """

    def extension(found: Any) -> Any:
        if not isinstance(found, Ext):
            raise TypeError(type(found).__name__)
        inner = found.inner if isinstance(found.inner, bytes) else packed(found.inner)
        return ormsgpack.Ext(found.code, inner)

    return ormsgpack.packb(tree, default=extension, option=ormsgpack.OPT_NON_STR_KEYS)


def in_msgpack(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change MessagePack: what it says, or its bytes."""
    match rng.randrange(12):
        case 0 | 1:
            return in_bytes(rng, data, others)
        case 2:
            return rng.choice((b"\x91", b"\x81\xa0", b"\xd4\x05")) * rng.choice((100, 1000, 100_000)) + data
        case 3:
            for _ in range(rng.choice((2, 100, 1000))):
                data = ormsgpack.packb(ormsgpack.Ext(rng.randrange(8), data))
            return data
    leaves = [b"", b"\xff", b"x" * 5000, 1.5, float("nan"), float("inf"), Ext(5, ["m", "C", {}, "f"]), Ext(7, b"\xc1")]
    try:
        return packed(in_tree(rng, tree_of(data), [tree_of(rng.choice(others))] if others else (), leaves))
    except (TypeError, ValueError, RecursionError):
        return in_bytes(rng, data, others)


# Frames


SIZES = [1 << 20, 30 << 20, (64 << 20) - 1, 64 << 20, (64 << 20) + 1, 900 << 20]
"""How much a small frame may hold, around the limits and beyond."""

_BLOCK = 128 << 10


def zeros(size: int, head: bytes = b"") -> bytes:
    """A frame that says that it holds so many bytes, and does: a head, and zeros, of which 128 KiB take 4 bytes."""
    blocks = [(len(part) << 3, part) for part in (head[at : at + _BLOCK] for at in range(0, len(head), _BLOCK))]
    blocks += [(min(_BLOCK, size - at) << 3 | 2, b"\0") for at in range(len(head), size, _BLOCK)]
    blocks[-1] = (blocks[-1][0] | 1, blocks[-1][1])
    body = b"".join(header.to_bytes(3, "little") + part for header, part in blocks)
    return zstandard.FRAME_HEADER + b"\xe0" + size.to_bytes(8, "little") + body


def in_frame(rng: Random, plain: bytes, encode: Callable[[bytes], bytes]) -> bytes:
    """A frame of bytes that is not as writers make it, though most are valid for zstd."""
    match rng.randrange(9):
        case 0:
            return in_bytes(rng, encode(plain))
        case 1:  # It does not say what it holds.
            return zstandard.ZstdCompressor(write_content_size=False).compress(plain)
        case 2:  # It says something else.
            frame = bytearray(zstandard.ZstdCompressor(level=1).compress(plain + bytes(300)))
            frame[4:12] = bytes([rng.choice((0x00, 0x20, 0x60, 0xA0, 0xE0, 0xC0))]) + rng.randbytes(7)
            return bytes(frame)
        case 3:
            return encode(plain) + rng.choice((b"\0", encode(b""), encode(plain)))
        case 4:  # A frame that is skipped, before it.
            return b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip" + encode(plain)
        case 5:
            return plain
        case 6:
            return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(plain)
        case 7:  # One raw block, and a window of up to 2 TiB that it does not need.
            block = plain[: 128 << 10]
            window = bytes([rng.randrange(32) << 3 | rng.randrange(8)])
            size = len(block).to_bytes(8, "little")
            header = rng.choice((b"\x00" + window, b"\xc0" + window + size, b"\xe0" + size))
            return zstandard.FRAME_HEADER + header + (len(block) << 3 | 1).to_bytes(3, "little") + block
        case _:
            return zeros(rng.choice((1, *SIZES)), plain[:1])
