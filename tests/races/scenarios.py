"""Who works on the store at the same time: each scenario is a world, and processes that start on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from langgraph_gcs_saver.errors import ConflictError

from .world import (
    EMPTY,
    LARGE,
    SMALL,
    Call,
    Process,
    Rules,
    State,
    World,
    delete,
    list_all,
    new_context,
    play,
    put,
    put_writes,
    random_bytes,
    read,
    state,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, the processes that start on it, and what must hold.

    Attributes:
        world: The store when they start.
        processes: The processes.
        rules: What must hold.
        batch: Checkpoints that a deletion takes in one commit.
        aged: Parts of the names of objects that are old enough to be collected.
    """

    world: World
    processes: tuple[Process, ...]
    rules: Rules
    batch: int
    aged: tuple[str, ...] = ()


def _scenario(
    start: Start,
    *processes: Process,
    may_vanish: str = "",
    errors: tuple[type[Exception], ...] = (),
    empty: bool = False,
    batch: int = 200,
) -> Scenario:
    rules = Rules(may_vanish=may_vanish, errors=errors, empty=empty)
    for call in (*start.calls, *(call for process in processes for call in process.calls)):
        rules.learn(call)
    return Scenario(start.world, processes, rules, batch)


@dataclass(frozen=True, slots=True)
class Start:
    """A thread when a scenario begins: its world, the channels of the latest checkpoint, and the calls that made it."""

    world: World
    channels: State
    calls: tuple[Call, ...]


def thread_of(*calls_and_channels: tuple[Call, State]) -> Start:
    context, world = new_context("0"), World()
    for call, _ in calls_and_channels:
        _, world = play(call.start(context), world)
    channels = calls_and_channels[-1][1] if calls_and_channels else {}
    return Start(world, channels, tuple(call for call, _ in calls_and_channels))


NO_THREAD = thread_of()


def chain(length: int) -> Start:
    """Checkpoints "1", "2" and so on: the first has an object `o`, and each a small value `s` of its own."""
    channels = small("1") | state(o=random_bytes("o1", LARGE), k=random_bytes("k1", SMALL), e=EMPTY)
    made = [(put("1", None, channels, channels), channels)]
    for number in range(2, length + 1):
        channels = channels | small(str(number))
        made.append((put(str(number), str(number - 1), channels, "s"), channels))
    return thread_of(*made)


def growing(length: int) -> Start:
    """Checkpoints whose value `g` grows, so that all but the first have incremental frames."""
    made, parent = [], None
    for number in range(1, length + 1):
        channels = grown(number)
        made.append((put(str(number), parent, channels, "g"), channels))
        parent = str(number)
    return thread_of(*made)


def grown(number: int, branch: str = "") -> State:
    tail = b"".join(random_bytes(f"g{n}{branch if n == number else ''}", 20) for n in range(1, number + 1))
    return state(g=random_bytes("g", LARGE) + tail)


def small(tag: str) -> State:
    return state(s=random_bytes(f"s{tag}", SMALL))


def large(tag: str) -> State:
    return state(o=random_bytes(f"o{tag}", LARGE))


LARGE_WRITES = [("c", "x"), ("d", random_bytes("d", LARGE))]
"""Writes that do not fit their document, in the scenarios' small one."""

MIXED_WRITES = [*LARGE_WRITES, ("__interrupt__", "i")]
"""Regular and special writes, in two documents, which must appear together."""

SCENARIOS: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    SCENARIOS[make.__name__] = make
    return make


# Writers


@_named
def two_puts_on_one_parent() -> Scenario:
    start = chain(2)
    a, b = start.channels | small("A"), start.channels | small("B") | large("B")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "s"),), lost=1),
        Process("B", (put("9", "2", b, "so"),), lost=1, warm=True),
    )


@_named
def many_forks() -> Scenario:
    start = chain(1)
    calls = [put(f"{5 + n}", "1", start.channels | small(f"fork {n}"), "s") for n in range(4)]
    return _scenario(start, *(Process("ABCD"[n], (call,)) for n, call in enumerate(calls)))


