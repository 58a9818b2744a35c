"""Batches of items: what a loop hands out, resumes and repeats, alone and with other workers."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest

from langgraph_gcs_saver import GCSSaver, errors
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import (
    BatchChangedError,
    InvalidIdError,
    InvalidInputError,
    InvalidOptionError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import process_names
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.incremental.eax import Eax
from tests.kit.interceptors import Later
from tests.system.raw import open_raw

FIFTY = [f"item {n}" for n in range(50)]


class Writes(Interceptor):
    """Counts the writes of documents."""

    number = 0

    def around(self, effect, perform):
        if isinstance(effect, Commit):
            self.number += len(effect.writes)
        return perform(effect)


def loop(batch, handled, *, most=None, fails=()):
    """Work on a batch, and leave it with an item in hand after `most` items."""
    for item in batch:
        if most is not None and len(handled) == most:
            return
        handled.append(item)
        if item in fails:
            batch.fail(item, ValueError("no"))
        else:
            batch.done(item, output={"of": item})


@pytest.fixture
def store(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def saver(store):
    with GCSSaver.from_conn_string(store) as saver:
        yield saver


# Resuming


def test_a_loop_that_was_left_resumes_where_it_was(saver):
    first, second = [], []
    with saver.thread("t").batch("b", FIFTY, context={"agent": 7}) as batch:
        loop(batch, first, most=20)
        assert str(batch.progress) == "20 of 50 items done"
    with saver.thread("t").batch("b", FIFTY) as batch:
        assert (batch.already_done, batch.context) == (20, {"agent": 7})
        loop(batch, second)
        assert batch.finish() is None
    assert first + second == FIFTY
    assert batch.outputs() == {item: {"of": item} for item in FIFTY}
    assert batch.failed() == {}


KILLED = """
import os, signal, sys
from langgraph_gcs_saver import GCSSaver

with GCSSaver.from_conn_string(sys.argv[1]) as saver:
    with saver.thread("t").batch("b", [f"item {n}" for n in range(50)]) as batch:
        for number, item in enumerate(batch, 1):
            with open(sys.argv[2], "a") as file:
                print(item, file=file, flush=True)
            batch.done(item, output=item)
            if number == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_batch_of_50_that_is_killed_after_20_resumes_at_21(store, tmp_path):
    seen = tmp_path / "handled"
    run = [sys.executable, "-c", KILLED, store, str(seen)]
    assert subprocess.run([*run, "20"], check=False).returncode == -signal.SIGKILL
    assert subprocess.run([*run, "0"], check=False).returncode == 0
    assert seen.read_text().splitlines() == FIFTY


