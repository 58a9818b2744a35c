"""What `langgraph-gcs demo` plays: end an agent in many ways, resume it, answer it, fork its past, and check it all."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from langgraph_gcs_saver import GCSSaver, SetupReport
from langgraph_gcs_saver.cli.commands.work import STOPPED
from langgraph_gcs_saver.cli.demo.agent import RANKINGS, SERDE, Agent, build, modules, thread_config
from langgraph_gcs_saver.cli.demo.history import Row, checkpoint_id, rows, short, table
from langgraph_gcs_saver.cli.demo.process import (
    SAYS_MEMORY,
    TAKES_SIGTERM,
    Ended,
    Reading,
    Tally,
    Task,
    entries,
    run_process,
)
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
        return _Demo(_Plot.of(stage.store, stage.cipher, stage.folder, documents), stage, ask=ask).run()

    present(story, store, cipher, keep=keep, as_json=as_json)


@dataclass(frozen=True)
class _Plot:
    """What will happen, and where.

    Attributes:
        store: Connection string.
        cipher: As `--cipher` names it; empty for none.
        folder: Where the files are that count what was read.
        thread_id: The id of a new thread.
        queue: The documents to read.
        instead: The documents that the fork reads in place of the rest at `fork_at`; none is in `queue`.
        kill_after: How many documents are checkpointed when the first process is killed.
        stop_after: How many documents are checkpointed when the second process has ended.
        fork_at: How many documents are read at the checkpoint where the fork begins.
    """

    store: str
    cipher: str
    folder: Path
    thread_id: str
    queue: list[str]
    instead: list[str]
    kill_after: int
    stop_after: int
    fork_at: int

    @classmethod
    def of(cls, store: str, cipher: str, folder: Path, documents: int) -> _Plot:
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
            folder=folder,
            thread_id=f"demo-{secrets.token_hex(4)}",
            queue=found[:documents],
            instead=found[documents:],
            kill_after=documents * 2 // 5,
            stop_after=documents // 2,
            fork_at=documents // 5,
        )


class _Demo:
    """Plays the plot and narrates it. It reads the threads in this process, and runs the agent only in others."""

    def __init__(self, plot: _Plot, stage: Stage, *, ask: bool) -> None:
        self.plot = plot
        self._stage = stage
        self._console = stage.console
        self._say = stage.say
        self._ask = ask
        self._tally = Tally()
        self._acts = 0

    def run(self) -> dict[str, Any]:
        """Play all of it. Returns what happened, with the statements of `proof` that a caller should check."""
        with open_saver(self.plot.store, self.plot.cipher, may_create=True, serde=SERDE, on_event=self._tally) as saver:
            # setup() prints missing permissions, but standard output may be for JSON only.
            with redirect_stdout(sys.stderr):
                report = saver.setup()
            return self._run(saver, report)

    def _run(self, saver: GCSSaver, report: SetupReport) -> dict[str, Any]:
        plot, say = self.plot, self._say
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        say(f"langgraph-gcs-saver {version('langgraph-gcs-saver')}: an agent reads {len(plot.queue)} modules of")
        say(f"{python}'s standard library, one step each, and keeps what it found.")
        say("Each of its processes makes the same call: run(graph, inputs, config,")
        say("request_id=..., policy=...)")
        say(f"store      {plot.store}")
        for sentence in report.done:
            say(f"           {sentence}", "dim")
        say(f"thread     {plot.thread_id}")

        thread = _Thread(self, saver, plot.thread_id, plot.queue)
        killed, at_kill = self._kill(thread)
        drained = [how(thread) for how in self._ways_to_drain()]
        last = self._wait(thread)
        approval = self._approve(thread)
        answered = self._answer(thread, approval["answer"])
        worker = self._recover(thread)
        original = thread.state()
        self._show_report(original)
        fork = self._fork(thread)
        alone = self._undisturbed(saver, approval["answer"])

        history = rows(thread.agent.get_state_history(thread.config))
        after = next(one for one in (*drained, last) if one.how != "killed")
        parents = {row.checkpoint_id: row.parent_checkpoint_id for row in history}
        target, forked, head = fork.target, fork.forked, fork.head
        read = [name for _, name in entries(thread.ledger)]
        repeated = sorted(name for name, count in Counter(read).items() if count > 1)
        steps = [_step(row) for row in history if row.checkpoint_id in _line(parents, checkpoint_id(original))]
        steps_alone = [_step(row) for row in rows(alone.agent.get_state_history(alone.config))]
        digest, digest_alone = _digest(original), _digest(alone.state())
        unread = plot.queue[plot.kill_after :]
        proof = {
            f"kill -9 left exactly {plot.kill_after} documents stored": (
                was_killed(killed.returncode) and len(at_kill.values["findings"]) == plot.kill_after
            ),
            f"the same line resumed at document {plot.kill_after + 1}": after.read == unread[: len(after.read)] != [],
            **{
                f"{name}: the step was stored before the process ended with {STOPPED}": (
                    (one.how, one.returncode) == ("drained", STOPPED)
                )
                for name, one in zip(("SIGTERM", "memory limit"), drained, strict=False)
            },
            "the answer was stored by a process that ran nothing": (
                (last.how, answered.how, answered.read) == ("waiting", "answered", [])
            ),
            "a worker found the thread, and finished it": worker.how == "finished" and original.next == (),
            "every document was read once, but the one whose step was killed": (
                repeated == [plot.queue[plot.kill_after]]
                and list(dict.fromkeys(read)) == plot.queue + plot.instead
                and len(read) == len(plot.queue) + len(plot.instead) + 1
            ),
            "the state is that of a run that nothing disturbed": digest == digest_alone,
            "so are the steps": steps == steps_alone,
            "the fork's parent is the checkpoint that it goes back to": (
                parents[checkpoint_id(forked)] == checkpoint_id(target)
            ),
            "the fork has what was read before it and what it read": (
                [finding["module"] for finding in head.values["findings"]] == plot.queue[: plot.fork_at] + plot.instead
            ),
            "the original branch is unchanged": thread.agent.get_state(original.config).values == original.values,
        }
        notes = {
            checkpoint_id(head): "end of the fork",
            checkpoint_id(forked): "the fork",
            checkpoint_id(original): "end of the original",
            checkpoint_id(at_kill): "SIGKILL, resumed",
            checkpoint_id(target): "went back to this",
        }
        self._act("The thread's history, newest first")
        self._console.print(table(history, notes))
        self._act("What each process did")
        self._console.print(_processes(thread.ended))
        self._stage.show(proof)
        say(f"state      sha256 {digest} after {len(thread.ended)} processes")
        say(f"           sha256 {digest_alone} in a run that nothing disturbed")
        say(f"documents  {len(plot.queue)} read, and {len(fork.process.read)} in the fork; read twice: {len(repeated)}")
        say(f"stored     {len(history)} checkpoints, {self._tally.stored_bytes:,} bytes of state")
        return {
            "ok": all(proof.values()),
            "store": plot.store,
            "thread_id": plot.thread_id,
            "documents": len(plot.queue),
            "killed": asdict(killed)
            | {"durable": len(at_kill.values["findings"]), "checkpoint_id": checkpoint_id(at_kill)},
            "drained": [asdict(one) for one in drained],
            "waiting": asdict(last),
            "approval": approval | {"process": asdict(answered)},
            "worker": asdict(worker),
            "original": {
                "checkpoint_id": checkpoint_id(original),
                "digest": digest,
                "report": original.values.get("report"),
            },
            "undisturbed": {"thread_id": alone.id, "digest": digest_alone, "checkpoints": len(steps_alone)},
            "fork": {
                "checkpoint_id": checkpoint_id(forked),
                "parent_checkpoint_id": checkpoint_id(target),
                "parent_documents": plot.fork_at,
                "process": asdict(fork.process),
                "approval": fork.approval,
                "head_checkpoint_id": checkpoint_id(head),
                "report": head.values.get("report"),
            },
            "processes": [asdict(one) for one in thread.ended],
            "ledger": read,
            "read_twice": repeated,
            "checkpoints": len(history),
            "stored_bytes": self._tally.stored_bytes,
            "history": [asdict(row) for row in history],
            "proof": proof,
        }

    # The acts

    def _act(self, title: str) -> None:
        self._acts += 1
        self._stage.act(self._acts, title)

    def _kill(self, thread: _Thread) -> tuple[Ended, StateSnapshot]:
        number = self.plot.kill_after + 1
        self._act(f"kill -9 while the agent reads document {number}")
        killed = thread.run(halt_at=number)
        found = thread.state()
        self._say(f"Process {killed.pid} ended: {ending(killed.returncode)}.")
        self._say(f"The store holds the findings of {len(found.values['findings'])} documents.")
        return killed, found

    def _ways_to_drain(self) -> list[Callable[[_Thread], Ended]]:
        """The ways that this system has to ask a process to end, or to limit it."""
        ways = ((TAKES_SIGTERM, self._terminate), (SAYS_MEMORY, self._leak))
        return [way for is_there, way in ways if is_there]

    def _terminate(self, thread: _Thread) -> Ended:
        number = self.plot.stop_after
        self._act(f"The same line resumes it, and SIGTERM comes at document {number}")
        return self._say_drained(thread, thread.run(halt_at=number, at_halt="terminate"))

    def _leak(self, thread: _Thread) -> Ended:
        self._act("The same line, in a process that leaks and has a limit of memory")
        return self._say_drained(thread, thread.run(leaks=True))

    def _say_drained(self, thread: _Thread, ended: Ended) -> Ended:
        self._say(f"Process {ended.pid} read {_span(ended.read)}.")
        self._say(f"{ended.reason} So it stored its step, and ended:")
        self._say(f"{ending(ended.returncode)}. The thread is {thread.status()}.")
        return ended

    def _wait(self, thread: _Thread) -> Ended:
        self._act("The same line reads the rest, and the agent asks a person")
        ended = thread.run()
        self._say(f"Process {ended.pid} read {_span(ended.read)}.")
        self._say(f"It ended: {ending(ended.returncode)}. The thread is {thread.status()}.")
        return ended

    def _answer(self, thread: _Thread, answer: str) -> Ended:
        ended = thread.process(role="answer", answer=answer)
        self._say(f"Process {ended.pid} stored {answer!r}, and ran nothing. The thread is {thread.status()}.")
        return ended

    def _recover(self, thread: _Thread) -> Ended:
        self._act("A worker looks for work")
        ended = thread.process(role="recover")
        self._say(f"Process {ended.pid} found the thread, and resumed it. The thread is {thread.status()}.")
        return ended

    def _fork(self, thread: _Thread) -> _Fork:
        plot, say, agent = self.plot, self._say, thread.agent
        self._act(f"Back in time to document {plot.fork_at}, for a fork")
        target = next(
            snapshot
            for snapshot in agent.get_state_history(thread.config)
            if len(snapshot.values.get("findings", ())) == plot.fork_at
        )
        thread.queue = plot.queue[: plot.fork_at] + plot.instead
        change = {"queue": thread.queue, "rank_by": "longest_lines"}
        forked = agent.get_state(agent.update_state(target.config, change, as_node="read"))
        say(
            f"update_state at checkpoint {short(checkpoint_id(target))}: {len(plot.instead)} other documents instead of"
        )
        say(f"the {len(plot.queue) - plot.fork_at} that were left, and ranked {RANKINGS['longest_lines']}.")
        ended = thread.run(inputs=None, request_id=None)
        say(f"Process {ended.pid} read {_span(ended.read)}, then asked again.")
        approval = self._approve(thread)
        answered = thread.process(answer=approval["answer"], request_id=f"{thread.id}-fork")
        say(f"Process {answered.pid} resumed with {approval['answer']!r}.")
        head = thread.state()
        self._show_report(head)
        return _Fork(target, forked, head, ended, approval | {"process": asdict(answered)})

    def _undisturbed(self, saver: GCSSaver, answer: str) -> _Thread:
        self._act("For comparison, another thread that nothing disturbs")
        thread = _Thread(self, saver, f"{self.plot.thread_id}-undisturbed", self.plot.queue)
        thread.run()
        thread.process(answer=answer, request_id=f"{thread.id}-answer")
        return thread

    # What the acts share

    def read(self, task: Task, number: int, done: int, at_halt: Literal["kill", "terminate"]) -> Ended:
        """Run the agent in a new process while a progress bar shows what is durable."""
        columns = (TextColumn("{task.description:12}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            bar = progress.add_task("starting", total=number, completed=done)

            def on_reading(message: Reading) -> None:
                progress.update(bar, completed=message.number - 1, description=message.name)

            ended = self.process(task, on_reading, at_halt)
            durable = done + len(ended.read) - (ended.how == "killed")
            progress.update(bar, completed=durable, description=ended.how)
        return ended

    def process(
        self,
        task: Task,
        on_reading: Callable[[Reading], None] = lambda _: None,
        at_halt: Literal["kill", "terminate"] = "kill",
    ) -> Ended:
        """Run a process."""
        ended = run_process(task, on_reading, at_halt)
        self._tally.stored_bytes += ended.stored_bytes
        return ended

    def _approve(self, thread: _Thread) -> dict[str, Any]:
        """Show the pending question, and get the answer."""
        question = thread.state().interrupts[0].value
        self._say(f"The agent asks: {question['question']}")
        self._say(f"  first: {', '.join(question['top'])}")
        if self._ask:
            answer = _ask(question["question"])
        else:
            answer = "yes"
            self._say("  yes (automatic; with --ask, you answer)")
        return {"question": question["question"], "answer": answer}

    def _show_report(self, state: StateSnapshot) -> None:
        for line in (state.values.get("report") or "Not published.").splitlines()[:4]:
            self._console.print(plain(f"  {line}"), no_wrap=True, overflow="ellipsis")


@dataclass
class _Thread:
    """A thread of the story, and the processes that have worked on it."""

    demo: _Demo
    saver: GCSSaver
    id: str
    queue: list[str]
    ended: list[Ended] = field(default_factory=list)

    @property
    def agent(self) -> Agent:
        return build(self.saver, self.id)

    @property
    def config(self) -> RunnableConfig:
        return thread_config(self.id)

    @property
    def ledger(self) -> Path:
        """The file that counts what was read."""
        return self.demo.plot.folder / f"{self.id}.ledger"

    def state(self) -> StateSnapshot:
        return self.agent.get_state(self.config)

    def status(self) -> str:
        """What the thread is doing."""
        return self.saver.thread(self.id).status().state

    def run(self, *, at_halt: Literal["kill", "terminate"] = "kill", **how: Any) -> Ended:
        """Make the same call as every time, in a new process, with a progress bar."""
        inputs = {"queue": self.queue, "rank_by": "lines", "findings": []}
        task = self._task({"inputs": inputs, "request_id": f"{self.id}-request"} | how)
        done = len(self.state().values.get("findings", ()))
        self.ended.append(self.demo.read(task, len(self.queue), done, at_halt))
        return self.ended[-1]

    def process(self, **how: Any) -> Ended:
        """Let a new process do something else."""
        self.ended.append(self.demo.process(self._task(how)))
        return self.ended[-1]

    def _task(self, how: Mapping[str, Any]) -> Task:
        plot = self.demo.plot
        return Task(store=plot.store, cipher=plot.cipher, thread_id=self.id, ledger=self.ledger, **how)


@dataclass(frozen=True)
class _Fork:
    """How the fork ended.

    Attributes:
        target: The checkpoint that it goes back to.
        forked: Its first checkpoint.
        head: Its last one.
        process: The process that read its documents.
        approval: The question, the answer, and the process that got it.
    """

    target: StateSnapshot
    forked: StateSnapshot
    head: StateSnapshot
    process: Ended
    approval: dict[str, Any]


def _line(parents: Mapping[str, str | None], last: str) -> set[str]:
    """A checkpoint and those before it."""
    found: set[str] = set()
    at: str | None = last
    while at is not None:
        found.add(at)
        at = parents[at]
    return found


def _step(row: Row) -> tuple[Any, ...]:
    return row.step, row.source, row.node, row.documents, row.next


def _digest(state: StateSnapshot) -> str:
    return hashlib.sha256(json.dumps(state.values, sort_keys=True).encode()).hexdigest()[:16]


def _processes(ended: list[Ended]) -> Table:
    result = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("process", "read", "from", "to", "then", "exit code"):
        result.add_column(name, justify="right" if name in {"process", "read", "exit code"} else "left", no_wrap=True)
    for one in ended:
        ends = (one.read[0], one.read[-1]) if one.read else ("", "")
        result.add_row(str(one.pid), str(len(one.read)), *map(plain, ends), plain(one.how), str(one.returncode))
    return result


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
