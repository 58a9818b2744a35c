import _thread
import asyncio
import logging
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    DeleteBlobs,
    Effect,
    Emit,
    EnsureBucket,
    ExemptField,
    Gather,
    GetBlob,
    GetDocs,
    ListBlobs,
    ListCollections,
    Now,
    Pause,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.pool import Task
from langgraph_gcs_saver.engine.runner import OFFLOAD_BYTES, Backend, arun, run
from langgraph_gcs_saver.errors import SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.events import CheckpointReplaced, Subscribers, ThreadDeleted
from tests.kit.performing import both, perform_sync
from tests.patience import PATIENCE, aeventually, eventually

EVENT = CheckpointReplaced(thread_id="t")


class Gates:
    """What requests wait for, so that a test knows the order of events however slow the machine is.

    The name of a request says how it ends:

    - `meet…` when four requests are under way at the same time;
    - `held…` when the test opens the gate;
    - `hang…` never on an event loop; on a thread, when another effect that waited for a thread was canceled;
    - `…fail…` with an error.
    """

    def __init__(self):
        self.met = []
        self.held, self.cancelled = threading.Event(), threading.Event()

    def pass_(self, name):
        if name.startswith("meet"):
            self.met.append(name)
            eventually(lambda: len(self.met) >= 4)
        if name.startswith("held"):
            assert self.held.wait(PATIENCE)
        if name.startswith("hang"):
            assert self.cancelled.wait(PATIENCE)
        if "fail" in name:
            raise StoreUnavailableError(name)

    async def apass(self, name):
        if name.startswith("meet"):
            self.met.append(name)
            await aeventually(lambda: len(self.met) >= 4)
        if name.startswith("held"):
            await aeventually(self.held.is_set)
        if name.startswith("hang"):
            await asyncio.Event().wait()
        if "fail" in name:
            raise StoreUnavailableError(name)


class Documents:
    """Answers with what it was asked."""

    def __init__(self, gates=None):
        self.gates = gates or Gates()
        self.begun, self.ended = [], []
        self.closed = 0

    def get_docs(self, effect):
        return self._answer(effect.names[0])

    def query_docs(self, effect):
        return self._answer(effect.collection)

    def list_collections(self, effect):
        return self._answer(f"below {effect.document}")

    async def alist_collections(self, effect):
        return await self._aanswer(f"below {effect.document}")

    def commit(self, effect):
        return self._answer("commit")

    async def aget_docs(self, effect):
        return await self._aanswer(effect.names[0])

    async def aquery_docs(self, effect):
        return await self._aanswer(effect.collection)

    async def acommit(self, effect):
        return await self._aanswer("commit")

    def read_indexing(self, effect):
        return self._answer(f"indexing of {effect.field}")

    def exempt_field(self, effect):
        self._answer(f"exempt {effect.field}")

    async def aread_indexing(self, effect):
        return await self._aanswer(f"indexing of {effect.field}")

    async def aexempt_field(self, effect):
        await self._aanswer(f"exempt {effect.field}")

    def _answer(self, name):
        self.begun.append(name)
        self.gates.pass_(name)
        self.ended.append(name)
        return f"docs {name}"

    async def _aanswer(self, name):
        self.begun.append(name)
        await self.gates.apass(name)
        self.ended.append(name)
        return f"docs {name}"

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


class Blobs:
    def __init__(self, gates=None):
        self.gates = gates or Gates()
        self.threads, self.closed = set(), 0
        self.begun, self.ended = [], []

    def _answer(self, name):
        self.threads.add(threading.get_ident())
        self.begun.append(name)
        self.gates.pass_(name)
        self.ended.append(name)
        return f"blob {name}"

    def put_blob(self, effect):
        self._answer(effect.name)

    def get_blob(self, effect):
        return self._answer(effect.name)

    def list_blobs(self, effect):
        return [self._answer(effect.prefix)]

    def delete_blobs(self, effect):
        self._answer(effect.names[0])

    def ensure_bucket(self, effect):
        return self._answer("bucket")

    def read_bucket(self, effect):
        return self._answer("settings")

    def set_lifecycle(self, effect):
        return self._answer(f"rules of {effect.metageneration}")

    def close(self):
        self.closed += 1


