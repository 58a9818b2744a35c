"""Documents that are hidden after a plan, or for a moment: nothing else is removed, and no copy lacks them."""

from contextlib import suppress
from datetime import timedelta

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, GetDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import CheckpointCorruptError, SourceError, WrongKeyError
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.incremental.eax import Eax
from tests.kit.interceptors import BeforeRounds, Meanwhile
from tests.system.build import cfg, cid, noise, number, put, values

from .forging import name_of

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
NOW = timedelta(0)
SUB = "sub:1"


def gone_of(plan):
    return {(one.row.ns, one.row.checkpoint_id) for one in plan.decisions if one.reason is None}


# Plans


def test_a_subgraph_stays_if_its_root_is_hidden(make_saver, raw):
    """A root checkpoint that the plan keeps is hidden: its subgraph's checkpoints are not removed with it."""
    saver = make_saver()
    for n in (1, 2, 3):
        put(saver, 10 * n, {"v": n}, parent=10 * (n - 1) or None)
    called = {"ns": SUB, "metadata": {"parents": {"": cid(20)}}}
    put(saver, 21, {"w": noise(140_000)}, **called)
    put(saver, 22, {"w": noise(140_001)}, parent=21, **called)
    (plan,) = saver.admin.plan_prune(["t"], strategy=KeepLast(2))
    hidden = raw.documents()[name_of(20)]
    raw.delete_document(name_of(20))
    done = saver.admin.carry_out(plan)
    raw.set_document(name_of(20), hidden)
    assert gone_of(done) == gone_of(plan) == {("", cid(10))}
    assert [number(one) for one in saver.list(cfg(ns=SUB))] == [22, 21]
    assert [one.kind for one in saver.admin.verify("t", depth="data") if one.is_damage] == []


def orphan(raw):
    """Add an object that nothing refers to; its name."""
    name = min(raw.objects())
    copy = f"{name.rpartition('-')[0]}-{'0' * 12}.zst"
    raw.set_object(copy, raw.objects()[name])
    return copy


def collected(saver):
    (plan,) = saver.admin.plan_collect("t", orphan_age=NOW)
    return plan


def test_what_was_hidden_after_a_plan_is_not_collected(make_saver, raw):
    """A fork and its pending writes look like orphans as soon as its document is hidden."""
    saver = make_saver()
    for n in (1, 2, 3):
        put(saver, n, {"v": noise(140_000, n)}, parent=n - 1 or None)
    put(saver, 4, {"v": noise(140_000, 4)}, parent=1)
    saver.put_writes(cfg(4), [("v", noise(300_000, 5).hex())], "task")
    put(saver, 5, {"v": noise(140_000, 6)}, parent=3)
    name = orphan(raw)
    plan = collected(saver)
    assert set(plan.objects) == {name}
    hidden = raw.documents()[name_of(4)]
    raw.delete_document(name_of(4))
    more = collected(saver)
    assert more.writes, "by now there is more that looks like orphans"
    assert set(more.objects) > {name}
    done = saver.admin.carry_out(plan)
    raw.set_document(name_of(4), hidden)
    assert (set(done.objects), done.writes) == ({name}, ())
    found = make_saver().get_tuple(cfg(4))
    assert values(found) == {"v": noise(140_000, 4)}
    assert found.pending_writes == [("task", "v", noise(300_000, 5).hex())]


