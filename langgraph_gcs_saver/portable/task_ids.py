"""Ids of LangGraph's tasks and interrupts, which it derives from the checkpoint and the step that they belong to.

A task that waits at a checkpoint has another id at a copy of it. Nothing but the graph says what an id is derived from,
so this tries what is usual: it is right if it derives the id that the task has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from xxhash import xxh3_128_hexdigest

from langgraph_gcs_saver.records import record

_PULL, _PUSH = "__pregel_pull", "__pregel_push"
_NODE = re.compile(rf"~{_PULL}, (.+)\Z", re.DOTALL)
_PACKET = re.compile(rf"~{_PUSH}, ([0-9]{{10}})(?:, 0{{10}})?\Z")
"""Paths of tasks: that of a node that an edge leads to, and that of a packet that `Send` makes."""

_START = "__start__"
_MOST_JOINS = 4
"""Most joins that lead to a node, of which each combination is tried."""

_MOST_ANSWERS = 100
"""Most answers of a task, each of which gives its next question another id."""


@record(frozen=True, slots=True)
class Place:
    """Where tasks wait.

    Attributes:
        ns: The namespace of their graph.
        checkpoint_id: The checkpoint.
        step: Their step.
    """

    ns: str
    checkpoint_id: str
    step: int


@record(frozen=True, slots=True)
class Task:
    """A task at one place, and at a copy of it.

    Attributes:
        node: Its node.
        before: Its id.
        after: Its id at the copy.
    """

    node: str
    before: str
    after: str


def moved(
    task_id: str, path: str, before: Place, after: Place, *, channels: Iterable[str], packets: Sequence[str]
) -> Task | None:
    """A task at the copy of its place; `None` if its id is not derived as usual.

    Args:
        task_id: Its id.
        path: Its path, as it is stored with its writes.
        before: Its place.
        after: The copy.
        channels: The channels of the graph that are known.
        packets: The nodes that get packets, in order.
    """
    for node, parts in _derivations(path, channels, packets):
        if _derived(before, node, parts) == task_id:
            return Task(node, task_id, _derived(after, node, parts))
    return None


def is_packet(path: str) -> bool:
    """Whether a path is that of a packet."""
    return _PACKET.match(path) is not None


def reworded(value: bytes, task: Task, ns: str) -> bytes:
    """The serialized interrupts of a task, with the ids that they have at the copy.

    Each id is a hash, in hex digits. An interrupt from a subgraph that the task calls has an id that is not known
    before the call is made again, and keeps its former one.
    """
    for answers in range(_MOST_ANSWERS):
        old, new = (_interrupt_id(task.node, one, ns, answers) for one in (task.before, task.after))
        value = value.replace(old, new)
    return value


def answered(value: bytes, task: Task, ns: str) -> int | None:
    """How many answers a task had when it asked its serialized interrupt; `None` if a subgraph that it calls asked it.

    Older versions of LangGraph may not count them: then it seems to have had none.
    """
    found = (count for count in range(_MOST_ANSWERS) if _interrupt_id(task.node, task.before, ns, count) in value)
    return next(found, None)


def _interrupt_id(node: str, task_id: str, ns: str, answers: int) -> bytes:
    around, after = f"{ns}|" if ns else "", f"|{answers}" if answers else ""
    return _hash(f"{around}{node}:{task_id}{after}".encode()).encode()


def _derivations(path: str, channels: Iterable[str], packets: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a task's id may be derived from: its node, and the rest."""
    if found := _PACKET.match(path):
        number = int(found[1])
        if number < len(packets):
            yield packets[number], (_PUSH, str(number))
    elif found := _NODE.match(path):
        node = found[1]
        joins = sorted({one for one in channels if one.startswith("join:") and one.endswith(f":{node}")})[:_MOST_JOINS]
        for count in range(len(joins), -1, -1):
            for some in combinations(joins, count):
                yield node, (_PULL, *sorted([f"branch:to:{node}", *some]))
        yield node, (_PULL, _START)


def _derived(place: Place, node: str, parts: Sequence[str]) -> str:
    """The id of a task, as LangGraph derives it."""
    ns = f"{place.ns}|{node}" if place.ns else node
    try:
        checkpoint = bytes.fromhex(place.checkpoint_id.replace("-", ""))
    except ValueError:
        return ""
    digits = _hash(checkpoint + "".join([ns, str(place.step), node, *parts]).encode())
    return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])


def _hash(data: bytes) -> str:
    return str(xxh3_128_hexdigest(data))