@_named
def two_first_puts() -> Scenario:
    return _scenario(
        NO_THREAD,
        Process("A", (put("7", None, small("A"), "s"), put("9", "7", small("C"), "s"))),
        Process("B", (put("8", None, small("B"), "s"),), lost=1),
    )


@_named
def three_first_puts_with_objects_after_writes() -> Scenario:
    """The thread's document may be there already, made for the objects of a write or of a checkpoint."""
    return _scenario(
        NO_THREAD,
        Process("A", (put_writes("7", "a", LARGE_WRITES), put("7", None, large("A"), "o"))),
        Process("B", (put("8", None, large("B"), "o"),)),
        Process("C", (put("9", None, small("C"), "s"),)),
    )


@_named
def first_puts_of_two_namespaces() -> Scenario:
    """A subgraph's first checkpoint makes the thread's document before the root graph's does."""
    return _scenario(
        NO_THREAD,
        Process("A", (put("6", None, small("S"), "s", ns="sub"), put("7", None, small("A"), "s"))),
        Process("B", (put("8", None, small("B"), "s"),), lost=1),
    )


@_named
def a_root_put_again_and_another() -> Scenario:
    call = put("7", None, small("A"), "s")
    return _scenario(
        NO_THREAD, Process("A", (call, call)), Process("B", (call,)), Process("C", (put("8", None, large("C"), "o"),))
    )


@_named
def the_same_put_in_two_processes() -> Scenario:
    start = chain(2)
    call = put("8", "2", start.channels | small("A") | large("A"), "so")
    return _scenario(start, Process("A", (call,), lost=1, restarts=True), Process("B", (call,), lost=1))


@_named
def one_id_with_two_contents() -> Scenario:
    start = chain(2)
    a, b = start.channels | small("A") | large("A"), start.channels | small("B")
    c = b | state(x=b"x")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so"),), lost=1),
        Process("B", (put("8", "2", b, "s"), put("9", "8", c, "x")), lost=1),
    )


@_named
def a_put_that_dies_and_another_process() -> Scenario:
    start = chain(2)
    call = put("8", "2", start.channels | small("A") | large("A"), "so")
    return _scenario(start, Process("A", (call,), dies=True), Process("B", (call,)))


@_named
def forks_of_a_growing_value() -> Scenario:
    start = growing(3)
    return _scenario(
        start,
        Process("A", (put("8", "3", grown(4, "A"), "g"), put("81", "8", grown(5, "A"), "g")), lost=1, warm=True),
        Process("B", (put("9", "3", grown(4, "B"), "g"),), lost=1, warm=True),
    )


@_named
def an_upload_that_takes_hours() -> Scenario:
    start = chain(1)
    return _scenario(
        start,
        Process("A", (put("8", None, large("A"), "o"),), lost=1, slow=True),
        Process("B", (put("8", None, large("A"), "o"),), lost=1, restarts=True),
    )


# Pending writes


@_named
def the_same_writes_in_two_processes() -> Scenario:
    call = put_writes("1", "task", MIXED_WRITES)
    return _scenario(chain(1), Process("A", (call,), lost=2), Process("B", (call,), lost=1, dies=True))


@_named
def writes_before_their_checkpoint() -> Scenario:
    channels = large("1")
    return _scenario(
        NO_THREAD,
        Process("A", (put_writes("1", "task", MIXED_WRITES), put_writes("1", "other", [("c", 1)])), lost=1),
        Process("B", (put("1", None, channels, "o"),), lost=1),
    )


@_named
def a_task_with_a_growing_list() -> Scenario:
    one, two = [("a", 1)], [("a", 1), ("b", random_bytes("b", LARGE)), ("__resume__", [1])]
    return _scenario(
        chain(1),
        Process("A", (put_writes("1", "task", one), put_writes("1", "task", two)), lost=2),
        Process("B", (put_writes("1", "task", two), put_writes("1", "task", one)), lost=1),
    )


@_named
def mixed_writes_and_a_deletion() -> Scenario:
    first = put_writes("1", "task", [("__error__", "e")])
    mixed = put_writes("1", "task", [("c", 1), ("__interrupt__", "i")])
    start = chain(1)
    return _scenario(
        Start(play(first.start(new_context("1")), start.world)[1], start.channels, (*start.calls, first)),
        Process("A", (mixed,), lost=1),
        Process("D", (delete(),)),
        may_vanish="A",
    )


