"""A recovery rehearsal: a copy of a thread is damaged in one way after another, and recovered, against the clock.

```python
report = drill(saver, "my-thread", rto=30, directory=Path(empty_directory))
assert report.ok, report.problems
```

The thread is copied to an embedded store in the directory. The store that it comes from is only read. Each trial works
on a fresh copy. It damages what is stored, reads the latest checkpoint as a resumed agent does, repairs the thread,
reads the latest again, and reads the whole history. Each value must be what the source gives for the same checkpoint,
and an older checkpoint must say that it is one.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from langgraph_gcs_saver.engine.effects import Commit, Delete, DeleteBlobs, GetBlob, GetDocs, Merge, PutBlob
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.errors import DamageError, GCSSaverError
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import Step, inner_frames
from langgraph_gcs_saver.format.serialization import dumps
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver.checkpointer import GCSSaver
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments

T = TypeVar("T")

_TIMEOUT = 30.0
_FLAG = "recovered_from"
_RESTORES = 3

Key = tuple[str, str]
"""A checkpoint: its namespace and its id."""

Contents = Mapping[str, str]
"""Digests of a checkpoint's values by channel, and of its other parts by name."""


@record(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a read of the latest checkpoint gave.

    Attributes:
        kind: `exact` (the latest, as it was), `older, flagged`, `older, unflagged`, `error`, `nothing` or `wrong`.
        checkpoint_id: The checkpoint that the read gave.
        behind: How many newer checkpoints the thread had.
        error: The error's kind and message.
    """

    kind: str
    checkpoint_id: str | None = None
    behind: int = 0
    error: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class Trial:
    """One damage, and the recovery from it.

    Attributes:
        damage: What was done.
        name: The document or object that was damaged.
        checkpoint_id: The newest checkpoint that needs it.
        skipped: Why the damage was not tried, if it was not.
        at_once: What a read of the latest checkpoint gave.
        repair: How often `repair` took which action.
        after: What a read gave after the repair.
        readable: How many checkpoints can be read in the end.
        expected: How many checkpoints there were.
        seconds: Time of the first read, the repair, and the read after it.
        problems: Why the trial failed; none if it did not.
    """

    damage: str
    name: str | None = None
    checkpoint_id: str | None = None
    skipped: str | None = None
    at_once: Answer | None = None
    repair: Mapping[str, int] = field(default_factory=dict)
    after: Answer | None = None
    readable: int = 0
    expected: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """What a rehearsal showed.

    Attributes:
        thread_id: The thread.
        rto: The objective: the longest a recovery may take, in seconds.
        checkpoints: How many checkpoints the thread has.
        copied_in: Seconds to copy the thread to the scratch store, compared and decoded.
        trials: What was tried.
        restores: Seconds that each restore in a fresh process took, from its start until it had the state.
        problems: Values of the scratch copy that differ from those of the source, and restores that took too long.
    """

    thread_id: str
    rto: float
    checkpoints: int
    copied_in: float
    trials: tuple[Trial, ...]
    restores: tuple[float, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every recovery was right and in time, and every restore in time."""
        return not self.problems and not any(trial.problems for trial in self.trials)


def drill(
    saver: GCSSaver,
    thread_id: str,
    *,
    rto: float,
    directory: Path,
    step: Callable[[str], object] | None = None,
    restore: Callable[[], float] | None = None,
    **options: Any,
) -> DrillReport:
    """Rehearse the recovery of a thread. If it has no checkpoint, nothing is tried.

    Args:
        saver: A saver of the thread's store. Nothing is written there.
        thread_id: The thread.
        rto: The longest a recovery may take, in seconds.
        directory: An empty directory for copies of the thread.
        step: Called before each part, with a description of it.
        restore: Restores the thread from its own store in a fresh process, and returns how long that took. It is
            called three times. The command `drill` passes one.
        options: Options of the savers of the copies, such as `cipher`.

    Raises:
        DamageError: The thread is already damaged.
        WrongKeyError: The thread is encrypted, and `options` do not have the right cipher.
    """
    tell = step or _ignore
    options = {"serde": saver.serde, **options}
    base = directory / "base"
    tell("copying the thread")
    begun = time.perf_counter()
    with GCSSaver.from_conn_string(base.as_uri(), **options) as copy:
        moved = saver.admin.transfer_thread(thread_id, copy)
        copied_in = time.perf_counter() - begun
        damage = [finding for finding in moved.findings if finding.is_damage]
        if damage:
            raise DamageError(f"Thread {thread_id!r} is already damaged: {damage[0]}. Repair it first.")
        tell("reading the copy")
        expected = {_key(found): _contents(found, copy) for found in copy.list(_config(thread_id, None))}
    if not expected:
        return DrillReport(thread_id=thread_id, rto=rto, checkpoints=0, copied_in=copied_in, trials=())
    tell("reading the source")
    problems = [*_differences(saver, thread_id, expected)]
    tell("restoring in fresh processes")
    restores = () if restore is None else tuple(restore() for _ in range(_RESTORES))
    problems += [
        f"a restore in a fresh process took {seconds:.2f} s, more than {rto:g} s"
        for seconds in restores
        if seconds > rto
    ]
    rehearsal = _Rehearsal(thread_id, base, expected, rto, options)
    trials: list[Trial] = []
    for what, choose in _DAMAGES.items():
        tell(what)
        trials.append(rehearsal.trial(what, choose, directory / "trial"))
    return DrillReport(
        thread_id=thread_id,
        rto=rto,
        checkpoints=len(expected),
        copied_in=copied_in,
        trials=tuple(trials),
        restores=restores,
        problems=tuple(problems),
    )


def _ignore(_: object) -> None:
    pass


def _differences(saver: GCSSaver, thread_id: str, expected: Mapping[Key, Contents]) -> Iterator[str]:
    for found in saver.list(_config(thread_id, None)):
        key = _key(found)
        # Pending writes may have come since the copy was made.
        if key in expected and _without_writes(_contents(found, saver)) != _without_writes(expected[key]):
            yield f"checkpoint {key[1]} of namespace {key[0]!r} reads differently from the copy than from its store"


def _config(thread_id: str, ns: str | None = "") -> RunnableConfig:
    more = {} if ns is None else {"checkpoint_ns": ns}
    return {"configurable": {"thread_id": thread_id, **more}}


def _key(found: CheckpointTuple) -> Key:
    known = found.config["configurable"]
    return known["checkpoint_ns"], known["checkpoint_id"]


def _contents(found: CheckpointTuple, saver: GCSSaver) -> Contents:
    """Digests of a checkpoint's parts as the reader gave them, serialized again. No channel is called `~…`."""

    def digest(value: object) -> str:
        written = dumps(saver.serde, value, f"A value of checkpoint {checkpoint['id']!r}")
        return hashlib.sha256(written.type.encode() + b"\0" + written.data).hexdigest()

    checkpoint = dict(found.checkpoint)
    values: Mapping[str, Any] = checkpoint.pop("channel_values")  # type: ignore[assignment]
    metadata = {key: value for key, value in found.metadata.items() if key != _FLAG}
    parent = None if found.parent_config is None else found.parent_config["configurable"]["checkpoint_id"]
    rest = {"~checkpoint": checkpoint, "~metadata": metadata, "~parent": parent, "~writes": found.pending_writes}
    parts = {**{f"={channel}": value for channel, value in values.items()}, **rest}
    return {name: digest(value) for name, value in parts.items()}


def _without_writes(contents: Contents) -> dict[str, str]:
    return {name: digest for name, digest in contents.items() if name != "~writes"}


class _Scratch:
    """A copy of the thread, to be damaged behind the saver's back."""

    def __init__(self, path: Path, codec: Codec) -> None:
        self.documents = LocalDocuments(path, timeout=_TIMEOUT)
        self.blobs = LocalBlobs(path, timeout=_TIMEOUT)
        self._backend = Backend(self.documents, self.blobs)
        self._codec = codec

    def close(self) -> None:
        self._backend.close()

    def steps(self, name: str) -> list[Step]:
        """The frames that a checkpoint is made of."""
        doc = self.documents.get_docs(GetDocs((name,)))[name]
        known = run(read_manifest(doc, self._codec), self._backend)
        return [one for channel in known.channels for one in known.steps(channel)]

    def drop(self, name: str) -> None:
        self.documents.commit(Commit((Delete(name),)))

    def flip_inline(self, frame: Step) -> None:
        doc = self.documents.get_docs(GetDocs((frame.name,)))[frame.name]
        flipped = _flipped(inner_frames(doc), frame.frame.at + frame.frame.stored // 2)
        self.documents.commit(Commit((Merge(frame.name, {"frames": flipped}),)))

    def flip_object(self, frame: Step) -> None:
        data = self.blobs.get_blob(GetBlob(frame.name)) or b""
        self.remove(frame)
        self.blobs.put_blob(PutBlob(frame.name, _flipped(data, frame.frame.at + frame.frame.stored // 2)))

    def remove(self, frame: Step) -> None:
        self.blobs.delete_blobs(DeleteBlobs((frame.name,)))


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


Done = tuple[str, str]
"""The document or object that was damaged, and the document of the newest checkpoint that needs it."""

Choose = Callable[["_Scratch", list[str]], "Done | None"]
"""Damages one of some checkpoints. Their documents are named newest first."""


def _drop_newest(scratch: _Scratch, names: list[str]) -> Done | None:
    scratch.drop(names[0])
    return names[0], names[0]


def _flip_inline(scratch: _Scratch, names: list[str]) -> Done | None:
    found = _largest(scratch, names, is_object=False)
    if found is not None:
        scratch.flip_inline(found[0])
    return None if found is None else (found[0].name, found[1])


def _flip_object(scratch: _Scratch, names: list[str]) -> Done | None:
    found = _largest(scratch, names, is_object=True)
    if found is not None:
        scratch.flip_object(found[0])
    return None if found is None else (found[0].name, found[1])


def _remove_object(scratch: _Scratch, names: list[str]) -> Done | None:
    found = _largest(scratch, names, is_object=True)
    if found is not None:
        scratch.remove(found[0])
    return None if found is None else (found[0].name, found[1])


def _largest(scratch: _Scratch, names: list[str], *, is_object: bool) -> tuple[Step, str] | None:
    """The largest frame of a kind, of the newest checkpoint that has one. Its own frames come before inherited ones."""
    for name in names:
        frames = [one for one in scratch.steps(name) if (one.frame.attempt is not None) is is_object]
        if frames:
            return max(frames, key=lambda one: (one.frame.owner is None, one.frame.stored)), name
    return None


_DAMAGES: Mapping[str, Choose] = {
    "newest checkpoint dropped": _drop_newest,
    "inline frame flipped": _flip_inline,
    "object flipped": _flip_object,
    "object removed": _remove_object,
}


class _Rehearsal:
    def __init__(
        self, thread_id: str, base: Path, expected: Mapping[Key, Contents], rto: float, options: Mapping[str, Any]
    ) -> None:
        self._thread_id = thread_id
        self._base = base
        self._expected = expected
        self._rto = rto
        self._options = options
        self._codec = Codec(3, options.get("cipher"), accept_clear=options.get("accept_clear", False))
        spaces = sorted({ns for ns, _ in expected})
        self._ns = "" if "" in spaces else spaces[0]
        self._ids = sorted((one for ns, one in expected if ns == self._ns), key=str.encode, reverse=True)

    def trial(self, what: str, choose: Choose, path: Path) -> Trial:
        """Damage a fresh copy, recover it, and judge the recovery."""
        shutil.copytree(self._base, path)
        try:
            scratch = _Scratch(path, self._codec)
            try:
                names = [keys.checkpoint_doc(self._thread_id, self._ns, one) for one in self._ids]
                done = choose(scratch, names)
            finally:
                scratch.close()
            if done is None:
                where = "a document" if "inline" in what else "an object"
                return Trial(damage=what, skipped=f"no value of the thread is in {where}")
            return self._recover(what, done, path)
        finally:
            shutil.rmtree(path)

    @contextmanager
    def _open(self, path: Path) -> Iterator[GCSSaver]:
        with GCSSaver.from_conn_string(path.as_uri(), **self._options) as saver:
            yield saver

    def _recover(self, what: str, done: Done, path: Path) -> Trial:
        problems: list[str] = []
        with self._open(path) as saver:
            at_once, first = _timed(partial(self._ask, saver))
        with self._open(path) as saver:
            plans, repair = _timed(partial(saver.admin.repair, self._thread_id))
        steps = [one for plan in plans for one in plan.steps]
        with self._open(path) as saver:
            after, last = _timed(partial(self._ask, saver))
        with self._open(path) as saver:
            readable = 0
            for found in saver.list(_config(self._thread_id, None)):
                readable += 1
                if not self._is_right(found, saver):
                    problems.append(f"a wrong value: checkpoint {_key(found)[1]} after the repair")
        seconds = first + repair + last
        for when, answer in (("at once", at_once), ("after the repair", after)):
            if answer.kind == "wrong":
                problems.append(f"a wrong value {when}: checkpoint {answer.checkpoint_id}")
        if at_once.kind == "older, unflagged":
            problems.append("an older checkpoint came at once, and nothing said so")
        if at_once.kind == "nothing":
            problems.append("the thread read as empty at once, and nothing said so")
        if after.kind in {"error", "nothing"}:
            problems.append(f"no recovery: {after.error or 'the thread reads as empty'}")
        if seconds > self._rto:
            problems.append(f"it took {seconds:.2f} s, more than {self._rto:g} s")
        return Trial(
            damage=what,
            name=done[0],
            checkpoint_id=keys.checkpoint_id_of(done[1]),
            at_once=at_once,
            repair=dict(Counter(one.action for one in steps)),
            after=after,
            readable=readable,
            expected=len(self._expected),
            seconds=seconds,
            problems=tuple(problems),
        )

    def _is_right(self, found: CheckpointTuple, saver: GCSSaver) -> bool:
        return _contents(found, saver) == self._expected.get(_key(found))

    def _ask(self, saver: GCSSaver) -> Answer:
        """Read the latest checkpoint, as a resumed agent does."""
        try:
            found = saver.get_tuple(_config(self._thread_id, self._ns))
        except GCSSaverError as error:
            return Answer(kind="error", error=f"{error.kind}: {error}")
        if found is None:
            return Answer(kind="nothing")
        given = _key(found)[1]
        behind = self._ids.index(given) if given in self._ids else 0
        if not self._is_right(found, saver):
            return Answer(kind="wrong", checkpoint_id=given, behind=behind)
        if not behind:
            return Answer(kind="exact", checkpoint_id=given)
        kind = "older, flagged" if found.metadata.get(_FLAG) else "older, unflagged"
        return Answer(kind=kind, checkpoint_id=given, behind=behind)


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begun
