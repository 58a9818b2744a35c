"""Kill a graph of your own before and after each request to the store, and check that it ends as if nothing happened.

```python
def build(saver: GCSSaver) -> CompiledStateGraph:
    return builder.compile(checkpointer=saver)


def test_my_agent_survives() -> None:
    print(kill_everywhere(build, {"messages": [("user", "Hello")]}))
```

First, one process runs the graph undisturbed. It counts its effects: its requests to the store, and the calls of
functions by `once`. Then, for each effect, a process is killed just before it, and another one just after it. Each
time, the store is a fresh one, and a second process makes the same call of `run`. What it returns must equal the
undisturbed result, or pass your check.

With `mode="kill"`, these are real processes and a real SIGKILL. With `mode="crash"`, all happens in this process, which
is much faster: each effect from that moment on raises an exception that no `except Exception` catches.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import json
import logging
import multiprocessing
import os
import pkgutil
import random
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import merge_configs
from langgraph.types import Command, Interrupt
from pydantic import BaseModel

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import LeaseTakenOver, logger
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver.checkpointer import GCSSaver
from langgraph_gcs_saver.saver.run import arun, run
from langgraph_gcs_saver.testing import PATIENCE, kills
from langgraph_gcs_saver.testing.crash import Crashed, Dying, Plan, crash, kill

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_gcs_saver.cadence.policies import Policy

THREAD = "thread-1"
"""The thread, unless the config names another one."""

OWNER = "kill_everywhere"
"""The holder's name of the leases. So the second process need not wait until the lease of the first one has expired."""

SHOWN = 10
"""Failures that a message lists."""

_INTERRUPT = "__interrupt__"


class NotSurvivedError(AssertionError):
    """A graph did not survive a kill. The message names the kills, and says how to repeat one of them alone.

    Attributes:
        report: What was tried, with the failures.
    """

    def __init__(self, message: str, report: KillReport) -> None:
        super().__init__(message)
        self.report = report


class RemoteError(Exception):
    """An exception of another process. Its text is that process's traceback."""


@record(frozen=True, slots=True)
class Kill:
    """A moment at which a process is killed: `str` gives `"after 23"`, which `only=` takes.

    Attributes:
        when: Before or after the effect.
        effect: The number of the effect, from 1.
    """

    when: Literal["before", "after"]
    effect: int

    def __str__(self) -> str:
        return f"{self.when} {self.effect}"

    @classmethod
    def parse(cls, text: str) -> Kill:
        """The moment that a text such as `"after 23"` names.

        Raises:
            InvalidInputError: The text names none.
        """
        found = re.fullmatch(r"(before|after) ([1-9]\d{0,8})", text) if isinstance(text, str) else None
        if found is None:
            raise InvalidInputError(f"{text!r} is not a kill. Pass only='before 7' or only='after 7'.")
        return cls(cast("Any", found[1]), int(found[2]))


@record(frozen=True, slots=True)
class Attempt:
    """One attempt, as a check may look at it.

    Attributes:
        kill: When the first process was killed; `None` for the undisturbed run.
        results: What `run` returned for the inputs and for each answer.
        expected: The results of the undisturbed run.
        ran: The nodes that began, in all processes of the attempt, in order. A node that ran again is there twice.
        uri: The connection string of the store.
        thread_id: The thread.
        folder: The attempt's own directory, which `build_graph` got as `folder`.
    """

    kill: Kill | None
    results: tuple[Any, ...]
    expected: tuple[Any, ...]
    ran: tuple[str, ...]
    uri: str
    thread_id: str
    folder: Path


