"""Deleting runs whose frames other runs' checkpoints need: nothing needed is deleted, and everything else is."""

import random
from datetime import timedelta

import pytest

from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.incremental.eax import Eax
from tests.system.raw import open_raw

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

VARIANTS = {
    "inline": {},
    "objects": {"inline_max_bytes": 0},
    "both": {"inline_max_bytes": 1500},
    "cipher": {"inline_max_bytes": 1500, "cipher": Eax("key")},
}
RUNS = ("a", "b", "c", "d")
SPACES = ("", "sub:1", "lasting")
LATE = 1000
"""The number of the first checkpoint that is stored by a process which does not know what was deleted."""


class Grown:
    """Threads that grow at random: lines and forks, in several namespaces, each step of a run of its own.

    Attributes:
        stored: What was put, by thread, namespace and number.
    """

    def __init__(self, saver, seed, steps):
        self.stored = {}
        rng = random.Random(seed)
        for n in range(1, steps + 1):
            thread, ns = rng.choice(("t", "u")), rng.choice(SPACES)
            line = [one for one in self.stored if one[:2] == (thread, ns)]
            # Mostly on from the newest, at times from any, and now and then from none.
            parent = None if not line or rng.random() < 0.05 else line[-1] if rng.random() < 0.8 else rng.choice(line)
            before = None if parent is None else self.stored[parent]
            self._put(saver, rng, (thread, ns, n), parent, before)

    def _put(self, saver, rng, key, parent, before):
        thread, ns, n = key
        if before is None:
            values = {"log": [rng.random() for _ in range(200)], "blob": rng.randbytes(4000), "kept": "k" * 500}
            versions, new = dict.fromkeys(values, version(n)), {"log", "blob", "kept"}
        else:
            _, values, versions = before
            values, new = dict(values), {"log"}
            values["log"] = [*values["log"], *(rng.random() for _ in range(3))]
            if rng.random() < 0.3:
                values["blob"] = values["blob"][:2000] + rng.randbytes(50) + values["blob"][2000:]
                new.add("blob")
            versions = {**versions, **dict.fromkeys(new, version(n))}
        told = metadata(step=n, run_id=rng.choice(RUNS))
        config = cfg(thread, ns, None if parent is None else parent[2])
        saver.put(config, checkpoint(n, values, versions), told, {name: versions[name] for name in new})
        if rng.random() < 0.3:
            saver.put_writes(cfg(thread, ns, n), [("log", rng.randbytes(3000))], "task")
        self.stored[key] = told["run_id"], values, versions

    def forget(self, runs):
        """Take the runs away; whether there were any."""
        left = {key: one for key, one in self.stored.items() if one[0] not in runs}
        is_changed, self.stored = left != self.stored, left
        return is_changed


def found_in(saver):
    found = {}
    for one in saver.list(None):
        where = one.config["configurable"]
        key = where["thread_id"], where["checkpoint_ns"], number(one)
        found[key] = one.metadata["run_id"], one.checkpoint["channel_values"], one.checkpoint["channel_versions"]
    return found


def check(make_saver, grown, **options):
    with make_saver(**options) as saver:
        assert found_in(saver) == grown.stored
        findings = list(saver.admin.verify(depth="data"))
        # A put whose parent has changed stores its objects again. The first ones are orphans until they are collected.
        late = [one for one in findings if one.kind == "unreferenced" and f"/{cid(LATE)[:-1]}" in one.name]
        assert findings == late
        for key in grown.stored:
            one = saver.get_tuple(cfg(*key))
            assert one.checkpoint["channel_values"] == grown.stored[key][1]


@pytest.mark.parametrize(
    ("variant", "seed"),
    [
        pytest.param(variant, seed, marks=() if seed == 1 and variant in {"both", "cipher"} else pytest.mark.soak)
        for variant in VARIANTS
        for seed in range(1, 40)
    ],
)
def test_runs_go_one_by_one(make_saver, store_uri, variant, seed):
    """With a warm saver, whose caches have seen everything, and a cold one in turn. Copies share nothing."""
    options, rng = VARIANTS[variant], random.Random(seed)
    saver = make_saver(**options)
    grown = Grown(saver, seed, 30 if seed == 1 else 80)
    saver.copy_thread("t", "copy")
    copied = {key: one for key, one in found_in(saver).items() if key[0] == "copy"}
    grown.stored |= copied
    check(make_saver, grown, **options)
    runs = list(RUNS)
    rng.shuffle(runs)
    for turn, run in enumerate(runs):
        actor = saver if turn % 2 else make_saver(**options)
        actor.delete_for_runs([run])
        assert grown.forget({run})
        check(make_saver, grown, **options)
        if grown.stored and turn < 2:
            # New checkpoints build on what is left.
            before = dict(grown.stored)
            key = rng.choice([key for key in before if key[0] != "copy"])
            n = LATE + turn
            grown._put(saver, rng, (*key[:2], n), key, before[key])
            check(make_saver, grown, **options)
            actor.delete_for_runs(["none"])
    grown_runs = {one[0] for one in grown.stored.values()}
    saver.delete_for_runs(sorted(grown_runs))
    saver.admin.collect(orphan_age=timedelta())
    assert found_in(make_saver(**options)) == {}
    raw = open_raw(store_uri)
    documents, objects = raw.snapshot()
    assert objects == {}, "frames that others needed have gone with the last of them"
    assert {name for name in documents if f"/{keys.CHECKPOINTS}/" in name or name.startswith(keys.RUNS)} == set()
    raw.close()
