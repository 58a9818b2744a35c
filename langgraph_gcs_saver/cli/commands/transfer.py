"""`pull`, `push`, `export` and `import`: copy a thread with all its history to another store or a file, and back."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.address import parse
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    StoreOption,
    ThreadArgument,
    YesOption,
    confirm,
    console,
    open_admin,
    plain,
    print_json,
    progress,
    store_named,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver import Transfer
    from langgraph_gcs_saver.saver.admin import Admin

DAMAGE = 4
"""Exit code if the copied thread is damaged, as its source is."""


def pull(
    thread: ThreadArgument,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store to read: gs://… or file://….")],
    target: Annotated[str | None, typer.Argument(metavar="TO", help="The store to write; --store's if not given.")] = (
        None
    ),
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a thread with all its history from another store, and compare both.

    The thread must be empty in the target store. The source does not change. If a pull is interrupted, run it again to
    continue. Encrypted threads are copied as they are. With --cipher, the copied values are also decoded.

    Example: langgraph-gcs pull my-thread "gs://my-bucket/agents?project=my-project" file:///home/me/store
    """
    _move(thread, source, target or _default(store), cipher, dry_run=dry_run, as_json=as_json)


def push(
    thread: ThreadArgument,
    first: Annotated[str, typer.Argument(metavar="FROM", help="The store to read; --store's if only TO is given.")],
    second: Annotated[str | None, typer.Argument(metavar="TO", help="The store to write: gs://… or file://….")] = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a thread with all its history to another store, and compare both.

    push works like pull, but if you give one store, it is the one to write.

    Example: langgraph-gcs push my-thread file:///home/me/store "gs://my-bucket/agents?project=my-project"
    """
    source, target = (_default(store), first) if second is None else (first, second)
    _move(thread, source, target, cipher, dry_run=dry_run, as_json=as_json)


def export(
    thread: ThreadArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write.")],
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a thread with all its history to one file, and read it back.

    The file is a tar archive, and appears when it is whole. If the file exists, export asks before it replaces it.

    Example: langgraph-gcs export my-thread my-thread.tar --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver:
        plan = _plan(thread, saver, saver)
        if dry_run:
            _show(plan, dry_run=True, as_json=as_json)
            return
        if os.path.lexists(file):
            confirm(f"{file} exists. Replace it?", yes=yes)
        with progress(f"exporting {thread}", plan.total) as bar:
            done = saver.export_thread(thread, file, progress=bar)
    _found(thread, done)
    if as_json:
        print_json({"file": str(file), "bytes_of_file": file.stat().st_size, **_as_json(done)})
        return
    out = console()
    out.print(plain(str(done)), soft_wrap=True)
    out.print(plain(f"Written to {file}: {file.stat().st_size:,} bytes, read again and compared."), soft_wrap=True)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A file that export wrote.")],
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_thread: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="THREAD", help="Another id for the thread. An encrypted thread needs its --cipher for that."
        ),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a thread that export wrote to a file, and compare it.

    The whole file is checked before anything is written, and nothing that it names is run. The thread must be empty in
    the store. With --as, pins and what repair has set aside are not imported, as in a copy.

    Example: langgraph-gcs import my-thread.tar --store file:///home/me/store --as debugged
    """
    if as_thread is None:
        with open_admin(store, cipher, may_create=True) as saver:
            plan = saver.import_thread(file, dry_run=True)
            if not dry_run:
                with progress(f"importing {file}", 2 * plan.total) as bar:
                    plan = saver.import_thread(file, progress=bar)
        _found(plan.thread_id, plan)
        _show(plan, dry_run=dry_run, as_json=as_json)
        return
    with (
        open_admin(store, cipher, may_create=True) as saver,
        tempfile.TemporaryDirectory(prefix="langgraph-gcs-import-") as folder,
        open_admin(Path(folder).as_uri(), cipher, may_create=True) as scratch,
    ):
        own = scratch.import_thread(file)
        _found(own.thread_id, own)
        if as_thread != own.thread_id:
            scratch.copy_thread(own.thread_id, as_thread)
        plan = _transfer(as_thread, scratch, saver, dry_run=dry_run)
    _show(plan, dry_run=dry_run, as_json=as_json)


def _default(store: str | None) -> str:
    uri = store_named(store)
    if not uri:
        raise CommandError("one store is missing: give FROM and TO, or --store URI as the other side.", 2)
    return uri


def _move(thread: str, source: str, target: str, cipher: str | None, *, dry_run: bool, as_json: bool) -> None:
    if parse(source) == parse(target):
        raise CommandError("both stores are the same. To copy a thread within a store, use copy.", 2)
    with open_admin(source, cipher) as reader, open_admin(target, cipher, may_create=True) as writer:
        done = _transfer(thread, reader, writer, dry_run=dry_run)
    _show(done, dry_run=dry_run, as_json=as_json)


def _plan(thread: str, reader: Admin, writer: Admin) -> Transfer:
    return _found(thread, reader.transfer_thread(thread, writer, dry_run=True))


def _found(thread: str, plan: Transfer) -> Transfer:
    if not plan:
        raise CommandError(f"there is no thread {thread!r} in the source.")
    return plan


def _transfer(thread: str, reader: Admin, writer: Admin, *, dry_run: bool) -> Transfer:
    plan = _plan(thread, reader, writer)
    if dry_run:
        return plan
    # Each document and object is copied once and compared once.
    with progress(f"moving {thread}", 2 * plan.total) as bar:
        return _found(thread, reader.transfer_thread(thread, writer, progress=bar))


def _as_json(done: Transfer) -> dict[str, Any]:
    told = asdict(done)
    return {**told, "findings": [{**one, "affects": list(one["affects"])} for one in told["findings"]]}


def _show(done: Transfer, *, dry_run: bool, as_json: bool) -> None:
    damage = [finding for finding in done.findings if finding.is_damage]
    if as_json:
        print_json({**_as_json(done), "dry_run": dry_run, "ok": not damage})
    else:
        out = console()
        out.print(plain(str(done)), soft_wrap=True)
        if dry_run:
            out.print(plain("Nothing was done."))
        else:
            was_there = f"; {done.present} of them were there already" if done.present else ""
            out.print(plain(f"Moved, read again and compared{was_there}."))
            if done.undecoded is not None:
                out.print(plain(f"Not decoded: {done.undecoded}"), soft_wrap=True)
            for finding in done.findings:
                out.print(plain(str(finding)), soft_wrap=True)
            if done.undecoded is None and not damage:
                out.print(plain("Every value was decoded: no damage."))
    if damage:
        raise CommandError(
            f"the thread is damaged, as it is in the source: {len(damage)} findings. repair may fix it.", DAMAGE
        )
