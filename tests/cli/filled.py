"""Threads to run commands on, and names that try to harm a terminal."""

import random

from tests.behaviour.api import cfg, checkpoint, metadata, number, version

HOSTILE = "a\x1b]0;title\x07b\nc\u202ed\x9b31me [bold]f[/] :smile:"


def fill(saver, thread="t", last=4, ns=""):
    """Checkpoints with an object each, and pending writes."""
    for n in range(1, last + 1):
        values = {"own": random.Random(n).randbytes(20_000), "small": n}
        versions = dict.fromkeys(values, version(n))
        saver.put(cfg(thread, ns, n - 1 or None), checkpoint(n, values, versions), metadata(step=n), versions)
        saver.put_writes(cfg(thread, ns, n), [("small", n)], "task")


def numbers(saver, thread="t"):
    """The checkpoints of a thread, newest first."""
    return [number(one) for one in saver.list(cfg(thread, None))]


def is_harmless(text):
    """Whether a terminal shows a text as it is, and no line of it begins within `HOSTILE`."""
    return all(line.isprintable() for line in text.split("\n")) and "\nc\\u202e" not in text