# A writer and a deletion


@_named
def put_and_deletion() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("A", (put("8", "2", start.channels | small("A"), "s"),), lost=1),
        Process("D", (delete(),), lost=1),
        may_vanish="A",
    )


@_named
def put_of_incremental_frames_and_deletion() -> Scenario:
    calls = (put("8", "3", grown(4, "A"), "g"), put("9", "8", grown(5, "A"), "g"))
    return _scenario(
        growing(3), Process("A", calls, lost=1, warm=True), Process("D", (delete(),)), may_vanish="A", batch=2
    )


@_named
def put_of_an_object_and_deletion() -> Scenario:
    return _scenario(
        chain(1), Process("A", (put("8", None, large("A"), "o"),)), Process("D", (delete(),)), may_vanish="A"
    )


@_named
def first_put_of_a_thread_and_deletion() -> Scenario:
    return _scenario(
        NO_THREAD, Process("A", (put("8", None, large("A"), "o"),)), Process("D", (delete(),)), may_vanish="A"
    )


@_named
def first_small_put_of_a_thread_and_deletion() -> Scenario:
    a = small("A")
    return _scenario(
        NO_THREAD,
        Process("A", (put("8", None, a, "s"), put("9", "8", a | large("A"), "o")), lost=1),
        Process("D", (delete(),)),
        may_vanish="A",
    )


@_named
def small_step_then_object_and_deletion() -> Scenario:
    start = chain(1)
    a = small("A")
    return _scenario(
        start,
        Process("A", (put("8", "1", a, "s"), put("9", "8", a | large("A"), "o"))),
        Process("D", (delete(),)),
        may_vanish="A",
    )


@_named
def new_namespace_and_deletion() -> Scenario:
    a = small("A")
    return _scenario(
        chain(1),
        Process("A", (put("8", None, a, "s", ns="sub"), put("9", "8", a | large("A"), "o", ns="sub")), warm=True),
        Process("D", (delete(),), lost=1),
        may_vanish="A",
    )


@_named
def fork_put_and_deletion() -> Scenario:
    start = chain(3)
    return _scenario(
        start,
        Process("A", (put("8", "1", start.channels | small("A") | large("A"), "so"),)),
        Process("B", (put("9", "3", start.channels | small("B"), "s"),)),
        Process("D", (delete(),)),
        may_vanish="AB",
    )


@_named
def repeated_put_and_deletion_in_small_batches() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        # It wrote "2" before, and did not hear that it had.
        Process("A", (put("2", "1", start.channels, "s"),), restarts=True, warm=True),
        Process("D", (delete(),)),
        may_vanish="A",
        batch=1,
    )


@_named
def clock_went_back_and_deletion_in_small_batches() -> Scenario:
    start = chain(1)
    # "0" sorts before its parent, "1".
    return _scenario(
        start,
        Process("A", (put("0", "1", start.channels | small("0"), "s"),), warm=True),
        Process("D", (delete(),)),
        may_vanish="A",
        batch=1,
    )


@_named
def large_writes_and_deletion() -> Scenario:
    return _scenario(
        chain(1), Process("A", (put_writes("1", "task", MIXED_WRITES),)), Process("D", (delete(),)), may_vanish="A"
    )


@_named
def large_writes_of_a_new_thread_and_deletion() -> Scenario:
    return _scenario(
        NO_THREAD, Process("A", (put_writes("1", "task", LARGE_WRITES),)), Process("D", (delete(),)), may_vanish="A"
    )


@_named
def reader_and_deletion() -> Scenario:
    start = growing(3)
    return _scenario(
        start, Process("R", (read(None), read("2"))), Process("D", (delete(),), lost=1), empty=True, batch=1
    )


@_named
def listing_and_deletion() -> Scenario:
    return _scenario(growing(3), Process("R", (list_all(),)), Process("D", (delete(),)), empty=True, batch=1)


@_named
def listing_and_writers() -> Scenario:
    start = chain(2)
    a, b = start.channels | large("A"), start.channels | small("B") | large("B")
    return _scenario(
        start,
        Process("R", (list_all(), read("8"))),
        Process("A", (put("8", "2", a, "o"),), lost=1),
        Process("B", (put("8", "2", b, "so"),)),
    )


