"""Splits items into batches that can be handled at once, and handles one batch after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.steps import together

S = TypeVar("S")
T = TypeVar("T")


def in_batches(items: Iterable[T], size_of: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """Items in batches, in their order.

    Args:
        items: The items.
        size_of: The bytes that an item takes.
        most: The maximum number of items in a batch.
        most_bytes: The maximum size of a batch that has more than one item.
    """
    batch: list[T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if batch and (len(batch) == most or size + more > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield batch


def in_turn(
    pages: Iterable[S],
    read: Callable[[S], Flow[T]],
    write: Callable[[S, T], Flow[bool]],
    *,
    fit: Callable[[S, S], bool] = lambda _, __: True,
) -> Flow[bool]:
    """Read and write pages in their order. Each page is read while the page before it is written.

    Args:
        pages: The pages.
        read: Reads a page.
        write: Writes a page. It returns false to stop there.
        fit: Whether a page and the next one fit into memory together.

    Returns:
        Whether all pages were written.
    """
    read_before: tuple[S, T] | None = None
    for page in pages:
        if read_before is not None and not fit(read_before[0], page):
            if not (yield from write(*read_before)):
                return False
            read_before = None
        if read_before is None:
            read_before = page, (yield from read(page))
        else:
            is_written, found = yield from together(write(*read_before), read(page))
            if not is_written:
                return False
            read_before = page, found
            del found  # it may be large
    return read_before is None or (yield from write(*read_before))
