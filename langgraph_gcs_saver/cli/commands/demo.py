"""`langgraph-gcs demo`: kill an agent, resume it, answer its question, fork its past, and check all of it."""

from __future__ import annotations

from typing import Annotated

import typer

from langgraph_gcs_saver.cli.views.terminal import JsonOption, global_cipher, global_store

MAX_DOCUMENTS = 100
"""With the modules that the fork reads, 110. The smallest standard library so far, 3.13's, has source for 130."""


def demo(
    *,
    store: Annotated[
        str | None,
        # Not from the environment, which may name a store of real threads.
        typer.Option("--store", metavar="URI", help="Play it in this store, and keep the thread: file://… or gs://…."),
    ] = None,
    cipher: Annotated[
        str | None, typer.Option("--cipher", metavar="MODULE:NAME", help="Encrypt what is stored with this cipher.")
    ] = None,
    documents: Annotated[
        int, typer.Option(min=5, max=MAX_DOCUMENTS, metavar="N", help="How many modules the agent reads.")
    ] = 50,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory and print its path.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Answer the agent's questions yourself.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Kill an agent, resume it, approve its report and fork its past, on real documents.

    The demo ignores LANGGRAPH_GCS_STORE and LANGGRAPH_GCS_CIPHER. Without --store, everything is in a temporary
    directory. A gs:// store may be the emulators', named by FIRESTORE_EMULATOR_HOST and STORAGE_EMULATOR_HOST.

    Example: langgraph-gcs demo --documents 20
    """
    from langgraph_gcs_saver.cli.demo.play import play

    store = global_store.get() if store is None else store
    # Not from the environment either. An empty name means no cipher.
    cipher = (global_cipher.get() or "") if cipher is None else cipher
    play(store, cipher, documents, keep=keep, ask=ask, as_json=as_json)