@pytest.fixture
def gates(monkeypatch):
    found, cancel = Gates(), Task.cancel

    def noting(task):
        if is_cancelled := cancel(task):
            found.cancelled.set()
        return is_cancelled

    monkeypatch.setattr(Task, "cancel", noting)
    return found


def heard_by(*handlers):
    subscribers = Subscribers()
    for handler in handlers:
        subscribers.subscribe(handler)
    return subscribers


def make_backend(gates=None, **options):
    gates = gates or Gates()
    return Backend(Documents(gates), Blobs(gates), **options)


@pytest.fixture
def backend(gates):
    with closing(make_backend(gates, max_threads=4, timeout=PATIENCE)) as backend:
        yield backend


def of(effect):
    """A flow of one effect."""
    return (yield from effect)


# One table for both runners


def docs(name):
    return GetDocs((name,))


def no_effect():
    return 5
    yield


def several():
    first = yield from docs("a")
    second = yield from GetBlob("b")
    return first, second


def nested():
    inner = yield from several()
    return ["outer", inner]


def catches():
    try:
        yield from docs("fail")
    except StoreUnavailableError as error:
        return ["caught", str(error), (yield from docs("next"))]


def cleans_up(seen):
    try:
        yield from GetBlob("fail")
    finally:
        seen.append((yield from docs("cleanup")))


def replaces():
    try:
        yield from docs("fail one")
    finally:
        yield from docs("fail two")


def gather(*effects):
    return of(Gather(effects))


RESULTS = [
    (no_effect, 5),
    (several, ("docs a", "blob b")),
    (nested, ["outer", ("docs a", "blob b")]),
    (catches, ["caught", "fail", "docs next"]),
    (lambda: of(QueryDocs("c")), "docs c"),
    (lambda: of(ListCollections("c/d")), "docs below c/d"),
    (lambda: of(Commit(())), "docs commit"),
    (lambda: of(PutBlob("p", b"")), None),
    (lambda: of(ListBlobs("l")), ["blob l"]),
    (lambda: of(DeleteBlobs(("d",))), None),
    (lambda: of(EnsureBucket()), "blob bucket"),
    (lambda: of(ReadBucket()), "blob settings"),
    (lambda: of(SetLifecycle((), 7)), "blob rules of 7"),
    (lambda: of(ReadIndexing("c", "f")), "docs indexing of f"),
    (lambda: of(ExemptField("c", "f")), None),
    (lambda: of(Compute(lambda: 7)), 7),
    (lambda: of(Compute(lambda: 8, size=OFFLOAD_BYTES)), 8),
    (lambda: of(Pause(0.001)), None),
    (lambda: of(Emit(EVENT)), None),
    (gather, ()),
    (lambda: gather(docs("a")), ("docs a",)),
    (
        lambda: gather(docs("meet a"), GetBlob("meet b"), QueryDocs("meet c"), GetBlob("meet d")),
        ("docs meet a", "blob meet b", "docs meet c", "blob meet d"),
    ),
    (lambda: gather(*[GetBlob(f"meet {n}") for n in range(9)]), tuple(f"blob meet {n}" for n in range(9))),
    (lambda: gather(docs("a"), Compute(lambda: 1), Now(), Pause(0)), ...),
]


@both
@pytest.mark.parametrize(("flow", "result"), RESULTS, ids=range(len(RESULTS)))
def test_results(perform, flow, result, backend):
    found = perform(flow(), backend)
    if result is ...:
        assert found[:2] == ("docs a", 1)
        assert 0 < found[2] <= time.time()
    else:
        assert found == result


@both
def test_now_is_the_wall_clock(perform, backend):
    before = time.time()
    assert before <= perform(of(Now()), backend) <= time.time()


@both
def test_pause_waits(perform, backend):
    before = time.monotonic()  # clock: a pause may be longer on a busy machine, and never shorter
    perform(of(Pause(0.05)), backend)
    assert time.monotonic() - before >= 0.05  # clock: as above


CROWD = [GetBlob(f"hang {n}") for n in range(9)]
"""More effects than threads: some of them wait for a thread until they are canceled."""

