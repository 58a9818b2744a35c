"""Fixtures for all tests: emulators, and savers on every store."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from langgraph_gcs_saver import GCSSaver

pytest_plugins = ["tests.emulators.fixtures"]

# By default Hypothesis fails an example that takes 200 ms, and examples that take long to make.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

SOAK_SECONDS = 8 * 3600
"""Limit of a long test, as `timeout` in pyproject.toml is that of the others: only a hang reaches it."""


MEMORY = Path("/dev/shm")
"""A file system in memory, where Linux has one."""

MEMORY_BYTES = 4 << 30
"""Free space that the tests' directories may need."""


def pytest_configure() -> None:
    """Keep temporary directories in memory: the embedded store waits for the disk in each of thousands of commits.

    That includes those that the library, examples and notebooks make, and all processes that tests start. No test can
    notice the difference, because a killed process loses nothing that it has written to either.
    """
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        os.environ["TMPDIR"] = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
        tempfile.tempdir = None  # what was found before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the long tests their limit."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS))  # clock: the limit of long tests


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Forget the time of ids that a test has made in the future, with a clock that it had moved.

    Each id of a process is greater than the one before. So checkpoints of later tests would have ids in the future,
    greater than those that other processes make after them.
    """
    yield
    made = sys.modules.get("langgraph.checkpoint.base.id")
    if made is not None:
        made._last_v6_timestamp = None  # type: ignore[attr-defined] # as in a process that has made none


@pytest.fixture(params=["local", "emulators"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The connection string of a fresh, empty store: the embedded one, then the emulators.

    A test that opens one saver can use `memory` too. Each saver then has its own store in memory.
    """
    if request.param == "memory":
        return "memory:"
    if request.param == "local":
        return f"file://{tmp_path}/store"
    # By name, so that the other stores need no Java.
    request.getfixturevalue("firestore_emulator")
    bucket, project = request.getfixturevalue("bucket_name"), request.getfixturevalue("project_id")
    return f"gs://{bucket}/agents?project={project}"


@pytest.fixture
def make_saver(store_uri: str) -> Iterator[Callable[..., GCSSaver]]:
    """Makes savers on one store, each with caches of its own, as another process would have.

    By default, frames become objects from 8 KiB. So tests need little data to reach Cloud Storage.
    """
    with ExitStack() as stack:

        def make(**options: Any) -> GCSSaver:
            options = {"inline_max_bytes": 8 << 10} | options
            return stack.enter_context(GCSSaver.from_conn_string(store_uri, **options))

        yield make


@pytest.fixture
def saver(make_saver: Callable[..., GCSSaver]) -> GCSSaver:
    """A saver on a fresh, empty store."""
    return make_saver()
