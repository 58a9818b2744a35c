"""A store in two dicts, and a driver that performs a flow on it effect by effect: no runner, no backend."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Commit,
    Compute,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Effect,
    Emit,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    Now,
    Pause,
    PutBlob,
    QueryDocs,
)
from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.flows import load, save
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.format.frames import Codec, crc32c
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.saver import arguments

SERDE = JsonPlusSerializer()
CODEC = Codec(3)
LOCAL_ACTS = (Compute, Now, Emit, Pause)


@dataclass
class Model:
    """Documents and objects as the services keep them.

    `before` is called with every effect of a driven flow, before it is performed: to change what the flow will meet, to
    raise, or to return an answer in its place. `LOST` performs the effect and answers `None`, `REFUSED` answers `None`.
    `after` is called when it was performed, with its result: to change what was stored, as damage does.
    """

    docs: dict[str, Doc] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    now: float = 1_000_000.0
    log: list[Effect[Any]] = field(default_factory=list)
    before: Callable[[Effect[Any]], Any] | None = None
    after: Callable[[Effect[Any], Any], None] | None = None
    result: Any = None
    _clock: Any = field(default_factory=lambda: count(1))

    LOST = object()
    REFUSED = object()

    def drive(self, flow: Flow[Any]) -> Any:
        """Perform a flow as a runner would: failures are thrown into it."""
        self.log = []
        step = partial(next, flow)
        while True:
            try:
                effect = step()
            except StopIteration as stop:
                self.result = stop.value
                return stop.value
            self.log.append(effect)
            try:
                answer = None if self.before is None else self.before(effect)
                result = self.perform(effect) if answer in (None, self.LOST) else answer
                if self.after is not None:
                    self.after(effect, result)
                step = partial(flow.send, None if answer in (self.LOST, self.REFUSED) else result)
            except BaseException as error:
                step = partial(flow.throw, error)

    def aside(self, flow: Flow[Any]) -> Any:
        """Perform another flow whole, as another process would, in the middle of the driven one."""
        kept = self.log, self.before, self.after, self.result
        self.before = self.after = None
        try:
            return self.drive(flow)
        finally:
            self.log, self.before, self.after, self.result = kept

    def change(self, name: str, **fields: Any) -> None:
        """Change fields of a document behind everybody's back: its times stay. `...` removes a field."""
        doc = self.docs[name]
        kept = {key: value for key, value in (doc.fields | fields).items() if value is not ...}
        self.docs[name] = Doc(name, kept, doc.create_time, doc.update_time)

    @property
    def rounds(self) -> list[Effect[Any]]:
        """What the last flow asked of the services, in order."""
        return [effect for effect in self.log if not isinstance(effect, LOCAL_ACTS)]

    @property
    def events(self) -> list[Event]:
        return [effect.event for effect in self.log if isinstance(effect, Emit)]

    @property
    def commits(self) -> list[Commit]:
        return [effect for effect in self.log if isinstance(effect, Commit)]

    def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case GetDocs():
                return {name: self._masked(name, effect.mask) for name in effect.names if name in self.docs}
            case QueryDocs():
                return self._query(effect)
            case Commit():
                return self._commit(effect)
            case PutBlob(name, data):
                assert name not in self.blobs, "an attempt's name was used twice"
                self.blobs[name] = data
            case GetBlob(name, start, length):
                data = self.blobs.get(name)
                return None if data is None else data[start : None if length is None else start + length]
            case HashBlob(name):
                return None if name not in self.blobs else hashlib.sha256(self.blobs[name]).hexdigest()
            case ListBlobs():
                names = sorted(n for n in self.blobs if n.startswith(effect.prefix) and n > (effect.after or ""))
                found = [(n, self.blobs[n]) for n in names[: effect.limit]]
                return [BlobInfo(n, len(data), crc32c(data), 1) for n, data in found]
            case DeleteBlobs(names):
                for name in names:
                    self.blobs.pop(name, None)
            case Gather(effects):
                return tuple(self.perform(one) for one in effects)
            case Compute():
                return effect.function()
            case Now():
                return self.now
            case Pause(seconds):
                self.now += seconds
            case Emit():
                pass
            case _:
                raise TypeError(type(effect).__name__)
        return None

    def _masked(self, name, mask):
        doc = self.docs[name]
        fields = doc.fields if mask is None else {k: v for k, v in doc.fields.items() if k in mask}
        return Doc(name, dict(fields), doc.create_time, doc.update_time)

    def _query(self, effect):
        assert not effect.group, "not needed here"
        found = []
        for name in sorted(self.docs, key=lambda name: [part.encode() for part in name.split("/")]):
            if name.rpartition("/")[0] != effect.collection:
                continue
            inside = (effect.start is None or name >= effect.start) and (effect.end is None or name < effect.end)
            fields = self.docs[name].fields
            if inside and name > (effect.after or "") and all(k in fields and fields[k] == v for k, v in effect.where):
                found.append(self._masked(name, effect.mask))
        return found[: effect.limit]

    def _commit(self, effect):
        names = [write.name for write in effect.writes]
        assert len(set(names)) == len(names), "two writes to one document in one commit"
        for write in effect.writes:
            doc = self.docs.get(write.name)
            if isinstance(write, Create):
                if doc is not None:
                    return None
            elif write.update_time is not None and (doc is None or doc.update_time != write.update_time):
                return None
        now = next(self._clock)
        return tuple(self._apply(write, now) for write in effect.writes)

    def _apply(self, write, now):
        doc = self.docs.get(write.name)
        if isinstance(write, Delete):
            self.docs.pop(write.name, None)
            return 0
        removed = getattr(write, "remove", ())
        fields = {} if doc is None else {k: v for k, v in doc.fields.items() if k not in removed}
        fields.update(write.fields)
        if doc is not None and fields == doc.fields:
            return doc.update_time  # a write that changes nothing does not move the time
        self.docs[write.name] = Doc(write.name, fields, now if doc is None else doc.create_time, now)
        return now


