"""`langgraph-gcs edit`: change one channel of a checkpoint, in a new checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.cli.commands.checkpoint import (
    ID_HELP,
    LATEST,
    NamespaceOption,
    field,
    id_of,
    load,
    print_lines,
    recovery,
)
from langgraph_gcs_saver.cli.commands.diff import change_lines
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    indented_json,
    open_saver,
    plain,
    print_json,
    printable,
    progress,
)
from langgraph_gcs_saver.engine.files import Directory
from langgraph_gcs_saver.portable.diff import differences
from langgraph_gcs_saver.portable.edits import fork, value_of

_FILE = "value.json"
"""The file that the editor opens."""


def edit(
    thread: ThreadArgument,
    *,
    channel: Annotated[str, typer.Option("--channel", metavar="C", help="The channel to change.")],
    checkpoint: Annotated[
        str,
        typer.Option("--checkpoint", metavar="CHECKPOINT", help=ID_HELP),
    ] = LATEST,
    ns: NamespaceOption = "",
    value: Annotated[
        str | None, typer.Option("--set", metavar="JSON", help="The new value, instead of opening an editor.")
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change one channel's value in a new checkpoint, forked from the old one, which stays as it is.

    Opens $VISUAL or $EDITOR on the value as JSON. If you leave the file unchanged, nothing is written. An editor that
    returns at once needs an option to wait, such as EDITOR="code --wait". If the edit fails, what you typed is kept.

    The new checkpoint is the latest. To resume from it, run the graph on the thread with None as its input. The run
    begins with the nodes that would have run next. In an unfinished step, nodes that had finished run again, and
    interrupts ask again. To continue as if a node had written the value, use update_state of the graph instead.

    Objects in a value are JSON objects with $type and $value: change only $value. You can also add messages.

    Example: langgraph-gcs edit my-thread --channel plan --set '["read", "write"]' --store file:///home/me/store
    """
    with open_saver(store, cipher) as saver:
        with progress("reading"):
            saved = load(saver, thread, ns, checkpoint)
        old = value_of(saved, channel)
        with _new_value(old, value) as new:
            changes = differences(old, new)
            if changes:
                with progress("writing"):
                    latest = load(saver, thread, ns, LATEST)
                    now = datetime.now(timezone.utc)
                    made = fork(saved, latest, channel, new, next_version=saver.get_next_version, now=now)
                    if not dry_run:
                        saver.put(saved.config, made.checkpoint, made.metadata, made.new_versions)
    created = made.checkpoint["id"] if changes and not dry_run else None
    if as_json:
        print_json(
            {
                "thread_id": thread,
                "checkpoint_ns": ns,
                "channel": channel,
                "parent_checkpoint_id": id_of(saved),
                "checkpoint_id": created,
                "changed": bool(changes),
            }
        )
        return
    out = console()
    if not changes:
        out.print(plain("unchanged: nothing was written"), soft_wrap=True)
        return
    print_lines(
        out, [*recovery(saved), field("parent", id_of(saved)), field("checkpoint", created or "none: --dry-run")]
    )
    out.print(plain(channel, "bold"), soft_wrap=True)
    for change in changes:
        print_lines(out, change_lines(change))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where} is not JSON: {error}. Nothing was written.", 2) from error


def _refuse(name: str) -> Any:
    raise ValueError(f'{name} must be written as {{"$float": "nan"}} or the like')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


@contextmanager
def _new_value(old: Any, given: str | None) -> Iterator[Any]:
    """The new value: the one from `--set`, or the old value as changed in an editor.

    If the block fails, the edited file is kept, because it may be an hour's work.
    """
    if given is not None:
        yield portable.from_json(_parsed(given, "--set"))
        return
    editor = _editor()
    before = _text(portable.to_json(old))
    # Only its owner may enter the directory. Editors leave backups and swap files beside the file, and some replace the
    # file with one that others may read.
    with Directory.at(tempfile.mkdtemp(prefix="langgraph-gcs-")) as directory:
        try:
            with directory.create(_FILE) as file:
                file.write(before.encode())
            _run_editor(editor, Path(directory.path) / _FILE)
            yield portable.from_json(_parsed(_read(directory), "the edited file"))
        except BaseException:
            kept = _what_to_keep(directory, before)
            if kept is None:
                _remove(directory)
            else:
                print(f"langgraph-gcs: what you edited is kept in {printable(str(kept))}", file=sys.stderr)
            raise
        _remove(directory)


def _is_there(directory: Directory) -> bool:
    """Whether the directory is still where it was made. An editor may have removed it, or put something else there."""
    try:
        return os.path.samestat(os.lstat(directory.path), directory.status())
    except FileNotFoundError:
        return False


def _what_to_keep(directory: Directory, before: str) -> Path | None:
    """The file if it was changed; its directory if a crashed editor has left something there."""
    if not _is_there(directory):
        return None
    path = Path(directory.path)
    try:
        with directory.open(_FILE) as file:
            is_unchanged = file.read() == before.encode()
    except FileNotFoundError:
        is_unchanged = True
    except OSError:
        is_unchanged = False  # The editor replaced it with something else.
    if not is_unchanged:
        return path / _FILE
    return path if any(one.name != _FILE for one in path.iterdir()) else None


def _remove(directory: Directory) -> None:
    where = printable(directory.path)
    if not _is_there(directory):
        if os.path.lexists(directory.path):
            print(
                f"langgraph-gcs: the editor replaced {where} with something else, which is left as it is. The original "
                "directory holds the value in clear: find where it is now, and delete it yourself",
                file=sys.stderr,
            )
        return
    try:
        shutil.rmtree(directory.path)
    except FileNotFoundError:
        pass  # It has just been removed.
    except OSError as error:
        print(f"langgraph-gcs: {where} holds the value in clear; delete it yourself: {error.strerror}", file=sys.stderr)


def _read(directory: Directory) -> str:
    try:
        if not _is_there(directory):
            raise FileNotFoundError(errno.ENOENT, "its directory is gone, or was replaced", directory.path)
        with directory.open(_FILE) as file:
            return file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the edited file cannot be read: {error}. Nothing was written.") from error


def _text(value: Any) -> str:
    r"""JSON for an editor: text as people read it, but with characters that terminals act on as `\u001b`."""
    return "".join(f"{_escaped(line)}\n" for line in indented_json(value).split("\n"))


def _escaped(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _editor() -> list[str]:
    """The program and its arguments, as a shell would split them.

    Raises:
        CommandError: Neither variable is set, or a quote in it is not closed.
    """
    for name in ("VISUAL", "EDITOR"):
        command = os.environ.get(name, "")
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise CommandError(f"{name} is {command!r}: {error}.", 2) from error
        if words:
            return words
    raise CommandError("no editor: set VISUAL or EDITOR, or give --set JSON.", 2)


def _run_editor(editor: list[str], path: Path) -> None:
    # Ctrl-C belongs to the editor, which gets it from the terminal too. The signal gets a handler, because the editor
    # would inherit an ignored signal.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        ended = subprocess.run([*editor, str(path)], check=False)  # noqa: S603 - what the user chose
    except OSError as error:
        quotes = " A path with spaces needs quotes of its own." if len(editor) > 1 else ""
        raise CommandError(f"the editor {editor[0]!r} cannot be run: {error.strerror}.{quotes}", 2) from error
    finally:
        signal.signal(signal.SIGINT, before)
    if ended.returncode < 0:
        raise CommandError(f"the editor was ended by signal {-ended.returncode}. Nothing was written.")
    if ended.returncode:
        raise CommandError(f"the editor ended with {ended.returncode}. Nothing was written.")
