"""A commit is stored with all of its companions or not at all, wherever its process crashes, also with read-back."""

import asyncio
import uuid
from itertools import count

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, DeleteBlobs, Doc, GetDocs, PutBlob, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.errors import CheckpointVerificationError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import (
    OPERATIONS,
    CrashingSaver,
    config_of,
    crash_everywhere,
    put_arguments,
    write_history,
)
from tests.kit.companions import ENTRIES, Entry, FenceCheck, FencedError, take_fence
from tests.kit.interceptors import Later, Meanwhile, Seen

BY_NAME = {operation.name: operation for operation in OPERATIONS}
WRITING = [name for name in BY_NAME if "put" in name]

WRITES = [("messages", ["b"]), ("__interrupt__", "stop")]


class Accompanied(CrashingSaver):
    """Has the fence when it is opened, checks it in each commit, and adds an entry to each."""

    def __init__(self, *args, **options):
        check = FenceCheck(0)
        self._companions = (check, Entry())
        super().__init__(*args, **options)
        check.time = self.perform(take_fence("A"))
        self.entries_before = self.entries()
        self.before = self.stored()

    def perform(self, flow):
        """Perform a flow that no interceptor sees, also where an event loop runs."""
        backend, found = Backend(self._backend.documents, self._backend.blobs), None
        while True:
            try:
                effect = flow.send(found)
            except StopIteration as stop:
                return stop.value
            found = backend.perform(effect)

    def entries(self):
        """What each entry records: its kind and the checkpoint's id."""
        docs = self.perform(iter(QueryDocs(ENTRIES)))
        return {doc.name: (doc.fields["kind"], doc.fields["checkpoint_id"]) for doc in docs}

    def stored(self):
        """Checkpoints and pending writes, without what other checkpoints change in them, by what an entry says."""
        found = {}
        for name, fields in sorted(self.raw().documents.items()):
            if f"/{keys.CHECKPOINTS}/" in name:
                kept = {key: value for key, value in fields.items() if key != "heir"}
                found.setdefault(("put", keys.checkpoint_id_of(name)), {})[name] = kept
            elif f"/{keys.WRITES}/" in name:
                found.setdefault(("put_writes", keys.writes_checkpoint_id_of(name)), {})[name] = fields
        return found

    def agrees(self):
        """Whether each commit since the saver was opened has its entry, and each entry has its commit."""
        now = self.stored()
        added = [what for name, what in self.entries().items() if name not in self.entries_before]
        changed = {what for what in now if now[what] != self.before.get(what)}
        return changed <= set(added) <= now.keys()


@pytest.fixture
def new_store(tmp_path):
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


@pytest.fixture
def new_emulated_store(firestore_emulator, bucket_name):
    numbers = count()
    return lambda: f"gs://{bucket_name}/{next(numbers)}?project=test-{uuid.uuid4().hex[:20]}"


@pytest.mark.parametrize("name", WRITING)
def test_a_crash_parts_no_commit_from_its_companions(new_store, name):
    looks = []

    class Watched(Accompanied):
        is_open = True

        def look(self):
            if self.is_open:  # an asynchronous one is closed twice
                self.is_open = False
                looks.append((self.plan.stop_after, len(self.entries()) - len(self.entries_before)))
                assert self.agrees(), f"stopped after {self.plan.stop_after} effects"

        def close(self):
            self.look()
            super().close()

        async def aclose(self):
            self.look()
            await super().aclose()

    crash_everywhere(new_store, BY_NAME[name], every_effect=False, saver_class=Watched)
    # Some stops are before the commit, and some are after it.
    assert {made for stop, made in looks if stop is not None} == {0, 1}


def test_the_look_for_a_parted_commit_sees_one(new_store):
    for apart in ((Entry(),), ()):
        with Accompanied.from_conn_string(new_store()) as saver:
            saver.put(*put_arguments(1, None))
            assert saver.agrees()
            saver.entries_before = saver.entries()
            if apart:  # an entry without its checkpoint
                name = next(iter(saver.entries())) + "x"
                saver.perform(iter(Commit((Create(name, {"kind": "put", "checkpoint_id": "none"}),))))
            else:  # a checkpoint without its entry
                saver.before = {}
            assert not saver.agrees()


# The fence is lost


async def call(saver, is_async, what):
    """Call `put` or `put_writes`, or their twins."""
    if what == "put":
        arguments = put_arguments(5, 4)
        return await saver.aput(*arguments) if is_async else saver.put(*arguments)
    arguments = config_of(4), WRITES if what == "put_writes" else WRITES[1:], "task"
    return await saver.aput_writes(*arguments) if is_async else saver.put_writes(*arguments)