@_named
def reader_writer_and_deletion() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("R", (read(None),)),
        Process("A", (put("2", "1", start.channels | large("A"), "o"), put("8", "2", start.channels | large("A"), ()))),
        Process("D", (delete(),)),
        may_vanish="A",
        batch=1,
    )


# Several deletions, dead and slow ones


@_named
def two_deletions() -> Scenario:
    return _scenario(chain(1), Process("D", (delete(),)), Process("E", (delete(),)), empty=True)


@_named
def three_deletions() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("D", (delete(),), lost=1),
        Process("E", (delete(),)),
        Process("F", (delete(),)),
        empty=True,
        batch=1,
    )


@_named
def deletion_where_answers_get_lost() -> Scenario:
    return _scenario(chain(3), Process("D", (delete(),), lost=4), empty=True, batch=2)


@_named
def dead_deletion_repeated() -> Scenario:
    return _scenario(
        chain(2),
        Process("D", (delete(),), dies=True, lost=1),
        Process("E", (delete(),), after="D", lost=1),
        empty=True,
        batch=1,
    )


@_named
def dead_writers_then_a_deletion() -> Scenario:
    start = chain(2)
    a = start.channels | small("A") | large("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so", run="r2"), put_writes("8", "task", MIXED_WRITES)), dies=True),
        Process("B", (put("8", "2", a | small("B"), "so", run="r3"),), dies=True, lost=1),
        Process("D", (delete(),), after="AB"),
        may_vanish="AB",
        empty=True,
    )


@_named
def put_and_two_deletions() -> Scenario:
    return _scenario(
        chain(1),
        Process("A", (put("8", None, large("A"), "o"),)),
        Process("D", (delete(),)),
        Process("E", (delete(),)),
        may_vanish="A",
    )


@_named
def slow_deletion_taken_for_dead() -> Scenario:
    return _scenario(
        chain(1),
        Process("A", (put("8", None, large("A"), "o"), put("9", "8", large("A") | small("A"), "s")), patient=False),
        Process("D", (delete(),)),
        may_vanish="A",
        errors=(ConflictError,),
    )


@_named
def slow_deletion_and_large_writes() -> Scenario:
    return _scenario(
        chain(1),
        Process("A", (put_writes("1", "task", MIXED_WRITES),), patient=False),
        Process("D", (delete(),)),
        may_vanish="A",
        errors=(ConflictError,),
    )


@_named
def dead_deletion_then_writers() -> Scenario:
    "Writers that meet the mark of a crashed deletion may continue, and what they store stays."
    start = chain(3)
    a = small("A")
    return _scenario(
        start,
        Process("D", (delete(),), dies=True),
        Process(
            "A",
            (
                put("7", None, a, "s"),
                put("8", "7", a | large("A"), "o"),
                put_writes("8", "task", MIXED_WRITES),
            ),
            patient=False,
            after="D",
        ),
        Process("B", (put("9", None, large("B"), "o"),), patient=False, after="D"),
        batch=2,
    )


@_named
def dead_deletion_then_another() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("D", (delete(),), dies=True, lost=1),
        Process("A", (put("8", None, large("A"), "o"),), patient=False, after="D"),
        Process("E", (delete(),), after="D"),
        may_vanish="A",
        errors=(ConflictError,),
        batch=1,
    )


@_named
def everything_at_once() -> Scenario:
    start = chain(2)
    a, b = start.channels | small("A"), start.channels | small("B") | large("B")
    return _scenario(
        start,
        Process("R", (read(None), list_all())),
        Process(
            "A",
            (put("6", "2", a, "s"), put_writes("6", "task", MIXED_WRITES), put("8", "6", a | large("A"), "o")),
            lost=1,
            warm=True,
        ),
        Process("B", (put("7", "1", b, "so", run="r2"), put("9", "7", b | small("B9"), "s")), lost=1, patient=False),
        Process("D", (delete(),), lost=1, dies=True),
        Process("E", (delete(),), restarts=True, lost=1),
        may_vanish="AB",
        errors=(ConflictError,),
        batch=2,
    )