@record(frozen=True, slots=True)
class KillFailure:
    """A kill that the graph did not survive.

    Attributes:
        kill: When the process was killed. Pass `only=str(kill)` to repeat this one alone.
        kind: The kind of the effect, such as `"Commit"`, in the undisturbed run.
        ran: The nodes that had begun before the kill.
        reason: What is wrong.
        error: The exception of the check, or of the second process.
        uri: The connection string of the store. With `folder=`, it is still there.
    """

    kill: Kill
    kind: str
    ran: tuple[str, ...]
    reason: str
    error: BaseException
    uri: str

    def __str__(self) -> str:
        where = f"when node {self.ran[-1]!r} was the last to begin" if self.ran else "before any node"
        return f"killed {self.kill.when} effect {self.kill.effect} ({self.kind}), {where}: {self.reason}"


@record(frozen=True, slots=True)
class KillReport:
    """What was tried.

    Attributes:
        mode: `"kill"` or `"crash"`.
        effects: The kinds of the effects of the undisturbed run, in order, such as `"Commit"`.
        kills: How many processes were killed.
        missed: How many ended before their kill, because they made fewer effects than the undisturbed one.
        resumed: After how many kills another process finished as it should.
        failures: The other ones.
    """

    mode: str
    effects: tuple[str, ...]
    kills: int
    missed: int
    resumed: int
    failures: tuple[KillFailure, ...]

    def __str__(self) -> str:
        missed = f", {self.missed} ended before" if self.missed else ""
        return (
            f"{len(self.effects)} effects, {self.kills} processes killed{missed}: "
            f"{self.resumed} resumed and ended as they should, {len(self.failures)} did not"
        )


def kill_everywhere(
    build_graph: Callable[..., Any] | str,
    inputs: Any,
    check: Callable[..., object] | None = None,
    *,
    answers: Sequence[Any] = (),
    mode: Literal["kill", "crash"] = "kill",
    every: int = 1,
    limit: int | None = None,
    seed: int = 0,
    only: str | Iterable[str] | None = None,
    config: RunnableConfig | None = None,
    request_id: str = "request",
    durability: str | None = None,
    policy: Policy | None = None,
    store: Literal["every_step", "segments"] = "every_step",
    is_async: bool = False,
    new_store: Callable[[], str] | None = None,
    saver_options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    timeout: float = PATIENCE,
    **rest: Any,
) -> KillReport:
    """Kill a graph before and after each of its requests to the store, resume it with `run`, and check the result.

    Args:
        build_graph: A function that gets a `GCSSaver` and returns the graph, compiled with it; or its name, as
            `"module:function"`. Each process calls it. A function with a parameter `folder` also gets the attempt's own
            empty directory, for what your tools do outside of the graph.
        inputs: The input of the graph.
        check: Gets the result, and raises an exception if it is wrong, or returns `False`. A function with a parameter
            `attempt` also gets the `Attempt`. Without a check, all results must equal those of the undisturbed run.
            Ids of messages and of interrupts do not count, because they are random.
        answers: What to pass when the graph has returned: a value with which to resume it, a `Command`, or `None` to
            pass a breakpoint. A function gets the last result and returns one of these.
        mode: `"kill"` for processes and SIGKILL, `"crash"` for exceptions in this process.
        every: Try each n-th kill only.
        limit: Try at most so many kills, chosen at random.
        seed: The seed of that choice.
        only: Try these kills only, such as `"after 23"`, which a failure names. `["after 23"] * 10` repeats it.
        config: The config of the graph. It needs no `thread_id`.
        request_id: The id of the request. Each answer is a request of its own, whose id begins with this one.
        durability: As for `run`.
        policy: As for `run`.
        store: As for `run`.
        is_async: Whether to call `arun`.
        new_store: Returns the connection string of a fresh, empty store each time, such as one on the emulators. By
            default it is an embedded store in a temporary directory.
        saver_options: Options of the saver, as keyword arguments.
        folder: Where to keep the stores and directories of all attempts, such as pytest's `tmp_path`. By default they
            are deleted.
        timeout: Seconds after which a process is assumed to hang.
        rest: Other arguments of `run`, such as `context`.

    Raises:
        InvalidInputError: An argument is invalid. With `mode="kill"`, also if an argument cannot be sent to another
            process: `build_graph` must be a function at the top level of a module that can be imported.
        NotSurvivedError: An attempt did not end as it should, or the undisturbed run did not.
    """
    if mode not in ("kill", "crash"):
        raise InvalidInputError(f"mode is {mode!r}; it must be 'kill' or 'crash'.")
    for name, value, least in (("every", every, 1), ("limit", 1 if limit is None else limit, 1)):
        if not isinstance(value, int) or value < least:
            raise InvalidInputError(f"{name} is {value!r}; it must be a number from {least}.")
    named = None if only is None else [Kill.parse(one) for one in ([only] if isinstance(only, str) else only)]
    more = {"durability": durability, "policy": policy, "store": store, **rest}
    story = _Story(
        build_graph, inputs, tuple(answers), config or {}, request_id, more, dict(saver_options or {}), is_async
    )
    process = _killed(timeout) if mode == "kill" else _crashed
    if mode == "kill":
        _check_sendable(story)
    with _directory(folder) as where:
        driver = _Driver(story, process, check, where, mode=mode, keeps=folder is not None, new_store=new_store)
        driver.undisturbed()
        for moment in driver.sample(every, limit, seed) if named is None else driver.named(named):
            driver.disturbed(moment)
        return driver.end()


