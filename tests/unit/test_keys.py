import os
import re

import pytest
from hypothesis import example
from hypothesis import strategies as st
from langgraph.checkpoint.base import WRITES_IDX_MAP

from langgraph_gcs_saver.address import MAX_PREFIX
from langgraph_gcs_saver.errors import InvalidIdError
from langgraph_gcs_saver.format import keys
from tests.unit.fuzz import fuzz

NASTY = ["", ".", "..", "/", "a", "ab", "a!", "a_b", "a-b", "a b", "a%", "a%2F", "~", "~a", "__x__", "__", "é", "\0"]
NASTY += ["\r\n", "\U0010ffff", "\uffff", "a|b", "a:b", "x" * 200, "x" * 201, "é" * 100, "%" * 67, '"', "-", "00-a"]
texts = st.sampled_from(NASTY) | st.text(max_size=12) | st.text(alphabet="a!_~%./-", max_size=4) | st.text(max_size=260)
ids = st.sampled_from(NASTY) | st.text(max_size=12) | st.text(alphabet="ab\0", max_size=4)
attempts = st.from_regex(keys.ATTEMPT.pattern.replace(r"\Z", ""), fullmatch=True)


def order(name):
    """Firestore's order of names: segment by segment, by bytes."""
    return [segment.encode() for segment in name.split("/")]


def inside(name, bounds):
    return order(bounds[0]) <= order(name) < order(bounds[1])


def document_names(thread, ns, checkpoint_id, task, digest="0" * 64):
    """Every document name that these ids give."""
    return {
        ("thread", thread): keys.thread_doc(thread),
        ("checkpoint", thread, ns, checkpoint_id): keys.checkpoint_doc(thread, ns, checkpoint_id),
        ("regular", thread, ns, checkpoint_id, task): keys.regular_writes_doc(thread, ns, checkpoint_id, task, digest),
        ("special", thread, ns, checkpoint_id, task): keys.special_writes_doc(thread, ns, checkpoint_id, task),
        ("run", task, thread): keys.run_doc(task, thread),
    }


# Encodings


@fuzz(texts, texts)
@example("a/b", "a%2Fb")
@example("~", "")
@example("x" * 201, "~" + keys._sha256(b"x" * 201))
def test_encodings_are_injective(one, other):
    for encode in (keys.enc, keys.spread):
        assert (encode(one) == encode(other)) == (one == other)


@fuzz(ids, ids)
def test_inv_is_injective_and_reverses_the_order(one, other):
    assert (keys.inv(one) < keys.inv(other)) == (one > other)
    assert (keys.inv(one) == keys.inv(other)) == (one == other)


@fuzz(texts)
def test_dec_undoes_enc_unless_it_is_a_hash(text):
    encoded = keys.enc(text)
    if re.fullmatch(r"~[0-9a-f]{64}", encoded):
        assert len(text.encode()) > keys.MAX_ENCODED // 3
        assert keys.dec(encoded) is None
    else:
        assert keys.dec(encoded) == text
    assert re.fullmatch(r"~|~[0-9a-f]{64}|[A-Za-z0-9_%-]{1,200}", encoded)


@fuzz(ids)
def test_uninv_undoes_inv(text):
    assert keys.uninv(keys.inv(text)) == text


def test_ids_that_need_no_encoding_stay_readable():
    assert keys.enc("Thread_1-a") == "Thread_1-a"
    assert keys.spread("Thread_1-a").endswith("-Thread_1-a")


def test_spread_spreads_time_ordered_ids():
    segments = {keys.spread(f"1f1e585d-2e31-6445-bffe-{n:012}")[:2] for n in range(1000)}
    assert len(segments) > 240


# Names of documents


@fuzz(st.tuples(texts, texts, ids, texts), st.tuples(texts, texts, ids, texts))
@example(("a", "b", "c", "d"), ("a", "b", "c", "d!s"))
@example(("a", "", "b", ""), ("a", "b", "", ""))
@example(("a", "a!9e~", "a", "t"), ("a", "a", "a", "9e~!t"))
def test_document_names_are_injective(one, other):
    """Different kinds and different ids never meet in one name."""
    named = list(document_names(*one).items()) + list(document_names(*other).items())
    by_name = {}
    for meaning, name in named:
        assert by_name.setdefault(name, meaning) == meaning
    assert len(by_name) == len(dict(named))


def test_writes_of_different_content_have_different_names():
    names = {keys.regular_writes_doc("t", "", "c", "task", digest * 64) for digest in "0123456789abcdef"}
    assert len(names | {keys.special_writes_doc("t", "", "c", "task")}) == 17


LONGEST = ("\U0010ffff" * 400, "é" * 800, "c" * keys.MAX_CHECKPOINT_ID, "t" * 2000)


@fuzz(texts, texts, ids, texts)
@example(*LONGEST)
@example("x" * 200, "x" * 200, "c" * keys.MAX_CHECKPOINT_ID, "x" * 200)
@example("__x__", "__", "__", "__")
def test_document_names_are_legal(thread, ns, checkpoint_id, task):
    for name in document_names(thread, ns, checkpoint_id, task).values():
        assert len(name.encode()) <= 6 << 10
        assert len(name.split("/")) % 2 == 0
        for segment in name.split("/"):
            assert 1 <= len(segment.encode()) <= 1500
            assert segment not in {".", ".."}
            assert not re.fullmatch(r"__.*__", segment)


@fuzz(texts, texts, ids)
@example(*LONGEST[:3])
def test_document_names_are_parsed_back(thread, ns, checkpoint_id):
    name = keys.checkpoint_doc(thread, ns, checkpoint_id)
    assert keys.checkpoint_id_of(name) == checkpoint_id
    assert keys.split_checkpoint_doc(name) == (keys.spread(thread), name.rsplit("/", 1)[1])
    for writes in (
        keys.special_writes_doc(thread, ns, checkpoint_id, "a!b"),
        keys.regular_writes_doc(thread, ns, checkpoint_id, "!", "0" * 64),
    ):
        assert keys.writes_checkpoint_id_of(writes) == checkpoint_id
        assert writes.rpartition("/")[0] == keys.writes(thread)
    assert name.rpartition("/")[0] == keys.checkpoints(thread)


@fuzz(texts, texts, ids, texts, ids)
@example("t", "zz", "a", "aa", "ab")
def test_newest_first_across_namespaces(thread, ns, one, other_ns, other):
    names = order(keys.checkpoint_doc(thread, ns, one)), order(keys.checkpoint_doc(thread, other_ns, other))
    if one != other:
        assert (names[0] < names[1]) == (one > other)
    else:
        assert (names[0] == names[1]) == (ns == other_ns)


# Names of objects


@fuzz(
    st.tuples(texts, texts, ids, texts | st.sampled_from([keys.MANIFEST, keys.FRAMES, keys.WRITES_BLOB]), attempts),
    st.tuples(texts, texts, ids, texts | st.sampled_from([keys.MANIFEST, keys.FRAMES, keys.WRITES_BLOB]), attempts),
)
@example(("t", "n", "c", "a-00000000", "0" * 8), ("t", "n", "c", "a", "00000000" * 2))
@example(("t", "n", "c", "~manifest", "0" * 8), ("t", "n", "c", "", "0" * 8))
def test_object_names_are_injective(one, other):
    def name(thread, ns, checkpoint_id, channel, attempt):
        return keys.blob(thread, ns, checkpoint_id, keys.enc(channel), attempt)

    assert (name(*one) == name(*other)) == (one == other)


@fuzz(texts)
def test_no_channel_meets_the_objects_that_hold_several(channel):
    assert keys.enc(channel) not in {keys.MANIFEST, keys.FRAMES, keys.WRITES_BLOB}


@fuzz(texts, texts, ids, texts, attempts)
@example("x" * 200, "x" * 200, "c" * 200, "x" * 200, "0" * 40)
@example(*LONGEST, "0" * 40)
@example("", ".", "..", "\r\n", "0" * 8)
def test_object_names_are_legal_for_cloud_storage_and_file_systems(thread, ns, checkpoint_id, channel, attempt):
    for what in (keys.enc(channel), keys.MANIFEST, keys.FRAMES, keys.WRITES_BLOB):
        name = keys.blob(thread, ns, checkpoint_id, what, attempt)
        assert len(f"{'p' * MAX_PREFIX}/{name}".encode()) <= 1024
        assert name.isascii()
        assert name.isprintable()
        assert name.startswith(keys.thread_blobs(thread))
        for segment in name.split("/"):
            assert segment not in {"", ".", ".."}
            assert 1 <= len(segment) <= 255
            assert not segment.startswith(".")
            assert not set('<>:"\\|?*') & set(segment)
        assert os.path.normpath(name) == name


@fuzz(texts, texts, ids, attempts)
@example("t", "!", "a", "0" * 8)
def test_an_object_is_named_alike_from_its_document(thread, ns, checkpoint_id, attempt):
    doc = keys.checkpoint_doc(thread, ns, checkpoint_id)
    expected = keys.blob(thread, ns, checkpoint_id, keys.MANIFEST, attempt)
    assert keys.blob_beside(doc, keys.MANIFEST, attempt) == expected


@fuzz(texts, texts)
def test_threads_share_no_prefix_of_objects(one, other):
    assert keys.thread_blobs(one).startswith(keys.thread_blobs(other)) == (one == other)


# Ranges

neighbours = st.sampled_from(["", "a", "a!", "a_b", "a!!", "a~", "ab", "aa", "b", "a\0", "`", "a|9e~", "a%", "é"]) | ids


@fuzz(neighbours, neighbours, neighbours, neighbours, neighbours)
@example("a_b", "", "c", "a", "c")
@example("a", "a!", "c", "a", "c")
@example("a", "", "ab", "a", "a")
def test_checkpoint_range_holds_one_checkpoint_of_one_thread(thread, ns, checkpoint_id, other_thread, other_id):
    name = keys.checkpoint_doc(thread, ns, checkpoint_id)
    held = inside(name, keys.checkpoint_range(other_thread, other_id))
    assert held == ((thread, checkpoint_id) == (other_thread, other_id))


