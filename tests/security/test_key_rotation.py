"""Keys change while agents write and read, and others prune, copy and verify: nothing is lost or unreadable."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import WrongKeyError
from tests.behaviour.api import cfg, cid, number
from tests.incremental.eax import Eax
from tests.patience import PATIENCE
from tests.stateful.load import THREADS, World, is_right, put


class Ring:
    """A cipher with several keys. The newest one encrypts, and its name is stored with the ciphertext.

    Attributes:
        keys: Keys by name, the newest last. A key is added at any time, while others encrypt and decrypt.
    """

    def __init__(self, *names: str) -> None:
        self.keys = {name: Eax(name) for name in names}

    def add(self, name: str) -> None:
        self.keys = {**self.keys, name: Eax(name)}

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        name, key = list(self.keys.items())[-1]
        return name, key.encrypt(plaintext)[1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return self.keys[ciphername].decrypt("aes-eax", ciphertext)


@pytest.mark.parametrize(
    ("store_uri", "steps"),
    [
        ("local", 12),
        pytest.param("local", 150, marks=pytest.mark.soak),
        pytest.param("emulators", 40, marks=pytest.mark.soak),
    ],
    indirect=["store_uri"],
)
def test_keys_change_under_load(make_saver: Any, tmp_path: Any, steps: int) -> None:
    ring = Ring("key 0")

    def rotate(step: int) -> None:
        if step % 3 == 0:
            ring.add(f"key {step}")

    def open_saver() -> GCSSaver:
        saver: GCSSaver = make_saver(cipher=ring, inline_max_bytes=2000, timeout=PATIENCE)
        return saver

    world = World(open_saver, steps, after=rotate)
    world.live()
    newest = list(ring.keys)[-1]
    assert len(ring.keys) == steps // 3 + 1
    saver = open_saver()
    world.check(saver)

    # A saver that has only the newest key reads nothing that needs an older one, and takes none of it for damage.
    events: list[Any] = []
    late = make_saver(cipher=Ring(newest), on_event=events.append)
    with pytest.raises(WrongKeyError):
        late.get_tuple(cfg(THREADS[0]))
    assert not [event for event in events if type(event).__name__ in {"CheckpointDamaged", "CheckpointRecovered"}]
    # What is stored with it alone, reads.
    put(late, "new", 1)
    assert is_right(make_saver(cipher=Ring(newest)).get_tuple(cfg("new")), "new")

    # The old keys can be dropped when everything is encrypted with the new one.
    with GCSSaver.from_conn_string(f"file://{tmp_path}/anew", cipher=Ring(newest)) as target:
        target.admin.migrate(saver, thread_ids=[*THREADS])
    with GCSSaver.from_conn_string(f"file://{tmp_path}/anew", cipher=Ring(newest)) as target:
        assert [one for one in target.admin.verify(depth="data") if one.is_damage] == []
        for thread in THREADS:
            assert number(target.get_tuple(cfg(thread))) == steps
            assert all(is_right(one, thread) for one in target.list(cfg(thread)))
            assert target.get_tuple(cfg(thread, n=steps)).checkpoint["id"] == cid(steps)
