"""Calls stopped at every effect leave nothing half there; and the look for what is half there sees it."""

import json
import uuid
from itertools import count

import pytest

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    CopyBlob,
    Delete,
    DeleteBlobs,
    Gather,
    GetDocs,
    ListBlobs,
    Merge,
    PutBlob,
)
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.format import keys, large
from langgraph_gcs_saver.testing.crash import (
    NEIGHBOURS,
    OPERATIONS,
    READS,
    THREAD,
    Crashed,
    CrashingSaver,
    CrashTestError,
    Plan,
    crash_everywhere,
    write_history,
)

BY_NAME = {operation.name: operation for operation in OPERATIONS}

ON_EMULATORS = ("put_writes", "aput with objects")
"""Every request to an emulator takes milliseconds; `make soak` tries all there too."""


@pytest.fixture
def new_store(tmp_path):
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


@pytest.fixture
def new_emulated_store(firestore_emulator, bucket_name):
    numbers = count()
    return lambda: f"gs://{bucket_name}/{next(numbers)}?project=test-{uuid.uuid4().hex[:20]}"


def crash(new_store, operation, **options):
    report = crash_everywhere(new_store, operation, **options)
    print(report)
    assert report.stops > report.effects * options.get("every_effect", True)
    return report


@pytest.mark.parametrize("name", BY_NAME)
def test_every_change(new_store, name):
    crash(new_store, BY_NAME[name], every_effect=False)


@pytest.mark.parametrize("name", ON_EMULATORS)
def test_every_change_on_the_emulators(new_emulated_store, name):
    crash(new_emulated_store, BY_NAME[name], every_effect=False)


def test_a_deletion_in_many_commits(new_store, monkeypatch):
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    parts = set()

    class Watched(CrashingSaver):
        def close(self):
            if self.plan.stop_after is not None:
                left = self.raw().of([THREAD]).documents
                parts.add(sum("/lg_checkpoints/" in name for name in left))
            super().close()

    crash(new_store, BY_NAME["delete_thread"], every_effect=False, saver_class=Watched)
    assert parts == {5, 3, 1, 0}


@pytest.mark.parametrize("name", ["prune", "delete_for_runs"])
def test_pruning_in_many_commits(new_store, monkeypatch, name):
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    parts = set()

    class Watched(CrashingSaver):
        def close(self):
            if self.plan.stop_after is not None:
                parts.add(sum("manifest" in fields for fields in self.raw().documents.values()))
            super().close()

    crash(new_store, BY_NAME[name], every_effect=False, saver_class=Watched)
    assert len(parts) > 2


@pytest.mark.parametrize("name", ["put with objects", "aput", "put_writes with objects"])
def test_a_call_whose_proof_trails(new_store, name):
    """It has returned before a crash in its proof, so what it stored must be there then."""
    crash(new_store, BY_NAME[name], verify="pipelined")


@pytest.mark.parametrize("verify", ["readback", pytest.param("off", marks=pytest.mark.soak)])
def test_a_put_whose_frames_are_made_while_they_are_uploaded(new_store, monkeypatch, verify):
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    uploads = []

    class Watched(CrashingSaver):
        def close(self):
            uploads.extend(effect.data for effect in self.plan.done if isinstance(effect, PutBlob))
            super().close()

    crash(new_store, BY_NAME["put with objects"], verify=verify, saver_class=Watched, every_effect=False)
    assert any(isinstance(data, Pieces) for data in uploads)


@pytest.mark.soak
@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("verify", ["readback", "checksum", "off"])
def test_every_effect(new_store, name, verify):
    crash(new_store, BY_NAME[name], verify=verify)


@pytest.mark.soak
@pytest.mark.parametrize("name", BY_NAME)
def test_every_effect_on_the_emulators(new_emulated_store, name):
    crash(new_emulated_store, BY_NAME[name])


# Crashing


def test_the_stops(new_store):
    """Before the first effect, after each one, and again in the other order; nothing happens after a death."""
    stops = []

    class Watched(CrashingSaver):
        def close(self):
            if self.plan.stop_after is not None:
                stops.append((self.plan.is_reverse, len(self.plan.done)))
                assert self.plan.is_dead
                with pytest.raises(Crashed):
                    self._backend.perform(ListBlobs(""))
            super().close()

    report = crash(new_store, BY_NAME["put with objects"], saver_class=Watched)
    assert stops == [(is_reverse, n) for is_reverse in (False, True) for n in range(report.effects + 1)]
    assert report.stops == len(stops)