FAILURES = [
    (lambda: of(docs("fail")), "fail"),
    (lambda: of(GetBlob("fail blob")), "fail blob"),
    (replaces, "fail two"),
    (lambda: gather(docs("fail")), "fail"),
    (lambda: gather(docs("a"), docs("fail"), GetBlob("b")), "fail"),
    (lambda: gather(GetBlob("a"), GetBlob("fail b")), "fail b"),
    (lambda: gather(docs("hang fail one"), docs("fail two"), *CROWD), "fail two"),
    (lambda: gather(GetBlob("fail one"), GetBlob("hang fail two"), *CROWD), "fail one"),
]


@both
@pytest.mark.parametrize(("flow", "message"), FAILURES, ids=range(len(FAILURES)))
def test_the_first_failure_is_raised_as_it_is(perform, flow, message, backend):
    """Of several in time, and in no ExceptionGroup: one `except` serves both halves."""
    with pytest.raises(StoreUnavailableError) as caught:
        perform(flow(), backend)
    assert str(caught.value) == message
    assert type(caught.value) is StoreUnavailableError


@both
def test_failures_reach_the_flows_finally(perform, backend):
    seen = []
    with pytest.raises(StoreUnavailableError, match=r"^fail$"):
        perform(cleans_up(seen), backend)
    assert seen == ["docs cleanup"]


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, ZeroDivisionError])
def test_any_failure_reaches_the_flow(perform, error, backend):
    seen = []

    def fail():
        raise error

    def flow():
        try:
            yield from Compute(fail)
        finally:
            seen.append("finally")

    with pytest.raises(error):
        perform(flow(), backend)
    assert seen == ["finally"]


@both
def test_a_flow_that_raises_is_over(perform, backend):
    def flow():
        yield from docs("a")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        perform(flow(), backend)


@dataclass(frozen=True, slots=True)
class Unknown(Effect[None]):
    pass


@both
@pytest.mark.parametrize(
    "effect", [Unknown(), Gather((Unknown(), Unknown())), "text"], ids=["one", "gather", "no effect"]
)
def test_an_unknown_effect_is_a_type_error(perform, effect, backend):
    def flow():
        yield effect

    with pytest.raises(TypeError, match="no runner performs"):
        perform(flow(), backend)


# Gather: the other effects are canceled, and waited for


@both
def test_after_a_failure_nothing_of_the_gather_goes_on(perform, backend):
    """No effect writes after the caller has seen the error."""
    with pytest.raises(StoreUnavailableError):
        perform(gather(docs("fail"), *[docs(f"hang {n}") for n in range(20)]), backend)
    began, ended = len(backend.documents.begun), len(backend.documents.ended)
    backend.close()  # waits for the threads
    assert (len(backend.documents.begun), len(backend.documents.ended)) == (began, ended)
    if perform is perform_sync:
        assert began < 21, "what had not begun was not canceled"
        assert began == ended + 1, "what had begun was not waited for"
    else:
        assert ended == 0, "what had begun was not canceled"


@both
def test_after_a_failure_no_upload_goes_on(perform, backend):
    """A flow that receives the error may delete what was uploaded. So nothing may arrive later."""
    seen = []

    def flow():
        try:
            yield from Gather((PutBlob("fail", b""), *[PutBlob(f"hang {n}", b"") for n in range(20)]))
        finally:
            seen.append((len(backend.blobs.begun), len(backend.blobs.ended)))

    with pytest.raises(StoreUnavailableError):
        perform(flow(), backend)
    backend.close()  # waits for the threads
    assert seen == [(len(backend.blobs.begun), len(backend.blobs.ended))]
    assert len(backend.blobs.begun) < 21


@both
def test_a_gather_is_concurrent(perform, backend):
    perform(gather(docs("meet a"), docs("meet b"), GetBlob("meet c"), GetBlob("meet d")), backend)
    assert len(backend.documents.ended) == len(backend.blobs.ended) == 2


@both
def test_threads_are_bounded(perform, backend):
    perform(gather(*[GetBlob(f"meet {n}") for n in range(8)]), backend)
    assert len(backend.blobs.threads) == 4


# The event loop


async def test_cancellation_reaches_the_flow_which_may_clean_up(backend):
    seen = []

    def flow():
        try:
            yield from docs("hang")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append((yield from docs("cleanup")))

    task = asyncio.ensure_future(arun(flow(), backend))
    await aeventually(lambda: backend.documents.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "docs cleanup"]


