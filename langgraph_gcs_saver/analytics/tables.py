"""The statements that make the table of rows and its views in BigQuery."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from langgraph_gcs_saver.analytics.queries import ONCE, QUESTIONS, queries
from langgraph_gcs_saver.analytics.rows import SCHEMA, columns
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.policy.labels import NAME

_TABLE = re.compile(r"(?:[a-z0-9:.-]+\.)?\w+\.[\w-]+")
_DATASET = re.compile(r"(?:[a-z0-9:.-]+\.)?\w+")
"""What cannot end a quoted name. A project can have a domain."""


def ddl(table: str, labels: Sequence[str] = (), *, expiration_days: int | None = None) -> str:
    """The statement that makes the table of rows, unless it is there.

    The table is partitioned by the day of `time`, and clustered by thread and event.

    Args:
        table: The table, as `PROJECT.DATASET.TABLE` or `DATASET.TABLE`.
        labels: The option `labels` of the savers whose rows it gets.
        expiration_days: Days after which BigQuery deletes a partition; by default it keeps them.

    Raises:
        InvalidOptionError: A name has characters that it cannot have, or the number of days is not positive.
    """
    _require(_TABLE.fullmatch(table), f"table is {table!r}; it must be PROJECT.DATASET.TABLE.")
    check_labels(labels)
    if expiration_days is not None and expiration_days < 1:
        raise InvalidOptionError(f"expiration_days is {expiration_days}; it must be at least 1.")
    fields = ",\n".join(
        f"  {one.name} {one.type}{' NOT NULL' if one.is_required else ''} OPTIONS(description={_text(one.description)})"
        for one in columns(labels)
    )
    options = [f"description={_text(f'Rows of langgraph-gcs-saver, version {SCHEMA}')}"]
    if expiration_days is not None:
        options.append(f"partition_expiration_days={expiration_days}")
    return (
        f"CREATE TABLE IF NOT EXISTS `{table}` (\n{fields}\n)\n"
        f"PARTITION BY DATE(time)\nCLUSTER BY thread, event\nOPTIONS({', '.join(options)})"
    )


def views(table: str, labels: Sequence[str] = (), *, dataset: str | None = None) -> tuple[str, ...]:
    """The statements that make the views, in order: `rows_once`, which the four others read, and these.

    Args:
        table: The table of rows, as for `ddl`.
        labels: The labels to group by, in columns of the table.
        dataset: The dataset of the views, as `PROJECT.DATASET` or `DATASET`; by default that of the table.

    Raises:
        InvalidOptionError: A name has characters that it cannot have.
    """
    _require(_TABLE.fullmatch(table), f"table is {table!r}; it must be PROJECT.DATASET.TABLE.")
    check_labels(labels)
    where = table.rpartition(".")[0] if dataset is None else dataset
    _require(_DATASET.fullmatch(where), f"dataset is {where!r}; it must be PROJECT.DATASET.")
    made = queries(f"`{table}`", labels, once=f"`{where}.{ONCE}`")
    return tuple(
        f"CREATE OR REPLACE VIEW `{where}.{name}`\n"
        f"OPTIONS(description={_text(QUESTIONS.get(name, 'Each event once'))})\nAS {query}"
        for name, query in made.items()
    )


def check_labels(labels: Collection[str]) -> None:
    """Raise an error if a name cannot be that of a label, and so not a part of a column's name.

    Raises:
        InvalidOptionError: A name has characters that it cannot have, or two differ in case only.
    """
    for name in labels:
        _require(NAME.fullmatch(name), f"a label is {name!r}; it must be a name of letters, digits and underscores.")
    if len({name.lower() for name in labels}) < len(labels):
        raise InvalidOptionError(f"Two of the labels {', '.join(labels)} name the same column.")


def _require(found: object, message: str) -> None:
    if not found:
        raise InvalidOptionError(message)


def _text(text: str) -> str:
    """A string of SQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
