"""What a run found: rows, their JSON, and tables of ratios."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare import prices
from benchmarks.compare.prices import Stored

if TYPE_CHECKING:
    from benchmarks.compare.contenders import Contender
    from benchmarks.compare.workloads import Count, Measured, Workload

OURS = "GCSSaver"
"""The saver that the others are compared with."""

PACKAGES = (
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-firestore",
    "langgraph-checkpoint-objectstorage",
    "langgraph-checkpoint-postgres",
    "langgraph-checkpoint-sqlite",
    "google-cloud-firestore",
    "google-cloud-storage",
    "gcp-storage-emulator",
    "gcsfs",
    "psycopg",
    "zstandard",
)


@dataclass(frozen=True)
class Timing:
    """Seconds of one operation.

    Attributes:
        median: Of all samples.
        p95: The smallest one that 95 % of the samples do not exceed; the largest, when there are fewer than 20.
        samples: How many there were.
    """

    median: float
    p95: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing | None:
        if not seconds:
            return None
        ordered = sorted(seconds)
        return cls(statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], len(ordered))


@dataclass(frozen=True)
class Row:
    """One operation of one workload on one saver.

    Attributes:
        workload: Its name.
        title: What it does.
        operation: What was called.
        saver: The contender's name.
        steps: Checkpoints that one operation writes; 1 for a single call.
        direct: Without added latency.
        delayed: With added latency.
        requests: To all services, median.
        rounds: Requests one after another, as the proxies saw them.
        effect_rounds: The same, counted at the effects; single calls of `GCSSaver` only.
        operations: By the unit that is billed.
        bytes_sent: To all services.
        bytes_received: From them.
        stored: Bytes that it left in the store.
        stored_objects: Those of them that are objects, where a saver keeps both.
        stored_per_step: The same for one checkpoint.
        dollars: For a million steps, or calls when the operation is one; `None` when operations are not billed.
        dollars_kept: To keep what a million steps left, for a month.
        billed_by: What is billed instead of operations.
        error: The type of what went wrong; there may be numbers of what went well before.
    """

    workload: str
    title: str
    operation: str
    saver: str
    steps: int = 1
    direct: Timing | None = None
    delayed: Timing | None = None
    requests: float | None = None
    rounds: float | None = None
    effect_rounds: int | None = None
    operations: dict[str, float] = field(default_factory=dict)
    bytes_sent: float | None = None
    bytes_received: float | None = None
    stored: int | None = None
    stored_objects: int | None = None
    stored_per_step: float | None = None
    dollars: float | None = None
    dollars_kept: float | None = None
    billed_by: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Series:
    """Stored bytes of one saver: pairs of turns and bytes."""

    saver: str
    points: tuple[tuple[int, int], ...]


def row(
    workload: Workload, operation: str, contender: Contender, measured: Measured, *, stored: Stored | None, steps: int
) -> Row:
    """Sum up what was measured; `stored` bytes are those of so many `steps`."""
    counts = measured.counts

    def each(of: Callable[[Count], float]) -> float | None:
        found = [of(count) * measured.steps / count.steps for count in counts]
        return statistics.median(found) if found else None

    units = sorted({unit for count in counts for unit in count.traffic.operations})
    operations = {unit: each(lambda count, unit=unit: count.traffic.operations.get(unit, 0)) or 0.0 for unit in units}
    effects = [count.rounds for count in counts if count.rounds is not None and count.steps == 1]
    per_step = stored.total / steps if stored is not None and steps else None
    return Row(
        workload=workload.name,
        title=workload.title,
        operation=operation,
        saver=contender.name,
        steps=measured.steps,
        direct=Timing.of(measured.seconds.get("direct", ())),
        delayed=Timing.of(measured.seconds.get("delayed", ())),
        requests=each(lambda count: count.traffic.requests),
        rounds=None if workload.is_concurrent else each(lambda count: count.traffic.rounds),
        effect_rounds=min(effects, default=None),
        operations=operations,
        bytes_sent=each(lambda count: count.traffic.bytes_sent),
        bytes_received=each(lambda count: count.traffic.bytes_received),
        stored=stored and stored.total,
        stored_objects=stored and stored.objects,
        stored_per_step=per_step,
        dollars=prices.per_million(operations, measured.steps) if counts else None,
        dollars_kept=prices.monthly(stored, steps, contender.services) if stored is not None else None,
        billed_by=prices.billed_by(contender.services),
        error=measured.error,
    )


@dataclass(frozen=True)
class Results:
    """One run: its rows, the growth of the chat, and what it ran on."""

    rows: list[Row]
    series: list[Series]
    environment: dict[str, Any]

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        found = json.loads(path.read_text("utf-8"))
        rows = [
            Row(**row | {phase: row[phase] and Timing(**row[phase]) for phase in ("direct", "delayed")})
            for row in found["rows"]
        ]
        series = [Series(one["saver"], tuple((turn, size) for turn, size in one["points"])) for one in found["series"]]
        return cls(rows, series, found["environment"])


def environment(*, quick: bool, seconds: float) -> dict[str, Any]:
    """What a reader needs to know about the run, and nothing that names the machine."""
    versions = {name: number for name in PACKAGES if (number := _version(name)) is not None}
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "quick": quick,
        "minutes": round(seconds / 60, 1),
        "prices": prices.CHECKED,
        "packages": versions,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Tables


def size(number: float) -> str:
    """Bytes for people, in powers of 1,024."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    scaled = float(number)
    while scaled >= 1000 and len(units) > 1:
        scaled /= 1024
        units.pop(0)
    return f"{scaled:.0f} B" if units[0] == "B" else f"{scaled:.3g} {units[0]}"


