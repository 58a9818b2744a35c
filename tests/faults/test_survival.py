"""`kill_everywhere`: graphs that survive pass, and each kind of graph that does not is noticed, and can be repeated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from langgraph_gcs_saver import GCSSaver, cadence, flows
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.testing import Attempt, CountingInterceptor, Kill, NotSurvivedError, kill_everywhere
from tests.faults import surviving
from tests.faults.turns import inputs

EMPTY: dict[str, Any] = {"log": []}
QUICK: dict[str, Any] = {"mode": "crash", "durability": "sync"}
AT_END: dict[str, Any] = {"mode": "crash", "durability": "exit"}
"""With nothing in the background, so the requests of all runs have one order, and a number names one moment."""


# Graphs that survive


def test_a_graph_that_survives() -> None:
    attempts: list[Attempt] = []

    def check(result: Any, attempt: Attempt) -> None:
        attempts.append(attempt)
        assert result == {"log": ["a", "b"]}

    report = kill_everywhere(surviving.good, EMPTY, check, **AT_END)
    assert report.kills == report.resumed == 2 * len(report.effects) == len(attempts) - 1
    assert (report.mode, report.missed, report.failures) == ("crash", 0, ())
    assert {"GetDocs", "QueryDocs", "Commit"} <= set(report.effects)
    assert str(report).startswith(f"{len(report.effects)} effects, {report.kills} processes killed: {report.kills} re")
    whole, *others = attempts
    assert (whole.kill, whole.ran, whole.expected) == (None, ("a", "b"), whole.results)
    numbers = range(1, len(report.effects) + 1)
    assert [one.kill for one in others] == [Kill(when, at) for at in numbers for when in ("before", "after")]
    # Both nodes have run, and some kills made them run a second time.
    assert {one.ran for one in others} == {("a", "b"), ("a", "b", "a", "b")}
    assert len({one.uri for one in attempts}) == len({one.folder for one in attempts}) == len(attempts)


GRAPHS: dict[str, tuple[Any, Any, list[Any]]] = {
    "side effects": (surviving.careful, EMPTY, []),
    "questions": (surviving.asking, inputs("one"), ["yes", "no"]),
    "tasks that ask": (surviving.fan, inputs("one"), [surviving.answer_each]),
    "a subgraph": (surviving.nested, inputs("one"), ["yes"]),
    "a function": (surviving.function, inputs("one"), ["yes"]),
    "a breakpoint": (surviving.at_breakpoint, EMPTY, [None]),
}
HOW: dict[str, dict[str, Any]] = {
    "sync": {"durability": "sync"},
    "async": {"durability": "async"},
    "exit": {"durability": "exit"},
    "segments": {"store": "segments", "policy": cadence.Steps(1)},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_survive_some_crashes(name: str) -> None:
    build, given, answers = GRAPHS[name]
    report = kill_everywhere(build, given, answers=answers, limit=8, **QUICK)
    assert report.resumed == 8


@pytest.mark.parametrize("how", HOW)
def test_each_way_to_store_survives_some_crashes(how: str) -> None:
    report = kill_everywhere(surviving.asking, inputs("one"), answers=["yes", "no"], mode="crash", limit=6, **HOW[how])
    assert report.kills + report.missed == 6


def test_coroutines_survive_some_crashes() -> None:
    report = kill_everywhere(surviving.good, EMPTY, is_async=True, limit=6, **QUICK)
    assert report.resumed == 6


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True], ids=["run", "arun"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_survive_crashes_everywhere(name: str, how: str, is_async: bool) -> None:
    build, given, answers = GRAPHS[name]
    kill_everywhere(build, given, answers=answers, mode="crash", is_async=is_async, **HOW[how])


def test_killed_processes_are_replaced() -> None:
    """Real ones: SIGKILL, in the middle and at the end."""
    report = kill_everywhere(
        "tests.faults.surviving:careful", EMPTY, surviving.charged_once, durability="sync", limit=2, seed=1
    )
    assert (report.mode, report.kills, report.resumed) == ("kill", 2, 2)


@pytest.mark.soak
@pytest.mark.parametrize("name", GRAPHS)
def test_killed_processes_are_replaced_everywhere(name: str) -> None:
    build, given, answers = GRAPHS[name]
    report = kill_everywhere(build, given, answers=answers, durability="sync")
    assert report.resumed == 2 * len(report.effects)


def test_a_store_on_the_emulators(firestore_emulator: Any, bucket_name: str, project_id: str) -> None:
    stores: list[str] = []

    def new_store() -> str:
        stores.append(f"gs://{bucket_name}/kills-{uuid4().hex}?project={project_id}")
        return stores[-1]

    report = kill_everywhere(surviving.careful, EMPTY, surviving.charged_once, new_store=new_store, limit=3, **QUICK)
    assert report.resumed == 3
    assert len(stores) == 4


# Graphs that do not survive


def survives_not(build: Any, check: Any = None, **options: Any) -> NotSurvivedError:
    with pytest.raises(NotSurvivedError) as caught:
        kill_everywhere(build, EMPTY, check, **{**AT_END, **options})
    return caught.value


def test_a_side_effect_outside_of_an_operation_is_noticed() -> None:
    error = survives_not(surviving.careless, surviving.charged_once)
    report = error.report
    assert 0 < len(report.failures) < report.kills == 2 * len(report.effects)
    assert report.resumed == report.kills - len(report.failures)
    first = report.failures[0]
    # From the moment when the nodes had run, and until the end was stored.
    assert {one.ran for one in report.failures} == {("a", "pay", "b")}
    assert isinstance(error.__cause__, AssertionError)
    message = str(error)
    assert f"killed {first.kill.when} effect {first.kill.effect} ({first.kind}), when node 'b' was" in message
    assert message.endswith(f'pass only="{first.kill}".')
    # That one alone fails again, here and with a real kill. The one before it does not.
    for mode in ("crash", "kill"):
        again = survives_not(surviving.careless, surviving.charged_once, mode=mode, only=str(first.kill)).report
        assert [one.kill for one in again.failures] == [first.kill]
        assert again.kills == 1
    before = Kill("after", first.kill.effect - 1) if first.kill.when == "before" else Kill("before", first.kill.effect)
    kept = kill_everywhere(surviving.careless, EMPTY, surviving.charged_once, only=[str(before)] * 2, **AT_END)
    assert kept.resumed == 2


def test_a_node_that_appends_twice_is_noticed_without_a_check() -> None:
    error = survives_not(surviving.counting)
    assert {one.reason for one in error.report.failures} == {
        "the result differs from that of the undisturbed run: it['log'] has 4 items, not 3"
    }
    assert "4 items" in str(error)


def test_a_side_effect_whose_outcome_is_unknown_is_noticed() -> None:
    (failure,) = survives_not(surviving.unsettled).report.failures[:1]
    assert "OutcomeUnknownError" in failure.reason
    assert failure.ran[-1] == "pay"


def test_an_input_that_is_applied_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program does that calls the graph with the same input after a crash."""
    monkeypatch.setattr(flows.runs, "decide", lambda *_: "start")
    failures = survives_not(surviving.good, every=5).report.failures
    assert failures
    assert all("it['log'] has" in one.reason for one in failures)


