"""`report`: answers to the four questions, computed here with DuckDB, from files of JSON lines or a store's rows."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from langgraph_gcs_saver.analytics.queries import MACROS, ONCE, QUESTIONS, queries
from langgraph_gcs_saver.analytics.rows import COLUMNS, LABEL, REQUIRED, SCHEMA, Row, as_json
from langgraph_gcs_saver.analytics.tables import check_labels
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.errors.extras import require
from langgraph_gcs_saver.policy.labels import MOST_LABELS, NAME

if TYPE_CHECKING:
    import os

    import duckdb
    from matplotlib.figure import Figure

_LINE = 1 << 20
"""Most bytes of a line. A row has about a KiB."""

_MOST = 1 << 55
"""The greatest number in a row: 32 PiB, or a billion years. Sums of such numbers do not overflow."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.([0-9]{3}){1,2})?Z")
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answers to the four questions.

    Attributes:
        views: The rows of each view, by its name. Those that matter most come first.
        events: How many events of each kind there are, each counted once.
        labels: The labels that the views group by.
        files: How many files were read.
        rows: How many rows were read.
        duplicates: How many of them repeat an event.
        torn: How many lines are no JSON, such as the last one of a process that was killed.
        foreign: How many lines are JSON, but no rows of this version.
        first: Time of the first event, in UTC; `None` without events.
        last: Time of the last event.
    """

    views: Mapping[str, Sequence[Mapping[str, Any]]]
    events: Mapping[str, int]
    labels: tuple[str, ...]
    files: int
    rows: int
    duplicates: int
    torn: int
    foreign: int
    first: datetime | None
    last: datetime | None

    def figure(self, view: str, *, dark: bool = False) -> Figure:
        """A plot that answers the question of a view. Without rows, it says so.

        Args:
            view: The view's name.
            dark: Whether it is for a dark background.
        """
        from langgraph_gcs_saver.analytics.plots import figure  # noqa: PLC0415 - it imports matplotlib

        return figure(self, view, dark=dark)

    def png(self, view: str, *, dark: bool = False) -> bytes:
        """The plot as a PNG; see `figure`."""
        from langgraph_gcs_saver.analytics.plots import as_png  # noqa: PLC0415 - likewise

        return as_png(self.figure(view, dark=dark))


def report(files: Iterable[str | os.PathLike[str]], *, labels: Sequence[str] | None = None) -> Report:
    """Answer the four questions from files of `Jsonl`.

    Lines that are no rows are counted, and change nothing else. Rows that are there twice count once.

    Args:
        files: Files of JSON lines. A name that ends with `.gz` is that of a compressed file.
        labels: The labels to group by; by default all that the rows have.

    Raises:
        NotInstalledError: The extra `report` is not installed.
        OSError: A file cannot be read.
        InvalidInputError: A file is not compressed, although its name says so.
        InvalidOptionError: A name cannot be that of a label.
    """
    reader = _Reader()
    return _report((row for path in files for row in reader.file(Path(path))), reader, labels)


def report_of(rows: Iterable[Row], *, labels: Sequence[str] | None = None) -> Report:
    """Answer the four questions from rows, such as those of `past_rows`; see `report`."""
    reader = _Reader()
    return _report(reader.lines(as_json(row).encode() for row in rows), reader, labels)


# Reading


class _Reader:
    """Reads lines, and counts what they are."""

    def __init__(self) -> None:
        self.files = self.rows = self.torn = self.foreign = 0
        self.labels: dict[str, None] = {}

    def file(self, path: Path) -> Iterator[Row]:
        """The rows in a file."""
        self.files += 1
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as opened:
            try:
                yield from self.lines(_lines(cast("BinaryIO", opened)))
            except (gzip.BadGzipFile, zlib.error) as error:
                raise InvalidInputError(f"{str(path)!r} is not compressed by gzip, or is damaged: {error}.") from None
            except EOFError:  # The process that compressed it was killed.
                self.torn += 1

    def lines(self, lines: Iterable[bytes]) -> Iterator[Row]:
        """The rows in lines."""
        for line in lines:
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                self.torn += 1
                continue
            row = self._row(found)
            if row is None:
                self.foreign += 1
            else:
                self.rows += 1
                yield row

    def _row(self, found: object) -> Row | None:
        """A row with the columns of this version; `None` for anything else."""
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            return None
        row: Row = {}
        for name, is_right in _CHECKS.items():
            value = found.get(name)
            if value is not None and is_right(value):
                row[name] = value
            elif value is not None or name in REQUIRED:
                return None
        for name, value in found.items():
            if name.startswith(LABEL) and _is_text(value) and self._is_label(name[len(LABEL) :]):
                row[name] = value
        return row

    def _is_label(self, name: str) -> bool:
        """Whether a row may have a label; most rows have the same few. Columns' names differ not in case only."""
        if name not in self.labels and len(self.labels) < MOST_LABELS and NAME.fullmatch(name):
            self.labels |= {name: None} if name.lower() not in map(str.lower, self.labels) else {}
        return name in self.labels


