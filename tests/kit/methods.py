"""The public methods of a saver and of its `admin`, and how a test calls one of them by its name."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.each import Each


def names(*kinds: type) -> set[str]:
    """Public methods of `GCSSaver` and `Admin`, or of some classes, with those that they inherit."""
    return {
        name
        for kind in kinds or (GCSSaver, Admin)
        for name, _ in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


def find(saver: Any, name: str) -> Any:
    """The method of that name: `admin`'s if it has one, because it returns what it did, otherwise the saver's."""
    admin = getattr(saver, "admin", saver)
    return getattr(admin if hasattr(Admin, name) else saver, name)


async def acall(saver: Any, name: str, *args: Any, **options: Any) -> Any:
    """Call a method's asynchronous twin; what is iterated over comes as a list."""
    is_each = name in EACH
    found = find(saver, name if is_each else f"a{name}")(*args, **options)
    return [one async for one in found] if hasattr(found, "__aiter__") else await found


def call(saver: Any, name: str, *args: Any, **options: Any) -> Any:
    """Call a method; what is iterated over comes as a list."""
    found = find(saver, name)(*args, **options)
    return list(found) if inspect.isgenerator(found) or isinstance(found, Each) else found


def perform(saver: Any, name: str, *args: Any, is_async: bool = False, **options: Any) -> Any:
    """Call a method, or its asynchronous twin on an event loop of its own."""
    return asyncio.run(acall(saver, name, *args, **options)) if is_async else call(saver, name, *args, **options)


PLANS = {"plan_repair", "plan_prune", "plan_delete_for_runs", "plan_collect", "plan_sweep"}

EACH = PLANS | {"verify", "leases", "recoveries", "rollbacks", "runs", "teams", "reconcile"}
"""Methods that serve `for` and `async for`, and have no twin."""