def test_a_checkpoint_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.runs, "decide", lambda *_: "return")
    with pytest.raises(NotSurvivedError, match="Without any kill"):
        kill_everywhere(surviving.good, EMPTY, lambda result: result["log"] == ["a", "b"], **QUICK)


def test_many_failures_are_counted() -> None:
    checks: list[Any] = []

    def check(result: Any) -> bool:
        checks.append(result)
        return len(checks) == 1

    error = survives_not(surviving.good, check, limit=12)
    assert len(error.report.failures) == 12
    assert str(error).count("the check returned False") == 10
    assert "- and 2 more" in str(error)
    assert error.report.resumed == 0


def test_the_undisturbed_run_is_checked_first() -> None:
    error = survives_not(surviving.good, lambda _: False)
    assert str(error) == "Without any kill: the check returned False"
    assert error.report.kills == 0
    assert str(survives_not(surviving.failing)) == "Without any kill: LookupError: the node has failed"
    remote = survives_not(surviving.failing, mode="kill")
    assert str(remote) == "Without any kill: LookupError: the node has failed"
    assert "in fail" in str(remote.__cause__.__cause__ if remote.__cause__ else "")  # the other process's traceback


def test_a_process_that_ends_by_itself_or_hangs_is_noticed() -> None:
    assert "exit code 3" in str(survives_not(surviving.leaving, mode="kill"))
    error = survives_not(surviving.hanging, mode="kill", timeout=0.5)  # clock: it hangs, however long the limit is
    assert "did nothing for 0.5 seconds" in str(error)


