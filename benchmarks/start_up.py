"""How much processor time a process takes before it does anything: imports, help, and commands.

python -m benchmarks.start_up [--runs N] [--uri URI] [--json]

Commands look at a store with one thread, an embedded one in a temporary directory if no other is named. What is shown
is the least of all runs, of user and system time: what else a machine does adds to it, and nothing takes from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from langgraph.checkpoint.base import empty_checkpoint

from langgraph_gcs_saver import GCSSaver

COMMAND = ("-m", "langgraph_gcs_saver.cli")
ROWS = (
    ("python", ("-c", "pass")),
    ("import langgraph.checkpoint.base", ("-c", "import langgraph.checkpoint.base")),
    ("import langgraph_gcs_saver", ("-c", "import langgraph_gcs_saver")),
    ("from langgraph_gcs_saver import GCSSaver", ("-c", "from langgraph_gcs_saver import GCSSaver")),
    ("--help", (*COMMAND, "--help")),
    ("history --help", (*COMMAND, "history", "--help")),
    ("threads", (*COMMAND, "threads")),
    ("history", (*COMMAND, "history", "start-up")),
    ("stats", (*COMMAND, "stats")),
    ("verify", (*COMMAND, "verify")),
    ("prune --dry-run", (*COMMAND, "prune", "start-up", "--keep-last", "1", "--dry-run")),
    ("show (decodes state)", (*COMMAND, "show", "start-up")),
)


@dataclass
class Row:
    """A process.

    Attributes:
        what: What it did.
        cpu: Seconds of user and system time, the least of all runs.
    """

    what: str
    cpu: float


def measure(what: str, arguments: tuple[str, ...], uri: str, runs: int) -> Row:
    found = Row(what, float("inf"))
    for _ in range(runs):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LANGGRAPH_GCS_STORE": uri},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{what} ended with {process.returncode}")
        found.cpu = min(found.cpu, usage.ru_utime + usage.ru_stime)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--uri")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = options.uri or (Path(folder) / "store").as_uri()
        with GCSSaver.from_conn_string(uri) as saver:
            saver.put({"configurable": {"thread_id": "start-up", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {})
        rows = [measure(what, arguments, uri, options.runs) for what, arguments in ROWS]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'':42} CPU s")
    for row in rows:
        print(f"{row.what:42} {row.cpu:5.2f}")


if __name__ == "__main__":
    main()
