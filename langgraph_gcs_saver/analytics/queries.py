"""The SQL of the reports: four questions about rows, as views for BigQuery and as queries for DuckDB.

The text of a query is the same for both. It uses what both have, and functions that DuckDB gets as macros (`MACROS`).
So a local report shows what a dashboard on the views shows.

Every query reads `rows_once`, which has each event once, even if it was delivered twice or backfilled. Percentiles are
by nearest rank: the smallest value that at least so many percent of the values do not exceed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from langgraph_gcs_saver.analytics.rows import LABEL
from langgraph_gcs_saver.policy import prices

ONCE: Final = "rows_once"
"""The view with each event once. The others read it, and so can your own queries."""

MACROS: Final = (
    "CREATE OR REPLACE TEMP MACRO UNIX_MICROS(t) AS epoch_us(t)",
    "CREATE OR REPLACE TEMP MACRO SAFE_DIVIDE(a, b) AS a / nullif(b, 0)",
)
"""What gives DuckDB the functions that only BigQuery has."""

INLINE_MAX_BYTES: Final = 128 << 10
"""Values of at most so many stored bytes are priced as documents, larger ones as objects: the default of the option
`inline_max_bytes`, because rows do not say where a value is."""

SMALL_SHARE: Final = 0.05
"""A channel with a smaller share of all stored bytes is not worth the effort."""

LARGE_BYTES: Final = 1 << 20
"""A value of so many bytes that changes as a whole is better stored once, outside of the state."""

BUCKETS: Final = (0.0, 0.1, 1.0, 10.0, 60.0, 600.0)
"""Where each class of checkpoint intervals begins, in seconds."""


def queries(table: str, labels: Sequence[str] = (), *, once: str = ONCE) -> Mapping[str, str]:
    """The query of each view, by name, in an order in which each reads only views before it.

    All but `rows_once` group by the labels.

    Args:
        table: The table of rows, quoted as needed.
        labels: The names of the savers' labels.
        once: The view `rows_once`, quoted as needed.
    """
    columns = tuple(LABEL + name for name in labels)
    return {ONCE: _once(table), **{name: make(columns, once) for name, make in _MAKERS.items()}}


QUESTIONS: Final[Mapping[str, str]] = {
    "checkpoint_patterns": "How often are checkpoints stored, and how large are they?",
    "recovery_outcomes": "After a crash or damage, does the work continue, and what did it cost?",
    "storage_by_channel": "Which channels cost the most storage, and what would reduce it?",
    "failures_by_interval": "How do failures and lost work depend on the time between checkpoints?",
}
"""What each view answers."""

COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "checkpoint_patterns": {
        "namespace": "The graph: empty for the root graph, else the nodes that lead to a subgraph.",
        "checkpoints": "Checkpoints stored.",
        "threads": "Threads that they belong to.",
        "gap_p50": "Median seconds between two checkpoints of a thread. The time before a new input does not count.",
        "gap_p95": "95th percentile of these seconds.",
        "size_p50": "Median bytes of a checkpoint's serialized values, inherited ones included.",
        "size_p95": "95th percentile of these bytes.",
        "stored_p50": "Median bytes that a checkpoint added to the store.",
        "stored_p95": "95th percentile of these bytes.",
        "stored": "Bytes that all checkpoints together added.",
        "seconds_p50": "Median seconds of put; null if only backfilled rows are known.",
        "seconds_p95": "95th percentile of these seconds.",
        "task_writes": "Calls of put_writes that stored something.",
        "task_writes_stored": "Bytes that these calls added.",
    },
    "recovery_outcomes": {
        "kind": "The kind of recovery: takeover after a crash, fallback to an older checkpoint, repair, "
        "restore of a set, or rollback to a savepoint.",
        "recoveries": "Recoveries recorded.",
        "continued": "Recoveries after which the thread stored another checkpoint.",
        "finished": "Recoveries whose next run that was not drained ended as it should: finished, returned, waiting.",
        "failed": "Recoveries whose next run failed or was interrupted. Calls that found the thread busy do not count.",
        "success_rate": "`finished` divided by `finished` and `failed`; null if neither is known.",
        "lost_p50": "Median seconds from the newest checkpoint to the recovery.",
        "lost_max": "Greatest of these seconds.",
        "work_lost": "Sum of the seconds of work that was done again: `lost` without the time in which nothing ran.",
        "restore_p50": "Median seconds until the state was read.",
        "restore_p95": "95th percentile of these seconds.",
    },
    "storage_by_channel": {
        "namespace": "The graph.",
        "channel": "The channel.",
        "stored_values": "Values stored.",
        "whole_values": "Those of them that were stored in full.",
        "size_p50": "Median bytes of a serialized value.",
        "stored": "Bytes stored for the channel.",
        "share": "Its part of the bytes of all channels.",
        "usd_per_month": "List price of keeping these bytes for a month, in a region such as us-central1.",
        "repeated": "Bytes of values stored in full although an earlier value of the thread was there.",
        "superseded": "Bytes that no thread's newest value needs.",
        "advice": "What to do: none, reference, incremental, untracked or retention.",
        "could_save": "Bytes that this would have saved, at most.",
    },
    "failures_by_interval": {
        "gap_from": "Where the class of intervals begins, in seconds. A thread's interval is the median time between "
        "checkpoints of its root graph; null if it has fewer than two.",
        "threads": "Threads in the class.",
        "checkpoints": "Checkpoints of their root graphs.",
        "worked": "Seconds between these checkpoints, without the time before a new input.",
        "put_seconds": "Seconds that put took for them; null if only backfilled rows are known.",
        "put_failures": "Calls of put and put_writes that failed.",
        "failed_runs": "Runs that failed or were interrupted, without calls that found the thread busy.",
        "crashes": "Takeovers of crashed processes' leases.",
        "work_lost": "Seconds of work that these crashes repeated.",
        "work_lost_max": "The most that one of them repeated.",
        "crashes_per_hour": "Crashes for each hour of work.",
        "put_share": "`put_seconds` divided by `worked`: what storing costs.",
        "lost_share": "`work_lost` divided by `worked`: what crashes cost.",
    },
}
"""The columns of each view, label columns aside, and what they mean."""


def _keys(*columns: str, labels: Sequence[str]) -> str:
    return ", ".join((*columns, *labels))


def _ranks(columns: Sequence[str], keys: str) -> str:
    """Columns with the place of a value among those of its group, and their number. Nulls come last and do not count.

    Neither `APPROX_QUANTILES` nor `PERCENTILE_CONT` is there in both dialects, nor exact and an aggregate in BigQuery.
    """
    return ",\n    ".join(
        f"ROW_NUMBER() OVER (PARTITION BY {keys} ORDER BY {one} IS NULL, {one}) AS {one}_place,\n"
        f"    COUNT({one}) OVER (PARTITION BY {keys}) AS {one}_count"
        for one in columns
    )


def _percentile(column: str, percent: int) -> str:
    return f"MIN(CASE WHEN 100 * {column}_place >= {percent} * {column}_count THEN {column} END)"


def _once(table: str) -> str:
    return f"""\
