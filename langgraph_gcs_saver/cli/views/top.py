"""One frame of `langgraph-gcs top`: a summary, a table that fits the width, and the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta, timezone
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from langgraph_gcs_saver.cli.commands.catalogue import size
from langgraph_gcs_saver.cli.views.terminal import printable
from langgraph_gcs_saver.policy.prices import storage_cost
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from rich.console import RenderableType

    from langgraph_gcs_saver.results import StoreActivity, ThreadActivity

KEYS: Mapping[str, str] = {"u": "used", "s": "state", "p": "puts", "l": "lag", "c": "stored", "t": "thread"}
"""The keys that sort, and the order that each one chooses. What is stored is what costs."""

LINES = 7
"""The lines of a frame besides the threads."""

_STYLES = {
    "running": "green",
    "waiting": "cyan",
    "paused": "blue",
    "due": "yellow",
    "crashed": "bold red",
    "poison": "bold red",
    "compensating": "yellow",
    "stuck": "bold red",
    "finished": "dim",
    "empty": "dim",
}

_MOST_FAILED = 3
"""Most lines of an error."""

_LEAST_ID = 24
"""The least width of a thread's id before columns are left out for it."""


@record(frozen=True, slots=True)
class View:
    """What a frame shows.

    Attributes:
        store: The store's connection string.
        order: How threads are sorted.
        every: Seconds between two looks.
        activity: The last look that succeeded; `None` before the first one.
        error: Why the last look, or the last check, failed; `None` if they succeeded.
        findings: The number of damaged documents and objects that a check has found, by thread.
        is_checked: Whether threads are checked.
    """

    store: str
    order: str
    every: float
    activity: StoreActivity | None
    error: str | None
    findings: Mapping[str, int]
    is_checked: bool


@record(frozen=True, slots=True)
class _Column:
    """A column of the table.

    Attributes:
        name: Its heading.
        order: The order that sorts by it.
        least: Its least width.
        most: Its greatest width; 0 if its width is fixed.
        is_number: Whether its cells are right-justified.
        cell: The text and the style of a cell.
    """

    name: str
    order: str
    least: int
    most: int
    is_number: bool
    cell: Callable[[View, ThreadActivity], tuple[str, str]]


def _id(_: View, one: ThreadActivity) -> tuple[str, str]:
    return one.thread_id or "''", ""


def _state(_: View, one: ThreadActivity) -> tuple[str, str]:
    if one.error is not None:
        return one.error.kind, "bold red"
    return one.state or "", _STYLES.get(one.state or "", "")


def _damage(view: View, one: ThreadActivity) -> tuple[str, str]:
    return str(damage_of(view, one) or ""), "bold red"


def _used(view: View, one: ThreadActivity) -> tuple[str, str]:
    now = one.used if view.activity is None else view.activity.time
    return ago(now - one.used), ""


def _step(_: View, one: ThreadActivity) -> tuple[str, str]:
    return "" if one.status is None or one.status.step is None else str(one.status.step), ""


def _puts(_: View, one: ThreadActivity) -> tuple[str, str]:
    return (f"{one.puts_per_second:.1f}", "") if one.puts_per_second else ("-", "dim")


def _lag(_: View, one: ThreadActivity) -> tuple[str, str]:
    return ("-", "dim") if one.lag is None else (length(one.lag), "")


def _stored(_: View, one: ThreadActivity) -> tuple[str, str]:
    return ("-", "dim") if one.stored_bytes is None else (size(one.stored_bytes), "")


def _next(_: View, one: ThreadActivity) -> tuple[str, str]:
    return "" if one.status is None else ", ".join(one.status.nodes), ""


def _holder(_: View, one: ThreadActivity) -> tuple[str, str]:
    return "" if one.status is None or one.status.lease is None else one.status.lease.owner, ""


def _asks(_: View, one: ThreadActivity) -> tuple[str, str]:
    if one.error is not None:
        return str(one.error), "red"
    return "" if one.status is None else "; ".join(str(question.value) for question in one.status.questions), ""


_COLUMNS = (
    _Column("THREAD", "thread", 8, 72, False, _id),
    _Column("STATE", "state", 8, 0, False, _state),
    _Column("DMG", "", 3, 0, True, _damage),
    _Column("STEP", "", 5, 0, True, _step),
    _Column("USED", "used", 5, 0, True, _used),
    _Column("PUT/S", "puts", 6, 0, True, _puts),
    _Column("LAG", "lag", 6, 0, True, _lag),
    _Column("STORED", "stored", 10, 0, True, _stored),
    _Column("NEXT", "", 8, 30, False, _next),
    _Column("HOLDER", "", 10, 40, False, _holder),
    _Column("ASKS", "", 12, 60, False, _asks),
)
"""All columns, in their order on the screen."""

