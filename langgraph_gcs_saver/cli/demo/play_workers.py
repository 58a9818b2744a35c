"""The demo's third story: a worker is stopped, another one takes its thread over, and the first one wakes up."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, cast

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.agent import SERDE
from langgraph_gcs_saver.cli.demo.child import Child, started
from langgraph_gcs_saver.cli.demo.stage import Stage
from langgraph_gcs_saver.cli.demo.turns import TTL, Fenced, Finished, Task, Turns, Waiting, build, work
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver
from langgraph_gcs_saver.errors import StoreUnavailableError

STEPS = 8
STOP_AT = 4

PROBE_SECONDS = 5
"""How long a write may take while a worker is stopped, before another moment is tried."""

STOPS = 5
"""How many moments are tried."""


_TOLD = {"finished": "finished it", "fenced": "could store nothing: put raised FencedError"}
"""How a worker ended, for people."""


@dataclass(frozen=True)
class Ended:
    """How a round of the story ended.

    Attributes:
        thread_id: The thread.
        ada: How the worker ended that was stopped: `finished` or `fenced`.
        bob: How the other one ended.
        done: The steps of the state, each with its worker, when Bob had finished.
        done_after: The same, when Ada had ended too.
        checkpoints: The ids of the checkpoints, newest first, when Bob had finished.
        checkpoints_after: The same, when Ada had ended too.
        forks: How many checkpoints have more than one child.
    """

    thread_id: str
    ada: str
    bob: str
    done: list[str]
    done_after: list[str]
    checkpoints: list[str]
    checkpoints_after: list[str]
    forks: int


def story(stage: Stage) -> dict[str, Any]:
    """Play the story, and narrate it. It returns what happened, with the statements of `proof`.

    Raises:
        CommandError: This system cannot stop processes.
    """
    if sys.platform == "win32":
        raise CommandError("Windows cannot stop a process and let it continue, so this story needs another system", 2)
    with open_saver(stage.store, stage.cipher, may_create=True, serde=SERDE) as saver:
        stage.say(f"Ada and Bob are workers. They run one thread of {STEPS} steps.")
        stage.say(f"SIGSTOP stops Ada in step {STOP_AT}, and Bob continues. Then Ada wakes up.")
        stage.say(f"store      {stage.store}")
        stage.act(1, "Without a lease")
        without = _round(stage, saver, leased=False)
        stage.act(2, "With a lease")
        leased = _round(stage, saver, leased=True)
        stage.act(3, "What happened")
        stage.say(f"Who took steps 1 to {STEPS} of the thread's state:")
        stage.say(f"  without a lease  {_workers(without)}")
        stage.say(f"  with a lease     {_workers(leased)}")
        proof = {
            "without a lease, Ada stored her steps too, and forked the thread": (
                (without.ada, without.forks) == ("finished", 1) and len(without.checkpoints_after) > STEPS + 2
            ),
            "with a lease, Bob took the thread over, and finished it": (
                leased.bob == "finished" and leased.done == _expected()
            ),
            "Ada found that she had lost the lease": leased.ada == "fenced",
            "Ada stored nothing after that": leased.checkpoints_after == leased.checkpoints,
            "each step is in the state once, and the thread has no fork": (
                leased.forks == 0 and leased.done_after == _expected()
            ),
        }
        stage.show(proof)
        return {
            "ok": all(proof.values()),
            "store": stage.store,
            "without": asdict(without),
            "leased": asdict(leased),
            "proof": proof,
        }


def _workers(ended: Ended) -> str:
    return " ".join(step.rpartition(" ")[2] for step in ended.done_after)


def _expected() -> list[str]:
    return [f"{number} by {'Ada' if number < STOP_AT else 'Bob'}" for number in range(1, STEPS + 1)]


def _round(stage: Stage, saver: GCSSaver, *, leased: bool) -> Ended:
    say, thread_id = stage.say, f"demo-{secrets.token_hex(4)}"
    start = Turns(steps=STEPS, done=[])

    def task(worker: str, **options: Any) -> Task:
        return Task(stage.store, stage.cipher, thread_id, worker, leased, **options)

    with started(work, task("Ada", start=start, stop_at=STOP_AT)) as ada:
        ada.report(Waiting)
        _stop(ada, stage, thread_id)
        say(f"Ada (process {ada.pid}) took {STOP_AT - 1} steps, and is stopped in the next one.")
        if leased:
            say(f"Bob waits until Ada's lease has expired, {TTL} seconds after her last beat.")
        with started(work, task("Bob")) as bob:
            bob_ended = _ended(bob)
            say(f"Bob (process {bob.pid}) continued the thread, and {_TOLD[bob_ended]}.")
        done, checkpoints = _done(saver, thread_id), _checkpoints(saver, thread_id)
        os.kill(ada.pid, signal.SIGCONT)
        ada.answer()
        ada_ended = _ended(ada)
        say(f"Ada woke up, and {_TOLD[ada_ended]}.")
    after = _checkpoints(saver, thread_id)
    children = Counter(after.values())
    return Ended(
        thread_id=thread_id,
        ada=ada_ended,
        bob=bob_ended,
        done=done,
        done_after=_done(saver, thread_id),
        checkpoints=list(checkpoints),
        checkpoints_after=list(after),
        forks=sum(count > 1 for count in children.values()),
    )


def _ended(child: Child) -> str:
    return type(child.report(Finished, Fenced)).__name__.lower()


def _stop(child: Child, stage: Stage, thread_id: str) -> None:
    """Stop a worker outside of a write: within one, it would hold the embedded store's lock, and stop every writer."""
    with open_saver(stage.store, stage.cipher, may_create=True, serde=SERDE, timeout=PROBE_SECONDS) as probe:
        for left in reversed(range(STOPS)):
            os.kill(child.pid, signal.SIGSTOP)
            try:
                probe.delete_thread(f"{thread_id}-probe")  # writes, and leaves nothing
            except StoreUnavailableError:
                if not left:
                    raise
                os.kill(child.pid, signal.SIGCONT)
            else:
                return


def _done(saver: GCSSaver, thread_id: str) -> list[str]:
    state = build(saver).get_state({"configurable": {"thread_id": thread_id}})
    return cast("list[str]", state.values["done"])


def _checkpoints(saver: GCSSaver, thread_id: str) -> dict[str, str | None]:
    return {one.checkpoint_id: one.parent_id for one in saver.admin.history(thread_id)}
