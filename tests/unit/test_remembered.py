"""Manifests that a process remembers: they are what a reader would parse, and no reader shares one with another."""

import pytest

from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.flows import manifests, save
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.saver import arguments
from tests.compat.xor_cipher import XorCipher
from tests.unit.model import SERDE, Model, cid, get, make_context, put

VERSIONS = {"a": "00001.5", "b": 7, "c": 7.5, "none": None, "\ud800": "odd"}


def remembered(context, thread, ns, number):
    head = context.heads.get(keys.checkpoint_doc(thread, ns, cid(number)))
    return head.content.manifest(head.manifest)


def parsed(model, thread, ns, number):
    return model.aside(
        manifests.read_manifest(model.docs[keys.checkpoint_doc(thread, ns, cid(number))], make_context().codec)
    )


@pytest.fixture
def model():
    return Model()


@pytest.mark.parametrize("thread", ["t", "x" * 300, "é/..\0"])
@pytest.mark.parametrize("ns", ["", "n" * 300])
def test_what_was_put_is_what_a_reader_parses(model, thread, ns):
    """Of values in the document, in objects, in an ancestor and in a chain, and of fields that are not JSON."""
    context = make_context()
    values = {"small": 1, "empty": b"", "object": bytes(range(256)) * 80, "text": "word " * 200, "kept": "kept"}
    values |= {f"packed {n}": cid(n) * 200 for n in range(3)}
    put(model, context, 1, None, values, thread=thread, ns=ns, run_id="run")
    for number in (2, 3):
        values["text"] += "more " * number
        versions = dict.fromkeys(values, f"{1:032}.5")
        put(model, context, number, number - 1, values, fresh={"text"}, versions=versions, thread=thread, ns=ns)
    for number in (1, 2, 3):
        assert remembered(context, thread, ns, number) == parsed(model, thread, ns, number)


def test_all_kinds_of_fields_are_what_a_reader_parses(model):
    context = make_context()
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    checkpoint = {
        "v": 4,
        "id": cid(1),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {channel: 1 for channel in VERSIONS if channel.isascii()},
        "channel_versions": VERSIONS,
        "versions_seen": {"node": VERSIONS},
        "updated_channels": ["a"],
        "pending_sends": [[1, 1.0, True, None, {"deep": [-(2**60), 1e300]}]],
        "not plain": (1, 2),
    }
    request = arguments.put_request(
        config, checkpoint, {"source": "loop", "step": 1}, {"a": "00001.5"}, serde=SERDE, context=context, now=1.0
    )
    model.drive(save.put(request, context))
    known = parsed(model, "t", "", 1)
    found = remembered(context, "t", "", 1)
    assert found == known
    assert repr(found.checkpoint) == repr(known.checkpoint), "1, 1.0 and True are equal"


@pytest.mark.parametrize("cipher", [None, XorCipher()])
def test_each_read_has_a_copy_of_its_own(model, cipher):
    context = make_context(codec=Codec(3, cipher))
    put(model, context, 1, None, {"a": 1})
    first = model.drive(get(None, context)).manifest.checkpoint
    as_it_was = {**first, "channel_versions": dict(first["channel_versions"])}
    first["channel_versions"]["a"] = "changed"
    first["updated_channels"].append("changed")
    assert model.drive(get(None, context)).manifest.checkpoint == as_it_was | {"updated_channels": ["a"]}


def test_a_manifest_is_not_parsed_again(model, monkeypatch):
    context = make_context()
    put(model, context, 1, None, {"a": 1})

    def never(*_):
        raise AssertionError("it is parsed")

    monkeypatch.setattr("langgraph_gcs_saver.format.manifest.decode", never)
    assert model.drive(get(None, context)).values == {"a": 1}


def test_damage_to_what_is_remembered_is_noticed(model):
    context = make_context(falls_back=False)
    put(model, context, 1, None, {"a": 1})
    name = keys.checkpoint_doc("t", "", cid(1))
    doc = model.docs[name]
    for field, value in (("manifest", doc.fields["manifest"][:-1] + b"!"), ("digest", b"?" * 32), ("format", None)):
        model.change(name, **{field: value})
        with pytest.raises(CheckpointCorruptError):
            model.drive(get(None, context))
        model.change(name, **doc.fields)
    assert model.drive(get(None, context)).values == {"a": 1}