def test_a_process_that_is_gone_is_noticed_and_one_that_lives_is_not():
    name = subprocess.run(
        [sys.executable, "-c", "from langgraph_gcs_saver.saver import process_names as p; print(p.own_name())"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert process_names.is_gone(name) is name.startswith("linux:")
    assert not process_names.is_gone(process_names.own_name())
    huge = f"linux:{process_names._machine()}:{'9' * 5000}:1:0"  # more digits than Python reads
    for unknown in ("", "owner:pod-1", "123-abc", name.replace("linux:", "linux:another-"), "linux:a:b:c:d:e", huge):
        assert not process_names.is_gone(unknown)


def test_the_same_owner_gets_its_chunk_back_at_once(saver):
    lost = saver.thread("t").batch("b", FIFTY, owner="pod-1")
    lost.__enter__()
    handled = [next(iter(lost))]
    lost.done(handled[0])
    with saver.thread("t").batch("b", FIFTY, owner="pod-1") as batch:
        loop(batch, handled)
    assert handled == FIFTY


def test_a_silent_worker_is_taken_for_dead_after_the_timeout(saver):
    clock = count(0, 20)
    lost, batch = (saver.thread("t").batch("b", FIFTY, timeout=30) for _ in range(2))  # clock: it has its own
    for one in (lost, batch):
        one._worker = replace(one._worker, clock=lambda: float(next(clock)))
    lost.__enter__()
    next(iter(lost))
    handled = []
    with batch:
        loop(batch, handled)
    assert handled == FIFTY
    lost.done("item 0")
    with pytest.raises(StopIteration):
        next(iter(lost))


@pytest.mark.parametrize("flush", [1, 7])
def test_a_crash_before_or_after_any_request_loses_nothing_and_repeats_little(tmp_path, flush):
    items = FIFTY[:10]
    for stop in range(200):
        store = f"file://{tmp_path}/{flush}-{stop}"
        handled, is_done = [], False
        with CrashingSaver.from_conn_string(store) as saver:
            saver.plan = Plan(stop)
            try:
                with saver.thread("t").batch("b", items, flush=flush, owner="me") as batch:
                    loop(batch, handled)
                    batch.finish()
                    is_done = True
            except Crashed:
                pass
        before = list(handled)
        with CrashingSaver.from_conn_string(store) as saver:
            with saver.thread("t").batch("b", items, flush=flush, owner="me", on_done="skip") as batch:
                loop(batch, handled)
                batch.finish()
            assert list(batch.outputs()) == items
            assert [one.kind for one in saver.admin.verify("t", depth="data")] == []
        again = Counter(handled)
        repeated = [item for item in items if again[item] > 1]
        # The item in hand repeats if its flush was not stored.
        assert len(repeated) <= flush, f"stopped after {stop}: {before}, {handled}"
        if is_done:
            break
    assert is_done


# Several workers


def test_several_workers_handle_each_item_once(saver):
    items = [f"{n}" for n in range(60)]
    handled = [[] for _ in range(4)]

    def work(mine):
        with saver.thread("t").batch("b", items, chunk=5, on_done="skip") as batch:
            loop(batch, mine)
            with suppress(errors.OperationInProgressError):
                batch.finish(lambda: submitted.append(1))

    submitted = []
    threads = [threading.Thread(target=work, args=(mine,)) for mine in handled]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item for mine in handled for item in mine) == sorted(items)
    assert len(submitted) == 1


def test_the_final_operation_is_performed_once(saver):
    calls = []

    def submit(key):
        calls.append(key)
        if len(calls) == 1:
            raise ConnectionError("not sent")
        return "receipt"

    with saver.thread("t").batch("b", ["a"]) as batch:
        with pytest.raises(InvalidInputError, match="1 items left"):
            batch.finish(submit)
        loop(batch, [])
        with pytest.raises(ConnectionError):
            batch.finish(submit)
    with pytest.raises(errors.BatchChangedError, match="can no longer change"):
        saver.thread("t").batch("b", ["a", "x"], changed="merge").__enter__()
    with saver.thread("t").batch("b", ["a"]) as batch, pytest.raises(errors.OutcomeUnknownError):
        batch.finish(submit)
    saver.thread("t").operations.resolve(calls[0], not_done=True)
    with saver.thread("t").batch("b", ["a"]) as batch:
        assert batch.finish(submit) == "receipt"
    with saver.thread("t").batch("b", ["a"], on_done="skip") as batch:
        assert batch.finish(submit) is None
    assert calls == calls[:1] * 2


def test_async_twins(saver):
    handled = []

    async def main():
        async with saver.thread("t").batch("b", FIFTY, flush=7) as batch:
            async for item in batch:
                handled.append(item)
                if item == "item 3":
                    await batch.afail(item, "no")
                else:
                    await batch.adone(item, output=item)

            async def submit():
                return len(await batch.aoutputs())

            assert await batch.afinish(submit) == 49
        return await batch.aoutputs(), await batch.afailed()

    outputs, failed = asyncio.run(main())
    assert list(outputs) == [item for item in FIFTY if item != "item 3"]
    assert [(key, one.attempts, one.error) for key, one in failed.items()] == [("item 3", 3, "no")]
    assert Counter(handled)["item 3"] == 3


# Items that fail


def test_an_item_that_fails_is_tried_again_and_then_left(saver):
    handled = []
    with saver.thread("t").batch("b", ["a", "b", "c"], attempts=2) as batch:
        loop(batch, handled, fails={"b"})
        batch.finish()
    assert handled == ["a", "b", "c", "b"]
    assert str(batch.failed()["b"]) == "failed 2 times: ValueError: no"
    assert str(batch.progress) == "2 of 3 items done, 1 failed"


def test_an_item_that_kills_its_process_is_left_after_some_crashes(saver):
    handled = []
    for _ in range(4):
        batch = saver.thread("t").batch("b", ["a", "killer", "c"], owner="pod-1")
        batch.__enter__()
        for item in batch:
            handled.append(item)
            if item == "killer":
                break  # without an end of the block, as in a crash
            batch.done(item)
    assert handled == ["a", "killer", "killer", "killer", "c"]
    assert str(batch.failed()["killer"]) == "failed 3 times: the process crashed"


# Lists that change


def test_a_changed_list_is_an_error_or_is_merged_and_skips_nothing(saver):
    handled = []
    with saver.thread("t").batch("b", ["a", "b", "c"], chunk=1) as batch:
        loop(batch, handled, most=1)
    with pytest.raises(errors.BatchChangedError, match="1 were added and 1 were removed") as caught:
        saver.thread("t").batch("b", ["x", "a", "c"]).__enter__()
    assert (caught.value.added, caught.value.removed) == (("x",), ("b",))
    with saver.thread("t").batch("b", ["x", "a", "c"], changed="merge") as batch:
        loop(batch, handled)
    assert handled == ["a", "c", "x"]
    with saver.thread("t").batch("b", ["c", "b", "a", "x"], changed="merge") as batch:
        loop(batch, handled)
        batch.finish()
    assert handled == ["a", "c", "x", "b"]
    assert list(batch.outputs()) == ["a", "b", "c", "x"]


def test_a_worker_with_an_older_list_does_not_end_the_batch(saver):
    handled = []
    with saver.thread("t").batch("b", ["a"]) as old:
        loop(old, handled)
        with saver.thread("t").batch("b", ["a", "new"], changed="merge") as new:
            with pytest.raises(InvalidInputError, match="1 items left"):
                old.finish()
            loop(new, handled)
            new.finish()
    assert handled == ["a", "new"]


def test_a_batch_that_is_done_is_an_error_is_skipped_or_starts_again(saver, store):
    thread = saver.thread("t")
    with thread.batch("b", FIFTY) as batch:
        loop(batch, [])
        batch.finish()
    with pytest.raises(errors.BatchDoneError, match="on_done='skip'"):
        thread.batch("b", FIFTY).__enter__()
    handled = []
    with thread.batch("b", FIFTY, on_done="skip") as batch:
        loop(batch, handled)
    assert handled == []
    with thread.batch("b", FIFTY[:3], on_done="restart") as again:
        with pytest.raises(errors.BatchChangedError, match="restarted"):
            batch.outputs()
        assert (again.already_done, again.outputs()) == (0, {})
        loop(again, handled)
        again.finish()
    assert handled == FIFTY[:3]
    raw = open_raw(store)
    assert sum(f"/{keys.DONE}/" in name for name in raw.documents()) == 3
    raw.close()


# What is stored


def test_ten_thousand_items_in_under_250_writes(store):
    writes = Writes()
    with GCSSaver.from_conn_string(store, interceptors=[writes]) as saver:
        with saver.thread("t").batch("b", [f"{n}" for n in range(10_000)], flush=50) as batch:
            for item in batch:
                batch.done(item, output=item)
            batch.finish()
        assert 200 < writes.number < 250
        assert batch.progress.done == len(batch.outputs()) == 10_000


def test_a_loop_that_takes_hours_keeps_its_thread_in_use(store):
    later = Later(0)
    with GCSSaver.from_conn_string(store, interceptors=[later]) as saver:
        batch = saver.thread("t").batch("b", FIFTY[:5])  # clock: it has its own
        batch._worker = replace(batch._worker, clock=lambda: later.seconds)
        used = set()
        with batch:
            for item in batch:
                docs = saver._backend.documents.get_docs(GetDocs((keys.thread_doc("t"),)))
                used.add(docs[keys.thread_doc("t")].update_time)
                batch.done(item)
                later.seconds += 601.0
    assert len(used) == 5


@pytest.fixture(params=["small", "objects"])
def filled(request, store):
    """A batch whose list and outputs are in documents, or in objects, with a claim of a process that crashed."""
    limit = {} if request.param == "small" else {"inline_max_bytes": 0}
    with GCSSaver.from_conn_string(store, **limit) as saver:
        batch = saver.thread("t").batch("b", ["a", "b", "c"], flush=2, chunk=2)
        batch.__enter__()
        for item in batch:
            if item == "c":
                break
            batch.done(item, output=os.urandom(200_000 if limit else 100))
        yield saver, batch.outputs(), 2 if limit else 0


def test_other_methods_know_a_batch(filled, store, tmp_path):
    saver, outputs, objects = filled
    raw = open_raw(store)
    assert len(raw.objects()) == objects
    assert [name for name in raw.documents() if f"/{keys.CHUNKS}/" in name]

    def read(one, thread):
        """The outputs of a copy, to which the claim was not carried: so the rest is handed out at once."""
        with one.thread(thread).batch("b", ["a", "b", "c"]) as batch:
            assert next(iter(batch)) == "c"
            return batch.outputs()

    assert list(saver.admin.verify("t", depth="data")) == []
    assert saver.admin.repair("t") == []
    assert saver.admin.collect(orphan_age=timedelta(0)) == []
    saver.admin.prune(["t"], strategy="keep_latest")
    saver.copy_thread("t", "copy")
    saver.admin.export_thread("t", tmp_path / "t.tar")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/there") as there:
        saver.admin.transfer_thread("t", there)
        assert read(there, "t") == outputs
    saver.delete_thread("t")
    assert len(raw.objects()) == objects
    assert read(saver, "copy") == outputs
    assert list(saver.admin.verify("copy", depth="data")) == []
    saver.admin.import_thread(tmp_path / "t.tar")
    assert read(saver, "t") == outputs
    saver.delete_thread("t")
    with GCSSaver.from_conn_string(store, ttl=timedelta(hours=1), interceptors=[Later(7200)]) as later:
        assert [one.thread_id for one in later.admin.sweep()] == ["copy"]
    assert [name for name in raw.documents() if name.startswith(keys.THREADS)] == []
    assert raw.objects() == {}
    raw.close()


@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["clear", "encrypted"])
def test_a_copy_that_crashes_anywhere_is_completed(store, cipher):
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver, saver.thread("t").batch("b", ["a"]) as batch:
        loop(batch, [])
    for stop in count(0, 3):
        with CrashingSaver.from_conn_string(store, cipher=cipher) as saver:
            saver.plan = Plan(stop)
            try:
                saver.copy_thread("t", "copy")
            except Crashed:
                pass
            else:
                break
        with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
            with suppress(InvalidInputError):  # it had ended, and only the answer was lost
                saver.copy_thread("t", "copy")
            raw = open_raw(store)
            assert "copying" not in raw.documents()[keys.thread_doc("copy")]
            raw.close()
            assert str(saver.admin.batches("copy")[0]) == "Batch 'b' of thread 'copy': open, 1 of 1 item done"
            saver.delete_thread("copy")
    assert stop > 8


