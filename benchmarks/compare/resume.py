"""A fresh process which opens a saver and reads a thread; `workloads.Resume` forks it from one that only imports."""

from __future__ import annotations

import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.compare.contenders import contenders
from benchmarks.compare.services import Endpoints
from benchmarks.compare.workloads import counted
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor


def resume(
    connection: Connection, name: str, endpoints: Endpoints, space: str, thread: str, *, is_counted: bool
) -> None:
    """Say when all is imported, wait for a word, and report how long the reading took, or the error."""
    warnings.simplefilter("ignore")
    try:
        (contender,) = (each for each in contenders() if each.name == name)
        # Opening a saver imports what it needs, which is not what is measured.
        with contender.open(endpoints, f"{space}-nothing"):
            pass
        count = CountingInterceptor()
        if is_counted:
            contender = counted(contender, count)
        connection.send("ready")
        connection.recv()
        begin = time.perf_counter()
        with contender.open(endpoints, space) as saver:
            config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            found = saver.get_tuple(config)
            seconds = time.perf_counter() - begin
        read = len(found.checkpoint["channel_values"]["messages"]) if found is not None else 0
        connection.send({"seconds": seconds, "messages": read, "rounds": len(count.rounds) or None})
    except Exception as error:  # noqa: BLE001 - raised again by the process that measures
        connection.send(error)
