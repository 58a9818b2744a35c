"""The demo's fifth story: a trip is booked, fails, and is undone. Its processes are killed, also in the undo."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import Failed, started
from langgraph_gcs_saver.cli.demo.provider import Provider
from langgraph_gcs_saver.cli.demo.stage import Stage, ending, was_killed
from langgraph_gcs_saver.cli.demo.trip import BOOKED, PAY, SAGA, Ended, Halted, Task, Trip, build, work
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver


@dataclass(frozen=True)
class Ran:
    """A process of the story that has ended.

    Attributes:
        pid: Its process id.
        returncode: Negative for the signal that killed it.
        ended: Where it was killed, or the saga's state.
    """

    pid: int
    returncode: int
    ended: str


def story(stage: Stage) -> dict[str, Any]:
    """Play the story, and narrate it. It returns what happened, with the statements of `proof`."""
    with open_saver(stage.store, stage.cipher, may_create=True, serde=SERDE) as saver:
        say, trip = stage.say, _Trip(stage, saver)
        say("An agent books a flight, a hotel and a car, and pays. The steps are a saga: all done, or all undone.")
        say("A fake provider writes down what it is sent.")
        say(f"store      {stage.store}")

        stage.act(1, "Booked, and killed")
        trip.run(start={}, halt="car")
        say("The car was booked, and no process is left that knows. The agent asks the provider, and continues.")

        stage.act(2, "The payment fails, so all is undone; killed between two undos, and within one")
        trip.run(halt="undone car")
        trip.run(role="resume", halt="cancel hotel")
        stuck = trip.run(role="resume").stuck
        say(f"The rollback is stuck at {', '.join(stuck)}: it may be canceled, or not. Nothing is guessed.")
        trip.resolve("hotel")
        undone = trip.run(role="resume")
        state = build(saver, trip.id).get_state(thread_config(trip.id))
        say(f"All is undone. The thread is where it was before the flight: {state.values}, next {state.next}.")
        after_undo = trip.done()

        stage.act(3, "Booked again, with money")
        done = trip.run(has_money=True)
        info = saver.thread(trip.id).saga(SAGA).info()
        for line in str(info).splitlines():
            say(line)
        say(f"The provider did, in this order: {', '.join(trip.done())}")
        killed = [one for one in trip.ran if was_killed(one.returncode)]
        proof = {
            "three processes were killed": len(killed) == 3,
            "each booking was made once, and canceled once, the newest first": (
                after_undo == [*BOOKED, *(f"cancel {what}" for what in reversed(BOOKED))]
            ),
            "the unknown cancellation was reported, and not tried again": stuck == ("hotel",),
            "the thread went back to the savepoint": (state.values, state.next) == ({"city": "Oslo"}, ("flight",)),
            "the saga then continued, and each step was done once more": (
                undone.state == "running" and trip.done() == [*after_undo, *BOOKED, PAY]
            ),
            "the saga is done": done.state == info.state == "done",
        }
        stage.show(proof)
        return {
            "ok": all(proof.values()),
            "store": stage.store,
            "thread_id": trip.id,
            "processes": [asdict(one) for one in trip.ran],
            "provider": trip.provider.done(),
            "proof": proof,
        }


@dataclass
class _Trip:
    """The thread of the story, with a provider of its own."""

    stage: Stage
    saver: GCSSaver
    id: str = field(default_factory=lambda: f"demo-{secrets.token_hex(4)}")
    ran: list[Ran] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        return Provider(self.stage.folder / f"{self.id}.ledger")

    def done(self) -> list[str]:
        """What the provider did, in order."""
        return [one["what"] for one in self.provider.done()]

    def run(self, *, start: Trip | None = None, halt: str = "", **options: Any) -> Ended:
        """Book the trip, or resume its rollback, in a new process, and kill it at a moment."""
        stage = self.stage
        task = Task(stage.store, stage.cipher, self.id, self.provider.ledger, start=start, halt=halt, **options)
        with started(work, task) as child:
            report = child.receive()
            if isinstance(report, Halted):
                child.kill()
            pid, returncode = child.pid, child.wait()
        match report:
            case Halted():
                what = halt if halt.startswith("undone ") else f"{halt}, before its answer"
                stage.say(f"Process {pid} was killed after: {what} ({ending(returncode)}).")
                report = Ended("killed")
            case Ended():
                stage.say(f"Process {pid} ended. The saga is {report.state}.")
            case Failed():
                raise CommandError(report.message, report.exit_code)
            case _:
                raise CommandError(f"process {pid} ended with {returncode} before it was done")
        self.ran.append(Ran(pid, returncode, halt or report.state))
        return report

    def resolve(self, step: str) -> None:
        """Be the person who looks at what the provider did."""
        saga, what = self.saver.thread(self.id).saga(SAGA), f"cancel {step}"
        found = next((one["receipt"] for one in self.provider.done(what)), None)
        if found is None:
            saga.resolve(step, not_done=True)
            self.stage.say("A person finds no cancellation: resolve(…, not_done=True)")
        else:
            saga.resolve(step, result=found)
            self.stage.say("A person finds the cancellation: resolve(…, result=receipt)")