# Arguments


def test_a_sample_is_repeatable() -> None:
    def kills(**options: Any) -> list[str]:
        found: list[str] = []
        note = lambda _, attempt: found.append(str(attempt.kill))  # noqa: E731
        kill_everywhere(surviving.good, EMPTY, note, **QUICK, **options)
        return found[1:]

    chosen = kills(limit=4, seed=3)
    assert len(chosen) == 4
    assert chosen == kills(limit=4, seed=3) != kills(limit=4, seed=4)
    every = kills(every=10)
    assert every[:3] == ["before 1", "before 6", "before 11"]
    assert kills(every=10, limit=1000) == every
    assert kills(only=["after 2", "before 9"]) == ["after 2", "before 9"]


def test_what_is_passed_on(tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "mine"}, "metadata": {"who": "me"}}
    found: list[Attempt] = []
    count = CountingInterceptor()

    def check(result: Any, attempt: Attempt) -> None:
        assert result["log"] == ["hello"]
        found.append(attempt)

    kill_everywhere(
        surviving.with_context,
        EMPTY,
        check,
        config=config,
        context=surviving.Context("hello"),
        request_id="r",
        saver_options={"inline_max_bytes": 0, "interceptors": [count]},
        folder=tmp_path,
        limit=2,
        **QUICK,
    )
    assert count.requests["PutBlob"]
    for one in found:
        assert one.folder.is_relative_to(tmp_path)
        with GCSSaver.from_conn_string(one.uri) as saver:  # kept, because `folder` was given
            newest = next(saver.list({"configurable": {"thread_id": "mine"}}))
            assert (newest.metadata["lg_request"], newest.metadata["who"]) == ("r", "me")


def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kill_everywhere(surviving.good, EMPTY, limit=2, **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode is 'both'"),
        ({"every": 0}, "every is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"only": "effect 3"}, "'effect 3' is not a kill"),
        ({"only": "after 999"}, "has .* effects"),
        ({"only": []}, "only names no kill"),
        ({"answers": ["yes"]}, "before answer 1 the graph asks nothing"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        kill_everywhere(surviving.good, EMPTY, **{**QUICK, **options})


def test_a_graph_without_the_saver_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="needs a GCSSaver"):
        kill_everywhere(surviving.made_nothing, EMPTY, **QUICK)


def test_what_cannot_be_sent_is_named() -> None:
    def build(saver: Any) -> Any:
        return surviving.good(saver)

    with pytest.raises(InvalidInputError, match=r"^build_graph cannot be sent .* or pass mode='crash'"):
        kill_everywhere(build, EMPTY)
    with pytest.raises(InvalidInputError, match=r"^answers cannot be sent"):
        kill_everywhere(surviving.good, EMPTY, answers=[lambda _: "yes"])
    kill_everywhere(build, EMPTY, limit=1, **QUICK)


def test_what_another_process_cannot_import_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(saver: Any) -> Any:
        return surviving.good(saver)

    build.__module__, build.__qualname__ = "only_here", "build"
    module = type(sys)("only_here")
    vars(module)["build"] = build
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(InvalidInputError, match="could not load"):
        kill_everywhere(build, EMPTY)


def test_a_check_need_not_say_what_it_takes() -> None:
    seen: list[Callable[..., Any]] = []
    kill_everywhere(surviving.good, EMPTY, seen.append, limit=1, **QUICK)
    assert len(seen) == 2