_IMPORTANCE = ("THREAD", "STATE", "DMG", "USED", "STEP", "NEXT", "PUT/S", "LAG", "STORED", "HOLDER", "ASKS")
"""Which columns stay if the terminal is narrow: the first ones."""

_IF_ANY = ("DMG", "NEXT", "HOLDER", "ASKS")
"""Columns that are left out if all cells are empty."""


def frame(
    view: View, width: int, *, rows: int | None = None, keys: bool = True, is_ascii: bool = False
) -> RenderableType:
    """A frame.

    Args:
        view: What it shows.
        width: The columns of the terminal.
        rows: Most threads; `None` for all.
        keys: Whether it is live: fills the width, and ends with the keys.
        is_ascii: Whether only ASCII can be shown.
    """
    cut = _Cut("~" if is_ascii else "…")
    parts: list[RenderableType] = [_line(cut, width, piece) for piece in _summary(view)]
    failed = _failed(view, width)
    parts += failed
    if rows is not None:
        rows = max(1, rows - len(failed) + 1)
    found = () if view.activity is None else view.activity.threads[:rows]
    if found:
        parts.append(_table(view, found, width, cut, is_filled=keys))
    elif view.activity is not None:
        parts.append(Text("There are no threads.", style="dim"))
    elif view.error is None:
        parts.append(Text("Reading the store ...", style="dim"))
    if keys:
        parts.append(Text(""))
        parts.append(_keys(cut, width, view.order))
    return Group(*parts)


def _summary(view: View) -> list[list[tuple[str, str]]]:
    found = view.activity
    at = "" if found is None else f"  {found.time.astimezone(timezone.utc):%H:%M:%S} UTC"
    lines: list[list[tuple[str, str]]] = [[("langgraph-gcs top", "bold"), (f"{at}  ", ""), (view.store, "dim")]]
    if found is None:
        return [*lines, [], []]
    more = "" if found.is_complete else "+"
    threads = [(f"{len(found.threads):,} of {found.total:,}{more} threads ", "")]
    states: list[tuple[str, str]] = []
    for state, number in found.states.items():
        states += [(f"  {number:,} ", "bold"), (state, _STYLES[state])]
    for rollback, number in found.rollbacks.items():
        states += [(f"  {number:,} ", "bold"), (f"{rollback} sagas", _STYLES[rollback])]
    lags = [one.lag for one in found.threads if one.lag is not None]
    lag = f"  lag {length(max(lags))}" if lags else ""
    size_more = "" if found.is_sized else "at least "
    cost = storage_cost(found.document_bytes, found.object_bytes)
    damaged = sum(damage_of(view, one) for one in found.threads)
    damage = max(damaged, found.damaged + sum(one.error is not None for one in found.threads if not one.damaged))
    stored = f"  {size_more}{size(found.document_bytes + found.object_bytes)} stored, {dollars(cost)} a month"
    return [
        *lines,
        threads + states,
        [
            (f"{found.puts_per_second:.1f}", "bold"),
            (f" puts/s{lag}{stored}  ", ""),
            (f"{damage:,} damaged", "bold red" if damage else "dim"),
        ],
    ]


def damage_of(view: View, one: ThreadActivity) -> int:
    """The number of damaged parts of a thread, as far as anything has looked."""
    return max(one.damaged, view.findings.get(one.thread_id, 0))


def _failure(view: View) -> str:
    if view.error is not None:
        return f"{view.error} Trying again."
    threads = () if view.activity is None else view.activity.threads
    first = next((one.error for one in threads if one.error is not None), None)
    return "" if first is None else str(first)


def _failed(view: View, width: int) -> list[Text]:
    """Why something cannot be read, in a few lines; an empty line if nothing failed."""
    mark = " ..."
    words = wrap(printable(_failure(view)), max(width, len(mark)), max_lines=_MOST_FAILED, placeholder=mark) or [""]
    return [Text(line, style="bold red", no_wrap=True, overflow="crop") for line in words]