def test_a_damaged_document_is_found_and_never_read_as_no_items(saver):
    with saver.thread("t").batch("b", ["a"]) as batch:
        loop(batch, [])
    collection, start, end = keys.done_range(keys.batch_doc("t", "b"))
    (doc,) = saver._backend.documents.query_docs(QueryDocs(collection, start=start, end=end))
    for field, value in (("items", b"x"), ("items", doc.fields["items"][:-1] + b"x"), ("format", 0), ("outputs", "x")):
        saver._backend.documents.commit(Commit((Merge(doc.name, {field: value}),)))
        (finding,) = saver.admin.verify("t", depth="metadata")
        assert (finding.kind, finding.name) == ("corrupt", doc.name)
        with pytest.raises(errors.DamageError):
            saver.thread("t").batch("b", ["a"]).__enter__() if field != "outputs" else batch.outputs()
        saver._backend.documents.commit(Commit((Merge(doc.name, dict(doc.fields)),)))
    assert batch.outputs() == {"a": {"of": "a"}}


# Bad input


@pytest.mark.parametrize(
    ("items", "options", "error", "text"),
    [
        ([1], {}, InvalidInputError, "Pass key="),
        ([1], {"key": lambda n: n}, InvalidInputError, "of type int"),
        (["a", "a"], {}, InvalidInputError, "same key"),
        (["\ud800"], {}, InvalidInputError, "Unicode text"),
        (["a"], {"flush": 0}, InvalidOptionError, "flush is 0"),
        (["a"], {"attempts": True}, InvalidOptionError, "attempts is True"),
        (["a"], {"chunk": 1.5}, InvalidOptionError, "chunk is 1.5"),
        (["a"], {"timeout": 1}, InvalidOptionError, "timeout is 1"),
        (["a"], {"changed": "skip"}, InvalidOptionError, "changed is 'skip'"),
        (["a"], {"on_done": "merge"}, InvalidOptionError, "on_done is 'merge'"),
        (["a"], {"context": {1, 2}}, InvalidInputError, "context"),
        (["a"], {"owner": ""}, InvalidInputError, "owner must have 1 to 200"),
        (["a"], {"owner": "\ud800"}, InvalidInputError, "The owner"),
    ],
)
def test_bad_input_is_an_error_and_writes_nothing(saver, items, options, error, text):
    with pytest.raises(error, match=text):
        saver.thread("t").batch("b", items, **options)
    with pytest.raises(InvalidIdError):
        saver.thread("t").batch(7, ["a"])
    assert saver.thread("t").batches() == []


