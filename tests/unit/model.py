"""A store in memory, and a driver that performs a flow on it effect by effect, as a runner does in one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Doc,
    Durable,
    Effect,
    Emit,
    Flow,
    Gather,
    Now,
    Pause,
    PutBlob,
)
from langgraph_gcs_saver.engine.runner import Backend
from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.flows import load, save
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.stores import rows
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments, replaced
from langgraph_gcs_saver.stores.values import to_map

SERDE = JsonPlusSerializer()
CODEC = Codec(3)
LOCAL_ACTS = (Compute, Durable, Now, Emit, Pause)


class Model:
    """A store in memory, and a driver that performs flows on it, one effect at a time.

    Attributes:
        before: Called with every effect of a driven flow, before it is performed: to change what the flow will meet, to
            raise, or to return an answer in its place. `LOST` performs the effect and answers `None`, `REFUSED` only
            answers `None`.
        after: Called when it was performed, with its result: to change what was stored, as damage does.
        now: The wall clock, which passes only while a flow pauses.
        log: The effects of the last flow, in order.
        result: What the last flow returned.

    Args:
        blobs: The objects that are there.
    """

    LOST = object()
    REFUSED = object()

    def __init__(self, blobs: Mapping[str, bytes] | None = None) -> None:
        objects = MemoryBlobs({name: (data, 1) for name, data in (blobs or {}).items()})
        self._stores = Backend(MemoryDocuments(), objects)
        self.before: Callable[[Effect[Any]], Any] | None = None
        self.after: Callable[[Effect[Any], Any], None] | None = None
        self.now = 1_000_000.0
        self.log: list[Effect[Any]] = []
        self.result: Any = None

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

    # The stored contents, and changes to them that no flow notices

    @property
    def docs(self) -> Mapping[str, Doc]:
        """The documents as they are now."""
        found = {rows.name_of(path): row for (_, path), row in self._stores.documents.table.items()}
        return MappingProxyType({name: rows.read(name, row, None) for name, row in found.items()})

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """The objects as they are now."""
        return MappingProxyType({name: data for name, (data, _) in self._stores.blobs.objects.items()})

    def place(self, doc: Doc) -> None:
        """Put a document there, with its times."""
        row = (to_map(doc.fields).SerializeToString(), doc.create_time, doc.update_time)
        self._replace({rows.key_of(doc.name): row})

    def change(self, name: str, **fields: Any) -> None:
        """Change fields of a document; its times stay. `...` removes a field."""
        doc = self.docs[name]
        kept = {key: value for key, value in (doc.fields | fields).items() if value is not ...}
        self.place(Doc(name, kept, doc.create_time, doc.update_time))

    def lose(self, name: str) -> Doc:
        """Take a document away, and return it."""
        lost = self.docs[name]
        self._replace({rows.key_of(name): None})
        return lost

    def spoil(self, name: str, how: Callable[[bytes], bytes | None]) -> None:
        """Change the bytes of an object, or take it away."""
        data = how(self._stores.blobs.objects.pop(name)[0])
        if data is not None:
            self._stores.blobs.objects[name] = (data, 1)

    def _replace(self, changes: Any) -> None:
        self._stores.documents = MemoryDocuments(replaced(self._stores.documents.table, changes))

    # What a flow did

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
            case Gather(effects):
                return tuple(self.perform(one) for one in effects)
            case Now():
                return self.now
            case Pause(seconds):
                self.now += seconds
                return None
            case PutBlob(name):
                assert name not in self.blobs, "an attempt's name was used twice"
        return self._stores.perform(effect)


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
