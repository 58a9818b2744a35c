"""Bad input: an error of ours that says what to do, within seconds, without state in it, and nothing half-written."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import (
    GCSSaverError,
    InvalidConfigError,
    InvalidIdError,
    InvalidInputError,
    InvalidOptionError,
    InvalidURIError,
    PermissionDeniedError,
    SaverClosedError,
    SerializationError,
    StoreError,
    StoreNotFoundError,
    StoreUnavailableError,
)
from tests.patience import PATIENCE
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, values
from tests.system.raw import open_raw

SECRET = "the-state-of-the-art"
DEADLINE = 2.0
"""For a saver without services: its calls fail, however slow the machine is."""

SURROGATE = "lone \ud800 surrogate"


@contextmanager
def refused(*kinds, match=None) -> Iterator[pytest.ExceptionInfo[GCSSaverError]]:
    """The body raises exactly one of our errors, with advice and without state."""
    with pytest.raises(kinds or GCSSaverError, match=match) as caught:
        yield caught
    error = caught.value
    assert isinstance(error, GCSSaverError), repr(error)
    text = str(error)
    assert SECRET not in text
    assert len(text.split()) >= 5, text  # a sentence, not a word
    text.encode()  # it can be printed


class Unserialisable:
    """An object that no serializer writes, and that would show state when it is printed."""

    def __init__(self):
        self.lock = threading.Lock()

    def __repr__(self):
        return SECRET

    __str__ = __repr__

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle {SECRET}")


# Connection strings and options


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bucket",
        "s3://bucket/prefix",
        "postgresql://user:pass@host/db",
        "gs:",
        "gs://",
        "gs:///prefix",
        "gs://UPPER",
        "gs://a",
        "gs://bucket?projekt=x",
        "gs://bucket/a/../b",
        "gs://bucket#x",
        "gs://user@bucket",
        "gs://[bucket",
        "gs://bucket?root=odd",
        "gs://bucket/" + "x" * 200,
        "file://host/path",
        "file:relative",
        "file://",
        "file:///path?x=1",
        "/path",
        "gs://bucket/" + SURROGATE,
        "file:///tmp/nul%00byte",
        None,
        5,
        Path("/tmp"),
    ],
)
def test_connection_strings_that_name_no_store(uri):
    with refused(InvalidURIError, match=r"form|parameter|prefix|root|directory"):
        GCSSaver.from_conn_string(uri)


@pytest.mark.parametrize(
    "options",
    [
        {"inline_bytes": 1},
        {"inline_max_bytes": -1},
        {"inline_max_bytes": "8192"},
        {"inline_max_bytes": 1 << 30},
        {"inline_max_bytes": True},
        {"zstd_level": 0},
        {"zstd_level": 3.5},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "30"},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": None},
        {"max_threads": 0},
        {"max_threads": 10**6},
        {"on_event": "print"},
        {"project": "x"},
    ],
)
def test_options_out_of_range(tmp_path, options):
    with refused(InvalidOptionError, match=rf"{next(iter(options))}"):
        GCSSaver.from_conn_string(f"file://{tmp_path}/s", **options)


def test_a_saver_without_a_bucket():
    with refused(InvalidOptionError, match="bucket"):
        GCSSaver()


def client(project="p", database="d"):
    return firestore.Client(project=project, database=database, credentials=AnonymousCredentials())


@pytest.mark.parametrize(
    ("bucket", "given", "match"),
    [
        (storage.Client(project="p", credentials=AnonymousCredentials()), {}, "bucket is of type Client"),
        ("bucket", {"firestore": "project"}, "firestore is of type str"),
        ("bucket", {"firestore": client(), "project": "q"}, "for the database 'd' of project 'p'"),
        ("bucket", {"firestore": client(), "database": "e"}, "for the database 'd' of project 'p'"),
    ],
)
def test_what_is_no_client_or_another_ones(bucket, given, match, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with refused(InvalidOptionError, match=match):
        GCSSaver(bucket, **given)


def test_clients_that_fit(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    for given in ({}, {"project": "p"}, {"database": "d"}, {"project": "p", "database": "d"}):
        GCSSaver("bucket", firestore=client(), **given).close()
    with refused(InvalidOptionError, match="for the database 'd' of project 'p'"):
        GCSSaver.from_conn_string("gs://bucket?project=p&database=e", firestore=client())


# Credentials, permissions, places


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment that has neither emulators nor credentials, and names no project."""
    names = ["STORAGE_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"]
    for name in [*names, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("PATH", "")  # no gcloud that could name a project


@pytest.fixture
def logged_in(bare, monkeypatch, tmp_path):
    """The same after `gcloud auth application-default login`, which names no project."""
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "t"}
    (tmp_path / "application_default_credentials.json").write_text(json.dumps(login))