def test_misuse_of_the_loop_is_an_error(saver):
    thread = saver.thread("t")
    batch = thread.batch("b", ["a", "b"])
    with pytest.raises(InvalidInputError, match="not open"):
        batch.done("a")
    with batch:
        with pytest.raises(InvalidInputError, match="has not handed out"):
            batch.done("a")
        for item in batch:
            with pytest.raises(InvalidInputError, match="has not handed out"):
                batch.done("b" if item == "a" else "a")
            with pytest.raises(errors.SerializationError):
                batch.done(item, output=threading.Lock())
            with pytest.raises(InvalidInputError, match="neither done nor failed"):
                next(iter(batch))
            batch.done(item)
    with pytest.raises(InvalidInputError, match="block has ended"):
        list(batch)
    with pytest.raises(InvalidInputError, match="opened before"), batch:
        pass


def test_the_list_of_batches(saver):
    thread = saver.thread("t")
    assert thread.batches() == []
    with thread.batch("a", FIFTY, context="c", attempts=1) as batch:
        loop(batch, [], most=20, fails={"item 3"})
    with thread.batch("b", ["x"]) as batch:
        loop(batch, [])
        batch.finish()
    for found in (thread.batches(), asyncio.run(thread.abatches())):
        assert list(map(str, found)) == [
            "Batch 'a' of thread 't': open, 19 of 50 items done, 1 failed",
            "Batch 'b' of thread 't': done, 1 of 1 item done",
        ]
        assert (found[0].context, found[0].failed["item 3"].attempts) == ("c", 1)


