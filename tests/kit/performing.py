"""A flow performed synchronously and asynchronously, and the effects that it requests at once."""

import asyncio

import pytest

from langgraph_gcs_saver.engine.effects import Gather
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.engine.steps import through


def perform_sync(flow, backend):
    return run(flow, backend)


def perform_async(flow, backend):
    return asyncio.run(arun(flow, backend))


both = pytest.mark.parametrize("perform", [perform_sync, perform_async], ids=["run", "arun"])


def rounds_of(flow, rounds):
    """The flow. Each group of effects that it requests at once is added to `rounds`."""

    def note(effect):
        rounds.append(effect.effects if isinstance(effect, Gather) else (effect,))
        return iter(effect)

    return through(flow, note)
