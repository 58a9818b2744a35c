"""Objects below a store's prefix that are not the store's: no method deletes, counts, copies or reports them."""

from datetime import timedelta
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver, KeepLast, flows
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import BlobInfo, Commit, Create, GetDocs, ListBlobs, PutBlob, QueryDocs
from langgraph_gcs_saver.errors import DamageError
from langgraph_gcs_saver.flows.listing import list_all, list_page
from langgraph_gcs_saver.format import keys
from tests.system.build import cfg, cid, noise, put, values

FOLDER = keys.thread_blobs("t")


def foreign():
    """Names in the folder of thread `t` that sort before and after its own, and have no form of the store's."""
    inner = keys.blob("t", "", cid(1), keys.FRAMES, "0123456789ab")
    return (
        f"{FOLDER}!before/everything",
        f"{FOLDER}notes.txt",
        f"{FOLDER}inner/store/{inner}",
        f"{FOLDER}~/{cid(1)}/~frames-UPPERCASE0.zst",
        f"{FOLDER}~/{cid(1)}/~frames-0123456789ab.zst.bak",
        f"{FOLDER}~/{cid(1)}/deeper/~frames-0123456789ab.zst",
        "datasets/train.parquet",
        "00-strange name/~/c/~frames-0123456789ab.zst",
    )


@pytest.fixture
def filled(saver):
    for n in (1, 2, 3):
        put(saver, n, {"v": noise(140_000, n)}, parent=n - 1 or None)
    blobs = saver._backend.blobs
    for name in foreign():
        blobs.put_blob(PutBlob(name, b"somebody else's"))
    return saver


def names(saver, prefix=""):
    return {blob.name for blob in saver._backend.blobs.list_blobs(ListBlobs(prefix))}


@pytest.fixture
def untouched(filled):
    """Fails the test if anything that is not the store's is missing at its end."""
    yield
    assert set(foreign()) <= names(filled)


@pytest.mark.usefixtures("untouched")
class TestNothingElse:
    def test_delete_thread(self, filled):
        shown = []
        shown.append(filled.admin.plan_delete_thread("t"))
        assert shown[0].objects == 3
        filled.delete_thread("t")
        assert names(filled) == set(foreign())

    def test_collect(self, filled):
        blobs = filled._backend.blobs
        orphan = keys.blob("t", "", cid(1), keys.FRAMES, "orphan000000")
        blobs.put_blob(PutBlob(orphan, b"an orphan"))
        plans = filled.admin.collect("t", orphan_age=timedelta(0))
        assert [set(plan.objects) for plan in plans] == [{orphan}]
        assert orphan not in names(filled)

    def test_prune(self, filled):
        filled.prune(["t"], strategy=KeepLast(1))
        assert len(names(filled)) == len(foreign()) + 1

    def test_verify(self, filled):
        assert list(filled.admin.verify("t", depth="data")) == []
        assert list(filled.admin.verify(depth="data")) == []

    def test_stats(self, filled):
        stats = filled.admin.stats()
        assert stats.objects == 3
        assert stats.object_bytes < 3 * 150_000

    def test_copies(self, filled):
        filled.copy_thread("t", "copy")
        assert len(names(filled, keys.thread_blobs("copy"))) == 3

    def test_transfers(self, filled, tmp_path):
        with GCSSaver.from_conn_string(f"file://{tmp_path}/other") as other:
            assert filled.admin.transfer_thread("t", other).objects == 3
            assert len(names(other)) == 3
        file = tmp_path / "t.tar"
        assert filled.admin.export_thread("t", file).objects == 3
        with GCSSaver.from_conn_string(f"file://{tmp_path}/third") as third:
            third.admin.import_thread(file)
            assert len(names(third)) == 3

    def test_a_thread_is_begun_beside_them(self, filled):
        filled.delete_thread("t")
        with pytest.raises(StopIteration):
            next(filled.list(cfg()))
        put(filled, 1, {"v": noise(140_000)})
        assert values(filled.get_tuple(cfg())) == {"v": noise(140_000)}


def test_a_transfer_to_where_only_others_objects_are(saver, tmp_path):
    put(saver, 1, {"v": noise(140_000)})
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other") as other:
        other._backend.blobs.put_blob(PutBlob(f"{FOLDER}notes.txt", b"somebody else's"))
        assert saver.admin.transfer_thread("t", other).objects == 1


