"""Executes the notebooks again and writes their outputs: `make notebooks`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tests.notebooks.execute import NOTEBOOKS, execute_all


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="a file; all of them if none is given")
    parser.add_argument("--store", metavar="URI", help="where they store things; a temporary directory if not given")
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="where to write them; where they are if not given"
    )
    options = parser.parse_args()
    paths = [path.absolute() for path in options.paths] or sorted(NOTEBOOKS.glob("*.ipynb"))
    asyncio.run(execute_all(paths, options.output, options.store))


if __name__ == "__main__":
    main()
