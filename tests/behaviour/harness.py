"""Runs one scenario on a checkpointer and writes down everything that LangGraph shows of it, as plain data.

Two traces are equal when LangGraph behaved the same. What differs from run to run by nature (ids, times, the random
part of versions) is replaced: checkpoint ids by their rank among the scenario's checkpoints, other ids by the order in
which they appear, versions by their counter.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from langchain_core.messages import BaseMessage
from langgraph.graph import StateGraph
from langgraph.types import Interrupt
from pydantic import BaseModel

from tests.patience import eventually

VOLATILE = {"ts", "created_at", "timestamp", "callbacks", "first_attempt_time", "node_first_attempt_time"}
"""Keys that hold times, or objects of the process."""

NULL_TASK = "00000000-0000-0000-0000-000000000000"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
VERSION = re.compile(r"\d{8,}\.[\d.e-]+")


def plain(value):
    """`value` as dicts, lists and scalars that compare by content; types that LangGraph could mix up stay visible."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Interrupt):
        return {"interrupt": plain(value.value), "id": value.id}
    if isinstance(value, BaseMessage):
        return {"message": value.type, "id": value.id, "content": plain(value.content), "name": value.name}
    if isinstance(value, BaseModel):
        return {type(value).__name__: plain(value.model_dump())}
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({value})"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {type(value).__name__: plain(value._asdict())}
    if is_dataclass(value):
        return {type(value).__name__: {f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(key): _item(key, item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(map(repr, value))}
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in value]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "__slots__"):  # Send, Overwrite
        return {type(value).__name__: {name: plain(getattr(value, name)) for name in value.__slots__}}
    raise TypeError(f"the trace does not know {type(value)}")


def _item(key, item):
    result = plain(item)
    if key == "__interrupt__" and isinstance(item, (list, tuple)):
        # Parallel tasks interrupt in any order.
        parts = result["tuple"] if isinstance(item, tuple) else result
        parts.sort(key=lambda part: repr(part["interrupt"]))
    return result


def relabel(value, checkpoint_ids):
    """Replace ids and versions in a plain value by what they mean."""
    labels = {found: f"<checkpoint {rank}>" for rank, found in enumerate(sorted(checkpoint_ids))}
    labels[NULL_TASK] = "<null task>"

    def label(match):
        return labels.setdefault(match[0], f"<id {len(labels)}>")

    def walk(part):
        if isinstance(part, str):
            if VERSION.fullmatch(part):
                return f"<version {int(part.split('.')[0])}>"
            return ID.sub(label, part)
        if isinstance(part, dict):
            return {walk(key): walk(item) for key, item in part.items()}
        if isinstance(part, list):
            return [walk(item) for item in part]
        return part

    return walk(value)


class Lab:
    """What a scenario works with: a checkpointer, graphs compiled with it, and the trace.

    Attributes:
        saver: The checkpointer at the moment.
        mode: `sync` or `async`: through which of the graph's methods the scenario runs.
    """

    def __init__(self, make_saver, mode):
        self._make_saver = make_saver
        self._lock = threading.Lock()
        self._trace = []
        self._calls = Counter()
        self._threads = set()
        self.mode = mode
        self.saver = make_saver()

    def restart(self):
        """Continue as another process would: a new checkpointer on the same store, and graphs compiled again."""
        self.saver = self._make_saver()

    def graph(self, source, **options):
        """A graph from a builder, or from a function that makes one of a checkpointer."""
        return Graph(self, source, options)

    def count(self, what):
        """Count that `what` was executed; returns how often so far."""
        with self._lock:
            self._calls[what] += 1
            return self._calls[what]

    def note(self, what, value):
        """Add to the trace."""
        self._trace.append([what, plain(value)])

    def watch(self, config):
        """A config of a thread that belongs to the trace."""
        if isinstance(config, str):
            config = {"configurable": {"thread_id": config}}
        self._threads.add(config["configurable"]["thread_id"])
        return config

    def wait_for_writes(self, thread, channel, number):
        """Block until that many pending writes of a channel are stored with the thread's latest checkpoint."""
        config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}

        def have_arrived():
            found = self.saver.get_tuple(config)
            return found and sum(write[1] == channel for write in found.pending_writes or ()) >= number

        eventually(have_arrived)

    async def call(self, obj, name, *args, **kwargs):
        """Call a method, or its asynchronous twin; iterators come back as lists."""
        if self.mode == "sync":

            def run():
                result = getattr(obj, name)(*args, **kwargs)
                return list(result) if hasattr(result, "__next__") else result

            return await asyncio.to_thread(run)
        result = getattr(obj, f"a{name}")(*args, **kwargs)
        if hasattr(result, "__anext__"):
            return [item async for item in result]
        return await result

    async def trace(self):
        """Everything noted, the executions, and all that is stored for the threads, relabelled."""
        stored = []
        for thread in sorted(self._threads):
            stored += await self.call(self.saver, "list", {"configurable": {"thread_id": thread}})
        stored.sort(key=lambda found: (found.config["configurable"]["thread_id"], found.checkpoint["id"]))
        whole = {
            "trace": self._trace,
            "calls": dict(sorted(self._calls.items())),
            "stored": [plain(found) for found in stored],
        }
        return relabel(whole, {found.checkpoint["id"] for found in stored})


class Graph:
    """A graph whose calls are noted in the trace. A `config` may be given as a thread's id."""

    def __init__(self, lab, source, options):
        self._lab = lab
        self._source = source
        self._options = options
        self._compiled = None, None

    @property
    def compiled(self):
        saver, graph = self._compiled
        if saver is not self._lab.saver:
            saver = self._lab.saver
            if isinstance(self._source, StateGraph):
                graph = self._source.compile(checkpointer=saver, **self._options)
            else:
                graph = self._source(saver)
            self._compiled = saver, graph
        return graph

    async def _noted(self, name, *args, **kwargs):
        result = await self._lab.call(self.compiled, name, *args, **kwargs)
        self._lab.note(name, result)
        return result

    async def invoke(self, value, config="t", **kwargs):
        return await self._noted("invoke", value, self._lab.watch(config), **kwargs)

    async def fails(self, value, config="t", **kwargs):
        """Invoke, which must raise; the error is noted."""
        try:
            result = await self._lab.call(self.compiled, "invoke", value, self._lab.watch(config), **kwargs)
        except Exception as error:
            self._lab.note("error", error)
            return
        raise AssertionError(f"no error, but {result!r}")

    async def stream(self, value, config="t", **kwargs):
        return await self._noted("stream", value, self._lab.watch(config), **kwargs)

    async def state(self, config="t", **kwargs):
        return await self._noted("get_state", self._lab.watch(config), **kwargs)

    async def history(self, config="t", **kwargs):
        """The states, newest first."""
        return await self._noted("get_state_history", self._lab.watch(config), **kwargs)

    async def update(self, config, values, **kwargs):
        return await self._noted("update_state", self._lab.watch(config), values, **kwargs)

    async def bulk_update(self, config, supersteps):
        return await self._noted("bulk_update_state", self._lab.watch(config), supersteps)


async def run(scenario, make_saver, mode):
    """The trace of a scenario."""
    lab = Lab(make_saver, mode)
    await scenario(lab)
    return await lab.trace()
