"""Objects that a fork must not share: threads, locks and connections belong to one process; a child needs its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_forks: list[None] = []
"""One entry for each fork between the first process and this one, so no ancestor has a list of this length.

Process ids do not suffice, because a child may have the id of an ancestor that ended. They also cost a system call.
"""

if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=partial(_forks.append, None))  # in C, where no signal strikes


class PerProcess(Generic[T]):
    """One object per process, made on first use.

    A child never uses or frees its parent's object, because threads that do not exist in the child may hold its locks.
    A signal may strike any method, at any point.

    Args:
        make: Makes an object. If two threads need the first one at the same time, both call it, and one object is
            dropped.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._home = len(_forks)
        self._made: dict[int, T] = {}

    @property
    def is_forked(self) -> bool:
        """Whether this process is a fork of the one that made `self`."""
        return len(_forks) != self._home

    def get(self) -> T:
        """This process's object."""
        found = self._made.get(len(_forks))
        # setdefault is atomic. A lock would not work: a child can never take one that another thread held at the fork.
        return self._made.setdefault(len(_forks), self._make()) if found is None else found

    def peek(self) -> T | None:
        """This process's object, or `None` if there is none."""
        return self._made.get(len(_forks))

    def pop(self) -> T | None:
        """Remove and return this process's object. The next `get` makes another."""
        return self._made.pop(len(_forks), None)

    def all(self) -> list[T]:
        """The objects of this process, and of its ancestors as they were at the fork. Only look at them."""
        return list(self._made.values())


class AtFork(Generic[T]):
    """Calls functions at each fork of the process, with every object that was added and still exists.

    Args:
        before: Called in the parent before the fork.
        after_in_parent: Called in the parent after the fork.
        after_in_child: Called in the child.
    """

    def __init__(self, **functions: Callable[[T], object]) -> None:
        self._objects: WeakValueDictionary[int, T] = WeakValueDictionary()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(**{when: partial(self._call, function) for when, function in functions.items()})

    def add(self, one: T) -> None:
        """Call the functions with this object too, as long as it exists."""
        self._objects[id(one)] = one

    def _call(self, function: Callable[[T], Any]) -> None:
        for reference in self._objects.valuerefs():  # a snapshot, because other threads may add objects
            one = reference()
            if one is not None:
                function(one)