class Fails(Interceptor):
    """Lets one flush fail before it reaches the store."""

    failed = False

    def around(self, effect, perform):
        is_flush = isinstance(effect, Commit) and any("/lg_done/" in write.name for write in effect.writes)
        if is_flush and not self.failed:
            self.failed = True
            raise StoreUnavailableError("no answer")
        return perform(effect)


def test_items_whose_flush_failed_are_not_handed_out_again(store):
    with GCSSaver.from_conn_string(store, interceptors=[Fails()]) as saver:
        handled = []
        with saver.thread("t").batch("b", FIFTY[:5], flush=5) as batch:
            for item in batch:
                handled.append(item)
                with suppress(StoreUnavailableError):
                    batch.done(item)
        assert (handled, batch.progress.done) == (FIFTY[:5], 5)
        assert saver.thread("t").batches()[0].done == 5


@pytest.mark.parametrize("verify", ["readback", "off"])
def test_a_loop_whose_thread_was_deleted_ends_and_leaves_nothing(store, verify):
    with GCSSaver.from_conn_string(store, verify=verify) as saver, saver.thread("t").batch("b", FIFTY) as batch:
        item = next(iter(batch))
        saver.delete_thread("t")
        with pytest.raises(BatchChangedError, match="was deleted"):
            batch.done(item, output=item)
    assert open_raw(store).documents() == {}


def test_outputs_of_a_list_that_another_process_has_changed(saver):
    with saver.thread("t").batch("b", ["a", "b"]) as batch:
        loop(batch, [])
    with saver.thread("t").batch("b", ["b", "c"], changed="merge") as other:
        loop(other, [])
    assert list(batch.outputs()) == ["b", "c"]


def test_an_interrupted_claim_is_given_back(store):
    class Interrupts(Interceptor):
        claimed = False

        def around(self, effect, perform):
            if self.claimed and isinstance(effect, QueryDocs):
                self.claimed = False
                raise KeyboardInterrupt
            found = perform(effect)
            if isinstance(effect, Commit):
                self.claimed = any("/lg_chunks/" in write.name for write in effect.writes)
            return found

    with GCSSaver.from_conn_string(store, interceptors=[Interrupts()]) as saver:
        with pytest.raises(KeyboardInterrupt), saver.thread("t").batch("b", FIFTY) as batch:
            next(iter(batch))
        assert not [name for name in open_raw(store).documents() if "lg_chunks" in name]


def test_a_progress_bar(saver, capsys):
    with saver.thread("t").batch("b", ["a", "b"], progress=True) as batch:
        loop(batch, [])
    drawn = capsys.readouterr().err
    assert drawn.startswith("\rb [------------------------------] 0 of 2 items done\r")
    assert drawn.endswith("\rb [##############################] 2 of 2 items done\n")
