"""Three stores in one flow: what each performs, what it sees, and which of them an error names."""

import asyncio
import os
import pickle
import signal
import sys
import threading
from contextvars import ContextVar
from functools import partial

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Emit,
    Gather,
    GetBlob,
    GetDocs,
    ListBlobs,
    Now,
    On,
    Pause,
    PutBlob,
)
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.named_stores import NamedStores
from langgraph_gcs_saver.engine.runner import Backend, arun, run
from langgraph_gcs_saver.engine.steps import at, together
from langgraph_gcs_saver.errors import StoreUnavailableError, WrongStoreError
from langgraph_gcs_saver.events import CheckpointReplaced, Subscribers
from langgraph_gcs_saver.flows import places
from langgraph_gcs_saver.flows.batches import in_turn
from langgraph_gcs_saver.flows.context import Binding, Place
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.kit.performing import both, rounds_of
from tests.patience import aeventually, eventually

NAMES = ("home", "replica", "third")
EVENT = CheckpointReplaced(thread_id="t")


class World:
    """Stores by name, each with an interceptor that counts, and the listeners."""

    def __init__(self, path):
        self.path = path
        self.backends, self.counts, self.events = {}, {}, {name: [] for name in NAMES}

    def add(self, name, *interceptors, admit=None):
        path = self.path / name
        path.mkdir()
        stores = LocalDocuments(path, timeout=900), LocalBlobs(path, timeout=900)
        self.counts[name] = CountingInterceptor()
        subscribers = Subscribers()
        subscribers.subscribe(self.events[name].append)
        self.backends[name] = Backend(
            *stores,
            interceptors=[self.counts[name], *interceptors],
            subscribers=subscribers,
            **({} if admit is None else {"admit": admit}),
        )
        return self

    def stores(self):
        for name in NAMES:
            if name not in self.backends:
                self.add(name)
        return NamedStores(self.backends, home="home")

    def rounds(self, name):
        return [sorted(kinds) for kinds in self.counts[name].rounds]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    for backend in made.backends.values():
        backend.close()


def everywhere(effect):
    """An effect at each store, the home's without its name."""
    return (effect, On("replica", effect), On("third", effect))


def create(name, value):
    return Commit((Create(f"things/{name}", {"value": value}),))


def value(docs):
    return {name: doc.fields["value"] for name, doc in docs.items()}


@both
def test_three_stores_in_one_flow(world, perform):
    def flow():
        yield from PutBlob("a", b"at home")
        yield from On("replica", PutBlob("a", b"at the replica"))
        yield from On("third", create("a", 3))
        blobs = yield from Gather(everywhere(GetBlob("a")))
        docs = yield from Gather(everywhere(GetDocs(("things/a",))))
        return blobs, [value(one) for one in docs], (yield from On("home", GetBlob("a")))

    blobs, docs, again = perform(flow(), world.stores())
    assert blobs == (b"at home", b"at the replica", None)
    assert docs == [{}, {}, {"things/a": 3}]
    assert again == b"at home"


@both
def test_results_of_a_gather_have_the_order_of_its_effects(world, perform):
    names = ["third", "home", "replica", "home", "third", "third", "replica"]

    def flow():
        yield from Gather(tuple(On(name, PutBlob(f"{n}", f"{n}".encode())) for n, name in enumerate(names)))
        found = yield from Gather(tuple(On(name, GetBlob(f"{n}")) for n, name in enumerate(names)))
        alone = yield from Gather((On("third", GetBlob("0")),))
        same = yield from Gather((On("third", GetBlob("4")), On("third", GetBlob("5"))))
        return found, alone, same, (yield from Gather(()))

    found = tuple(f"{n}".encode() for n in range(len(names)))
    assert perform(flow(), world.stores()) == (found, (b"0",), (b"4", b"5"), ())


class Meeting(Interceptor):
    """Lets requests pass when six are under way at the same time, wherever."""

    def __init__(self):
        self.met = []

    def around(self, effect, perform):
        self.met.append(effect)
        eventually(lambda: len(self.met) >= 6)
        return perform(effect)

    async def aaround(self, effect, perform):
        self.met.append(effect)
        await aeventually(lambda: len(self.met) >= 6)
        return await perform(effect)


@both
def test_a_gather_over_several_stores_is_one_round(world, perform):
    meeting = Meeting()
    for name in NAMES:
        world.add(name, meeting)

    def flow():
        return (yield from Gather((*everywhere(GetBlob("a")), *everywhere(GetBlob("b")))))

    assert perform(flow(), world.stores()) == (None,) * 6
    assert len(meeting.met) == 6