def _lines(opened: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. Of one that is too long for a row, only the end is given, which is no JSON."""
    is_long = False
    while line := opened.readline(_LINE):
        if not line.endswith(b"\n") and len(line) == _LINE:
            is_long = True
        else:
            yield b"}" if is_long else line
            is_long = False
    if is_long:
        yield b"}"


def _is_time(value: object) -> bool:
    """Whether DuckDB can read a time, too. It knows fewer forms of ISO 8601 than Python."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value[:-1])  # Python 3.10 does not parse "Z".
    except ValueError:
        return False
    return True


def _is_text(value: object) -> bool:
    """Whether DuckDB can read a text, too: half of a surrogate pair is not UTF-8."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


_IS: Mapping[str, Callable[[Any], bool]] = {
    "INT64": lambda value: type(value) is int and -_MOST <= value <= _MOST,
    "FLOAT64": lambda value: type(value) in (int, float) and -_MOST <= value <= _MOST,  # also false for NaN
    "STRING": _is_text,
    "BOOL": lambda value: isinstance(value, bool),
    "TIMESTAMP": _is_time,
}
_CHECKS = {column.name: _IS[column.type] for column in COLUMNS}


# Answering

_DUCKDB = {"INT64": "BIGINT", "FLOAT64": "DOUBLE", "STRING": "VARCHAR", "BOOL": "BOOLEAN", "TIMESTAMP": "TIMESTAMP"}

_FIRST: Mapping[str, str] = {
    "checkpoint_patterns": "checkpoints DESC",
    "recovery_outcomes": "recoveries DESC",
    "storage_by_channel": "stored DESC",
    "failures_by_interval": "gap_from NULLS LAST",
}
"""What decides which rows of a view come first."""


def _report(rows: Iterator[Row], reader: _Reader, labels: Sequence[str] | None) -> Report:
    (module,) = require("report", ("duckdb",))
    check_labels(labels or ())
    with tempfile.TemporaryDirectory(prefix="langgraph-gcs-") as directory:
        lines = Path(directory) / "rows.jsonl"
        with lines.open("w", encoding="ascii") as out:
            for row in rows:
                out.write(json.dumps(row) + "\n")
        by = tuple(reader.labels) if labels is None else tuple(dict.fromkeys(labels))
        # In a file, so that memory is bounded, and without the network.
        config = {"autoinstall_known_extensions": False, "temp_directory": directory}
        with module.connect(str(Path(directory) / "rows.duckdb"), config=config) as db:
            load(db, lines, by)
            return _answers(db, reader, by)


def load(db: duckdb.DuckDBPyConnection, lines: Path, labels: Sequence[str]) -> None:
    """Load rows, and make the views.

    Args:
        db: An empty database.
        lines: A file whose lines are rows, and nothing else.
        labels: The labels to group by.
    """
    types = {column.name: _DUCKDB[column.type] for column in COLUMNS} | {LABEL + name: "VARCHAR" for name in labels}
    chosen = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
    db.execute(
        "CREATE TABLE delivered AS SELECT * FROM "  # noqa: S608 - columns and labels have checked names
        f"read_json('{str(lines).replace(chr(39), chr(39) * 2)}', format = 'newline_delimited', columns = {{{chosen}}})"
    )
    for statement in MACROS:
        db.execute(statement)
    for name, query in queries("delivered", labels).items():
        # All views read `rows_once`, so it is computed once.
        db.execute(f"CREATE {'TABLE' if name == ONCE else 'VIEW'} {name} AS {query}")


def _answers(db: duckdb.DuckDBPyConnection, reader: _Reader, labels: tuple[str, ...]) -> Report:
    events = _rows(db, f"SELECT event, COUNT(*) AS number FROM {ONCE} GROUP BY event ORDER BY event")  # noqa: S608
    (span,) = _rows(db, f"SELECT MIN(time) AS first, MAX(time) AS last FROM {ONCE}")  # noqa: S608 - a constant
    places = ", ".join(str(place) for place in range(1, 3 + len(labels)))  # Those of the columns that name a row.
    by_event = {one["event"]: one["number"] for one in events}
    return Report(
        views={name: _rows(db, f"SELECT * FROM {name} ORDER BY {_FIRST[name]}, {places}") for name in QUESTIONS},  # noqa: S608
        events=by_event,
        labels=labels,
        files=reader.files,
        rows=reader.rows,
        duplicates=reader.rows - sum(by_event.values()),
        torn=reader.torn,
        foreign=reader.foreign,
        first=span["first"],
        last=span["last"],
    )


def _rows(db: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found = db.execute(query)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
