"""Any life of some threads, crashes, clock and upkeep included, reads as plain dicts that live the same life."""

import logging
import os
import random
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from langgraph_gcs_saver.engine import limits, runner
from langgraph_gcs_saver.engine.effects import CopyBlob, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, DamageError, InvalidInputError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import collect, copy, prune
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import LISTED_BY
from langgraph_gcs_saver.policy.retention import KeepEvery, KeepFor, KeepLast
from langgraph_gcs_saver.portable import PortableSerializer, edits
from langgraph_gcs_saver.saver import checkpointer as savers
from langgraph_gcs_saver.saver import connection
from langgraph_gcs_saver.saver.checkpointer import RETENTION_STEPS
from langgraph_gcs_saver.stores import local
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.system.raw import open_raw

THREADS = ("t", "t_b", "long " * 50)
COPIES = ("copy", "another copy " * 20)
SPACES = ("", "lasting", "sub:1")
RUNS = ("r0", "r1", "r2")
SPECIAL = {"__error__": -1, "__scheduled__": -2, "__interrupt__": -3, "__resume__": -4}
DELTA = "delta"
HISTORY = "counters_since_delta_snapshot"
"""What LangGraph's metadata has of DeltaChannels without a stored value."""

MINUTES = 60
MOMENT = 20 * MINUTES
"""The clock moves by so much, or some times that: no age is ever close to what a rule looks for."""

TTL = timedelta(hours=10, minutes=10)


