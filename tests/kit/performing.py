"""A flow performed synchronously and asynchronously."""

import asyncio

import pytest

from langgraph_gcs_saver.engine.runner import arun, run


def perform_sync(flow, backend):
    return run(flow, backend)


def perform_async(flow, backend):
    return asyncio.run(arun(flow, backend))


both = pytest.mark.parametrize("perform", [perform_sync, perform_async], ids=["run", "arun"])
