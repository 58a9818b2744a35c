"""Passwords and credentials: no message quotes one, and none is sent in clear."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
import traceback

import pytest
from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.address import GoogleAddress, parse
from langgraph_gcs_saver.cli.commands.migrate import _quoted
from langgraph_gcs_saver.errors import GCSSaverError, InvalidURIError
from langgraph_gcs_saver.stores.google.clients import bucket_name

SECRET = "hunter2"

DEADLINE = 2
"""Seconds until a call to what answers nothing ends."""
MISTYPED = (
    f"postgresql://user:{SECRET}@host/db",
    f"gs://user:{SECRET}@bucket/prefix",
    f"gs://user:{SECRET}",
    f"gs://user%3A{SECRET}%40bucket",
    f"gs://bucket?root=a%2Fuser%253A{SECRET}%2540b%2Fc",
    f"gs://bucket/user:{SECRET}@host/a?b#",
    f"gs://bucket/%ff:{SECRET}",
    f"gs://bucket/{'x' * 200}?password={SECRET}",
    f"gs://bucket?password={SECRET}",
    f"gs://bucket?:{SECRET}@",
    f"gs://bucket?root=a:{SECRET}",
    f"gs:/user:{SECRET}@bucket",
    f"gs//user:{SECRET}@bucket",
    f"user:{SECRET}@host",
    f"{SECRET}:{SECRET}@host",
    f"file://user:{SECRET}@host/directory",
    f"file://{SECRET}/directory?password={SECRET}",
    f"file:user:{SECRET}",
    f"file:///a%ff{SECRET}",
    f"memory:{SECRET}",
    f"memory://user:{SECRET}@host",
    f"gs://[{SECRET}",
    f" gs://user:{SECRET}@bucket",
    f"'gs://user:{SECRET}@bucket'",
)


def printed(error):
    """The message, and what a log has of an exception that is logged with its causes."""
    return "".join(traceback.format_exception_only(type(error), error)) + str(error)


@pytest.mark.parametrize("uri", MISTYPED)
def test_a_mistyped_string_is_not_quoted(uri):
    for call in (parse, GCSSaver.from_conn_string):
        with pytest.raises(InvalidURIError) as caught:
            call(uri)
        shown = caught.value
        while shown is not None:
            assert SECRET not in printed(shown)
            shown = shown.__cause__


@pytest.mark.parametrize("uri", MISTYPED)
def test_nor_by_a_command(uri, monkeypatch, capsys):
    from langgraph_gcs_saver.cli import app

    for arguments in (["threads", "--store", uri], ["pull", "t", uri, "file:///nowhere"]):
        monkeypatch.setattr(sys, "argv", ["langgraph-gcs", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.run()
        assert ended.value.code
        told = capsys.readouterr()
        assert told.err
        assert SECRET not in told.err + told.out


@pytest.mark.parametrize(
    "source", [f"user:{SECRET}@host", f"mysql://user:{SECRET}@host/db", f"sqlite://user:{SECRET}@host/db"]
)
def test_nor_as_the_source_of_a_migration(source, tmp_path):
    command = [sys.executable, "-m", "langgraph_gcs_saver.cli", "migrate", "--from", source]
    ended = subprocess.run(
        [*command, "--store", f"file://{tmp_path}/store"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert SECRET not in ended.stderr + ended.stdout


def test_what_another_checkpointer_says_of_the_source():
    name = f"postgresql://me:pass/{SECRET}@host:5432/db"
    assert _quoted(ValueError(f'invalid port "{SECRET}"'), name) == ""
    assert _quoted(ValueError('authentication failed for user "me"'), name) == ': authentication failed for user "me"'


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"postgresql://me:{SECRET}", f'invalid integer value "{SECRET}" for connection option "port"'),
        (f"postgresql://[me:{SECRET}", f'looking for matching "]" in IPv6 host address: "postgresql://[me:{SECRET}"'),
        (f"postgresql://h/db?password={SECRET}%zz", f'invalid percent-encoded token: "{SECRET}%zz"'),
        (f"postgresql://h/db?user=me&sslpassword={SECRET}", f"{SECRET} is wrong"),
        ("postgresql://me:a%40b@h", 'a password "a@b"'),
        ("postgresql://me:hunter%32@h", f'a password "{SECRET}"'),
    ],
)
def test_nor_where_a_password_stands_elsewhere_in_it(name, said):
    assert _quoted(ValueError(said), name) == ""


def test_what_names_a_server_is_quoted():
    said = 'connection to server at "db.local", port 5432 failed: no "me" for database "db"'
    for name in ("me:pass@db.local:5432/db", "db.local:5432/db?user=me&password=pass", "db.local/db?user=me", "/db"):
        assert _quoted(ValueError(said), f"postgresql://{name}") == f": {said}"


def test_the_other_ways_to_name_a_bucket():
    for call in (
        lambda: bucket_name(f"gs://user:{SECRET}@bucket"),
        lambda: GoogleAddress(bucket=f"user:{SECRET}@bucket"),
        lambda: GoogleAddress(bucket="bucket", prefix=f"a//user:{SECRET}@host"),
        lambda: GoogleAddress(bucket="bucket", root=f"user:{SECRET}@host"),
    ):
        with pytest.raises(GCSSaverError) as caught:
            call()
        assert SECRET not in printed(caught.value)


def test_what_is_harmless_is_shown():
    with pytest.raises(InvalidURIError, match=r"'projct'.*project"):
        parse("gs://bucket?projct=mine")
    with pytest.raises(InvalidURIError, match="'My Bucket'"):
        GoogleAddress(bucket="My Bucket")
    with pytest.raises(InvalidURIError, match="begins with s3://"):
        parse("s3://bucket/prefix")


# Emulators


@pytest.fixture
def listener():
    """Keeps every byte that is sent to a port, and answers nothing."""
    got = bytearray()

    class Keep(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(65536):
                got.extend(data)
                if data.endswith(b"\r\n\r\n") and data.startswith(b"GET"):
                    self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Keep) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", got
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE"])
def test_credentials_are_never_sent_to_an_emulator(listener, monkeypatch, variable):
    """Not even those that the caller passes: an emulator is spoken to in clear."""
    host, got = listener
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv(variable, f"http://{host}")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", host)
    given = Credentials(token=SECRET, id_token=SECRET)
    with GCSSaver.from_conn_string("gs://bucket/agents?project=p", credentials=given, timeout=DEADLINE) as saver:
        with pytest.raises(GCSSaverError):
            saver.ping()
        used = [saver._backend.blobs._bucket().client._credentials, saver._backend.documents._client._credentials]
    assert got
    assert SECRET.encode() not in got
    assert [type(one) for one in used] == [AnonymousCredentials] * 2


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE"])
def test_credentials_are_used_over_tls(monkeypatch, variable):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv(variable, "https://storage.example.com")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    given = Credentials(token=SECRET)
    with GCSSaver.from_conn_string("gs://bucket/agents?project=p", credentials=given) as saver:
        assert saver._backend.blobs._bucket().client._credentials is given
