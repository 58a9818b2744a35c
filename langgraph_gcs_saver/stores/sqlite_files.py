"""The files of an SQLite database, for checks before SQLite opens them: it writes to some, and may remove others."""

from __future__ import annotations

from pathlib import Path

from langgraph_gcs_saver.engine import files

JOURNAL = "-journal"

COMPANIONS = ("", "-wal", "-shm", JOURNAL)
"""The endings of the names of SQLite's files."""

HEADER_BYTES = 100

_MAGIC = b"SQLite format 3\0"


def header_of(path: Path) -> bytes | None:
    """The header of a database; `None` if the file is not one (https://www.sqlite.org/fileformat.html#database_header).

    Raises:
        OSError: The file cannot be read.
    """
    with files.open_file(path) as file:
        header = file.read(HEADER_BYTES)
    return header if len(header) == HEADER_BYTES and header.startswith(_MAGIC) else None