def test_orders(new_store):
    uploads = [PutBlob(name, name.encode()) for name in "ab"]
    for is_reverse in (False, True):
        with CrashingSaver.from_conn_string(new_store()) as saver:
            saver.plan = Plan(is_reverse=is_reverse)
            backend = saver._backend
            assert backend.perform(Gather((*uploads, GetDocs(("lg_threads/x",))))) == (None, None, {})
            assert [effect.name for effect in saver.plan.done if isinstance(effect, PutBlob)] == (
                ["b", "a"] if is_reverse else ["a", "b"]
            )
            saver.plan = Plan(1, is_reverse=is_reverse)
            with pytest.raises(Crashed):
                backend.perform(DeleteBlobs(("a", "b")))
            left = "a" if is_reverse else "b"
            assert saver.raw().objects == {left: left.encode()}


def test_raw_reads_everything(new_store):
    from tests.system.raw import open_raw

    uri = new_store()
    with CrashingSaver.from_conn_string(uri, inline_max_bytes=8 << 10) as saver:
        write_history(saver)
        raw = saver.raw()
    assert (raw.documents, raw.objects) == open_raw(uri).snapshot()
    assert {name.split("/")[-2] for name in raw.documents} == {"lg_threads", "lg_checkpoints", "lg_writes"}
    parts = raw.of([THREAD]), raw.of(NEIGHBOURS)
    for name, everything in (("documents", raw.documents), ("objects", raw.objects)):
        mine, theirs = (getattr(part, name) for part in parts)
        assert mine
        assert theirs
        assert {**mine, **theirs} == everything
        assert len(mine) + len(theirs) == len(everything)
    assert raw.without([THREAD]) == parts[1]


# What is seeded must be found


def with_fault(fault):
    """A saver whose stores behave as an interceptor makes them."""

    class Broken(CrashingSaver):
        def __init__(self, *args, **options):
            super().__init__(*args, interceptors=[fault()], **options)

    return Broken


class LateUploads(Interceptor):
    """The manifest first, then what it refers to."""

    def __init__(self):
        self.waiting = []

    def around(self, effect, perform):
        if isinstance(effect, PutBlob):
            self.waiting.append(effect)
            return None
        result = perform(effect)
        if isinstance(effect, Commit):
            waiting, self.waiting = self.waiting, []
            for upload in waiting:
                perform(upload)
        return result


class TornCommits(Interceptor):
    """The writes of a commit one by one."""

    def around(self, effect, perform):
        if isinstance(effect, Commit) and len(effect.writes) > 1:
            times = [perform(Commit((write,))) for write in effect.writes]
            return None if None in times else tuple(time for (time,) in times)
        return perform(effect)


class Unstripped(Interceptor):
    """What would be stripped to the frames that others need is deleted."""

    def around(self, effect, perform):
        if isinstance(effect, Commit):
            effect = Commit(
                tuple(
                    Delete(write.name, write.update_time)
                    if isinstance(write, Merge) and "manifest" in write.remove
                    else write
                    for write in effect.writes
                )
            )
        return perform(effect)


class Unguarded(Interceptor):
    """Objects go before anything else does."""

    def around(self, effect, perform):
        if isinstance(effect, Commit) and any(
            isinstance(write, Merge) and "manifest" in write.remove for write in effect.writes
        ):
            names = [
                name
                for write in effect.writes
                for name in json.loads(getattr(write, "fields", {}).get("objects", "[]"))
            ]
            perform(DeleteBlobs(tuple(names)))
        return perform(effect)


class Shallow(Interceptor):
    """Copies no objects."""

    def around(self, effect, perform):
        return True if isinstance(effect, CopyBlob) else perform(effect)


class DroppedObject(Interceptor):
    """One object is never listed."""

    def around(self, effect, perform):
        found = perform(effect)
        return found[:-1] if isinstance(effect, ListBlobs) else found


class DroppedWrite(Interceptor):
    """The last write of a commit is acknowledged, and lost."""

    def around(self, effect, perform):
        if isinstance(effect, Commit) and len(effect.writes) > 1:
            times = perform(Commit(effect.writes[:-1]))
            return None if times is None else (*times, times[-1])
        return perform(effect)