SELECT * REPLACE (COALESCE(namespace, '') AS namespace)
FROM {table}
WHERE TRUE
-- The first of several deliveries. A call that found its checkpoint stored comes last, because it stored nothing. A
-- backfilled row comes after a streamed one, because it lacks what only the process knew. A task that is interrupted
-- twice replaces what it has stored of the first time, and the larger one counts.
QUALIFY ROW_NUMBER() OVER (
  PARTITION BY event_id
  ORDER BY COALESCE(outcome, '') = 'found', seconds IS NULL, restore IS NULL, size DESC, seconds, time
) = 1"""  # noqa: S608 - names are checked, and values are constants


_GAP = """\
CASE WHEN event = 'checkpoint_saved' AND COALESCE(source, '') <> 'input' THEN
      (UNIX_MICROS(time) - UNIX_MICROS(LAG(time) OVER (
        PARTITION BY thread, namespace, run_id, event ORDER BY time, checkpoint_id))) / 1000000 END AS gap"""
"""Seconds since the checkpoint before, in the same run if runs are known. Before an input, the thread was idle."""

_WORK_LOST = "lost - COALESCE(down, 0)"

_NEVER_BEGAN = "COALESCE(outcome = 'failed' AND attempts = 0, FALSE)"
"""A call that failed before it could read the thread. Mostly another process held the lease, so no run failed."""


def _patterns(labels: Sequence[str], once: str) -> str:
    keys = _keys("namespace", labels=labels)
    # A backfilled row of writes has no labels. Its checkpoint has them.
    of_checkpoint = "".join(
        f"COALESCE({one}, MAX({one}) OVER (PARTITION BY thread, namespace, checkpoint_id)) AS {one}, " for one in labels
    )
    metrics = ("gap", "size", "stored", "seconds")
    return f"""\
