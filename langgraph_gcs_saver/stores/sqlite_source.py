"""Opens a database of LangGraph's SQLite saver for a migration, without trusting it.

If there is a rollback journal beside a database, SQLite changes the database when it opens it, and deletes the file
that the journal names. If a database is opened for reading only, SQLite raises an error instead. Even then it writes to
a file beside the database, the memory that it shares with other processes (`-shm`), and may leave it there. So that
file must not be a hard link. SQLite removes the log beside an empty file, and takes a file of one byte for empty. So
the file must begin as databases do. Views, computed columns and statistics would run in this process, so only the
tables that the SQLite saver makes are accepted.
"""

from __future__ import annotations

import sqlite3
import stat
import sys
from contextlib import closing, suppress
from pathlib import Path

from langgraph_gcs_saver.errors import SourceError
from langgraph_gcs_saver.stores.sqlite_files import COMPANIONS, header_of

_TABLES = {"checkpoints", "writes"}
_SMALL_BYTES = 1 << 20
"""Most bytes that a value may always have, however small the files are."""


def open_source(path: Path) -> sqlite3.Connection:
    """Open a database without changing it or the files beside it.

    Any thread may use the connection.

    Raises:
        SourceError: The file is not a database of LangGraph's SQLite saver, or SQLite would have to change it.
    """
    file = path.resolve()
    size = _look(file)
    db = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        if sys.version_info >= (3, 11):  # no value is longer than its files
            most = db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(most, max(size, _SMALL_BYTES)))
        db.execute("PRAGMA trusted_schema = OFF")
        _check_schema(db, path)
    except sqlite3.Error as error:
        db.close()
        journal = "" if "readonly" not in str(error) else _JOURNAL
        raise SourceError(f"SQLite cannot read {path}: {error}.{journal}") from error
    except BaseException:
        db.close()
        raise
    return db


_JOURNAL = (
    " There is a rollback journal beside it. SQLite would change the database because of it, and might delete other "
    "files. If you trust it, open the database once with the application that wrote it. Otherwise move it away."
)


def _look(file: Path) -> int:
    """The size of a database and the files beside it, in bytes.

    Raises:
        SourceError: A file is not a regular file or has more than one name, or the database is none.
    """
    size = 0
    for companion in COMPANIONS:
        path = file.with_name(file.name + companion)
        with suppress(FileNotFoundError):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise SourceError(
                    f"{path} is a link, a hard link, a directory or a device. SQLite could write to it or wait for it. "
                    "Nothing was read. Copy the database, and its log if it has one, to a directory of their own."
                )
            size += found.st_size
    with suppress(OSError):  # SQLite reports why it cannot be opened
        if header_of(file) is None:
            raise SourceError(
                f"{file} is empty or is not an SQLite database, so it has no checkpoints of LangGraph's SQLite saver. "
                "Nothing was read or changed. Restore the file before you open it. SQLite removes a log beside an "
                "empty file."
            )
    return size


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    found: set[str] = set()
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_schema"):
        if kind == "index" and sql is None:
            continue  # the index of a primary key
        if kind != "table" or name not in _TABLES or _is_computed(db, name):
            raise SourceError(
                f"{path} has {name!r} in its schema. LangGraph's SQLite saver does not create it, and it could run "
                "code in this process. Nothing was read. Copy `checkpoints` and `writes` to a database of their own."
            )
        found.add(name)
    if found != _TABLES:
        raise SourceError(f"{path} has no checkpoints of LangGraph's SQLite saver. Nothing was read.")


def _is_computed(db: sqlite3.Connection, table: str) -> bool:
    """Whether a table has a hidden column, as computed ones are (https://www.sqlite.org/pragma.html#pragma_table_xinfo)."""
    with closing(db.execute(f"PRAGMA table_xinfo({table})")) as columns, suppress(sqlite3.OperationalError):
        return any(hidden for *_, hidden in columns)
    return True
