"""The demo's second story: an agent that pays is killed around each side effect, and nothing is done twice."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import Failed, started
from langgraph_gcs_saver.cli.demo.payment import (
    AFTER,
    BEFORE,
    CHARGE,
    DURING,
    MAIL,
    Finished,
    Halted,
    Order,
    Task,
    Unknown,
    build,
    work,
)
from langgraph_gcs_saver.cli.demo.provider import Provider
from langgraph_gcs_saver.cli.demo.stage import Stage, ending, was_killed
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver, plain

ORDER: Order = {"order": 17, "cents": 990}


@dataclass(frozen=True)
class Ran:
    """A process of the story that has ended.

    Attributes:
        pid: Its process id.
        returncode: Negative for the signal that killed it.
        ended: Where it was killed, `unknown` if it found an unknown outcome, or `finished`.
        charges: How often the card was charged by then.
        mails: How many e-mails were sent by then.
    """

    pid: int
    returncode: int
    ended: str
    charges: int
    mails: int


def story(stage: Stage) -> dict[str, Any]:
    """Play the story, and narrate it. It returns what happened, with the statements of `proof`."""
    with open_saver(stage.store, stage.cipher, may_create=True, serde=SERDE) as saver:
        say = stage.say
        say("An agent charges a card, and confirms by e-mail. A fake provider counts.")
        say(f"store      {stage.store}")

        stage.act(1, "Without operations: killed after each side effect")
        plain_run = _Thread(stage, saver, once=False)
        plain_run.run(CHARGE, AFTER)
        plain_run.run(MAIL, AFTER)
        plain_run.run()
        say("A step runs again if its process was killed. The customer paid twice.")

        stage.act(2, "With operations: killed before, during and after each side effect")
        thread = _Thread(stage, saver, once=True)
        say("The provider can say whether it made a charge. The agent asks (reconcile=).")
        for moment in (BEFORE, DURING, AFTER):
            thread.run(CHARGE, moment)
        say("No program can say whether an e-mail was sent. A person looks (resolve).")
        for moment in (BEFORE, DURING):
            thread.run(MAIL, moment)
            thread.run()  # which finds that the outcome is unknown
            thread.resolve()
        thread.run(MAIL, AFTER)
        thread.run()

        stage.act(3, "What happened")
        stage.console.print(_table(thread.ran))
        state = build(saver).get_state(thread_config(thread.id)).values
        killed = [one for one in thread.ran if was_killed(one.returncode)]
        proof = {
            "without operations, two charges were made, and two e-mails sent": (
                plain_run.counts() == {CHARGE: 2, MAIL: 2}
            ),
            "with operations, six processes were killed": len(killed) == 6,
            "the card was charged once": len(thread.provider.done(CHARGE)) == 1,
            "one e-mail was sent": len(thread.provider.done(MAIL)) == 1,
            "two unknown outcomes were reported, and not tried again": (
                [one.ended for one in thread.ran].count("unknown") == 2
            ),
            "the run finished, and its state has both receipts": (
                [state.get("charged"), state.get("mailed")] == [one["receipt"] for one in thread.provider.done()]
            ),
            "no outcome is unknown": not list(saver.thread(thread.id).operations.unresolved()),
        }
        stage.show(proof)
        return {
            "ok": all(proof.values()),
            "store": stage.store,
            "thread_id": thread.id,
            "without": {"thread_id": plain_run.id, "processes": [asdict(one) for one in plain_run.ran]}
            | plain_run.counts(),
            "processes": [asdict(one) for one in thread.ran],
            "provider": thread.provider.done(),
            "proof": proof,
        }


@dataclass
class _Thread:
    """A thread of the story, with a provider of its own."""

    stage: Stage
    saver: GCSSaver
    once: bool
    id: str = field(default_factory=lambda: f"demo-{secrets.token_hex(4)}")
    ran: list[Ran] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        return Provider(self.stage.folder / f"{self.id}.ledger")

    def counts(self) -> dict[str, int]:
        return {what: len(self.provider.done(what)) for what in (CHARGE, MAIL)}

    def run(self, what: str = "", moment: str = "") -> None:
        """Run the agent in a new process, and kill it at a moment of a side effect."""
        stage = self.stage
        task = Task(
            store=stage.store,
            cipher=stage.cipher,
            thread_id=self.id,
            ledger=self.provider.ledger,
            once=self.once,
            start=None if self.ran else ORDER,
            halt=(what, moment) if what else None,
        )
        with started(work, task) as child:
            report = child.receive()
            if isinstance(report, Halted):
                child.kill()
            pid, returncode = child.pid, child.wait()
        match report:
            case Halted():
                ended = f"{moment} {what}"
                stage.say(f"Process {pid} was killed {moment} the {what}: {ending(returncode)}.")
            case Unknown():
                ended = "unknown"
                stage.say(f"Process {pid} raised OutcomeUnknownError, and did not try again.")
            case Finished():
                ended = "finished"
                stage.say(f"Process {pid} finished the run.")
            case Failed():
                raise CommandError(report.message, report.exit_code)
            case _:
                raise CommandError(f"process {pid} ended with {returncode} before it was done")
        counts = self.counts()
        self.ran.append(Ran(pid, returncode, ended, counts[CHARGE], counts[MAIL]))

    def resolve(self) -> None:
        """Be the person who looks into the provider's outbox."""
        operations = self.saver.thread(self.id).operations
        for unknown in operations.unresolved():
            receipt = self.provider.find(MAIL, unknown.key)
            if receipt is None:
                operations.resolve(unknown.key, not_done=True)
                self.stage.say("A person finds no e-mail in the outbox: resolve(…, not_done=True)")
            else:
                operations.resolve(unknown.key, result=receipt)
                self.stage.say("A person finds the e-mail in the outbox: resolve(…, result=receipt)")


def _table(ran: list[Ran]) -> Table:
    result = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("process", "ended", "charges", "e-mails"):
        result.add_column(name, justify="left" if name == "ended" else "right", no_wrap=True)
    for one in ran:
        ended = f"killed {one.ended}" if was_killed(one.returncode) else one.ended
        result.add_row(str(one.pid), plain(ended), str(one.charges), str(one.mails))
    return result
