"""What docs/explanation/security.md says of keys, of what stays readable, and of what reading can run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.errors import CheckpointCorruptError, SerializationError, WrongKeyError
from langgraph_gcs_saver.format.keys import checkpoint_doc
from langgraph_gcs_saver.portable import PortableSerializer
from tests.incremental.eax import Eax
from tests.security.hostile import Trap, fill
from tests.system.raw import open_raw

ID = "1f0c0000-0000-6000-8000-000000000001"
THREAD: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
KEY = b"k" * 32


def _put(saver: GCSSaver, value: Any, checkpoint_id: str = ID) -> None:
    checkpoint: Any = {
        "v": 1,
        "id": checkpoint_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {"v": value},
        "channel_versions": {"v": "1"},
        "versions_seen": {},
    }
    metadata: Any = {"source": "loop", "step": 1, "who": "the user", "note": {"more": "of it"}}
    saver.put(THREAD, checkpoint, metadata, {"v": "1"})


def _stored(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def _filter(saver: GCSSaver) -> dict[str, Any]:
    name = checkpoint_doc("t", "", ID)
    return dict(saver._backend.perform(GetDocs((name,)))[name].fields.get("filter", {}))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def test_a_cipher_hides_all_but_what_is_named(uri, tmp_path):
    with GCSSaver.from_conn_string(uri, cipher=Eax("a"), clear_metadata=["who"]) as saver:
        _put(saver, "a secret")
        assert _filter(saver) == {"who": "the user"}
    stored = _stored(tmp_path)
    assert b"a secret" not in stored
    assert b"of it" not in stored


def test_the_serialiser_that_encrypts_leaves_short_metadata_in_clear(uri, tmp_path):
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY)
    with GCSSaver.from_conn_string(uri, serde=serde) as saver:
        _put(saver, "a secret")
        assert _filter(saver) == {"source": "loop", "step": 1, "who": "the user"}
    stored = _stored(tmp_path)
    assert b"a secret" not in stored
    assert b"of it" not in stored


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ({"cipher": Eax("a")}, {"cipher": Eax("b")}, WrongKeyError),
        ({"cipher": Eax("a")}, {}, WrongKeyError),
        (
            {"serde": EncryptedSerializer.from_pycryptodome_aes(key=KEY)},
            {"serde": EncryptedSerializer.from_pycryptodome_aes(key=b"z" * 32)},
            SerializationError,
        ),
    ],
    ids=["another key", "no key", "another key of the serialiser"],
)
def test_a_wrong_key_raises_and_nothing_falls_back(uri, right, wrong, error):
    with GCSSaver.from_conn_string(uri) as saver:
        _put(saver, "before there was a key", ID.replace("1f0c", "1f0b"))
    accepts = {"accept_clear": True} if "cipher" in right else {}
    with GCSSaver.from_conn_string(uri, **right, **accepts) as saver:
        _put(saver, "a secret")
        assert len(list(saver.list(THREAD))) == 2, "what was stored before is read, too"
    seen: list[Any] = []
    with GCSSaver.from_conn_string(uri, on_event=seen.append, **wrong) as saver, pytest.raises(error):
        saver.get_tuple(THREAD)
    assert not [event for event in seen if type(event).__name__ in {"CheckpointDamaged", "CheckpointRecovered"}]


def test_a_class_that_is_not_allowed_is_not_imported(uri, tmp_path, monkeypatch):
    module = "a_module_of_a_stranger"
    (tmp_path / f"{module}.py").write_text(
        "from dataclasses import dataclass\nprint('it ran')\n\n\n@dataclass\nclass Payload:\n    name: str\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    payload = __import__(module).Payload("x")
    with GCSSaver.from_conn_string(uri) as saver:
        _put(saver, payload)
    sys.modules.pop(module)
    allowed = JsonPlusSerializer(allowed_msgpack_modules=[("my_agent.state", "Plan")])
    with GCSSaver.from_conn_string(uri, serde=allowed) as saver:
        loaded = saver.get_tuple(THREAD)
        assert loaded is not None
        assert loaded.checkpoint["channel_values"] == {"v": {"name": "x"}}, "its plain data"
        assert module not in sys.modules
        longer: Any = saver.with_allowlist([(module, "Payload")])
        assert type(longer.get_tuple(THREAD).checkpoint["channel_values"]["v"]).__name__ == "Payload"
    sys.modules.pop(module)
    with GCSSaver.from_conn_string(uri) as saver:
        assert saver.with_allowlist([("my_agent.state", "Plan")]) is saver, "it allows everything, the default"
        assert list(saver.admin.verify(depth="data")) == []
        assert saver.admin.stats().checkpoints == 1
        assert module not in sys.modules, "looking needs no class"


def test_keys_can_be_changed_by_their_names(uri):
    class Both:
        """Writes with the new key, and reads both."""

        def __init__(self) -> None:
            self.ciphers = {"new": Eax("new"), "aes-eax": Eax("old")}

        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "new", self.ciphers["new"].encrypt(plaintext)[1]

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return self.ciphers[ciphername].decrypt("aes-eax", ciphertext)

    with GCSSaver.from_conn_string(uri, cipher=Eax("old")) as saver:
        _put(saver, "old", ID.replace("1f0c", "1f0b"))
    with GCSSaver.from_conn_string(uri, cipher=Both()) as saver:
        _put(saver, "new")
        assert [found.checkpoint["channel_values"]["v"] for found in saver.list(THREAD)] == ["new", "old"]


def test_services_are_reached_over_tls(monkeypatch):
    for name in ("FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    channels: list[Any] = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda *args, **options: channels.append((args, options)))
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *args, **options: channels.append((args, options)))
    with GCSSaver.from_conn_string("gs://bucket?project=p", credentials=AnonymousCredentials()) as saver:
        assert saver._backend.blobs._given.client._connection.API_BASE_URL.startswith("https://")
        saver._backend.documents._stubs()
        asyncio.run(_loop_stubs(saver))
    assert channels == []


async def _loop_stubs(saver: GCSSaver) -> None:
    saver._backend.documents._loop_stubs()


def test_the_environment_restricts_what_is_imported(uri, tmp_path):
    """In a separate process, because the environment is read when LangGraph is imported."""
    trap = Trap(tmp_path)
    with GCSSaver.from_conn_string(uri, serde=PortableSerializer()) as saver:
        fill(saver, trap)
    script = (
        "import logging, sys\n"
        "logging.disable()\n"
        "from langgraph_gcs_saver import GCSSaver\n"
        "with GCSSaver.from_conn_string(sys.argv[1]) as saver:\n"
        "    saver.get_tuple({'configurable': {'thread_id': 't', 'checkpoint_ns': ''}})\n"
    )
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true", "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, uri], check=True, env=environment, cwd=tmp_path)
    assert not trap.is_sprung, "it is without the variable: tests/security/test_reading_runs_nothing.py"


def test_swapped_documents(uri):
    """The digest of a document is over its name too; a well-sealed one is another matter."""
    with GCSSaver.from_conn_string(uri) as saver:
        _put(saver, "old", ID.replace("1f0c", "1f0b"))
        _put(saver, "new")
    raw = open_raw(uri)
    old, new = (checkpoint_doc("t", "", one) for one in (ID.replace("1f0c", "1f0b"), ID))
    raw.set_document(new, raw.documents()[old])
    with GCSSaver.from_conn_string(uri, on_corruption="raise") as saver, pytest.raises(CheckpointCorruptError):
        saver.get_tuple(THREAD)