class ObjectsFirst(CrashingSaver):
    """Deletes what manifests refer to before the manifests."""

    def delete_thread(self, thread_id):
        names = [blob.name for blob in self._backend.perform(ListBlobs(keys.thread_blobs(thread_id)))]
        self._backend.perform(DeleteBlobs(tuple(names)))
        super().delete_thread(thread_id)


class Overreaching(CrashingSaver):
    """Deletes a neighbor too."""

    def delete_thread(self, thread_id):
        super().delete_thread(thread_id)
        super().delete_thread(NEIGHBOURS[0])


class Littering(CrashingSaver):
    """Leaves a trace in a neighbor, which no reader of checkpoints sees."""

    def delete_thread(self, thread_id):
        super().delete_thread(thread_id)
        self._backend.perform(Commit((Merge(keys.thread_doc(NEIGHBOURS[1]), {"active": 1}),)))


class Counting(CrashingSaver):
    """Changes a document at each call."""

    numbers = count()

    def put(self, config, *rest):
        stored = super().put(config, *rest)
        self._backend.perform(Commit((Merge(keys.thread_doc(THREAD), {"calls": next(self.numbers)}),)))
        return stored


class Hasty(CrashingSaver):
    """Acknowledges, and does nothing."""

    def put(self, config, *rest):
        self._backend.perform(ListBlobs(""))


class Undying(CrashingSaver):
    """Continues after its crash as if nothing had happened."""

    def put(self, config, *rest):
        try:
            return super().put(config, *rest)
        except Crashed:
            return config


class Sealing(CrashingSaver):
    """Cannot be called again."""

    def put(self, config, *rest):
        if self.get_tuple({"configurable": {**config["configurable"], "checkpoint_id": rest[0]["id"]}}):
            raise RuntimeError("it is there already")
        return super().put(config, *rest)


@pytest.mark.parametrize(
    ("saver_class", "name", "says"),
    [
        (
            with_fault(LateUploads),
            "put with objects",
            r"effect 1 \(Commit\).*after the crash.*000000000005.* is damaged",
        ),
        (with_fault(TornCommits), "put_writes", r"effect 2 \(Commit\).*after the crash.* has another writes"),
        (with_fault(DroppedWrite), "put_writes", "not stopped.*after the call.* has another writes"),
        (with_fault(DroppedObject), "delete_thread", "these were not deleted"),
        (with_fault(Unstripped), "prune", "after the call, checkpoint .*04' of thread 't', .* is missing"),
        (with_fault(Unguarded), "prune", "after the crash, .* is damaged"),
        (with_fault(Shallow), "copy_thread", "after the call, .* of thread 'copy', .* is missing"),
        (ObjectsFirst, "delete_thread", r"effect 2 \(DeleteBlobs\).*after the crash, .* is damaged"),
        (Overreaching, "delete_thread", "thread 't_b'.* is missing"),
        (Littering, "delete_thread", "other threads were changed"),
        (Counting, "put", "made again, changed"),
        (Hasty, "put", "not stopped.*after the call.* is missing"),
        (Undying, "put", "the call returned, although its process had crashed"),
        (Sealing, "put", "it is there already"),
    ],
)
def test_what_is_broken_is_found_out(new_store, saver_class, name, says):
    with pytest.raises(CrashTestError, match=says):
        crash_everywhere(new_store, BY_NAME[name], saver_class=saver_class, verify="off")


def test_reads_change_nothing(new_store):
    """Stops after them may be left out."""
    left = {}
    done = []

    class Looking(CrashingSaver):
        def close(self):
            if self.plan.stop_after is not None and not self.plan.is_reverse:
                raw = self.raw()
                # Names of attempts are random.
                left[self.plan.stop_after] = len(raw.documents), len(raw.objects), _fields(raw)
                done[:] = self.plan.done
            super().close()

    crash(new_store, BY_NAME["put of other content with objects"], saver_class=Looking)
    same = [left[n] == left[n + 1] for n in range(len(done))]
    assert all(same[n] for n, effect in enumerate(done) if isinstance(effect, READS))
    assert not all(same)


def _fields(raw):
    return {name: sorted(fields) for name, fields in raw.documents.items()}
