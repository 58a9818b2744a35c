"""The plots of a report, with matplotlib: one for each view, light or dark. Hatches repeat what colors say."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.analytics.findings import SHORT, counted, finding, in_bytes, in_percent, in_seconds, name_of
from langgraph_gcs_saver.analytics.queries import BUCKETS
from langgraph_gcs_saver.errors.extras import require
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langgraph_gcs_saver.analytics.local import Report

MOST_BARS = 12
"""Most rows of a view in a plot. The page has all of them in a table."""

_WIDTH = 9.0
_DPI = 110
_NAME = 38


@record(frozen=True, slots=True)
class _Theme:
    """Colors. Those of data are of Okabe and Ito's palette, which color-blind people can distinguish."""

    back: str
    text: str
    soft: str
    first: str
    second: str
    third: str


_LIGHT = _Theme("#ffffff", "#1b1f24", "#8c959f", "#0072b2", "#e69f00", "#b8bfc6")
_DARK = _Theme("#111418", "#e6edf3", "#7d8590", "#56b4e9", "#e69f00", "#57606a")


def figure(report: Report, view: str, *, dark: bool = False) -> Figure:
    """See `Report.figure`."""
    (module,) = require("report", ("matplotlib.figure",))
    theme = _DARK if dark else _LIGHT
    rows = report.views[view][:MOST_BARS]
    height = 1.9 + 0.42 * max(3, len(rows)) if view != "failures_by_interval" else 4.2
    made: Figure = module.Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=theme.back, layout="constrained")
    title = "\n".join(textwrap.wrap(_shown(finding(report, view), 200), 84))
    made.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=theme.text, parse_math=False)
    if rows:
        _PLOTS[view](made, rows, theme)
    else:
        axes = made.add_subplot()
        axes.axis("off")
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=theme.soft, fontsize=12)
    return made


def as_png(plot: Figure) -> bytes:
    """A plot as a PNG, the same bytes for the same report."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # A box stands for it.
        plot.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _shown(text: str, most: int = _NAME) -> str:
    """Text from rows, in one line."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _styled(axes: Axes, theme: _Theme) -> Axes:
    axes.set_facecolor(theme.back)
    axes.tick_params(colors=theme.text, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.soft)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    axes.grid(visible=True, axis="x", color=theme.soft, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _legend(axes: Axes, theme: _Theme, columns: int = 3) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        borderaxespad=0.2,
        handlelength=1.4,
    )


