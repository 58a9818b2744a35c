"""The settings that the platform gets, and what is made of those that it has."""

import json
from dataclasses import replace

import pytest

from langgraph_gcs_saver import GCSSaver, write_settings
from langgraph_gcs_saver.engine.effects import BucketSettings, Commit, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import InvalidURIError
from langgraph_gcs_saver.flows import sagas
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.provisioning import deleting, lifecycle_rules, merged, settings_files, unindexed
from langgraph_gcs_saver.testing import crash

NEARLINE = {"type": "SetStorageClass", "storageClass": "NEARLINE"}
ABORT = {"type": "AbortIncompleteMultipartUpload"}
THEIRS = (
    {"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": ["logs/"]}},
    {"action": {"type": "SomethingNew", "x": 1}, "condition": {"age": 9}, "note": "kept"},
)


def delete(**condition):
    return {"action": {"type": "Delete"}, "condition": condition}


def test_the_rules():
    assert lifecycle_rules("agents/") == (
        {
            "action": NEARLINE,
            "condition": {"age": 30, "matchesStorageClass": ["STANDARD"], "matchesPrefix": ["agents/"]},
        },
        {"action": ABORT, "condition": {"age": 7, "matchesPrefix": ["agents/"]}},
    )
    assert lifecycle_rules("") == (
        {"action": NEARLINE, "condition": {"age": 30, "matchesStorageClass": ["STANDARD"]}},
        {"action": ABORT, "condition": {"age": 7}},
    )
    assert [rule["action"] for rule in lifecycle_rules("agents/", autoclass=True)] == [ABORT]


@pytest.mark.parametrize("prefix", ["", "agents/"])
@pytest.mark.parametrize("autoclass", [False, True])
def test_no_rule_of_ours_deletes_an_object(prefix, autoclass):
    ours = lifecycle_rules(prefix, autoclass=autoclass)
    assert {rule["action"]["type"] for rule in ours} <= {"SetStorageClass", "AbortIncompleteMultipartUpload"}
    assert deleting(BucketSettings(prefix, ours)) == []


def test_merging_keeps_others_rules_and_adds_ours_once():
    bucket = BucketSettings("agents/", THEIRS)
    once = merged(bucket)
    assert once == (*THEIRS, *lifecycle_rules("agents/"))
    assert merged(replace(bucket, rules=once)) == once
    # Another saver in the same bucket adds rules of its own.
    both = merged(BucketSettings("other/", once))
    assert both == (*once, *lifecycle_rules("other/"))
    assert merged(replace(bucket, rules=both)) == both


def test_a_rule_is_known_again_whatever_the_order_of_its_keys():
    theirs = {"action": NEARLINE, "condition": {"age": 1, "matchesPrefix": ["b/", "a/"]}}
    same = {"condition": {"matchesPrefix": ["a/"], "matchesStorageClass": ["STANDARD"], "age": 30}, "action": NEARLINE}
    assert merged(BucketSettings("a/", (theirs, same))) == (theirs, same, lifecycle_rules("a/")[1])


@pytest.mark.parametrize(
    "changed", [{"age": 31}, {"matchesPrefix": ["agents"]}, {"matchesStorageClass": ["NEARLINE"]}, {"isLive": True}]
)
def test_a_rule_that_differs_is_left_and_ours_added(changed):
    (first, second) = lifecycle_rules("agents/")
    other = {**first, "condition": {**first["condition"], **changed}}
    assert merged(BucketSettings("agents/", (other, second))) == (other, second, first)