LOGIN = re.escape("Run `gcloud auth application-default login`")
PROJECT = r"Nothing names the Google Cloud project.*\?project="


@pytest.mark.parametrize("uri", ["gs://bucket", "gs://bucket/prefix?project=p&database=d"])
def test_no_credentials(bare, monkeypatch, uri):
    with refused(PermissionDeniedError, match=LOGIN) as caught:
        GCSSaver.from_conn_string(uri)
    assert "roject" not in str(caught.value).replace("roles/", "")
    with refused(PermissionDeniedError, match=LOGIN):
        GCSSaver("bucket")
    # One emulator does not make the other service need none.
    for emulator in ("STORAGE_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST"):
        with monkeypatch.context() as patch:
            patch.setenv(emulator, "http://127.0.0.1:9" if "STORAGE" in emulator else "127.0.0.1:9")
            with refused(PermissionDeniedError, match=LOGIN):
                GCSSaver.from_conn_string(uri)


def test_credentials_that_cannot_be_read(bare, monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("not JSON")
    for name in ("key.json", "no-such-file.json"):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / name))
        with refused(PermissionDeniedError, match=f"{name}.*{LOGIN}"):
            GCSSaver.from_conn_string("gs://bucket?project=p")


def test_no_project(logged_in, monkeypatch):
    for make in (partial(GCSSaver.from_conn_string, "gs://bucket"), partial(GCSSaver, "bucket")):
        with refused(InvalidOptionError, match=PROJECT) as caught:
            make()
        assert "gcloud auth" not in str(caught.value)
    GCSSaver.from_conn_string("gs://bucket?project=p").close()
    GCSSaver("bucket", project="p").close()
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    GCSSaver("bucket").close()


def test_no_project_beside_credentials_that_were_passed(bare):
    # Google's client looks for a project among credentials of the environment, and complains that there are none.
    with refused(InvalidOptionError, match=PROJECT):
        GCSSaver("bucket", credentials=AnonymousCredentials())
    GCSSaver("bucket", credentials=AnonymousCredentials(), project="p").close()


def test_credentials_that_were_passed_take_the_environments_project(logged_in, monkeypatch):
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    with GCSSaver("bucket", credentials=AnonymousCredentials()) as saver:
        assert saver._backend.documents._client.project == "p"


@pytest.mark.parametrize("given", ["file:///tmp/store", "gs://bucket/agents?project=p"])
def test_a_connection_string_in_place_of_a_bucket(given):
    with refused(InvalidURIError, match=r"GCSSaver\.from_conn_string"):
        GCSSaver(given)


def assert_nothing_of_a_checkpoint(uri):
    """Only the thread's document may be there, which is written first. No reader sees it, and a deletion deletes it."""
    raw = open_raw(uri)
    documents = raw.documents()
    raw.close()
    assert all(name.split("/")[-2] == "lg_threads" and not name.startswith("lg_runs") for name in documents), documents
    with GCSSaver.from_conn_string(uri) as reader:
        assert list(reader.list(None)) == []


