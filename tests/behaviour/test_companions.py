"""What companions cost, what they are asked and given, and what a store refuses."""

import asyncio
from contextlib import contextmanager

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Create, GetDocs, Merge
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ConflictError, StoreError
from langgraph_gcs_saver.flows.companions import NO_COMPANIONS
from langgraph_gcs_saver.flows.context import MAX_TRIES
from langgraph_gcs_saver.testing.crash import config_of, put_arguments, write_history
from tests.kit.companions import ENTRIES, FENCE, Entry, FenceCheck, FirstLook, take_fence
from tests.kit.interceptors import Meanwhile, Rounds, Seen

WRITES = [("messages", ["b"]), ("__interrupt__", "stop")]


class Asked:
    """Another companion, and the attempts for which it was asked."""

    def __init__(self, companion):
        self.companion = companion
        self.attempts, self.docs = [], []

    def reads(self, attempt):
        return self.companion.reads(attempt)

    def writes(self, attempt, docs):
        self.attempts.append(attempt)
        self.docs.append(docs)
        return self.companion.writes(attempt, docs)


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri) as saver:
        write_history(saver)
    return uri


@contextmanager
def opened(uri, *companions, **options):
    """A saver with companions."""
    saver_class = type("Accompanied", (GCSSaver,), {"_companions": companions})
    with saver_class.from_conn_string(uri, **options) as saver:
        yield saver


def taken(uri):
    """The update time of the fence, taken now."""
    with GCSSaver.from_conn_string(uri) as saver:
        return run(take_fence("A"), saver._backend)


def put(saver, number=5, parent=4):
    saver.put(*put_arguments(number, parent))


def read_and_put(saver):
    saver.get_tuple(config_of(None))
    put(saver)


CALLS = {
    "a cold put": put,
    "a warm put": read_and_put,
    "the first put of a thread": lambda saver: saver.put(*put_arguments(1, None, thread="new")),
    "the same put": lambda saver: put(saver, 4, 2),
    "other content": lambda saver: saver.put(*put_arguments(4, 2, salt=1)),
    "put_writes": lambda saver: saver.put_writes(config_of(4), WRITES, "task"),
    "the same writes": lambda saver: saver.put_writes(config_of(4), [("messages", 1), ("noise", 2)], "earlier", "path"),
    "special writes": lambda saver: saver.put_writes(config_of(4), WRITES[1:], "task"),
    "aput": lambda saver: asyncio.run(saver.aput(*put_arguments(5, 4))),
    "aput_writes": lambda saver: asyncio.run(saver.aput_writes(config_of(4), WRITES, "task")),
}


def cost(uri, call, *companions, **options):
    """The rounds and requests of a call."""
    rounds = Rounds()
    with opened(uri, *companions, interceptors=[rounds], **options) as saver:
        call(saver)
    return rounds.take()


@pytest.mark.parametrize("inline", [0, 16_384])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_only_written_and_checked_costs_nothing(tmp_path, name, inline):
    costs = []
    for is_accompanied in (False, True):
        uri = f"file://{tmp_path}/{is_accompanied}"
        with GCSSaver.from_conn_string(uri) as saver:
            write_history(saver)
        companions = (FenceCheck(taken(uri)), Entry()) if is_accompanied else ()
        costs.append(cost(uri, CALLS[name], *companions, inline_max_bytes=inline))
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("name", "inline", "more"),
    [
        ("a cold put", 16_384, 0),  # beside the parent
        ("a warm put", 16_384, 1),
        ("the first put of a thread", 16_384, 1),
        ("the first put of a thread", 0, 0),  # beside the thread's document
        ("put_writes", 16_384, 1),
        ("put_writes", 0, 0),  # beside the thread's document
    ],
)
def test_a_first_look_joins_a_read_or_costs_a_round(tmp_path, name, inline, more):
    costs = []
    for is_accompanied in (False, True):
        uri = f"file://{tmp_path}/{is_accompanied}"
        with GCSSaver.from_conn_string(uri) as saver:
            write_history(saver)
        companions = (FirstLook(taken(uri)),) if is_accompanied else ()
        costs.append(cost(uri, CALLS[name], *companions, inline_max_bytes=inline))
    (rounds, requests), accompanied = costs
    assert accompanied == (rounds + more, requests + more)