def make_context(**options: Any) -> Context:
    """A process of its own: nothing cached."""
    defaults = {
        "inline_max_bytes": 8 << 10,
        "codec": CODEC,
        "incremental": True,
        "full_every": None,
        "values": ByteCache(64 << 20),
        "clear_metadata": None,
        "verify": "off",
        "falls_back": True,
        "timeout": 10.0,
        "new_attempt": lambda: f"{next(_attempts):06}attempt",
    }
    return Context(**(defaults | options))


_attempts = count(1)


def cid(number: int) -> str:
    return f"1f000000-0000-6000-8000-{number:012}"


def put_request(
    number,
    parent,
    values,
    *,
    fresh=None,
    versions=None,
    thread="t",
    ns="",
    run_id=None,
    now=1_000_000.0,
    context=None,
):
    """The request of a `put`: channels of `fresh` (default: all) are at version `number`, others as in `versions`."""
    fresh = set(values) if fresh is None else set(fresh)
    versions = (versions or {}) | dict.fromkeys(fresh, f"{number:032}.5")
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
    if parent is not None:
        config["configurable"]["checkpoint_id"] = cid(parent)
    checkpoint = {
        "v": 4,
        "id": cid(number),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": sorted(fresh),
    }
    metadata = {"source": "loop", "step": number, "parents": {}} | ({} if run_id is None else {"run_id": run_id})
    new = {channel: versions[channel] for channel in fresh}
    context = make_context() if context is None else context
    return arguments.put_request(config, checkpoint, metadata, new, serde=SERDE, context=context, now=now)


def put(model: Model, context: Context, *args: Any, **kwargs: Any) -> save.Put:
    """Drive one put, and return its request."""
    request = put_request(*args, context=context, **kwargs)
    model.drive(save.put(request, context))
    return request


def put_aside(model: Model, context: Context, *args: Any, **kwargs: Any) -> None:
    """A whole put of another process, in the middle of a driven flow."""
    model.aside(save.put(put_request(*args, context=context, **kwargs), context))


def put_writes(model: Model, context: Context, number: int, writes: Any, task: str = "task") -> None:
    """Drive one `put_writes` for a checkpoint of thread `t`."""
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": cid(number)}}
    model.drive(store_writes(arguments.put_writes_request(config, writes, task, "", serde=SERDE), context))


def get(
    number: int | None, context: Context | None = None, *, thread: str = "t", ns: str = ""
) -> Flow[load.Loaded | None]:
    """The flow that gets a checkpoint, or the latest one."""
    checkpoint_id = None if number is None else cid(number)
    return load.get_tuple(thread, ns, checkpoint_id, lambda value: loads(SERDE, value), context or make_context())


def read(model: Model, number: int | None, *, thread: str = "t", ns: str = "") -> Any:
    """A checkpoint's values, or the latest one's, as another process reads them; `None` when it is not there."""
    found = model.aside(get(number, thread=thread, ns=ns))
    return None if found is None else found.values
