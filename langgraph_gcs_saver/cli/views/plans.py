"""How every command that changes a store works: show the plan, ask, carry it out, report what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from langgraph_gcs_saver.cli.views.terminal import Bar, confirm, console, plain, print_json, progress

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Work(Generic[P]):
    """What a command plans to do, and how to show it.

    Attributes:
        plans: The plans of a dry run, one for each thread.
        show: Prints a plan for people.
        as_dict: A plan as it is in JSON.
        act: Carries out plans one after the other as it takes them; returns what was done, in a sentence.
        doing: What the progress bar says.
        question: What to ask first; `None` if the work destroys nothing.
    """

    plans: Sequence[P]
    show: Callable[[Console, P], None]
    as_dict: Callable[[P], dict[str, Any]]
    act: Callable[[Iterable[P]], str]
    doing: str
    question: str | None


def carry_out(work: Work[P], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Show the plans. Unless it is a dry run, ask, and carry them out.

    Raises:
        CommandError: The answer is no, or there is no terminal to ask at.
        GCSSaverError: A plan could not be carried out. Those before it were.
    """
    is_asking = work.question is not None and not yes and not dry_run
    if not as_json or is_asking:
        # The person who answers must see the plans, but standard output belongs to the JSON document.
        out = Console(stderr=True, highlight=False, markup=False, emoji=False) if as_json else console()
        for plan in work.plans:
            work.show(out, plan)
    result = "A dry run: nothing was done." if work.plans else "There is nothing to do."
    if work.plans and not dry_run:
        if work.question is not None:
            confirm(work.question, yes=yes)
        with progress(work.doing, len(work.plans)) as advance:
            result = work.act(_ticking(work.plans, advance))
    if as_json:
        # A scheduler treats false as a failure. Having nothing to do is not one.
        is_done = not (work.plans and dry_run)
        print_json({"done": is_done, "result": result, "plans": [work.as_dict(plan) for plan in work.plans]})
    else:
        console().print(plain(result))


def _ticking(plans: Iterable[P], advance: Bar) -> Iterator[P]:
    for plan in plans:
        yield plan
        advance()


def table(*columns: str) -> Table:
    """A table that folds cells that do not fit, and cuts nothing off."""
    result = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        result.add_column(name, overflow="fold")
    return result


def counted(number: int, what: str, plural: str | None = None) -> str:
    """A number and what it counts: `1 thread`, `2 threads`."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"
