"""What incremental frames cost for large values that change in several places.

python -m benchmarks.edits            # everything; a minute, and 2 GB of memory
python -m benchmarks.edits --quick    # nothing larger than 27 MB

CPU seconds are those of the search and of compressing, each compared with those of a full frame of the same value, in
turn in one process. Stored bytes are those of the frame, as a share of the full frame's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.chat import messages
from benchmarks.storage import SERDE, Bar, cpu, put_all, report, zstd
from langgraph_gcs_saver.format.frames import Codec

CODEC = Codec(3)
PAIRS = 5
MESSAGES = messages(1200)
TEXTS = [str(message.content) for message in MESSAGES]


def serialized(value: Any) -> bytes:
    return SERDE.dumps_typed(value)[1]


def incremental(value: bytes, base: bytes) -> bytes | None:
    found = CODEC.increment(value, base)
    return None if found is None else CODEC.encode_increment(found)


def compared(value: bytes, base: bytes) -> tuple[float, float]:
    """CPU and bytes of an incremental frame, or of the search and a full one, as a share of the full one's."""
    full = len(CODEC.encode(value))
    frame = incremental(value, base)
    assert frame is None or CODEC.decode(frame, len(value), base) == value
    times = [(cpu(lambda: incremental(value, base)), cpu(lambda: CODEC.encode(value))) for _ in range(PAIRS)]
    tried, alone = (statistics.median(column) for column in zip(*times, strict=True))
    return (tried / alone if frame else 1 + tried / alone), (1 if frame is None else len(frame) / full)


def file_of(size: int, seed: int) -> str:
    """A text of so many bytes, in another order for each seed."""
    words = random.Random(seed).sample(TEXTS, len(TEXTS))
    text = "\n\n".join(words)
    return (text * (size // len(text) + 1))[:size]


def two_edits(megabytes: int) -> list[Bar]:
    """A `files` channel in which each step replaces a part of two files by a longer one."""
    files = {f"src/module_{n}.py": file_of(1_000_000, n) for n in range(megabytes)}
    before = serialized(files)
    for name, at in (("src/module_5.py", 300_000), (f"src/module_{megabytes - 3}.py", 700_000)):
        text = files[name]
        files[name] = text[:at] + TEXTS[at % 7] + text[at + 300 :]
    time, stored = compared(serialized(files), before)
    return [
        Bar(f"{megabytes} MB, two files edited: CPU, to a full frame", time, 1.1),
        Bar(f"{megabytes} MB, two files edited: bytes, to a full frame", stored, 0.01),
    ]


def chats() -> Iterator[tuple[str, Callable[[list[Any]], list[Any]], float, float]]:
    """Changes of a chat of 1,000 messages, 1.3 MB, and their limits."""
    extra, rest = MESSAGES[1000:], range(0, 1000, 50)
    yield "a message appended", lambda chat: [*chat, extra[0]], 0.5, 0.01
    yield "a message edited, one appended", lambda chat: [*chat[:400], extra[0], *chat[401:], extra[1]], 1.1, 0.01
    yield "a message in front", lambda chat: [extra[0], *chat], 0.5, 0.01
    yield "20 messages edited", lambda chat: [extra[n % 50] if n in rest else m for n, m in enumerate(chat)], 1.5, 0.05
    yield "10 messages deleted", lambda chat: [m for n, m in enumerate(chat) if n % 100], 1.1, 0.01
    yield "the oldest left out, one appended", lambda chat: [*chat[1:], extra[0]], 0.5, 0.01
    yield "another chat", lambda chat: chat[::-1], 1.2, 1.01


def window() -> Bar:
    """Nine versions of a list of 300 messages that loses its oldest message and gets a new one."""
    values = [MESSAGES[n : n + 300] for n in range(9)]
    _, stored = put_all(values)
    return Bar(
        "9 versions of a window of 300 messages: bytes, to one full frame", stored / zstd(serialized(values[-1])), 1.3
    )


def repeated() -> list[Bar]:
    """Twenty edits of text that repeats itself: anchors are found everywhere."""
    bars = []
    for name, text in (("a sentence", "The same as before, and then again. "), ("a chat", "\n".join(TEXTS[:300]))):
        before = serialized((text * (27_000_000 // len(text) + 1))[:27_000_000])
        value = before
        for at in range(26_000_000, 0, -1_300_000):
            value = value[:at] + b"edit %d" % at + value[at + 20 :]
        time, _ = compared(value, before)
        bars.append(Bar(f"27 MB of {name} repeated, 20 edits: CPU, to a full frame", time, 1.5))
    return bars


def everywhere() -> list[Bar]:
    """A change in each of 8,000 entries: too many for a splice, so all of the base is the dictionary."""
    values = [
        serialized({f"item {n}": [TEXTS[n % 1200][:900], n * 31 % 9000 + step * n, step] for n in range(8_000)})
        for step in range(2)
    ]
    time, stored = compared(values[1], values[0])
    return [
        Bar("7.5 MB, each of 8,000 entries changed: CPU, to a full frame", time, 5),
        Bar("7.5 MB, each of 8,000 entries changed: bytes, to a full frame", stored, 0.1),
    ]


def unlike() -> list[Bar]:
    """Large values that have nothing in common: the search must end soon."""
    noise = [random.Random(n).randbytes(24_000_000) for n in range(2)]
    texts = [serialized(file_of(24_000_000, n)) for n in range(2)]
    return [
        Bar("24 MB of other random bytes: CPU, to a full frame", compared(*noise)[0], 1.3),
        Bar("24 MB of text in another order: CPU, to a full frame", compared(*texts)[0], 1.3),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="leave out what is larger than 27 MB")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    bars = [bar for size in ((24,) if options.quick else (24, 40, 100)) for bar in two_edits(size)]
    before = MESSAGES[:1000]
    for name, change, most_time, most_bytes in chats():
        time, stored = compared(serialized(change(before)), serialized(before))
        bars += [Bar(f"1.3 MB chat, {name}: CPU, to a full frame", time, most_time)]
        bars += [Bar(f"1.3 MB chat, {name}: bytes, to a full frame", stored, most_bytes)]
    bars += [window(), *repeated(), *everywhere(), *unlike()]
    return report(bars, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