@both
def test_calls_in_many_threads_do_not_wait_for_each_other_forever(world, perform):
    """A part of a `Gather` waits for a store's threads, and never holds one of them meanwhile."""
    stores = world.stores()

    def flow():
        return (yield from Gather((*everywhere(GetBlob("a")), *everywhere(GetBlob("b")))))

    found = []
    threads = [threading.Thread(target=lambda: found.append(perform(flow(), stores)), daemon=True) for _ in range(40)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(found) == 40)
    assert set(found) == {(None,) * 6}


@both
def test_each_store_has_its_own_interceptors(world, perform):
    """They see what their store performs as if there were no other."""

    def flow():
        yield from GetBlob("a")
        yield from Gather((On("replica", GetBlob("a")), ListBlobs(""), On("replica", GetDocs(("things/a",)))))
        yield from Gather((On("third", GetBlob("a")), On("third", GetBlob("b"))))
        yield from On("replica", GetBlob("c"))

    perform(flow(), world.stores())
    assert world.rounds("home") == [["GetBlob"], ["ListBlobs"]]
    assert world.rounds("replica") == [["GetBlob", "GetDocs"], ["GetBlob"]]
    assert world.rounds("third") == [["GetBlob", "GetBlob"]]


_where = ContextVar("where")


class Where(Interceptor):
    """Keeps the value of a context variable that its caller has set."""

    def __init__(self):
        self.seen = []

    def around(self, effect, perform):
        self.seen.append(_where.get("nowhere"))
        return perform(effect)

    async def aaround(self, effect, perform):
        return self.around(effect, lambda _: None) or await perform(effect)


@both
def test_context_variables_reach_every_store(world, perform):
    where = Where()
    for name in NAMES:
        world.add(name, where)

    def flow():
        return (yield from Gather(everywhere(GetBlob("a"))))

    token = _where.set("here")
    try:
        perform(flow(), world.stores())
    finally:
        _where.reset(token)
    assert where.seen == ["here"] * 3


# Errors


class Failing(Interceptor):
    """A store that does not answer."""

    def around(self, effect, perform):
        raise StoreUnavailableError("It does not answer.")

    async def aaround(self, effect, perform):
        raise StoreUnavailableError("It does not answer.")


@both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_gather", [True, False], ids=["gather", "one"])
def test_an_error_says_which_store_it_comes_from(world, perform, name, is_gather):
    world.add(name, Failing())

    def flow():
        effects = tuple(PutBlob("a", b"1") if one == "home" else On(one, PutBlob("a", b"1")) for one in NAMES)
        try:
            yield from Gather(effects) if is_gather else effects[NAMES.index(name)]
        except StoreUnavailableError as error:
            caught = error
        # The flow continues with the other stores.
        found = []
        for one in NAMES:
            if one != name:
                yield from On(one, PutBlob("b", b"2"))
                found.append((yield from On(one, GetBlob("b"))))
        return caught, found

    caught, found = perform(flow(), world.stores())
    assert str(caught) == f"Store '{name}': It does not answer."
    assert caught.store == name
    assert str(pickle.loads(pickle.dumps(caught))) == str(caught)
    assert found == [b"2"] * 2


@both
def test_an_error_of_one_store_names_none(world, perform):
    world.add("home", Failing())
    with pytest.raises(StoreUnavailableError) as caught:
        perform(iter(GetBlob("a")), world.backends["home"])
    assert (str(caught.value), caught.value.store) == ("It does not answer.", None)


class Late(Interceptor):
    """Performs a request only after another store has failed; on an event loop never."""

    def __init__(self, failed):
        self.failed, self.begun, self.ended = failed, 0, 0

    def around(self, effect, perform):
        self.begun += 1
        eventually(lambda: self.failed.has_failed)
        found = perform(effect)
        self.ended += 1
        return found

    async def aaround(self, effect, perform):
        self.begun += 1
        await asyncio.Event().wait()


class FailingLater(Failing):
    """Fails once another store is at work."""

    has_failed = False

    def around(self, effect, perform):
        eventually(lambda: self.late.begun)
        self.has_failed = True
        return super().around(effect, perform)

    async def aaround(self, effect, perform):
        await aeventually(lambda: self.late.begun)
        return await super().aaround(effect, perform)


@both
def test_after_a_failure_no_store_goes_on(world, perform):
    """Nothing is written any more once the flow has seen the error."""
    failing = FailingLater()
    failing.late = late = Late(failing)
    world.add("replica", late).add("third", failing)
    seen = []

    def flow():
        try:
            yield from Gather((On("replica", PutBlob("a", b"")), On("third", GetBlob("a"))))
        finally:
            seen.append((late.begun, late.ended))

    with pytest.raises(StoreUnavailableError, match="Store 'third'"):
        perform(flow(), world.stores())
    world.backends["replica"].close()  # waits for the threads
    assert seen == [(late.begun, late.ended)]


