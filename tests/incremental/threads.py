"""Threads that remember what was put, values that look like state, and a look at the frames that were stored."""

import random

from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import keys
from tests.system.build import cfg, checkpoint, cid, number, version

METADATA = {"source": "loop", "step": 0, "parents": {}}


class Thread:
    """Puts checkpoints, and checks that savers give back exactly what was put.

    A checkpoint's new channels have its own version, the others their parent's.
    """

    def __init__(self, thread="t"):
        self.id = thread
        self.values = {}
        self.versions = {}

    def put(self, saver, n, values, parent=None, *, changed=None, metadata=METADATA):
        """Put checkpoint `n`; `changed` names its new channels, all by default."""
        changed = set(values) if changed is None else set(changed)
        known = {} if parent is None else self.versions[parent]
        versions = {channel: version(n) if channel in changed else known[channel] for channel in values}
        saver.put(
            cfg(parent, thread=self.id),
            checkpoint(n, dict(values), versions),
            metadata,
            {channel: versions[channel] for channel in changed},
        )
        self.values[n], self.versions[n] = values, versions

    def line(self, savers, values, *, first=1, parent=None, get=False):
        """Put values of the channel `v`, each a child of the one before, by the savers in turn.

        The channel `kept` is inherited all the time. With `get`, each saver reads the parent first.
        """
        for at, value in enumerate(values):
            saver = savers[at % len(savers)]
            if get and parent is not None:
                self.check_one(saver, parent)
            self.put(
                saver,
                first + at,
                {"v": value, "kept": [self.id]},
                parent,
                changed={"v", "kept"} if parent is None else {"v"},
            )
            parent = first + at
        return parent

    def check_one(self, saver, n):
        found = saver.get_tuple(cfg(n, thread=self.id))
        assert found is not None
        assert found.checkpoint["channel_values"] == self.values[n]
        assert found.checkpoint["channel_versions"] == self.versions[n]

    def check(self, *savers):
        """By id in any order, as the latest, and in a list."""
        order = sorted(self.values)
        random.Random(len(order)).shuffle(order)
        for saver in savers:
            for n in order:
                self.check_one(saver, n)
            assert number(saver.get_tuple(cfg(thread=self.id))) == max(order)
            found = list(saver.list(cfg(thread=self.id)))
            assert [number(one) for one in found] == sorted(order, reverse=True)
            assert [one.checkpoint["channel_values"] for one in found] == [self.values[number(one)] for one in found]


def refs(saver, n, thread="t"):
    """The refs of the channels of a checkpoint, named by number or id, as stored."""
    name = keys.checkpoint_doc(thread, "", n if isinstance(n, str) else cid(n))
    doc = saver._backend.perform(GetDocs((name,)))[name]
    return dict(run(read_manifest(doc, saver._context.codec), saver._backend).channels)


def numbers(saver, thread, channel="v"):
    """The number since its base of each version, and the length of its chain."""
    found = [refs(saver, n, thread.id)[channel].chain for n in sorted(thread.values)]
    return [(chain[-1].k, len(chain)) if chain else None for chain in found]


def stored(raw):
    """Bytes of all frames of values."""
    found = sum(len(fields.get("frames", b"")) for fields in raw.documents().values())
    return found + sum(raw.object_sizes().values())


def message(n, words=150):
    rng = random.Random(f"message {n}")
    return {
        "id": n,
        "text": " ".join(f"{rng.choice(['alpha', 'beta', 'gamma'])}{rng.randrange(9999)}" for _ in range(words)),
    }


def chat(count, first=0):
    """A list of messages; 20 of them take 29 KB, or 9 KB compressed."""
    return [message(n) for n in range(first, first + count)]


def growing(start, steps):
    return [chat(start + step) for step in range(steps)]
