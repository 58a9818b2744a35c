"""`verify="pipelined"`: calls return when their data is durable, and nothing is built on it before it is proven."""

import asyncio
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from langgraph_gcs_saver import KeepLast
from langgraph_gcs_saver.engine.effects import Ask, Docs, GetDocs, HashBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import CheckpointVerificationError, SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.events import ThreadPruned, ThreadSkipped, VerificationFailed
from langgraph_gcs_saver.saver import trailing
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.patience import PATIENCE, aeventually, eventually
from tests.system.build import cfg, cid, noise, number, put, values

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


class Proofs(Interceptor):
    """Holds trailing proofs back, and changes what they read.

    Attributes:
        spoils: How many more proofs read something else than was written.
        waiting: How many calls have waited for a proof so far.
        proved: How many documents and objects proofs have read.
    """

    def __init__(self):
        self.spoils = self.waiting = self.proved = 0
        self._may_pass = threading.Event()
        self._may_pass.set()

    def hold(self):
        self._may_pass.clear()

    def release(self):
        self._may_pass.set()

    def around(self, effect, perform):
        self.waiting += isinstance(effect, Ask)
        if not self._is_proof(effect):
            return perform(effect)
        assert self._may_pass.wait(PATIENCE)
        self.proved += 1
        return self._found(effect, perform(effect))

    async def aaround(self, effect, perform):
        self.waiting += isinstance(effect, Ask)
        return await perform(effect)

    def _is_proof(self, effect):
        is_behind = threading.current_thread().name.startswith("langgraph-gcs-proofs")
        return isinstance(effect, HashBlob) or (is_behind and isinstance(effect, GetDocs) and effect.mask is None)

    def _found(self, effect, found):
        if not self.spoils or not isinstance(effect, GetDocs) or not found:
            return found
        # Not what the next try reads: the parent, and the thread's document.
        if _checkpoints(effect.names) > 1 or not all("_checkpoints/" in doc or "_writes/" in doc for doc in found):
            return found
        self.spoils -= 1
        return Docs([replace(doc, fields={**doc.fields, **_changed(doc.fields)}) for doc in found.values()])


def _checkpoints(names):
    return sum("/lg_checkpoints/" in name for name in names)


def _changed(fields):
    return {name: value + b"x" for name, value in fields.items() if isinstance(value, bytes)}


@pytest.fixture
def proofs():
    return Proofs()


@pytest.fixture
def pipelined(make_saver, proofs):
    """Makes savers with trailing proofs, on a store that has been written to.

    At the end the proofs are released, because `close` waits for them.
    """
    make_saver().delete_thread("x")

    def make(**options):
        interceptors = [*options.pop("interceptors", ()), proofs]
        return make_saver(verify="pipelined", interceptors=interceptors, **options)

    yield make
    proofs.release()


@pytest.fixture
def saver(pipelined):
    return pipelined()


