"""Policies as functions of a record, and what measures that record: counts, memory, signals."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.types import Command

from langgraph_gcs_saver import GCSSaver, cadence
from langgraph_gcs_saver.cadence import signals
from langgraph_gcs_saver.cadence.callbacks import keys_of
from langgraph_gcs_saver.cadence.memory import MemoryGauge
from langgraph_gcs_saver.cadence.meter import Meter
from langgraph_gcs_saver.cadence.policies import Policy, Progress, Stop, Store, Tokens
from langgraph_gcs_saver.cadence.stopping import MOST_RUNS, Stopping
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError

MIB = 1 << 20
STORES = [
    (cadence.Every(minutes=1, seconds=30), {"unstored_seconds": 90.0}, {"unstored_seconds": 89.9}),
    (cadence.Steps(3), {"unstored_steps": 3}, {"unstored_steps": 2, "steps": 9}),
    (cadence.Milestone("pay"), {"nodes": frozenset({"pay"})}, {"nodes": frozenset({"payed"})}),
    (cadence.Milestone("total"), {"keys": frozenset({"total"})}, {}),
    (cadence.Milestone("pay"), {"milestones": frozenset({"pay"})}, {"milestones": frozenset({"x"})}),
    (cadence.Milestone(), {"milestones": frozenset({"x"})}, {"nodes": frozenset({"x"})}),
    (cadence.MaxLag(steps=2), {"lag_steps": 2}, {"lag_steps": 1, "lag_seconds": 99.0}),
    (cadence.MaxLag(seconds=2), {"lag_seconds": 2.0}, {"lag_steps": 99}),
    (cadence.Spend(tokens=10), {"usage": {"a": Tokens(4, 1), "b": Tokens(2, 3)}}, {"usage": {"a": Tokens(4, 5)}}),
    (
        cadence.Spend(dollars=1, prices={"a": (1.0, 2.0)}),
        {"usage": {"a-2": Tokens(500_000, 250_000)}},
        {"usage": {"a-2": Tokens(500_000, 249_999)}},
    ),
    (cadence.Memory(0.8, action="store"), {"memory": 0.8}, {"memory": 0.79}),
    (cadence.Adaptive(cost=1.0, crashes=1, hours=1), {"unstored_seconds": 85.0}, {"unstored_seconds": 84.0}),
    (cadence.Adaptive(objective=cadence.RTO(seconds=30)), {"unstored_seconds": 30.0}, {"unstored_seconds": 29.0}),
]
STOPS = [
    (cadence.Memory(0.8), {"memory": 0.9}, {"memory": None}),
    (cadence.Memory(0.5, limit=100), {"rss": 50}, {"rss": 49, "memory": 0.9}),
    (cadence.Signal(15), {"signals": frozenset({2, 15})}, {"signals": frozenset({2})}),
    (cadence.Deadline(hours=1, minutes=1), {"elapsed": 3660.0}, {"elapsed": 3659.0, "unstored_seconds": 9e9}),
]


@pytest.mark.parametrize(("policy", "due", "early"), [*STORES, *STOPS])
def test_each_policy_decides_by_the_record_alone(policy, due, early):
    found = policy.decide(Progress(**due))
    assert isinstance(found, Store if (policy, due, early) in STORES else Stop)
    assert found.reason.endswith(".")
    assert policy.decide(Progress(**early)) is None
    assert policy.decide(Progress()) is None
    assert policy.only_stops == isinstance(found, Stop)


def test_a_stop_comes_before_a_store_and_the_first_of_a_kind_counts():
    store, stop = cadence.Steps(1), cadence.Deadline(seconds=1)
    both = Progress(elapsed=1.0, unstored_steps=1)
    assert isinstance((store | stop).decide(both), Stop)
    assert isinstance((stop | store).decide(both), Stop)
    assert (cadence.Every(seconds=9) | store).decide(both) == store.decide(both)
    assert (store | stop | cadence.Signal(15)).policies == (store, stop, cadence.Signal(15))
    assert (store | (stop | store)).policies == (store, stop, store)
    assert (cadence.Signal(15, 2) | stop).only_stops
    assert not (stop | store).only_stops
    assert (cadence.Signal(15) | cadence.Signal(2)).signals == {2, 15}
    assert (cadence.Memory(0.5) | cadence.Spend(tokens=1)).needs == {"memory", "callbacks"}
    with pytest.raises(TypeError):
        store | 5


@given(st.lists(st.sampled_from([policy for policy, *_ in STORES + STOPS]), min_size=1), st.data())
def test_joined_policies_decide_what_one_of_them_decides(policies, data):
    _, due, early = data.draw(st.sampled_from(STORES + STOPS))
    progress = Progress(**data.draw(st.sampled_from([due, early])))
    joined = policies[0]
    for one in policies[1:]:
        joined |= one
    found = [one.decide(progress) for one in policies]
    stops = [one for one in found if isinstance(one, Stop)]
    stores = [one for one in found if isinstance(one, Store)]
    assert joined.decide(progress) == next(iter(stops + stores), None)


@pytest.mark.parametrize(
    "make",
    [
        cadence.Every,
        lambda: cadence.Every(minutes=-1, hours=1),
        lambda: cadence.Every(seconds="5"),
        lambda: cadence.Deadline(seconds=float("inf")),
        lambda: cadence.Steps(0),
        lambda: cadence.Steps(True),
        lambda: cadence.Steps(1.5),
        lambda: cadence.Milestone(""),
        lambda: cadence.Milestone(5),
        cadence.MaxLag,
        lambda: cadence.MaxLag(steps=0),
        lambda: cadence.MaxLag(seconds=0),
        cadence.Spend,
        lambda: cadence.Spend(dollars=1),
        lambda: cadence.Spend(dollars=0, prices={"": (1, 1)}),
        lambda: cadence.Spend(tokens=0),
        lambda: cadence.Memory(0),
        lambda: cadence.Memory(80),
        lambda: cadence.Memory(0.5, action="drain"),
        lambda: cadence.Memory(0.5, limit=0),
        cadence.Signal,
        lambda: cadence.Signal("SIGTERM"),
        cadence.RTO,
        lambda: cadence.Adaptive(crashes=0),
        lambda: cadence.Control(lambda progress: None),
        lambda: cadence.Control(cadence.Steps(1), store="sometimes"),
        lambda: cadence.Control(cadence.Signal(999)),
        lambda: cadence.Control(cadence.Signal(signal.SIGKILL)),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(InvalidInputError):
        make()


def test_a_saver_stops_only():
    for policy in (cadence.Steps(1), cadence.Deadline(seconds=1) | cadence.Steps(1), 5, cadence.Memory):
        with pytest.raises(InvalidOptionError, match="only stops"):
            GCSSaver.from_conn_string("memory:", stop_on=policy)


def test_the_price_of_a_model_is_the_longest_that_fits_or_else_the_dearest():
    policy = cadence.Spend(dollars=1, prices={"a": (1.0, 1.0), "a-large": (10.0, 10.0), "b": (2.0, 2.0)})
    million = Tokens(1_000_000, 0)
    reasons = [policy.decide(Progress(usage={model: million})).reason for model in ("a-small", "a-large-2", "c")]
    assert [reason.split()[3] for reason in reasons] == ["1.00", "10.00", "10.00"]


def test_adaptive_follows_the_cost_the_crashes_and_the_hazards():
    policy = cadence.Adaptive(crashes=1, hours=10)
    assert policy.rate(Progress()) == pytest.approx(1 / 36000)
    assert policy.rate(Progress(crashes=1, elapsed=36000.0)) == pytest.approx(1 / 36000)

    def interval(policy, **more):
        return next(t for t in range(100_000) if policy.decide(Progress(unstored_seconds=float(t), **more)))

    assert interval(policy, store_seconds=2.0) == pytest.approx((2 * 2.0 * 36000) ** 0.5, abs=1)
    assert interval(policy, store_seconds=0.02) == pytest.approx((2 * 0.02 * 36000) ** 0.5, abs=1)
    assert interval(policy, store_seconds=2.0, crashes=5) < interval(policy, store_seconds=2.0) / 2


@pytest.mark.parametrize(
    ("hazard", "usual", "risky"),
    [
        (cadence.memory_trend(), {"memory": 0.9}, {"memory": 0.9, "memory_growth": 0.01}),
        (cadence.near_end(hours=10), {"elapsed": 0.0}, {"elapsed": 35_990.0}),
        (cadence.rate_limits(), {}, {"rate_limits": 3}),
        (cadence.crashed_nodes(), {"crashes": 1}, {"crashes": 1, "crashed_nodes": frozenset({"a"})}),
    ],
)
def test_a_hazard_lets_adaptive_store_sooner(hazard, usual, risky):
    policy = cadence.Adaptive(crashes=1, hours=100, hazards=(hazard,))
    assert policy.needs == hazard.needs
    assert policy.rate(Progress(**risky)) > 10 * policy.rate(Progress(**usual))
    assert policy.decide(Progress(unstored_seconds=60.0, **usual)) is None
    assert isinstance(policy.decide(Progress(unstored_seconds=60.0, **risky)), Store)


# What is counted


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_meter_counts_from_the_last_store():
    time = Time()
    meter = Meter(cadence.Steps(1), crashes=2, clock=time)
    time.now += 5
    meter.finish_step()
    meter.finish_node("a", ["x"])
    meter.reach("m")
    meter.use("model", Tokens(1, 2))
    meter.use("model", Tokens(3, 4))
    meter.limit_rate()
    assert meter.progress() == Progress(
        elapsed=5.0,
        steps=1,
        unstored_seconds=5.0,
        unstored_steps=1,
        nodes=frozenset({"a"}),
        keys=frozenset({"x"}),
        milestones=frozenset({"m"}),
        usage={"model": Tokens(4, 6)},
        crashes=2,
        rate_limits=1,
    )
    meter.store(0.5)
    time.now += 1
    assert meter.progress() == Progress(elapsed=6.0, steps=1, unstored_seconds=1.0, store_seconds=0.5, crashes=2)


def test_nodes_that_crashed_before_are_a_hazard_until_they_have_finished_and_are_stored():
    hazard, meter = cadence.crashed_nodes(crashes=0.3), Meter(cadence.Steps(1), crashes=2)
    assert hazard.rate(meter.progress()) == 0, "which nodes were due is not known"
    meter.crashed_nodes = frozenset({"a", "b"})
    assert hazard.rate(meter.progress()) == pytest.approx(2 * 0.3 / 60)
    meter.finish_node("a", [])
    meter.finish_node("b", [])
    assert hazard.rate(meter.progress()) > 0, "they would run again"
    meter.store(0.5)
    assert hazard.rate(meter.progress()) == 0
    meter.finish_node("a", [])
    assert hazard.rate(meter.progress()) == 0


@pytest.mark.parametrize("is_input", [True, False])
@pytest.mark.parametrize("before", [-1, 41])
def test_the_lag_is_what_has_finished_and_is_not_durable(is_input, before):
    """A run begins with the checkpoint of its input, or resumes from one that is durable already."""
    time, woken = Time(), []
    meter = Meter(cadence.Steps(1), clock=time)
    meter.watch(stores_at_end=False)
    if is_input:
        meter.note_stored(before, is_input=True)
    assert meter.is_durable(lambda: woken.append(0))
    for _ in range(3):
        meter.finish_step()
        time.now += 1
    assert (meter.progress().lag_steps, meter.progress().lag_seconds) == (3, 3.0)
    for step, lag in ((1, 2), (2, 1), (3, 0)):
        assert meter.is_durable(lambda step=step: woken.append(step)) == (lag == 3)
        meter.note_stored(before + step, is_input=False)
        assert meter.progress().lag_steps == lag
        assert woken == list(range(1, step + 1))
    assert meter.is_durable(lambda: woken.append(9))
    assert meter.progress().lag_seconds == 0.0


def test_nothing_waits_for_what_nobody_reports():
    meter = Meter(cadence.Steps(1))
    meter.finish_step()
    assert meter.is_durable(lambda: None)  # another checkpointer
    assert meter.progress().lag_steps == 0
    meter.watch(stores_at_end=True)
    assert meter.is_durable(lambda: None)  # durability="exit"
    meter.watch(stores_at_end=False)
    woken = []
    assert not meter.is_durable(lambda: woken.append(1))
    meter.note_failed(ValueError())
    assert woken == [1]
    assert meter.is_durable(lambda: None)  # it never will be


@pytest.mark.parametrize(
    ("outputs", "keys"),
    [
        ({"a": 1, "b": 2}, "ab"),
        (Command(update={"a": 1}), "a"),
        (Command(update=[("a", 1), ("b", 2)], goto="x"), "ab"),
        ([{"a": 1}, Command(update={"b": 1}), Command(goto="x")], "ab"),
        (None, ""),
        ("text", ""),
        ([1, 2], ""),
    ],
)
def test_the_keys_that_a_node_writes(outputs, keys):
    assert "".join(sorted(keys_of(outputs))) == keys


# Memory


def machine(folder, *, cgroup="", total_kib=1 << 20, files=None):
    """A system's files: 1 GiB of memory, and cgroups as given."""
    proc, groups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "self" / "statm").write_text("2000 1000 50 1 0 1500 0\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "meminfo").write_text(f"MemTotal:       {total_kib} kB\nMemFree: 1 kB\n")
    for name, text in (files or {}).items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    return MemoryGauge(groups, proc)


def v2(folder, limit, used, cache=0):
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_anon 7\ninactive_file {cache}\nactive_file 9\n",
    }


