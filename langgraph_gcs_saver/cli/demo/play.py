"""What `langgraph-gcs demo` plays: kill an agent, resume it, answer its question, fork its past, and check it all."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langgraph.types import StateSnapshot
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langgraph_gcs_saver import SetupReport
from langgraph_gcs_saver.cli.demo.agent import RANKINGS, SERDE, Agent, build, modules, thread_config
from langgraph_gcs_saver.cli.demo.history import checkpoint_id, rows, short, table
from langgraph_gcs_saver.cli.demo.process import Ended, Reading, Tally, Task, entries, run_process
from langgraph_gcs_saver.cli.demo.stage import Stage, ending, present, was_killed
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver, plain, printable


def play(store: str | None, cipher: str, documents: int, *, keep: bool, ask: bool, as_json: bool) -> None:
    """Play the demo, narrate it, and check what it claims.

    Args:
        store: Connection string; a temporary directory if not given.
        cipher: As `--cipher` names it; empty for none.
        documents: How many modules the agent reads.
        keep: Whether a temporary directory stays.
        ask: Whether a person answers the agent's questions.
        as_json: Whether to print one JSON document and nothing else.

    Raises:
        CommandError: A claim of the demo is not true.
    """

    def story(stage: Stage) -> dict[str, Any]:
        return _Demo(_Plot.of(stage.store, stage.cipher, stage.folder / "ledger.txt", documents), stage, ask=ask).run()

    present(story, store, cipher, keep=keep, as_json=as_json)


@dataclass(frozen=True)
class _Plot:
    """What will happen, and where.

    Attributes:
        store: Connection string.
        cipher: As `--cipher` names it; empty for none.
        ledger: The file that counts what was read.
        thread_id: The id of a new thread.
        queue: The documents to read.
        instead: The documents that the fork reads in place of the rest at `fork_at`; none is in `queue`.
        kill_after: How many documents are checkpointed when the first process is killed.
        fork_at: How many documents are read at the checkpoint where the fork begins.
    """

    store: str
    cipher: str
    ledger: Path
    thread_id: str
    queue: list[str]
    instead: list[str]
    kill_after: int
    fork_at: int

    @classmethod
    def of(cls, store: str, cipher: str, ledger: Path, documents: int) -> _Plot:
        more = max(1, documents // 10)
        found = modules(documents + more)
        if len(found) < documents + more:
            raise CommandError(
                f"the standard library in {sys.prefix} has source for {len(found)} modules, not {documents + more}; "
                "use fewer --documents, or another Python",
                2,
            )
        return cls(
            store=store,
            cipher=cipher,
            ledger=ledger,
            thread_id=f"demo-{secrets.token_hex(4)}",
            queue=found[:documents],
            instead=found[documents:],
            kill_after=documents * 2 // 5,
            fork_at=documents // 5,
        )


class _Demo:
    """Plays the plot and narrates it. It reads the thread in this process, and runs the agent only in others."""

    def __init__(self, plot: _Plot, stage: Stage, *, ask: bool) -> None:
        self._plot = plot
        self._console = stage.console
        self._say, self._act = stage.say, stage.act
        self._show_proof = stage.show
        self._ask = ask
        self._config = thread_config(plot.thread_id)
        self._tally = Tally()

    def run(self) -> dict[str, Any]:
        """Play all of it. Returns what happened, with the statements of `proof` that a caller should check."""
        with open_saver(
            self._plot.store, self._plot.cipher, may_create=True, serde=SERDE, on_event=self._tally
        ) as saver:
            # setup() prints missing permissions, but standard output may be for JSON only.
            with redirect_stdout(sys.stderr):
                report = saver.setup()
            return self._run(build(saver), report)

    def _run(self, agent: Agent, report: SetupReport) -> dict[str, Any]:
        plot, say = self._plot, self._say
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        say(f"langgraph-gcs-saver {version('langgraph-gcs-saver')}: an agent reads {len(plot.queue)} modules of")
        say(f"{python}'s standard library, one step each, and keeps what it found.")
        say(f"store      {plot.store}")
        for sentence in report.done:
            say(f"           {sentence}", "dim")
        say(f"thread     {plot.thread_id}")

        self._act(1, f"A process reads, and is killed after document {plot.kill_after}")
        start = {"queue": plot.queue, "rank_by": "lines", "findings": []}
        killed = self._read(plot.queue, 0, start=start, halt_before=plot.kill_after + 1)
        at_kill = agent.get_state(self._config)
        durable = len(at_kill.values["findings"])
        say(f"Process {killed.pid} ended: {ending(killed.returncode)}.")
        say(f"The store holds the findings of {durable} documents.")
        say("(For an exact count, it was killed at the start of a step, which runs again.)", "dim")

        self._act(2, f"A new process resumes the thread at document {plot.kill_after + 1}")
        resumed = self._read(plot.queue, plot.kill_after)
        say(f"Process {resumed.pid} read {_span(resumed.read)}, and asked a human.")

        self._act(3, "A human approves, another process continues with Command(resume=...)")
        approval = self._approve(agent)
        original = agent.get_state(self._config)
        self._show_report(original)

        self._act(4, f"Back in time to document {plot.fork_at}, for a fork")
        target = next(
            snapshot
            for snapshot in agent.get_state_history(self._config)
            if len(snapshot.values.get("findings", ())) == plot.fork_at
        )
        queue = plot.queue[: plot.fork_at] + plot.instead
        change = {"queue": queue, "rank_by": "longest_lines"}
        forked = agent.get_state(agent.update_state(target.config, change, as_node="read"))
        say(
            f"update_state at checkpoint {short(checkpoint_id(target))}: {len(plot.instead)} other documents instead of"
        )
        say(f"the {len(plot.queue) - plot.fork_at} that were left, and ranked {RANKINGS['longest_lines']}.")
        in_fork = self._read(queue, plot.fork_at)
        say(f"Process {in_fork.pid} read {_span(in_fork.read)}, then asked again.")
        fork_approval = self._approve(agent)
        head = agent.get_state(self._config)
        self._show_report(head)

        history = rows(agent.get_state_history(self._config))
        read = [name for _, name in entries(plot.ledger)]
        twice = sorted(name for name, count in Counter(read).items() if count > 1)
        parents = {row.checkpoint_id: row.parent_checkpoint_id for row in history}
        proof = {
            "the first process was killed": was_killed(killed.returncode),
            f"exactly {plot.kill_after} documents were durable when it was killed": durable == plot.kill_after,
            f"the next one resumed at document {plot.kill_after + 1}": resumed.read == plot.queue[plot.kill_after :],
            "every document was read, in order, none twice": read == plot.queue + plot.instead,
            "the fork's parent is the checkpoint that it goes back to": (
                parents[checkpoint_id(forked)] == checkpoint_id(target)
            ),
            "the fork has what was read before it and what it read": (
                [finding["module"] for finding in head.values["findings"]] == queue
            ),
            "the original branch is unchanged": agent.get_state(original.config).values == original.values,
        }
        notes = {
            checkpoint_id(head): "end of the fork",
            checkpoint_id(forked): "the fork",
            checkpoint_id(original): "end of the original",
            checkpoint_id(at_kill): "SIGKILL, resumed",
            checkpoint_id(target): "went back to this",
        }
        self._act(5, "The thread's history, newest first")
        self._console.print(table(history, notes))
        self._show_proof(proof)
        say(f"documents  {len(plot.queue)} read, and {len(in_fork.read)} in the fork; read twice: {len(twice)}")
        say(f"stored     {len(history)} checkpoints, {self._tally.stored_bytes:,} bytes of state")
        return {
            "ok": all(proof.values()),
            "store": plot.store,
            "thread_id": plot.thread_id,
            "documents": len(plot.queue),
            "killed": asdict(killed) | {"durable": durable, "checkpoint_id": checkpoint_id(at_kill)},
            "resumed": asdict(resumed),
            "approval": approval,
            "original": {"checkpoint_id": checkpoint_id(original), "report": original.values.get("report")},
            "fork": {
                "checkpoint_id": checkpoint_id(forked),
                "parent_checkpoint_id": checkpoint_id(target),
                "parent_documents": plot.fork_at,
                "process": asdict(in_fork),
                "approval": fork_approval,
                "head_checkpoint_id": checkpoint_id(head),
                "report": head.values.get("report"),
            },
            "ledger": read,
            "read_twice": twice,
            "checkpoints": len(history),
            "stored_bytes": self._tally.stored_bytes,
            "history": [asdict(row) for row in history],
            "proof": proof,
        }

    def _read(self, queue: list[str], done: int, **how: Any) -> Ended:
        """Run the agent in a new process while a progress bar shows what is durable."""
        columns = (TextColumn("{task.description:12}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            bar = progress.add_task("starting", total=len(queue), completed=done)

            def on_reading(message: Reading) -> None:
                progress.update(bar, completed=message.number - 1, description=message.name)

            ended = self._run_process(on_reading, **how)
            if ended.returncode == 0:
                progress.update(bar, completed=len(queue), description="done")
            else:
                progress.update(bar, description="killed")
        return ended

    def _approve(self, agent: Agent) -> dict[str, Any]:
        """Show the pending question, have it answered, and run the agent in a new process with the answer."""
        question = agent.get_state(self._config).interrupts[0].value
        self._say(f"The agent asks: {question['question']}")
        self._say(f"  first: {', '.join(question['top'])}")
        if self._ask:
            answer = _ask(question["question"])
        else:
            answer = "yes"
            self._say("  yes (automatic; with --ask, you answer)")
        ended = self._run_process(lambda _: None, answer=answer)
        self._say(f"Process {ended.pid} resumed with {answer!r}.")
        return {"question": question["question"], "answer": answer, "process": asdict(ended)}

    def _run_process(self, on_reading: Callable[[Reading], None], **how: Any) -> Ended:
        plot = self._plot
        task = Task(store=plot.store, cipher=plot.cipher, thread_id=plot.thread_id, ledger=plot.ledger, **how)
        ended = run_process(task, on_reading)
        self._tally.stored_bytes += ended.stored_bytes
        return ended

    def _show_report(self, state: StateSnapshot) -> None:
        for line in (state.values.get("report") or "Not published.").splitlines()[:4]:
            self._console.print(plain(f"  {line}"), no_wrap=True, overflow="ellipsis")


def _ask(question: str) -> str:
    """The human's `yes` or `no`. Asked on standard error, because typer's prompts write a blank to standard output."""
    while True:
        print(f"{printable(question)} [Y/n] ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise CommandError("no answer: standard input has ended")
        answer = line.strip().lower() or "yes"
        if answer in {"y", "yes", "n", "no"}:
            return "yes" if answer.startswith("y") else "no"


def _span(names: list[str]) -> str:
    return f"{len(names)} documents, {names[0]} to {names[-1]}" if names else "nothing"
