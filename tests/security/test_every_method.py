"""Every method of `GCSSaver`, and its asynchronous twin, on hostile stores.

The stores are those of the other suites. Their commands, and what each method gives in detail, are tried there.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.saver.admin import Admin
from tests.kit import methods
from tests.security import registry
from tests.security.forging import name_of
from tests.security.hostile import MODULE, Trap, fill
from tests.security.registry import Around
from tests.security.sealing import opened, seal, seal_writes
from tests.security.test_shapes import (
    FORGERIES,
    OTHERS,
    PLAIN,
    documents_with_odd_names,
    made,  # noqa: F401 - a fixture
    metadata_of_another_serializer,
    open_reader,
    store,  # noqa: F401 - a fixture
    store_uri,  # noqa: F401 - a fixture
)
from tests.system.build import cfg, noise, put
from tests.system.raw import open_raw
from tests.system.test_verify import flip_frame

STRICT = JsonPlusSerializer(allowed_msgpack_modules=[("my_agent.state", "Plan")])


def ways(number: int) -> list[tuple[str, bool]]:
    """All methods in order, every second one as its twin; those that were not with the next number."""
    return [(name, (position + number) % 2 == 1) for position, name in enumerate(registry.METHODS)]


def source() -> InMemorySaver:
    found = InMemorySaver()
    put(found, 1, {"v": 1})
    return found


@pytest.mark.parametrize("number", range(len(FORGERIES)), ids=[forgery.__name__ for forgery in FORGERIES])
def test_a_method_meets_an_odd_thread(number: int, store: Path, raw: Any, tmp_path: Path) -> None:  # noqa: F811
    """Each gives something or raises an error of this library, and `verify` reports all threads."""
    FORGERIES[number](raw)
    told: set[str] = set()
    with (
        open_reader(store, PLAIN) as saver,
        open_reader(tmp_path / "other", PLAIN) as other,
        open_reader(tmp_path / "replica", PLAIN) as replica,
    ):
        around = Around(tmp_path, other, replica, source=source(), channels=("said", "delta", "log"))
        for name, is_async in ways(number):
            with suppress(GCSSaverError):
                found = registry.perform(saver, name, around, is_async=is_async)
                told |= {one.thread_id for one in found if one.is_damage} if name == "verify" else set()
    assert told >= OTHERS or FORGERIES[number] in RAISE_AT_THE_END


RAISE_AT_THE_END = (metadata_of_another_serializer, documents_with_odd_names)
"""For these, `verify` raises an error after it has reported all threads one by one."""


# Values that name code


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store of values that name code, and the module that they name."""
    directory = tmp_path_factory.mktemp("trapped")
    with GCSSaver.from_conn_string(f"file://{directory}/store", serde=PLAIN) as saver:
        fill(saver, Trap(directory))
    return directory


@pytest.fixture
def trap(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    monkeypatch.syspath_prepend(str(trapped))
    yield Trap(trapped)
    sys.modules.pop(MODULE, None)
    (trapped / "sprung").unlink(missing_ok=True)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("cls", [Admin, GCSSaver])
def test_a_method_runs_nothing(cls: type[Admin], number: int, trapped: Path, trap: Trap, tmp_path: Path) -> None:
    """Of `Admin` as it is, of a `GCSSaver` with a list of classes."""
    shutil.copytree(trapped / "store", tmp_path / "store")
    options: Any = {"serde": STRICT} if cls is GCSSaver else {}
    options["ttl"] = timedelta(days=1)
    with (
        cls.from_conn_string(f"file://{tmp_path}/store", **options) as saver,
        cls.from_conn_string(f"file://{tmp_path}/other", **options) as other,
        cls.from_conn_string(f"file://{tmp_path}/replica", **options) as replica,
    ):
        around = Around(tmp_path, other, replica, source=source(), channels=("said", "log", "deltas"), newest=4)
        for name, is_async in ways(number):
            if name in registry.all_methods(cls):
                with suppress(GCSSaverError):
                    registry.perform(saver, name, around, is_async=is_async)
                assert not trap.is_sprung, name


# What errors and logs disclose


MARK = "XYZZYPLUGH"


@pytest.fixture
def marked(tmp_path: Path) -> str:
    """A store whose state, metadata and pending writes have a mark, and are damaged in many ways."""
    uri = f"file://{tmp_path}/marked"
    with GCSSaver.from_conn_string(uri, serde=PLAIN) as saver:
        for n in range(1, 7):
            state = {
                "v": [MARK, noise(300, n)],
                "large": [MARK, noise(140_000, n)],
                "w": Stored.of(0, ["m", MARK, [MARK]]),
            }
            put(saver, n, state, parent=n - 1 or None, metadata={"note": MARK, "run_id": "run"})
            saver.put_writes(cfg(n), [("v", MARK), ("large", [MARK])], "task")
            saver.put_writes(cfg(n), [("__interrupt__", MARK)], "asking")
    found = open_raw(uri)
    flip_frame(found, 2, "v")
    flip_frame(found, 3, "large")
    head, tail = opened(found, name_of(4))
    kind, data = PLAIN.dumps_typed({"step": MARK, "source": [MARK], "parents": MARK})
    seal(found, name_of(4), {**head, "metadata": [kind, len(data)]}, data)
    seal(found, name_of(5), {**head, "checkpoint": {"ts": [MARK], "channel_versions": MARK}}, tail)
    name = next(name for name in found.documents() if name.startswith(keys.writes("t")))
    seal_writes(found, name, {"path": [MARK], "writes": [[MARK]]}, MARK.encode())
    found.close()
    return uri


@pytest.mark.parametrize("serde", [PLAIN, STRICT, None], ids=["plain", "strict", "default"])
def test_nothing_of_the_state_is_told(
    serde: Any, marked: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither errors, nor events, plans and findings, nor the log and what is printed have anything of it."""
    events: list[Any] = []
    options: Any = {"serde": serde, "on_event": events.append, "ttl": timedelta(days=1), "cache_max_bytes": 0}
    # LangGraph's own log names classes that it does not know.
    caplog.set_level(logging.DEBUG, "langgraph_gcs_saver")
    errors: list[str] = []
    told: list[Any] = []
    with (
        GCSSaver.from_conn_string(marked, **options) as saver,
        GCSSaver.from_conn_string(f"file://{tmp_path}/other", **options) as other,
        GCSSaver.from_conn_string(f"file://{tmp_path}/replica", **options) as replica,
    ):
        around = Around(tmp_path, other, replica, source=source(), channels=("v", "large"), newest=6)
        assert MARK in repr(saver.get_tuple(cfg()))
        for name, is_async in ways(0):
            texts, found = told_by(saver, name, around, is_async=is_async)
            errors += texts
            told += found if name in {*methods.EACH, "repair", "collect", "sweep", "prune", "delete_for_runs"} else ()
    own = [record.getMessage() for record in caplog.records if record.name.startswith("langgraph_gcs_saver")]
    assert events, "there is damage to report"
    assert errors
    for text in (*errors, *own, *map(repr, events), *map(str, told)):
        assert MARK not in text
    assert MARK not in "".join(capfd.readouterr())


def told_by(saver: Any, name: str, around: Around, *, is_async: bool) -> tuple[list[str], Any]:
    """What the errors say that a call raises, and what it gives."""
    try:
        return [], registry.perform(saver, name, around, is_async=is_async)
    except GCSSaverError as error:
        texts, cause = [str(error)], error.__cause__
        while cause is not None:
            texts.append(str(cause))
            cause = cause.__cause__
        return texts, []
