"""Three plots of a run, as PNG: stored bytes over turns, latency by state size, rounds by operation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare.results import OURS, Results, Row, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#24292f", "#d0d7de"
COLOURS = {
    OURS: "#0b5fff",
    "GCSSaver off": "#7aa7ff",
    "GCSSaver embedded": "#7aa7ff",
    "firestore": "#d9480f",
    "objectstorage gcs": "#2b8a3e",
    "objectstorage files": "#74b816",
    "postgres": "#862e9c",
    "sqlite": "#868e96",
    "memory": "#ced4da",
}

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "figure.facecolor": "white",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what the results have enough for; nothing without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - all but the plots do without it
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return []
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    drawn = []
    with mpl.rc_context(STYLE):
        for name, make in (("stored", _stored), ("latency", _latency), ("rounds", _rounds)):
            figure = make(plt, results)
            if figure is not None:
                path = directory / f"{name}.png"
                figure.savefig(path)
                plt.close(figure)
                drawn.append(path)
    return drawn


def _ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]], *, gap: float) -> None:
    """Write each line's name and a remark at its end, as far apart as it takes to read them; `gap` is in decades."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    places = {name: math.log10(y) for name, _, _, y in ends}
    order = sorted(places, key=lambda name: places[name])
    for _ in range(200):
        for low, high in pairwise(order):
            near = gap - (places[high] - places[low])
            if near > 0:
                places[low] -= near / 2
                places[high] += near / 2
    for name, remark, x, _ in ends:
        axes.annotate(
            f"{name}{remark}",
            (x, 10 ** places[name]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS.get(name, INK),
            weight="bold" if name == OURS else "normal",
            annotation_clip=False,
            # Readable where it has to lie across another line.
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _line(axes: Axes, name: str, points: Sequence[tuple[float, float]]) -> None:
    width = 2.6 if name == OURS else 1.6
    axes.plot(*zip(*points, strict=True), color=COLOURS.get(name, INK), lw=width, marker="o", ms=width + 1.2)


def _stored(plt: Any, results: Results) -> Figure | None:
    # The other ways to open the same savers store the same bytes.
    hidden = {"GCSSaver off", "objectstorage files"}
    series = {one.saver: one.points for one in results.series if one.saver not in hidden}
    if not series:
        return None
    failed = {row.saver for row in results.rows if row.workload == "chat" and row.error is not None}
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    ends = []
    for name, points in series.items():
        _line(axes, name, points)
        last, stored = points[-1]
        ends.append((name, f" fails in turn {last + 1}" if name in failed else "", last, stored))
    axes.set(yscale="log", xlabel="turns of a chat, three checkpoints each", xlim=(0, None))
    axes.set_title("Bytes stored, with every checkpoint kept", weight="bold")
    low, high = axes.get_ylim()
    marks = [unit * scale for unit in (1 << 10, 1 << 20, 1 << 30) for scale in (1, 10, 100)]
    marks = [mark for mark in marks if low < mark < high]
    _ticks(axes.yaxis, marks, [size(mark) for mark in marks])
    axes.grid(axis="y")
    _ends(axes, ends, gap=0.058 * math.log10(high / low))
    return figure


def _ticks(axis: Any, marks: Sequence[float], labels: Sequence[str]) -> None:
    axis.set_ticks(marks, labels)
    axis.set_ticks([], minor=True)


def _latency(plt: Any, results: Results) -> Figure | None:
    panels = {"put": "put", "get_tuple cold": "get_tuple, nothing cached"}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {operation: {} for operation in panels}
    failed: set[str] = set()
    for row in results.rows:
        amount = re.fullmatch(r"state of (\d+) ([KM])B", row.workload)
        if amount is None or row.operation not in panels or row.saver == "GCSSaver off":
            continue
        if row.delayed is not None:
            number = int(amount[1]) * (1000 if amount[2] == "K" else 1_000_000)
            found[row.operation].setdefault(row.saver, []).append((number, row.delayed.median * 1000))
        elif row.saver in found[row.operation]:
            failed.add(row.saver)
    if not any(found.values()):
        return None
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, (operation, title) in zip(both, panels.items(), strict=True):
        lines = {name: sorted(points) for name, points in found[operation].items()}
        for name, points in lines.items():
            _line(axes, name, points)
        axes.set(xscale="log", yscale="log", xlabel="size of the state")
        axes.set_title(title, weight="bold")
        marks = sorted({number for points in lines.values() for number, _ in points})
        _ticks(axes.xaxis, marks, [f"{m / 1e6:g} MB" if m >= 1e6 else f"{m / 1e3:g} KB" for m in marks])
        axes.grid(axis="y")
    low, high = both[0].get_ylim()
    for axes, operation in zip(both, panels, strict=True):
        ends = [
            (name, " fails beyond" if name in failed else "", *max(points)) for name, points in found[operation].items()
        ]
        _ends(axes, ends, gap=0.062 * math.log10(high / low))
    marks = [mark for mark in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000) if low < mark < high]
    _ticks(both[0].yaxis, marks, [f"{mark} ms" if mark < 1000 else f"{mark / 1000:g} s" for mark in marks])
    figure.supxlabel(
        "with 12 ms more for a call of Firestore, 45 ms for a request to Cloud Storage, 1 ms for PostgreSQL",
        fontsize=9,
        color="#57606a",
    )
    return figure


CALLS = (
    ("shorter step", "put", "put"),
    ("shorter step", "put_writes", "put_writes of two"),
    ("shorter step", "get_tuple", "get_tuple"),
    ("resume", "open and get_tuple", "cold resume"),
    ("history", "list 10", "list 10 of 300"),
    ("history", "list all", "list 300 of 300"),
    ("delete", "delete_thread", "delete 300"),
)


def _rounds(plt: Any, results: Results) -> Figure | None:
    rows = {(row.workload, row.operation, row.saver): row for row in results.rows if row.rounds is not None}
    savers = [name for name in COLOURS if any(saver == name for *_, saver in rows)]
    calls = [call for call in CALLS if any(key[:2] == call[:2] for key in rows)]
    if not calls:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.62 * len(calls) + 1.6), layout="constrained")
    for at, (workload, operation, _) in enumerate(calls):
        known = [(name, _found(rows, workload, operation, name)) for name in savers]
        values = [(name, number) for name, number in known if number is not None]
        axes.plot([min(n for _, n in values), max(n for _, n in values)], [at, at], color=FAINT, lw=1.4, zorder=1)
        for place, (name, number) in enumerate(values):
            same = [index for index, (_, other) in enumerate(values) if other == number]
            shift = (same.index(place) - (len(same) - 1) / 2) * 0.16
            axes.scatter(number, at + shift, s=64 if name == OURS else 44, color=COLOURS[name], zorder=3, lw=0)
    axes.set(xscale="log", xlim=(0.8, None))
    axes.set_yticks(range(len(calls)), [label for *_, label in calls])
    axes.invert_yaxis()
    axes.set_title("Sequential rounds: requests that wait for the answer to another", weight="bold")
    axes.grid(axis="x")
    marks = [mark for mark in (1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000) if mark <= axes.get_xlim()[1]]
    _ticks(axes.xaxis, marks, [f"{mark:,}" for mark in marks])
    handles = [plt.Line2D([], [], color=COLOURS[name], marker="o", lw=0, label=name, ms=7) for name in savers]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handletextpad=0.1)
    return figure


def _found(rows: dict[tuple[str, str, str], Row], workload: str, operation: str, saver: str) -> float | None:
    row = rows.get((workload, operation, saver))
    return row.rounds if row is not None and row.rounds else None