async def test_cancellation_reaches_what_a_gather_waits_for(backend):
    task = asyncio.ensure_future(arun(gather(docs("hang a"), docs("hang b"), docs("c")), backend))
    await aeventually(lambda: len(backend.documents.begun) == 3 and backend.documents.ended)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(backend.documents.begun) == ["c", "hang a", "hang b"]
    assert backend.documents.ended == ["c"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("kind", ["put", "compute"])
async def test_what_runs_on_a_thread_is_waited_for_after_cancellation(kind, backend):
    """A thread cannot be stopped, and its writes must not arrive after the caller has continued."""
    seen = []
    upload = PutBlob("held", b"")
    compute = Compute(lambda: backend.blobs.put_blob(upload), size=OFFLOAD_BYTES)

    def flow():
        try:
            yield from upload if kind == "put" else compute
        finally:
            seen.append((list(backend.blobs.begun), list(backend.blobs.ended)))

    task = asyncio.ensure_future(arun(flow(), backend))
    await aeventually(lambda: backend.blobs.begun)
    task.cancel()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    assert seen == []
    backend.blobs.gates.held.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [(["held"], ["held"])]


async def test_what_waits_for_a_thread_is_not_begun_after_cancellation(backend):
    uploads = gather(*[PutBlob(f"hang {n}", b"") for n in range(20)])
    task = asyncio.ensure_future(arun(uploads, backend))
    await aeventually(lambda: backend.blobs.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = len(backend.blobs.begun)
    assert begun == len(backend.blobs.ended)
    assert 0 < begun < 20
    await backend.aclose()  # waits for the threads
    assert len(backend.blobs.begun) == begun


async def test_a_failed_gather_leaves_no_task(backend):
    with pytest.raises(StoreUnavailableError):
        await arun(gather(docs("hang a"), docs("fail"), docs("hang b")), backend)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("size", "leaves"), [(0, False), (OFFLOAD_BYTES - 1, False), (OFFLOAD_BYTES, True), (1 << 62, True)]
)
async def test_large_computations_leave_the_event_loop(size, leaves, backend):
    thread = await arun(of(Compute(threading.get_ident, size=size)), backend)
    assert (thread != threading.get_ident()) is leaves


@pytest.mark.parametrize(
    "flow",
    [
        lambda gates: of(Compute(lambda: gates.pass_("held"), size=OFFLOAD_BYTES)),
        lambda _: of(GetBlob("held")),
        lambda _: gather(GetBlob("held a"), GetBlob("held b")),
        lambda _: of(docs("held")),
    ],
    ids=["compute", "blob", "gather", "docs"],
)
async def test_nothing_holds_the_event_loop_up(flow, backend, gates):
    task = asyncio.ensure_future(arun(flow(gates), backend))
    # One that holds the event loop up is done when it comes round, or has failed for want of what comes after this.
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    gates.held.set()
    await task


async def test_a_pause_does_not_hold_the_event_loop_up(backend):
    task = asyncio.ensure_future(arun(of(Pause(2 * PATIENCE)), backend))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_run_computes_in_the_callers_thread(backend):
    assert run(of(Compute(threading.get_ident, size=1 << 62)), backend) == threading.get_ident()


# The main thread, which signals strike


traced = ContextVar("traced", default="nothing")


class Seen(Documents, Blobs):
    """Notes in which thread and context it is called."""

    def __init__(self):
        Documents.__init__(self)
        Blobs.__init__(self)
        self.seen = []

    def _answer(self, name):
        self.seen.append((threading.get_ident(), traced.get()))
        if name == "cause":
            raise StoreUnavailableError(name) from LookupError("why")
        return name


class Sturdy(Seen):
    survives_signals = True


REQUESTS = (
    docs("a"),
    QueryDocs("a"),
    ListCollections("a/b"),
    Commit(()),
    ReadIndexing("c", "f"),
    ExemptField("c", "f"),
)
REQUESTS += (PutBlob("a", b""), GetBlob("a"), ListBlobs("a"), DeleteBlobs(("a",)), EnsureBucket(), ReadBucket())
REQUESTS += (SetLifecycle((), 1),)


def all_requests():
    for request in REQUESTS:
        yield from request


def in_a_thread(function):
    """Call a function in a thread that is not the main one, with this thread's context; returns the thread's id."""
    thread = threading.Thread(target=copy_context().run, args=(function,))
    thread.start()
    ident = thread.ident
    thread.join()
    return ident


@pytest.fixture
def trace():
    token = traced.set("the caller's")
    yield "the caller's"
    traced.reset(token)


def test_the_main_thread_calls_no_store(trace):
    """An exception raised by a signal would leave gRPC or urllib3 with a lock held."""
    stores = Seen()
    with closing(Backend(stores, stores)) as backend:
        run(all_requests(), backend)
        run(gather(*REQUESTS), backend)
    assert len(stores.seen) == 2 * len(REQUESTS)
    assert threading.get_ident() not in {thread for thread, _ in stores.seen}
    assert {context for _, context in stores.seen} == {trace}, "as for spans of a trace"


def test_other_threads_call_the_store_themselves(trace):
    stores = Seen()
    with closing(Backend(stores, stores)) as backend:
        before = len(workers())
        thread = in_a_thread(lambda: run(all_requests(), backend))
        assert len(workers()) == before
    assert stores.seen == [(thread, trace)] * len(REQUESTS)


def test_a_store_that_survives_signals_is_called_in_the_callers_thread(trace):
    stores = Sturdy()
    with closing(Backend(stores, stores)) as backend:
        before = set(workers())
        run(all_requests(), backend)
        assert not set(workers()) - before
    assert stores.seen == [(threading.get_ident(), trace)] * len(REQUESTS)


def test_events_reach_the_listener_in_the_callers_thread_and_in_order():
    told = []

    def flow():
        yield from Emit(EVENT)
        yield from docs("a")
        yield from Emit(ThreadDeleted(thread_id="t", documents=1, objects=2))

    stores = Seen()
    listener = lambda event: told.append((type(event), threading.get_ident(), len(stores.seen)))  # noqa: E731
    with closing(Backend(stores, stores, subscribers=heard_by(listener))) as backend:
        run(flow(), backend)
    here = threading.get_ident()
    assert told == [(CheckpointReplaced, here, 0), (ThreadDeleted, here, 1)]


@pytest.mark.parametrize("flow", [lambda: of(docs("cause")), lambda: gather(docs("a"), docs("cause"))])
def test_an_exception_shows_its_cause_and_where_it_comes_from(flow):
    stores = Seen()
    with closing(Backend(stores, stores)) as backend, pytest.raises(StoreUnavailableError) as caught:
        run(flow(), backend)
    assert isinstance(caught.value.__cause__, LookupError)
    frames = [entry.name for entry in caught.traceback]
    assert frames[0] == "test_an_exception_shows_its_cause_and_where_it_comes_from"
    assert frames[-1] == "_answer"


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as accepted:
        yield server.getsockname()
        server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                accepted.enter_context(server.accept()[0])


DEADLINE = 0.1
"""Of requests that never end."""


class Hanging(Documents):
    """Asks a server for each document, and waits for an answer without a limit, in native code."""

    def __init__(self, address):
        super().__init__()
        self._address = address

    def _answer(self, name):
        with socket.create_connection(self._address) as connection:
            return connection.recv(1)


@pytest.mark.parametrize("flow", [lambda: gather(docs("a"), docs("b"), GetBlob("c")), lambda: of(docs("a"))])
def test_a_request_that_hangs_ends_at_the_deadline(flow, silent, monkeypatch):
    monkeypatch.setattr("langgraph_gcs_saver.engine.runner.GRACE_SECONDS", DEADLINE)
    with closing(Backend(Hanging(silent), Blobs(), timeout=DEADLINE)) as backend:
        with pytest.raises(StoreUnavailableError, match="has not ended"):
            run(flow(), backend)
        assert run(of(GetBlob("d")), backend) == "blob d"


def test_a_gather_that_hangs_ends_at_the_deadline_in_other_threads(silent, monkeypatch):
    monkeypatch.setattr("langgraph_gcs_saver.engine.runner.GRACE_SECONDS", DEADLINE)
    failures = []

    def work(backend):
        try:
            run(gather(docs("a"), docs("b")), backend)
        except StoreUnavailableError as error:
            failures.append(error)

    with closing(Backend(Hanging(silent), Blobs(), timeout=DEADLINE)) as backend:
        in_a_thread(lambda: work(backend))
    assert len(failures) == 1


def test_an_interrupted_request_is_not_waited_for(silent):
    """Ctrl-C while a service does not answer; closing then does not wait for it either."""

    class Interrupting(Hanging):
        def _answer(self, name):
            _thread.interrupt_main()
            return super()._answer(name)

    seen = []

    def flow():
        try:
            yield from docs("a")
        except KeyboardInterrupt:
            seen.append((yield from GetBlob("cleanup")))
            raise

    with closing(Backend(Interrupting(silent), Blobs(), timeout=PATIENCE)) as backend, pytest.raises(KeyboardInterrupt):
        run(flow(), backend)
    assert seen == ["blob cleanup"]


# Events


@both
def test_events_are_told_and_logged(perform, caplog):
    seen = []
    with closing(make_backend(subscribers=heard_by(seen.append))) as backend, caplog.at_level(logging.DEBUG):
        perform(of(Emit(EVENT)), backend)
    assert seen == [EVENT]
    (record,) = [r for r in caplog.records if r.name == "langgraph_gcs_saver"]
    assert record.levelno == logging.INFO
    assert record.getMessage() == repr(EVENT)


@both
def test_a_listener_that_fails_is_logged_and_the_work_goes_on(perform, caplog):
    def fail(event):
        raise LookupError("listener")

    def flow():
        yield from Emit(ThreadDeleted(thread_id="t", documents=1, objects=2))
        return (yield from docs("a"))

    with closing(make_backend(subscribers=heard_by(fail))) as backend:
        assert perform(flow(), backend) == "docs a"
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "ThreadDeleted" in record.getMessage()
    assert record.exc_info[0] is LookupError


# Life


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("langgraph-gcs")]


