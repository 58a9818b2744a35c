"""Servers as their guides start them, on a port of their own, and `curl` as the guides call it."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx

from tests.patience import PATIENCE, eventually

BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""For processes that write bytecode, wherever tests run: most of their start would be compiling LangGraph."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def split(command):
    """The variables before a command, and its words."""
    words = shlex.split(command)
    count = next(i for i, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


@contextmanager
def served(words, port, *, path, log, cwd, environment, stop=signal.SIGTERM):
    """A server's process, while it answers; ended by a signal, and by force if it does not end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=os.environ | BYTECODE | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{path}", log)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process, url, log):
    def answers():
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(url, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers)


def uvicorn(words):
    return [sys.executable, "-m", *words]


def curl(command, port):
    """What `curl` would print: its words say what to send where; the port is another one."""
    words = shlex.split(command)
    assert words[0] == "curl"
    options = [word for word in words[1:] if not word.startswith("http")]
    (url,) = [word for word in words[1:] if word.startswith("http://127.0.0.1:")]
    body = None
    while options:
        option = options.pop(0)
        if option == "-d":
            body = json.dumps(json.loads(options.pop(0)))
        elif option == "-H":
            assert options.pop(0) == "content-type: application/json"
        else:
            assert option in {"-s", "-sN"}
    asked = httpx.URL(url).copy_with(port=port)
    method = "GET" if body is None else "POST"
    answer = httpx.request(method, asked, content=body, headers={"content-type": "application/json"}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.text.strip()
