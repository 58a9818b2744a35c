"""`langgraph-gcs runs`, `stalled` and `answer`: what threads are doing, which do not get on, and answers to them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.catalogue import moment, table_of
from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    Late,
    StoreOption,
    ThreadArgument,
    console,
    no_thread,
    open_admin,
    open_saver,
    plain,
    print_json,
    print_table,
    progress,
)
from langgraph_gcs_saver.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langgraph_gcs_saver.results import ThreadStatus

STALLED = 4
"""Exit code if threads do not get on."""

_COLORS = {"crashed": "yellow", "poison": "red"}


def runs(
    *,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help="List only threads that are running, waiting, paused, crashed, due or poison."
        ),
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the threads whose turns have not finished: state, step, due nodes, since when, holder, and questions.

    It finds threads that `run` works on or has left. A crashed, paused or due thread is resumed by langgraph-gcs work.

    Example: langgraph-gcs runs --state waiting --store file:///home/me/store
    """
    found: list[ThreadStatus] = []
    late = Late()
    with open_admin(store, cipher) as saver, progress("reading threads"), late.after(found):
        found.extend(saver.runs(state=state))
    _print(found, "There are no such threads.", as_json=as_json)
    late.end()


def stalled(
    *,
    older: Annotated[
        timedelta,
        typer.Option(
            parser=positive_duration, metavar="TIME", help="How long a thread has stored no step: 90s, 10m, 2h."
        ),
    ],
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the threads that have a step to do, and have stored none for a time. The exit code is 4 if there are any.

    Threads that wait for a person are not stalled.

    Example: langgraph-gcs stalled --older 10m --store file:///home/me/store
    """
    found: list[ThreadStatus] = []
    late = Late()
    with open_admin(store, cipher) as saver, progress("reading threads"), late.after(found):
        found.extend(one for one in saver.runs() if one.is_stalled(older))
    _print(found, "No thread is stalled.", as_json=as_json)
    late.end()
    if found:
        raise CommandError(f"{len(found)} stalled.", STALLED)


def answer(
    thread: ThreadArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The answer: JSON, or any other text as it is.")],
    *,
    text: Annotated[bool, typer.Option("--text", help="Take the answer as text, even if it is JSON.")] = False,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Identifies the answer. Given again, it is not stored again.")
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer the question of a thread that waits for a person. A worker (langgraph-gcs work) then resumes it.

    To answer several questions, give a JSON object from their ids to answers.

    Example: langgraph-gcs answer my-thread yes --store file:///home/me/store
    """
    with open_saver(store, cipher) as saver:
        try:
            is_new = saver.thread(thread).answer(value if text else _parsed(value), request_id=request_id)
        except InvalidInputError:
            # The attempt has left a lease, so the thread is judged by its checkpoints.
            if saver.thread(thread).status().state == "empty":
                raise no_thread(thread) from None
            raise
    if as_json:
        print_json({"thread_id": thread, "stored": is_new})
    else:
        what = "the answer is stored" if is_new else "the answer was stored before"
        console().print(plain(f"{thread}: {what}."), soft_wrap=True)


def _parsed(value: str) -> Any:
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return value if found is None else found


def _print(found: Sequence[ThreadStatus], none: str, *, as_json: bool) -> None:
    if as_json:
        print_json([shown(one) for one in found])
        return
    if not found:
        console().print(none)
        return
    table = table_of(
        "thread", "state", "step", "due", "since (UTC)", "holder", "asks", right=("step",), whole=("thread",)
    )
    for one in found:
        table.add_row(
            plain(one.thread_id),
            plain(one.state, _COLORS.get(one.state, "")),
            plain("" if one.step is None else str(one.step)),
            plain(", ".join(one.nodes)),
            plain(moment(one.since.timestamp()) if one.since else ""),
            plain("" if one.lease is None else one.lease.owner),
            plain("; ".join(_text(question.value) for question in one.questions)),
        )
    print_table(console(), table)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def shown(one: ThreadStatus) -> dict[str, Any]:
    """A thread's status as JSON: times in ISO 8601, and lengths of time in seconds."""
    fields = {**asdict(one), "questions": [{"id": q.id, "value": q.value} for q in one.questions]}
    for name in ("since", "stored"):
        fields[name] = None if fields[name] is None else fields[name].isoformat()
    for name in ("age", "idle", "lag"):
        fields[name] = None if fields[name] is None else fields[name].total_seconds()
    if one.lease is not None:
        times = {"since": one.lease.since.isoformat(), "last_beat": one.lease.last_beat.isoformat()}
        fields["lease"] = {**fields["lease"], **times}
    return fields