@pytest.mark.parametrize("is_unfinished", [True, False], ids=["listed", "not listed"])
def test_frames_that_a_hidden_checkpoint_needs_stay(make_saver, raw, is_unfinished):
    """A removed checkpoint's document stays for its frames, and for objects that a hidden checkpoint has too."""
    saver = make_saver()
    base = noise(2_000).hex()
    put(saver, 1, {"a": base, "big": noise(140_000)})
    fork = {"a": base, "big": noise(140_000)}
    put(saver, 2, fork, parent=1, changed=[])
    put(saver, 3, {"c": 3}, parent=1)
    if is_unfinished:
        # The document is stripped. The process crashes before it has deleted what remains.
        crash = Meanwhile((Commit,), fail, at=1)
        with suppress(RuntimeError):
            make_saver(interceptors=[crash]).admin.prune(["t"], strategy=Only({2}))
        assert crash.is_done
    else:
        saver.admin.prune(["t"], strategy=Only({2}))
    stripped = raw.documents()[name_of(1)]
    assert "frames" in stripped
    assert ("objects" in stripped) == is_unfinished
    name = orphan(raw)
    plan = collected(saver)
    assert (plan.stripped, plan.trimmed) == ((), (name_of(1),) if is_unfinished else ())
    hidden = raw.documents()[name_of(2)]
    raw.delete_document(name_of(2))
    assert collected(saver).stripped == (name_of(1),), "by now nothing needs it"
    done = saver.admin.carry_out(plan)
    raw.set_document(name_of(2), hidden)
    assert (done.stripped, set(done.objects)) == ((), {name})
    assert values(make_saver().get_tuple(cfg(2))) == fork


def fail():
    raise RuntimeError("crash")


class Only:
    """Keep some checkpoints."""

    def __init__(self, numbers):
        self.ids = {cid(n) for n in numbers}

    def keeps(self, rows, now):
        return {row.name: "kept" for row in rows if row.checkpoint_id in self.ids}


# Copies


class Hidden(Interceptor):
    """Hides a document while it is read with all its fields for the n-th time."""

    def __init__(self, raw, name, at):
        self.raw, self.name, self.left = raw, name, at
        self.document = raw.documents()[name]
        self.is_done = False

    def around(self, effect, perform):
        if not (isinstance(effect, GetDocs) and effect.mask is None and self.name in effect.names):
            return perform(effect)
        self.left -= 1
        if self.left >= 0 or self.is_done:
            return perform(effect)
        self.is_done = True
        self.raw.delete_document(self.name)
        try:
            return perform(effect)
        finally:
            self.raw.set_document(self.name, self.document)


def four(saver):
    """Three checkpoints in a line, and a fork, which is the newest."""
    for n in (1, 2, 3):
        put(saver, n, {"v": n}, parent=n - 1 or None)
    put(saver, 9, {"v": 9}, parent=2)
    saver.put_writes(cfg(9), [("v", "answer")], "task")


def told(saver, thread="t"):
    return [(number(one), values(one), one.pending_writes) for one in saver.list(cfg(thread=thread))]


@pytest.mark.parametrize("n", [9, 3, 1], ids=["newest", "sibling", "oldest"])
def test_a_copy_has_a_checkpoint_that_was_hidden_for_a_moment(make_saver, raw, n):
    """It is in the plan, and not there when it is its turn: that was no deletion if it is there again."""
    four(make_saver())
    hidden = Hidden(raw, name_of(n), at=0)
    saver = make_saver(interceptors=[hidden])
    plan = saver.admin.copy_thread("t", "copy")
    assert hidden.is_done
    assert plan.checkpoints == 4
    assert told(saver, "copy") == told(make_saver())


def test_a_copy_has_pending_writes_that_were_hidden_for_a_moment(make_saver, raw):
    four(make_saver())
    (name,) = (name for name in raw.documents() if "/lg_writes/" in name)
    # The first time, it is read to see whether it is whole.
    hidden = Hidden(raw, name, at=1)
    saver = make_saver(interceptors=[hidden])
    saver.admin.copy_thread("t", "copy")
    assert hidden.is_done
    assert told(saver, "copy") == told(make_saver())