WITH saved AS (
  SELECT namespace, {of_checkpoint}event, thread,
    COALESCE(inline_bytes, 0) + COALESCE(object_bytes, 0) AS any_stored,
    CASE WHEN event = 'checkpoint_saved' THEN size END AS size,
    CASE WHEN event = 'checkpoint_saved' THEN COALESCE(inline_bytes, 0) + COALESCE(object_bytes, 0) END AS stored,
    CASE WHEN event = 'checkpoint_saved' THEN seconds END AS seconds,
    {_GAP}
  FROM {once}
  WHERE event IN ('checkpoint_saved', 'writes_saved')
), ranked AS (
  SELECT *,
    {_ranks(metrics, keys)}
  FROM saved
)
SELECT {keys},
  COUNT(CASE WHEN event = 'checkpoint_saved' THEN 1 END) AS checkpoints,
  COUNT(DISTINCT thread) AS threads,
  {_percentile("gap", 50)} AS gap_p50,
  {_percentile("gap", 95)} AS gap_p95,
  {_percentile("size", 50)} AS size_p50,
  {_percentile("size", 95)} AS size_p95,
  {_percentile("stored", 50)} AS stored_p50,
  {_percentile("stored", 95)} AS stored_p95,
  COALESCE(SUM(stored), 0) AS stored,
  {_percentile("seconds", 50)} AS seconds_p50,
  {_percentile("seconds", 95)} AS seconds_p95,
  COUNT(CASE WHEN event = 'writes_saved' THEN 1 END) AS task_writes,
  COALESCE(SUM(CASE WHEN event = 'writes_saved' THEN any_stored END), 0) AS task_writes_stored
FROM ranked
GROUP BY {keys}"""  # noqa: S608 - as above


def _recoveries(labels: Sequence[str], once: str) -> str:
    keys = _keys("kind", labels=labels)
    return f"""\
WITH recovered AS (
  SELECT {keys}, event_id, thread, time, lost, {_WORK_LOST} AS work_lost, restore
  FROM {once}
  WHERE event = 'recovery_recorded'
), next_runs AS (
  SELECT recovered.event_id, ended.outcome,
    ROW_NUMBER() OVER (PARTITION BY recovered.event_id ORDER BY ended.time, ended.event_id) AS place
  FROM recovered
  JOIN {once} AS ended ON ended.thread = recovered.thread AND ended.time >= recovered.time
  WHERE ended.event = 'run_ended' AND ended.outcome <> 'drained' AND NOT {_NEVER_BEGAN}
), stored_again AS (
  SELECT DISTINCT recovered.event_id
  FROM recovered
  JOIN {once} AS saved ON saved.thread = recovered.thread AND saved.time >= recovered.time
  WHERE saved.event = 'checkpoint_saved'
), followed AS (
  SELECT recovered.*, next_runs.outcome, stored_again.event_id IS NOT NULL AS is_continued
  FROM recovered
  LEFT JOIN next_runs ON next_runs.event_id = recovered.event_id AND next_runs.place = 1
  LEFT JOIN stored_again ON stored_again.event_id = recovered.event_id
), ranked AS (
  SELECT *,
    {_ranks(("lost", "restore"), keys)}
  FROM followed
)
SELECT {keys},
  COUNT(*) AS recoveries,
  COUNT(CASE WHEN is_continued THEN 1 END) AS continued,
  COUNT(CASE WHEN outcome IN ('finished', 'returned', 'waiting') THEN 1 END) AS finished,
  COUNT(CASE WHEN outcome IN ('failed', 'interrupted') THEN 1 END) AS failed,
  SAFE_DIVIDE(COUNT(CASE WHEN outcome IN ('finished', 'returned', 'waiting') THEN 1 END), COUNT(outcome))
    AS success_rate,
  {_percentile("lost", 50)} AS lost_p50,
  MAX(lost) AS lost_max,
  SUM(work_lost) AS work_lost,
  {_percentile("restore", 50)} AS restore_p50,
  {_percentile("restore", 95)} AS restore_p95
FROM ranked
GROUP BY {keys}"""  # noqa: S608 - as above


def _storage(labels: Sequence[str], once: str) -> str:
    keys = _keys("namespace", "channel", labels=labels)
    of_thread = "PARTITION BY thread, namespace, channel"
    price = f"CASE WHEN stored <= {INLINE_MAX_BYTES} THEN {prices.DOCUMENT_PRICE} ELSE {prices.OBJECT_PRICE} END"
    return f"""\