def test_a_bucket_that_does_not_exist(firestore_emulator, storage_emulator, project_id):
    uri = f"gs://{'no' + uuid.uuid4().hex}?project={project_id}"
    with GCSSaver.from_conn_string(uri) as saver:
        with refused(StoreNotFoundError, match="setup"):
            put(saver, 1, {"large": noise(20_000)})
        with refused(StoreNotFoundError, match="setup"):
            saver.put_writes(cfg(1), [("a", noise(200_000))], "task")
        assert saver.get_tuple(cfg()) is None
        assert_nothing_of_a_checkpoint(uri)
        # setup() fixes that.
        saver.setup()
        put(saver, 1, {"large": noise(20_000)})
        assert values(saver.get_tuple(cfg())) == {"large": noise(20_000)}


READ_ONLY = """
import os, sys
from langgraph_gcs_saver import GCSSaver, errors
from tests.system.build import cfg, put, noise
path = sys.argv[1]
with GCSSaver.from_conn_string(f"file://{path}/there") as saver:
    put(saver, 1, {"a": noise(9000)})
for directory, _, files in os.walk(path):
    os.chmod(directory, 0o555)
    for file in files:
        os.chmod(os.path.join(directory, file), 0o444)
if os.getuid() == 0:
    os.setuid(65534)
for name in ("there", "new"):
    saver = GCSSaver.from_conn_string(f"file://{path}/{name}")
    for call in (
        lambda: put(saver, 2, {"a": 1}),
        lambda: put(saver, 2, {"a": noise(9000)}),
        lambda: saver.put_writes(cfg(1), [("a", 1)], "task"),
        lambda: saver.delete_thread("t"),
        lambda: saver.setup(),
    ):
        try:
            call()
        except errors.GCSSaverError as error:
            print(type(error).__name__, "permission" in str(error))
        else:
            print("no error")
"""


def test_a_read_only_directory():
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, path], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        for directory, _, _ in os.walk(path):
            Path(directory).chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"PermissionDeniedError True"}


@pytest.mark.parametrize("place", ["itself", "above"])
def test_a_directory_that_is_a_file(tmp_path, place):
    file = tmp_path / "file"
    file.write_text("mine")
    path = file if place == "itself" else file / "below"
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        for call in (
            lambda: put(saver, 1, {"a": SECRET}),
            lambda: put(saver, 1, {"a": noise(9000)}),
            lambda: saver.get_tuple(cfg()),
            lambda: list(saver.list(cfg())),
            saver.setup,
        ):
            with refused(StoreError, match="choose another directory"):
                call()
    assert file.read_text() == "mine"


def calls(saver):
    """Every method that asks a store, synchronous."""
    return {
        "put": lambda: put(saver, 1, {"a": SECRET}),
        "put large": lambda: put(saver, 1, {"a": [SECRET, noise(20_000)]}),
        "put_writes": lambda: saver.put_writes(cfg(1), [("a", SECRET)], "task"),
        "get latest": lambda: saver.get_tuple(cfg()),
        "get by id": lambda: saver.get_tuple(cfg(1)),
        "list": lambda: list(saver.list(cfg())),
        "list all": lambda: list(saver.list(None)),
        "delete_thread": lambda: saver.delete_thread("t"),
        "setup": saver.setup,
        "ping": saver.ping,
    }


def acalls(saver):
    """Their twins."""

    async def alist(config):
        return [found async for found in saver.alist(config)]

    first = checkpoint(1, {"a": SECRET})
    large = checkpoint(1, {"a": [SECRET, noise(20_000)]})
    return {
        "aput": lambda: saver.aput(cfg(), first, DEFAULT, first["channel_versions"]),
        "aput large": lambda: saver.aput(cfg(), large, DEFAULT, large["channel_versions"]),
        "aput_writes": lambda: saver.aput_writes(cfg(1), [("a", SECRET)], "task"),
        "aget latest": lambda: saver.aget_tuple(cfg()),
        "aget by id": lambda: saver.aget_tuple(cfg(1)),
        "alist": lambda: alist(cfg()),
        "alist all": lambda: alist(None),
        "adelete_thread": lambda: saver.adelete_thread("t"),
        "asetup": saver.asetup,
        "aping": saver.aping,
    }


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield server.getsockname()[1]