def test_a_copy_is_not_made_while_the_newest_is_hidden(make_saver, raw):
    """Its parent still names it: it is missing, and not deleted."""
    with make_saver() as writer:
        for n in (1, 2, 3):
            put(writer, n, {"v": n}, parent=n - 1 or None)
    hide = Meanwhile((Commit,), lambda: raw.delete_document(name_of(3)), at=0)
    saver = make_saver(interceptors=[hide])
    with pytest.raises(CheckpointCorruptError, match="missing"):
        saver.admin.copy_thread("t", "copy")


@pytest.mark.parametrize("take", ["prune", "delete_for_runs"])
def test_an_honest_deletion_during_a_copy_is_none(make_saver, take):
    saver = make_saver()
    four(saver)
    put(saver, 10, {"v": 10}, parent=9, metadata={"run_id": "run"})
    call = {
        "prune": lambda: saver.admin.prune(["t"], strategy=KeepLast(2)),
        "delete_for_runs": lambda: saver.admin.delete_for_runs(["run"]),
    }[take]
    meanwhile = Meanwhile((Commit,), call, at=1)
    make_saver(interceptors=[meanwhile]).admin.copy_thread("t", "copy")
    assert meanwhile.is_done
    assert told(saver, "copy") == told(saver)
    assert [one for one in saver.admin.verify("copy", depth="data") if one.is_damage] == []


# Migrations


@pytest.mark.parametrize("before", range(16))
def test_what_a_source_does_not_list_is_not_left_out(make_saver, raw, tmp_path, before):
    """A document is changed at some time of a migration. `list` skips it, so the migration fails, or is complete."""
    four(make_saver())
    whole = told(make_saver())
    document = raw.documents()[name_of(9)]
    flipped = {**document, "frames": document["frames"][:-1] + bytes([document["frames"][-1] ^ 1])}
    rounds = BeforeRounds()
    source = make_saver(interceptors=[rounds])
    rounds.call(lambda n: raw.set_document(name_of(9), flipped) if n == before else None)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/target") as target:
        try:
            target.admin.migrate(source, ["t"])
        except (SourceError, CheckpointCorruptError):
            return
        assert told(target) == whole


def test_what_a_source_hides_while_it_is_read_is_not_left_out(make_saver, raw, tmp_path):
    """It is listed, then hidden, and at the end listed again."""
    four(make_saver())
    document = raw.documents()[name_of(9)]
    counts = []

    def progress(count):
        counts.append(count)
        if sum(counts) == 1:
            raw.delete_document(name_of(9))
        if sum(counts) == 8:
            raw.set_document(name_of(9), document)

    with GCSSaver.from_conn_string(f"file://{tmp_path}/target") as target:
        with pytest.raises(SourceError, match="lists it again"):
            target.admin.migrate(make_saver(), ["t"], progress=progress)
        target.admin.migrate(make_saver(), ["t"])
        assert told(target) == told(make_saver())


def test_what_a_source_has_pruned_meanwhile_is_not_counted(make_saver, tmp_path):
    four(make_saver())
    other = make_saver()
    counts = []

    def progress(count):
        counts.append(count)
        if sum(counts) == 2:
            other.prune(["t"])

    with GCSSaver.from_conn_string(f"file://{tmp_path}/target") as target:
        (done,) = target.admin.migrate(make_saver(), ["t"], progress=progress)
        assert done.checkpoints == len(told(target)) == 3


# Listings


def test_an_undecryptable_checkpoint_stops_listings_of_the_store(make_saver):
    """It looks like a checkpoint under another key, and no listing may leave that out."""
    four(make_saver(cipher=Eax("the key")))
    planted = make_saver(cipher=Eax("not the key"))
    put(planted, 1, {"v": 1}, thread="planted")
    saver = make_saver(cipher=Eax("the key"))
    for listing in (lambda: list(saver.list(None)), lambda: list(saver.admin.threads()), saver.admin.stats):
        with pytest.raises(WrongKeyError):
            listing()
    with pytest.raises(WrongKeyError):
        list(saver.admin.verify())
    assert [number(one) for one in saver.list(cfg())] == [9, 3, 2, 1]