@pytest.mark.parametrize("what", ["put", "put_writes", "special writes"])
@pytest.mark.parametrize("inline", [0, 16_384])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_fenced_writer_changes_nothing(new_store, what, inline, is_async):
    """The fence is taken after the call has begun, right before its commit."""
    uri = new_store()
    with Accompanied.from_conn_string(uri) as other:
        write_history(other)
        meanwhile = Meanwhile(Commit, lambda: other.perform(take_fence("B")))
        with Accompanied.from_conn_string(uri, inline_max_bytes=inline, interceptors=[meanwhile]) as saver:
            before, entries = saver.raw(), saver.entries()
            with pytest.raises(FencedError, match="Another process took the fence"):
                asyncio.run(call(saver, is_async, what))
            assert meanwhile.is_done
            assert saver.raw().documents == before.documents
            assert saver.entries() == entries


@pytest.mark.parametrize("store", ["new_store", "new_emulated_store"])
def test_a_holder_stores_until_the_fence_is_taken(request, store):
    """A check leaves the fence's update time as it is, however many commits carry it."""
    uri = request.getfixturevalue(store)()
    with Accompanied.from_conn_string(uri) as saver, CrashingSaver.from_conn_string(uri) as other:
        write_history(saver)
        for what in ("put", "put_writes", "special writes"):
            asyncio.run(call(saver, False, what))
        before = saver.raw()
        assert saver.agrees()
        run(take_fence("B"), other._backend)
        with pytest.raises(FencedError):
            saver.put(*put_arguments(6, 5))
        with pytest.raises(FencedError):
            saver.put_writes(config_of(5), WRITES, "task")
        with pytest.raises(FencedError):
            saver.put_writes(config_of(5), WRITES[1:], "task")
        saver.put(*put_arguments(5, 4))  # it is there already, so nothing is left to demand the fence for
        # Documents only: what an attempt has uploaded is left to be collected.
        assert saver.raw().documents == before.documents


@pytest.mark.parametrize("what", ["put", "put_writes"])
def test_a_writer_that_thaws_without_its_fence_uploads_nothing_more(new_store, what):
    """An upload took two hours, in which another process has taken the fence."""
    uri = new_store()
    later, seen = Later(0.0), Seen()

    def freeze():
        later.seconds = 7200.0
        other.perform(take_fence("B"))

    with Accompanied.from_conn_string(uri) as other:
        write_history(other)
        meanwhile = Meanwhile(PutBlob, freeze)
        interceptors = [later, seen, meanwhile]
        with Accompanied.from_conn_string(uri, inline_max_bytes=0, interceptors=interceptors) as saver:
            before = saver.raw()
            with pytest.raises(FencedError):
                asyncio.run(call(saver, False, what))
            assert meanwhile.is_done
            assert saver.raw() == before
    kinds = [type(effect) for effect in seen.requests]
    assert not {PutBlob, Commit} & {*kinds[kinds.index(DeleteBlobs) :]}


# What does not read back


class Spoiling(Interceptor):
    """Changes what the first read of a document gives after a commit has stored it, for some commits."""

    def __init__(self, times):
        self.left = times
        self.written = set()

    def around(self, effect, perform):
        found = perform(effect)
        if isinstance(effect, Commit):
            contents = (write for write in effect.writes if not isinstance(write, Delete) and "format" in write.fields)
            self.written = {write.name for write in contents if len(write.fields) > 1}
        elif isinstance(effect, GetDocs) and self.left and self.written & found.keys():
            name = min(self.written & found.keys())
            doc = found[name]
            spoilt = {key: b"spoilt" if isinstance(value, bytes) else value for key, value in doc.fields.items()}
            found = {**found, name: Doc(name, spoilt, doc.create_time, doc.update_time)}
            self.left, self.written = self.left - 1, set()
        return found


@pytest.mark.parametrize("what", ["put", "put_writes", "special writes"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_withdrawal_takes_the_entry_along(new_store, what, times):
    uri = new_store()
    with Accompanied.from_conn_string(uri) as saver:
        write_history(saver)
    spoiling = Spoiling(times)
    with Accompanied.from_conn_string(uri, interceptors=[spoiling]) as saver:
        if times == 3:
            with pytest.raises(CheckpointVerificationError):
                asyncio.run(call(saver, False, what))
        else:
            asyncio.run(call(saver, False, what))
        assert spoiling.left == 0
        assert saver.agrees()
        assert len(saver.entries()) - len(saver.entries_before) == (times < 3)
