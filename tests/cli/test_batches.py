"""`langgraph-gcs batches`: list and show."""

import json

import pytest

from langgraph_gcs_saver import GCSSaver


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri) as saver:
        with saver.thread("t").batch("b", [f"item {n}" for n in range(9)], attempts=2, context={"agent": 7}) as batch:
            for number, item in enumerate(batch):
                if item == "item 3":
                    batch.fail(item, ValueError("no \x1b[31mmodel"))
                elif number < 5:
                    batch.done(item, output="an output that nothing shows")
                else:
                    break
        with saver.thread("t").batch("ended", ["x"]) as batch:
            for item in batch:
                batch.done(item)
            batch.finish()
    return uri


def test_list(command, uri):
    assert command("batches", "list", "t", "--store", uri).out == (
        "b: open, 4 of 9 items done, 1 failed\nended: done, 1 of 1 item done\n"
    )
    found = json.loads(command("batches", "list", "t", "--json", "--store", uri).out)
    assert [(one["batch_id"], one["state"], one["done"], one["items"]) for one in found] == [
        ("b", "open", 4, 9), ("ended", "done", 1, 1),
    ]  # fmt: skip
    assert command("batches", "list", "other", "--store", uri).out == "No batches.\n"


def test_show(command, uri):
    assert command("batches", "show", "t", "b", "--store", uri).out == (
        "b: open, 4 of 9 items done, 1 failed\n  item 3: failed 1 time: ValueError: no \\x1b[31mmodel\n"
    )
    found = json.loads(command("batches", "show", "t", "b", "--json", "--store", uri).out)
    assert (found["thread_id"], found["context"]) == ("t", {"agent": 7})
    assert found["failed"] == {"item 3": {"attempts": 1, "error": "ValueError: no \x1b[31mmodel"}}
    ended = command("batches", "show", "t", "c", "--store", uri)
    assert (ended.code, ended.out) == (1, "")
    assert "no batch 'c' of 't'" in ended.err
