"""Flip everything: damage each stored document and object of a thread in turn, and read everything.

```python
with DamagedThread(documents, blobs, "thread", donor_id="another thread") as thread:
    tally = flip_everything(thread)
```

It works on any pair of stores, through effects alone. Each damage is done behind the saver's back. Then a saver without
caches reads every checkpoint by its id, and the latest of every namespace (falling back and raising). It lists the
whole thread, each namespace, and by metadata. What is stored determines what each of these reads must answer: the exact
tuple, a typed error, or, for the latest, an older exact tuple with a flag. Any other answer raises an `AssertionError`:

- `WrongAnswer`: the read gave something that was never written, or an error that does not fit the damage, or an error
  for a checkpoint that the damage does not touch;
- `Unnoticed`: the read gave the exact tuple, although its parts are damaged. Then the reader or this checker has a bug.

Then the damage is undone, and everything must read as before.

No reader can notice these damages:

- A missing document of pending writes, or a missing field of special writes while another one is left: nothing says how
  many there were. The checkpoint reads without writes of that task. All else is exact.
- A missing checkpoint that is read by its id: it reads as one that never existed, with `None`, and lists lack it. The
  latest of a namespace is then the newest that remains. It is flagged if it names the lost one as its child (its
  `heir`), so not if the lost one is a fork of another checkpoint. A thread whose root namespace has lost its only
  checkpoint raises. If another namespace has lost its only checkpoint, nothing shows that it existed.
- The field `ns` of a checkpoint. By its id, the checkpoint is damaged. Queries for its namespace do not find it, as if
  it were missing.
- The fields `filter`, `run_id`, `former_runs` and `heir`, the thread's own document and those of its runs. They are
  hints, for queries and for deleting. A list with a filter returns exact tuples, but may lack a checkpoint whose hints
  are damaged. If the `heir` of the latest is damaged, the latest is exact, but may be flagged for a child that never
  existed.
- Bytes of `frames`, or of an object of packed frames, that no manifest refers to.
- Bits of a frame that do not affect its content, such as the size of its window: it decodes to the very same bytes. In
  manifests and pending writes in documents every bit counts, because digests cover their stored bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import CipherProtocol

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Fields,
    GetBlob,
    GetDocs,
    ListBlobs,
    Merge,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    DamageError,
    GCSSaverError,
    UnsupportedFormatError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointSkipped, Event
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import filters, keys, manifest, registry
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import FORMAT, NEWEST_FORMAT, Manifest
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import DEPTHS, Depth, Finding
from langgraph_gcs_saver.saver.checkpointer import GCSSaver

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

Key = tuple[str, str]
"""A checkpoint of the thread: its namespace and its id."""


class WrongAnswer(AssertionError):  # noqa: N818 - what happened, as test reports show it
    """A read gave an answer that it must not give."""


class Unnoticed(AssertionError):  # noqa: N818 - likewise
    """A read gave the exact tuple, although its parts are damaged."""


@dataclass(frozen=True)
class Damage:
    """What is done to a thread.

    Attributes:
        what: A description, for a test that fails.
        docs: Fields of the documents that change, by name; `None` deletes a document.
        blobs: Bytes of the objects that change, by name; `None` deletes an object.
        is_deletion: Whether it deletes a document or an object.
    """

    what: str
    docs: Mapping[str, Fields | None] = field(default_factory=dict)
    blobs: Mapping[str, bytes | None] = field(default_factory=dict)
    is_deletion: bool = False


@dataclass(frozen=True)
class Image:
    """What is stored of a thread: its documents and objects, by name."""

    docs: Mapping[str, Doc]
    blobs: Mapping[str, bytes]

    def damaged(self, damage: Damage) -> Image:
        """What is stored after the damage."""
        docs = {name: replace(doc, fields=damage.docs.get(name, doc.fields) or {}) for name, doc in self.docs.items()}
        return Image(
            {name: doc for name, doc in docs.items() if damage.docs.get(name, ()) is not None},
            {n: d for n, data in self.blobs.items() if (d := damage.blobs.get(n, data)) is not None},
        )


@dataclass
class Fates:
    """What reads must find. Every checkpoint that is in none of these reads exactly.

    Attributes:
        damaged: Checkpoints with a damaged part, with the channels that are damaged (`None`: not only a channel).
        gone: Checkpoints that no longer have a document.
        newer: Checkpoints that read as written by a newer version.
        hidden: Checkpoints that queries for their namespace do not find.
        hinted: Checkpoints that queries for metadata may not find.
        fewer: Checkpoints that may lack pending writes, with the tasks that made those writes.
    """

    damaged: dict[Key, set[str | None]] = field(default_factory=dict)
    gone: set[Key] = field(default_factory=set)
    newer: set[Key] = field(default_factory=set)
    hidden: set[Key] = field(default_factory=set)
    hinted: set[Key] = field(default_factory=set)
    fewer: dict[Key, set[str | None]] = field(default_factory=dict)

    def settle(self) -> Fates:
        """Of several fates of a checkpoint, keep the one that readers see first."""
        self.newer -= self.gone
        for key in self.gone | self.newer:
            self.damaged.pop(key, None)
        return self


@record(frozen=True, slots=True)
class Tally:
    """What `flip_everything` did.

    Attributes:
        tried: How many damages were done.
        noticed: How many damages some read noticed: by an error, an event, a flag, or by leaving something out.
    """

    tried: int
    noticed: int


def flip_everything(
    thread: DamagedThread,
    *,
    flips: int = 4,
    every: int = 1,
    every_deletion: int = 1,
    every_async: int = 9,
    every_verify: int = 4,
) -> Tally:
    """Do each damage in turn.

    Args:
        thread: What to damage.
        flips: How many bits to flip in each run of bytes: in the first byte, in the last, and between them.
        every: Do one damage of this many. A prime number covers all kinds of damage.
        every_deletion: Delete one document or object of this many.
        every_async: Read one damage of this many asynchronously too.
        every_verify: For one damage of this many, `GCSSaver.verify` must find it too.

    Raises:
        WrongAnswer: A read gave an answer that it must not give.
        Unnoticed: A read gave an exact tuple made of damaged parts.
    """
    tried = noticed = numbers = deletions = 0
    for damage in thread.damages(flips):
        if damage.is_deletion:
            deletions += 1
            is_due = deletions % every_deletion == 0
        else:
            numbers += 1
            is_due = numbers % every == 0
        if is_due:
            tried += 1
            asynchronous, verify = tried % every_async == 0, tried % every_verify == 0
            noticed += thread.check(damage, asynchronous=asynchronous, verify=verify) > 0
    thread.check_whole()
    return Tally(tried, noticed)


class DamagedThread:
    """A thread of some stores, what reads of it must give, and ways to damage it.

    Closing it closes the stores. No other process may write to the thread meanwhile. Ids must not be longer than 200
    bytes, because the names of documents and objects show which checkpoint they belong to.

    Args:
        documents: The store of its documents.
        blobs: The store of its objects.
        thread_id: The thread.
        donor_id: Another thread, whose documents and objects are copied into this one.
        options: Options of the savers that read, such as `cipher` and `serde`.

    Attributes:
        expected: What a read of each checkpoint gives, newest first.
        manifests: What the stored manifest of each checkpoint says.
        image: What is stored of the thread, undamaged.
        filters: Metadata to list it by.
        cipher: The cipher of the savers that read.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        thread_id: str,
        *,
        donor_id: str | None = None,
        **options: Any,
    ) -> None:
        self.thread_id = thread_id
        self._documents, self._blobs, self._options = documents, blobs, options
        self._lent = (_LentDocuments(documents), _LentBlobs(blobs))
        self.cipher: CipherProtocol | None = options.get("cipher")
        self._codec = Codec(3, self.cipher, accept_clear=options.get("accept_clear", False))
        self._loop: asyncio.AbstractEventLoop | None = None
        self.image = self._look(thread_id)
        self._donor = Image({}, {}) if donor_id is None else self._look(donor_id)
        with self.reader() as reader:
            read = [(_key(found), found) for found in reader.list(self.config())]
        self.expected: dict[Key, CheckpointTuple] = dict(read)
        if not read or len(self.expected) != len(read):
            raise WrongAnswer(f"a list of thread {thread_id!r} is empty, or has a checkpoint twice")
        self._names = {keys.checkpoint_doc(thread_id, *key): key for key in self.expected}
        backend = Backend(*self._lent)
        self.manifests: dict[Key, Manifest] = {
            key: run(read_manifest(self.image.docs[name], self._codec), backend) for name, key in self._names.items()
        }
        backend.close()
        self._plains = {
            (key, channel): _plains(known, channel, self.image, self._codec)
            for key, known in self.manifests.items()
            for channel in known.channels
        }
        self.filters = self._some_filters()
        self.check_whole()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the stores, and the event loop if there is one."""
        if self._loop is not None:
            self._loop.run_until_complete(self._documents.aclose())
            self._loop.close()
            self._loop = None
        self._documents.close()
        self._blobs.close()

    # What is stored

    def _look(self, thread_id: str) -> Image:
        names = [keys.thread_doc(thread_id)]
        found: list[Doc] = []
        for entry in registry.COLLECTIONS:
            if entry.is_read:
                found += self._documents.query_docs(QueryDocs(f"{names[0]}/{entry.id}"))
        runs = {run_id for doc in found for run_id in manifest.runs_of(doc)}
        names += [keys.run_doc(run_id, thread_id) for run_id in sorted(runs)]
        docs = {**self._documents.get_docs(GetDocs(tuple(names))), **{doc.name: doc for doc in found}}
        blobs: dict[str, bytes] = {}
        prefix, after = keys.thread_blobs(thread_id), None
        while page := self._blobs.list_blobs(ListBlobs(prefix, after)):
            after = page[-1].name
            for info in page:
                data = self._blobs.get_blob(GetBlob(info.name))
                if data is None:
                    raise WrongAnswer(f"{info.name!r} is listed, but cannot be read")
                blobs[info.name] = data
        return Image(docs, blobs)

    def _some_filters(self) -> list[dict[str, Any]]:
        """Metadata to list by: the source of the oldest checkpoint, and a run."""
        metadata: list[Mapping[str, Any]] = [dict(found.metadata) for found in self.expected.values()]
        wanted = [{"source": metadata[-1]["source"]}] if "source" in metadata[-1] else []
        runs = [found[filters.RUN_ID] for found in metadata if filters.RUN_ID in found]
        return wanted + [{filters.RUN_ID: run_id} for run_id in runs[:1]]

    # Every damage

    def damages(self, flips: int = 4) -> Iterator[Damage]:
        """Every damage. Each changes what is stored; `flips` is as in `flip_everything`."""
        for name, doc in sorted(self.image.docs.items()):
            kind = _kind(name)
            siblings = [self.image.docs[other] for other in _past(name, self.image.docs) if _kind(other) == kind]
            strangers = [found for other, found in sorted(self._donor.docs.items()) if _kind(other) == kind]
            yield from _document_damages(doc, siblings, strangers, flips)
        for name, data in sorted(self.image.blobs.items()):
            others = {other: self.image.blobs[other] for other in _past(name, self.image.blobs)}
            yield from _blob_damages(name, data, others, self._donor.blobs, flips)

    @contextmanager
    def damaged(self, damage: Damage) -> Iterator[None]:
        """The stores with the damage, which is undone at the end."""
        writes = [_change(self.image.docs[name], fields) for name, fields in damage.docs.items()]
        self._commit(writes)
        for name, data in damage.blobs.items():
            self._set_blob(name, data)
        try:
            yield
        finally:
            self._repair_copy(damage)

    def _commit(self, writes: Sequence[Write]) -> None:
        if writes and self._documents.commit(Commit(tuple(writes))) is None:
            raise WrongAnswer(f"another process writes to thread {self.thread_id!r}")

    def _set_blob(self, name: str, data: bytes | None) -> None:
        self._blobs.delete_blobs(DeleteBlobs((name,)))
        if data is not None:
            self._blobs.put_blob(PutBlob(name, data))

    def _repair_copy(self, damage: Damage) -> None:
        for name, fields in damage.docs.items():
            doc = self.image.docs[name]
            if fields is None and f"/{keys.WRITES}/" in name:
                self._write_again(name)
            elif fields is None:
                self._commit([Create(name, doc.fields)])
            else:
                removed = tuple(sorted(fields.keys() - doc.fields.keys()))
                self._commit([Merge(name, doc.fields, remove=removed)])
        for name in damage.blobs:
            self._set_blob(name, self.image.blobs[name])
        restored = self._documents.get_docs(GetDocs(tuple(damage.docs))) if damage.docs else {}
        if any(name not in restored or restored[name].fields != self.image.docs[name].fields for name in damage.docs):
            raise WrongAnswer(f"{damage.what}: a document was restored, but is not as it was")
        if any(self._blobs.get_blob(GetBlob(name)) != self.image.blobs[name] for name in damage.blobs):
            raise WrongAnswer(f"{damage.what}: an object was restored, but is not as it was")

    def _write_again(self, name: str) -> None:
        """Write all pending writes of a checkpoint again, because the first for a task and number wins."""
        beginning = name.rsplit("!", 2)[0]
        docs = [doc for doc in self.image.docs.values() if doc.name.rsplit("!", 2)[0] == beginning]
        self._commit([Delete(doc.name) for doc in docs])
        for doc in sorted(docs, key=lambda doc: (doc.create_time, doc.name)):
            self._commit([Create(doc.name, doc.fields)])

    # Reading

    def check_whole(self) -> None:
        """Read everything without any damage.

        Raises:
            WrongAnswer: A read differs from the first one.
        """
        nothing = Damage("nothing")
        for asynchronous in (False, True):
            if _Check(self, nothing, asynchronous=asynchronous).read():
                raise WrongAnswer(f"thread {self.thread_id!r} has no damage, but a read reports some")
        _Check(self, nothing).verify()

    def check(self, damage: Damage, *, asynchronous: bool = False, verify: bool = False) -> int:
        """Do a damage, read everything as `read` does, and undo it. Returns how many reads noticed it."""
        with self.damaged(damage):
            noticed = self.read(damage, asynchronous=asynchronous, verify=verify)
        if None in damage.docs.values():
            # Undoing it compared all else. A document that was created again has another time of creation.
            self.read(Damage(f"{damage.what}, restored"))
        return noticed

    def read(self, damage: Damage, *, asynchronous: bool = False, verify: bool = False) -> int:
        """Read everything while the stores have a damage. Returns how many reads noticed it.

        Args:
            damage: What was done.
            asynchronous: Whether to read everything by the asynchronous methods too.
            verify: Whether `GCSSaver.verify` must find it too.

        Raises:
            WrongAnswer: A read gave an answer that it must not give.
            Unnoticed: A read gave an exact tuple made of damaged parts.
        """
        noticed = _Check(self, damage).read()
        if asynchronous and _Check(self, damage, asynchronous=True).read() != noticed:
            raise WrongAnswer(f"{damage.what}: asynchronous reads notice something else than synchronous ones")
        if verify:
            _Check(self, damage).verify()
        return noticed

    def reader(self, **options: Any) -> GCSSaver:
        """A saver without caches. Closing it leaves the stores open."""
        return GCSSaver(stores=self._lent, **self._options, **options)

    def config(self, ns: str | None = None, checkpoint_id: str | None = None) -> RunnableConfig:
        """The config of the thread, one of its namespaces, or one of its checkpoints."""
        given = {"thread_id": self.thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return {"configurable": {key: value for key, value in given.items() if value is not None}}

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, on the event loop that all asynchronous reads of the thread share."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    # What must be read

    def fates(self, damage: Damage, image: Image) -> Fates:
        """What reads must find with a damage; `image` is what is stored then."""
        fates = Fates()
        for name, fields in damage.docs.items():
            if name in self._names:
                self._judge_checkpoint(name, self._names[name], self.image.docs[name].fields, fields, fates)
            elif f"/{keys.WRITES}/" in name:
                key = next((key for key in self.expected if self._has_writes(key, name)), None)
                if key is not None:
                    _judge_writes(key, name, self.image.docs[name].fields, fields, fates)
        for name, data in damage.blobs.items():
            what = name.rsplit("/", 1)[1]
            if what.startswith((f"{keys.MANIFEST}-", f"{keys.WRITES_BLOB}-")):
                key = next((key for key in self.expected if name.startswith(self._blobs_of(key))), None)
                if key is not None and _opened(data, self._codec) != _opened(self.image.blobs[name], self._codec):
                    fates.damaged.setdefault(key, set()).add(None)
        touched = {*damage.docs, *damage.blobs}
        for (key, channel), plains in self._plains.items():
            known = self.manifests[key]
            if not touched.isdisjoint(known.place(channel, frame) for frame in known.channels[channel].chain) and (
                _plains(known, channel, image, self._codec) != plains
            ):
                fates.damaged.setdefault(key, set()).add(channel)
        return fates.settle()

    def _has_writes(self, key: Key, name: str) -> bool:
        ns, checkpoint_id = key
        return name.startswith(keys.writes_range(self.thread_id, ns, checkpoint_id, checkpoint_id)[0])

    def _blobs_of(self, key: Key) -> str:
        return keys.blob(self.thread_id, *key, "", "").removesuffix("-.zst")

    @staticmethod
    def _judge_checkpoint(name: str, key: Key, before: Fields, after: Fields | None, fates: Fates) -> None:
        if after is None:
            fates.gone.add(key)
            fates.hidden.add(key)
            fates.hinted.add(key)
            return
        if _is_newer(name, after):
            fates.newer.add(key)
        elif any(before.get(one) != after.get(one) for one in ("format", "ns", "manifest", "digest")):
            fates.damaged[key] = {None}
        if before["ns"] != after.get("ns"):
            fates.hidden.add(key)
        if any(before.get(one) != after.get(one) for one in ("filter", "run_id")):
            fates.hinted.add(key)


class _Check:
    """Reads everything of a thread with a damage."""

    def __init__(self, thread: DamagedThread, damage: Damage, *, asynchronous: bool = False) -> None:
        self._thread, self._damage, self._asynchronous = thread, damage, asynchronous
        self._image = thread.image.damaged(damage)
        self._fates = thread.fates(damage, self._image)
        self._events: list[Event] = []
        self._order: dict[str, list[Key]] = {}
        for key in thread.expected:
            self._order.setdefault(key[0], []).append(key)

    def read(self) -> int:
        """Read everything. Returns how many reads noticed the damage."""
        noticed = 0
        with self._reader() as reader:
            for key in self._thread.expected:
                noticed += self._read_one(reader, key)
            for ns in self._order:
                noticed += self._read_latest(reader, ns, falls_back=True)
                noticed += self._read_list(reader, ns, None)
            for wanted in (None, *self._thread.filters):
                noticed += self._read_list(reader, None, wanted)
        with self._reader(on_corruption="raise") as reader:
            for ns in self._order:
                noticed += self._read_latest(reader, ns, falls_back=False)
        return noticed

    def _reader(self, **options: Any) -> GCSSaver:
        return self._thread.reader(on_event=self._events.append, **options)

    # By id

    def _read_one(self, reader: GCSSaver, key: Key) -> int:
        what = f"get {key}"
        found = self._get(reader, what, *key)
        if key in self._fates.gone:
            self._demand(found is None, what, found)
        elif key in self._fates.newer:
            self._demand(isinstance(found, UnsupportedFormatError), what, found)
        elif key in self._fates.damaged:
            self._demand_corrupt(found, key, what)
        else:
            return self._demand_exact(found, key, what)
        return 1

    def _get(
        self, reader: GCSSaver, what: str, ns: str, checkpoint_id: str | None = None
    ) -> CheckpointTuple | GCSSaverError | None:
        config = self._thread.config(ns, checkpoint_id)
        if self._asynchronous:
            return self._try(what, partial(self._thread.wait, reader.aget_tuple(config)))
        return self._try(what, partial(reader.get_tuple, config))

    def _try(self, what: str, call: Callable[[], T]) -> T | GCSSaverError:
        self._events.clear()
        try:
            return call()
        except GCSSaverError as error:
            return error
        except Exception as error:
            raise WrongAnswer(f"{self._damage.what}: {what} raised {type(error).__name__}: {error}") from error

    def _demand(self, holds: bool, what: str, found: object) -> None:
        if not holds:
            answer = f"raised {found!r}" if isinstance(found, Exception) else f"gave {found!r}"
            raise WrongAnswer(f"{self._damage.what}: {what} {answer}")

    def _demand_exact(self, found: object, key: Key, what: str, recovered_from: str | None = None) -> int:
        """Demand the tuple of a checkpoint, with a flag or without. Returns 1 if it shows the damage, else 0."""
        expected = self._thread.expected[key]
        if not isinstance(found, CheckpointTuple):
            raise WrongAnswer(f"{self._damage.what}: {what} gave {found!r}, but the damage does not touch it")
        told = {event.recovered_from for event in self._events if isinstance(event, CheckpointRecovered)}
        self._demand(told == ({recovered_from} - {None}), f"{what}, with events for {told},", found)
        if recovered_from is not None:
            metadata: Any = {**expected.metadata, "recovered_from": recovered_from}
            expected = expected._replace(metadata=metadata)
        if found == expected:
            return int(recovered_from is not None)
        writes = self._fates.fewer.get(key)
        self._demand(
            writes is not None
            and found._replace(pending_writes=expected.pending_writes) == expected
            and _lacks_only(found.pending_writes or [], expected.pending_writes or [], writes),
            what,
            found,
        )
        return 1

    def _demand_corrupt(self, found: object, key: Key, what: str) -> None:
        if isinstance(found, CheckpointTuple) and _key(found) == key:
            if found == self._thread.expected[key]:
                raise Unnoticed(f"{self._damage.what}: {what}: no error found, so the checker or the reader has a bug")
            self._demand(holds=False, what=what, found=found)
        if not isinstance(found, CheckpointCorruptError):
            raise WrongAnswer(f"{self._damage.what}: {what} gave {found!r}, not that it is damaged")
        where = (found.thread_id, found.checkpoint_ns, found.checkpoint_id)
        self._demand(where == (self._thread.thread_id, *key), what, found)
        self._demand(all(text in str(found) for text in where), what, found)
        channels = self._fates.damaged[key]
        if None not in channels:
            self._demand(found.channel in channels and found.frame is not None, what, found)

    # The latest

    def _read_latest(self, reader: GCSSaver, ns: str, *, falls_back: bool) -> int:
        what = f"the latest of {ns!r}{'' if falls_back else ', without falling back,'}"
        fates, seen = self._fates, [key for key in self._order[ns] if key not in self._fates.hidden]
        found = self._get(reader, what, ns)
        if not seen:
            self._demand(isinstance(found, DamageError) if ns == "" else found is None, what, found)
            return 1
        first = seen[0]
        whole = next((key for key in seen if key not in fates.damaged), None)
        if first in fates.newer or (falls_back and first in fates.damaged and whole in fates.newer):
            self._demand(isinstance(found, UnsupportedFormatError), what, found)
        elif first in fates.damaged and (whole is None or not falls_back):
            self._demand_corrupt(found, first, what)
        elif whole is not None and first in fates.damaged:
            if isinstance(found, CheckpointTuple) and _key(found) == first:
                self._demand_corrupt(found, first, what)
            self._demand_exact(found, whole, what, first[1])
            told = {event.checkpoint_id for event in self._events if isinstance(event, CheckpointDamaged)}
            self._demand(first[1] in told, f"{what}, with events for {told},", found)
        elif (lost_id := self._lost_heir(first)) is None:
            return self._demand_exact(found, first, what)
        elif falls_back:
            self._demand_exact(found, first, what, lost_id)
        else:
            self._demand(isinstance(found, CheckpointCorruptError) and found.checkpoint_id == lost_id, what, found)
        return 1

    def _lost_heir(self, key: Key) -> str | None:
        """The id of a newer child that the found checkpoint names. A query would have found that child first."""
        heir = manifest.heir_of(self._image.docs[keys.checkpoint_doc(self._thread.thread_id, *key)])
        return heir if heir is not None and heir > key[1] else None

    # Lists

    def _read_list(self, reader: GCSSaver, ns: str | None, wanted: dict[str, Any] | None) -> int:
        what = f"a list of {'all' if ns is None else repr(ns)}{'' if wanted is None else f' with {wanted}'}"
        fates = self._fates
        found = self._listed(reader, what, ns, wanted)
        scope = [key for key in self._thread.expected if ns is None or (key[0] == ns and key not in fates.hidden)]
        matching = [key for key in scope if filters.matches(self._thread.expected[key].metadata, wanted)]
        if fates.newer.intersection(scope) and isinstance(found, UnsupportedFormatError):
            return 1
        self._demand(not isinstance(found, GCSSaverError) and not fates.newer.intersection(matching), what, found)
        assert not isinstance(found, GCSSaverError)
        read = {_key(one): one for one in found}
        self._demand(list(read) == [key for key in matching if key in read] and len(read) == len(found), what, found)
        skipped = [event for event in self._events if isinstance(event, CheckpointSkipped)]
        told = {(event.checkpoint_ns, event.checkpoint_id) for event in skipped}
        self._demand(all(event.thread_id == self._thread.thread_id for event in skipped), what, skipped)
        self._demand(told <= fates.damaged.keys(), what, skipped)
        noticed = len(told)
        for key in matching:
            if key in fates.damaged and key in read:
                self._demand_corrupt(read[key], key, what)
            elif key in read:
                noticed += self._demand_exact(read[key], key, what)
            else:
                hidden = key in fates.gone or (wanted is not None and key in fates.hinted)
                self._demand(hidden or key in told, f"{what} lacks {key} and", found)
                noticed += key not in told
        return noticed

    def _listed(
        self, reader: GCSSaver, what: str, ns: str | None, wanted: dict[str, Any] | None
    ) -> list[CheckpointTuple] | GCSSaverError:
        config = self._thread.config(ns)
        if not self._asynchronous:
            return self._try(what, lambda: list(reader.list(config, filter=wanted)))

        async def collect() -> list[CheckpointTuple]:
            return [found async for found in reader.alist(config, filter=wanted)]

        return self._try(what, partial(self._thread.wait, collect()))

    # Verifying

    def verify(self) -> None:
        """Demand that `GCSSaver.verify` finds at each depth what is damaged, and blames nothing else."""
        fates, damage, expected = self._fates, self._damage, self._thread.expected
        with self._reader() as reader:
            metadata, existence, data = (self._verified(reader, depth) for depth in DEPTHS)
        if data is None:
            return
        wanted = set(fates.damaged)
        for ns, order in self._order.items():
            first = next((key for key in order if key not in fates.hidden), None)
            heir = None if first is None or first in fates.damaged else self._lost_heir(first)
            wanted |= set() if heir is None else {(ns, heir)}
        self._demand_found(wanted, data, "data")
        if not damage.blobs:
            self._demand_found({key for key in wanted if None in fates.damaged.get(key, ())}, metadata, "metadata")
        if not any(key[0] == "" and key not in fates.hidden for key in expected):
            self._demand(any(found.is_damage for found in metadata or ()), "verify of an emptied thread", metadata)
        if self._thread.cipher is None:
            hinted = {keys.checkpoint_doc(self._thread.thread_id, *key) for key in fates.hinted - fates.damaged.keys()}
            missed = hinted - {found.name for found in metadata or ()} - damage.docs.keys()
            self._demand(not missed, f"verify of the hints of {missed}", metadata)
        for name, changed in damage.blobs.items():
            found = [one for one in existence or () if one.name == name or self._is_owned(name, one)]
            if changed is None or len(changed) < len(self._thread.image.blobs[name]):
                self._demand(bool(found), f"verify to the depth of existence of {name}", existence)
            if changed is None:
                self._demand(any(one.kind == "missing" for one in found), f"verify of {name}", existence)

    def _is_owned(self, blob: str, finding: Finding) -> bool:
        """Whether a finding is about a checkpoint that an object belongs to by its name."""
        thread_id = self._thread.thread_id
        return any(
            blob.startswith(keys.blob(thread_id, finding.checkpoint_ns, affected, "", "").removesuffix("-.zst"))
            for affected in finding.affects
        )

    def _verified(self, reader: GCSSaver, depth: Depth) -> list[Finding] | None:
        """What `verify` finds, if it is no false alarm; `None` if it meets what a newer version wrote."""
        what, thread_id = f"verify to the depth of {depth}", self._thread.thread_id
        found: list[Finding] | GCSSaverError
        if self._asynchronous:

            async def collect() -> list[Finding]:
                return [one async for one in reader.admin.verify(thread_id, depth=depth)]

            found = self._try(what, partial(self._thread.wait, collect()))
        else:
            found = self._try(what, lambda: list(reader.admin.verify(thread_id, depth=depth)))
        if isinstance(found, UnsupportedFormatError):
            self._demand(
                any(fields and _is_newer(name, fields) for name, fields in self._damage.docs.items()), what, found
            )
            return None
        self._demand(not isinstance(found, GCSSaverError) and not self._fates.newer, what, found)
        assert not isinstance(found, GCSSaverError)
        touched = {*self._damage.docs, *self._damage.blobs}
        self._demand(bool(touched) or not found, what, found)
        may = self._fates.damaged.keys() | self._fates.gone
        others = self._thread.image.docs.keys() | self._thread.image.blobs.keys()
        others -= {keys.checkpoint_doc(thread_id, *key) for key in may}
        # If a document or a field is missing, its objects are still there.
        docs = self._thread.image.docs
        has_lost = any(
            left is None or left.keys() < docs[name].fields.keys() for name, left in self._damage.docs.items()
        )
        for one in found:
            affected = {(one.checkpoint_ns, checkpoint_id) for checkpoint_id in one.affects}
            is_right = affected & self._thread.expected.keys() <= may and one.name not in others
            if one.kind == "unreferenced":
                is_right = has_lost
            self._demand(one.thread_id == thread_id and (one.name in touched or is_right), what, one)
        return found

    def _demand_found(self, wanted: Collection[Key], found: Sequence[Finding] | None, depth: Depth) -> None:
        named = {(one.checkpoint_ns, affected) for one in found or () if one.is_damage for affected in one.affects}
        missed = sorted(set(wanted) - named)
        if missed:
            raise Unnoticed(f"{self._damage.what}: verify to the depth of {depth} does not find {missed}")


# What a damage means


def _key(found: CheckpointTuple) -> Key:
    known = found.config["configurable"]
    return known["checkpoint_ns"], known["checkpoint_id"]


def _is_newer(name: str, fields: Fields) -> bool:
    version = fields.get("format")
    newest = NEWEST_FORMAT if f"/{keys.CHECKPOINTS}/" in name or f"/{keys.WRITES}/" in name else FORMAT
    return type(version) is int and version > newest


def _judge_writes(key: Key, name: str, before: Fields, after: Fields | None, fates: Fates) -> None:
    if after is None:
        fates.fewer.setdefault(key, set()).add(keys.writes_task_id_of(name))
        return
    if _is_newer(name, after):
        fates.newer.add(key)
    elif after.get("format") != FORMAT or len(after) < 2 or not after.items() <= before.items():
        fates.damaged.setdefault(key, set()).add(None)
    elif after.keys() < before.keys():
        fates.fewer.setdefault(key, set()).add(keys.writes_task_id_of(name))


def _lacks_only(found: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]], tasks: set[str | None]) -> bool:
    """Whether `found` is `expected` without some writes of these tasks."""
    left = list(found)
    for write in expected:
        if left and left[0] == write:
            del left[0]
        elif write[0] not in tasks:
            return False
    return not left


def _plains(known: Manifest, channel: str, image: Image, codec: Codec) -> tuple[bytes, ...] | None:
    """What the frames of a channel decode to, without checks of digests; `None` if one of them does not decode."""
    ref = known.channels[channel]
    found: list[bytes] = []
    for number, frame in enumerate(ref.chain):
        place = known.place(channel, frame)
        if frame.attempt is None:
            held = manifest.inner_frames(image.docs[place]) if place in image.docs else None
        else:
            held = image.blobs.get(place)
        alone = frame.attempt is not None and not frame.packed
        stored = b"" if held is None else held[frame.at : frame.at + frame.stored]
        if held is None or len(stored) != frame.stored or (alone and len(held) != frame.stored):
            return None
        size = ref.size if number == len(ref.chain) - 1 else frame.size or 0
        try:
            found.append(codec.decode(stored, size, found[-1] if found else None))
        except (FrameError, WrongKeyError):
            return None
    return tuple(found)


def _opened(data: bytes | None, codec: Codec) -> bytes | None:
    """What the object that a stub points to decodes to, or `None`."""
    try:
        return None if data is None else codec.decode_bounded(data)
    except (FrameError, WrongKeyError):
        return None


# Ways to damage


def _kind(name: str) -> str:
    """The kind of a document. Documents of one kind have the same fields."""
    collection = name.split("/")[-2]
    return f"{collection}, special" if collection == keys.WRITES and name.endswith("!s") else collection


def _past(name: str, names: Collection[str]) -> list[str]:
    """The other names, beginning with the one after `name`."""
    return sorted((other for other in names if other != name), key=lambda other: (other < name, other))


def _bit(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def _damaged_bytes(data: bytes, flips: int) -> Iterator[tuple[str, bytes]]:
    count, last = min(flips, len(data)), len(data) - 1
    for number, at in enumerate(sorted({number * last // max(1, count - 1) for number in range(count)})):
        yield f"bit {number * 3 % 8} flipped at {at} of {len(data)}", _bit(data, at, number * 3 % 8)
    yield "truncated by a byte", data[:-1]
    yield "truncated to half", data[: len(data) // 2]
    yield "emptied", b""
    yield "extended by a byte", data + b"\0"
    yield "extended by itself", data + data


def _damaged_value(value: object, flips: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, bytes):
        yield from _damaged_bytes(value, flips)
        yield "of another type", value.hex()[:1000]
    elif isinstance(value, str) and value:
        yield "of another first letter", chr(ord(value[0]) ^ 1) + value[1:]
        yield "of another last letter", value[:-1] + chr(ord(value[-1]) ^ 1)
        yield "truncated", value[: len(value) // 2]
        yield "emptied", ""
        yield "extended", f"{value}~"
        yield "of another type", value.encode()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"without {key}", {name: found for name, found in value.items() if name != key}
            yield f"with another {key}", {**value, key: next(_damaged_value(item, 1))[1]}
        yield "emptied", {}
        yield "extended", {**value, "extra": "extra"}
        yield "of another type", "x"
    elif isinstance(value, bool):
        yield "turned", not value
        yield "of another type", str(value)
    elif isinstance(value, int):
        for bit in (0, 1, 40):
            yield f"bit {bit} flipped", value ^ 1 << bit
        yield "negative", -1 - value
        yield "of another type", str(value)
    else:
        yield "of another type", str(value)


def _document_damages(doc: Doc, siblings: Sequence[Doc], strangers: Sequence[Doc], flips: int) -> Iterator[Damage]:
    name, fields = doc.name, dict(doc.fields)

    def damage(how: str, changed: Fields | None, others: Mapping[str, Fields] | None = None) -> Damage:
        return Damage(f"{name}{how}", {name: changed, **(others or {})}, is_deletion=changed is None)

    for key, value in fields.items():
        for how, changed in _damaged_value(value, flips):
            if changed != value or type(changed) is not type(value):
                yield damage(f", {key} {how}", {**fields, key: changed})
        yield damage(f", without {key}", {k: v for k, v in fields.items() if k != key})
        other = next((one for one in siblings if one.fields.get(key, value) != value), None)
        if other is not None:
            swapped = {other.name: {**other.fields, key: value}}
            yield damage(f", {key} swapped with {other.name}", {**fields, key: other.fields[key]}, swapped)
        stranger = next((one for one in strangers if one.fields.get(key, value) != value), None)
        if stranger is not None:
            yield damage(f", {key} copied from {stranger.name}", {**fields, key: stranger.fields[key]})
    yield damage(", with an extra field", {**fields, "extra": b"extra"})
    yield damage(" emptied", {})
    yield damage(" deleted", None)
    other = next((one for one in siblings if one.fields != fields), None)
    if other is not None:
        yield damage(f" swapped with {other.name}", other.fields, {other.name: fields})
    if strangers:
        yield damage(f" copied from {strangers[0].name}", strangers[0].fields)


def _blob_damages(
    name: str, data: bytes, siblings: Mapping[str, bytes], strangers: Mapping[str, bytes], flips: int
) -> Iterator[Damage]:
    for how, changed in _damaged_bytes(data, flips):
        yield Damage(f"{name} {how}", blobs={name: changed})
    yield Damage(f"{name} deleted", blobs={name: None}, is_deletion=True)
    for other, theirs in siblings.items():
        if theirs != data:
            yield Damage(f"{name} swapped with {other}", blobs={name: theirs, other: data})
            break
    what = name.rsplit("/", 1)[1].rsplit("-", 1)[0]
    similar = sorted(strangers, key=lambda other: (f"/{what}-" not in other, other))
    if similar and strangers[similar[0]] != data:
        yield Damage(f"{name} copied from {similar[0]}", blobs={name: strangers[similar[0]]})


def _change(doc: Doc, fields: Fields | None) -> Write:
    if fields is None:
        return Delete(doc.name)
    return Merge(doc.name, fields, remove=tuple(sorted(doc.fields.keys() - fields.keys())))


# Stores that outlive the savers that use them


class _LentDocuments:
    def __init__(self, store: DocumentStore) -> None:
        self.get_docs, self.aget_docs = store.get_docs, store.aget_docs
        self.query_docs, self.aquery_docs = store.query_docs, store.aquery_docs
        self.list_collections, self.alist_collections = store.list_collections, store.alist_collections
        self.commit, self.acommit = store.commit, store.acommit
        self.read_indexing, self.aread_indexing = store.read_indexing, store.aread_indexing
        self.exempt_field, self.aexempt_field = store.exempt_field, store.aexempt_field

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class _LentBlobs:
    def __init__(self, store: BlobStore) -> None:
        self.put_blob, self.get_blob, self.hash_blob = store.put_blob, store.get_blob, store.hash_blob
        self.list_blobs, self.delete_blobs, self.copy_blob = store.list_blobs, store.delete_blobs, store.copy_blob
        self.ensure_bucket, self.read_bucket = store.ensure_bucket, store.read_bucket
        self.set_lifecycle = store.set_lifecycle

    def close(self) -> None:
        pass
