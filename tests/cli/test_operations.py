"""`langgraph-gcs operations`: list, show and resolve."""

import json

import pytest

from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.saver.admin import Admin


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/store"
    with Admin.from_conn_string(uri) as admin:
        for thread, key, state in (("t", "order-17", "unknown"), ("t", "mail-1", "done"), (None, "report", "unknown")):
            call = operations.Call(thread, key, "charge", "request", f"nonce of {key}")
            claimed = run(operations.claim(call, admin._context), admin._backend)
            run(operations.record_outcome(claimed, operations.Outcome(state), admin._context), admin._backend)
    return uri


def test_list_and_show(command, uri):
    assert command("operations", "list", "t", "--store", uri).out == (
        "order-17: charge is unknown (attempt 1)\nmail-1: charge is done (attempt 1)\n"
    )
    found = json.loads(command("operations", "list", "t", "--unresolved", "--json", "--store", uri).out)
    assert [(one["key"], one["state"], one["thread_id"]) for one in found] == [("order-17", "unknown", "t")]
    assert "report" in command("operations", "list", "-", "--store", uri).out
    assert command("operations", "list", "other", "--store", uri).out == "No operations.\n"
    assert json.loads(command("operations", "show", "t", "mail-1", "--json", "--store", uri).out)["state"] == "done"
    ended = command("operations", "show", "t", "order", "--store", uri)
    assert (ended.code, ended.out) == (1, "")
    assert "no operation 'order'" in ended.err


def test_resolve(command, uri):
    assert command("operations", "resolve", "t", "order-17", "--store", uri).code == 2
    assert command("operations", "resolve", "t", "order-17", "--result", "{", "--store", uri).code == 2
    ended = command("operations", "resolve", "t", "order-17", "--result", '{"id": 3}', "--store", uri)
    assert ended.out == "order-17: charge is done (attempt 1)\n"
    with Admin.from_conn_string(uri) as admin:
        (found,) = [one for one in admin.operations("t") if one.key == "order-17"]
        assert found.state == "done"
        operation = run(operations.read("t", "order-17", admin._context), admin._backend)
        value = run(operations.read_result(operation, admin._context), admin._backend)
        assert admin.serde.loads_typed((value.type, value.data)) == {"id": 3}
    ended = command("operations", "resolve", "t", "order-17", "--not-done", "--store", uri)
    assert (ended.code, ended.out) == (6, "")
    assert "'done' now" in ended.err
    assert command("operations", "resolve", "-", "report", "--not-done", "--json", "--store", uri).code == 0
