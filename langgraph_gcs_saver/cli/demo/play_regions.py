"""The demo's sixth story: a region is lost in the middle of a run, and a worker in the other region finishes it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langgraph_gcs_saver.address import GoogleAddress, LocalAddress, canonical, parse
from langgraph_gcs_saver.cli.demo.agent import SERDE
from langgraph_gcs_saver.cli.demo.child import started
from langgraph_gcs_saver.cli.demo.regions import Began, Finished, Refused, StandsBy, Task, build, work
from langgraph_gcs_saver.cli.demo.stage import Stage, ending, was_killed
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver

if TYPE_CHECKING:
    from langgraph_gcs_saver import GCSSaver
    from langgraph_gcs_saver.results import Failover

ITEMS = 50
LOST_AFTER = 20
PACE = 0.02


@dataclass(frozen=True)
class Region:
    """One of two regions.

    Attributes:
        name: What people call it.
        store: Connection string of its store.
        folder: The directory of an embedded store; `None` for one of Google's.
    """

    name: str
    store: str
    folder: Path | None

    @classmethod
    def of(cls, store: str, name: str) -> Region:
        """A region whose store is a part of the place that `--store` names.

        Raises:
            InvalidURIError: The connection string names no store.
        """
        address = parse(store)
        if isinstance(address, LocalAddress):
            folder = address.path / name
            return cls(name, canonical(LocalAddress(folder)), folder)
        if isinstance(address, GoogleAddress):
            prefix = f"{address.prefix}/{name}".lstrip("/")
            return cls(name, canonical(replace(address, prefix=prefix, root=None)), None)
        raise CommandError("a region needs a store that outlives a process: file://… or gs://…", 2)

    @property
    def _hidden(self) -> Path | None:
        return None if self.folder is None else self.folder.with_name(f"{self.name}-lost")

    def lose(self) -> bool:
        """Make the store unreachable, if it is embedded. Returns whether it is."""
        if self.folder is None or self._hidden is None:
            return False
        self.folder.rename(self._hidden)
        self.folder.touch()  # no directory, so no store can be opened there
        return True

    def restore(self) -> None:
        """Make it reachable again."""
        if self.folder is not None and self._hidden is not None and self._hidden.exists():
            self.folder.unlink()
            self._hidden.rename(self.folder)


@dataclass(frozen=True)
class Thread:
    """What a store has of the thread.

    Attributes:
        done: The items that are done, each with its worker.
        checkpoints: The ids of the checkpoints, newest first.
    """

    done: list[str]
    checkpoints: list[str]


def story(stage: Stage) -> dict[str, Any]:
    """Play the story, and narrate it. It returns what happened, with the statements of `proof`."""
    east, west = Region.of(stage.store, "east"), Region.of(stage.store, "west")
    with _quiet():
        try:
            return _Story(stage, east, west, f"demo-{secrets.token_hex(4)}").play()
        finally:
            east.restore()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about changes of roles out of the story, which reports them itself."""
    logger = logging.getLogger("langgraph_gcs_saver")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Story:
    def __init__(self, stage: Stage, east: Region, west: Region, thread_id: str) -> None:
        self.stage, self.east, self.west, self.thread_id = stage, east, west, thread_id
        self.begun: dict[int, float] = {}
        """By item, when Ada had begun it, and so stored those before it."""

    def play(self) -> dict[str, Any]:
        say = self.stage.say
        say(f"Ada works on {ITEMS} items in the region east. Bob stands by in the region west.")
        say(f"east       {self.east.store}")
        say(f"west       {self.west.store}")
        with self._open(self.east) as east, self._open(self.west) as west:
            east.admin.replicate(west)
        say("langgraph-gcs replicate --to west has made west the replica of east.")

        self.stage.act(1, f"East is lost after {LOST_AFTER} items")
        ada_task = self._task(self.east, "Ada", items=ITEMS, replica=self.west.store, pace=PACE)
        with started(work, self._task(self.west, "Bob")) as bob:
            bob.report(StandsBy)
            with started(work, ada_task) as ada:
                while ada.report(Began).number <= LOST_AFTER:
                    self.begun[len(self.begun) + 1] = time.time()
                # The report above has begun the next item.
                ada.kill()
                killed = time.monotonic()
                self.begun[len(self.begun) + 1] = time.time()
                ended = ada.wait()
            unreachable = self.east.lose()
            say(f"Ada (process {ada.pid}) was killed in item {LOST_AFTER + 1}: {ending(ended)}.")
            say("East's store cannot be reached." if unreachable else "East's store is still there, but Ada is not.")

            self.stage.act(2, "West takes over")
            shipped = self._thread(self.west).done
            forced = self._fail_over()
            say(f"langgraph-gcs failover --force --to west: {_first_line(forced)}")
            if forced.mark is not None:
                mark = datetime.fromtimestamp(forced.mark / 1e9, timezone.utc)
                say(f"Nothing that east had acknowledged before {mark:%H:%M:%S.%f} is missing.")
            say(f"West has {len(shipped)} of the items that Ada has done.")
            first = bob.report(Began).number
            bob.report(Began)
            took = time.monotonic() - killed
            say(f"Bob (process {bob.pid}) has stored item {first}, {took:.1f} seconds after Ada was killed.")
            while isinstance(bob.report(Began, Finished), Began):
                pass
            bob.wait()

        self.stage.act(3, "East comes back")
        self.east.restore()
        again = self._fail_over()
        say(f"The same failover, again: {_first_line(again)} East is fenced.")
        for one in again.forks:
            say(f"What Ada had stored and not shipped is there as a fork: checkpoint {one.checkpoint_id}.")
        before = self._thread(self.east)
        with started(work, self._task(self.east, "Ada", items=ITEMS)) as ada:
            refused = ada.report(Refused, Finished)
            ada.wait()
        after = self._thread(self.east)
        say(f"Ada starts again in east, and can store nothing: {type(refused).__name__.lower()}.")
        with self._open(self.east) as east, self._open(self.west) as west:
            west.admin.replicate(east)
            left = sum(one.documents for one in west.admin.reconcile(east))
            damage = [one for saver in (east, west) for one in saver.admin.verify(depth="data") if one.is_damage]
        say(f"langgraph-gcs replicate --store west --to east: a comparison finds {left} documents that east lacks.")

        self.stage.act(4, "What happened")
        end = self._thread(self.west)
        acknowledged = self._acknowledged(forced)
        # If east could be reached, the failover has shipped more since.
        by_ada = sum(one.endswith("Ada") for one in end.done)
        proof = {
            f"Ada was killed after {LOST_AFTER} items": was_killed(ended) and max(self.begun) == LOST_AFTER + 1,
            "nothing that Ada had stored before the printed mark is missing in west": len(shipped) >= acknowledged,
            "Bob took nothing before west was the primary": all(one.endswith("Ada") for one in shipped),
            f"Bob finished all {ITEMS} items, each once": (
                end.done == _expected(by_ada) and len(shipped) <= by_ada <= LOST_AFTER
            ),
            "east, fenced, took nothing more": (
                isinstance(refused, Refused) and before.checkpoints == after.checkpoints
            ),
            "both regions end with the same checkpoints": left == 0 and self._thread(self.east) == end,
            "verify finds no damage in either": damage == [],
        }
        self.stage.show(proof)
        return {
            "ok": all(proof.values()),
            "stores": {"east": self.east.store, "west": self.west.store},
            "thread_id": self.thread_id,
            "shipped": len(shipped),
            "by_ada": by_ada,
            "acknowledged": acknowledged,
            "seconds_to_first_checkpoint": took,
            "was_unreachable": bool(forced.unreached),
            "east": {"before": asdict(before), "after": asdict(after)},
            "west": asdict(end),
            "proof": proof,
        }

    def _task(self, region: Region, worker: str, **options: Any) -> Task:
        return Task(region.store, self.stage.cipher, self.thread_id, worker, **options)

    def _open(self, region: Region, **options: Any) -> GCSSaver:
        return open_saver(region.store, self.stage.cipher, may_create=True, serde=SERDE, **options)

    def _thread(self, region: Region) -> Thread:
        with self._open(region) as saver:
            state = build(saver, "reader", lambda _: None).get_state({"configurable": {"thread_id": self.thread_id}})
            ids = [one.checkpoint_id for one in saver.admin.history(self.thread_id)]
        return Thread(cast("list[str]", state.values.get("done", [])), ids)

    def _fail_over(self) -> Failover:
        with ExitStack() as stack:
            east, west = (stack.enter_context(self._open(one, timeout=5.0)) for one in (self.east, self.west))
            return east.admin.failover(west, force=True)

    def _acknowledged(self, forced: Failover) -> int:
        """How many items were durable in east before the mark."""
        mark = 0.0 if forced.mark is None else forced.mark / 1e9
        return max((number - 1 for number, at in self.begun.items() if at < mark), default=0)


def _first_line(done: Failover) -> str:
    return str(done).partition("\n")[0]


def _expected(by_ada: int) -> list[str]:
    return [f"{number} by {'Ada' if number <= by_ada else 'Bob'}" for number in range(1, ITEMS + 1)]