@pytest.mark.parametrize(
    ("condition", "prefix"),
    [
        ({"age": 365}, "agents/"),
        ({"age": 0}, ""),
        ({"createdBefore": "2030-01-01"}, "agents/"),
        ({"age": 1, "isLive": True}, "agents/"),
        ({"age": 1, "numNewerVersions": 0}, "agents/"),
        ({"age": 1, "matchesStorageClass": ["NEARLINE"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["agents/"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["logs/", "ag"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["agents/a"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["agents/a0-thread/~/"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["a0-"]}, ""),
        ({"age": 1, "matchesPrefix": []}, "agents/"),
        ({"age": 1, "matchesSuffix": [".log", "zst"]}, "agents/"),
        ({"age": 1, "matchesSuffix": ["0.zst"]}, "agents/"),
        ({"age": 1, "somethingNew": True}, "agents/"),
        ({"somethingNew": True}, "agents/"),
    ],
)
def test_rules_that_delete_what_checkpoints_need(condition, prefix):
    assert deleting(BucketSettings(prefix, (*THEIRS, delete(**condition)))) == [delete(**condition)]


@pytest.mark.parametrize(
    ("condition", "prefix"),
    [
        ({"age": 1, "isLive": False}, "agents/"),
        ({"age": 1, "numNewerVersions": 3}, "agents/"),
        ({"daysSinceNoncurrentTime": 3}, "agents/"),
        ({"noncurrentTimeBefore": "2030-01-01"}, "agents/"),
        ({"daysSinceCustomTime": 1}, "agents/"),
        ({"customTimeBefore": "2030-01-01"}, "agents/"),
        ({"age": 1, "matchesPrefix": ["agents2/", "agents-"]}, "agents/"),
        ({"age": 1, "matchesPrefix": ["logs/", "tmp", "x", "a-", "a0_", "abc"]}, ""),
        ({"age": 1, "matchesPrefix": ["agents/~setup/"]}, "agents/"),
        ({"age": 1, "matchesSuffix": [".log", ".zs"]}, "agents/"),
    ],
)
def test_rules_that_do_not(condition, prefix):
    assert deleting(BucketSettings(prefix, (delete(**condition),))) == []


def test_rules_that_cannot_be_seen():
    unseen = BucketSettings("agents/", None)
    assert merged(unseen) == lifecycle_rules("agents/")
    assert deleting(unseen) == []


@pytest.mark.parametrize("thread", ["t", "", "/", "~setup", "é", "x" * 400])
def test_names_of_objects_begin_as_the_search_for_rules_supposes(thread):
    name = keys.blob(thread, "", "1", "messages", "ab")
    for end in range(len(name) + 1):
        assert deleting(BucketSettings("agents/", (delete(matchesPrefix=["agents/" + name[:end]]),)))
        assert deleting(BucketSettings("agents/", (delete(matchesSuffix=[name[-5:]]),)))


# Indexes


class Recording(Interceptor):
    """Notes which fields are stored and which are filtered by, each with its collection's id."""

    def __init__(self):
        self.stored, self.filtered = set(), set()

    def around(self, effect, perform):
        if isinstance(effect, QueryDocs):
            collection = effect.collection.rpartition("/")[2]
            self.filtered |= {(collection, path.partition(".")[0]) for path, _ in effect.where}
        elif isinstance(effect, Commit):
            for write in effect.writes:
                collection = write.name.split("/")[-2]
                self.stored |= {(collection, field) for field in getattr(write, "fields", ())}
        return perform(effect)


def test_indexes_are_kept_for_what_queries_filter_by_and_for_nothing_large(tmp_path):
    fields = Recording()
    for number, operation in enumerate(crash.OPERATIONS):
        options = {"interceptors": [fields], **operation.options}
        with GCSSaver.from_conn_string(f"file://{tmp_path}/{number}", **options) as saver:
            operation.history(saver)
            operation.call(saver)
            if number == 0:
                saver.thread("t").operations.once("charge", lambda: "receipt", key="order-17")
                context = saver._context
                newest = saver.get_tuple(crash.config_of(None)).config["configurable"]
                saga = run(sagas.open_(newest["thread_id"], "trip", "nonce", context), saver._backend)
                run(sagas.savepoint(saga, "here", newest["checkpoint_id"], context), saver._backend)
            found = list(saver.list(crash.config_of(None), filter={"step": 3, "run_id": "run"}))
            assert found or operation.gone or operation.model
    stored, filtered = fields.stored, fields.filtered
    kept = {("lg_checkpoints", name) for name in ("format", "ns", "run_id", "filter", "pin")}
    kept |= {("lg_operations", name) for name in ("format", "state")} | {("lg_sagas", "state")}
    assert filtered == {("lg_checkpoints", name) for name in ("ns", "run_id", "filter")}
    without = {pair for pair in stored if pair in unindexed() or (pair[0], "*") in unindexed()}
    assert not without & filtered
    assert {pair for pair in stored - without if pair[0] not in ("lg_threads", "lg_runs")} == kept
    # None of the settings is for a field that is stored no more.
    # Written only after a race, for a team, or in a rollback.
    late = {("lg_operations", "late"), ("lg_sets", "set"), ("lg_rollbacks", "document")}
    assert {pair for pair in unindexed() if pair[1] != "*"} - late == {
        pair for pair in without if pair[0] in ("lg_checkpoints", "lg_operations", "lg_sagas")
    }
    assert {("lg_writes", "writes"), ("lg_writes", "w1"), ("lg_writes", "w3")} < without


# Files


def test_the_files_are_what_the_tools_take():
    files = settings_files(BucketSettings("agents/", THEIRS))
    assert json.loads(files["bucket-lifecycle.json"]) == {"lifecycle": {"rule": [*THEIRS, *lifecycle_rules("agents/")]}}
    indexes = json.loads(files["firestore.indexes.json"])
    assert indexes.keys() == {"indexes", "fieldOverrides"}
    assert indexes["indexes"] == [], "there is no composite index"
    assert [(item["collectionGroup"], item["fieldPath"]) for item in indexes["fieldOverrides"]] == unindexed()
    for item in indexes["fieldOverrides"]:
        assert item.keys() == {"collectionGroup", "fieldPath", "indexes"}, "no time to live"
        assert item["indexes"] == []
    checkpoints = {"lg_checkpoints", "lg_writes", "lg_aside", "lg_lease"}
    others = {"lg_operations", "lg_batches", "lg_done", "lg_chunks", "lg_resume", "lg_recoveries", "lg_sagas"}
    others |= {"lg_blobs"}
    teams = {"lg_teams", "lg_members", "lg_sets", "lg_votes"}
    regions = {"lg_region", "lg_outbox", "lg_ship"}
    rest = {"lg_cache", "lg_rollbacks"}
    assert checkpoints | others | teams | regions | rest == {collection for collection, _ in unindexed()}


@pytest.mark.parametrize(("uri", "prefix"), [("gs://bucket/agents/v1?project=p", "agents/v1/"), ("gs://bucket", "")])
def test_writing_the_files_asks_nobody(tmp_path, monkeypatch, uri, prefix):
    for name in ("FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.socket", None)
    for _ in range(2):
        paths = write_settings(tmp_path / "a" / "b", uri)
        assert {path.name: path.read_text() for path in paths} == settings_files(BucketSettings(prefix, None))
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(path.name for path in paths)


def test_the_embedded_store_has_no_files(tmp_path):
    assert write_settings(tmp_path / "a", "file:///somewhere") == ()
    assert not (tmp_path / "a").exists()


def test_what_names_no_store_is_refused(tmp_path):
    with pytest.raises(InvalidURIError):
        write_settings(tmp_path, "bucket")
