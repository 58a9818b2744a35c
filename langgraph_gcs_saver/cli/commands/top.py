"""`langgraph-gcs top`: what the threads of a store are doing now, from the store alone, again and again."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.runs import shown as shown_status
from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.keyboard import keyboard, suspend, suspension
from langgraph_gcs_saver.cli.views.terminal import CipherOption, StoreOption, console, open_admin, store_named
from langgraph_gcs_saver.cli.views.top import KEYS, LINES, View, frame
from langgraph_gcs_saver.errors import UNREADABLE, GCSSaverError
from langgraph_gcs_saver.policy.prices import storage_cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from langgraph_gcs_saver.results import StoreActivity, ThreadActivity
    from langgraph_gcs_saver.saver.admin import Admin

TIMEOUT = 10.0
"""Seconds until a service that does not answer counts as an error. The next look tries again."""

CHECK_EVERY = 60.0
"""Least seconds between two checks of a thread that stores checkpoints meanwhile."""

_MOST = 100
_DEFAULT_LIMIT = 20

_POLL = 0.1
"""Most seconds until a key, a new look or another size of the terminal is noticed."""


def _parse_order(text: str) -> str:
    if text not in KEYS.values():
        raise typer.BadParameter(f"{text!r} is none of {', '.join(KEYS.values())}.")
    return text


def top(
    *,
    every: Annotated[
        timedelta,
        typer.Option(parser=positive_duration, metavar="TIME", help="How often to look: 2s, 1m."),
    ] = "2s",  # type: ignore[assignment]  # typer parses the text
    sort: Annotated[
        str,
        typer.Option(
            parser=_parse_order,
            metavar="ORDER",
            help="What comes first: used, the threads used last; state, those that need a person or a worker; puts; "
            "lag; stored, the largest; thread, by id.",
        ),
    ] = "used",
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, metavar="N", help="Show at most N threads. The default is what fits, else 20."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit, as into a pipe.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the threads that are shown, as verify --depth existence does, in the background."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each frame as one line of JSON, until Ctrl-C or with --once.")
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
) -> None:
    """Watch the threads of a store: state, step, next nodes, puts, lag, size, damage, holders. q or Ctrl-C ends it.

    It reads the store, and changes nothing. Each look takes a limited number of requests. So in a store with many
    threads, the list of threads and the sizes become complete only after several looks. Puts are those of the threads
    shown, in the last 10 seconds. Lag is the time from the making of the newest checkpoint until it was stored. The
    cost is for storage alone.

    In a terminal, these keys sort: u by last use, s state, p puts, l lag, c stored bytes and so cost, t thread. The
    space bar looks at once.

    Example: langgraph-gcs top --sort state --store file:///home/me/store
    """
    with open_admin(store, cipher, timeout=TIMEOUT) as saver:
        looks = _Looks(saver, store_named(store) or "", every.total_seconds(), sort, verify=verify)
        out = console()
        if once or not (as_json or sys.stdout.isatty()):
            _print(looks.once(limit or _DEFAULT_LIMIT), out, as_json=as_json)
            return
        try:
            if as_json:
                _stream(looks, limit or _DEFAULT_LIMIT, out)
            else:
                _live(looks, limit, out)
        except (KeyboardInterrupt, EOFError):
            return  # Ending it is no failure.
        finally:
            looks.end()


def _print(view: View, out: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_json_of(view), default=str), flush=True)
    else:
        out.print(frame(view, min(out.width, 200), keys=False, is_ascii=not _has_unicode(out)))


def _has_unicode(out: Console) -> bool:
    return out.encoding.startswith("utf")


def _stream(looks: _Looks, limit: int, out: Console) -> None:
    while True:
        _print(looks.try_once(limit), out, as_json=True)
        time.sleep(looks.every)


def _live(looks: _Looks, limit: int | None, out: Console) -> None:
    looks.begin(_rows(limit, out))
    with suspension() as is_asked:
        while not _shown_until_quit(looks, limit, out, is_asked):
            suspend(is_asked)


def _rows(limit: int | None, out: Console) -> int:
    """The number of threads that fit."""
    return min(limit or _MOST, max(1, out.height - LINES))


def _shown_until_quit(looks: _Looks, limit: int | None, out: Console, is_asked: threading.Event) -> bool:
    """Draw frames until the user quits; false if Ctrl-Z was pressed."""
    from rich.live import Live

    drawn: object = None
    with keyboard() as key, Live(console=out, screen=True, auto_refresh=False) as live:
        while not is_asked.is_set():
            looks.limit = rows = _rows(limit, out)
            now = looks.view(), out.size
            if now != drawn:
                live.update(frame(now[0], out.width, rows=rows, is_ascii=not _has_unicode(out)), refresh=True)
                drawn = now
            typed = key(_POLL)
            if typed in ("q", "Q", "\x1b"):
                return True
            if typed in KEYS:
                looks.sort(KEYS[typed])
            elif typed == " ":
                looks.now()
    return False


def _json_of(view: View) -> dict[str, Any]:
    """A look as JSON: times in ISO 8601, lengths of time in seconds, dollars a month."""
    found = view.activity
    if found is None:
        return {"error": view.error}
    return {
        "time": _iso(found.time),
        "error": view.error,
        "total": found.total,
        "is_complete": found.is_complete,
        "states": dict(found.states),
        "puts_per_second": found.puts_per_second,
        "checkpoints": found.checkpoints,
        "damaged": found.damaged,
        "document_bytes": found.document_bytes,
        "object_bytes": found.object_bytes,
        "is_sized": found.is_sized,
        "monthly_usd": storage_cost(found.document_bytes, found.object_bytes),
        "threads": [_thread_json(view, one) for one in found.threads],
    }


def _thread_json(view: View, one: ThreadActivity) -> dict[str, Any]:
    return {
        **({} if one.status is None else shown_status(one.status)),
        "thread_id": one.thread_id,
        "state": one.state,
        "used": _iso(one.used),
        "error": None if one.error is None else {"kind": one.error.kind, "message": str(one.error)},
        "puts_per_second": one.puts_per_second,
        "checkpoints": one.checkpoints,
        "stored_bytes": one.stored_bytes,
        "damaged": one.damaged,
        "findings": view.findings.get(one.thread_id) if view.is_checked else None,
    }


def _iso(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="microseconds")


class _Looks:
    """Looks at the store, in a thread of its own, so that keys work while a service does not answer.

    Attributes:
        every: Seconds between two looks.
        order: How threads are sorted.
        limit: Most threads.
    """

    def __init__(self, saver: Admin, store: str, every: float, order: str, *, verify: bool) -> None:
        self.every = every
        self.order = order
        self.limit = _DEFAULT_LIMIT
        self._saver = saver
        self._store = store
        self._watch = saver.watch()
        self._verify = verify
        self._activity: StoreActivity | None = None
        self._error: str | None = None
        self._unchecked: str | None = None
        self._failure: BaseException | None = None
        self._findings: dict[str, int] = {}
        self._checked: dict[str, tuple[str | None, float]] = {}
        self._wake = threading.Event()
        self._is_over = False

    def view(self) -> View:
        """What is to be shown.

        Raises:
            Exception: A look has failed for a reason that another look would not change.
        """
        if self._failure is not None:
            raise self._failure
        error = self._error or self._unchecked
        return View(self._store, self.order, self.every, self._activity, error, dict(self._findings), self._verify)

    def once(self, limit: int) -> View:
        """Look and check in this thread.

        Raises:
            GCSSaverError: The store cannot be read.
        """
        self._activity, self._error = self._watch.look(limit, order=self.order), None
        self._check()
        return self.view()

    def try_once(self, limit: int) -> View:
        """Do as `once`; if the store cannot be read, the view says so."""
        try:
            return self.once(limit)
        except GCSSaverError as error:
            self._error = str(error)
            return self.view()

    def begin(self, limit: int) -> None:
        """Begin to look again and again."""
        self.limit = limit
        for work in (self._look_on, self._check_on) if self._verify else (self._look_on,):
            threading.Thread(target=self._run, args=(work,), name="langgraph-gcs-top", daemon=True).start()

    def sort(self, order: str) -> None:
        """Sort in another way."""
        self.order = order
        self.now()

    def now(self) -> None:
        """Look at once."""
        self._wake.set()

    def end(self) -> None:
        """Look no more."""
        self._is_over = True
        self._wake.set()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._failure = error

    def _look_on(self) -> None:
        while not self._is_over:
            try:
                self._activity, self._error = self._watch.look(self.limit, order=self.order), None
            except GCSSaverError as error:
                self._error = str(error)
            self._wake.wait(self.every)
            self._wake.clear()

    def _check_on(self) -> None:
        while not self._is_over:
            try:
                self._check()
                self._unchecked = None
            except GCSSaverError as error:
                self._unchecked = str(error)
            time.sleep(_POLL if self._unchecked is None else self.every)

    def _check(self) -> None:
        """Check the threads that are shown and have not been checked, or not since they stored a checkpoint."""
        if not self._verify or self._activity is None:
            return
        for one in self._activity.threads:
            tip = None if one.status is None else one.status.checkpoint_id
            known = self._checked.get(one.thread_id)
            now = time.monotonic()  # clock: how often a thread is checked changes no result
            if self._is_over:
                return
            if known is None or (known[0] != tip and now - known[1] > CHECK_EVERY):
                self._findings[one.thread_id] = self._damage_of(one.thread_id)
                self._checked[one.thread_id] = tip, now

    def _damage_of(self, thread_id: str) -> int:
        found = 0
        try:
            for finding in self._saver.verify(thread_id, depth="existence"):
                found += finding.is_damage
        except UNREADABLE:
            found += 1
        return found