@pytest.mark.parametrize("close", ["close", "aclose"])
def test_closing_ends_everything_and_may_be_repeated(close):
    backend = make_backend()
    before = len(workers())
    run(gather(GetBlob("a"), GetBlob("b")), backend)
    assert len(workers()) > before
    for times in (1, 2):
        if close == "close":
            backend.close()
        else:
            asyncio.run(backend.aclose())
        assert (backend.documents.closed, backend.blobs.closed) == (times, times)
    eventually(lambda: len(workers()) == before)


@pytest.mark.parametrize("close", ["close", "aclose"])
def test_a_call_that_saw_the_saver_open_starts_no_thread_once_it_is_closed(close):
    backend = make_backend()
    before = len(workers())
    seen = {"_closed": False}

    class Overtaken(type(backend)):
        """Is closed by another thread as soon as a call has seen that it is open."""

        @property
        def _closed(self):
            was, seen["_closed"] = seen["_closed"], True
            if not was:
                backend.close() if close == "close" else in_a_thread(lambda: asyncio.run(backend.aclose()))
            return was

        @_closed.setter
        def _closed(self, value):
            seen["_closed"] = value

    backend.__class__ = Overtaken
    with pytest.raises(SaverClosedError):
        run(gather(GetBlob("a"), GetBlob("b")), backend)
    assert backend.documents.closed == 1
    eventually(lambda: len(workers()) == before)


def test_no_thread_before_it_is_needed():
    before = len(workers())
    with closing(make_backend()) as backend:
        assert run(of(Compute(lambda: 5)), backend) == 5
        in_a_thread(lambda: run(several(), backend))
        assert len(workers()) == before


@both
def test_a_closed_saver_keeps_no_threads(perform, tmp_path):
    """A call after `close` is refused, and leaves nothing behind."""
    from langgraph_gcs_saver import GCSSaver

    saver = GCSSaver.from_conn_string(f"file://{tmp_path}/store")
    saver.close()
    before = len(workers())
    for flow in (gather(GetBlob("a"), GetBlob("b")), gather(docs("x/a"), docs("x/b")), of(GetBlob("a"))):
        with pytest.raises(SaverClosedError):
            perform(flow, saver._backend)
    left = len(workers()) - before
    saver.close()
    assert left == 0
