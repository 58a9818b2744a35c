"""`setup()` on the emulators, with what the platform offers: a bucket's rules, and the Admin API of Firestore."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from langgraph_gcs_saver import GCSSaver, SetupReport
from langgraph_gcs_saver.engine.effects import (
    BucketSettings,
    Commit,
    Doc,
    EnsureBucket,
    ExemptField,
    Gather,
    GetBlob,
    GetDocs,
    Merge,
    PutBlob,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    PermissionDeniedError,
    SaverClosedError,
    StoreError,
    StoreNotFoundError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.flows.setup import TRIES, setup
from langgraph_gcs_saver.provisioning import lifecycle_rules, settings_files, unindexed
from tests.emulators.firestore_admin import Field, FirestoreAdmin
from tests.patience import PATIENCE

DEADLINE = 1.0
"""Of a saver whose services are not there."""

OURS = list(lifecycle_rules("agents/"))
NAMES = [f"{collection}/fields/{field}" for collection, field in unindexed()]
LOGS = {"action": {"type": "Delete"}, "condition": {"age": 3, "matchesPrefix": ["logs/"]}}
EVERYTHING = {"action": {"type": "Delete"}, "condition": {"age": 365}}


class Bucket:
    """The emulator's bucket, as its owner sees and sets it."""

    def __init__(self, url: str, name: str) -> None:
        self._address, self._path = urlsplit(url).netloc, f"/storage/v1/b/{name}"

    def _call(self, method: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
        headers = {"Content-Type": "application/json"}
        connection.request(method, self._path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200, answer
        return answer

    def patch(self, **settings: Any) -> None:
        self._call("PATCH", settings)

    @property
    def rules(self) -> list[dict[str, Any]]:
        return self._call("GET").get("lifecycle", {}).get("rule", [])

    @property
    def metageneration(self) -> int:
        return int(self._call("GET")["metageneration"])


@pytest.fixture
def bucket(storage_emulator: str, bucket_name: str) -> Bucket:
    return Bucket(storage_emulator, bucket_name)


@pytest.fixture
def admin(firestore_emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FirestoreAdmin]:
    """An Admin API beside the emulator; savers that are made find both at one address."""
    with FirestoreAdmin(firestore_emulator) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.host)
        yield server


@pytest.fixture
def saver(admin: FirestoreAdmin, bucket_name: str, project_id: str) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string(f"gs://{bucket_name}/agents?project={project_id}", timeout=PATIENCE) as saver:
        yield saver


def call_setup(saver: GCSSaver, **options: Any) -> SetupReport:
    return saver.setup(**options)


def call_asetup(saver: GCSSaver, **options: Any) -> SetupReport:
    return asyncio.run(saver.asetup(**options))


both = pytest.mark.parametrize("call", [call_setup, call_asetup], ids=["setup", "asetup"])


@both
def test_it_lays_what_the_platform_offers(
    saver: GCSSaver, admin: FirestoreAdmin, bucket: Bucket, project_id: str, call: Callable[..., SetupReport]
) -> None:
    bucket.patch(lifecycle={"rule": [LOGS]}, labels={"team": "a"})
    report = call(saver, platform=True)
    assert (report.missing, report.warnings) == ((), ())
    assert bucket.rules == [LOGS, *OURS]
    assert bucket._call("GET")["labels"] == {"team": "a"}
    assert sorted(admin.called("GetField")) == sorted(NAMES)
    assert admin.called("UpdateField") == NAMES
    database = f"projects/{project_id}/databases/(default)"
    assert admin.fields.keys() == {f"{database}/collectionGroups/{name}" for name in NAMES}
    for found in admin.fields.values():
        assert not found.index_config.indexes
        assert not found.index_config.uses_ancestor_config
        assert not found.HasField("ttl_config")
    assert "NEARLINE" in " ".join(report.done)
    assert "Now exempt from single-field indexes: lg_checkpoints.digest, " in " ".join(report.done)
    for _, name, routing, patience in admin.calls:
        assert name.split("/")[-1] in routing.replace("%2A", "*")
        assert 0 < patience <= PATIENCE / 3 + 1, "three attempts fit the deadline"

    # Again: nothing is left to do, and nothing is done.
    before = bucket.metageneration
    again = call(saver, platform=True)
    assert (again.missing, again.warnings) == ((), ())
    assert bucket.metageneration == before
    assert admin.called("UpdateField") == NAMES
    assert "The bucket has the lifecycle rules." in again.done
    assert any(line.startswith("Exempt from single-field indexes already: ") for line in again.done)


@both
def test_without_being_asked_it_changes_nothing(
    saver: GCSSaver, admin: FirestoreAdmin, bucket: Bucket, call: Callable[..., SetupReport]
) -> None:
    before = bucket.metageneration
    report = call(saver)
    assert bucket.metageneration == before
    assert admin.calls == []
    assert (report.missing, report.warnings) == ((), ())
    assert len(report.done) == 3


def test_soft_delete_is_told(saver: GCSSaver) -> None:
    assert "keeps deleted objects for 7 days, and bills them" in " ".join(saver.setup(platform=True).done)


@pytest.mark.parametrize("platform", [False, True])
def test_a_rule_that_deletes_by_age_is_a_warning(
    saver: GCSSaver, bucket: Bucket, platform: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.patch(lifecycle={"rule": [LOGS, EVERYTHING]})
    report = saver.setup(platform=platform)
    (warning,) = report.warnings
    assert json.dumps(EVERYTHING) in warning
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [warning]
    assert bucket.rules == [LOGS, EVERYTHING, *(OURS if platform else [])]


def test_with_autoclass_no_storage_class_is_set(saver: GCSSaver, bucket: Bucket) -> None:
    bucket.patch(autoclass={"enabled": True})
    assert saver.setup(platform=True).missing == ()
    assert bucket.rules == [OURS[1]]


def test_indexes_that_somebody_chose_are_left(saver: GCSSaver, admin: FirestoreAdmin, project_id: str) -> None:
    name = f"projects/{project_id}/databases/(default)/collectionGroups/lg_checkpoints/fields/heir"
    admin.fields[name] = chosen = Field(name=name)
    chosen.index_config.indexes.add(query_scope=2).fields.add(field_path="heir", order=1)
    admin.fields[name.replace("heir", "digest")] = reverting = Field(name=name.replace("heir", "digest"))
    reverting.index_config.reverting = True
    report = saver.setup(platform=True)
    assert admin.called("UpdateField") == [found for found in NAMES if not found.endswith("heir")]
    assert len(admin.fields[name].index_config.indexes) == 1
    assert "Left with the indexes that an administrator chose: lg_checkpoints.heir." in report.done


# What these credentials may not do


@both
@pytest.mark.parametrize("rpc", ["GetField", "UpdateField"])
def test_no_right_to_the_indexes(
    saver: GCSSaver,
    admin: FirestoreAdmin,
    bucket: Bucket,
    call: Callable[..., SetupReport],
    rpc: str,
) -> None:
    admin.refusals[rpc] = (grpc.StatusCode.PERMISSION_DENIED, "The caller does not have permission", 99)
    report = call(saver, platform=True)
    (line,) = report.missing
    assert "roles/datastore.indexAdmin" in line
    assert "firestore.indexes.json" in line
    assert bucket.rules == OURS, "the rest is done"
    assert admin.fields == {}


def test_refused_indexes_are_told_in_the_services_words(saver: GCSSaver, admin: FirestoreAdmin) -> None:
    admin.refusals["UpdateField"] = (grpc.StatusCode.INVALID_ARGUMENT, "too many exemptions", 99)
    (line,) = saver.setup(platform=True).missing
    assert "too many exemptions" in line


def test_passing_failures_are_tried_again(saver: GCSSaver, admin: FirestoreAdmin) -> None:
    admin.refusals["GetField"] = (grpc.StatusCode.UNAVAILABLE, "later", 1)
    admin.refusals["UpdateField"] = (grpc.StatusCode.ABORTED, "another update is under way", 2)
    assert saver.setup(platform=True).missing == ()
    assert len(admin.fields) == len(NAMES)


@both
def test_the_emulator_has_no_index_settings(
    firestore_emulator: str, bucket: Bucket, bucket_name: str, project_id: str, call: Callable[..., SetupReport]
) -> None:
    with GCSSaver.from_conn_string(f"gs://{bucket_name}/agents?project={project_id}") as saver:
        report = call(saver, platform=True)
    assert report.missing == ()
    assert "The store of documents has no index settings: there are no fields to exempt." in report.done
    assert bucket.rules == OURS


@both
def test_the_embedded_store_has_nothing_to_set(tmp_path: Path, call: Callable[..., SetupReport]) -> None:
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        report = call(saver, platform=True, write_settings=tmp_path / "files")
        assert (report.missing, report.warnings, report.settings) == ((), (), {})
        assert "Objects are not stored in a bucket: there are no lifecycle rules to set." in report.done
        assert "The store of documents has no index settings: there are no fields to exempt." in report.done
        documents, blobs = saver._backend.documents, saver._backend.blobs
        for refused in (
            lambda: blobs.set_lifecycle(SetLifecycle((), 0)),
            lambda: documents.exempt_field(ExemptField("c", "f")),
            lambda: asyncio.run(documents.aexempt_field(ExemptField("c", "f"))),
        ):
            with pytest.raises(StoreError):
                refused()
    assert list((tmp_path / "files").iterdir()) == []


@both
def test_settings_are_written_with_what_the_bucket_has(
    saver: GCSSaver, bucket: Bucket, tmp_path: Path, call: Callable[..., SetupReport]
) -> None:
    bucket.patch(lifecycle={"rule": [LOGS]})
    report = call(saver, write_settings=tmp_path / "files")
    assert {path.name: path.read_text() for path in (tmp_path / "files").iterdir()} == report.settings
    assert json.loads(report.settings["bucket-lifecycle.json"]) == {"lifecycle": {"rule": [LOGS, *OURS]}}
    assert bucket.rules == [LOGS], "only written"
    # Laid by hand, it is what setup() would have laid.
    bucket.patch(**json.loads((tmp_path / "files" / "bucket-lifecycle.json").read_text()))
    before = bucket.metageneration
    assert "The bucket has the lifecycle rules." in call(saver, platform=True).done
    assert bucket.metageneration == before


# The stores


def test_the_admin_api_ends_at_the_deadline(dead_port: str) -> None:
    with GCSSaver.from_conn_string("gs://bucket?project=p", timeout=DEADLINE) as saver:
        documents = saver._backend.documents
        for call in (
            lambda: documents.read_indexing(ReadIndexing("c", "f")),
            lambda: documents.exempt_field(ExemptField("c", "f")),
            lambda: asyncio.run(documents.aread_indexing(ReadIndexing("c", "f"))),
        ):
            with pytest.raises(StoreUnavailableError):
                call()


@pytest.fixture
def dead_port(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where no server listens, for both services."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
    return address


def test_a_missing_database_is_no_missing_field(saver: GCSSaver, admin: FirestoreAdmin) -> None:
    admin.refusals["GetField"] = (grpc.StatusCode.NOT_FOUND, "The database (default) does not exist", 1)
    with pytest.raises(StoreNotFoundError):
        saver._backend.documents.read_indexing(ReadIndexing("lg_checkpoints", "manifest"))


def test_rules_are_set_only_on_the_state_that_was_read(saver: GCSSaver, bucket: Bucket) -> None:
    blobs = saver._backend.blobs
    found = blobs.read_bucket(ReadBucket())
    assert found == BucketSettings("agents/", (), bucket.metageneration, location="US")
    bucket.patch(lifecycle={"rule": [LOGS]})
    assert not blobs.set_lifecycle(SetLifecycle(tuple(OURS), found.metageneration))
    assert bucket.rules == [LOGS]
    found = blobs.read_bucket(ReadBucket())
    assert found == BucketSettings("agents/", (LOGS,), bucket.metageneration, location="US")
    assert blobs.set_lifecycle(SetLifecycle((*found.rules, *OURS), found.metageneration))
    assert bucket.rules == [LOGS, *OURS]
    assert blobs.read_bucket(ReadBucket()).metageneration == found.metageneration + 1


def test_rules_that_the_service_refuses_are_told(saver: GCSSaver, bucket: Bucket) -> None:
    bucket.patch(lifecycle={"rule": [LOGS | {"condition": {"age": age + 1}} for age in range(99)]})
    report = saver.setup(platform=True)
    (line,) = report.missing
    assert "at most 100 lifecycle rules" in line
    assert "bucket-lifecycle.json" in line
    assert len(bucket.rules) == 99


def test_a_closed_saver_refuses(saver: GCSSaver) -> None:
    documents, blobs = saver._backend.documents, saver._backend.blobs
    saver.close()
    for call in (
        lambda: blobs.read_bucket(ReadBucket()),
        lambda: blobs.set_lifecycle(SetLifecycle((), 1)),
        lambda: documents.read_indexing(ReadIndexing("c", "f")),
        lambda: documents.exempt_field(ExemptField("c", "f")),
        lambda: asyncio.run(documents.aread_indexing(ReadIndexing("c", "f"))),
    ):
        with pytest.raises(SaverClosedError):
            call()


# The flow, step by step: races, and rights that come and go


class World:
    """A bucket, and everything else as it should be. `before_set` acts just before rules are set."""

    def __init__(self, rules: tuple[Any, ...] | None = ()) -> None:
        self.rules, self.metageneration = rules, 1
        self.before_set: Callable[[], Any] = lambda: None
        self.sets = 0
        self.objects: dict[str, bytes] = {}

    def change(self, *rules: Any) -> None:
        self.rules, self.metageneration = rules, self.metageneration + 1

    def perform(self, effect: Any) -> Any:
        match effect:
            case ReadBucket():
                return BucketSettings("agents/", self.rules, 0 if self.rules is None else self.metageneration)
            case SetLifecycle():
                self.sets += 1
                self.before_set()
                if effect.metageneration != self.metageneration:
                    return False
                self.change(*effect.rules)
                return True
            case _:
                return self.rest(effect)

    def rest(self, effect: Any) -> Any:
        match effect:
            case EnsureBucket():
                return "Bucket exists."
            case PutBlob():
                self.objects[effect.name] = effect.data
            case GetBlob():
                return self.objects[effect.name]
            case Commit():
                self.objects |= {write.name: write.fields for write in effect.writes if isinstance(write, Merge)}
            case GetDocs():
                return {name: Doc(name, self.objects[name], 1, 1) for name in effect.names}
            case Gather():
                return tuple(None for _ in effect.effects)
        return None

    def setup(self) -> SetupReport:
        context = SimpleNamespace(new_attempt=lambda: "attempt", is_mirrored=False)
        backend = SimpleNamespace(perform=self.perform, admit=lambda flow: flow)
        return run(setup(None, context, platform=True), backend)


def test_a_lost_race_is_run_again_with_the_rules_of_the_winner() -> None:
    world = World((LOGS,))
    other = list(lifecycle_rules("other/"))

    def once() -> None:
        world.before_set = lambda: None
        world.change(LOGS, *other)

    world.before_set = once
    report = world.setup()
    assert world.rules == (LOGS, *other, *OURS)
    assert (world.sets, report.missing) == (2, ())


def test_a_race_that_somebody_like_us_won() -> None:
    world = World((LOGS,))
    world.before_set = lambda: world.change(LOGS, *OURS)
    report = world.setup()
    assert world.rules == (LOGS, *OURS)
    assert (world.sets, report.missing) == (1, ())
    assert "The bucket has the lifecycle rules." in report.done


def test_endless_races_are_given_up() -> None:
    world = World((LOGS,))
    world.before_set = lambda: world.change(LOGS)
    report = world.setup()
    assert world.rules == (LOGS,)
    assert world.sets == TRIES
    assert "Other programs kept changing" in report.missing[0]


def test_a_rule_that_deletes_and_came_in_a_race_is_a_warning() -> None:
    world = World((LOGS,))
    world.before_set = lambda: world.change(EVERYTHING)
    assert json.dumps(EVERYTHING) in world.setup().warnings[0]


def test_no_right_to_see_the_rules() -> None:
    world = World(None)
    report = world.setup()
    assert world.sets == 0, "unseen rules would be lost"
    assert "roles/storage.admin" in report.missing[0]
    assert "replaces all" in report.missing[0]
    assert report.settings == settings_files(BucketSettings("agents/", None))


def test_no_right_to_set_the_rules() -> None:
    world = World((LOGS,))

    def refuse() -> None:
        raise PermissionDeniedError("Grant the role roles/storage.admin.")

    world.before_set = refuse
    report = world.setup()
    assert world.rules == (LOGS,)
    assert "roles/storage.admin" in report.missing[0]
    assert "bucket-lifecycle.json" in report.missing[0]
    assert json.loads(report.settings["bucket-lifecycle.json"]) == {"lifecycle": {"rule": [LOGS, *OURS]}}
