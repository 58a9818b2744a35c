"""A Cloud Run job: each of its tasks is one run. A task that Cloud Run starts again resumes where it was stopped."""

import os
import signal
import sys

from agent import builder
from langgraph.errors import GraphDrained

from langgraph_gcs_saver import GCSSaver, cadence, run

EXECUTION = os.environ.get("CLOUD_RUN_EXECUTION", "local")
INDEX = os.environ.get("CLOUD_RUN_TASK_INDEX", "0")
TASK = f"{EXECUTION}-{INDEX}"
"""The same for all attempts of a task, and for no other one."""

POLICY = cadence.Signal(signal.SIGTERM) | cadence.Deadline(minutes=55)
"""When to stop: five minutes before `timeoutSeconds`, which is an hour."""

DRAINED = 75
"""Exit code of a run that was stopped in time. Any code but 0 makes Cloud Run start the task again."""


def main(messages: list[str]) -> None:
    """Do this task's share of the work."""
    with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        result = run(
            builder.compile(checkpointer=saver, name="agent"),
            {"messages": [("human", messages[int(INDEX) % len(messages)])]},
            {"configurable": {"thread_id": TASK}},
            request_id=TASK,
            policy=POLICY,
            durability="sync",
            owner=TASK,
        )
        print(result["messages"][-1].content)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GraphDrained as drained:
        print(f"Stopped in time: {drained}", file=sys.stderr)
        sys.exit(DRAINED)