def v1(folder, limit, used, cache=0):
    return {
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"memory/{folder}memory.stat": f"cache 5\ninactive_file 3\ntotal_inactive_file {cache}\n",
    }


def test_a_container_sees_its_own_limit_of_either_version(tmp_path):
    second = machine(tmp_path / "2", cgroup="0::/\n", files=v2("", 100 * MIB, 60 * MIB, 10 * MIB))
    assert second.part() == pytest.approx(0.5)
    first = machine(tmp_path / "1", cgroup="9:memory:/docker/abc\n0::/\n", files=v1("", 100 * MIB, 60 * MIB, 10 * MIB))
    assert first.part() == pytest.approx(0.5)
    assert first.rss() == 1000 * os.sysconf("SC_PAGE_SIZE")


def test_the_tightest_limit_counts(tmp_path):
    files = v2("a/b/", 100, 50) | v2("a/", 100, 70) | v2("", "max", 9999)
    assert machine(tmp_path / "x", cgroup="0::/a/b\n", files=files).part() == pytest.approx(0.7)
    small = machine(tmp_path / "y", cgroup="0::/\n", files=v2("", "max", 5), total_kib=8000)
    assert small.part() == pytest.approx(1000 * os.sysconf("SC_PAGE_SIZE") / (8000 << 10))
    none = v1("a/", 9223372036854771712, 5)
    assert machine(tmp_path / "z", cgroup="5:cpu,memory:/a\n", files=none).part() < 0.01


