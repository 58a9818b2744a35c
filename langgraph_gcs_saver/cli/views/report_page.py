"""The page of `langgraph-gcs report`: no script, nothing from a network, and the same bytes for the same report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timezone
from itertools import accumulate

from langgraph_gcs_saver.cli.commands.catalogue import moment, size
from langgraph_gcs_saver.cli.views.html import Child, Html, block, join, joined, named, tag
from langgraph_gcs_saver.cli.views.pages import document
from langgraph_gcs_saver.cli.views.report_sagas import sagas
from langgraph_gcs_saver.cli.views.report_values import Change, Piece
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import CheckpointInfo, Finding, SagaInfo, StoredValue, not_checked

FINDINGS = 100
"""How many findings of `verify` are listed. The rest are counted."""

COLUMNS = 240
"""How many columns the chart of stored bytes has. With more checkpoints, each column stands for several."""

_LANES = 6
_LANE = 14
_DOT = 22
_INNER = ("__", "branch:")


Key = tuple[str, str]
"""Namespace and id of a checkpoint."""


def key(info: CheckpointInfo) -> Key:
    """Namespace and id of a checkpoint."""
    return info.checkpoint_ns, info.checkpoint_id


@record(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page shows.

    Attributes:
        thread_id: The thread.
        checkpoints: Its checkpoints of all namespaces, newest first; at least one. They carry all damage that is known.
        findings: What `verify` found, at depth `metadata`.
        changes: What each step changed, by namespace and checkpoint id, for the steps whose values were read.
        read: How many checkpoints had their values read, damaged ones included.
        shown: How many of the newest checkpoints the timeline shows.
        sagas: The sagas of the thread; `None` if a document of one is damaged.
    """

    thread_id: str
    checkpoints: Sequence[CheckpointInfo]
    findings: Sequence[Finding] = ()
    changes: Mapping[Key, Sequence[Change]] = field(default_factory=dict)
    read: int = 0
    shown: int
    sagas: Sequence[SagaInfo] | None = ()

    @property
    def damaged(self) -> int:
        """Number of damaged checkpoints, including missing ones."""
        found = {key(info) for info in self.checkpoints if info.damage is not None}
        found.update((one.checkpoint_ns, name) for one in self.findings if one.is_damage for name in one.affects)
        return len(found)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was not checked for damage."""
        if self.read == len(self.checkpoints):
            return ()
        if self.read == 0:
            return "contents of objects", "values"
        return (f"values of {_count(len(self.checkpoints) - self.read, 'checkpoint')}",)


def page(report: Report) -> str:
    """The whole page."""
    steps = _Steps(report)
    title = f"Thread {report.thread_id}"
    newest = report.checkpoints[0]
    sections: dict[str, Iterable[Child]] = {
        "summary": (_summary(report), _attention(steps), _findings(report)),
        "size": _charts(report.checkpoints),
        **({"sagas": sagas(report.sagas, steps.root)} if report.sagas or report.sagas is None else {}),
        **({"held": (_held(steps),)} if any(info.holds for info in report.checkpoints) else {}),
        "timeline": _timeline(steps),
    }
    body = join(
        tag(
            "header",
            tag("p", "LangGraph thread", class_="kicker"),
            tag("h1", named(report.thread_id or "''")),
            tag("p", f"{_count(len(report.checkpoints), 'checkpoint')}, the newest of ", _time(newest.time), "."),
            tag("nav", *(tag("a", _TITLES[name], href=f"#{name}") for name in sections), aria_label="Sections"),
        ),
        tag(
            "main",
            *(_section(name, *children) for name, children in sections.items()),
        ),
        tag(
            "footer",
            tag("p", "Times are UTC. Made by langgraph-gcs report; this file needs no network and runs no script."),
        ),
    )
    return document(title, body, _STYLE)


_TITLES = {
    "summary": "Summary",
    "size": "Size over time",
    "sagas": "Sagas",
    "held": "Sets and savepoints",
    "timeline": "Timeline",
}


def _section(name: str, *children: Child) -> Html:
    return tag(
        "section",
        tag("h2", _TITLES[name], id=f"{name}-title"),
        *children,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> Html | None:
    if not seconds:
        return None
    return tag(
        "time", moment(seconds), datetime=datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    )


# Summary


def _summary(report: Report) -> Html:
    infos = report.checkpoints
    stored, whole = sum(info.stored_bytes for info in infos), sum(info.size for info in infos)
    runs = {info.run_id for info in infos if info.run_id is not None}
    rows: list[tuple[str, Child]] = [
        ("Checkpoints", f"{len(infos):,}"),
        ("Namespaces", f"{len({info.checkpoint_ns for info in infos}):,}"),
        ("Runs", f"{len(runs):,}"),
        ("First checkpoint", _time(min(info.time for info in infos)) or "unknown"),
        ("Last checkpoint", _time(max(info.time for info in infos)) or "unknown"),
        ("State, serialized", size(_states(infos[::-1])[-1])),
        ("Stored for all steps", size(stored)),
        ("Incremental frames save", f"about {size(sum(map(_saved, infos)))}"),
        ("Every step whole, serialized", size(whole)),
        ("Waiting for an answer", f"{sum(info.is_waiting for info in infos):,}"),
        ("Pinned", f"{sum(info.pin is not None for info in infos):,}"),
        ("Held by sets and savepoints", f"{sum(bool(info.holds) for info in infos):,}"),
        ("Damaged checkpoints", f"{report.damaged:,}"),
        ("Checkpoints whose values were read", f"{report.read:,}"),
    ]
    return tag("dl", *(tag("div", tag("dt", label), tag("dd", value)) for label, value in rows), class_="facts")


def _saved(info: CheckpointInfo) -> int:
    return sum(max(0, value.full - value.stored) for value in info.stored if value.kind == "incremental")


def _attention(steps: _Steps) -> Html | None:
    """Links to the steps that need attention."""
    wanted = [info for info in steps.report.checkpoints if info.damage is not None or info.is_waiting]
    stuck = [
        tag("li", "Saga ", named(saga.saga_id), " is stuck")
        for saga in steps.report.sagas or ()
        if saga.state == "stuck"
    ]
    if not wanted and not stuck:
        return None
    items = (
        tag(
            "li",
            steps.link(info, _title(info)),
            " ",
            "is damaged" if info.damage is not None else "waits for an answer",
        )
        for info in wanted[:FINDINGS]
    )
    more = tag("li", f"and {len(wanted) - FINDINGS:,} more") if len(wanted) > FINDINGS else None
    return join(tag("h3", "Needs attention"), tag("ul", *stuck, *items, more))


def _findings(report: Report) -> Html:
    findings = report.findings
    title = tag("h3", "Findings of verify, at depth metadata")
    unchecked = tag("p", not_checked(report.not_checked), class_="note") if report.not_checked else None
    if not findings:
        return join(title, tag("p", "None: documents are whole."), unchecked)
    items = (
        tag(
            "li",
            tag("strong", finding.kind, class_="bad" if finding.is_damage else None),
            ": ",
            named(finding.reason),
            *(() if finding.channel is None else (" Channel ", named(finding.channel), ".")),
            *(
                (f" {_count(len(finding.affects), 'checkpoint')} cannot be read because of it.",)
                if finding.affects
                else ()
            ),
            tag("code", finding.name, class_="id"),
        )
        for finding in findings[:FINDINGS]
    )
    more = tag("li", f"and {len(findings) - FINDINGS:,} more") if len(findings) > FINDINGS else None
    return join(title, tag("ul", *items, more, class_="findings"), unchecked)


# Size over time

_WIDTH, _HEIGHT = 1000, 200

_KINDS: tuple[tuple[str, str, Callable[[CheckpointInfo], int]], ...] = (
    ("manifest", "manifests", lambda info: info.manifest_bytes),
    ("full", "full frames", lambda info: _stored(info, "full")),
    ("incremental", "incremental frames", lambda info: _stored(info, "incremental")),
)


def _stored(info: CheckpointInfo, kind: str) -> int:
    return sum(value.stored for value in info.stored if value.kind == kind)


def _charts(newest_first: Sequence[CheckpointInfo]) -> Iterator[Html]:
    infos = newest_first[::-1]
    each = -(-len(infos) // COLUMNS)
    groups = [infos[i : i + each] for i in range(0, len(infos), each)]
    ends = (_time(infos[0].time), _time(infos[-1].time))

    columns = [[sum(map(part, group)) for _, _, part in _KINDS] for group in groups]
    top = max(map(sum, columns))
    bars = [
        tag(
            "path",
            d="".join(_bar(i, len(groups), sum(one[:kind]), one[kind], top) for i, one in enumerate(columns)),
            class_=f"fill {name}",
        )
        for kind, (name, _, _) in enumerate(_KINDS)
    ]
    legend = [
        (name, f"{label}, {size(sum(one[kind] for one in columns))}") for kind, (name, label, _) in enumerate(_KINDS)
    ]
    title = "Stored bytes per checkpoint" if each == 1 else f"Stored bytes per {each} checkpoints"
    yield _figure(
        "bars", title, f"{title}, oldest first, at most {size(top)}.", shapes=bars, legend=legend, top=top, ends=ends
    )

    total = list(accumulate(info.stored_bytes for info in infos))
    state = _states(infos)
    top = max(*total, *state)
    lines = [
        tag(
            "path",
            d=_line([values[min(len(infos), start + each) - 1] for start in range(0, len(infos), each)], top),
            class_=f"line {name}",
        )
        for name, values in (("total", total), ("state", state))
    ]
    title = "Stored bytes so far, and the size of the state"
    told = (
        f"In the end {size(total[-1])} are stored, and the serialized state of the newest step has {size(state[-1])}."
    )
    legend = [("total", f"stored so far, {size(total[-1])}"), ("state", f"state, serialized, {size(state[-1])}")]
    yield _figure("lines", title, told, shapes=lines, legend=legend, top=top, ends=ends)


def _states(infos: Sequence[CheckpointInfo]) -> list[int]:
    """The size of the graph's own state at each checkpoint. The states of subgraphs do not count."""
    own = "" if any(info.checkpoint_ns == "" for info in infos) else infos[-1].checkpoint_ns
    sizes, known = [], 0
    for info in infos:
        known = info.size if info.checkpoint_ns == own and info.size else known
        sizes.append(known)
    return sizes


