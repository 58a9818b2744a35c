"""A saver whose asynchronous methods call its synchronous ones: the conformance suite knows only the former."""

import asyncio
import copy

from langgraph.checkpoint.base import BaseCheckpointSaver

METHODS = ("put", "put_writes", "get_tuple", "delete_thread", "delete_for_runs", "copy_thread", "prune")


def _through_a_thread(name):
    async def method(self, *args, **kwargs):
        return await asyncio.to_thread(getattr(self, name), *args, **kwargs)

    return method


async def _alist(self, *args, **kwargs):
    for found in await asyncio.to_thread(lambda: list(self.list(*args, **kwargs))):
        yield found


def sync_twin(saver, of=None):
    """A clone of `saver`, of a subclass of its type (or of `of`), on the same store.

    The suite detects a capability by an override on the type: a synchronous method that is not overridden must not
    show up as an asynchronous one.
    """
    base = of or type(saver)
    methods = {
        f"a{name}": _through_a_thread(name)
        for name in METHODS
        if getattr(base, name, None) is not getattr(BaseCheckpointSaver, name, None)
    }
    twin = copy.copy(saver)
    twin.__class__ = type(f"Sync{base.__name__}", (base,), {**methods, "alist": _alist})
    return twin
