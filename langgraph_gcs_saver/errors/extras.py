"""Packages of extras, which not every installation has."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from langgraph_gcs_saver.errors import NotInstalledError


def require(extra: str, modules: Iterable[str]) -> tuple[ModuleType, ...]:
    """Import modules of an extra.

    Args:
        extra: The name of the extra.
        modules: The modules.

    Raises:
        NotInstalledError: One of them is not installed.
    """
    try:
        return tuple(import_module(module) for module in modules)
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f'{error.name} is not installed. Install it with `pip install "langgraph-gcs-saver[{extra}]"`.',
            name=error.name,
        ) from error
