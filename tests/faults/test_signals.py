"""Exceptions that signals raise, in processes of their own: nothing hangs afterwards, and nothing is wrong."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.patience import PATIENCE
from tests.system.build import cfg, number


@pytest.fixture
def program():
    """Starts `python -m tests.faults.NAME`; what still runs at the end is killed."""
    started = []

    def start(name, *arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.faults.{name}", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors[-8000:]
    return output


@pytest.fixture
def uri(request):
    request.getfixturevalue("firestore_emulator")
    bucket, project = request.getfixturevalue("bucket_name"), request.getfixturevalue("project_id")
    return f"gs://{bucket}/agents?project={project}"


def test_struck_at_random_a_saver_goes_on(program, uri):
    assert "acknowledged" in finish(program("strikes", uri, 1, 300))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 8))
def test_struck_at_random_for_long_a_saver_goes_on(program, uri, seed):
    assert "acknowledged" in finish(program("strikes", uri, seed, 2000))


@pytest.fixture
def silent():
    """Services that accept connections and never answer: their port, and an event that is set by the first request."""
    asked, ends, accepted = threading.Event(), threading.Event(), []

    def accept(server):
        while not ends.is_set():
            accepted.append(server.accept()[0])
            if not ends.is_set():
                accepted[-1].recv(1)
                asked.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        yield server.getsockname()[1], asked
        ends.set()
        with socket.create_connection(server.getsockname()):
            thread.join()
    for connection in accepted:
        connection.close()


@pytest.mark.parametrize(("service", "scheme"), [("FIRESTORE_EMULATOR_HOST", ""), ("STORAGE_EMULATOR_HOST", "http://")])
def test_ctrl_c_does_not_wait_for_a_service(program, silent, uri, service, scheme):
    """Neither does the end of the process; the timeout is an hour."""
    port, asked = silent
    process = program("hanging", uri, **{service: f"{scheme}127.0.0.1:{port}"})
    assert asked.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted\n"


@pytest.mark.parametrize("before", ["warm", "cold"])
def test_a_saver_can_be_used_and_closed_at_exit(program, store_uri, make_saver, before):
    assert finish(program("at_exit", store_uri, before)) == "stored\n"
    assert number(make_saver().get_tuple(cfg())) == 2