def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("how", ["dead", "deaf"])
def test_services_that_are_not_there(monkeypatch, how):
    with deaf_port() as deaf:
        port = deaf if how == "deaf" else dead_port()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")

        def check(call):
            with refused(StoreUnavailableError, match="Try again"):
                call()

        async def acheck(call):
            with refused(StoreUnavailableError, match="Try again"):
                await call()

        async def all_at_once(saver):
            await asyncio.gather(*map(acheck, acalls(saver).values()))

        with GCSSaver.from_conn_string("gs://bucket?project=p", timeout=DEADLINE) as saver:
            with ThreadPoolExecutor(10) as threads:
                list(threads.map(check, calls(saver).values()))
            asyncio.run(all_at_once(saver))


def test_storage_that_is_not_there_leaves_no_document(monkeypatch, firestore_emulator, project_id):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{dead_port()}")
    uri = f"gs://bucket?project={project_id}"
    with GCSSaver.from_conn_string(uri, timeout=DEADLINE) as saver:
        for what in ("put large", "setup"):
            with refused(StoreUnavailableError):
                calls(saver)[what]()
        with refused(StoreUnavailableError):
            saver.put_writes(cfg(1), [("a", "small"), ("b", noise(200_000))], "task")
    assert_nothing_of_a_checkpoint(uri)


# Configs


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"configurable": {}},
        {"configurable": None},
        {"configurable": []},
        {"configurable": {"thread_id": None}},
        {"configurable": {"checkpoint_ns": "", "checkpoint_id": cid(1)}},
        {"configurable": {"thread_id": "t", "checkpoint_ns": 5}},
        {"configurable": {"thread_id": "t", "checkpoint_ns": b"ns"}},
        {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": 5}},
        "config",
        5,
        [],
    ],
)
def test_configs(saver, config):
    first = checkpoint(1, {"a": SECRET})
    for call in (
        lambda: saver.put(config, first, DEFAULT, first["channel_versions"]),
        lambda: saver.put_writes(config, [("a", SECRET)], "task"),
        lambda: saver.get_tuple(config),
        lambda: list(saver.list(config)),
        lambda: asyncio.run(saver.aput(config, first, DEFAULT, first["channel_versions"])),
        lambda: asyncio.run(saver.aget_tuple(config)),
    ):
        with refused(InvalidConfigError, match="config"):
            call()


def test_no_config(saver):
    for call in (
        lambda: saver.put(None, checkpoint(1), DEFAULT, {}),
        lambda: saver.put_writes(None, [("a", 1)], "task"),
        lambda: saver.get_tuple(None),
    ):
        with refused(InvalidConfigError, match="config"):
            call()


def test_put_writes_without_a_checkpoint(saver):
    with refused(InvalidConfigError, match="checkpoint_id"):
        saver.put_writes(cfg(), [("a", SECRET)], "task")


@pytest.mark.parametrize("before", [{}, {"configurable": {"checkpoint_id": 5}}, "x", cid(1)])
def test_before(saver, before):
    with refused(InvalidConfigError, match="config"):
        list(saver.list(cfg(), before=before))


# Wrong types