def test_the_cache_of_files_is_looked_at_only_where_it_decides(tmp_path):
    gauge = machine(tmp_path, cgroup="0::/\n", files=v2("", 100, 60, 30))
    assert gauge.part(0.7) == pytest.approx(0.6)  # below in any case
    assert gauge.part(0.5) == pytest.approx(0.3)


def test_files_are_read_again_each_time(tmp_path):
    gauge = machine(tmp_path, cgroup="0::/\n", files=v2("", 100, 60))
    (tmp_path / "cgroup" / "memory.current").write_text("90\n")
    assert gauge.part() == pytest.approx(0.9)


def test_a_path_cannot_lead_out_of_the_mount(tmp_path):
    gauge = machine(tmp_path, cgroup="0::/../../x\n", files=v2("", 100, 60))
    assert gauge.part() == pytest.approx(0.6)


def test_a_system_that_does_not_say_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="does not say"):
        MemoryGauge(tmp_path, tmp_path)


def test_this_machine_says_how_much_memory_is_used():
    gauge = MemoryGauge()
    assert 0 < gauge.part() < 1
    assert gauge.rss() > MIB


def test_growth_is_measured(tmp_path, monkeypatch):
    time, memory = Time(), iter([0.1, 0.2, 0.3, 0.4, 0.4])
    meter = Meter(cadence.Memory(0.9), clock=time)
    monkeypatch.setattr(meter.sampler, "memory", lambda: next(memory))
    found = []
    for _ in range(5):
        time.now += 10
        found.append(meter.progress().memory_growth)
    assert found[0] == 0
    assert 0 < found[1] < found[2] < found[3] < 0.01
    assert found[4] < found[3]


