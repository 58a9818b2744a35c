"""`langgraph-gcs demo`: an agent is killed, resumed, asked, taken back in time and forked, and all of it is checked."""

from __future__ import annotations

from typing import Annotated

import typer

from langgraph_gcs_saver.cli.views.terminal import JsonOption, global_cipher, global_store

MAX_DOCUMENTS = 100
"""With those of the fork 110; the smallest standard library so far, 3.13's, has 130 modules with source."""


def demo(
    *,
    store: Annotated[
        str | None,
        # Not the environment's, which may be where real threads are.
        typer.Option("--store", metavar="URI", help="Play it there, and leave the thread: file://… or gs://…."),
    ] = None,
    cipher: Annotated[
        str | None, typer.Option("--cipher", metavar="MODULE:NAME", help="Encrypt what is stored with this cipher.")
    ] = None,
    documents: Annotated[
        int, typer.Option(min=5, max=MAX_DOCUMENTS, metavar="N", help="How many modules the agent reads.")
    ] = 50,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory and say where it is.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Let you answer the agent's questions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Kill an agent, resume it, approve its report and fork its past, on real documents.

    Without --store everything is in a temporary directory: LANGGRAPH_GCS_STORE and LANGGRAPH_GCS_CIPHER have no say. A
    gs:// store may be the emulators', named by FIRESTORE_EMULATOR_HOST and STORAGE_EMULATOR_HOST.

    Example: langgraph-gcs demo --documents 20
    """
    from langgraph_gcs_saver.cli.demo.play import play

    store = global_store.get() if store is None else store
    # Likewise; an empty one is none.
    cipher = (global_cipher.get() or "") if cipher is None else cipher
    play(store, cipher, documents, keep=keep, ask=ask, as_json=as_json)
