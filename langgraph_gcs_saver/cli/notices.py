"""What a program of the command line does not print of the packages that it uses."""

from __future__ import annotations

import warnings


def ignore_notices() -> None:
    """Keep this process from telling, at each command, that Google's packages will leave its Python behind.

    Whoever writes a program is told by the library's imports. Filters that the user has set come first.
    """
    warnings.filterwarnings(
        "ignore",
        "You are using a (non-supported )?Python version ",
        FutureWarning,
        module=r"google\.api_core\.",
        append=True,
    )
