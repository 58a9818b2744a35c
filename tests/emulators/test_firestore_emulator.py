"""The Firestore emulator: found, started, and with the behavior that the other tests rely on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from tests.emulators import firestore as harness
from tests.emulators.firestore import EmulatorNotFoundError, FirestoreEmulator, ensure_jar, find_jar, find_java
from tests.emulators.process import EmulatorStartError
from tests.patience import PATIENCE


@pytest.fixture
def client(firestore_emulator: str, project_id: str) -> Iterator[firestore.Client]:
    assert os.environ["FIRESTORE_EMULATOR_HOST"] == firestore_emulator
    client = firestore.Client(project=project_id, credentials=AnonymousCredentials())
    yield client
    client.close()


def names(client: firestore.Client) -> list[str]:
    return [snapshot.id for snapshot in client.collection("c").stream(retry=None, timeout=PATIENCE)]


# Behavior


def test_create_is_refused_when_the_document_exists(client: firestore.Client) -> None:
    client.document("c/x").create({"n": 1})
    with pytest.raises(exceptions.AlreadyExists):
        client.document("c/x").create({"n": 2})
    batch = client.batch()
    batch.set(client.document("c/y"), {"n": 2})
    batch.create(client.document("c/x"), {"n": 2})
    with pytest.raises(exceptions.AlreadyExists):
        batch.commit()
    assert names(client) == ["x"]
    assert client.document("c/x").get().to_dict() == {"n": 1}


def test_update_time_precondition(client: firestore.Client) -> None:
    document = client.document("c/x")
    first = document.set({"n": 1}).update_time
    second = document.update({"n": 2}, client.write_option(last_update_time=first)).update_time
    assert second > first
    with pytest.raises(exceptions.FailedPrecondition):
        document.update({"n": 3}, client.write_option(last_update_time=first))
    with pytest.raises(exceptions.FailedPrecondition):
        document.delete(client.write_option(last_update_time=first))
    assert document.get().to_dict() == {"n": 2}
    document.delete(client.write_option(last_update_time=second))
    assert not document.get().exists


def test_a_document_over_a_mebibyte_is_refused(client: firestore.Client) -> None:
    client.document("c/fits").set({"data": bytes(1_048_000)})
    with pytest.raises(exceptions.InvalidArgument, match="longer than 1048487 bytes"):
        client.document("c/large").set({"data": bytes(1_048_600)})
    with pytest.raises(exceptions.InvalidArgument, match="maximum entity size is 1048576 bytes"):
        client.document("c/large").set({"a": bytes(600_000), "b": bytes(600_000)})
    assert names(client) == ["fits"]


def test_names_in_descending_order_are_refused(client: firestore.Client) -> None:
    for name in ("a", "b", "c"):
        client.document(f"c/{name}").set({"ns": "x"})
    query = client.collection("c").where(filter=firestore.FieldFilter("ns", "==", "x"))
    ascending = query.order_by("__name__", direction=firestore.Query.ASCENDING)
    assert [snapshot.id for snapshot in ascending.stream()] == ["a", "b", "c"]
    descending = client.collection("c").order_by("__name__", direction=firestore.Query.DESCENDING)
    with pytest.raises(exceptions.GoogleAPICallError, match="descending key scans"):
        list(descending.stream(retry=None, timeout=PATIENCE))


def test_projects_are_apart(client: firestore.Client, project_id: str) -> None:
    other = firestore.Client(project=f"{project_id}-2", credentials=AnonymousCredentials())
    other.document("c/x").set({})
    assert names(other) == ["x"]
    assert names(client) == []
    other.close()


# Its process


def test_kill_and_start_on_the_same_port(tmp_path: Path, project_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FirestoreEmulator(tmp_path / "log") as emulator:
        host, port, pid = emulator.host, emulator.port, emulator.pid
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", host)
        client = firestore.Client(project=project_id, credentials=AnonymousCredentials())
        client.document("c/x").set({})
        emulator.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(exceptions.ServiceUnavailable):
            client.document("c/x").get(retry=None, timeout=PATIENCE)
        emulator.start(port)
        assert (emulator.host, emulator.pid == pid) == (host, False)
        # The channel of before the kill works again, after its pause; what was stored is lost.
        assert not client.document("c/x").get(timeout=PATIENCE).exists
        assert names(client) == []
        client.document("c/y").set({})
        assert names(client) == ["y"]
        client.close()
    assert emulator.log_path.read_text().count("Dev App Server is now running") == 2


def test_a_lost_port_is_noticed(tmp_path: Path, firestore_emulator: str) -> None:
    # The other emulator answers `Ok` there all the while.
    emulator = FirestoreEmulator(tmp_path / "log")
    with pytest.raises(EmulatorStartError, match="Address already in use"):
        emulator.start(int(firestore_emulator.rpartition(":")[2]))
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.pid


def test_by_hand() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_EMULATOR_HOST")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.emulators"],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
    assert lines[0].startswith("export FIRESTORE_EMULATOR_HOST=127.0.0.1:")
    assert lines[1].startswith("export STORAGE_EMULATOR_HOST=http://127.0.0.1:")
    assert process.returncode == 0
    for line in lines:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(line.rpartition(":")[2]))) != 0


# Finding it


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without an SDK, a cache or any program; returns its home."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("FIRESTORE_EMULATOR_JAR", raising=False)
    monkeypatch.setattr(harness, "_SYSTEM_SDKS", ())
    return tmp_path


def program(home: Path, name: str, body: str) -> Path:
    path = home / "bin" / name
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{body}\n")
    path.chmod(0o755)
    return path


def jar_in(folder: Path) -> Path:
    jar = folder / "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    return jar


def test_the_jar_that_the_environment_names(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar_in(bare / "google-cloud-sdk")
    named = bare / "my.jar"
    monkeypatch.setenv("FIRESTORE_EMULATOR_JAR", str(named))
    with pytest.raises(EmulatorNotFoundError, match=r"my\.jar"):
        ensure_jar()
    named.touch()
    assert ensure_jar() == named


def test_the_jar_of_an_sdk(bare: Path) -> None:
    assert find_jar() is None
    at_home = jar_in(bare / "google-cloud-sdk")
    assert find_jar() == at_home
    linked = jar_in(bare / "opt/sdk")
    (bare / "opt/sdk/bin").mkdir()
    (bare / "opt/sdk/bin/gcloud").write_text("")
    (bare / "opt/sdk/bin/gcloud").chmod(0o755)
    (bare / "bin/gcloud").symlink_to(bare / "opt/sdk/bin/gcloud")
    assert find_jar() == linked


def test_the_jar_of_an_sdk_that_only_gcloud_knows(bare: Path) -> None:
    jar = jar_in(bare / "odd/place")
    program(bare, "gcloud", f'[ "$1" = info ] && echo "{bare}/odd/place"')
    assert find_jar() == jar


def test_the_newest_cached_jar(bare: Path) -> None:
    cache = bare / ".cache/firebase/emulators"
    cache.mkdir(parents=True)
    for version in ("1.9.10", "1.19.8", "1.19.10", "1.2.3"):
        (cache / f"cloud-firestore-emulator-v{version}.jar").touch()
    assert find_jar() == cache / "cloud-firestore-emulator-v1.19.10.jar"


def test_the_jar_is_fetched(bare: Path) -> None:
    cache = bare / ".cache/firebase/emulators"
    program(bare, "gcloud", "echo the component manager is disabled >&2; exit 1")
    program(
        bare,
        "npx",
        f'[ "$*" = "--yes firebase-tools@15.34.2 setup:emulators:firestore" ] || exit 2\n'
        f"/bin/mkdir -p {cache}; : > {cache}/cloud-firestore-emulator-v1.2.3.jar",
    )
    assert ensure_jar() == cache / "cloud-firestore-emulator-v1.2.3.jar"


def test_nothing_found_and_nothing_fetched(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "gcloud", "echo the component manager is disabled >&2; exit 1")
    program(bare, "npx", "/bin/sleep 60")
    run = harness.run
    monkeypatch.setattr(harness, "run", lambda command, seconds: run(command, 0.5 if "npx" in command[0] else seconds))
    with pytest.raises(EmulatorNotFoundError) as caught:
        ensure_jar()
    message = str(caught.value)
    for part in (
        "the component manager is disabled",
        "no end after",
        "FIRESTORE_EMULATOR_JAR",
        "gcloud components install cloud-firestore-emulator",
        "firebase-tools setup:emulators:firestore",
        "~/.cache/firebase/emulators",
        "FIRESTORE_EMULATOR_HOST",
        "Java",
    ):
        assert part in message


def test_no_java(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmulatorNotFoundError, match="Java 17 or newer"):
        find_java()
    (bare / "jdk/bin").mkdir(parents=True)
    java = program(bare, "java", "").rename(bare / "jdk/bin/java")
    monkeypatch.setenv("JAVA_HOME", str(bare / "jdk"))
    assert find_java() == str(java)


def test_a_missing_emulator_fails_the_tests_that_need_it(bare: Path) -> None:
    test = bare / "test_it.py"
    test.write_text("def test_it(firestore_emulator): pass\n\ndef test_unit(): pass\n")
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_EMULATOR_HOST")}
    program(bare, "java", "exit 1")
    # The environment comes before an SDK that this machine may have.
    environment |= {"FIRESTORE_EMULATOR_JAR": str(bare / "none.jar"), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.emulators.fixtures", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(
        command, cwd=bare, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert "npx firebase-tools setup:emulators:firestore" in done.stdout
