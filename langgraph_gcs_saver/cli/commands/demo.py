"""`langgraph-gcs demo`: stories about crashes, each of which checks all that it claims."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.views.terminal import CommandError, JsonOption, global_cipher, global_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph_gcs_saver.cli.demo.stage import Stage

DOCUMENTS = 50

MAX_DOCUMENTS = 100
"""With the modules that the fork reads, 110. The smallest standard library so far, 3.13's, has source for 130."""


class Story(str, Enum):
    """What the demo can play."""

    RESUME = "resume"
    ONCE = "once"
    WORKERS = "workers"
    TEAM = "team"
    SAGA = "saga"
    REGIONS = "regions"


def demo(
    story: Annotated[Story, typer.Argument(metavar="STORY", help="What to play.")] = Story.RESUME,
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
        int | None,
        typer.Option(
            min=10,
            max=MAX_DOCUMENTS,
            metavar="N",
            help=f"How many modules the agent reads, in the story resume: {DOCUMENTS} by default.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory and print its path.")] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="Answer the agent's questions yourself, in the story resume.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Play a story about crashes, and check all that it claims.

    resume, the default: an agent reads real documents. It is killed, gets SIGTERM, and reaches its limit of memory.
    The same line resumes it in another process. Then it waits for a person, and a worker finishes it. Its state is
    compared with that of a run that nothing disturbed, and its past is forked.

    once: an agent charges a card and sends an e-mail, by a fake provider that counts. It is killed before, during and
    after each, and the counts stay one.

    workers: a worker is stopped in the middle of a step, and another one takes its thread over. The first one wakes up,
    and can store nothing.

    team: three agents work in three processes. A coordinator and an agent are killed while a consistent set of their
    checkpoints is prepared. Then all three go back to the set, while they run.

    saga: an agent books a trip, and the payment fails. What it booked is undone, by processes that are killed in the
    middle of that.

    regions: an agent works on 50 items in one region, which is lost after 20. A worker that stands by in the other
    region finishes them there. Then the first region comes back, is fenced, and stores nothing.

    The demo ignores LANGGRAPH_GCS_STORE and LANGGRAPH_GCS_CIPHER. Without --store, everything is in a temporary
    directory. A gs:// store may be the emulators', named by FIRESTORE_EMULATOR_HOST and STORAGE_EMULATOR_HOST.

    Example: langgraph-gcs demo once
    """
    store = global_store.get() if store is None else store
    # Not from the environment either. An empty name means no cipher.
    cipher = (global_cipher.get() or "") if cipher is None else cipher
    if story is not Story.RESUME and (ask or documents is not None):
        raise CommandError(f"--ask and --documents are options of the story resume, not of {story.value}", 2)
    if story is Story.RESUME:
        from langgraph_gcs_saver.cli.demo.play import play

        play(store, cipher, DOCUMENTS if documents is None else documents, keep=keep, ask=ask, as_json=as_json)
        return
    from langgraph_gcs_saver.cli.demo.stage import present

    present(_played(story), store, cipher, keep=keep, as_json=as_json)


def _played(story: Story) -> Callable[[Stage], dict[str, Any]]:
    """The function that plays a story."""
    match story:
        case Story.ONCE:
            from langgraph_gcs_saver.cli.demo.play_once import story as played
        case Story.WORKERS:
            from langgraph_gcs_saver.cli.demo.play_workers import story as played
        case Story.TEAM:
            from langgraph_gcs_saver.cli.demo.play_team import story as played
        case Story.SAGA:
            from langgraph_gcs_saver.cli.demo.play_saga import story as played
        case _:
            from langgraph_gcs_saver.cli.demo.play_regions import story as played
    return played
