"""No test depends on the machine's speed: each line that reads a clock, or names a limit, says why it may."""

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.patience import PATIENCE

TESTS = Path(__file__).resolve().parents[1]
MARK = "# clock: "
HOW = {TESTS / "patience.py"}
"""Where it is written how tests wait."""

CLOCKS = {"monotonic", "perf_counter"}
WAITS = {"exception", "join", "poll", "result", "wait", "wait_for"}
HTTPX = {"AsyncClient", "Client", "delete", "get", "post", "put", "request", "stream"}


def number(node):
    """The value of a number that is written out; None of anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) else None


def complaint(call):
    """What is wrong with a call; None if nothing is."""
    if not isinstance(call.func, ast.Attribute):
        name, of = getattr(call.func, "id", ""), ""
    else:
        name, of = call.func.attr, ast.unparse(call.func.value)
    limits = [keyword.value for keyword in call.keywords if keyword.arg == "timeout"]
    if (name in WAITS and of) or any(getattr(argument, "attr", "") in WAITS for argument in call.args):
        limits += call.args
    if name == "sleep" and not (call.args and number(call.args[0]) == 0):
        return "sleeps: wait with `eventually` for what is to happen"
    if name in CLOCKS and of in {"", "time"}:
        return "looks at a clock: how long something takes is for benchmarks"
    if of == "pytest.mark" and name == "timeout":
        return "has a limit of its own: a mark `soak` gives a long one"
    if of == "httpx" and name in HTTPX and not limits:
        return "has httpx's limit of 5 s: use PATIENCE"
    if any(0 < (number(limit) or 0) < PATIENCE for limit in limits):
        return "has a limit of its own: use PATIENCE"
    return None


def complaints(source):
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found = complaint(node)
            if found and not any(MARK in line for line in lines[node.lineno - 1 : node.end_lineno]):
                yield f"{node.lineno}: {ast.unparse(node)} {found}"


def test_every_use_of_a_clock_says_why():
    files = sorted(set(TESTS.rglob("*.py")) - HOW)
    assert len(files) > 100
    found = [f"{path.relative_to(TESTS.parent)}:{one}" for path in files for one in complaints(path.read_text("utf-8"))]
    advice = f"If no outcome depends on it, say why at the end of the line: {MARK}any moment will do"
    assert not found, "\n".join([*found, advice])


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.1)",
        "await asyncio.sleep(delay)",
        "began = time.monotonic()",
        "assert perf_counter() - began < 5",
        "process.wait(30)",
        "future.result(5)",
        "condition.wait_for(done, 60)",
        "assert pipe.poll(60)",
        "partial(barrier.wait, 300)",
        "await asyncio.to_thread(began.wait, 60)",
        "GCSSaver.from_conn_string(uri, timeout=2)",
        "subprocess.run(\n    command,\n    timeout=60,\n)",
        "@pytest.mark.timeout(20)\ndef test():\n    pass",
        "httpx.get(url)",
        "httpx.AsyncClient(timeout=5)",
    ],
)
def test_what_is_found(line):
    assert len(list(complaints(line))) == 1
    first, *rest = line.splitlines()
    assert not list(complaints("\n".join([f"{first}  {MARK}any moment will do", *rest])))


@pytest.mark.parametrize(
    "line",
    [
        "await asyncio.sleep(0)",
        "process.wait(PATIENCE)",
        "process.wait()",
        "pipe.poll(0)",
        "GCSSaver.from_conn_string(uri, timeout=3600)",
        "', '.join(words)",
        "GCSSaver.from_conn_string(uri, timeout=DEADLINE)",
        "subprocess.run(command, timeout=PATIENCE)",
        "httpx.get(url, timeout=PATIENCE)",
        "name = time.monotonic_ns()",
        "os.path.join('a', 'b')",
    ],
)
def test_what_is_fine(line):
    assert not list(complaints(line))


def test_hypothesis_looks_at_no_clock():
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