def _keys(cut: _Cut, width: int, order: str) -> Text:
    pieces: list[tuple[str, str]] = [("sort: ", "dim")]
    for key, name in KEYS.items():
        pieces += [(key, "bold"), (f" {name}  ", "reverse" if name == order else "dim")]
    return _line(cut, width, [*pieces, ("space", "bold"), (" now  ", "dim"), ("q", "bold"), (" quit", "dim")])


# Fitting


class _Cut:
    """Shortens text to a width."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def end(self, text: str, width: int) -> str:
        """The beginning of a text."""
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, max(0, width - 1)) + self.mark[: max(0, width)]

    def middle(self, text: str, width: int) -> str:
        """The beginning and the end of a text: ids often differ only in one of them."""
        if cell_len(text) <= width or width < 8:
            return self.end(text, width)
        after = (width - 1) // 3
        tail = text[::-1]
        tail = set_cell_size(tail, after)[::-1] if cell_len(tail) > after else text
        # Half of a wide character would be shown as a blank.
        return set_cell_size(text, width - 1 - after).rstrip() + self.mark + tail.lstrip()


def _line(cut: _Cut, width: int, pieces: Sequence[tuple[str, str]]) -> Text:
    """One line, cut at the edge of the terminal."""
    line = Text(no_wrap=True, overflow="crop")
    left = width
    for text, style in pieces:
        said = printable(text)
        line.append(cut.end(said, left), style=style)
        left -= cell_len(said)
        if left <= 0:
            break
    return line


def _table(view: View, found: Sequence[ThreadActivity], width: int, cut: _Cut, *, is_filled: bool) -> Table:
    cells = {
        column.name: [(printable(text), style) for text, style in (column.cell(view, one) for one in found)]
        for column in _COLUMNS
    }
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="reverse", expand=is_filled)
    widths = _widths({name: max(cell_len(text) for text, _ in column) for name, column in cells.items()}, width)
    chosen = [column for column in _COLUMNS if column.name in widths]
    for column in chosen:
        is_sorted = column.order == view.order
        heading = Text(cut.end(column.name, widths[column.name]), style="bold underline" if is_sorted else "")
        justify: Any = "right" if column.is_number else "left"
        table.add_column(heading, justify=justify, width=widths[column.name], no_wrap=True, overflow="crop")
    for at in range(len(found)):
        row = []
        for column in chosen:
            text, style = cells[column.name][at]
            shorten = cut.middle if column.name == "THREAD" else cut.end
            row.append(Text(shorten(text, widths[column.name]), style=style))
        table.add_row(*row)
    return table


def _widths(longest: Mapping[str, int], width: int) -> dict[str, int]:
    """The columns that fit, the most important ones first, with their widths. The rest of the width goes to texts."""
    by_name = {column.name: column for column in _COLUMNS}
    id_width = max(8, min(longest["THREAD"], _LEAST_ID))
    found: dict[str, int] = {"THREAD": min(id_width, width)}
    left = width - found["THREAD"]
    for name in _IMPORTANCE[1:]:
        column = by_name[name]
        if name in _IF_ANY and not longest[name]:
            continue
        least = column.least
        if left < least + 1:
            if name == "STATE" and left > 2:
                found[name], left = left - 1, 0
            break
        found[name] = least
        left -= least + 1
    for name in ("THREAD", "STATE", *reversed(_IMPORTANCE)):
        if name in found:
            most = by_name[name].most or (20 if name == "STATE" else found[name])
            more = max(0, min(longest[name], most) - found[name], 0)
            found[name] += min(more, left)
            left -= min(more, left)
    return found


def dollars(amount: float) -> str:
    """An amount for people, to the cent."""
    return "<$0.01" if 0 < amount < 0.01 else f"${amount:,.2f}"


def ago(time: timedelta) -> str:
    """How long ago something was, in one unit."""
    seconds = max(0, int(time.total_seconds()))
    for unit, length_of in (("w", 604_800 * 2), ("d", 86_400 * 2), ("h", 7200), ("m", 120)):
        if seconds >= length_of:
            return f"{seconds // (length_of // 2)}{unit}"
    return f"{seconds}s"


def length(time: timedelta) -> str:
    """A short length of time, to two digits."""
    seconds = time.total_seconds()
    if abs(seconds) < 10:
        return f"{seconds:.2f}s"
    return f"{seconds:.1f}s" if abs(seconds) < 100 else f"{seconds:,.0f}s" if abs(seconds) < 10_000 else ago(time)
