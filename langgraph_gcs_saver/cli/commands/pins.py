"""`langgraph-gcs pin` and `unpin`: keep a checkpoint from being pruned."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_gcs_saver.cli.commands.checkpoint import LATEST, CheckpointArgument, find_id
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    open_admin,
    plain,
    print_json,
)
from langgraph_gcs_saver.errors import InvalidConfigError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

NamespaceOption = Annotated[
    str, typer.Option("--ns", metavar="NS", help="The namespace of a subgraph; the root's if not given.")
]


def pin(
    thread: ThreadArgument,
    checkpoint: CheckpointArgument,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the checkpoint is kept for.")],
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    ns: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Keep a checkpoint from being pruned.

    A sweep does not delete its thread either. A second pin replaces the label of the first.

    Example: langgraph-gcs pin my-thread 1f0c4a5e-9d1e-6f3a-8003-5b2c7d410e66 "before the migration"
    """
    pinned = _set(store, cipher, thread=thread, checkpoint=checkpoint, ns=ns, label=label)
    _print(thread, pinned, ns, label, as_json=as_json)


def unpin(
    thread: ThreadArgument,
    checkpoint: CheckpointArgument,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    ns: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove a checkpoint's pin, if it has one.

    Example: langgraph-gcs unpin my-thread 1f0c4a5e-9d1e-6f3a-8003-5b2c7d410e66
    """
    unpinned = _set(store, cipher, thread=thread, checkpoint=checkpoint, ns=ns, label=None)
    _print(thread, unpinned, ns, None, as_json=as_json)


def _set(store: str | None, cipher: str | None, *, thread: str, checkpoint: str, ns: str, label: str | None) -> str:
    """Set or remove the pin of the named checkpoint. Returns the checkpoint's id."""

    def act(checkpoint_id: str) -> str:
        ids = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        config: RunnableConfig = {"configurable": ids}
        if label is None:
            saver.unpin(config)
        else:
            saver.pin(config, label)
        return checkpoint_id

    with open_admin(store, cipher) as saver:
        if checkpoint != LATEST:
            # List all ids only now, because a database counts each as a read.
            with suppress(InvalidConfigError):
                return act(checkpoint)
        found = find_id(saver, thread, ns, checkpoint)
        try:
            return act(found)
        except InvalidConfigError:
            raise CommandError(f"checkpoint {found!r} of thread {thread!r} has just been deleted.") from None


def _print(thread: str, checkpoint: str, ns: str, label: str | None, *, as_json: bool) -> None:
    if as_json:
        found = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint, "label": label}
        print_json(found)
    elif label is None:
        console().print(plain(f"{checkpoint} has no pin."), soft_wrap=True)
    else:
        console().print(plain(f"{checkpoint} is pinned: {label}"), soft_wrap=True)