@pytest.fixture
def beside():
    """Makes calls on another thread."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


# When calls return


def test_a_put_returns_after_one_round(pipelined, proofs):
    count = CountingInterceptor()
    saver = pipelined(interceptors=[count])
    saver.get_tuple(cfg())
    proofs.hold()
    count.clear()
    put(saver, 1, {"a": 1})
    assert count.rounds == [("Commit",)]
    proofs.release()
    put(saver, 2, {"a": 2}, parent=1)
    eventually(lambda: proofs.proved == 2)
    assert sorted(count.rounds) == [("Commit",), ("Commit",), ("GetDocs",), ("GetDocs",)], "the parent is in memory"
    saver.get_tuple(cfg())
    proofs.hold()
    count.clear()
    saver.put_writes(cfg(2), [("a", 3)], "task")
    assert count.rounds == [("Commit",)]


async def test_an_asynchronous_put_returns_after_one_round(pipelined, proofs):
    count = CountingInterceptor()
    async with pipelined(interceptors=[count]) as saver:
        await saver.aget_tuple(cfg())
        proofs.hold()
        count.clear()
        await saver.aput(cfg(), *arguments(1, {"a": 1}))
        assert count.rounds == [("Commit",)]
        proofs.release()
        assert values(await saver.aget_tuple(cfg())) == {"a": 1}
        assert proofs.proved == 1


def test_objects_are_read_back_later_too(pipelined, proofs):
    count = CountingInterceptor()
    saver = pipelined(interceptors=[count], inline_max_bytes=0)
    put(saver, 1, {"a": 1})
    saver.get_tuple(cfg())
    proofs.hold()
    count.clear()
    put(saver, 2, {"a": noise(20_000)}, parent=1)
    assert count.rounds == [("PutBlob",), ("Commit",)]
    proofs.release()
    assert values(saver.get_tuple(cfg())) == {"a": noise(20_000)}
    assert count.requests["HashBlob"] == 1


def arguments(n, found):
    """What LangGraph passes to `put` after the config."""
    kept = []

    class Spy:
        def put(self, *given):
            kept.append(given)

    put(Spy(), n, found)
    return kept[0][1:]


# What waits


CALLS = {
    "put": lambda saver: put(saver, 2, {"a": 2}, parent=1),
    "put_writes": lambda saver: saver.put_writes(cfg(1), [("a", 1)], "task"),
    "get_tuple": lambda saver: saver.get_tuple(cfg()),
    "list": lambda saver: list(saver.list(cfg())),
    "history": lambda saver: saver.get_delta_channel_history(config=cfg(1), channels=["a"]),
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "verify": lambda saver: list(saver.admin.verify("t")),
    "copy_thread": lambda saver: saver.copy_thread("t", "copy"),
    "operations": lambda saver: saver.thread("t").operations.unresolved(),
    "lease": lambda saver: saver.thread("t").lease().__enter__().release(),
}


@LOCAL
@pytest.mark.parametrize("name", CALLS)
def test_the_next_call_on_the_thread_waits(saver, proofs, beside, name):
    proofs.hold()
    put(saver, 1, {"a": 1})
    calling = beside(CALLS[name], saver)
    eventually(lambda: proofs.waiting or calling.done())
    assert not calling.done()
    assert not proofs.proved
    proofs.release()
    calling.result(PATIENCE)
    assert proofs.proved


@LOCAL
async def test_a_coroutine_waits_without_blocking_the_loop(pipelined, proofs):
    async with pipelined() as saver:
        proofs.hold()
        await saver.aput(cfg(), *arguments(1, {"a": 1}))
        calling = asyncio.ensure_future(saver.aget_tuple(cfg()))
        await aeventually(lambda: proofs.waiting or calling.done())
        assert not calling.done()
        proofs.release()
        assert values(await calling) == {"a": 1}


@LOCAL
def test_other_threads_do_not_wait(saver, proofs):
    proofs.hold()
    put(saver, 1, {"a": 1})
    put(saver, 1, {"a": 2}, thread="other")
    assert saver.get_tuple(cfg(thread="third")) is None
    assert not proofs.waiting


@LOCAL
def test_retention_waits(pipelined, proofs):
    seen = []
    saver = pipelined(retention=KeepLast(1), on_event=seen.append)
    put(saver, 1, {"a": 1}, metadata={"step": 15})
    saver.get_tuple(cfg())
    proofs.hold()
    proofs.waiting = 0
    put(saver, 2, {"a": 2}, parent=1, metadata={"step": 16})
    eventually(lambda: proofs.waiting or pruned(seen))
    assert not pruned(seen)
    proofs.release()
    eventually(lambda: pruned(seen))
    assert [number(one) for one in saver.list(cfg())] == [2]


@LOCAL
@pytest.mark.parametrize("fault", ["mismatch", "network"])
def test_retention_leaves_what_precedes_a_checkpoint_that_is_not_proven(pipelined, proofs, fault):
    class Broken(Interceptor):
        def around(self, effect, perform):
            if fault == "network" and proofs._is_proof(effect):
                disconnect()
            return perform(effect)

    seen = []
    saver = pipelined(retention=KeepLast(1), on_event=seen.append)
    put(saver, 1, {"a": 1}, metadata={"step": 15})
    saver.get_tuple(cfg())
    proofs.spoils = 3 if fault == "mismatch" else 0
    proofs.hold()
    end = saver._backend.intercept(Broken())
    proofs.waiting = 0
    put(saver, 2, {"a": 2}, parent=1, metadata={"step": 16})
    eventually(lambda: proofs.waiting or has_ended(seen))
    proofs.release()
    eventually(lambda: has_ended(seen))
    end()
    with pytest.raises(CheckpointVerificationError):
        saver.get_tuple(cfg())
    assert not pruned(seen)
    assert [number(one) for one in saver.list(cfg())] == ([1] if fault == "mismatch" else [2, 1])


def has_ended(events):
    return any(isinstance(event, (ThreadPruned, ThreadSkipped)) for event in events)


def pruned(events):
    return [event for event in events if isinstance(event, ThreadPruned)]


@LOCAL
def test_close_waits(pipelined, proofs, beside):
    saver = pipelined()
    proofs.hold()
    put(saver, 1, {"a": 1})
    closing = beside(saver.close)
    eventually(lambda: saver._trailing._processes.get().pool._threads.is_closed)
    put(saver, 1, {"a": 1}, thread="late")  # it is not held, because the call itself reads back
    assert not closing.done()
    proofs.release()
    closing.result(PATIENCE)
    assert proofs.proved


@LOCAL
def test_a_forked_child_does_not_wait_for_its_parents_proofs(saver, proofs):
    proofs.hold()
    put(saver, 1, {"a": 1})
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if values(saver.get_tuple(cfg())) == {"a": 1} and not proofs.waiting else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# What is bounded


@LOCAL
def test_beyond_the_limit_calls_prove_before_they_return(pipelined, proofs, beside):
    saver = pipelined(max_threads=2)
    proofs.hold()
    for n in range(2):
        put(saver, 1, {"a": n}, thread=f"thread {n}")
    put(saver, 1, {"a": 3}, thread="third")  # it is not held, because this very thread reads back
    assert len(trailing_in(saver)) == 2
    proofs.release()
    eventually(lambda: not trailing_in(saver))


@LOCAL
def test_the_bytes_that_trail_are_limited(pipelined, proofs, monkeypatch):
    monkeypatch.setattr(trailing, "MOST_BYTES", 50_000)
    saver = pipelined(inline_max_bytes=100_000)
    proofs.hold()
    put(saver, 1, {"a": noise(15_000)})
    assert len(trailing_in(saver)) == 1
    put(saver, 1, {"a": noise(15_000)}, thread="other")
    assert len(trailing_in(saver)) == 1
    put(saver, 1, {"a": 1}, thread="small")
    assert len(trailing_in(saver)) == 2


@LOCAL
def test_nothing_stays_in_memory(saver, proofs):
    for n in range(1, 20):
        put(saver, n, {"a": n}, parent=n - 1 or None, thread="t" if n < 10 else "u")
    eventually(lambda: not trailing_in(saver))


def trailing_in(saver):
    return saver._trailing._processes.get().all()


# What fails


@pytest.mark.parametrize("spoils", [1, 2])
def test_a_mismatch_is_written_again(pipelined, proofs, spoils):
    seen = []
    saver = pipelined(on_event=seen.append)
    put(saver, 1, {"a": 1})
    saver.get_tuple(cfg())
    proofs.spoils = spoils
    put(saver, 2, {"a": 2}, parent=1)
    assert values(saver.get_tuple(cfg())) == {"a": 2}
    put(saver, 3, {"a": 3}, parent=2)
    assert [values(one) for one in saver.list(cfg())] == [{"a": 3}, {"a": 2}, {"a": 1}]
    assert [event.attempt for event in seen if isinstance(event, VerificationFailed)] == [*range(1, spoils + 1)]
    assert not list(saver.admin.verify("t", depth="data"))


@LOCAL
@pytest.mark.parametrize("act", ["get_tuple", "put_writes"])
def test_a_handler_may_call_the_saver_while_a_proof_trails(pipelined, proofs, beside, act):
    """It is called by the proof, which would wait for itself."""
    seen = []

    def look(event):
        if isinstance(event, VerificationFailed) and not seen:
            seen.append(event)
            call = {"get_tuple": lambda: saver.get_tuple(cfg()), "put_writes": lambda: writes(saver)}
            seen.append(call[act]())

    saver = pipelined(on_event=look)
    put(saver, 1, {"a": 1})
    proofs.spoils = 1
    put(saver, 2, {"a": 2}, parent=1)
    assert values(beside(saver.get_tuple, cfg()).result(PATIENCE)) == {"a": 2}
    assert len(seen) == 2


def writes(saver):
    saver.put_writes(cfg(1), [("a", 3)], "task")


@LOCAL
def test_pending_writes_are_written_again(saver, proofs):
    put(saver, 1, {"a": 1})
    saver.get_tuple(cfg())
    proofs.spoils = 2
    saver.put_writes(cfg(1), [("a", 1), ("__interrupt__", "?")], "task")
    assert len(saver.get_tuple(cfg()).pending_writes) == 2
    assert not proofs.spoils


@pytest.fixture
def failed(saver, proofs):
    """A saver whose put of checkpoint 2 has returned, and whose proof has failed for good."""
    put(saver, 1, {"a": 1})
    saver.get_tuple(cfg())
    proofs.spoils = 3
    put(saver, 2, {"a": 2}, parent=1)
    return saver


@LOCAL
@pytest.mark.parametrize("name", CALLS)
def test_the_next_call_on_the_thread_raises(failed, name):
    with pytest.raises(CheckpointVerificationError, match=f"(?s){cid(2)}.*returned.*failed.*was not stored"):
        CALLS[name](failed)
    assert [number(one) for one in failed.list(cfg())] == [1], "it is reported once, and nothing is visible"
    put(failed, 2, {"a": 2}, parent=1)
    assert values(failed.get_tuple(cfg())) == {"a": 2}


@LOCAL
def test_other_threads_do_not_raise(failed):
    eventually(lambda: all(proof.is_done for proof in trailing_in(failed)))  # the spoils are those of thread `t`
    put(failed, 1, {"a": 1}, thread="other")
    assert values(failed.get_tuple(cfg(thread="other"))) == {"a": 1}
    with pytest.raises(CheckpointVerificationError):
        failed.get_tuple(cfg())


@LOCAL
def test_close_raises_after_it_has_closed(failed):
    with pytest.raises(CheckpointVerificationError, match=cid(2)):
        failed.close()
    with pytest.raises(SaverClosedError):
        failed.get_tuple(cfg(thread="other"))
    failed.close()


@LOCAL
async def test_aclose_raises(pipelined, proofs):
    saver = pipelined()
    proofs.spoils = 3
    with pytest.raises(CheckpointVerificationError, match=cid(1)):
        async with saver:
            await saver.aput(cfg(), *arguments(1, {"a": 1}))


@LOCAL
def test_a_blocks_own_exception_is_not_replaced(failed):
    with pytest.raises(ZeroDivisionError), failed:
        raise ZeroDivisionError


@LOCAL
def test_a_lease_is_released_before_the_failure_is_raised(saver, proofs):
    def store():
        with saver.thread("t").lease() as lease:
            proofs.spoils = 3
            saver.put(lease.config, *arguments(1, {"a": 1}))

    with pytest.raises(CheckpointVerificationError, match=cid(1)):
        store()
    with saver.thread("t").lease() as lease:
        saver.put(lease.config, *arguments(1, {"a": 1}))
    assert values(saver.get_tuple(cfg())) == {"a": 1}


@LOCAL
def test_a_proof_under_a_lease_ends_before_its_release(saver, proofs):
    with saver.thread("t").lease() as lease:
        proofs.spoils = 1
        saver.put(lease.config, *arguments(1, {"a": 1}))
    assert not trailing_in(saver)
    assert values(saver.get_tuple(cfg())) == {"a": 1}


@LOCAL
def test_a_proof_that_cannot_be_completed(saver, proofs):
    class Broken(Interceptor):
        def around(self, effect, perform):
            if proofs._is_proof(effect):
                raise ConnectionError("the network is down")
            return perform(effect)

    end = saver._backend.intercept(Broken())
    put(saver, 1, {"a": 1})
    eventually(lambda: all(proof.is_done for proof in trailing_in(saver)))
    end()
    with pytest.raises(CheckpointVerificationError, match=f"{cid(1)}.*could not be completed") as caught:
        saver.get_tuple(cfg())
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert values(saver.get_tuple(cfg())) == {"a": 1}


def disconnect():
    raise ConnectionError("the network is down")


@LOCAL
def test_a_failure_keeps_no_values_in_memory(saver, proofs):
    """The frames of a traceback hold what the call stores, also those of the exceptions that led to the last one."""

    class Broken(Interceptor):
        def around(self, effect, perform):
            if not proofs._is_proof(effect):
                return perform(effect)
            try:
                disconnect()
            except ConnectionError as error:
                raise StoreUnavailableError("no answer") from error

    saver._backend.intercept(Broken())
    put(saver, 1, {"a": 1})
    eventually(lambda: all(proof.is_done for proof in trailing_in(saver)))
    with pytest.raises(CheckpointVerificationError) as caught:
        saver.close()
    first = caught.value.__cause__
    assert isinstance(first.__cause__, ConnectionError)
    assert (first.__traceback__, first.__cause__.__traceback__) == (None, None)


@LOCAL
def test_failures_that_no_call_raises_are_limited(saver, proofs, monkeypatch):
    monkeypatch.setattr(trailing, "MOST_FAILED", 2)
    for n in range(4):
        proofs.spoils = 3
        put(saver, 1, {"a": 1}, thread=f"thread {n}")
        eventually(lambda: all(proof.is_done for proof in trailing_in(saver)))
    assert len(trailing_in(saver)) == 2
    with pytest.raises(CheckpointVerificationError):
        saver.close()


# What the caller changes meanwhile


@LOCAL
def test_what_the_caller_changes_after_the_call_is_not_stored(saver, proofs):
    state = {"a": [1], "b": ["old"]}
    put(saver, 1, state)
    saver.get_tuple(cfg())
    proofs.hold()
    proofs.spoils = 1
    put(saver, 2, state, parent=1, changed={"a"})
    state["a"].append("changed")
    state["b"].append("changed")
    proofs.release()
    assert values(saver.get_tuple(cfg())) == {"a": [1], "b": ["old"]}


@LOCAL
def test_a_value_that_only_a_deleted_parent_has_is_not_serialized_late(saver, make_saver, proofs):
    state = {"a": [1], "b": ["old"]}
    put(saver, 1, state, metadata={"run_id": "first"})
    saver.get_tuple(cfg())
    proofs.hold()
    proofs.spoils = 1
    put(saver, 2, state, parent=1, changed={"a"}, metadata={"run_id": "second"})
    state["b"].append("changed")
    make_saver().admin.delete_for_runs(["second"])
    make_saver().admin.delete_for_runs(["first"])
    proofs.release()
    assert saver.get_tuple(cfg()) is None, "both were deleted"