WITH stored_values AS (
  SELECT {keys}, thread, size, stored, frames,
    ROW_NUMBER() OVER ({of_thread} ORDER BY time, checkpoint_id, event_id) AS version,
    SUM(CASE WHEN frames = 1 THEN 1 ELSE 0 END) OVER (
      {of_thread} ORDER BY time, checkpoint_id, event_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS base,
    SUM(CASE WHEN frames = 1 THEN 1 ELSE 0 END) OVER ({of_thread}) AS newest_base
  FROM {once}
  WHERE event = 'value_stored'
), ranked AS (
  SELECT *,
    {_ranks(("size",), keys)}
  FROM stored_values
), summed AS (
  SELECT {keys},
    COUNT(*) AS stored_values,
    COUNT(CASE WHEN frames = 1 THEN 1 END) AS whole_values,
    {_percentile("size", 50)} AS size_p50,
    SUM(stored) AS stored,
    SUM(stored * {price}) / {1 << 30} AS usd_per_month,
    SUM(CASE WHEN frames = 1 AND version > 1 THEN stored ELSE 0 END) AS repeated,
    SUM(CASE WHEN base < newest_base THEN stored ELSE 0 END) AS superseded
  FROM ranked
  GROUP BY {keys}
), shared AS (
  SELECT *,
    SAFE_DIVIDE(stored, SUM(stored) OVER ()) AS share,
    SUM(stored_values - whole_values) OVER () AS incremental_values
  FROM summed
), advised AS (
  SELECT *,
    CASE
      WHEN COALESCE(share, 0) < {SMALL_SHARE} OR (repeated = 0 AND superseded = 0) THEN 'none'
      WHEN 2 * repeated < stored THEN 'retention'
      WHEN size_p50 >= {LARGE_BYTES} THEN 'reference'
      WHEN incremental_values = 0 THEN 'incremental'
      ELSE 'untracked'
    END AS advice
  FROM shared
)
SELECT {keys}, stored_values, whole_values, size_p50, stored, share, usd_per_month, repeated, superseded, advice,
  CASE advice WHEN 'none' THEN 0 WHEN 'retention' THEN superseded ELSE repeated END AS could_save
FROM advised"""  # noqa: S608 - as above


def _failures(labels: Sequence[str], once: str) -> str:
    keys = _keys("thread", labels=labels)
    classes = _keys("gap_from", labels=labels)
    steps = "\n      ".join(f"WHEN gap_p50 >= {begin:.1e} THEN {begin:.1e}" for begin in reversed(BUCKETS))
    return f"""\
WITH measured AS (
  SELECT {keys}, event, namespace, outcome, kind, {_NEVER_BEGAN} AS never_began, {_WORK_LOST} AS work_lost,
    CASE WHEN event = 'checkpoint_saved' AND namespace = '' THEN seconds END AS put_seconds,
    {_GAP}
  FROM {once}
  WHERE event IN ('put_failed', 'run_ended', 'recovery_recorded')
    OR (event = 'checkpoint_saved' AND namespace = '')
), ranked AS (
  SELECT *,
    {_ranks(("gap",), keys)}
  FROM measured
), by_thread AS (
  SELECT {keys},
    {_percentile("gap", 50)} AS gap_p50,
    SUM(gap) AS worked,
    SUM(put_seconds) AS put_seconds,
    COUNT(CASE WHEN event = 'checkpoint_saved' THEN 1 END) AS checkpoints,
    COUNT(CASE WHEN event = 'put_failed' AND outcome = 'failed' THEN 1 END) AS put_failures,
    COUNT(CASE WHEN event = 'run_ended' AND outcome IN ('failed', 'interrupted') AND NOT never_began THEN 1 END)
      AS failed_runs,
    COUNT(CASE WHEN event = 'recovery_recorded' AND kind = 'takeover' THEN 1 END) AS crashes,
    SUM(CASE WHEN event = 'recovery_recorded' AND kind = 'takeover' THEN work_lost END) AS work_lost,
    MAX(CASE WHEN event = 'recovery_recorded' AND kind = 'takeover' THEN work_lost END) AS work_lost_max
  FROM ranked
  GROUP BY {keys}
), classed AS (
  SELECT *,
    CASE
      {steps}
    END AS gap_from
  FROM by_thread
)
SELECT {classes},
  COUNT(DISTINCT thread) AS threads,
  SUM(checkpoints) AS checkpoints,
  SUM(worked) AS worked,
  SUM(put_seconds) AS put_seconds,
  SUM(put_failures) AS put_failures,
  SUM(failed_runs) AS failed_runs,
  SUM(crashes) AS crashes,
  SUM(work_lost) AS work_lost,
  MAX(work_lost_max) AS work_lost_max,
  SAFE_DIVIDE(3600 * SUM(crashes), SUM(worked)) AS crashes_per_hour,
  SAFE_DIVIDE(SUM(put_seconds), SUM(worked)) AS put_share,
  SAFE_DIVIDE(COALESCE(SUM(work_lost), 0), SUM(worked)) AS lost_share
FROM classed
GROUP BY {classes}"""  # noqa: S608 - as above


_MAKERS: Final[Mapping[str, Callable[[Sequence[str], str], str]]] = {
    "checkpoint_patterns": _patterns,
    "recovery_outcomes": _recoveries,
    "storage_by_channel": _storage,
    "failures_by_interval": _failures,
}
