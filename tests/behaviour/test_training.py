"""`train`: which bytes it counts, which threads it measures on, and when it refuses."""

import json
import random

import pytest
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.engine.effects import QueryDocs
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.flows.train import FULL, REST
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sizes import document_bytes
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.incremental.eax import Eax
from tests.system.raw import open_raw

THREADS = sorted((f"thread {n}" for n in range(100)), key=keys.thread_doc)
TRAINED, HELD_OUT = THREADS[:70], THREADS[70:]


def text(seed, words=150):
    rng = random.Random(seed)
    return " ".join(f"{rng.getrandbits(24):x}" for _ in range(words))


def fill(saver, shared, threads=THREADS):
    """Threads of one checkpoint whose value begins with a text that others have too, and with pending writes."""
    for thread in threads:
        values = {"notes": shared(thread) + text(thread, 20)}
        versions = {"notes": version(1)}
        saver.put(cfg(thread), checkpoint(1, values, versions), metadata(), versions)
        saver.put_writes(cfg(thread, n=1), [("notes", text(f"{thread} written", 10))], "task")


@pytest.fixture(scope="module")
def similar():
    with GCSSaver.from_conn_string("memory:") as saver:
        fill(saver, lambda _: text("shared"))
        yield saver


def documents(saver, threads):
    for thread in threads:
        for collection in (keys.checkpoints(thread), keys.writes(thread)):
            yield from saver._backend.documents.query_docs(QueryDocs(collection))


def test_every_byte_of_the_held_out_threads_counts_once(similar):
    found = similar.admin.train()
    assert (found.threads, found.held_out) == (70, 30)
    assert found.total.before == sum(map(document_bytes, documents(similar, HELD_OUT)))
    assert found.refusal is None
    by_kind = {one.kind: one for one in found.kinds}
    assert by_kind[FULL].gain > 0.7
    assert by_kind[REST].gain == 0
    assert found.total.gain > 0.3
    assert f"{found.total.gain:.1%} of what 30 other threads store" in str(found)


@pytest.mark.parametrize("cipher", [None, Eax("key")], ids=["clear", "encrypted"])
def test_a_second_dictionary_is_measured_against_the_first(tmp_path, cipher):
    store = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store, cipher=cipher, verify="off") as saver:
        fill(saver, lambda _: text("shared"))
        first = saver.admin.train(keep=True)
        for thread in THREADS:
            saver.delete_thread(thread)
    with GCSSaver.from_conn_string(store, cipher=cipher, verify="off", dictionary=first.dictionary) as saver:
        fill(saver, lambda _: text("shared"))
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        second = saver.admin.train(keep=True)
    assert first.total.gain > 0.3
    assert abs(second.total.gain) < 0.05, "the threads already have what a dictionary saves"
    assert second.dictionary is None


def test_pending_writes_count_even_if_only_they_need_a_dictionary(tmp_path):
    store = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store, verify="off") as saver:
        fill(saver, lambda _: text("shared"))
        first = saver.admin.train(keep=True)
    with GCSSaver.from_conn_string(store, verify="off", dictionary=first.dictionary) as saver:
        for thread in THREADS:
            saver.put_writes(cfg(thread, n=1), [("notes", text("shared") + text(thread, 10))], "another task")
    with GCSSaver.from_conn_string(store) as saver:
        found = saver.admin.train()
        assert found.total.before == sum(map(document_bytes, documents(saver, HELD_OUT)))


def test_what_held_out_threads_share_only_with_each_other_is_not_learned():
    with GCSSaver.from_conn_string("memory:") as saver:
        fill(saver, lambda thread: text("one") if thread in TRAINED else text("another"))
        found = saver.admin.train()
    assert {one.kind: one for one in found.kinds}[FULL].gain < 0.3


def test_values_that_have_nothing_in_common_are_refused():
    with GCSSaver.from_conn_string("memory:") as saver:
        fill(saver, lambda thread: text(thread, 1500))
        found = saver.admin.train()
    assert found.dictionary_bytes
    assert found.total.gain < 0.1
    assert "must save 10%" in str(found)


def test_a_sample_is_bounded(similar):
    found = similar.admin.train(sample=50, holdout=0.5)
    assert (found.threads, found.held_out) == (25, 25)
    assert "too few" in str(similar.admin.train(sample=10))


def test_damaged_documents_count_as_nothing(tmp_path):
    store = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store) as saver:
        fill(saver, lambda _: text("shared"), THREADS[:60])
    raw = open_raw(store)
    damaged = [keys.checkpoint_doc(thread, "", cid(1)) for thread in (THREADS[0], THREADS[59])]
    for name in damaged:
        raw.set_document(name, {**raw.documents()[name], "digest": "wrong"})
    raw.close()
    with GCSSaver.from_conn_string(store) as saver:
        found = saver.admin.train(holdout=0.2)
        whole = [doc for doc in documents(saver, THREADS[48:60]) if doc.name not in damaged]
    assert found.total.before == sum(map(document_bytes, whole))
    assert found.refusal is None


def test_an_encrypted_store_gains_as_much(similar):
    with GCSSaver.from_conn_string("memory:", cipher=Eax("key")) as saver:
        fill(saver, lambda _: text("shared"))
        found = saver.admin.train()
    clear = similar.admin.train().total
    assert found.total.before > clear.before, "each frame has a nonce and a tag"
    assert found.total.before - found.total.after == pytest.approx(clear.before - clear.after, rel=0.05)


def test_a_saver_that_does_not_compress_has_no_use_for_one():
    with GCSSaver.from_conn_string("memory:", zstd_level=None) as saver:
        fill(saver, lambda _: text("shared"))
        assert "zstd_level" in str(saver.admin.train().refusal)


@pytest.mark.parametrize(
    "options", [{"sample": 0}, {"sample": 1.5}, {"sample": True}, {"holdout": 0}, {"holdout": 1}, {"holdout": "half"}]
)
def test_arguments_are_checked(similar, options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        similar.admin.train(**options)


def command(store, *arguments):
    return CliRunner().invoke(app, ["train", *arguments, "--store", store], env={"COLUMNS": "200"})


def test_the_command(tmp_path):
    store = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store) as saver:
        fill(saver, lambda _: text("shared"), THREADS[:60])
        found = saver.admin.train(holdout=0.2)
    shown = command(store, "--holdout", "0.2")
    assert shown.exit_code == 0, shown.output
    for expected in ("full values", "everything", f"{found.total.gain:.1%}", f"{found}."):
        assert expected in shown.stdout
    assert json.loads(command(store, "--holdout", "0.2", "--json").stdout)["gain"] == found.total.gain
    refused = command(store, "--sample", "20")
    assert (refused.exit_code, "too few" in str(refused.exception)) == (1, True)
