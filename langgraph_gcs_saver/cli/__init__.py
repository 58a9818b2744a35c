"""The command line `langgraph-gcs`: thin commands over the library.

It needs the extra `cli`. The library itself never imports this package.
"""

from __future__ import annotations

import sys

from langgraph_gcs_saver.cli.notices import ignore_notices

_EXTRA = {"typer", "rich", "click"}


def main() -> None:
    """Run the command line of this process. If the command failed, exit with `SystemExit` and the error's code."""
    ignore_notices()
    try:
        from langgraph_gcs_saver.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            f'langgraph-gcs: {error.name} is not installed. Install it with `pip install "langgraph-gcs-saver[cli]"`.',
            file=sys.stderr,
        )
        sys.exit(2)
    run()