@both
def test_an_unknown_store_is_an_error(world, perform):
    nowhere = On("nowhere", GetBlob("a"))
    for effect in (nowhere, Gather((GetBlob("a"), nowhere))):
        with pytest.raises(ValueError, match=r"no store 'nowhere' .* only 'home', 'replica', 'third'"):
            perform(iter(effect), world.stores())


@both
def test_one_store_alone_has_no_other(world, perform):
    world.add("home")
    with pytest.raises(TypeError, match="no runner performs On"):
        perform(iter(On("replica", GetBlob("a"))), world.backends["home"])


async def test_cancellation_reaches_all_stores(world):
    late = Late(None)
    for name in NAMES:
        world.add(name, late)
    task = asyncio.ensure_future(arun(iter(Gather(everywhere(GetBlob("a")))), world.stores()))
    await aeventually(lambda: late.begun == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert late.ended == 0


# Admission


def bound_to(bucket):
    return partial(places.admit, binding=Binding(Place(bucket, "")))


def claim(bucket):
    return Commit((Create(keys.PLACE, places.fields_of(Place(bucket, ""))),))


@both
def test_each_store_checks_its_own_place_beside_its_first_read(world, perform):
    for name in NAMES:
        world.add(name)
        run(iter(claim(name)), world.backends[name])
        world.backends[name].admit = bound_to(name)
        world.counts[name].clear()

    def flow():
        yield from Gather(everywhere(GetDocs(("things/a",))))
        yield from Gather(everywhere(create("a", 1)))

    perform(flow(), world.stores())
    for name in NAMES:
        assert world.rounds(name) == [["GetDocs", "GetDocs"], ["Commit"]]


@both
@pytest.mark.parametrize(
    "effect", [GetDocs(("things/a",)), create("a", 1), PutBlob("a", b"")], ids=lambda one: type(one).__name__
)
def test_a_wrong_store_is_refused_by_name_and_others_are_not(world, perform, effect):
    for name in NAMES:
        world.add(name)
        run(iter(claim("another" if name == "replica" else name)), world.backends[name])
        world.backends[name].admit = bound_to(name)
        world.counts[name].clear()

    def flow():
        yield from On("third", effect)
        try:
            yield from Gather(everywhere(effect))
        except WrongStoreError as error:
            caught = error
        return str(caught), (yield from On("third", ListBlobs("")))

    told, _ = perform(flow(), world.stores())
    assert told.startswith("Store 'replica': These documents belong to the objects in 'gs://another'")
    assert set(world.counts["replica"].requests) <= {"GetDocs"}, "it was written to"


# Local acts, and flows of one store


@both
def test_what_is_of_no_store_happens_at_home(world, perform):
    def flow():
        yield from Now()
        yield from Pause(0)
        yield from Emit(EVENT)
        return (yield from Gather((Compute(int), On("replica", GetBlob("a")))))

    assert perform(flow(), world.stores()) == (0, None)
    assert world.events == {"home": [EVENT], "replica": [], "third": []}
    assert perform(iter(Compute(threading.get_ident)), world.stores()) == threading.get_ident()


def one_store():
    """A flow that knows of one store only."""
    yield from Emit(EVENT)
    where = yield from Compute(threading.get_ident)
    yield from PutBlob("a", b"1")
    found = yield from Gather((GetBlob("a"), GetBlob("b")))
    return where, found, (yield from On("third", ListBlobs("")))


@both
def test_a_flow_of_one_store_is_part_of_a_flow_of_several(world, perform):
    where, *rest = perform(at("replica", one_store()), world.stores())
    assert where == threading.get_ident()
    assert rest == [(b"1", None), []]
    assert world.events == {"home": [], "replica": [EVENT], "third": []}
    assert world.rounds("home") == []
    assert world.rounds("replica") == [["PutBlob"], ["GetBlob", "GetBlob"]]
    assert world.rounds("third") == [["ListBlobs"]]


@both
def test_what_fails_at_its_store_reaches_that_flow(world, perform):
    world.add("replica", Failing())

    def inner():
        try:
            yield from GetBlob("a")
        except StoreUnavailableError as error:
            return str(error)

    assert perform(at("replica", inner()), world.stores()) == "Store 'replica': It does not answer."


# Flows at the same time


def counting(name, steps, ended=None):
    """Reads so often, and computes in between."""
    try:
        found = []
        for n in range(steps):
            yield from Compute(int)
            found.append(
                (yield from Gather((GetBlob(f"{name}{n}"), GetBlob(f"{name}"))))
                if n % 2
                else (yield from GetBlob(name))
            )
        return name, found, (yield from Compute(threading.get_ident))
    finally:
        if ended is not None:
            ended.append(name)


@both
def test_flows_together_take_the_rounds_of_the_longest(world, perform):
    rounds = []
    flows = (
        counting("a", 2),
        at("replica", counting("b", 4)),
        together(at("third", counting("c", 3)), counting("d", 1)),
    )
    a, b, (c, d) = perform(rounds_of(together(*flows), rounds), world.stores())
    assert [one[0] for one in (a, b, c, d)] == ["a", "b", "c", "d"]
    assert b[1] == [None, (None, None)] * 2
    assert {one[2] for one in (a, b, c, d)} == {threading.get_ident()}, "computations stay in the calling thread"
    requests = [len(one) for one in rounds if not any(isinstance(leaf, Compute) for leaf in one)]
    assert requests == [4, 6, 2, 2]
    assert world.rounds("replica") == [["GetBlob"], ["GetBlob"] * 2] * 2


@both
def test_no_flows_together_ask_for_nothing(world, perform):
    rounds = []
    assert perform(rounds_of(together(), rounds), world.stores()) == ()
    assert perform(rounds_of(together(iter(Compute(int)), iter(Compute(str))), rounds), world.stores()) == (0, "")
    assert [[type(leaf) for leaf in one] for one in rounds] == [[Compute], [Compute]]


@both
@pytest.mark.parametrize("is_request", [True, False])
def test_the_first_failure_ends_all_flows(world, perform, is_request):
    world.add("third", Failing())
    ended = []

    def fail():
        yield from GetBlob("a")
        try:
            if is_request:
                yield from On("third", GetBlob("a"))
            else:
                raise StoreUnavailableError("It is its own.")
        finally:
            ended.append("failed")

    with pytest.raises(StoreUnavailableError, match="Store 'third'" if is_request else "its own"):
        perform(together(counting("a", 5, ended), fail(), counting("b", 9, ended)), world.stores())
    assert sorted(ended) == ["a", "b", "failed"]
    assert world.counts["home"].requests.total() <= 3 + 2 * 2


@both
def test_a_flow_handles_what_its_own_computations_raise(world, perform):
    def broken():
        raise KeyError("computed")

    def careful():
        try:
            yield from Compute(broken)
        except KeyError:
            return (yield from GetBlob("a"))

    assert perform(together(careful(), iter(GetBlob("b"))), world.stores()) == (None, None)


def carry(pages, log, *, stop=None, fit=lambda _, __: True):
    """Reads pages at the replica, and writes them at home."""

    def read(page):
        found = yield from On("replica", GetBlob(page))
        log.append(f"read {page}")
        return found

    def write(page, found):
        if page == stop:
            return False
        yield from PutBlob(page, found)
        log.append(f"wrote {page}")
        return True

    return in_turn(pages, read, write, fit=fit)


@both
@pytest.mark.parametrize(
    ("stop", "fit", "rounds"),
    [
        (None, lambda _, __: True, 5),
        (None, lambda _, __: False, 8),
        (None, lambda one, other: "2" not in {one, other}, 7),
        ("2", lambda _, __: True, 4),
        ("0", lambda _, __: False, 1),
    ],
)
def test_a_page_is_read_while_the_one_before_it_is_written(world, perform, stop, fit, rounds):
    pages, log, asked = list("0123"), [], []
    stores = world.stores()
    for page in pages:
        run(iter(PutBlob(page, page.encode())), world.backends["replica"])
    assert perform(rounds_of(carry(iter(pages), log, stop=stop, fit=fit), asked), stores) is (stop is None)
    assert len(asked) == rounds
    written = pages if stop is None else pages[: pages.index(stop)]
    assert [one for one in log if one[0] == "w"] == [f"wrote {page}" for page in written]
    for page in written:
        assert run(iter(GetBlob(page)), world.backends["home"]) == page.encode()


@both
def test_no_page_is_no_round(world, perform):
    assert perform(carry([], []), world.stores()) is True


# Forks


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(world):
    stores = world.stores()
    gather = Gather(tuple(On(name, Compute(int)) for name in NAMES))
    assert run(iter(gather), stores) == (0, 0, 0)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if run(iter(gather), stores) == (0, 0, 0) else 2
        finally:
            os._exit(status)
    try:
        eventually(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise
