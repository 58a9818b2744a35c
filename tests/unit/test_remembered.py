"""Manifests and pending writes that a process remembers.

They are what a reader would parse, and no reader shares a manifest with another.
"""

import os
from dataclasses import replace

import pytest

from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.flows import manifests, save
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.sources import Sources
from langgraph_gcs_saver.flows.writes import Opened, read_writes
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.saver import arguments
from tests.compat.xor_cipher import XorCipher
from tests.unit.model import SERDE, Model, cid, get, make_context, put, put_writes

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


def test_frames_of_the_expected_checkpoint_are_planned_once(model, monkeypatch):
    """Also those that are fetched, because the cache does not have their values."""
    context = make_context(values=ByteCache(0))
    values = {"kept": "kept " * 100, "new": 1}
    put(model, context, 1, None, values)
    put(model, context, 2, 1, values, fresh={"new"})
    planned = []

    class Counted(Sources):
        def __init__(self, found, context):
            planned.append(found)
            super().__init__(found, context)

    monkeypatch.setattr("langgraph_gcs_saver.flows.load.Sources", Counted)
    assert model.drive(get(None, context)).values == values
    assert len(planned) == 1
    head = context.heads.get(keys.checkpoint_doc("t", "", cid(2)))
    context.remember(replace(head, content=replace(head.content, digest=b"")))
    assert model.drive(get(None, context)).values == values, "of a manifest that is parsed"
    assert len(planned) == 3


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


# Pending writes

WRITES = [("a", 1), ("b", "word " * 50), ("a", b"")]


def docs_of_writes(model):
    return [doc for name, doc in model.docs.items() if keys.is_writes_doc(name)]


def never_opens(monkeypatch):
    def never(*_):
        raise AssertionError("it is opened")

    monkeypatch.setattr("langgraph_gcs_saver.flows.writes._open_each", never)


def pending(model, context):
    return model.drive(get(None, context)).writes


@pytest.mark.parametrize("cipher", [None, XorCipher()])
@pytest.mark.parametrize("task", ["task", "t" * 300])
def test_writes_that_were_put_are_what_a_reader_opens(model, monkeypatch, cipher, task):
    context, other = (make_context(codec=Codec(3, cipher)) for _ in range(2))
    put(model, context, 1, None, {"a": 1})
    put_writes(model, context, 1, WRITES, task=task)
    put_writes(model, context, 1, [("c", 2)], task="another")
    opened = {cid(1): model.aside(read_writes([cid(1)], docs_of_writes(model), other.codec))[cid(1)]}
    expected = pending(model, other)
    never_opens(monkeypatch)
    assert model.aside(read_writes([cid(1)], docs_of_writes(model), context.codec, context=context)) == opened
    assert pending(model, context) == expected


def test_writes_that_were_read_are_not_opened_again(model, monkeypatch):
    """Also special ones. Writes of the next checkpoint are opened as before."""
    put(model, make_context(), 1, None, {"a": 1})
    put_writes(model, make_context(), 1, WRITES)
    put_writes(model, make_context(), 1, [("__interrupt__", "why")], task="another")
    context = make_context()
    expected = pending(model, context)
    assert len(expected) == len(WRITES) + 1
    with monkeypatch.context() as patched:
        never_opens(patched)
        assert pending(model, context) == expected
    put_writes(model, make_context(), 1, [("__interrupt__", "why not")], task="another")
    assert pending(model, context) == pending(model, make_context()) != expected


def test_no_writes_are_remembered_without_a_cache(make_saver):
    """Processes with `cache_max_bytes=0` must keep no values in memory."""
    for size, kept in ((0, False), (1 << 20, True)):
        context = make_saver(cache_max_bytes=size)._context
        context.remember_writes("name", Opened({"format": 1, "w": b"data"}, ()))
        assert (context.writes.get("name") is not None) is kept


def test_the_first_of_two_calls_counts_for_a_process_that_remembers_both(model, monkeypatch):
    put(model, make_context(), 1, None, {"a": 1})
    for value in (1, 2):  # Other channels, so the second call has a document of its own.
        put_writes(model, make_context(), 1, [("a", value), *[("b", value)] * value])
    context = make_context()
    expected = pending(model, context)
    assert [value for _, _, value in expected] == [1, 1, 2]
    never_opens(monkeypatch)
    assert pending(model, context) == expected


def test_large_writes_and_those_of_an_object_are_read_as_before(model):
    context = make_context()
    put(model, context, 1, None, {"a": 1})
    put_writes(model, context, 1, [("a", bytes(range(256)) * 5000)], task="compressible")
    put_writes(model, context, 1, [("a", os.urandom(300_000))], task="random")
    assert pending(model, context) == pending(model, context) == pending(model, make_context())


def test_damage_to_remembered_writes_is_noticed(model):
    context = make_context(falls_back=False)
    put(model, context, 1, None, {"a": 1})
    put_writes(model, context, 1, WRITES)
    expected = pending(model, context)
    (doc,) = docs_of_writes(model)
    (field,) = doc.fields.keys() - {"format"}
    for name, value in ((field, doc.fields[field][:-1] + b"!"), (field, None), ("format", True), ("format", 1.0)):
        model.change(doc.name, **{name: value})
        with pytest.raises(CheckpointCorruptError):
            pending(model, context)
        model.change(doc.name, **doc.fields)
    assert pending(model, context) == expected
