import hashlib
import math
from datetime import timedelta
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.address import MAX_PREFIX, GoogleAddress, LocalAddress, MemoryAddress, canonical, parse
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError, InvalidOptionError, InvalidURIError
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments


def google(bucket="my-bucket", **rest):
    return GoogleAddress(bucket=bucket, **rest)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("gs://my-bucket", google()),
        ("gs://my-bucket/", google()),
        ("GS://my-bucket", google()),
        ("gs://my.bucket_1", google("my.bucket_1")),
        ("gs://my-bucket/agents", google(prefix="agents")),
        ("gs://my-bucket/agents/", google(prefix="agents")),
        ("gs://my-bucket//agents//", google(prefix="agents")),
        ("gs://my-bucket/a/b", google(prefix="a/b")),
        ("gs://my-bucket/a%20b", google(prefix="a b")),
        ("gs://my-bucket/é", google(prefix="é")),
        ("gs://my-bucket/" + "p" * MAX_PREFIX, google(prefix="p" * MAX_PREFIX)),
        ("gs://my-bucket?project=my-project", google(project="my-project")),
        ("gs://my-bucket?project=", google()),
        ("gs://my-bucket?database=", google()),
        ("gs://my-bucket?database=(default)", google()),
        ("gs://my-bucket?database=%28default%29", google()),
        (
            "gs://my-bucket/p?project=x&database=db&root=apps/a",
            google(prefix="p", project="x", database="db", root="apps/a"),
        ),
        ("gs://my-bucket?root=/apps/a/", google(root="apps/a")),
        ("gs://my-bucket?root=a/b/c/d", google(root="a/b/c/d")),
        ("gs://my-bucket?root=apps%2Fa", google(root="apps/a")),
        ("file:///var/lib/agent", LocalAddress(Path("/var/lib/agent"))),
        ("file:///var/lib/agent/", LocalAddress(Path("/var/lib/agent"))),
        ("file://localhost/var", LocalAddress(Path("/var"))),
        ("file:///a%20b%3Fc%23", LocalAddress(Path("/a b?c#"))),
        ("FILE:///é", LocalAddress(Path("/é"))),
        ("memory:", MemoryAddress()),
        ("Memory:", MemoryAddress()),
    ],
)
def test_forms(uri, address):
    assert parse(uri) == address


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("gs://my-bucket", ""),
        ("gs://my-bucket/agents", "lg_apps/agents"),
        ("gs://my-bucket/agents/v1", "lg_apps/agents%2Fv1"),
        ("gs://my-bucket/__a__", "lg_apps/~__a__"),
        ("gs://my-bucket/" + "é" * 75, "lg_apps/~" + hashlib.sha256(("é" * 75).encode()).hexdigest()),
        ("gs://my-bucket/agents?root=", ""),
        ("gs://my-bucket/agents?root=/", ""),
        ("gs://my-bucket/agents?root=apps/a", "apps/a"),
        ("gs://my-bucket?root=apps/a", "apps/a"),
    ],
)
def test_a_prefix_is_a_store_of_its_own_unless_a_root_is_given(uri, root):
    assert parse(uri).root == root


@pytest.mark.parametrize(
    ("uri", "form"),
    [
        ("gs://my-bucket?project=p", "gs://my-bucket?project=p&database=(default)"),
        ("gs://my-bucket//a%20b/?root=/lg_apps/a%2520b/&database=db", "gs://my-bucket/a%20b?database=db"),
        ("gs://my-bucket/a?root=", "gs://my-bucket/a?database=(default)&root="),
        ("gs://my-bucket?root=apps%2Fé&project=p", "gs://my-bucket?project=p&database=(default)&root=apps/%C3%A9"),
        ("file://localhost/a%20b/", "file:///a%20b"),
        ("Memory:", "memory:"),
    ],
)
def test_the_canonical_form_names_the_same_store(uri, form):
    assert canonical(parse(uri)) == form
    assert canonical(parse(form)) == form


def test_a_link_to_a_directory_is_the_same_store(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert canonical(LocalAddress(tmp_path / "link")) == canonical(LocalAddress(tmp_path / "store"))


def test_a_saver_knows_the_project_and_the_database_of_its_client(monkeypatch):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with GCSSaver.from_conn_string("gs://my-bucket/a?database=db") as saver:
        assert saver._uri == saver.admin._uri == "gs://my-bucket/a?project=langgraph-gcs-saver&database=db"
    client = firestore.Client(project="mine", database="other", credentials=AnonymousCredentials())
    with GCSSaver("my-bucket", firestore=client) as saver:
        assert saver._uri == "gs://my-bucket?project=mine&database=other"


def test_stores_that_were_passed_as_objects_have_no_uri():
    with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs())) as saver:
        assert saver._uri is None


BAD = [
    "",
    "my-bucket",
    "/var/lib",
    "s3://my-bucket",
    "postgres://x",
    "gs:",
    "gs://",
    "gs:///prefix",
    "gs:my-bucket",
    "gs://ab",
    "gs://My-Bucket",
    "gs://-bucket",
    "gs://bucket-",
    "gs://my bucket",
    "gs://" + "b" * 223,
    "gs://my-bucket:80",
    "gs://user@my-bucket",
    "gs://user:secret@my-bucket",
    "gs://my-bucket#x",
    "gs://my-bucket/a//b",
    "gs://my-bucket/a/../b",
    "gs://my-bucket/%2e%2e/b",
    "gs://my-bucket/./b",
    "gs://my-bucket/a*",
    "gs://my-bucket/a%3Fb",
    "gs://my-bucket/a%23b",
    "gs://my-bucket/a%00b",
    "gs://my-bucket/a%0Ab",
    "gs://my-bucket/a[0]",
    "gs://my-bucket/" + "p" * (MAX_PREFIX + 1),
    "gs://my-bucket/" + "é" * (MAX_PREFIX // 2 + 1),
    "gs://my-bucket?projekt=x",
    "gs://my-bucket?timeout=5",
    "gs://my-bucket?root=apps",
    "gs://my-bucket?root=a/b/c",
    "gs://my-bucket?root=a//b/c",
    "gs://my-bucket?root=a/..",
    "gs://my-bucket?root=a/__b__",
    "gs://[x",
    "file://",
    "file:",
    "file:relative/path",
    "file://host/path",
    "file:///a?b=c",
    "file:///a#b",
    "memory",
    "memory://",
    "memory://name",
    "memory:name",
    "memory:/",
    "memory:?",
    "memory:?timeout=5",
    "memory:#",
]


@pytest.mark.parametrize("uri", BAD)
def test_bad_uris_say_the_forms(uri):
    with pytest.raises(InvalidURIError) as caught:
        parse(uri)
    text = str(caught.value)
    assert any(
        form in text
        for form in ("gs://BUCKET", "file:///", "form is memory:", "It takes project", "'apps/my-app'", "unsafe")
    )
    assert "secret" not in text


@pytest.mark.parametrize("uri", [None, 5, b"gs://my-bucket", Path("/x"), ["gs://my-bucket"]], ids=repr)
def test_uris_of_another_type(uri):
    with pytest.raises(InvalidURIError, match=type(uri).__name__):
        parse(uri)


@pytest.mark.parametrize(
    "uri",
    ["gs://my-bucket/\ud800", "gs://my-bucket?root=a/\ud800", "gs://my-bucket/%FF"],
    ids=["prefix", "root", "not UTF-8"],
)
def test_uris_that_are_no_text_are_refused(uri):
    with pytest.raises(InvalidURIError):
        parse(uri)


@pytest.mark.parametrize("uri", ["file:///a%00b", "file:///a\ud800"], ids=["NUL", "lone surrogate"])
def test_directories_that_cannot_exist_are_refused(uri):
    with pytest.raises(GCSSaverError), GCSSaver.from_conn_string(uri) as saver:
        saver.get_tuple({"configurable": {"thread_id": "t"}})


@pytest.mark.parametrize(
    "given",
    [
        {"bucket": 5},
        {"bucket": b"my-bucket"},
        {"prefix": None},
        {"prefix": 5},
        {"prefix": "\ud800"},
        {"root": 5},
        {"root": "a/\ud800"},
        {"database": 5},
        {"project": 5},
    ],
    ids=repr,
)
def test_addresses_of_another_type_are_refused(given):
    """They are arguments of `GCSSaver(…)`."""
    with pytest.raises(InvalidInputError):
        GoogleAddress(**({"bucket": "my-bucket"} | given))


def test_a_bucket_is_needed():
    with pytest.raises(InvalidOptionError, match="bucket"):
        GCSSaver()


# Options


class Cipher:
    def encrypt(self, plaintext):
        return "none", plaintext

    def decrypt(self, ciphername, ciphertext):
        return ciphertext


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("inline_max_bytes", [0, 1, 8192, 512 << 10]),
        ("zstd_level", [None, 1, 19]),
        ("max_threads", [1, 256]),
        ("timeout", [0.001, 1, 30.0, 86400]),
        ("on_event", [None, print]),
        ("incremental", [True, False]),
        ("full_every", [None, 1, 1000, 1 << 40, timedelta(hours=1), timedelta(days=999)]),
        ("cache_max_bytes", [0, 1, 64 << 20, 1 << 40]),
        ("cipher", [None, Cipher()]),
        ("clear_metadata", [(), [], {"step"}, ("source", "step"), frozenset(["a"]), {"a": 1}]),
        ("verify", ["readback", "checksum", "off"]),
        ("on_corruption", ["fallback", "raise"]),
        ("max_value_bytes", [1 << 10, 1 << 30, 1 << 40]),
    ],
)
def test_values_in_range(name, values):
    for value in values:
        assert getattr(Options.of({name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("inline_max_bytes", [-1, (512 << 10) + 1, True, 1.0, "8192", None]),
        ("zstd_level", [0, 20, -1, True, 3.0, "3"]),
        ("max_threads", [0, 257, False, 1.5, None]),
        ("timeout", [0, -1, math.nan, math.inf, True, "30", None]),
        ("on_event", [5, "print"]),
        ("incremental", [None, 0, 1, "yes"]),
        ("full_every", [0, -1, True, 1.5, "10", (1 << 40) + 1]),
        ("full_every", [timedelta(0), timedelta(minutes=59), timedelta(hours=-1)]),
        ("cache_max_bytes", [-1, True, 1.0, "0", None, (1 << 40) + 1]),
        ("clear_metadata", ["step", b"step", [5], [None], ["step", 5], None, 5]),
        ("verify", ["", "Readback", "none", "on", True, False, None, 1, ["readback"]]),
        ("on_corruption", ["", "ignore", "Fallback", True, None, 0]),
        ("max_value_bytes", [0, (1 << 10) - 1, (1 << 40) + 1, -1, True, 1e9, "1 GiB", None]),
    ],
)
def test_values_out_of_range(name, values):
    for value in values:
        with pytest.raises(InvalidOptionError, match=name) as caught:
            Options.of({name: value})
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("verify", ["readback", "checksum", "off"]), ("on_corruption", ["fallback", "raise"])]
)
def test_words_that_there_are_not_are_told_with_those_that_there_are(name, words):
    with pytest.raises(InvalidOptionError, match=name) as caught:
        Options.of({name: "nonsense"})
    assert all(word in str(caught.value) for word in words)


def test_the_defaults_are_the_safe_ones():
    """Less safety must be chosen explicitly."""
    assert (Options().verify, Options().on_corruption, Options().max_value_bytes) == ("readback", "fallback", 1 << 30)


def test_options_reach_the_flows(tmp_path):
    for verify in ("readback", "checksum", "off"):
        for on_corruption in ("fallback", "raise"):
            options = {"verify": verify, "on_corruption": on_corruption, "max_value_bytes": 12345}
            with GCSSaver.from_conn_string(f"file://{tmp_path}/store", **options) as saver:
                context = saver._context
            assert (context.verify, context.falls_back) == (verify, on_corruption == "fallback")
            assert context.reads_back is (verify == "readback")
            assert context.upload("name", b"data").checked is (verify != "off")
            assert context.codec.max_bytes == 12345


@pytest.mark.parametrize("cipher", [5, "key", b"0" * 16, ...], ids=repr)
def test_what_is_no_cipher_is_refused_without_a_word_of_it(cipher):
    """It may be the key."""
    with pytest.raises(InvalidOptionError, match=r"cipher.*CipherProtocol") as caught:
        Options.of({"cipher": cipher})
    assert repr(cipher) not in str(caught.value)


def test_unknown_options_are_named_with_those_that_there_are():
    with pytest.raises(InvalidOptionError, match=r"'inline_max'.*inline_max_bytes.*zstd_level"):
        Options.of({"inline_max": 5})


def test_from_conn_string_refuses_before_it_opens_anything(tmp_path):
    with pytest.raises(InvalidOptionError, match="'nonsense'"):
        GCSSaver.from_conn_string(f"file://{tmp_path}/store", nonsense=1)
    with pytest.raises(InvalidURIError):
        GCSSaver.from_conn_string("redis://localhost")
    assert list(tmp_path.iterdir()) == []


def test_options_are_frozen():
    with pytest.raises(AttributeError):
        Options().timeout = 5