@dataclass(frozen=True)
class Rule:
    """What to keep: the model's own reading of a rule, and the library's."""

    last: int = 0
    age: timedelta = timedelta()
    every: timedelta = timedelta()

    def keeps(self, rows, now):
        """Numbers to keep of (number, time) of one namespace, newest first."""
        kept = {n for n, _ in rows[: self.last]}
        kept |= {n for n, time in rows if now - time < self.age.total_seconds()}
        if self.every:
            kept |= set({int(time // self.every.total_seconds()): n for n, time in reversed(rows)}.values())
        return kept

    @property
    def strategy(self):
        """As the library has it."""
        parts = [KeepLast(self.last)] if self.last else []
        parts += [KeepFor(self.age)] if self.age else []
        parts += [KeepEvery(self.every)] if self.every else []
        found = parts[0]
        for part in parts[1:]:
            found |= part
        return found


RULES = (
    Rule(last=1),
    Rule(last=3),
    Rule(age=timedelta(minutes=50)),
    Rule(every=timedelta(hours=1)),
    Rule(last=2, every=timedelta(days=1)),
    Rule(last=1, age=timedelta(minutes=30), every=timedelta(hours=2)),
)

OPTIONS = {
    "inline": {},
    "objects": {"inline_max_bytes": 0},
    "cold": {"cache_max_bytes": 0, "inline_max_bytes": 600},
    "pruning": {"inline_max_bytes": 600, "retention": RULES[1]},
    "bounded": {"full_every": 3, "retention": RULES[5]},
}
"""Processes that share the store; two of them at a time."""


class Cipher:
    """No secrecy at all, and quick."""

    table = bytes(n ^ 0x5A for n in range(256))

    def encrypt(self, plaintext):
        return "quick", plaintext.translate(self.table)

    def decrypt(self, ciphername, ciphertext):
        assert ciphername == "quick"
        return ciphertext.translate(self.table)


class Clock:
    """The wall clock of processes and of the store. A process that sleeps moves it."""

    def __init__(self):
        self.now = 2_000_000_000 // 86400 * 86400 + 10 * MINUTES

    def time(self):
        self.now += 0.0005
        return self.now

    def time_ns(self):
        return int(self.time() * 1e9)

    monotonic = time

    def sleep(self, seconds):
        self.now += seconds


class Timed(Interceptor):
    """Objects get their time from the clock."""

    blobs = None

    def __init__(self, clock, path):
        self._clock = clock
        self._path = path

    def around(self, effect, perform):
        try:
            return perform(effect)
        finally:
            if isinstance(effect, (PutBlob, CopyBlob)):
                name = effect.name if isinstance(effect, PutBlob) else effect.target
                path = self._path.joinpath("objects", *self.blobs._parts(name))
                if path.exists():
                    os.utime(path, ns=(self._clock.time_ns(),) * 2)


@dataclass(frozen=True)
class One:
    """A checkpoint of the model; `writes` by task and index."""

    parent: int | None
    values: dict
    versions: dict
    metadata: dict
    time: float
    writes: dict = field(default_factory=dict)
    pin: str | None = None

    def pending(self):
        return [(task, *self.writes[task, idx]) for task, idx in sorted(self.writes)]


def replayed(n, root):
    """Subgraphs that resume from a root checkpoint `n` have the state from before the checkpoint of this number."""
    is_fork = root.metadata["source"] in {"update", "fork"}
    return root.parent if is_fork and root.parent is not None else n


def kept(found, rule, now):
    """What pruning leaves of a thread of the model."""
    left = set()
    parents = {(ns, one.parent) for (ns, _), one in found.items()}
    for space in sorted({ns for ns, _ in found}):
        here = {n: one for (ns, n), one in found.items() if ns == space}
        rows = [(n, here[n].time) for n in sorted(here, reverse=True)]
        # A subgraph's call goes with the root checkpoint that made it.
        roots = {n: one.metadata["parents"].get("") if ":" in space else None for n, one in here.items()}
        lives = {n for n, root in roots.items() if root is None or ("", int(root[-12:])) in left}
        chosen = {n for n, one in here.items() if one.pin}
        chosen |= {n for n in lives if (space, n) not in parents and any(idx == -3 for _, idx in here[n].writes)}
        if rows[0][0] in lives:
            chosen |= {rows[0][0]} | rule.keeps(rows, now)
        if space and roots[rows[0][0]] is None:
            # A graph that goes back to a root checkpoint finds the subgraph as it was then.
            for before in (replayed(n, found["", n]) for other, n in left if not other):
                chosen |= {max((n for n in here if n < before), default=rows[0][0])}
        for first in list(chosen):
            # Back to the stored value that a DeltaChannel's is made of.
            n = first
            while n in here and HISTORY in here[n].metadata:
                n = here[n].parent
                chosen |= {n} & here.keys()
        left |= {(space, n) for n in chosen}
    return {key: one for key, one in found.items() if key in left}


class Life(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 1 << 30),
        names=st.permutations(sorted(OPTIONS)),
        is_secret=st.booleans(),
        batch=st.sampled_from([2, 5, 200]),
    )
    def begin(self, seed, names, is_secret, batch):
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.stack = ExitStack()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        # Hypothesis reports what failed. Thousands of logged events would add nothing.
        patch.setattr(logging.getLogger("langgraph_gcs_saver"), "disabled", True)
        for module in (savers, runner, local):
            patch.setattr(module, "time", self.clock)
        patch.setattr(connection, "secrets", SimpleNamespace(token_hex=lambda size: self.rng.randbytes(size).hex()))
        for module, limit in (
            (limits, "COMMIT_WRITES"),
            (prune, "DOCS_PER_PAGE"),
            (collect, "DOCS_PER_PAGE"),
            (copy, "CHECKPOINTS_PER_PAGE"),
        ):
            patch.setattr(module, limit, batch)
        self.path = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        self.uri = f"file://{self.path}"
        self.elsewhere = f"{self.uri}-elsewhere"
        """Another store, to which threads are moved."""
        self.cipher = {"cipher": Cipher()} if is_secret else {}
        self.events = []
        self.names = sorted(names[:2])
        self.savers = {}
        self.passed = {}
        """The last step that each process has stored, by thread and namespace."""
        for name in self.names:
            self._start(name)
        self.model = {}
        """Checkpoints by thread, and by namespace and number."""
        self.ghosts = []
        """Checkpoints that were removed."""
        self.dirty = set()
        """Threads in which a call has crashed. They may have orphans until these are collected."""
        self.halves = set()
        """Threads of which a deletion has crashed. What is left can be read, but the latest may be flagged."""
        self.copying = {}
        """Threads to which a copy has crashed, and its source. Nothing else uses them."""
        self.moving = set()
        """Threads of which a transfer to the other store has crashed."""
        self.early = {}
        """Checkpoints that never come, and have pending writes, by thread."""
        self.former = {}
        """Runs that wrote what was replaced, by thread."""
        self.put_at, self.touched = {}, {}
        """When each thread got a checkpoint or a pin, and when a call may have changed its document."""
        self.looked_at = set()
        self.next = 1
        self.is_whole = False
        """Whether the last step has passed."""
        for ns in ("", "", "lasting", "", "lasting", "", "lasting"):
            newest = max((n for other, n in self.model.get("t", ()) if other == ns), default=None)
            self._put(0, "t", ns, newest, "r0", 4 if ns else 1)

    def open(self, name=None, *, uri=None, **more):
        """A saver with the options of that name. Pruning by `retention` ends, or crashes, before its put returns."""
        options = {"ttl": TTL, **OPTIONS.get(name, {}), **self.cipher, "on_event": self.events.append, **more}
        if "retention" in options:
            options["retention"] = options["retention"].strategy
        timed = Timed(self.clock, self.path)
        saver = CrashingSaver.from_conn_string(uri or self.uri, interceptors=[timed], **options)
        timed.blobs = saver._backend.blobs
        saver._background = SimpleNamespace(submit=lambda kind, key, job: job() or True, close=lambda: None)
        return saver

    def _start(self, name):
        """A new process in place of one that has crashed, or ends."""
        if name in self.savers:
            self.savers[name].close()
        self.savers[name] = self.open(name)
        self.passed[name] = {}

    # What may happen to a call

    processes = st.integers(0, 1)
    chances = st.integers(0, 1 << 16)
    deaths = st.tuples(st.integers(0, 30), st.booleans(), st.sampled_from([False, False, True]))
    stops, halts = st.one_of(st.none(), st.none(), deaths), st.one_of(st.none(), deaths)
    """Whether the process crashes in the call: after how many effects, in which order, and whether it is repeated."""

    def _call(self, process, stop, call, touched, *stages, is_atomic=False):
        """Make a call that takes the model through `stages`, in some threads; whether it was done."""
        self.is_whole = False
        self.looked_at = set(touched)
        is_done = self._is_done(process, stop, call)
        self.touched |= dict.fromkeys(touched, self.clock.now)
        self._become(stages[-1] if is_done else self._settled(touched, stages, is_atomic=is_atomic))
        return is_done

    def _is_done(self, process, stop, call):
        name = self.names[process]
        saver = self.savers[name]
        saver.plan = Plan(*stop[:2]) if stop is not None else Plan()
        try:
            call(saver)
        except Crashed:
            self._start(name)
            if not stop[2]:
                return False
            call(self.savers[name])
        saver.plan = Plan()
        return True

    def _settled(self, touched, stages, *, is_atomic=False):
        """The model after a call that crashed: each checkpoint is as it was at some stage."""
        model = dict(self.model)
        with self.open() as cold:
            for thread in touched:
                states = [one.get(thread, {}) for one in (self.model, *stages)]
                found, left = read(cold, thread), {}
                pinned = {ns: cold.admin.pins(cfg(thread, ns)) for ns in SPACES}
                for key in {key for one in states for key in one}:
                    options = [one.get(key) for one in states]
                    allowed = [one and told(key[1], one) for one in options]
                    assert found.get(key) in allowed, f"{thread}: {key}"
                    if key in found:
                        one = options[allowed.index(found[key])]
                        left[key] = replace(one, pin=pinned[key[0]].get(cid(key[1])))
                assert found.keys() <= left.keys()
                assert left in states or not is_atomic
                self.dirty.add(thread)
                model[thread] = left
        return model

    def _become(self, model):
        for thread, found in self.model.items():
            now = model.get(thread, {})
            self.ghosts += [(thread, *key, one) for key, one in found.items() if key not in now]
        self.model = {thread: found for thread, found in model.items() if found}

    def _with(self, thread, found):
        return {**self.model, thread: found}

    def _some(self, which):
        """A checkpoint of the model: thread, namespace, number."""
        found = sorted(
            (thread, *key) for thread, one in self.model.items() for key in one if thread not in self.copying
        )
        return found[which % len(found)] if found else None

    # Steps

    def _put(self, process, thread, ns, parent, run, kind, stop=None, *, before=None):  # noqa: PLR0917
        n, self.next = self.next, self.next + 1
        rng = self.rng
        if parent is not None and before is None:
            before = self.model[thread][ns, parent]
        if before is None:
            values = {"list": [rng.random() for _ in range(40)], "constant": "c", "large": rng.randbytes(9000)}
            values[DELTA] = ["seed"]
            versions = dict.fromkeys(values, version(n))
            new = set(values)
        else:
            values, versions, new = dict(before.values), dict(before.versions), {"list", DELTA}
            values["list"] = [*values["list"], *(rng.random() for _ in range(3))]
            values.pop(DELTA, None)
            if kind % 3 == 0:
                values["large"] = rng.randbytes(9000)
                new.add("large")
            if kind % 4 == 0:
                values[DELTA] = [f"stored at {n}"]
            versions |= dict.fromkeys(new, version(n))
        step = -1 if before is None else before.metadata["step"]
        step += 1 if kind % 3 else RETENTION_STEPS
        more = metadata(step=step, run_id=run, source=("loop", "loop", "update", "loop", "fork")[kind % 5])
        if DELTA not in values:
            more[HISTORY] = {DELTA: [1, 1]}
        if ns == "sub:1":
            # All steps of a subgraph's call have one root checkpoint.
            roots = [number for other, number in self.model.get(thread, {}) if not other]
            more["parents"] = (
                before.metadata["parents"] if before is not None else {"": cid(max(roots))} if roots else {}
            )
        fresh = {channel: versions[channel] for channel in new}
        self._store(process, thread, ns, n, One(parent, values, versions, more, self.clock.now), fresh, stop)

    def _store(self, process, thread, ns, n, one, fresh, stop, *, given=None):  # noqa: PLR0917
        name, step = self.names[process], one.metadata["step"]
        there = self.model.get(thread, {})
        stages = [self._with(thread, {**there, (ns, n): one})]
        # What its DeltaChannels are made of is gone.
        is_refused = HISTORY in one.metadata and one.parent is not None and (ns, one.parent) not in there
        retention = OPTIONS[name].get("retention")
        if retention is not None and stop is not None:
            stop = (*stop[:2], False)  # Another process that repeats the call decides for itself whether it is due.
        if is_refused:
            stages = [self.model]
        elif retention is not None and self._is_due(name, (thread, ns), step):
            stages.append(self._with(thread, pruned(stages[0][thread], retention, self.clock.now)))
        given = given or checkpoint(n, one.values, one.versions)
        config = cfg(thread, ns, one.parent)

        def call(saver):
            with pytest.raises(ConflictError, match="DeltaChannels") if is_refused else nullcontext():
                saver.put(config, given, one.metadata, fresh)

        if self._call(process, stop, call, [thread], *stages, is_atomic=len(stages) == 1) and not is_refused:
            self.put_at[thread] = self.clock.now
            self.passed[name][thread, ns] = step

    def _is_due(self, name, where, step):
        """Whether a step is, or has passed since the process's last one, a multiple of so many; the first never is."""
        last = self.passed[name].get(where, step - 1)
        return any(n > 0 and n % RETENTION_STEPS == 0 for n in range(last + 1, step + 1))

    @rule(process=processes, which=chances, run=st.sampled_from(RUNS), kind=st.integers(0, 59), stop=stops)
    def put(self, process, which, run, kind, stop):
        """A child of any checkpoint: a step, or a fork."""
        found = self._some(which)
        if found is not None:
            self._put(process, *found, run, kind, stop)

    @rule(process=processes, run=st.sampled_from(RUNS), kind=st.integers(0, 59), steps=st.integers(1, 6))
    def steps(self, process, run, kind, steps):
        """A line of children of a thread's newest."""
        for step in range(steps):
            found = sorted(t for t in self.model if t not in self.copying and any(not ns for ns, _ in self.model[t]))
            if found:
                thread = found[kind % len(found)]
                newest = max(n for ns, n in self.model[thread] if not ns)
                self._put(process, thread, "", newest, RUNS[(RUNS.index(run) + step // 2) % len(RUNS)], kind + step)
                if step % 2:
                    self._write(process, thread, "", self.next - 1, [(DELTA, f"of {self.next}")], "task")

    @rule(
        process=processes,
        thread=st.sampled_from(THREADS),
        ns=st.sampled_from(SPACES),
        run=st.sampled_from(RUNS),
        kind=st.integers(0, 59),
        stop=stops,
    )
    def start(self, process, thread, ns, run, kind, stop):  # noqa: PLR0917
        """The first checkpoint of a namespace, perhaps a second first one."""
        self._put(process, thread, ns, None, run, kind, stop)

    @rule(process=processes, which=chances, run=st.sampled_from(RUNS), kind=st.integers(0, 59), stop=stops)
    @precondition(lambda self: self.ghosts)
    def late(self, process, which, run, kind, stop):
        """A child of a checkpoint that others have removed: a process that has not noticed."""
        thread, ns, parent, before = self.ghosts[which % len(self.ghosts)]
        if thread not in self.copying and (ns, parent) not in self.model.get(thread, {}):
            self._put(process, thread, ns, parent, run, kind, stop, before=before)

    @rule(process=processes, which=chances, stop=stops)
    @precondition(lambda self: self.ghosts)
    def again(self, process, which, stop):
        """A checkpoint that others have removed comes again, by a process that repeats its call."""
        thread, ns, n, one = self.ghosts[which % len(self.ghosts)]
        there = self.model.get(thread, {})
        # Pending writes that a crashed call has left would come back with it.
        if thread in self.copying or thread in self.halves or thread in self.dirty or (ns, n) in there:
            return
        one = replace(one, writes={}, pin=None, time=self.clock.now)
        self._store(process, thread, ns, n, one, one.versions, stop)
        if (ns, n) in self.model.get(thread, {}):
            # A document that was stripped is as old as it was.
            name = keys.checkpoint_doc(thread, ns, cid(n))
            with open_raw(self.uri).database() as db:
                row = db.execute(
                    "SELECT create_time FROM documents WHERE name = ?", (name.replace("/", "\0").encode(),)
                ).fetchone()
            self.model[thread][ns, n] = replace(one, time=row[0] / 1e9)

    @rule(process=processes, which=chances, run=st.sampled_from(RUNS), stop=stops)
    def replace(self, process, which, run, stop):
        """Other content under the same id; children keep what they have inherited."""
        found = self._some(which)
        if found is None:
            return
        thread, ns, n = found
        m, self.next = self.next, self.next + 1
        one = self.model[thread][ns, n]
        values = {**one.values, "list": [self.rng.random() for _ in range(20)]}
        fresh = {"list": version(m)}
        one = replace(one, values=values, versions=one.versions | fresh, metadata={**one.metadata, "run_id": run})
        # What only the former content needed is left, and so is the document of its run.
        self.dirty.add(thread)
        self.former.setdefault(thread, set()).add(keys.spread(self.model[thread][ns, n].metadata["run_id"]))
        self._store(process, thread, ns, n, one, fresh, stop)

    @rule(process=processes, which=chances, run=st.sampled_from(RUNS), stop=stops)
    def edit(self, process, which, run, stop):
        """A checkpoint's value is changed in a child of it, as the command `edit` does."""
        found = self._some(which)
        if found is None or found[0] in self.halves:
            return
        thread, ns, parent = found
        before = self.model[thread][ns, parent]
        n, self.next = self.next, self.next + 1
        values = {**before.values, "list": [*before.values["list"][1:], self.rng.random()]}
        with self.open(serde=PortableSerializer()) as reader, pytest.MonkeyPatch.context() as patch:
            patch.setattr(edits, "next_id", lambda *_: cid(n))
            saved, latest = reader.get_tuple(cfg(*found)), reader.get_tuple(cfg(thread, ns))
            now = datetime.fromtimestamp(self.clock.now, timezone.utc)
            options = {"next_version": lambda *_: version(n), "now": now}
            if DELTA not in values and any(write[1] == DELTA for write in before.pending()):
                # The new branch must not take over what is pending of a DeltaChannel.
                with pytest.raises(InvalidInputError, match="pending writes"):
                    edits.fork(saved, latest, "list", values["list"], **options)
                return
            made = edits.fork(saved, latest, "list", values["list"], **options)
        told = {**made.metadata, "run_id": run}
        if HISTORY in told:
            told[HISTORY] = {channel: list(counts) for channel, counts in told[HISTORY].items()}
        one = One(parent, values, made.checkpoint["channel_versions"], told, self.clock.now)
        # The command puts with the saver that has read. One that knows a parent from before it was replaced refuses.
        self.savers[self.names[process]].get_tuple(cfg(*found))
        self._store(process, thread, ns, n, one, made.new_versions, stop, given=made.checkpoint)

    @rule(which=chances, stop=halts, is_taken_up=st.booleans())
    def transfer(self, which, stop, is_taken_up):
        """A thread is moved to another store. A crashed call is resumed at once, or when the thread has changed."""
        found = self._some(which)
        if found is None or found[0] in self.halves:
            return
        thread = found[0]
        try:
            self._transfer(thread, Plan(*stop[:2]) if stop else Plan())
        except InvalidInputError:
            # A crashed call had done everything but check its work, and the thread has changed since.
            if thread not in self.moving:
                raise
            with self.open(uri=self.elsewhere) as target:
                target.delete_thread(thread)
            self._transfer(thread, Plan())
        except Crashed:
            self.moving.add(thread)
            if not is_taken_up:
                return
            self._transfer(thread, Plan())
        there = self.model[thread]
        with self.open(uri=self.elsewhere) as target:
            expected = {key: told(key[1], one) for key, one in there.items()}
            assert not differing(read(target, thread), expected)
            for ns in SPACES:
                pins = {cid(n): one.pin for (other, n), one in there.items() if other == ns and one.pin}
                assert target.admin.pins(cfg(thread, ns)) == pins
            assert [one for one in _unexpected(target.admin.verify(thread, depth="data"), there) if one.is_damage] == []
            target.delete_thread(thread)
        self.moving.discard(thread)
        left = {name.split("/")[1] for name in open_raw(self.elsewhere).documents() if name.startswith(keys.THREADS)}
        assert left <= {keys.spread(one) for one in self.moving}

    def _transfer(self, thread, plan):
        with self.open(uri=self.elsewhere) as target, self.open() as source:
            target.plan = plan
            source.admin.transfer_thread(thread, target)

    @rule(
        process=processes,
        which=chances,
        task=st.sampled_from(["task", "other"]),
        channels=st.lists(st.sampled_from(["list", DELTA, *SPECIAL]), min_size=1, max_size=4),
        size=st.sampled_from([5, 5, 150_000]),
        is_early=st.sampled_from([False, False, False, True]),
        stop=stops,
    )
    def put_writes(self, process, which, task, channels, size, is_early, stop):  # noqa: PLR0917
        """Writes for a checkpoint, or for one that never comes."""
        found = self._some(which)
        if found is None:
            return
        thread, ns, n = found
        channels = [c for at, c in enumerate(channels) if c not in SPECIAL or channels.index(c) == at]
        writes = [(channel, self.rng.randbytes(size)) for channel in channels]
        if is_early:
            n, self.next = self.next, self.next + 1
            self.early.setdefault(thread, set()).add((keys.enc(ns), n))
        self._write(process, thread, ns, n, writes, task, stop)

    def _write(self, process, thread, ns, n, writes, task, stop=None):  # noqa: PLR0917
        there = self.model.get(thread, {})
        stage = self.model
        if (ns, n) in there:
            merged = dict(there[ns, n].writes)
            for idx, (channel, value) in enumerate(writes):
                if channel in SPECIAL:
                    merged[task, SPECIAL[channel]] = (channel, value)
                else:
                    merged.setdefault((task, idx), (channel, value))
            stage = self._with(thread, {**there, (ns, n): replace(there[ns, n], writes=merged)})
        config = cfg(thread, ns, n)
        self._call(process, stop, lambda saver: saver.put_writes(config, writes, task), [thread], stage, is_atomic=True)

    @rule(process=processes, which=chances, label=st.sampled_from([None, "x", "y"]), stop=stops)
    def pin(self, process, which, label, stop):
        found = self._some(which)
        if found is None:
            return
        thread, *key = found
        there = self.model[thread]
        stage = self._with(thread, {**there, tuple(key): replace(there[tuple(key)], pin=label)})
        config = cfg(*found)
        call = (
            (lambda saver: saver.admin.unpin(config))
            if label is None
            else (lambda saver: saver.admin.pin(config, label))
        )
        if self._call(process, stop, call, [thread], stage, is_atomic=True) and label is not None:
            self.put_at[thread] = self.clock.now

    @rule(process=processes, which=chances, what=st.sampled_from(RULES), stop=halts)
    def prune(self, process, which, what, stop):
        found = self._some(which)
        if found is not None:
            thread = found[0]
            stage = self._with(thread, pruned(self.model[thread], what, self.clock.now))
            strategy = "keep_latest" if what == RULES[0] else what.strategy
            is_refused = bool(severed(kept(self.model[thread], what, self.clock.now)))

            def call(saver):
                with pytest.raises(CheckpointCorruptError, match="DeltaChannel") if is_refused else nullcontext():
                    saver.prune([thread], strategy=strategy)

            self._call(process, stop, call, [thread], stage)

    @rule(process=processes, which=chances, runs=st.sets(st.sampled_from(RUNS), max_size=1), stop=halts)
    @precondition(lambda self: sum(map(len, self.model.values())) > 4)
    def delete_for_runs(self, process, which, runs, stop):
        """The run of a namespace's latest checkpoint, whose parent is often another run's, and perhaps more runs."""
        found = self._some(which)
        if found is None:
            return
        thread, ns, _ = found
        newest = max(n for other, n in self.model[thread] if other == ns)
        runs = runs | {self.model[thread][ns, newest].metadata["run_id"]}
        # Parts of copies are left alone if the runs have documents there, and an error names the thread.
        documents = self._documents()
        parts = {thread for thread in self.copying if "copying" in documents.get(keys.thread_doc(thread), {})}
        is_refused = any(keys.run_doc(run, thread) in documents for run in runs for thread in parts)
        stage = {
            thread: {key: one for key, one in found.items() if thread in parts or one.metadata["run_id"] not in runs}
            for thread, found in self.model.items()
        }

        def call(saver):
            with pytest.raises(ConflictError, match="unfinished copy") if is_refused else nullcontext():
                saver.delete_for_runs(sorted(runs))

        self._call(process, stop, call, sorted(self.touched), stage)

    @rule(process=processes, which=chances, onto=st.sampled_from(COPIES), stop=halts)
    def copy_thread(self, process, which, onto, stop):
        """Resumes a copy that has crashed, too."""
        target = onto
        found = self._some(which)
        source = self.copying.get(target, found and found[0])
        if source is None or source == target or {source, target} & self.halves or source in self.copying:
            return
        # Pending writes of checkpoints that never came are there too.
        segment = keys.spread(target)
        below = any(name.startswith(f"{keys.THREADS}/{segment}/") for name in self._documents())
        if target not in self.copying and below:
            with pytest.raises(InvalidInputError, match="not empty"):
                self.savers[self.names[process]].copy_thread(source, target)
            return
        self._copy(process, source, target, stop)

    def _copy(self, process, source, target, stop=None):
        if target in self.copying and "copying" not in self._documents().get(keys.thread_doc(target), {}):
            # It crashed after its very last step.
            del self.copying[target]
            self.put_at[target] = self.clock.now
            return
        if target in self.copying and (self._has_more(target, source) or self._has_other(target, source)):
            with pytest.raises(InvalidInputError, match="part of a copy"):
                self.savers[self.names[process]].copy_thread(source, target)
            self._delete(process, target)
            return
        before = self.model.get(target, {})
        copied = {
            # What was copied before keeps its time.
            key: replace(one, pin=None, time=before[key].time if key in before else self.clock.now)
            for key, one in self.model.get(source, {}).items()
        }

        made = []

        def call(saver):
            made.append(saver)
            try:
                saver.copy_thread(source, target)
            except InvalidInputError:
                # Made again after its very last step: the target is not empty any more.
                assert len(made) > 1

        for beside in (self.early, self.former):
            beside.setdefault(target, set()).update(beside.get(source, ()))
        if self._call(process, stop, call, [target], self._with(target, {**before, **copied})):
            self.copying.pop(target, None)
            self.put_at[target] = self.clock.now
        else:
            self.copying[target] = source

    def _has_more(self, target, source):
        """Whether a crashed copy has made something of what has been deleted from its source since."""
        mine, theirs = (
            {
                name.removeprefix(f"{keys.thread_doc(thread)}/"): not fields.keys().isdisjoint(LISTED_BY)
                for name, fields in self._documents().items()
                if name.startswith((f"{keys.checkpoints(thread)}/", f"{keys.writes(thread)}/"))
            }
            for thread in (target, source)
        )
        return any(name not in theirs or is_listed > theirs[name] for name, is_listed in mine.items())

    def _has_other(self, target, source):
        """Whether a crashed copy has made something that its source has with other content now."""
        mine, theirs = self.model.get(target, {}), self.model.get(source, {})
        return any(
            told(key[1], replace(one, writes={})) != told(key[1], replace(theirs[key], writes={}))
            or not one.writes.items() <= theirs[key].writes.items()
            for key, one in mine.items()
            if key in theirs
        )

    def _documents(self):
        return open_raw(self.uri).documents()

    @rule(process=processes, which=chances, stop=halts)
    def delete_thread(self, process, which, stop):
        found = sorted(self.touched)
        self._delete(process, found[which % len(found)], stop)

    def _delete(self, process, thread, stop=None):
        stage = self._with(thread, {})
        is_done = self._call(process, stop, lambda saver: saver.delete_thread(thread), [thread], stage)
        self._end([thread] if is_done else [], [thread])

    def _end(self, gone, begun):
        """Note which of some threads, whose deletion has begun, are gone."""
        self.halves |= set(begun)
        for thread in gone:
            self.halves.discard(thread)
            self.dirty.discard(thread)
            self.copying.pop(thread, None)
            self.put_at.pop(thread, None)

    @rule(process=processes, hours=st.sampled_from([0, 0, 1, 24]), stop=halts)
    def collect(self, process, hours, stop):
        """It deletes nothing that a reader can find."""
        age = timedelta(hours=hours)
        is_done = self._call(
            process,
            stop,
            lambda saver: saver.admin.collect(orphan_age=age),
            sorted(self.touched),
            self.model,
            is_atomic=True,
        )
        if is_done and not hours:
            self.dirty &= self.halves | self.copying.keys() | self._severed()
            self._check_nothing_is_left()

    def _severed(self):
        """Threads that have lost what DeltaChannels are made of: they are left alone."""
        return {thread for thread, found in self.model.items() if severed(found)}

    def _check_nothing_is_left(self):
        with self.open() as cold:
            for thread in self.touched.keys() - self.halves - self.copying.keys() - self._severed():
                assert list(cold.admin.verify(thread, depth="data")) == []

    @rule(process=processes, stop=halts)
    def sweep(self, process, stop):
        """Threads that got nothing for a while go, unless they have a pin."""
        self.is_whole = False
        # A thread that a crashed sweep has begun to delete counts as used. The next sweep leaves it for the whole time.
        stop = stop and (*stop[:2], False)
        now, ttl = self.clock.now, TTL.total_seconds()
        free = [thread for thread in self.touched if not any(one.pin for one in self.model.get(thread, {}).values())]
        certain = {thread for thread in free if now - self.touched[thread] > ttl}
        idle = {thread for thread in free if now - self.put_at.get(thread, 0) > ttl}
        is_done = self._is_done(process, stop, lambda saver: saver.admin.sweep())
        there = self._documents()
        gone = {thread for thread in idle if keys.thread_doc(thread) not in there}
        if is_done:
            assert certain <= gone
            self._become({thread: found for thread, found in self.model.items() if thread not in gone})
        else:
            self.touched |= dict.fromkeys(idle - gone, now)
            self._become(self._settled(sorted(idle), [{}]))
        self._end(gone, idle - gone if stop else ())
        self.looked_at = idle

    @rule(moments=st.sampled_from([1, 2, 5, 40]))
    def wait(self, moments):
        self.clock.now += moments * MOMENT

    @rule(process=processes)
    def restart(self, process):
        """Another process."""
        self._start(self.names[process])

    # What must be so at any time

    @invariant()
    def everything_reads(self):
        if not hasattr(self, "model"):
            return
        # Upkeep reports threads that have lost what DeltaChannels are made of, to which a copy is unfinished, or that a
        # crashed deletion has left without their newest checkpoint.
        skipped = [one for one in self.events if isinstance(one, ThreadSkipped) and one.thread_id not in self.halves]
        reasons = ("DeltaChannel", "unfinished copy")
        assert not [event for event in skipped if not any(reason in event.reason for reason in reasons)]
        self.events.clear()
        warm = self.savers[self.names[0]]
        with self.open() as cold:
            found = {}
            for one in cold.list(None):
                where = one.config["configurable"]
                found.setdefault(where["thread_id"], {})[where["checkpoint_ns"], number(one)] = content(one)
            expected = {
                thread: {key: told(key[1], one) for key, one in there.items()} for thread, there in self.model.items()
            }
            for thread in found.keys() | expected.keys():
                assert not differing(found.get(thread, {}), expected.get(thread, {})), thread
            for thread in sorted(self.looked_at):
                assert not differing(read(cold, thread), found.get(thread, {})), thread
                self._check_thread(cold, warm, thread)
        self.is_whole = True

    def _check_thread(self, cold, warm, thread):
        found = self.model.get(thread, {})
        for ns in SPACES:
            newest = max((n for other, n in found if other == ns), default=None)
            for saver in (cold, warm):
                latest = self._latest(saver, thread, ns)
                assert not differing({thread: latest}, {thread: newest and told(newest, found[ns, newest])}), ns
            assert cold.admin.pins(cfg(thread, ns)) == {
                cid(n): one.pin for (other, n), one in found.items() if other == ns and one.pin
            }
        for ns, n in sorted(found)[-3:]:
            self._check_history(cold, thread, ns, n)
        if thread not in self.halves and thread not in self.copying:
            findings = _unexpected(cold.admin.verify(thread, depth="data"), found)
            # Objects of a put that has lost a race are not its process's to delete.
            wrong = [one for one in findings if one.is_damage or ("/lg_" in one.name and thread not in self.dirty)]
            assert wrong == [], wrong
            if thread not in self.dirty:
                self._check_documents(thread)

    def _check_documents(self, thread):
        """Nothing is left of deleted checkpoints. Pending writes and runs are those of the remaining ones."""
        segment, found = keys.spread(thread), self.model.get(thread, {})
        names = [name.split("/") for name in open_raw(self.uri).rows()]
        writes = ["/".join(parts) for parts in names if parts[1] == segment and keys.WRITES in parts]
        owners = {(keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)) for name in writes}
        early = {(ns, cid(n)) for ns, n in self.early.get(thread, ())}
        assert owners - early == {(keys.enc(ns), cid(n)) for (ns, n), one in found.items() if one.writes}
        runs = {parts[1] for parts in names if parts[0] == keys.RUNS and parts[3] == segment}
        left = {keys.spread(one.metadata["run_id"]) for one in found.values()}
        assert left <= runs <= left | self.former.get(thread, set()), (thread, runs, left)

    def _latest(self, saver, thread, ns):
        try:
            found = saver.get_tuple(cfg(thread, ns))
        except DamageError:
            assert thread in self.halves
            return None
        if found is not None and thread in self.halves:
            found.metadata.pop("recovered_from", None)
        return found and content(found)

    def _check_history(self, saver, thread, ns, n):
        """The history of a DeltaChannel is whole, or raises."""
        found, config = self.model[thread], cfg(thread, ns, n)
        writes, seed, parent = [], None, found[ns, n].parent
        while seed is None and (ns, parent) in found:
            one = found[ns, parent]
            writes = [write for write in one.pending() if write[1] == DELTA] + writes
            seed, parent = one.values.get(DELTA), one.parent
        if seed is None and parent is not None:
            with pytest.raises(CheckpointCorruptError):
                saver.get_delta_channel_history(config=config, channels=[DELTA])
        else:
            expected = {"writes": writes} if seed is None else {"writes": writes, "seed": seed}
            assert saver.get_delta_channel_history(config=config, channels=[DELTA]) == {DELTA: expected}

    # What must be so in the end

    def teardown(self):
        if not hasattr(self, "stack"):
            return
        with self.stack:
            if self.is_whole:
                self._come_to_an_end()
            for saver in self.savers.values():
                saver.close()

    def _come_to_an_end(self):
        for thread in sorted(self.halves):
            self._delete(0, thread)
        for target, source in sorted(self.copying.items()):
            self._copy(0, source, target)
        self.savers[self.names[1]].admin.collect(orphan_age=timedelta())
        self._check_nothing_is_left()
        self.looked_at = set(self.touched)
        self.dirty &= self._severed()
        self.everything_reads()
        for thread in sorted(self.touched):
            self.savers[self.names[0]].delete_thread(thread)
        assert open_raw(self.uri).counts() == {"objects": 0}


def severed(found):
    """Deleted ancestors, by the checkpoints whose DeltaChannel is made of them."""
    lost = {}
    for (ns, n), one in found.items():
        if DELTA in one.values or DELTA not in one.versions:
            continue
        end = one
        while (ns, end.parent) in found:
            end = found[ns, end.parent]
            if DELTA in end.values or DELTA not in end.versions:
                break
        else:
            if end.parent is not None:
                lost[ns, n] = end.parent
    return lost


def pruned(found, rule, now):
    """What pruning leaves: all, if what is to be kept has lost an ancestor."""
    left = kept(found, rule, now)
    return found if severed(left) else left


def _unexpected(findings, found):
    """Findings without those about deleted ancestors, of which exactly the right ones must be there."""
    findings = list(findings)
    gone = [one for one in findings if "DeltaChannel" in one.reason]
    told = {(one.checkpoint_ns, int(n[-12:])): int(one.checkpoint_id[-12:]) for one in gone for n in one.affects}
    assert told == severed(found)
    return [one for one in findings if one not in gone]


def told(n, one):
    """What a reader is to get of a checkpoint of the model."""
    return one.parent, n, one.values, one.versions, one.metadata, one.pending()


def content(found):
    parent = None if found.parent_config is None else int(found.parent_config["configurable"]["checkpoint_id"][-12:])
    one = found.checkpoint
    return parent, number(found), one["channel_values"], one["channel_versions"], found.metadata, found.pending_writes


def read(saver, thread):
    """All checkpoints that are listed, by namespace and number."""
    found = {}
    for one in saver.list(cfg(thread, None)):
        assert one.config["configurable"]["thread_id"] == thread
        found[one.config["configurable"]["checkpoint_ns"], number(one)] = content(one)
    return found


def differing(found, expected):
    """Which are not the same, and in what; the values themselves are long."""
    fields = ("parent", "number", "values", "versions", "metadata", "writes")
    wrong = []
    for key in sorted(found.keys() | expected.keys()):
        one, other = found.get(key), expected.get(key)
        if one is None or other is None:
            wrong += [f"{key}: is missing" if one is None else f"{key}: must not be there"] if one != other else []
        else:
            wrong += [f"{key}: {field}" for field, a, b in zip(fields, one, other, strict=True) if a != b]
    return wrong


def profile(examples, steps, **more):
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        **more,
    )


TestLife = Life.TestCase
TestLife.settings = profile(15, 30, derandomize=True)


@pytest.mark.soak
class TestLongLife(Life.TestCase):
    settings = profile(100, 50)
