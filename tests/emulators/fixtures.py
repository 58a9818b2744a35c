"""Fixtures: one emulator of each kind for a session, started when a test first asks; a fresh project and bucket a test.

An emulator that is missing and cannot be fetched fails the tests that need it; nothing here ever skips.
"""

from __future__ import annotations

import http.client
import json
import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.emulators.bigquery import BigQueryEmulator
from tests.emulators.firestore import FirestoreEmulator
from tests.emulators.pubsub import PubSubEmulator
from tests.emulators.storage import StorageEmulator
from tests.patience import PATIENCE


@pytest.fixture(scope="session")
def firestore_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of the Firestore emulator; also in FIRESTORE_EMULATOR_HOST, whose earlier value is honored."""
    given = os.environ.get("FIRESTORE_EMULATOR_HOST")
    if given:
        yield given
        return
    log_path = tmp_path_factory.mktemp("firestore-emulator") / "log"
    with FirestoreEmulator(log_path) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", emulator.host)
        yield emulator.host


@pytest.fixture(scope="session")
def storage_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Cloud Storage emulator; also in STORAGE_EMULATOR_HOST, whose earlier value is honored."""
    given = os.environ.get("STORAGE_EMULATOR_HOST")
    if given:
        yield given if "://" in given else f"http://{given}"
        return
    log_path = tmp_path_factory.mktemp("storage-emulator") / "log"
    with StorageEmulator(log_path) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", emulator.url)
        yield emulator.url


@pytest.fixture(scope="session")
def bigquery_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryEmulator]:
    """The BigQuery emulator."""
    with BigQueryEmulator(tmp_path_factory.mktemp("bigquery-emulator") / "log") as emulator:
        yield emulator


@pytest.fixture(scope="session")
def pubsub_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubEmulator]:
    """The Pub/Sub emulator."""
    with PubSubEmulator(tmp_path_factory.mktemp("pubsub-emulator") / "log") as emulator:
        yield emulator


@pytest.fixture
def project_id() -> str:
    """A project id that no other test uses. The Firestore emulator creates a project when it is first named."""
    return f"test-{uuid.uuid4().hex[:20]}"


@pytest.fixture
def bucket_name(storage_emulator: str) -> str:
    """Name of a fresh, empty bucket on the emulator."""
    return make_bucket(storage_emulator, f"test-{uuid.uuid4().hex}")


def make_bucket(url: str, name: str) -> str:
    """Create a bucket on a Cloud Storage emulator. Returns its name."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request(
            "POST", "/storage/v1/b?project=test", json.dumps({"name": name}), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    assert response.status == 200, answer
    return name
