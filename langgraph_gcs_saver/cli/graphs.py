"""Finds the compiled graphs that arguments name as `MODULE:GRAPH`."""

from __future__ import annotations

from typing import Any

from langgraph_gcs_saver.cli.modules import NamingError, find, raised
from langgraph_gcs_saver.cli.views.terminal import CommandError


def graph_named(name: str) -> Any:
    """A compiled graph, or what a function without arguments makes.

    Raises:
        CommandError: There is none, or the user's code raises an error.
    """
    try:
        found = find(name)
    except NamingError as error:
        raise CommandError(f"{name}: {error}", 2) from error
    if not hasattr(found, "checkpointer") and callable(found):
        try:
            found = found()
        except Exception as error:  # The user's code may raise anything.
            raise CommandError(f"{name}: calling it without arguments raises {raised(error)}.", 2) from error
    if not hasattr(found, "checkpointer") or not hasattr(found, "get_name"):
        raise CommandError(f"{name}: a {type(found).__name__} is not a compiled graph. Call `compile()` of it.", 2)
    return found
