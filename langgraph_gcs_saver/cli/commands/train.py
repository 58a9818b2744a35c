"""`langgraph-gcs train`: what a compression dictionary of the store's own would save."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from langgraph_gcs_saver.cli.commands.catalogue import size, table_of
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    progress,
)


def train(
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    sample: Annotated[int, typer.Option("--sample", min=1, metavar="N", help="Read at most N threads.")] = 2000,
    holdout: Annotated[
        float, typer.Option("--holdout", metavar="SHARE", help="The share of them to measure on, and not train from.")
    ] = 0.3,
    keep: Annotated[
        bool, typer.Option("--keep", help="Store the dictionary, and print its id for the option dictionary=.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what a compression dictionary, trained from the store's own threads, would save.

    It helps if many short threads have much in common, such as instructions or the form of tools' results. The bytes
    are those of threads that the dictionary was not trained from. If a dictionary saves less than 10 %, or there are
    too few threads, nothing is stored, and the exit code is 1. A dictionary contains text of the threads that it was
    trained from, and no deletion removes it.

    Example: langgraph-gcs train --sample 2000 --holdout 0.3
    """
    with open_admin(store, cipher) as saver, progress("reading threads"):
        found = saver.train(sample=sample, holdout=holdout, keep=keep)
    if as_json:
        print_json(asdict(found) | {"gain": found.total.gain})
    else:
        out = console()
        table = table_of(
            "kind", "stored", "with the dictionary", "saved", right=("stored", "with the dictionary", "saved")
        )
        for one in (*found.kinds, found.total):
            table.add_row(plain(one.kind), size(one.before), size(one.after), f"{one.gain:.1%}")
        if found.kinds and found.dictionary_bytes:
            print_table(out, table)
        if found.refusal is None:
            out.print(plain(f"{found}."), soft_wrap=True)
        if found.dictionary is not None:
            out.print(
                plain(f"It is stored. Savers with dictionary={found.dictionary!r} write with it."), soft_wrap=True
            )
    if found.refusal is not None:
        raise CommandError(found.refusal)