# What a process does


@record(frozen=True, slots=True)
class _Story:
    """The graph, and the requests to it."""

    build_graph: Callable[..., Any] | str
    inputs: Any
    answers: tuple[Any, ...]
    config: RunnableConfig
    request_id: str
    run_options: Mapping[str, Any]
    saver_options: Mapping[str, Any]
    is_async: bool

    @property
    def thread_id(self) -> str:
        return str(self.config.get("configurable", {}).get("thread_id", THREAD))

    def graph(self, saver: GCSSaver, folder: Path) -> Any:
        build = pkgutil.resolve_name(self.build_graph) if isinstance(self.build_graph, str) else self.build_graph
        return build(saver, **({"folder": folder} if _takes(build, "folder") else {}))

    def given(self, at: int, last: Any) -> Any:
        """What to pass in the n-th request, after the last result."""
        if at == 0:
            return copy.deepcopy(self.inputs)
        answer = self.answers[at - 1]
        if callable(answer):
            answer = answer(last)
        if answer is not None and not (isinstance(last, Mapping) and _INTERRUPT in last):
            raise InvalidInputError(f"answers has {len(self.answers)}, but before answer {at} the graph asks nothing.")
        return answer if answer is None or isinstance(answer, Command) else Command(resume=answer)


@record(frozen=True, slots=True)
class _Order:
    """What one process does: the requests that no process before it has finished, until it is killed."""

    story: _Story
    uri: str
    folder: Path
    ledger: Path
    first: int = 0
    last: Any = None
    kill: Kill | None = None

    def plan(self, strike: Callable[[], NoReturn]) -> Plan:
        if self.kill is None:
            return Plan()
        is_late = self.kill.when == "before"
        return Plan(self.kill.effect - is_late, is_late=is_late, strike=strike)


@record(frozen=True, slots=True)
class _Ended:
    """How a process ended: what it returned, and the kinds of its effects; `None` if it was killed."""

    results: list[Any]
    effects: tuple[str, ...] | None


def _play(order: _Order, plan: Plan, send: Callable[[Any], None]) -> None:
    """Make the requests, and send each result."""
    story, last = order.story, order.last
    dying = Dying()
    dying.plan = plan
    options = {**story.saver_options, "interceptors": [*story.saver_options.get("interceptors", ()), dying]}
    with (
        _quiet(plan),
        _noting(order.ledger) as notes,
        GCSSaver.from_conn_string(order.uri, **options) as saver,
    ):
        graph = story.graph(saver, order.folder)
        config = merge_configs({"configurable": {"thread_id": story.thread_id}}, story.config, {"callbacks": [notes]})
        call = (lambda *args, **named: asyncio.run(arun(*args, **named))) if story.is_async else run
        for at in range(order.first, 1 + len(story.answers)):
            name = f"{story.request_id} {at}" if at else story.request_id
            more = {"request_id": name, "owner": OWNER, **story.run_options}
            last = call(graph, story.given(at, last), config, **more)
            send(last)