def money(dollars: float) -> str:
    """Dollars for people, to the cent for small amounts."""
    return "$0" if not dollars else f"${dollars:,.0f}" if dollars >= 100 else f"${dollars:.2f}"


def times(ratio: float) -> str:
    """A ratio for people: two digits."""
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.95 else f"{ratio:.2g}x"


def compared(own: float, ours: float) -> str:
    """How much slower or faster than ours."""
    ratio = own / ours
    if 0.95 < ratio < 1.05:
        return "the same"
    return f"{times(ratio)} slower" if ratio > 1 else f"{times(1 / ratio)} faster"


HEAD = (
    "| call | saver | direct | p95 | with latency | p95 | rounds | requests | stored | $ a million | $ a month |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def _seconds(own: Row, ours: Row | None, phase: str, of: Callable[[Timing], float]) -> str:
    timing = getattr(own, phase)
    if timing is None:
        return ""
    theirs = getattr(ours, phase) if ours is not None else None
    if theirs is None:
        return f"{of(timing) * 1000:.3g} ms"
    return "1" if ours is own else compared(of(timing), of(theirs))


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:,.4g}"


def _kept(own: Row, ours: Row | None) -> str:
    if own.stored is None:
        return ""
    if ours is None or ours is own or not ours.stored:
        return size(own.stored)
    return f"{size(own.stored)}, {times(own.stored / ours.stored)}"


def _line(own: Row, ours: Row | None) -> str:
    medians = [
        _seconds(own, ours, phase, of)
        for phase in ("direct", "delayed")
        for of in (lambda timing: timing.median, lambda timing: timing.p95)
    ]
    if own.error is not None and own.direct is None:
        medians[0] = own.error
    elif own.error is not None:
        medians[0] += f", then {own.error}"
        if own.workload == "chat":
            medians[0] += f" in turn {own.direct.samples + 1}"
    rounds = _number(own.rounds)
    if own.effect_rounds is not None and own.effect_rounds != own.rounds:
        rounds += f" ({own.effect_rounds} at the effects)"
    operations = money(own.dollars) if own.dollars is not None else ""
    month = money(own.dollars_kept) if own.dollars_kept is not None else ""
    cells = [own.operation, own.saver, *medians, rounds, _number(own.requests), _kept(own, ours), operations, month]
    return "| " + " | ".join(cells) + " |"


def tables(rows: Iterable[Row]) -> str:
    """A table for each workload, in the order of the rows."""
    by_workload: dict[str, list[Row]] = {}
    for one in rows:
        by_workload.setdefault(one.workload, []).append(one)
    parts = []
    for name, found in by_workload.items():
        parts.append(f"## {name}: {found[0].title}\n\n{HEAD}")
        ours = {one.operation: one for one in found if one.saver == OURS}
        parts[-1] += "".join(f"\n{_line(one, ours.get(one.operation))}" for one in found)
        rates = [one for one in found if one.steps > 1 and one.direct is not None]
        if rates:
            parts.append(_rates(rates))
    return "\n\n".join(parts)


def _rates(rows: list[Row]) -> str:
    """Checkpoints a second, as ratios."""
    ours = next((one for one in rows if one.saver == OURS), None)
    cells = []
    for one in rows:
        own = one.steps / one.direct.median if one.direct else 0.0
        if ours is None or ours.direct is None:
            cells.append(f"{one.saver} {own:,.0f}/s")
        elif one is not ours:
            cells.append(f"{one.saver} {times(own / (ours.steps / ours.direct.median))}")
    return f"Checkpoints a second, to {OURS}'s: {', '.join(cells)}." if ours else f"Checkpoints: {', '.join(cells)}."


NOTES = """\
Times are ratios to `GCSSaver` with its defaults: medians and 95th percentiles of one run in which the savers took
turns.

- *With latency* adds 12 ms to each call of Firestore, 45 ms to each request to Cloud Storage, and 1 ms to each round
  trip to PostgreSQL. Savers that need no service have no latency.
- *Rounds* are requests that had to wait for the answer to another one.
- *Stored* is the size of what one operation left in the store, or, for the chat, of everything.
- *$ a million* is the cost of the operations of a million steps, or of a million calls if a call is not a step.
- *$ a month* is the cost of keeping what a million steps left.

PostgreSQL is billed by the instance and its disk. Files cost nothing."""


PLOTS = """\
![Bytes stored over the turns of a chat](stored.png)

![Time of put and of get_tuple by the size of the state](latency.png)

![Sequential rounds by operation](rounds.png)"""


def markdown(results: Results) -> str:
    """The whole report."""
    facts = results.environment
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    where = f"{facts['date']}, Python {facts['python']}, {facts['system']}, {facts['cpus']} CPUs"
    how = f"{facts['minutes']} minutes" + (" with `--quick`: less of everything than is said here" * facts["quick"])
    head = f"# Savers side by side\n\n`make bench` printed this: {where}, {how}. {packages}.\n\n{NOTES}\n\n{PLOTS}"
    listed = f"## Prices\n\nUS dollars, as of {prices.CHECKED}.\n\n{prices.table()}"
    return f"{head}\n\n{tables(results.rows)}\n\n{listed}\n"