# Signals


def child(code):
    """Run code in a process of its own. Returns its output, and the signal that ended it, if one did."""
    head = dedent(
        """
        import os, signal, threading
        from langgraph_gcs_saver import cadence
        from langgraph_gcs_saver.cadence.signals import Listener
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", head + dedent(code)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    return done.stdout.split(), done.returncode, done.stderr


def test_the_first_signal_is_noted_and_the_second_acts_as_without():
    out, code, _ = child(
        """
        listener = Listener(frozenset({signal.SIGTERM}))
        os.kill(os.getpid(), signal.SIGTERM)
        print(*map(int, listener.look()), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("alive")
        """
    )
    assert (out, code) == (["15"], -signal.SIGTERM)


@pytest.mark.parametrize("end", ["listener.close()", "del listener"])
def test_a_signal_acts_as_without_once_nothing_listens(end):
    out, code, _ = child(
        f"""
        listener = Listener(frozenset({{signal.SIGTERM}}))
        {end}
        print("before", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("alive")
        """
    )
    assert (out, code) == (["before"], -signal.SIGTERM)


def test_the_keyboard_interrupts_at_the_second_time():
    out, _, error = child(
        """
        listener = Listener(frozenset({signal.SIGINT}))
        signal.raise_signal(signal.SIGINT)
        print("first", flush=True)
        signal.raise_signal(signal.SIGINT)
        """
    )
    assert out == ["first"]
    assert error.rstrip().endswith("KeyboardInterrupt")


def test_a_handler_that_was_there_is_called_and_one_that_ignores_keeps_ignoring():
    out, code, _ = child(
        """
        signal.signal(signal.SIGTERM, lambda number, frame: print("host"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listener = Listener(frozenset({signal.SIGTERM, signal.SIGHUP}))
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
        print(*sorted(map(int, listener.look())))
        """
    )
    assert (out, code) == (["host", "host", "1", "15"], 0)


def test_a_handler_that_came_later_is_chained_at_the_next_look():
    out, code, _ = child(
        """
        listener = Listener(frozenset({signal.SIGTERM}))
        signal.signal(signal.SIGTERM, lambda number, frame: print("server"))
        listener.look()
        signal.raise_signal(signal.SIGTERM)
        print(*map(int, listener.look()))
        """
    )
    assert (out, code) == (["server", "15"], 0)


def test_a_handler_that_came_later_and_calls_ours_is_chained_once():
    out, code, _ = child(
        """
        listener = Listener(frozenset({signal.SIGTERM}))
        ours = signal.getsignal(signal.SIGTERM)

        def act(number, frame):
            print("server", flush=True)
            ours(number, frame)

        signal.signal(signal.SIGTERM, act)
        listener.look()
        signal.raise_signal(signal.SIGTERM)
        print(*map(int, listener.look()), flush=True)
        signal.raise_signal(signal.SIGTERM)
        print("alive")
        """
    )
    assert (out, code) == (["server", "15", "server"], -signal.SIGTERM)


def test_a_signal_that_ends_nothing_leaves_the_handler():
    out, code, _ = child(
        """
        first = Listener(frozenset({signal.SIGWINCH}))
        for _ in range(2):
            signal.raise_signal(signal.SIGWINCH)
        second = Listener(frozenset({signal.SIGWINCH}))
        signal.raise_signal(signal.SIGWINCH)
        print(*map(int, second.look()))
        """
    )
    assert (out, code) == (["28"], 0)


def test_listeners_know_what_came_since_they_began():
    out, _, _ = child(
        """
        first = Listener(frozenset({signal.SIGTERM}))
        signal.raise_signal(signal.SIGTERM)
        second = Listener(frozenset({signal.SIGTERM}))
        print(len(first.look()), len(second.look()))
        """
    )
    assert out == ["1", "0"]


def test_what_a_run_did_not_stop_for_is_left_to_as_many_next_ones():
    out, _, _ = child(
        """
        def listens():
            return Listener(frozenset({signal.SIGTERM, signal.SIGINT}), passes_on=True)

        def heard(*listeners):
            print("-".join(str(len(one.received)) for one in listeners))
            return listeners

        both = listens(), listens(), Listener(frozenset({signal.SIGTERM}))
        signal.raise_signal(signal.SIGTERM)
        both[0].close()
        both[0].close()
        both[2].close()
        del both
        others = heard(Listener(frozenset({signal.SIGHUP}), passes_on=True), Listener(frozenset({signal.SIGTERM})))
        three = heard(listens(), listens(), listens())
        three[0].settle()
        for one in three:
            one.close()
        three = heard(listens(), listens())
        three[0].settle()
        three[1].settle()
        for one in three:
            one.close()
        left = listens()
        signal.raise_signal(signal.SIGINT)
        left.close()
        second = listens()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            second.close()
        heard(second, listens())
        """
    )
    assert out == ["0-0", "1-1-0", "1-0", "1-0"]


def test_another_thread_needs_the_main_thread_to_listen_first():
    out, _, _ = child(
        """
        from langgraph_gcs_saver.errors import InvalidInputError

        def act():
            try:
                Listener(frozenset({signal.SIGTERM}))
                print("listens")
            except InvalidInputError as error:
                print("main thread" in str(error))

        for prepare in (lambda: None, cadence.Signal(signal.SIGTERM).listen):
            prepare()
            thread = threading.Thread(target=act)
            thread.start()
            thread.join()
        """
    )
    assert out == ["True", "listens"]


def test_a_policy_alone_changes_nothing():
    before = signal.getsignal(signal.SIGUSR2)
    cadence.Signal(signal.SIGUSR2).decide(Progress())
    assert signal.getsignal(signal.SIGUSR2) is before
    assert signals.handle is not before


# The saver's option


class Asked:
    """A control as LangGraph makes it."""

    reason = None

    def request_drain(self, reason):
        self.reason = reason


def test_each_run_has_its_own_deadline():
    time = Time()
    stopping = Stopping(cadence.Deadline(seconds=10), clock=time)
    first, second = Asked(), Asked()
    assert not stopping.meet(first)
    time.now += 9
    assert not stopping.meet(second)
    time.now += 1
    assert stopping.meet(first)
    assert "10 s ago" in first.reason
    assert not stopping.meet(second)
    assert second.reason is None
    for _ in range(MOST_RUNS):
        stopping.meet(Asked())
    assert not stopping.has_met(first)
    stopping.close()


def test_a_run_that_asks_on_two_threads_keeps_its_deadline():
    time, control = Time(), Asked()
    stopping = Stopping(cadence.Deadline(seconds=10), clock=time)
    other = threading.Thread(target=stopping.meet, args=(control,))

    read, written = threading.Event(), threading.Event()

    class Runs(dict):
        """Between the read and the write of the first thread, the other one reads. It writes last."""

        def pop(self, *args):
            found = super().pop(*args)
            if threading.current_thread() is other:
                read.set()
            elif not other.ident:
                other.start()
                read.wait(0.5)  # clock: it ends early only if nothing keeps the other thread from reading
            return found

        def __setitem__(self, *args):
            if threading.current_thread() is other:
                written.wait()
            super().__setitem__(*args)
            written.set()

    stopping.meet(control)
    stopping._runs = Runs(stopping._runs)
    time.now += 9
    stopping.meet(control)
    other.join()
    time.now += 1
    assert stopping.meet(control)
    stopping.close()


def test_policies_are_imported_without_langgraph():
    code = """
    import sys
    from langgraph_gcs_saver import cadence
    assert cadence.Steps(1) | cadence.Deadline(minutes=1)
    print(*(name for name in ("langgraph", "langchain_core", "google.cloud") if name in sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", dedent(code)], stdout=subprocess.PIPE, check=True).stdout == b"\n"


@pytest.mark.parametrize("name", cadence.__all__)
def test_everything_public_is_there_and_documented(name):
    found = getattr(cadence, name)
    assert found.__doc__
    assert name in dir(cadence)


def test_own_policies_join_with_the_others():
    class Night(Policy):
        def decide(self, progress):
            return Stop("It is night.") if progress.elapsed > 5 else None

    assert (Night() | cadence.Steps(1)).decide(Progress(elapsed=6.0)) == Stop("It is night.")
    assert (cadence.Steps(1) | Night()).needs == frozenset()