@contextmanager
def _quiet(plan: Plan) -> Iterator[None]:
    """The block in which this process plays. It does not log a lease that is taken over, nor anything after a crash."""

    def is_news(entry: logging.LogRecord) -> bool:
        return not plan.is_dead and not any(isinstance(one, LeaseTakenOver) for one in entry.args or ())

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


class _Notes(BaseCallbackHandler):
    """Writes the name of each node that begins into a file, because a killed process remembers nothing."""

    run_inline = True  # Without it, each event of a coroutine would wait for another thread.

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:  # noqa: ARG002 - LangChain's signature
        """Note the node, if one begins. Other Runnables in it have other names."""
        node = (more.get("metadata") or {}).get("langgraph_node")
        if node is not None and node == more.get("name"):
            # One write to a file opened for appending: lines of several threads never mix.
            os.write(self._descriptor, f"{json.dumps(node)}\n".encode())


@contextmanager
def _noting(path: Path) -> Iterator[_Notes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield _Notes(descriptor)
    finally:
        os.close(descriptor)


def _noted(path: Path) -> tuple[str, ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()


def _takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function of C that does not say
        return False


# Processes


_Process = Callable[[_Order], _Ended]
"""Performs an order in a process. An exception of the graph is raised."""


def _crashed(order: _Order) -> _Ended:
    """The process is this one, and crashes by an exception."""
    plan = order.plan(crash)
    results: list[Any] = []
    with suppress(Crashed):
        try:
            _play(order, plan, lambda result: results.append(copy.deepcopy(result)))
        except Exception:
            if not plan.is_dead:
                raise
    return _Ended(results, None if plan.is_dead else _kinds(plan))


def _killed(timeout: float) -> _Process:
    """A process of its own, which is killed."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise InvalidInputError("mode 'kill' needs an operating system with `fork`. Pass mode='crash'.")

    def perform(order: _Order) -> _Ended:
        with kills.process(_work) as (child, pipe):
            pipe.send(order)
            results: list[Any] = []
            for kind, value in _received(pipe, timeout):
                if kind == "result":
                    results.append(value)
                elif kind == "done":
                    return _Ended(results, value)
                elif kind == "not loaded":
                    raise InvalidInputError(
                        "Another process could not load what it got. Define build_graph, and what the other arguments "
                        f"hold, in a module that can be imported, or pass mode='crash'.\n{value}"
                    )
                else:
                    raise _remote(*value)
            child.join()
            if child.exitcode == -signal.SIGKILL and order.kill is not None:
                return _Ended(results, None)
            raise RemoteError(f"The process ended with exit code {child.exitcode}, which was not planned.")

    return perform


def _work(pipe: Connection) -> None:
    """The body of a process. It gets an order, and sends pairs of a word and a value."""
    try:
        order = pipe.recv()
    except Exception:  # noqa: BLE001 - whatever the user's modules raise
        pipe.send(("not loaded", traceback.format_exc()))
        return
    plan = order.plan(kill)
    try:
        _play(order, plan, lambda result: pipe.send(("result", result)))
    except BaseException as error:  # noqa: BLE001 - reported to the other process, whatever it is
        pipe.send(("raised", (f"{type(error).__name__}: {error}", traceback.format_exc())))
    else:
        pipe.send(("done", _kinds(plan)))


def _received(pipe: Connection, timeout: float) -> Iterator[tuple[str, Any]]:
    """What a process sends until it ends."""
    while True:
        if not pipe.poll(timeout):
            raise RemoteError(f"The process did nothing for {timeout:g} seconds.")
        try:
            found = pipe.recv()
        except (EOFError, OSError):  # It ended, perhaps while it sent something.
            return
        yield found


def _remote(summary: str, text: str) -> RemoteError:
    error = RemoteError(summary)
    error.__cause__ = RemoteError(f"\n{text}")
    return error


def _kinds(plan: Plan) -> tuple[str, ...]:
    return tuple(type(effect).__name__ for effect in plan.done)


def _check_sendable(story: _Story) -> None:
    """Check that another process can get the story.

    Raises:
        InvalidInputError: A part of it cannot be sent.
    """
    name = ""
    try:
        for name in (one.name for one in dataclasses.fields(cast("Any", story))):
            ForkingPickler.dumps(getattr(story, name))
    except Exception as error:
        raise InvalidInputError(
            f"{name} cannot be sent to another process: {error}. Define functions and classes at the top level of a "
            "module that can be imported, name build_graph as 'module:function', or pass mode='crash'."
        ) from error


# The driver


@contextmanager
def _directory(folder: Path | None) -> Iterator[Path]:
    prefix = "langgraph-gcs-kills-"
    if folder is not None:
        yield Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        return
    with tempfile.TemporaryDirectory(prefix=prefix) as made:
        yield Path(made)


class _Driver:
    """Runs the graph undisturbed, and then with kills."""

    def __init__(
        self,
        story: _Story,
        process: _Process,
        check: Callable[..., object] | None,
        where: Path,
        *,
        mode: str,
        keeps: bool,
        new_store: Callable[[], str] | None,
    ) -> None:
        self.story = story
        self.process = process
        self.check = check
        self.where = where
        self.mode = mode
        self.keeps = keeps
        self.new_store = new_store
        self.effects: tuple[str, ...] = ()
        self.expected: tuple[Any, ...] = ()
        self.attempts = self.kills = self.missed = self.resumed = 0
        self.failures: list[KillFailure] = []

    @property
    def report(self) -> KillReport:
        """What was tried until now."""
        return KillReport(self.mode, self.effects, self.kills, self.missed, self.resumed, tuple(self.failures))

    def undisturbed(self) -> None:
        """Run the graph without a kill.

        Raises:
            NotSurvivedError: It fails, or its result is wrong.
        """
        order = self._order("undisturbed", None)
        try:
            ended = self.process(order)
            self.effects, self.expected = ended.effects or (), tuple(ended.results)
            self._check(order, ended.results)
        except InvalidInputError:
            raise
        except Exception as error:  # whatever the graph or the check raises
            raise NotSurvivedError(f"Without any kill: {_reason(error)}", self.report) from error
        if not self.effects:
            raise InvalidInputError("The graph made no request to the store. Compile it with the saver that it gets.")

    def sample(self, every: int, limit: int | None, seed: int) -> Sequence[Kill]:
        """The kills to try."""
        moments = [Kill(when, at) for at in range(1, len(self.effects) + 1) for when in ("before", "after")]
        moments = moments[::every]
        if limit is None or limit >= len(moments):
            return moments
        chosen = random.Random(seed).sample(range(len(moments)), limit)  # noqa: S311 - a seed repeats the choice
        return [moments[at] for at in sorted(chosen)]

    def named(self, moments: Sequence[Kill]) -> Sequence[Kill]:
        """The kills that the caller names.

        Raises:
            InvalidInputError: There are none, or the undisturbed run has no such effect.
        """
        for one in moments:
            if one.effect > len(self.effects):
                raise InvalidInputError(f"only is '{one}', but the undisturbed run has {len(self.effects)} effects.")
        if not moments:
            raise InvalidInputError("only names no kill.")
        return moments

    def disturbed(self, moment: Kill) -> None:
        """Kill the graph's process at a moment, let another one continue, and check."""
        order = self._order(str(moment).replace(" ", "-"), moment)
        ran: tuple[str, ...] = ()
        try:
            ended = self.process(order)
            results, is_killed = ended.results, ended.effects is None
            self.kills += is_killed
            self.missed += not is_killed
            if is_killed:
                ran = _noted(order.ledger)
                last = results[-1] if results else None
                results = results + self.process(replace(order, first=len(results), last=last, kill=None)).results
            self._check(order, results)
            self.resumed += is_killed
            if not self.keeps:
                shutil.rmtree(order.folder.parent)
        except InvalidInputError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the graph or the check raises
            kind = self.effects[moment.effect - 1]
            self.failures.append(KillFailure(moment, kind, ran, _reason(error), error, order.uri))

    def end(self) -> KillReport:
        """The report.

        Raises:
            NotSurvivedError: Something failed, or nothing was killed.
        """
        report, failures = self.report, self.failures
        if failures:
            lines = [f"The graph did not survive {len(failures)} of {self.kills} kills ({report})."]
            lines += [f"- {one}" for one in failures[:SHOWN]]
            lines += [f"- and {len(failures) - SHOWN} more, in `report.failures`"] * (len(failures) > SHOWN)
            lines.append(f'To repeat the first one alone, pass only="{failures[0].kill}".')
            raise NotSurvivedError("\n".join(lines), report) from failures[0].error
        if not self.kills:
            raise NotSurvivedError(f"No process was killed, so nothing is proved: {report}.", report)
        return report

    def _order(self, name: str, moment: Kill | None) -> _Order:
        self.attempts += 1
        place = self.where / f"{self.attempts}-{name}"
        folder = place / "folder"
        folder.mkdir(parents=True)
        uri = (place / "store").absolute().as_uri() if self.new_store is None else self.new_store()
        return _Order(self.story, uri, folder, place / "nodes", kill=moment)

    def _check(self, order: _Order, results: Sequence[Any]) -> None:
        found = tuple(results)
        if self.check is None:
            for at, (one, expected) in enumerate(zip(found, self.expected, strict=True)):
                where = _difference(one, expected)
                if where is not None:
                    which = f"after answer {at}, the result" if at else "the result"
                    raise AssertionError(f"{which} differs from that of the undisturbed run: {where}")
            return
        ran = _noted(order.ledger)
        attempt = Attempt(order.kill, found, self.expected, ran, order.uri, self.story.thread_id, order.folder)
        verdict = self.check(found[-1], **({"attempt": attempt} if _takes(self.check, "attempt") else {}))
        if verdict is False:
            raise AssertionError("the check returned False")


def _reason(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, (AssertionError, RemoteError)):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return text or f"an assertion failed in line {frame.lineno} of {Path(frame.filename).name}"
    return f"{type(error).__name__}: {text}"


# Comparing results


def _difference(found: Any, expected: Any, where: str = "it") -> str | None:
    """How a result differs from another one, such as `it['n'] has another value`; `None` if they are equal."""
    found, expected = _plain(found), _plain(expected)
    if type(found) is not type(expected):
        return f"{where} is of type {type(found).__name__}, not {type(expected).__name__}"
    if isinstance(found, Mapping):
        for key in (*expected, *(one for one in found if one not in expected)):
            if key not in found or key not in expected:
                return f"{where}[{key!r}] is {'missing' if key in expected else 'there'}"
            deeper = _difference(found[key], expected[key], f"{where}[{key!r}]")
            if deeper is not None:
                return deeper
        return None
    if isinstance(found, (list, tuple)):
        if len(found) != len(expected):
            return f"{where} has {len(found)} items, not {len(expected)}"
        pairs = enumerate(zip(found, expected, strict=True))
        each = (_difference(one, other, f"{where}[{at}]") for at, (one, other) in pairs)
        return next((one for one in each if one is not None), None)
    return None if found == expected else f"{where} has another value"


def _plain(value: Any) -> Any:
    """A value to compare: without the random ids of messages and interrupts. The order of interrupts is random too."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Interrupt) for one in value):
        return sorted((one.value for one in value), key=repr)
    if isinstance(value, BaseMessage):
        return {"class": type(value).__name__, **value.model_dump(exclude={"id"})}
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__, **dict(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            "class": type(value).__name__,
            **{one.name: getattr(value, one.name) for one in dataclasses.fields(value)},
        }
    return value
