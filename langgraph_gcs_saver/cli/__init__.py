"""`langgraph-gcs`: thin commands over the library. Needs the extra `cli`; the library itself never imports this."""

from __future__ import annotations

import sys
import warnings

_EXTRA = {"typer", "rich", "click"}


def main() -> None:
    """Run the command line of this process; ends by `SystemExit` with the code of what went wrong, if anything did."""
    ignore_notices()
    try:
        from langgraph_gcs_saver.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            f'langgraph-gcs: {error.name} is not installed; pip install "langgraph-gcs-saver[cli]" brings it.',
            file=sys.stderr,
        )
        sys.exit(2)
    run()


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