def put_of(saver, **changes):
    """`put` of a checkpoint that is right but for the changes."""
    first = checkpoint(1, {"a": SECRET})
    arguments = {"config": cfg(), "metadata": DEFAULT, "new_versions": first["channel_versions"]}
    wrong = {**first, **changes.pop("fields", {})}
    for name in changes.pop("without", ()):
        del wrong[name]
    saver.put(**{**arguments, "checkpoint": wrong, **changes})


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)  # refused before any store is asked
@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": None},
        {"checkpoint": [SECRET]},
        {"checkpoint": {}},
        {"without": ["id"]},
        {"without": ["channel_values"]},
        {"without": ["channel_versions"]},
        {"fields": {"id": 5}},
        {"fields": {"id": ""}},
        {"fields": {"channel_values": [SECRET]}},
        {"fields": {"channel_values": {5: SECRET}}},
        {"fields": {"channel_versions": None}},
        {"fields": {"channel_versions": {"a": ...}}},
        {"metadata": None},
        {"metadata": [SECRET]},
        {"new_versions": None},
        {"new_versions": 5},
    ],
    ids=repr,
)
def test_wrong_types_in_put(saver, raw, changes):
    with refused(InvalidInputError, SerializationError):
        put_of(saver, **changes)
    assert raw.snapshot() == ({}, {})


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)  # refused before any store is asked
@pytest.mark.parametrize(
    "arguments",
    [
        (None, "task"),
        (5, "task"),
        ([SECRET], "task"),
        ([("a", 1, SECRET)], "task"),
        ([(5, SECRET)], "task"),
        ([(["a"], SECRET)], "task"),
        ([("a", SECRET)], None),
        ([("a", SECRET)], 5),
        ([("a", SECRET)], "task", 5),
        ([("a", SECRET)], "task", None),
    ],
    ids=repr,
)
def test_wrong_types_in_put_writes(saver, raw, arguments):
    with refused(InvalidInputError, SerializationError):
        saver.put_writes(cfg(1), *arguments)
    assert raw.snapshot() == ({}, {})


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)  # refused before any store is asked
@pytest.mark.parametrize("arguments", [{"limit": "5"}, {"limit": 1.5}, {"filter": "x"}, {"filter": [1]}], ids=repr)
def test_wrong_types_in_list(saver, arguments):
    put(saver, 1, {"a": SECRET})
    with refused(InvalidInputError):
        list(saver.list(cfg(), **arguments))


# Values


@pytest.mark.parametrize("size", ["small", "large"])
def test_an_unserialisable_value_leaves_nothing(saver, raw, size):
    state = {"fine": noise(20_000 if size == "large" else 20), "bad": Unserialisable(), "also fine": SECRET}
    put(saver, 1, {"fine": 1})
    before = raw.snapshot()
    for call in (
        lambda: put(saver, 2, state, parent=1),
        lambda: put(saver, 2, {"fine": noise(20_000), "bad": [{"deep": Unserialisable()}]}, parent=1),
        lambda: put(saver, 2, {"fine": 2}, parent=1, metadata={"bad": Unserialisable()}),
        # Its version is not new, but the parent does not have it: it is needed after all.
        lambda: put(saver, 2, state, parent=1, changed={"fine"}),
        lambda: put(saver, 2, state, parent=9, changed=set()),
        lambda: saver.put_writes(cfg(1), [("fine", state["fine"]), ("bad", Unserialisable())], "task"),
        lambda: saver.put_writes(cfg(1), [("__interrupt__", state["fine"]), ("__error__", Unserialisable())], "task"),
    ):
        with refused(SerializationError, match="Nothing was stored"):
            call()
        assert raw.snapshot() == before
    found = saver.get_tuple(cfg())
    assert (values(found), found.pending_writes) == ({"fine": 1}, [])


def test_an_unserialisable_value_asynchronously(saver, raw):
    async def main():
        state = checkpoint(1, {"fine": noise(300_000), "bad": Unserialisable()})
        with refused(SerializationError, match="Nothing was stored"):
            await saver.aput(cfg(), state, DEFAULT, state["channel_versions"])
        with refused(SerializationError, match="Nothing was stored"):
            await saver.aput_writes(cfg(1), [("fine", noise(300_000)), ("bad", Unserialisable())], "task")

    asyncio.run(main())
    assert raw.snapshot() == ({}, {})


