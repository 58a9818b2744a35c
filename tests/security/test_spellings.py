"""Other spellings of the names of documents: they belong to no thread, and are never read as the real ones."""

from __future__ import annotations

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.format import keys, manifest
from tests.kit.interceptors import Meanwhile
from tests.system.build import cfg, cid, put
from tests.system.raw import open_raw

JUNK = {"format": 1, "manifest": b"x", "digest": b"y" * 32, "filter": {"user": "alice"}, "pin": "planted"}
"""A damaged document that every query finds. Damaged ones are read again by the ids of their names."""


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def raw(uri):
    return open_raw(uri)


@pytest.fixture
def saver(uri):
    with GCSSaver.from_conn_string(uri) as saver:
        put(saver, 1, {"v": "a"}, thread="alice", metadata={"user": "alice"})
        put(saver, 1, {"v": "b"}, thread="bob", metadata={"user": "bob"})
        put(saver, 1, {"v": "c"}, thread="bob", ns="sub", metadata={"user": "bob"})
        yield saver


def found(saver, config, **options):
    listed = (one.config["configurable"] for one in saver.list(config, **options))
    return [(one["thread_id"], one["checkpoint_ns"], one["checkpoint_id"]) for one in listed]


@pytest.mark.parametrize("digits", ["00", "8", "zz"])
def test_the_documents_of_another_spelling_of_a_thread(saver, raw, digits):
    name = keys.checkpoint_doc("bob", "", cid(1)).replace("81-bob", f"{digits}-bob")
    before = found(saver, None)
    raw.set_document(name, {**JUNK, "ns": "~"})
    assert found(saver, None, filter={"user": "alice"}) == [("alice", "", cid(1))]
    assert found(saver, None) == before
    intact = dict(raw.documents()[keys.checkpoint_doc("bob", "", cid(1))])
    raw.set_document(name, {**intact, "digest": manifest.digest(name, intact["manifest"])})
    assert found(saver, None) == before


@pytest.mark.parametrize(
    ("ns", "spelled"),
    [("sub", "%73ub"), ("sub", "s%75b"), ("", ""), ("", "~~"), ("", "%"), ("sub", "sub%"), ("", "~sub")],
)
def test_another_spelling_of_a_namespace(saver, raw, ns, spelled):
    before, ids, pinned = found(saver, cfg(ns=ns, thread="bob")), [cid(1)], {}
    name = keys.checkpoint_doc("bob", ns, cid(1)).rpartition("!")[0] + f"!{spelled}"
    # The namespace of the name, and that of the field that a query uses.
    for field in (spelled, keys.enc(ns)):
        raw.set_document(name, {**JUNK, "ns": field})
        assert found(saver, cfg(ns=None, thread="bob"), filter={"user": "alice"}) == []
        assert found(saver, None, filter={"user": "alice"}) == [("alice", "", cid(1))]
        assert found(saver, cfg(ns=ns, thread="bob")) == before
        assert len(found(saver, None)) == 3
        assert saver.admin.checkpoint_ids(cfg(ns=ns, thread="bob")) == ids
        assert saver.admin.pins(cfg(ns=ns, thread="bob")) == pinned
        assert saver.get_tuple(cfg(ns=ns, thread="bob")) is not None


@pytest.mark.parametrize(
    ("segment", "right"),
    [
        ("81-bob", True),
        ("00-bob", False),
        ("81-b%6fb", False),
        ("81-b%6Fb", False),
        (keys.spread("x" * 300), True),
        (keys.spread("é/b"), True),
        (keys.spread("é/b").lower(), False),
        ("aa-~" + "b" * 64, False),
        ("bb-~" + "b" * 63, False),
        ("bb-~" + "b" * 64, True),
        (keys.spread(""), True),
        ("e3-", False),
        ("e3-%ff", False),
        ("e3-%ED%A0%80", False),
    ],
)
def test_what_can_stand_for_a_thread(segment, right):
    assert keys.is_thread_segment(segment) is right
    assert keys.is_blob(f"{segment}/~/c/v-0123456789ab.zst") is right


def test_what_became_readable_meanwhile_is_compared_with_the_filter_too(saver, raw, uri):
    name = keys.checkpoint_doc("bob", "", cid(1))
    right = dict(raw.documents()[name])
    raw.set_document(name, {**JUNK, "ns": "~"})
    mended = Meanwhile(GetDocs, lambda: raw.set_document(name, right))
    with GCSSaver.from_conn_string(uri, interceptors=[mended]) as other:
        assert found(other, cfg(ns=None, thread="bob"), filter={"user": "alice"}) == []
    assert mended.is_done
