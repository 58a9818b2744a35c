"""The BigQuery emulator without network: `.venv-services/bin/python tests/emulators/bigquery_server.py start …`.

`bqemulator` fetches extensions of DuckDB when it starts, and does not start without the one for GEOGRAPHY. No table of
this project has such a column, so none is fetched. This file is run by `.venv-services`, which has nothing else of this
project.
"""

from bqemulator.cli import main
from bqemulator.storage.engine import DuckDBEngine


def no_extension(_: DuckDBEngine) -> None:
    """Load nothing."""


DuckDBEngine._load_spatial = no_extension
DuckDBEngine._load_format_extensions = no_extension

if __name__ == "__main__":
    main()