def _names(axes: Axes, rows: Sequence[Mapping[str, Any]], *columns: str) -> None:
    names = [_shown(name_of(row, *columns)) for row in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # The first row is at the top.


def _logarithmic(axes: Axes, values: Sequence[float], write: Any, ticks: Sequence[float]) -> None:
    """A logarithmic axis from a tick below the values to one above, with the units in its ticks."""
    known = [value for value in values if value > 0]
    least, most = min(known, default=1.0), max(known, default=1.0)
    low = max((tick for tick in ticks if tick <= least), default=least)
    high = min((tick for tick in ticks if tick >= most), default=most)
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xlim(low * 0.8, high * 1.25)
    axes.set_xticks(inside, [write(tick) for tick in inside])
    axes.minorticks_off()


_TIMES = (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 86400)
_BYTES = (1, 16, 256, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 4 << 30, 64 << 30)


def _spans(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, *, color: str, at: float, label: str) -> None:
    """The span from the median to the 95th percentile of a metric, as a line that begins with a dot."""
    found = [(row[f"{name}_p50"], row[f"{name}_p95"], place + at) for place, row in enumerate(rows)]
    found = [one for one in found if one[0]]
    if found:
        marker = "o" if at <= 0 else "s"
        lows, highs, places = zip(*found, strict=True)
        axes.hlines(places, lows, highs, color=color, linewidth=2.5, alpha=0.65)
        axes.plot(lows, places, marker, color=color, markersize=7, label=label, linestyle="none")
        axes.plot(highs, places, "|", color=color, markersize=9, markeredgewidth=2, linestyle="none")


def _patterns(plot: Figure, rows: Sequence[Mapping[str, Any]], theme: _Theme) -> None:
    left, right = (_styled(axes, theme) for axes in plot.subplots(1, 2, sharey=True))
    _spans(left, rows, "gap", color=theme.first, at=0, label="median, to 95th percentile")
    gaps = [row[f"gap_{one}"] or 0.0 for row in rows for one in ("p50", "p95")]
    _logarithmic(left, gaps, in_seconds, _TIMES)
    left.set_xlabel("time between two checkpoints (log scale)")
    _spans(right, rows, "size", color=theme.first, at=-0.12, label="state")
    _spans(right, rows, "stored", color=theme.second, at=0.12, label="added to the store")
    sizes = [row[f"{name}_{one}"] or 0 for row in rows for name in ("size", "stored") for one in ("p50", "p95")]
    _logarithmic(right, sizes, in_bytes, _BYTES)
    right.set_xlabel("bytes per checkpoint (log scale)")
    _names(left, rows, "namespace")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            _legend(axes, theme, 2)


def _recoveries(plot: Figure, rows: Sequence[Mapping[str, Any]], theme: _Theme) -> None:
    (ticker,) = require("report", ("matplotlib.ticker",))
    axes = _styled(plot.add_subplot(), theme)
    begin = [0] * len(rows)
    for name, color, hatch in (("finished", theme.first, ""), ("failed", theme.second, "///"), ("", theme.third, "")):
        widths = [row[name] if name else row["recoveries"] - row["finished"] - row["failed"] for row in rows]
        shown = {"finished": "run ended well", "failed": "run failed"}.get(name, "no end of a run known")
        axes.barh(
            range(len(rows)), widths, 0.62, left=begin, color=color, hatch=hatch, edgecolor=theme.back, label=shown
        )
        begin = [one + more for one, more in zip(begin, widths, strict=True)]
    for place, (row, end) in enumerate(zip(rows, begin, strict=True)):
        parts = [] if row["success_rate"] is None else [f"{in_percent(row['success_rate'])} ended well"]
        parts += [] if row["work_lost"] is None else [f"{in_seconds(row['work_lost'])} of work repeated"]
        parts += [] if row["restore_p50"] is None else [f"restored in {in_seconds(row['restore_p50'])}"]
        axes.text(end, place, f"  {', '.join(parts)}", va="center", fontsize=9, color=theme.text)
    axes.set_xlim(0, 2.2 * max(begin))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("recoveries")
    _names(axes, rows, "kind")
    _legend(axes, theme)


def _storage(plot: Figure, rows: Sequence[Mapping[str, Any]], theme: _Theme) -> None:
    axes = _styled(plot.add_subplot(), theme)
    most = max(row["stored"] for row in rows) or 1
    unit = max(one for one in (1, 1 << 10, 1 << 20, 1 << 30) if one == 1 or one <= most)
    save = [row["could_save"] / unit for row in rows]
    keep = [row["stored"] / unit - saved for row, saved in zip(rows, save, strict=True)]
    places = range(len(rows))
    axes.barh(places, keep, 0.62, color=theme.first, edgecolor=theme.back, label="needed")
    axes.barh(
        places, save, 0.62, left=keep, color=theme.second, hatch="///", edgecolor=theme.back, label="could be saved"
    )
    for place, row in enumerate(rows):
        advice = f": {SHORT[row['advice']]}" if row["advice"] in SHORT else ""
        axes.text(
            row["stored"] / unit,
            place,
            f"  {in_percent(row['share'] or 0)}{advice}",
            va="center",
            fontsize=9,
            color=theme.text,
        )
    axes.set_xlim(0, 1.5 * most / unit)
    axes.set_xlabel({1: "bytes", 1 << 10: "KiB", 1 << 20: "MiB", 1 << 30: "GiB"}[unit] + " stored")
    columns = ("channel", "namespace") if any(row["namespace"] for row in rows) else ("channel",)
    _names(axes, rows, *columns)
    _legend(axes, theme)


def _class(begin: float | None) -> str:
    if begin is None:
        return "no interval"
    above = [one for one in BUCKETS if one > begin]
    if not above:
        return f"{in_seconds(begin)}\nand more"
    return f"under\n{in_seconds(above[0])}" if begin == 0 else f"{in_seconds(begin)}\nto {in_seconds(above[0])}"


def _failures(plot: Figure, rows: Sequence[Mapping[str, Any]], theme: _Theme) -> None:
    axes = _styled(plot.add_subplot(), theme)
    axes.grid(visible=False, axis="x")
    axes.grid(visible=True, axis="y", color=theme.soft, alpha=0.25, linewidth=0.7)
    by_class: dict[float | None, list[float]] = {}
    for row in rows:
        sums = by_class.setdefault(row["gap_from"], [0.0] * 5)
        names = ("worked", "put_seconds", "work_lost", "crashes", "failed_runs")
        for place, name in enumerate(names):
            sums[place] += row[name] or 0
    shares = {
        begin: [100 * part / worked if worked else 0.0 for part in (put, lost)]
        for begin, (worked, put, lost, *_) in by_class.items()
    }
    places = range(len(by_class))
    for which, (label, color, hatch) in enumerate(
        (("storing", theme.first, ""), ("work repeated after crashes", theme.second, "///"))
    ):
        heights = [share[which] for share in shares.values()]
        axes.bar(
            [place + 0.36 * which - 0.18 for place in places],
            heights,
            0.34,
            color=color,
            hatch=hatch,
            edgecolor=theme.back,
            label=label,
        )
    top = max((value for share in shares.values() for value in share), default=0.0) or 1.0
    for place, (begin, (_, _, _, crashes, failed)) in enumerate(by_class.items()):
        text = f"{counted(int(crashes), 'crash')}\n{counted(int(failed), 'failed run')}"
        axes.text(place, max(shares[begin]) + 0.02 * top, text, ha="center", va="bottom", fontsize=9, color=theme.text)
    axes.set_ylim(0, 1.3 * top)
    axes.set_xlim(-0.7, max(len(by_class), 3) - 0.3)
    axes.set_xticks(list(places), [_class(begin) for begin in by_class])
    axes.set_xlabel("median time between two checkpoints of a thread")
    axes.set_ylabel("% of the time worked")
    _legend(axes, theme)


_PLOTS = {
    "checkpoint_patterns": _patterns,
    "recovery_outcomes": _recoveries,
    "storage_by_channel": _storage,
    "failures_by_interval": _failures,
}