def test_a_thread_whose_documents_are_lost_is_found_among_them(filled, raw):
    """By its objects, although the first in its folder is not its own."""
    mine = {name for name in names(filled) if keys.is_blob(name)}
    for name in raw.documents():
        if name.startswith(keys.thread_doc("t")):
            raw.delete_document(name)
    assert {one.name for one in filled.admin.verify(depth="existence")} == mine


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_a_store_within_another_ones_thread(store_uri):
    """The prefix of one is a path below the other's thread: either deletes, counts and verifies its own only."""
    inner_uri = store_uri.replace("/agents?", f"/agents/{FOLDER}~?")
    with GCSSaver.from_conn_string(store_uri) as outer, GCSSaver.from_conn_string(inner_uri) as inner:
        for one, data in ((outer, noise(140_000, 1)), (inner, noise(140_000, 2))):
            put(one, 1, {"v": data})
        assert list(outer.admin.verify(depth="data")) == list(inner.admin.verify(depth="data")) == []
        assert (outer.admin.stats().objects, inner.admin.stats().objects) == (1, 1)
        assert [plan for plan in outer.admin.collect(orphan_age=timedelta(0)) if plan] == []
        outer.delete_thread("t")
        assert list(inner.admin.verify(depth="data")) == []
        with GCSSaver.from_conn_string(inner_uri) as again:
            assert values(again.get_tuple(cfg())) == {"v": noise(140_000, 2)}
        put(outer, 1, {"v": noise(140_000, 3)})
        inner.delete_thread("t")
        with GCSSaver.from_conn_string(store_uri) as again:
            assert values(again.get_tuple(cfg())) == {"v": noise(140_000, 3)}


@pytest.mark.parametrize("folder", ["00-x", "01-a/lg_other/y", keys.thread_doc("t").rpartition("/")[2]])
def test_documents_of_a_store_whose_root_lies_within_this_one(saver, folder):
    """A query of all threads finds them too: they are no thread's of this store."""
    put(saver, 1, {"v": noise(140_000)})
    with_others = {f"{keys.THREADS}/{folder}/{keys.checkpoint_doc(thread, '', cid(1))}" for thread in ("t", "u")}
    (mine,) = saver._backend.documents.query_docs(QueryDocs(keys.checkpoints("t")))
    for name in with_others:
        saver._backend.documents.commit(Commit((Create(name, mine.fields),)))
    assert [one.config["configurable"]["thread_id"] for one in saver.list(None)] == ["t"]
    assert [one.thread_id for one in saver.admin.threads()] == ["t"]
    assert saver.admin.stats().checkpoints == 1
    assert list(saver.admin.verify(depth="data")) == []
    saver.delete_thread("t")
    assert with_others == set(saver._backend.documents.get_docs(GetDocs(tuple(with_others))))
    assert list(saver.list(None)) == saver.admin.threads() == []


@pytest.mark.parametrize("leaf", ["junk", "a!b!c", "!", "zz!~"])
def test_a_document_among_checkpoints_that_is_none(saver, leaf):
    """The listing of its own thread reports it, and the listing of all threads continues with the others."""
    put(saver, 1, {"v": 1})
    put(saver, 1, {"v": 1}, thread="u")
    name = f"{keys.checkpoints('u')}/{leaf}"
    saver._backend.documents.commit(Commit((Create(name, {"ns": keys.enc("")}),)))
    assert {one.config["configurable"]["thread_id"] for one in saver.list(None)} == {"t", "u"}
    assert {one.thread_id for one in saver.admin.threads()} == {"t", "u"}
    with pytest.raises(DamageError, match="does not have a checkpoint's name"):
        list(saver.list(cfg(thread="u")))


class Listed:
    """A store's answers to `ListBlobs`, of names that are known."""

    def __init__(self, found):
        self.found = sorted(found)
        self.asked = []

    def __call__(self, flow):
        answer = None
        while True:
            try:
                effect = flow.send(answer)
            except StopIteration as stop:
                return stop.value
            self.asked.append(effect)
            past = [name for name in self.found if name.startswith(effect.prefix) and name > (effect.after or "")]
            answer = [BlobInfo(name, 1, "", 0) for name in past[: effect.limit]]


def test_many_of_others_between_the_stores_own():
    mine = [keys.blob("t", ns, cid(1), keys.FRAMES, "0123456789ab") for ns in ("a", "m", "z")]
    others = [f"{FOLDER}{letter}/{n:05}" for letter in "am" for n in range(2 * limits.LIST_OBJECTS)]
    store = Listed([*mine, *others])
    assert list(store(list_all(FOLDER))) == mine
    assert len(store.asked) <= len(others) // limits.LIST_OBJECTS + 3
    first = store(list_page(f"{FOLDER}a/", limit=1))
    assert [blob.name for blob in first] == mine[:1]
    assert store(list_page(f"{FOLDER}nothing/")) == []


def test_flows_list_nothing_past_the_filter():
    """A new flow lists by `list_page` or `list_all`; those that yield `ListBlobs` look at names themselves."""
    folder = Path(flows.__file__).parent
    assert {path.stem for path in folder.glob("*.py") if "ListBlobs(" in path.read_text()} == {
        "listing",
        "places",  # a sample of one page, by `is_blob`
        "survey",  # one object, by its whole name
        "unmirrored",  # one object, by its whole name; shared ones by `is_blob` and `dictionary_of`
        "teams",  # one object, by its whole name
        "node_cache",  # by `is_cache_blob`
        "dictionaries",  # by `dictionary_of`
        "all_threads",  # the next name of all, to skip what is no thread's folder
    }