def _figure(
    name: str,
    title: str,
    told: str,
    *,
    shapes: Sequence[Html],
    legend: Sequence[tuple[str, str]],
    top: int,
    ends: tuple[Html | None, Html | None],
) -> Html:
    # Words stay out of the drawing, because it is stretched to the screen's width.
    drawing = tag(
        "svg",
        tag("title", title, id=f"{name}-name"),
        tag("desc", told, id=f"{name}-desc"),
        tag("path", d=f"M0 0H{_WIDTH}M0 {_HEIGHT // 2}H{_WIDTH}M0 {_HEIGHT}H{_WIDTH}", class_="grid"),
        *shapes,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_labelledby=f"{name}-name {name}-desc",
    )
    keys = (tag("li", tag("span", class_=f"key {key}", aria_hidden="true"), label) for key, label in legend)
    return tag(
        "figure",
        tag("figcaption", title),
        tag("ul", *keys, class_="legend", role="list"),
        tag("div", size(top), class_="top"),
        drawing,
        tag("div", tag("span", ends[0]), tag("span", ends[1]), class_="ends"),
    )


def _bar(i: int, count: int, below: int, height: int, top: int) -> str:
    if not height:
        return ""
    width = _WIDTH / count
    low, high = _HEIGHT - _HEIGHT * below / top, _HEIGHT - _HEIGHT * (below + height) / top
    left, right = i * width, (i + (0.85 if count < COLUMNS // 2 else 1)) * width
    return f"M{left:.1f} {low:.1f}V{high:.1f}H{right:.1f}V{low:.1f}Z"


def _line(values: Sequence[int], top: int) -> str:
    heights = [_HEIGHT - _HEIGHT * value / max(1, top) for value in values]
    width = _WIDTH / len(values)
    points = "".join(f"L{(i + 0.5) * width:.1f} {height:.1f}" for i, height in enumerate(heights))
    return f"M0 {heights[0]:.1f}{points}H{_WIDTH}"


# Sets and savepoints


def _held(steps: _Steps) -> Html:
    """The checkpoints that sets of a team, and savepoints of sagas, hold."""
    items = (
        tag("li", named(hold), ": ", steps.link(info, _title(info)), tag("code", info.checkpoint_id, class_="id"))
        for info in steps.report.checkpoints
        for hold in info.holds
    )
    return tag("ul", *items, class_="findings")


# Timeline


class _Steps:
    """The checkpoints that the timeline shows, and how they are related."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.shown = report.checkpoints[: report.shown]
        self._anchors = {key(info): f"step-{i}" for i, info in enumerate(self.shown, 1)}
        self._known = {key(info): info for info in report.checkpoints}
        self._children: dict[tuple[str, str], list[CheckpointInfo]] = {}
        for info in reversed(report.checkpoints):
            if info.parent_id is not None:
                self._children.setdefault((info.checkpoint_ns, info.parent_id), []).append(info)

    def anchor(self, info: CheckpointInfo) -> str | None:
        return self._anchors.get(key(info))

    def link(self, info: CheckpointInfo, label: Html) -> Html:
        anchor = self.anchor(info)
        return label if anchor is None else tag("a", label, href=f"#{anchor}")

    def root(self, checkpoint_id: str) -> Html:
        """A checkpoint of the root graph."""
        info = self._known.get(("", checkpoint_id))
        if info is None:
            return join(tag("code", checkpoint_id, class_="id"), " which no longer exists")
        return self.link(info, _title(info))

    def parent(self, info: CheckpointInfo) -> CheckpointInfo | None:
        return None if info.parent_id is None else self._known.get((info.checkpoint_ns, info.parent_id))

    def children(self, info: CheckpointInfo) -> Sequence[CheckpointInfo]:
        return self._children.get(key(info), ())

    def is_fork(self, info: CheckpointInfo) -> bool:
        """Whether an older checkpoint already continues the same parent."""
        parent = self.parent(info)
        return parent is not None and self.children(parent)[0] is not info


def _title(info: CheckpointInfo) -> Html:
    step = "step ?" if info.step is None else f"step {info.step}"
    source = "" if info.source == "loop" else info.source
    parts = [named(part) for part in (source, ", ".join(info.nodes)) if part]
    return join(tag("b", step), *(one for part in parts for one in (" ", part)))


def _timeline(steps: _Steps) -> Iterator[Html]:
    report = steps.report
    hidden = len(report.checkpoints) - len(steps.shown)
    if hidden:
        yield tag(
            "p", f"The newest {len(steps.shown):,} checkpoints; {hidden:,} older ones are not listed.", class_="note"
        )
    if not report.changes:
        yield tag("p", "Values were not read.", class_="note")
    elif len(report.changes) < len(steps.shown):
        yield tag(
            "p",
            f"Values are shown for {len(report.changes):,} steps, the newest ones that could be read.",
            class_="note",
        )
    for space in sorted({info.checkpoint_ns for info in steps.shown}):
        rows = [info for info in steps.shown if info.checkpoint_ns == space]
        if space:
            yield tag("h3", "Namespace ", named(space))
        items = (_step(info, drawn, steps) for info, drawn in zip(rows, _graph(rows), strict=True))
        yield tag("ol", *items, class_="steps", role="list")


def _step(info: CheckpointInfo, drawn: Html, steps: _Steps) -> Html:
    names = [value.channel for value in info.stored if not value.channel.startswith(_INNER)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    summary = tag(
        "summary",
        tag("span", _title(info), class_="what"),
        tag("span", size(info.stored_bytes), class_="size"),
        *_badges(info, steps),
        tag("span", joined([named(name) for name in names[:4]], ", "), more, class_="changed") if names else None,
    )
    told = [
        tag("p", "Damage: ", named(info.damage), class_="bad") if info.damage is not None else None,
        *map(_change, steps.report.changes.get(key(info), ())),
        _frames(info.stored),
        _details(info, steps),
    ]
    is_open = info.damage is not None or info.is_waiting or info is steps.shown[0]
    return tag(
        "li",
        drawn,
        tag("details", summary, tag("div", *told, class_="body"), open="" if is_open else None),
        id=steps.anchor(info),
        class_="step",
    )


def _badges(info: CheckpointInfo, steps: _Steps) -> Iterator[Html]:
    if info.damage is not None:
        yield tag("span", "damaged", class_="badge damage")
    if info.interrupts:
        yield tag("span", "waits for an answer" if info.is_waiting else "interrupted", class_="badge interrupt")
    if info.pin is not None:
        yield tag("span", "pin ", named(info.pin), class_="badge pin")
    for hold in info.holds:
        yield tag("span", "held by ", named(hold), class_="badge pin")
    if steps.is_fork(info):
        yield tag("span", "fork", class_="badge fork")
    if len(steps.children(info)) > 1:
        yield tag("span", f"{len(steps.children(info))} branches", class_="badge fork")


def _change(change: Change) -> Html:
    more = tag("p", f"{change.more:,} more before", class_="note") if change.more else None
    return tag("div", tag("h4", named(change.channel)), more, *map(_piece, change.pieces), class_="change")


def _piece(piece: Piece) -> Html:
    element = {"new": "ins", "gone": "del", "now": "div"}[piece.mark]
    sign = {"new": "+", "gone": "\N{MINUS SIGN}", "now": ""}[piece.mark]
    label = " ".join(part for part in (sign, piece.label) if part)
    cut = tag("span", f" … {piece.cut:,} characters more", class_="note") if piece.cut else None
    return tag(
        element, tag("b", label) if label else None, tag("pre", block(piece.text), cut, dir="auto"), class_="piece"
    )


def _frames(stored: Sequence[StoredValue]) -> Html | None:
    if not stored:
        return None
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in ("channel", "value", "stored", "frame"))))
    rows = (
        tag(
            "tr",
            tag("th", named(value.channel), scope="row"),
            tag("td", size(value.size)),
            tag("td", size(value.stored)),
            tag("td", f"{value.kind}{', object' if value.is_object else ''}"),
        )
        for value in sorted(stored, key=lambda value: (value.channel.startswith(_INNER), -value.size, value.channel))
    )
    return tag("table", tag("caption", "Stored by this step"), head, tag("tbody", *rows))


def _details(info: CheckpointInfo, steps: _Steps) -> Html:
    rows: list[tuple[str, Child]] = [("checkpoint", tag("code", info.checkpoint_id, class_="id"))]
    if info.time:
        rows.append(("time", _time(info.time)))
    parent = steps.parent(info)
    if parent is not None:
        rows.append(("continues", steps.link(parent, _title(parent))))
    elif info.parent_id is not None:
        rows.append(("continues", join(tag("code", info.parent_id, class_="id"), " which no longer exists")))
    children = steps.children(info)
    if len(children) > 1:
        rows.append(("branches", joined([steps.link(child, _title(child)) for child in children], ", ")))
    rows.append(("state", f"{size(info.size)} in {_count(info.channels, 'channel')}"))
    if info.run_id is not None:
        rows.append(("run", tag("code", info.run_id, class_="id")))
    if info.tasks:
        rows.append(("tasks with writes", joined([tag("code", task, class_="id") for task in info.tasks], " ")))
    return tag("dl", *(tag("div", tag("dt", label), tag("dd", value)) for label, value in rows), class_="ids")


def _graph(rows: Sequence[CheckpointInfo]) -> list[Html]:
    """The branches beside each row, newest first: a dot for the checkpoint, and lines to its parent."""
    places = {info.checkpoint_id: i for i, info in enumerate(rows)}
    awaited: list[str] = []
    drawings, width = [], 1
    for i, info in enumerate(rows):
        above, own_id = list(awaited), info.checkpoint_id
        if own_id not in awaited:
            awaited.append(own_id)
        own = awaited.index(own_id)
        # The line ends if the parent was removed, or is listed above because a clock went back.
        goes_on = info.parent_id is not None and places.get(info.parent_id, -1) > i
        below = [other for lane, other in enumerate(awaited) if (lane == own and goes_on) or other != own_id]
        if goes_on:
            below[own] = str(info.parent_id)
        shapes = []
        for lane, other in enumerate(above):
            if other == own_id:
                shapes.append(_lane(lane, "0", own, str(_DOT)))
            else:
                shapes += _passing(lane, _later(awaited, lane, own, own_id, goes_on=goes_on))
        if goes_on:
            shapes.append(_lane(own, str(_DOT), own, "100%"))
        kind = (
            "damage"
            if info.damage is not None
            else "interrupt"
            if info.is_waiting
            else "pin"
            if info.pin is not None or info.holds
            else "plain"
        )
        shapes.append(tag("circle", cx=_x(own), cy=_DOT, r=5, class_=f"dot {kind}"))
        awaited = below
        drawings.append(tag("svg", *dict.fromkeys(shapes), aria_hidden="true", focusable="false"))
        width = max(width, len(above), own + 1)
    return [tag("div", drawing, class_=f"lanes lanes-{min(_LANES, width)}") for drawing in drawings]


def _later(awaited: Sequence[str], lane: int, own: int, own_id: str, *, goes_on: bool) -> int:
    """The place, below the row, of a lane that passes by. Lanes that end in the row make room."""
    ended = sum(other == own_id and (place != own or not goes_on) for place, other in enumerate(awaited[:lane]))
    return lane - ended


def _passing(lane: int, later: int) -> Iterator[Html]:
    if lane == later:
        yield _lane(lane, "0", lane, "100%")
        return
    # The lane moves below the dot. Otherwise it would seem to lead to the dot.
    yield _lane(lane, "0", lane, str(_DOT))
    yield _lane(lane, str(_DOT), later, str(2 * _DOT))
    yield _lane(later, str(2 * _DOT), later, "100%")


def _x(lane: int) -> int:
    # Lanes without room share the last one.
    return _LANE // 2 + 2 + min(lane, _LANES - 1) * _LANE


def _lane(lane: int, top: str, later: int, bottom: str) -> Html:
    return tag("line", x1=_x(lane), y1=top, x2=_x(later), y2=bottom)


# Style

_STYLE = """
figure svg { display: block; width: 100%; height: 10rem; overflow: visible; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: .25rem 0; padding: 0;
  font-size: .875rem; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; border-radius: .15rem; }
.key.total, .key.state { height: 0; border-top: 3px solid; vertical-align: middle; border-radius: 0; }
.key.state { border-top-style: dashed; }
.key.manifest { background: var(--manifest); } .key.full { background: var(--full); }
.key.incremental { background: var(--incremental); }
.key.total { border-color: var(--total); } .key.state { border-color: var(--state); }
.ends { display: flex; justify-content: space-between; gap: 1rem; }
.ends span:last-child { text-align: right; }
.grid { stroke: var(--edge); fill: none; vector-effect: non-scaling-stroke; }
.fill.manifest { fill: var(--manifest); } .fill.full { fill: var(--full); }
.fill.incremental { fill: var(--incremental); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.line.total { stroke: var(--total); } .line.state { stroke: var(--state); stroke-dasharray: 6 4; }
.steps { list-style: none; margin: 0; padding: 0; }
.step { display: flex; align-items: stretch; scroll-margin-top: .5rem; }
.step:target details { outline: 2px solid var(--link); outline-offset: -2px; border-radius: .5rem; }
.lanes { position: relative; flex: none; }
.lanes svg { position: absolute; top: 0; left: 0; width: 100%; height: 100%; overflow: hidden; }
.lanes line { stroke: var(--soft); stroke-width: 2; }
@LANES@
.dot { fill: var(--soft); stroke: var(--back); stroke-width: 2; }
.dot.damage { fill: var(--bad); } .dot.interrupt { fill: var(--warn); } .dot.pin { fill: var(--pin); }
details { flex: 1; min-width: 0; border-bottom: 1px solid var(--edge); }
summary { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .5rem; padding: .6rem .25rem;
  min-height: 2.75rem; cursor: pointer; list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:hover { background: var(--card); }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
.what { flex: 1 1 12rem; min-width: 0; }
.what::before { content: "\\25B8\\00A0"; color: var(--soft); }
details[open] > summary > .what::before { content: "\\25BE\\00A0"; }
.size { font-variant-numeric: tabular-nums; color: var(--soft); }
.changed { flex-basis: 100%; font-size: .875rem; color: var(--soft); padding-left: 1rem; }
.badge { border: 1px solid; border-radius: 1rem; padding: 0 .6rem; font-size: .8125rem; max-width: 100%; }
.badge.damage { color: var(--bad); } .badge.interrupt { color: var(--warn); }
.badge.pin { color: var(--pin); } .badge.fork { color: var(--fork); }
.body { padding: .25rem .25rem 1rem 1.25rem; }
.change { margin-bottom: .75rem; }
.piece { display: block; text-decoration: none; border-left: 3px solid var(--edge); border-radius: .25rem;
  padding: .3rem .6rem; margin: .25rem 0; background: var(--card); font-size: .875rem; }
ins.piece { background: var(--new); border-color: var(--incremental); }
del.piece { background: var(--gone); border-color: var(--bad); }
pre { margin: 0; max-height: 20rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: plaintext; font: .8125rem/1.45 ui-monospace, monospace; }
th:first-child { width: 40%; text-align: left; padding-left: 0; }
.ids { margin: .75rem 0 0; font-size: .875rem; }
.ids > div { display: flex; flex-wrap: wrap; gap: 0 .5rem; }
.ids dt { flex: 0 0 6rem; }
.ids dd { flex: 1 1 10rem; min-width: 0; }
""".replace("@LANES@", "\n".join(f".lanes-{n} {{ width: {n * _LANE + 4}px; }}" for n in range(1, _LANES + 1)))