def test_values_that_another_serialiser_wrote(make_saver, saver):
    class Blind:
        def dumps_typed(self, value):
            return "blind", b"x"

        def loads_typed(self, data):
            raise ValueError(SECRET)

    put(saver, 1, {"a": SECRET})
    reader = make_saver(serde=Blind())
    for call in (lambda: reader.get_tuple(cfg()), lambda: reader.get_tuple(cfg(1)), lambda: list(reader.list(cfg()))):
        with refused(SerializationError, match=rf"^Channel 'a' of checkpoint '{cid(1)}', thread 't': .*`serde`"):
            call()
    put(saver, 2, {}, parent=1)
    saver.put_writes(cfg(2), [("b", SECRET)], "task")
    with refused(SerializationError, match=rf"^The metadata of checkpoint '{cid(2)}', thread 't': "):
        reader.get_tuple(cfg(2))
    with refused(SerializationError, match=rf"^The metadata of checkpoint '{cid(2)}', thread 't': "):
        reader.admin.history("t")

    class Half(Blind):
        def loads_typed(self, data):
            value = JsonPlusSerializer().loads_typed(data)
            if value == SECRET:
                raise ValueError(SECRET)
            return value

    half = make_saver(serde=Half())
    with refused(SerializationError, match=rf"^A write to channel 'b' of checkpoint '{cid(2)}', thread 't': "):
        half.get_tuple(cfg(2))
    with refused(SerializationError, match="^A write to channel 'b': "):
        put(saver, 3, {}, parent=2)
        half.get_delta_channel_history(config=cfg(3), channels=["b"])


# Ids


def test_lone_surrogates_in_ids(saver, raw):
    first = checkpoint(1, {"a": SECRET})
    versions = first["channel_versions"]
    for call in (
        lambda: put(saver, 1, {"a": SECRET}, thread=SURROGATE),
        lambda: put(saver, 1, {"a": SECRET}, ns=SURROGATE),
        lambda: saver.put(cfg(), {**first, "id": SURROGATE}, DEFAULT, versions),
        lambda: saver.put(cfg(), first, {**DEFAULT, "run_id": SURROGATE}, versions),
        lambda: saver.put_writes(cfg(1), [("a", SECRET)], SURROGATE),
        lambda: saver.get_tuple(cfg(thread=SURROGATE)),
        lambda: saver.get_tuple(cfg(ns=SURROGATE)),
        lambda: list(saver.list(cfg(thread=SURROGATE))),
        lambda: saver.delete_thread(SURROGATE),
    ):
        with refused(InvalidIdError, match="surrogate"):
            call()
        assert raw.snapshot() == ({}, {})


def test_lone_surrogates_in_values(make_saver, saver, raw):
    """Values, and names that are not ids: kept as the serializer keeps them, or refused, and never kept in part."""

    def kept(value):
        return saver.serde.loads_typed(saver.serde.dumps_typed(value))

    for n, (state, metadata, writes) in enumerate(
        (
            ({"a": SURROGATE}, {}, []),
            ({"a": {SURROGATE: [SURROGATE]}, "large": noise(20_000)}, {}, []),
            ({SURROGATE: "channel"}, {}, []),
            ({SURROGATE: noise(20_000)}, {}, []),
            ({"a": 1}, {"key": SURROGATE}, []),
            ({"a": 1}, {SURROGATE: "value"}, []),
            ({"a": 1}, {}, [("a", SURROGATE)]),
            ({"a": 1}, {}, [(SURROGATE, "value")]),
        ),
        1,
    ):
        thread = f"thread {n}"
        before = raw.snapshot()
        try:
            put(saver, 1, state, metadata=metadata, thread=thread)
        except GCSSaverError:
            assert raw.snapshot() == before
            continue
        found = make_saver().get_tuple(cfg(thread=thread))
        assert values(found) == {channel: kept(value) for channel, value in state.items()}
        assert found.metadata == kept({**DEFAULT, **metadata})
        before = raw.snapshot()
        try:
            saver.put_writes(cfg(1, thread=thread), writes, "task")
        except GCSSaverError:
            assert raw.snapshot() == before
            continue
        found = make_saver().get_tuple(cfg(thread=thread))
        assert found.pending_writes == [("task", channel, kept(value)) for channel, value in writes]


