"""Another checkpointer, as a migration reads it: only through LangGraph's interface.

If both sides use LangGraph's serializer, values are copied in their serialized form. So no class is imported to read
them, no class can be missing, and bytes are compared.

A store of this library can also report whether it is whole. Its `list` skips damaged checkpoints, so such a source is
verified first, and is migrated only if nothing is damaged.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.engine.effects import Ask
from langgraph_gcs_saver.errors import GCSSaverError, SerializationError, SourceError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.migrate import Given, Listed
from langgraph_gcs_saver.flows.writes import PendingWrite, PutWrites
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored
from langgraph_gcs_saver.results import ThreadInfo
from langgraph_gcs_saver.saver import arguments, configs

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.survey import Survey
    from langgraph_gcs_saver.saver.admin import SourceAdmin

T = TypeVar("T")


Reader = BaseCheckpointSaver[Any]


_SWAPPABLE = frozenset(
    {
        "langgraph.checkpoint.memory",
        "langgraph.checkpoint.sqlite",
        "langgraph.checkpoint.sqlite.aio",
        "langgraph.checkpoint.postgres",
        "langgraph.checkpoint.postgres.aio",
        "langgraph_gcs_saver.saver.checkpointer",
    }
)
"""Modules of checkpointers that are known to read only with their attribute `serde`."""

_NEEDS_OBJECTS = (
    "it can only be read by making objects from its values, which imports and calls the classes that they name. If you "
    "trust the source, migrate with LangGraph's JsonPlusSerializer as `serde`; on the command line, pass "
    "--import-classes."
)


class Foreign:
    """A checkpointer to migrate from.

    Args:
        saver: The checkpointer.
        serde: The serializer of the target. A `PortableSerializer` makes no objects from values, and then no serializer
            of the checkpointer is called to make any.
        admin_of: Returns the admin of a store of this library, and `None` for any other checkpointer.

    Raises:
        SerializationError: `serde` is a `PortableSerializer`, but the checkpointer may read with another serializer.
    """

    def __init__(
        self, saver: Reader, serde: SerializerProtocol, admin_of: Callable[[Reader], SourceAdmin | None]
    ) -> None:
        self.serde = serde
        self.admin_of = admin_of
        self._ways: list[tuple[Reader, SerializerProtocol]] = []
        self.makes_objects = not isinstance(serde, PortableSerializer)
        is_swappable = type(serde) is JsonPlusSerializer or type(saver).__module__ in _SWAPPABLE
        if type(saver.serde) is JsonPlusSerializer and is_swappable:
            # As LangGraph's `with_allowlist` does. Most savers look up the serializer at each call.
            portable = copy.copy(saver)
            portable.serde = PortableSerializer()
            self._ways.append((portable, portable.serde))
        if self.makes_objects:
            self._ways.append((saver, serde))
        if not self._ways:
            self.check_makes_objects(f"A {type(saver).__name__} may have a serializer of its own")

    def asking(
        self,
        ask: Callable[[Reader, SerializerProtocol], T],
        aask: Callable[[Reader, SerializerProtocol], Awaitable[T]],
    ) -> Ask[T]:
        """Read in each possible way until one works.

        The first way does not work for a saver that keeps the serializer that it was made with. It also does not work
        for JSON or pickles from old versions of LangGraph. If all ways fail, the error of the last one is raised.
        """

        def asked() -> T:
            for way in self._ways[:-1]:
                with suppress(Exception):
                    return ask(*way)
            with _as_source_errors():
                return ask(*self._ways[-1])

        async def aasked() -> T:
            for way in self._ways[:-1]:
                with suppress(Exception):
                    return await aask(*way)
            with _as_source_errors():
                return await aask(*self._ways[-1])

        return Ask(asked, aasked)

    def check_makes_objects(self, what: str) -> None:
        """Raise for data that can only be read by making objects, if this migration makes none.

        Raises:
            SerializationError: This migration makes no objects.
        """
        if not self.makes_objects:
            raise SerializationError(f"{what}: {_NEEDS_OBJECTS}")

    def no_checkpoint(self, checkpoint_id: str) -> GCSSaverError:
        """The error for data that does not have the form of a checkpoint: LangGraph once wrote JSON and pickles."""
        what = f"The checkpointer returns {checkpoint_id!r} in a form that is not a checkpoint's"
        return SourceError(f"{what}.") if self.makes_objects else SerializationError(f"{what}: {_NEEDS_OBJECTS}")

    def thread_ids(self) -> Ask[list[Any]]:
        """The ids of all threads, in the order of the listing. Some may have no checkpoints."""

        def ask(reader: Reader, _: SerializerProtocol) -> list[Any]:
            if (admin := self.admin_of(reader)) is not None:
                return list(map(_id_of, admin.threads()))
            return list(dict.fromkeys(map(_thread_of, reader.list(None))))

        async def aask(reader: Reader, _: SerializerProtocol) -> list[Any]:
            if (admin := self.admin_of(reader)) is not None:
                return list(map(_id_of, await admin.athreads()))
            return list(dict.fromkeys([_thread_of(one) async for one in reader.alist(None)]))

        return self.asking(ask, aask)

    def thread(self, thread_id: Any, context: Context) -> ForeignThread:
        """A thread of this checkpointer."""
        return ForeignThread(self, thread_id, context)


class ForeignThread:
    """A thread in another checkpointer: the `Source` of a migration.

    Args:
        foreign: The checkpointer.
        thread_id: The thread, as the checkpointer names it.
        context: The context of the saver to migrate to.
    """

    def __init__(self, foreign: Foreign, thread_id: Any, context: Context) -> None:
        self._foreign = foreign
        self._thread_id = thread_id
        self._context = context

    def listed(self) -> Ask[list[Listed]]:
        """All its checkpoints, in the order of the listing."""
        config: RunnableConfig = {"configurable": {"thread_id": self._thread_id}}
        thread_id = str(self._thread_id)

        def ask(reader: Reader, _: SerializerProtocol) -> list[Listed]:
            clear: Counter[tuple[str, str]] = Counter()
            surveyed: set[str] = set()
            if (admin := self._foreign.admin_of(reader)) is not None:
                for survey in admin.surveys(thread_id):
                    clear.update(_clear_if_whole(thread_id, survey))
                    surveyed.update(survey.entries)
            return _all_of(thread_id, surveyed, [_listed(one, clear) for one in reader.list(config)])

        async def aask(reader: Reader, _: SerializerProtocol) -> list[Listed]:
            clear: Counter[tuple[str, str]] = Counter()
            surveyed: set[str] = set()
            if (admin := self._foreign.admin_of(reader)) is not None:
                async for survey in admin.surveys(thread_id):
                    clear.update(_clear_if_whole(thread_id, survey))
                    surveyed.update(survey.entries)
            return _all_of(thread_id, surveyed, [_listed(one, clear) async for one in reader.alist(config)])

        return self._foreign.asking(ask, aask)

    def given(self, one: Listed) -> Ask[Given | None]:
        """One of its checkpoints; `None` if it is gone."""
        config = configs.config_of(self._thread_id, one.ns, one.checkpoint_id)

        def ask(reader: Reader, serde: SerializerProtocol) -> Given | None:
            return self._given(reader.get_tuple(config), one, serde)

        async def aask(reader: Reader, serde: SerializerProtocol) -> Given | None:
            return self._given(await reader.aget_tuple(config), one, serde)

        return self._foreign.asking(ask, aask)

    def _given(self, found: CheckpointTuple | None, one: Listed, serde: SerializerProtocol) -> Given | None:
        if found is None:
            return None
        if not isinstance(found.checkpoint, Mapping) or not isinstance(found.metadata or {}, Mapping):
            raise self._foreign.no_checkpoint(one.checkpoint_id)
        if isinstance(serde, PortableSerializer):
            values = [value for _, _, value in found.pending_writes or ()]
            if not _is_portable([found.checkpoint, found.metadata, values]):
                raise SourceError(f"The checkpointer read {one.checkpoint_id!r} with a serializer of its own.")
        thread_id = str(self._thread_id)
        config: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": one.ns}}
        parent_id = _parent_of(found)
        if parent_id is not None:
            config["configurable"]["checkpoint_id"] = parent_id
        versions = found.checkpoint["channel_versions"]
        # All channels count as new, because another saver may return another value with an unchanged version. A value
        # that equals its parent's is stored only once nevertheless.
        put = arguments.put_request(
            config,
            found.checkpoint,
            found.metadata or {},
            {**dict.fromkeys(found.checkpoint["channel_values"], ""), **versions},
            serde=serde,
            context=self._context,
            now=time.time(),
        )
        if any(isinstance(value, Stored) for value in (found.metadata or {}).values()):
            # Queries compare with the values that the objects equal, such as an enumeration's text.
            self._foreign.check_makes_objects(f"Metadata of checkpoint {one.checkpoint_id!r} holds an object")
            put = replace(put, index=arguments.index(loads(self._foreign.serde, put.metadata), self._context))
        where = f"of checkpoint {one.checkpoint_id!r}, thread {thread_id!r}"
        keyed = pending(found.pending_writes or [], partial(_dump, serde, where))
        calls: dict[tuple[str, str], list[PendingWrite]] = {}
        for write in keyed:
            calls.setdefault((write.task_id, write.task_path), []).append(write)
        return Given(
            put=put,
            writes=[
                PutWrites(thread_id, one.ns, one.checkpoint_id, task_id, of_call)
                for (task_id, _), of_call in calls.items()
            ],
            pending=keyed,
            same=partial(_is_same, serde),
        )


def pending(given: list[tuple[str, str, Any]], dump: Callable[[str, Any], Serialized]) -> list[PendingWrite]:
    """Pending writes with paths and numbers that make a reader return them in the order of `given`.

    A saver receives the path of each task and the number of each write. It orders writes by path, task and number, but
    returns only the order. So numbers are counted again. Where the order differs from that of the tasks' ids, paths are
    invented. These sort before all of LangGraph's paths, except empty ones.

    Args:
        given: Tasks, channels and values.
        dump: Serializes the value of a write to a channel.
    """
    found: list[PendingWrite] = []
    counts: dict[str, int] = {}
    level = 0
    before = ("", -len(WRITES_IDX_MAP) - 1)
    for task_id, channel, value in given:
        idx = WRITES_IDX_MAP.get(channel)
        if idx is None:
            idx = counts.get(task_id, 0)
            counts[task_id] = idx + 1
        if (task_id, idx) < before:
            level += 1
        before = (task_id, idx)
        path = f"~{level:09}" if level else ""
        found.append(PendingWrite(idx, task_id, path, channel, dump(channel, value)))
    return found


def _dump(serde: SerializerProtocol, where: str, channel: str, value: Any) -> Serialized:
    return dumps(serde, value, f"A write to channel {channel!r} {where}")


def _is_same(serde: SerializerProtocol, one: Serialized, other: Serialized) -> bool:
    """Whether two values with different bytes are equal, such as sets in another order."""
    left, right = loads(serde, one), loads(serde, other)
    try:
        return type(left) is type(right) and bool(left == right)
    except Exception:  # noqa: BLE001 - comparing arrays may raise any exception; then the bytes decide
        return False


_PORTABLE = (type(None), bool, int, float, str, bytes, bytearray, Stored, Opaque)


def _is_portable(value: Any) -> bool:
    """Whether all types in a value are those that `PortableSerializer` reads. It would write a date as text."""
    kind = type(value)
    if kind is dict:
        return all(_is_portable(list(key) if type(key) is tuple else key) for key in value) and all(
            map(_is_portable, value.values())
        )
    return kind in _PORTABLE or (kind is list and all(map(_is_portable, value)))


def _id_of(thread: ThreadInfo) -> str:
    """The id of a thread in a store of ours."""
    if thread.thread_id is None:
        raise SourceError(
            f"The source has a thread, stored as {thread.segment!r}, whose id cannot be read, because all data that "
            "contains it is damaged. Nothing was migrated. Name the threads to migrate, or first delete or restore "
            "that one in the source."
        )
    return thread.thread_id


def _clear_if_whole(thread_id: str, survey: Survey) -> Counter[tuple[str, str]]:
    """How much of a thread in a store of ours is in clear, by namespace and checkpoint.

    Raises:
        SourceError: The thread is damaged, so `list` would skip what cannot be read.
    """
    wrong = [one for one in survey.findings() if one.is_damage]
    if not wrong:
        return survey.clear()
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    if any(one.kind == "clear" for one in wrong):
        advice = "To migrate data that is in clear, pass `accept_clear=True` to the source, and call again."
    else:
        advice = "Repair it there with `repair`, which sets aside what is lost, or delete it. Then call again."
    raise SourceError(
        f"Thread {thread_id!r} was not migrated, because the source cannot read all of it. `verify` reports there: "
        f"{wrong[0]}{more}. {advice}"
    )


def _all_of(thread_id: str, surveyed: set[str], listed: list[Listed]) -> list[Listed]:
    """Check that a listing has all checkpoints that the survey before it found, because `list` skips damaged ones.

    Raises:
        SourceError: It lacks one.
    """
    lacking = surveyed - {keys.checkpoint_doc(thread_id, one.ns, one.checkpoint_id) for one in listed}
    if lacking:
        raise SourceError(
            f"Thread {thread_id!r} was not migrated: {len(lacking)} of its checkpoints were whole, such as "
            f"{keys.checkpoint_id_of(min(lacking))!r}, but then the source did not list them. If it was pruned "
            "meanwhile, call again. Otherwise `verify` it first."
        )
    return listed


def _thread_of(found: CheckpointTuple) -> Any:
    return configs.configurable(found.config)["thread_id"]


def _parent_of(found: CheckpointTuple) -> str | None:
    return None if found.parent_config is None else configs.checkpoint_id_of(found.parent_config)


def _listed(found: CheckpointTuple, clear: Counter[tuple[str, str]]) -> Listed:
    _, ns = configs.thread_and_ns(found.config)
    checkpoint_id = configs.checkpoint_id_of(found.config)
    if checkpoint_id is None:
        raise SourceError("The checkpointer lists a checkpoint without a checkpoint_id in its config.")
    writes = len(found.pending_writes or ())
    return Listed(ns, checkpoint_id, _parent_of(found), writes, clear[keys.enc(ns), checkpoint_id])


@contextmanager
def _as_source_errors() -> Iterator[None]:
    """Raise exceptions of another checkpointer as a `SourceError`."""
    try:
        yield
    except GCSSaverError:
        raise
    except Exception as error:  # Another saver may raise any exception. All of them mean the same here.
        raise SourceError(
            f"The checkpointer to migrate from failed: {type(error).__name__}: {error}. Nothing that was migrated "
            "before is lost. Call again to continue."
        ) from error