def test_a_call_without_companions_makes_nothing_for_them(uri):
    with opened(uri) as saver:
        context = saver._context
        assert context.companions_of("put", "t", "", "1") is NO_COMPANIONS
        put(saver)
        assert NO_COMPANIONS.names == NO_COMPANIONS.withdrawals() == ()


@pytest.mark.parametrize(("call", "kind"), [(put, "put"), (CALLS["put_writes"], "put_writes")])
def test_an_attempt_says_what_is_stored(uri, call, kind):
    one = Asked(Entry())
    with opened(uri, one) as saver:
        call(saver)
        call(saver)
    stored = config_of(5 if kind == "put" else 4)["configurable"]["checkpoint_id"]
    first, *again = one.attempts
    assert all((a.kind, a.thread_id, a.ns, a.checkpoint_id) == (kind, "t", "", stored) for a in one.attempts)
    assert first.number == 1
    # The second call is another one. It finds its checkpoint, or what it creates, after its first attempt.
    assert {a.call for a in again} != {first.call}
    assert [a.number for a in again] == ([1] if kind == "put" else [1, 2])


@pytest.mark.parametrize("inline", [0, 16_384])
def test_after_a_conflict_it_is_asked_again_with_fresh_documents(uri, inline):
    """A sibling comes between: the fence holds, so the attempt after the conflict carries it too."""
    one = Asked(FenceCheck(taken(uri)))
    with GCSSaver.from_conn_string(uri) as other:
        meanwhile = Meanwhile(Commit, lambda: put(other, 6, 4))
        seen = Seen()
        with opened(uri, one, interceptors=[meanwhile, seen], inline_max_bytes=inline) as saver:
            put(saver)
    assert [attempt.number for attempt in one.attempts] == [1, 2]
    assert len({attempt.call for attempt in one.attempts}) == 1
    assert [set(docs) for docs in one.docs] == [set(), {FENCE}]
    looks = [effect for effect in seen.requests if isinstance(effect, GetDocs) and FENCE in effect.names]
    assert len(looks) == 1
    assert len(looks[0].names) == 3, "one read for checkpoint, parent and fence"


class Unmet:
    """A precondition that never holds."""

    def reads(self, attempt):
        return ()

    def writes(self, attempt, docs):
        return (Merge(f"{ENTRIES}/none", {}, update_time=1),)


@pytest.mark.parametrize("call", [put, CALLS["put_writes"], CALLS["special writes"]])
def test_a_precondition_that_never_holds_ends_a_call(uri, call):
    one = Asked(Unmet())
    with opened(uri, one) as saver, pytest.raises(ConflictError, match=r"(its|their) commit depends on"):
        call(saver)
    assert len(one.attempts) == MAX_TRIES


class Heavy:
    """Many documents, or large ones."""

    def __init__(self, number, size):
        self.number, self.size = number, size

    def reads(self, attempt):
        return ()

    def writes(self, attempt, docs):
        return tuple(Create(f"{ENTRIES}/{n}-{attempt.call}", {"data": bytes(self.size)}) for n in range(self.number))


@pytest.mark.parametrize("call", [put, CALLS["put_writes"]])
def test_companions_have_room_for_nine_mebibytes_in_a_commit(uri, call):
    with opened(uri, Heavy(9, 1_000_000)) as saver:
        call(saver)


@pytest.mark.parametrize("call", [put, CALLS["put_writes"]])
def test_a_commit_that_is_too_large_is_refused_as_a_whole(uri, call):
    seen = Seen()
    with opened(uri, Heavy(11, 1_000_000), interceptors=[seen]) as saver:
        with pytest.raises(StoreError, match="exceeds the limit"):
            call(saver)
        found = saver.get_tuple(config_of(None))
        assert found.config["configurable"]["checkpoint_id"] == config_of(4)["configurable"]["checkpoint_id"]
        assert {task for task, *_ in found.pending_writes} == {"earlier"}
    assert sum(isinstance(effect, Commit) for effect in seen.requests) == 1


@pytest.mark.parametrize("call", [put, CALLS["put_writes"]])
def test_many_writes_ride_in_a_commit(uri, call):
    with opened(uri, Heavy(450, 10)) as saver:
        call(saver)