def test_a_lone_surrogate_in_a_filter_finds_nothing(saver):
    put(saver, 1, {"a": 1}, metadata={"user": "ada"})
    assert list(saver.list(cfg(), filter={"user": SURROGATE})) == []
    assert list(saver.list(cfg(), filter={SURROGATE: "ada"})) == []


@pytest.mark.parametrize("checkpoint_id", ["x" * 501, "é" * 251, "x" * 5000])
def test_checkpoint_ids_that_are_too_long(saver, raw, checkpoint_id):
    first = checkpoint(1, {"a": SECRET})
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}
    for call in (
        lambda: saver.put(cfg(), {**first, "id": checkpoint_id}, DEFAULT, first["channel_versions"]),
        lambda: saver.put(config, first, DEFAULT, first["channel_versions"]),
        lambda: saver.put_writes(config, [("a", SECRET)], "task"),
        lambda: saver.get_tuple(config),
        lambda: list(saver.list(config)),
        lambda: list(saver.list(cfg(), before=config)),
    ):
        with refused(InvalidIdError, match="At most 500"):
            call()
        assert raw.snapshot() == ({}, {})


def test_long_ids_that_fit(make_saver, saver):
    """The longest of everything at once."""
    ids = {"thread_id": "t" * 1600, "checkpoint_ns": "n" * 1600}
    checkpoint_id = "c" * 500
    state = {"channel " * 200: noise(20_000), "ü" * 200: 1}
    first = {**checkpoint(1, state), "id": checkpoint_id}
    stored = saver.put({"configurable": ids}, first, {**DEFAULT, "run_id": "r" * 1600}, first["channel_versions"])
    saver.put_writes(stored, [("w" * 1600, noise(200_000)), ("__interrupt__", noise(200_000))], "k" * 1600, "p" * 1600)
    reader = make_saver()
    for found in (reader.get_tuple({"configurable": ids}), reader.get_tuple(stored), *reader.list(stored)):
        assert found.config == stored
        assert values(found) == state
        assert len(found.pending_writes) == 2


# After close


def test_use_after_close(saver):
    put(saver, 1, {"a": 1})
    saver.close()
    saver.close()
    for call in (*calls(saver).values(), calls(saver)["get by id"]):
        with refused(SaverClosedError, match="make a new one"):
            call()
    for call in acalls(saver).values():

        async def main(call=call):
            with refused(SaverClosedError, match="make a new one"):
                await call()

        asyncio.run(main())
    saver.close()
    asyncio.run(saver.aclose())


def test_use_after_aclose(saver):
    async def main():
        first = checkpoint(1, {"a": 1})
        await saver.aput(cfg(), first, DEFAULT, first["channel_versions"])
        async with saver:
            assert values(await saver.aget_tuple(cfg())) == {"a": 1}
        for call in acalls(saver).values():
            with refused(SaverClosedError, match="make a new one"):
                await call()

    asyncio.run(main())
    for call in calls(saver).values():
        with refused(SaverClosedError, match="make a new one"):
            call()


def test_no_thread_is_left_of_a_closed_saver(make_saver):
    before = set(threading.enumerate())
    saver = make_saver()
    put(saver, 1, {f"c{n}": noise(20_000, n) for n in range(4)})
    saver.get_tuple(cfg(1))
    assert set(threading.enumerate()) > before
    saver.close()
    for what in ("get by id", "put large"):
        with refused(SaverClosedError):
            calls(saver)[what]()
    left = {thread for thread in set(threading.enumerate()) - before if "langgraph" in thread.name}
    assert left == set()


def test_an_event_handler_that_fails_changes_nothing(make_saver, caplog):
    def fail(event):
        raise RuntimeError(SECRET)

    saver = make_saver(on_event=fail)
    put(saver, 1, {"a": 1})
    assert values(saver.get_tuple(cfg())) == {"a": 1}
    assert "An event handler failed" in caplog.text
