"""Any sequence of puts, forks and reads gives back what a plain dict gives back."""

import random
import tempfile
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from langgraph_gcs_saver import GCSSaver
from tests.system.build import DEFAULT, cfg, checkpoint, number, version

WORDS = [f"{random.Random(n).randrange(10**9):x}" for n in range(3000)]
SAVERS = {
    "large": {},
    "tiny": {"cache_max_bytes": 6000, "inline_max_bytes": 600},
    "none": {"cache_max_bytes": 0},
    "stored": {"zstd_level": None, "inline_max_bytes": 900},
    "odd": {"full_every": 3, "inline_max_bytes": 0, "zstd_level": 1},
}
"""Savers, each with its own caches. All read and write. `cold` is created again for each call."""

CHANNELS = ("a", "b", "small")


def start(rng, channel):
    return rng.randrange(9) if channel == "small" else rng.sample(WORDS, 120)


def changed(rng, value, how):
    if not isinstance(value, list):
        return value if how == "equal" else rng.choice([None, "", b"", 0, [], rng.random(), {"x": rng.randrange(9)}])
    at = rng.randrange(len(value) + 1)
    if how == "append":
        return [*value, *rng.sample(WORDS, 6)]
    if how == "edit":
        return [*value[:at], *rng.sample(WORDS, 3), *value[at + 2 :]]
    if how == "shrink":
        return value[: at + 1]
    if how == "replace":
        return rng.sample(WORDS, rng.randrange(1, 200))
    return list(value)


HOW = st.sampled_from(["append", "append", "append", "edit", "shrink", "replace", "equal"])


class Sequences(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed):
        self.rng = random.Random(seed)
        self.stack = ExitStack()
        directory = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.uri = f"file://{directory}/store"
        self.savers = {
            name: self.stack.enter_context(GCSSaver.from_conn_string(self.uri, **options))
            for name, options in SAVERS.items()
        }
        self.model = {}
        """Values and versions by checkpoint."""
        self.next, self.life = 1, 1
        values = {channel: start(self.rng, channel) for channel in CHANNELS}
        self._put(self.savers["large"], None, values, set(CHANNELS))

    def teardown(self):
        if hasattr(self, "stack"):
            with self.stack:
                self.everything("cold")

    def _put(self, saver, parent, values, new):
        n, self.next = self.next, self.next + 1
        versions = dict(self.model[parent][1]) if parent is not None else {}
        # As LangGraph's savers make them: no two values have one version.
        versions |= {channel: f"{version(n)}{self.life}" for channel in new}
        given = checkpoint(n, values, versions)
        saver.put(cfg(parent), given, DEFAULT, {channel: versions[channel] for channel in new})
        self.model[n] = (values, versions)
        return n

    def saver(self, name):
        if name == "cold":
            return self.stack.enter_context(GCSSaver.from_conn_string(self.uri))
        return self.savers[name]

    names = st.sampled_from([*SAVERS, "cold"])

    def _child(self, name, parent, changes):
        values, _ = self.model[parent]
        new = {
            channel: changed(self.rng, values[channel], how) for channel, how in changes.items() if channel in values
        }
        self._put(self.saver(name), parent, {**values, **new}, set(new))

    changes = st.dictionaries(st.sampled_from(CHANNELS), HOW, max_size=3)

    @rule(name=names, changes=changes)
    def put(self, name, changes):
        self._child(name, max(self.model), changes)

    @rule(name=names, how=HOW, steps=st.integers(2, 8))
    def put_some(self, name, how, steps):
        for _ in range(steps):
            self._child(name, max(self.model), {"a": how})

    @rule(name=names, which=st.integers(0, 1 << 20), changes=changes)
    def fork(self, name, which, changes):
        self._child(name, sorted(self.model)[which % len(self.model)], changes)

    @rule(name=names, channel=st.sampled_from(["a", "new"]), there=st.booleans())
    def channels_come_and_go(self, name, channel, there):
        parent = max(self.model)
        values = {known: value for known, value in self.model[parent][0].items() if known != channel}
        if there:
            values[channel] = start(self.rng, channel)
        self._put(self.saver(name), parent, values, {channel})

    @precondition(lambda self: len(self.model) > 1)
    @rule(name=names, which=st.integers(0, 1 << 20), how=HOW)
    def put_again(self, name, which, how):
        """The same checkpoint: as it was, or with other content."""
        n = sorted(self.model)[1:][which % (len(self.model) - 1)]
        values, versions = self.model[n]
        if "a" in values:
            values = {**values, "a": changed(self.rng, values["a"], how)}
        given = checkpoint(n, values, versions)
        # In full: a parent that was replaced may not have the rest any more.
        self.saver(name).put(cfg(), given, DEFAULT, versions)
        self.model[n] = (values, versions)

    @rule(name=names, which=st.integers(0, 1 << 20))
    def get(self, name, which):
        n = sorted(self.model)[which % len(self.model)]
        found = self.saver(name).get_tuple(cfg(n))
        assert found.checkpoint["channel_values"] == self.model[n][0]
        assert found.checkpoint["channel_versions"] == self.model[n][1]

    @rule(name=names)
    def latest(self, name):
        found = self.saver(name).get_tuple(cfg())
        assert number(found) == max(self.model)
        assert found.checkpoint["channel_values"] == self.model[max(self.model)][0]

    @rule(name=names, limit=st.integers(1, 60))
    def a_list(self, name, limit):
        self._check_list(name, limit)

    def _check_list(self, name, limit):
        found = [(number(one), one.checkpoint["channel_values"]) for one in self.saver(name).list(cfg(), limit=limit)]
        assert found == [(n, self.model[n][0]) for n in sorted(self.model, reverse=True)[:limit]]

    @rule(name=names)
    def everything(self, name):
        self._check_list(name, None)

    @rule(name=names)
    def delete(self, name):
        """… and start again with the same ids."""
        if len(self.model) > 5:
            self.saver(name).delete_thread("t")
            self.model, self.next, self.life = {}, 1, self.life + 1
            values = {channel: start(self.rng, channel) for channel in CHANNELS}
            self._put(self.saver(name), None, values, set(CHANNELS))


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=20, stateful_step_count=25)


@pytest.mark.soak
class TestManySequences(Sequences.TestCase):
    settings = settings(max_examples=200, stateful_step_count=25)
