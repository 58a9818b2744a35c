"""The page of `langgraph-gcs analytics report`: the four questions, each with a finding, a plot and a table."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.analytics.findings import counted, finding, in_bytes, in_percent, in_seconds
from langgraph_gcs_saver.analytics.queries import COLUMNS, QUESTIONS
from langgraph_gcs_saver.analytics.rows import LABEL
from langgraph_gcs_saver.cli.views.html import Html, join, tag
from langgraph_gcs_saver.cli.views.pages import document

if TYPE_CHECKING:
    from langgraph_gcs_saver.analytics.local import Report

ROWS = 100
"""Most rows of a view in the page."""

_SECONDS = ("gap", "seconds", "lost", "work_lost", "restore", "worked", "put_seconds")
_BYTES = ("size", "stored", "task_writes_stored", "repeated", "superseded", "could_save")
_SHARES = ("share", "success_rate", "put_share", "lost_share")


def page(report: Report, plots: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
        report: What it shows.
        plots: The light plot of each view, as a PNG. The page has dark ones too.
    """
    body = join(
        tag(
            "header",
            tag("p", "langgraph-gcs-saver", class_="kicker"),
            tag("h1", "Checkpoints: four questions"),
            tag("p", ". ".join(facts(report)), "."),
            tag("nav", *(tag("a", text, href=f"#{name}") for name, text in QUESTIONS.items()), aria_label="Sections"),
        ),
        tag("main", *(_section(report, name, plots[name]) for name in QUESTIONS)),
        tag(
            "footer",
            tag(
                "p",
                "Times are UTC. Made by langgraph-gcs analytics report; this file needs no network, and runs no "
                "script.",
            ),
        ),
    )
    return document("Checkpoints: four questions", body, _STYLE, images=True)


def facts(report: Report) -> list[str]:
    """What was read, and what was not, as sentences without a full stop."""
    found = [counted(report.rows, "row") + (f" of {counted(report.files, 'file')}" if report.files else "")]
    if report.first is not None and report.last is not None:
        found[0] += f", from {report.first:%Y-%m-%d %H:%M:%S} to {report.last:%Y-%m-%d %H:%M:%S} (UTC)"
    if report.duplicates:
        found.append(f"Left out as repeated: {counted(report.duplicates, 'row')}")
    if report.torn:
        found.append(f"Left out as torn: {counted(report.torn, 'line')}")
    if report.foreign:
        found.append(f"Left out as no rows of this version: {counted(report.foreign, 'line')}")
    return found


def _section(report: Report, view: str, plot: bytes) -> Html:
    shown = finding(report, view)
    light, dark = map(_data, (plot, report.png(view, dark=True)))
    picture = tag(
        "picture",
        tag("source", srcset=dark, media="(prefers-color-scheme: dark)"),
        tag("img", src=light, alt=f"Plot: {shown}."),
    )
    return tag(
        "section",
        tag("h2", QUESTIONS[view], id=f"{view}-title"),
        tag("p", f"{shown}."),
        tag("figure", picture),
        _table(report, view),
        id=view,
        aria_labelledby=f"{view}-title",
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(report: Report, view: str) -> Html | None:
    rows = report.views[view]
    if not rows:
        return None
    names = list(rows[0])
    meanings = {**{LABEL + name: f"The label {name}." for name in report.labels}, **COLUMNS[view]}
    head = tag("tr", *(tag("th", _heading(name), scope="col", title=meanings[name]) for name in names))
    body = (tag("tr", *(tag("td", shown(name, row)) for name in names)) for row in rows[:ROWS])
    more = f" The first {ROWS} of {len(rows):,} rows." if len(rows) > ROWS else ""
    return tag(
        "details",
        tag("summary", f"Numbers of the view {view}.{more}"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide"),
        tag("dl", *(tag("div", tag("dt", _heading(name)), tag("dd", meanings[name])) for name in names), class_="ids"),
    )


def _heading(name: str) -> str:
    return name.removeprefix(LABEL).replace("_", " ")


def shown(name: str, row: Mapping[str, Any]) -> str:
    """A value of a view for people, with its unit."""
    value = row[name]
    if value is None:
        return "-"
    stem = name.removesuffix("_p50").removesuffix("_p95").removesuffix("_max").removesuffix("_from")
    if stem in _SHARES:
        return in_percent(value)
    if stem in _BYTES:
        return in_bytes(value)
    if stem in _SECONDS:
        return in_seconds(value)
    if name == "namespace":
        return str(value) or "root graph"
    if name == "usd_per_month":
        return f"{value:,.2g} USD"
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


_STYLE = """
main img { width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide table { width: max-content; min-width: 100%; table-layout: auto; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
summary { cursor: pointer; padding: .5rem 0; color: var(--soft); }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
.ids { font-size: .8125rem; }
.ids > div { display: flex; gap: .5rem; }
.ids dt { flex: 0 0 10rem; }
"""
