"""Hides notices that the command line's dependencies print."""

from __future__ import annotations

import warnings


def ignore_notices() -> None:
    """Hide the warning of Google's packages that they will drop this version of Python. Each command would print it.

    A program that imports the library still gets the warning. Filters that the user has set take precedence.
    """
    warnings.filterwarnings(
        "ignore",
        "You are using a (non-supported )?Python version ",
        FutureWarning,
        module=r"google\.api_core\.",
        append=True,
    )
