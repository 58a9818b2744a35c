"""The official conformance suite, on the asynchronous methods and on the synchronous ones."""

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from .sync_twin import sync_twin

pytestmark = pytest.mark.parametrize("store_uri", ["memory", "local", "emulators"], indirect=True)

NOT_IMPLEMENTED: set[Capability] = set()
"""Extended capabilities that the saver does not have yet; they must be reported as undetected, not as passing."""


@pytest.mark.parametrize("methods", ["sync", "async"])
@pytest.mark.parametrize("capability", list(Capability), ids=lambda capability: capability.value)
async def test_conformance(saver, capability, methods):
    tested = sync_twin(saver) if methods == "sync" else saver

    @checkpointer_test(name=f"{type(tested).__name__}-{methods}")
    async def registered():
        yield tested

    report = await validate(registered, capabilities={capability.value})
    result = report.results[capability.value]

    if capability in NOT_IMPLEMENTED:
        assert not result.detected, f"{capability.value} is implemented: take it off NOT_IMPLEMENTED"
        return
    assert result.detected, f"{capability.value} is not detected: its methods are not overridden"
    assert not result.failures, "\n".join(result.failures)
    assert result.passed
    assert result.tests_passed > 0


async def test_the_suite_detects_a_synchronous_fault(saver):
    """The twin really runs the synchronous methods: what is broken there is reported."""

    class Broken(type(saver)):
        def get_tuple(self, config):
            return None

    broken = sync_twin(saver, of=Broken)

    @checkpointer_test(name="broken")
    async def registered():
        yield broken

    report = await validate(registered, capabilities={"get_tuple"})
    assert report.results["get_tuple"].failures
