"""`langgraph-gcs`: thin commands over the library. Needs the extra `cli`; the library itself never imports this."""

from __future__ import annotations

import sys

from langgraph_gcs_saver.cli.notices import ignore_notices

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