@fuzz(neighbours, neighbours, neighbours)
def test_the_end_of_a_checkpoint_range_is_what_comes_before_it(ns, checkpoint_id, before):
    """A listing `before` an id starts at the end of that id's range."""
    name = keys.checkpoint_doc("t", ns, checkpoint_id)
    assert (order(name) >= order(keys.checkpoint_range("t", before)[1])) == (checkpoint_id < before)


@fuzz(
    st.tuples(neighbours, neighbours, neighbours, neighbours), neighbours, neighbours, st.tuples(neighbours, neighbours)
)
@example(("a", "a", "c", "t"), "a", "", ("c", "c"))
@example(("a", "a!", "c", "t"), "a", "a", ("c", "c"))
@example(("a", "", "ab", "t"), "a", "", ("a", "a"))
@example(("a", "", "ab", "t"), "a", "", ("b", "a"))
def test_writes_range_holds_the_writes_of_its_checkpoints(found, thread, ns, bounds):
    found_thread, found_ns, checkpoint_id, task = found
    newest, oldest = max(bounds), min(bounds)
    expected = (found_thread, found_ns) == (thread, ns) and oldest <= checkpoint_id <= newest
    wanted = keys.writes_range(thread, ns, newest, oldest)
    assert inside(keys.special_writes_doc(*found), wanted) == expected
    assert inside(keys.regular_writes_doc(found_thread, found_ns, checkpoint_id, task, "f" * 64), wanted) == expected


@fuzz(texts, texts, ids, texts)
def test_all_checkpoints_range_holds_every_thread_and_no_other_root(thread, ns, checkpoint_id, task):
    bounds = keys.all_checkpoints_range()
    name = keys.checkpoint_doc(thread, ns, checkpoint_id)
    assert inside(name, bounds)
    assert not inside(keys.run_doc(task, thread), bounds)
    # The store puts its root before both bounds and every name.
    rooted = tuple(f"apps/mine/{bound}" for bound in bounds)
    for other_root in ("", "apps/mine2/", "apps/min/", "apps/mine/x/y/", "apps/mine/lg_threads/zz/", "zapps/mine/"):
        assert not inside(other_root + name, rooted), other_root
    assert inside(f"apps/mine/{name}", rooted)


def test_all_checkpoints_range_holds_every_prefix_of_threads():
    names = [keys.checkpoint_doc(f"thread {number}", "", "c") for number in range(3000)]
    assert len({name.split("/")[1][:2] for name in names}) == 256
    assert all(inside(name, keys.all_checkpoints_range()) for name in names)


# Refusals


def test_checkpoint_ids_that_no_name_can_hold_are_refused():
    keys.inv("c" * keys.MAX_CHECKPOINT_ID)
    keys.inv("é" * (keys.MAX_CHECKPOINT_ID // 2))
    for text in ("c" * (keys.MAX_CHECKPOINT_ID + 1), "é" * (keys.MAX_CHECKPOINT_ID // 2 + 1)):
        with pytest.raises(InvalidIdError, match=str(keys.MAX_CHECKPOINT_ID)):
            keys.checkpoint_doc("t", "", text)


LONE = "a\ud800b"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: keys.enc(LONE, "thread id"), id="enc"),
        pytest.param(lambda: keys.spread(LONE), id="spread"),
        pytest.param(lambda: keys.inv(LONE), id="inv"),
        pytest.param(lambda: keys.thread_doc(LONE), id="thread"),
        pytest.param(lambda: keys.checkpoint_doc("t", LONE, "c"), id="namespace"),
        pytest.param(lambda: keys.checkpoint_doc("t", "", LONE), id="checkpoint"),
        pytest.param(lambda: keys.special_writes_doc("t", "", "c", LONE), id="task"),
        pytest.param(lambda: keys.run_doc(LONE, "t"), id="run"),
        pytest.param(lambda: keys.blob("t", "", LONE, "x", "0" * 8), id="blob"),
        pytest.param(lambda: keys.enc(LONE * 200), id="long"),
    ],
)
def test_lone_surrogates_are_refused(make):
    with pytest.raises(InvalidIdError, match="surrogate") as caught:
        make()
    str(caught.value).encode()  # it must be possible to print the message


@pytest.mark.parametrize("name", ["a", "_a", "a_1", "__x", "x__", "x" * 100])
def test_simple_fields(name):
    assert keys.SIMPLE_FIELD.match(name)


@pytest.mark.parametrize("name", ["", "1a", "a.b", "a-b", "__x__", "____", "é", "a\n", "x" * 101, "a`", " a"])
def test_fields_that_need_quoting_are_not_simple(name):
    assert not keys.SIMPLE_FIELD.match(name)


def test_fields_of_pending_writes_are_langgraphs_numbers():
    """`format/` does not import LangGraph, so that the command line starts without it."""
    assert keys.writes_field(WRITES_IDX_MAP["__interrupt__"]) == keys.INTERRUPT
    fields = {keys.writes_field(idx) for idx in (0, 1, 99, *WRITES_IDX_MAP.values())}
    assert fields == {"writes", "w1", "w2", "w3", "w4"}
