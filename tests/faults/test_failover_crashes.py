"""A process that crashes at any effect of a failover leaves two stores that any other process can continue with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.errors import InvalidInputError, NotPrimaryError
from langgraph_gcs_saver.format.regions import FIRST_ROLE, Role, role_of
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan, cid, config_of, put_arguments

Stores = tuple[CrashingSaver, CrashingSaver]

CALLS: dict[str, dict[str, bool]] = {"planned": {}, "forced": {"force": True}, "aborted": {"abort": True}}


@pytest.fixture
def new_stores(tmp_path: Path) -> Callable[[], tuple[str, str]]:
    numbers = count()
    return lambda: (f"file://{tmp_path}/{(number := next(numbers))}/eu", f"file://{tmp_path}/{number}/us")


def _open(stack: ExitStack, uris: tuple[str, str]) -> Stores:
    source, target = (stack.enter_context(CrashingSaver.from_conn_string(uri)) for uri in uris)
    return source, target


def _role(saver: CrashingSaver) -> Role:
    return role_of(saver._backend.perform(GetDocs((FIRST_ROLE,)))[FIRST_ROLE])


def _stored(saver: CrashingSaver) -> set[str]:
    return {one.checkpoint["id"] for one in saver.list(config_of(None))}


def _put(saver: CrashingSaver, number: int, parent: int | None) -> bool:
    """Store a checkpoint, if the store is the primary."""
    try:
        saver.put(*put_arguments(number, parent))
    except NotPrimaryError:
        return False
    return True


def _crashed(uris: tuple[str, str], call: dict[str, bool], stop_after: int | None) -> Plan:
    """Replicate, store something that is not shipped yet, and crash in a failover."""
    with ExitStack() as stack:
        source, target = _open(stack, uris)
        source.put(*put_arguments(1, None))
        source.admin.replicate(target)
        assert _put(source, 2, 1)
        if call.get("abort"):
            source.plan = target.plan = Plan(12)
            with pytest.raises(Crashed):
                source.admin.failover(target)
            source.plan = target.plan = Plan()
            assert _role(source).name == "fenced"
    with ExitStack() as stack:
        source, target = _open(stack, uris)
        plan = source.plan = target.plan = Plan(stop_after)
        try:
            source.admin.failover(target, **call)
        except Crashed:
            source.plan = target.plan = Plan()
    return plan


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", CALLS)
def test_crashes_after_every_effect(name: str, every: int, new_stores: Callable[[], tuple[str, str]]) -> None:
    call = CALLS[name]
    whole = _crashed(new_stores(), call, None)
    assert len(whole.done) >= 4
    for stop_after in range(1, len(whole.done) + 1, every):
        uris = new_stores()
        _crashed(uris, call, stop_after)
        with ExitStack() as stack:
            source, target = _open(stack, uris)
            took = [_put(source, 3, 2), _put(target, 4, 2)] if name != "forced" else [_put(source, 3, 2), False]
            assert sum(took) <= 1, "two primaries"
        acknowledged = {cid(1), cid(2)} | {cid(3 + at) for at, is_stored in enumerate(took) if is_stored}
        with ExitStack() as stack:
            source, target = _open(stack, uris)
            primary, other = _ended(source, target, call)
            assert acknowledged <= _stored(primary)
            assert _put(primary, 5, 2)
            assert not _put(other, 6, 2)


def _ended(source: CrashingSaver, target: CrashingSaver, call: dict[str, bool]) -> Stores:
    """The primary and the replica, after another process has continued."""
    done: Any = None
    try:
        done = source.admin.failover(target, **call)
    except InvalidInputError:
        assert call.get("abort")
        assert _role(target).is_primary
    roles = {"source": _role(source).name, "target": _role(target).name}
    assert sorted(roles.values()) == ["primary", "replica"], roles
    assert not _role(target).unmerged
    primary, other = (source, target) if roles["source"] == "primary" else (target, source)
    assert done is None or done.primary == other.admin.replication(primary).target
    return primary, other
