"""Finds objects of the user's own code, which options name as `MODULE:NAME`."""

from __future__ import annotations

import sys
import traceback
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


class NamingError(Exception):
    """A text does not name an object."""


def find(name: str, forms: str = "MODULE:NAME") -> Any:
    """The object that `MODULE:NAME` names. The working directory is searched for the module first.

    Args:
        name: The module, and the name in it, which may have dots.
        forms: The accepted forms, for the error message.

    Raises:
        NamingError: There is no such module or name, or importing the module raises an error.
    """
    module, found, attribute = name.partition(":")
    if not found or not module or not attribute:
        raise NamingError(f"give {forms}.")
    imported = load(module)
    try:
        return reduce(getattr, attribute.split("."), imported)
    except AttributeError as error:
        raise NamingError(str(error)) from error


def load(module: str) -> ModuleType:
    """Import a module of the user's. The working directory is searched for it first.

    Raises:
        NamingError: There is no such module, or importing it raises an error.
    """
    if not module:
        raise NamingError("give the name of a module.")
    # Like `python -m`: users keep agents in a directory, and run the command there.
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(module)
    except ImportError as error:
        raise NamingError(str(error)) from error
    except Exception as error:  # The user's code may raise anything.
        raise NamingError(f"the module raises {raised(error)}.") from error


def raised(error: Exception) -> str:
    """The type of an error of the user's code, and where it was raised; not its text, which may quote a secret."""
    own = str(Path(__file__).parent)
    for frame in traceback.extract_tb(error.__traceback__):
        is_ours = frame.filename.startswith((own, "<frozen ")) or Path(frame.filename).parent.name == "importlib"
        if not is_ours:
            return f"{type(error).__name__} in line {frame.lineno} of {frame.filename}"
    return type(error).__name__
