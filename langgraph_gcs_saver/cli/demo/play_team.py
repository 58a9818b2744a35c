"""The demo's fourth story: a set of three agents' checkpoints, made while processes are killed, and restored."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import Child, started
from langgraph_gcs_saver.cli.demo.deal import (
    MEMBERS,
    Decided,
    Deciding,
    Fenced,
    Finished,
    Task,
    Work,
    build,
    done,
    work,
)
from langgraph_gcs_saver.cli.demo.stage import Stage, ending, was_killed
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.team import Team

STEPS = 150
"""Steps of each agent. They still work when they are restored, and are soon done after that."""

PACE = 0.05
"""Seconds that a step takes until the restore."""

SHORT = 3.0
"""Seconds after which the first set is aborted."""

PATIENCE = 120
"""Seconds in which an agent takes a step, on any machine."""

KILLED = MEMBERS[-1]
"""The agent that is killed."""


@dataclass
class Act:
    """What happened, for `--json`.

    Attributes:
        killed: The processes that were killed, with their exit codes.
        aborted: The set of the coordinator that was killed.
        committed: The set of the other one.
        seconds: How long its decision took.
        cut: How many steps each agent had taken at the set.
        before: How many were durable before the restore.
        fenced: How many agents that ran found that they were fenced.
        after: How many were durable after the restore.
    """

    killed: dict[str, int] = field(default_factory=dict)
    aborted: str = ""
    committed: str = ""
    seconds: float = 0.0
    cut: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
    after: dict[str, int] = field(default_factory=dict)


def story(stage: Stage) -> dict[str, Any]:
    """Play the story, and narrate it. It returns what happened, with the statements of `proof`."""
    with open_saver(stage.store, stage.cipher, may_create=True, serde=SERDE) as saver, ExitStack() as processes:
        team_id = f"demo-{secrets.token_hex(4)}"
        play = _Deal(stage, saver, saver.team(team_id, members=MEMBERS), processes)
        say, act = stage.say, play.act
        say(f"Three agents work on one deal, each in its own process: {', '.join(MEMBERS)}.")
        say("Each step reads how far the others are. A coordinator takes one checkpoint of each, of the same instant.")
        say(f"store      {stage.store}")

        stage.act(1, "The coordinator is killed")
        agents = {name: play.start(name, Work(steps=STEPS, done=[], seen={}), PACE) for name in MEMBERS}
        play.until("each agent has taken a step", lambda: min(play.done().values()) > 0)
        coordinator = play.coordinate("first try", SHORT)
        act.killed["coordinator"] = play.kill(coordinator)
        stood = play.done()
        play.until("the agents continue", lambda: all(now > stood[name] for name, now in play.done().items()))
        say("The agents do not wait for it. No process is left that would decide about its set.")
        play.until("an agent aborts the set", lambda: play.sets().get("aborted") is not None)
        act.aborted = play.sets()["aborted"]
        say(f"When {SHORT:.0f} seconds were over, an agent aborted the set {act.aborted}.")

        stage.act(2, "An agent is killed while a set is prepared")
        coordinator = play.coordinate("before merge", PATIENCE)
        act.killed[KILLED] = play.kill(agents[KILLED], KILLED)
        coordinator.answer()
        decided = coordinator.report(Decided)
        act.committed, act.seconds = decided.set_id, decided.seconds
        if decided.state != "committed":
            raise CommandError(f"set {decided.set_id} was {decided.state}")
        say(f"The set {act.committed} is committed, {act.seconds:.2f} s after the call, with its last checkpoint.")
        saved = play.team.sets()[0]
        states = {name: play.state(name, saved.cut[name]) for name in MEMBERS}
        act.cut = {name: len(state["done"]) for name, state in states.items()}
        say(f"Steps at the set: {_told(act.cut)}")

        stage.act(3, "All three go back, while they run")
        agents[KILLED] = play.start(KILLED, None, PACE)
        play.until("each agent is ahead", lambda: all(now > act.cut[name] for name, now in play.done().items()))
        plan = play.team.restore(saved, dry_run=True)
        say(f"A dry run: {plan.writes} writes, in one commit")
        play.team.restore(saved)
        reports = {name: agent.report(Fenced, Finished) for name, agent in agents.items()}
        act.fenced = sum(isinstance(one, Fenced) for one in reports.values())
        say(f"{act.fenced} agents found that they were fenced, and stored nothing.")
        restored = {name: play.state(name) for name in MEMBERS}
        act.after = {name: len(state["done"]) for name, state in restored.items()}
        say(f"Steps after the restore: {_told(act.after)}")

        stage.act(4, "They continue, and finish")
        for agent in [play.start(name, None, 0.0) for name in MEMBERS]:
            agent.report(Finished)
        ends = {name: play.state(name) for name in MEMBERS}
        proof = {
            "the coordinator and an agent were killed": (
                list(act.killed) == ["coordinator", KILLED] and all(map(was_killed, act.killed.values()))
            ),
            "an agent aborted the set of the coordinator that was killed": (
                {one.set_id: one.state for one in play.team.sets()}.get(act.aborted) == "aborted"
            ),
            "in the committed set, no agent knows of a step that is not in the set": all(
                known <= act.cut[other] for state in states.values() for other, known in state["seen"].items()
            ),
            "the set is whole: verify finds nothing": not play.team.verify(saved),
            "each agent that ran was fenced by the restore": act.fenced == len(MEMBERS),
            "all three are at the set again": restored == states,
            f"each agent has taken each of its {STEPS} steps, once in its state": all(
                state["done"] == list(range(1, STEPS + 1)) for state in ends.values()
            ),
        }
        stage.show(proof)
        return {"ok": all(proof.values()), "store": stage.store, "team": team_id, **asdict(act), "proof": proof}


@dataclass
class _Deal:
    """The team of the story, and its processes."""

    stage: Stage
    saver: GCSSaver
    team: Team
    processes: ExitStack
    act: Act = field(default_factory=Act)

    def start(self, member: str, start: Work | None, pace: float) -> Child:
        """Run an agent in a new process."""
        return self._started(Task(self.stage.store, self.stage.cipher, self.team.id, member, start, pace))

    def coordinate(self, label: str, timeout: float) -> Child:
        """Begin a set in a new process, which waits before the commit that decides."""
        task = Task(self.stage.store, self.stage.cipher, self.team.id, timeout=timeout, label=label)
        child = self._started(task)
        child.report(Deciding)
        return child

    def _started(self, task: Task) -> Child:
        return self.processes.enter_context(started(work, task))

    def kill(self, child: Child, what: str = "coordinator") -> int:
        """Kill a process, and say so."""
        child.kill()
        code = child.wait()
        self.stage.say(f"The {what} (process {child.pid}) was killed: {ending(code)}.")
        return code

    def done(self) -> dict[str, int]:
        """How many steps of each agent are durable."""
        return {name: done(self.saver, self.team.member(name).id) for name in MEMBERS}

    def sets(self) -> dict[str, str]:
        """The newest set of each state."""
        return {one.state: one.set_id for one in reversed(self.team.sets())}

    def state(self, member: str, checkpoint_id: str | None = None) -> Mapping[str, Any]:
        """The state of an agent, now or at a checkpoint."""
        config = thread_config(self.team.member(member).id)
        if checkpoint_id is not None:
            config["configurable"]["checkpoint_id"] = checkpoint_id
        found: Mapping[str, Any] = build(self.saver).get_state(config).values
        return found

    def until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > end:
                raise CommandError(f"the story waited {PATIENCE} s until {what}, in vain")
            time.sleep(PACE)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
