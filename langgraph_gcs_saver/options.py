"""The options of a saver, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.events import EventHandler, Sink
from langgraph_gcs_saver.policy.labels import MOST_LABELS, NO_METADATA
from langgraph_gcs_saver.policy.labels import NAME as LABEL

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import CipherProtocol

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.cadence.policies import Policy
    from langgraph_gcs_saver.policy.namespaces import ByNamespace
    from langgraph_gcs_saver.policy.retention import Retention

Verify = Literal["readback", "pipelined", "checksum", "off"]

BY_NAMESPACE = ("inline_max_bytes", "verify")
"""Options whose values may differ between the calls that store something in different namespaces."""

_MIRROR = re.compile(r"(?:gs://)?([^/?#]+)/?")

_ID_OF_DICTIONARY = re.compile(r"[0-7][0-9a-f]{7}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a saver works; the same for every store.

    `inline_max_bytes`, `verify` and `retention` may also be mappings from patterns of namespaces to values, such as
    `{"": KeepLast(50), "extract|*": KeepLast(2)}`: see `langgraph_gcs_saver.policy.namespaces`. A namespace that no
    pattern matches has the option's default. Operations, batches and repairs belong to a whole thread, so they have the
    values of the root graph.

    Attributes:
        incremental: Whether to store only what changed in a value since an earlier version, if that is smaller. Values
            stored with either setting can be read with the other.
        full_every: Versions of a channel (an int), or time (a timedelta), after which its value is stored in full even
            if the changes are small. This bounds how many values depend on one stored frame. `None` stores a value in
            full only when that pays.
        cache_max_bytes: Most bytes of serialized values kept in memory, to build on and to save reads. 0 turns off the
            cache, and with it incremental frames.
        cipher: Encrypts all payloads, metadata and digests included, after compression (LangGraph's `CipherProtocol`).
            Ids, and names of channels in object names, stay readable. An `EncryptedSerializer` instead would encrypt
            before compression, and make equal values differ. Sizes of ciphertexts depend on how well values compress,
            and so on their content, unless you pass `zstd_level=None`.
        accept_clear: With a cipher, whether to read data that it does not vouch for: data in clear, and data that
            earlier versions encrypted without binding it to its place. A `ClearTextAccepted` event reports each such
            thread. Use it only during a migration: anyone who can write to the store can then store checkpoints without
            the key. If it is off, reading such data raises `ClearTextError`.
        clear_metadata: With a cipher, the names of metadata that stay readable in Firestore, so that it can narrow down
            `list(filter=…)`. Without a cipher all metadata do. Such a list does not find a checkpoint that was stored
            while the name was not in this option: name it from the beginning, or leave it out for good.
        inline_max_bytes: Largest frame, in bytes, that is stored in a Firestore document; larger ones are objects in
            Cloud Storage. 0 sends every value and pending write there; metadata stays in Firestore. At most 512 KiB,
            because a document holds 1 MiB. Or a mapping from patterns of namespaces to sizes. `put` needs a round less
            for a frame in a document. An object is cheaper from two weeks on for 100 KB, and from six months on for
            8 KiB (`docs/guides/operations.md`, "What it costs").
        zstd_level: Compression level, 1 to 19. `None` stores each new value in full and uncompressed, even if it equals
            the previous one, and turns off `incremental`. Use it with a `cipher` if the same person can choose a part
            of the state and see sizes in the store (`docs/explanation/security.md`, "What sizes reveal").
        dictionary: The id of a trained dictionary that `train(keep=True)` has stored. New manifests, small values and
            pending writes are compressed with it, and need it for ever. Reading needs no option. Upgrade all readers of
            the store first. It has no effect without compression.
        verify: How `put` and `put_writes` prove that they stored what they meant to store. `"readback"` reads it back
            from the service after the commit, documents and objects in one round, and compares. Data that differs is
            withdrawn and written again, three times at most. With `"pipelined"`, a call returns as soon as its data is
            durable, and the data is read back meanwhile. The next call on the thread waits for that, and so does
            `close`. If it fails for good, they raise `CheckpointVerificationError`. A process that crashes in between
            leaves a checkpoint that is durable, but not proven, or none if the data had differed and was withdrawn.
            With `"checksum"`, Cloud Storage checks the crc32c of what is uploaded. `"off"` does neither. Reads check
            all digests with each of these settings. Or a mapping from patterns of namespaces to settings.
        on_corruption: What to do if the latest checkpoint of a thread is damaged. `"fallback"` gives the newest whole
            one, with `metadata["recovered_from"]`, a warning and an event. `"raise"` raises `CheckpointCorruptError`. A
            damaged checkpoint that is requested by its id always raises that error.
        max_value_bytes: Largest serialized value of one channel, in bytes, that is written or read. The values of one
            checkpoint together may have 64 times as much.
        retention: What to keep of each thread: a rule such as `KeepLast(10)` or
            `KeepLast(3) | KeepEvery(timedelta(days=1))`. The rest is pruned after every sixteenth step of a graph, in
            the background on a separate thread. `prune` says what is never removed. `None` keeps everything. Or a
            mapping from patterns of namespaces to rules, such as `{"": KeepLast(50), "extract|*": KeepLast(2)}`.
        ttl: How long a thread may be idle before `sweep` deletes it, at least an hour. With `None`, `sweep` raises
            `InvalidOptionError`.
        writers: Whether each run needs a lease (`saver.thread(…).lease()`). With `"any"`, every process may write to a
            thread, unless another one holds its lease. With `"leased"`, `put` and `put_writes` raise
            `LeaseMismatchError` if the config has no lease.
        stop_on: A policy such as `cadence.Signal(SIGTERM) | cadence.Memory(0.8)`, for hosts that pass no control of
            their own. The saver asks it in each read and put of a run. When it says so, the run ends at its next
            boundary between two steps, and LangGraph raises `GraphDrained`. Only policies that stop are allowed.
        objective: A recovery time objective, such as `cadence.RTO(seconds=30)`. The saver is not made if it could not
            restore a state of the objective's `state_bytes` in time. A `RestoreTooSlow` event reports each read of a
            newest checkpoint that is estimated or measured over the objective.
        labels: Names of metadata, such as `("agent", "app")`, whose values become attributes of metrics, columns of
            analytics, and fields of recovery records. A checkpoint's metadata has what the run's config has under
            `metadata` and `configurable`. Name few, and only those with few values: after 50 values of a name, further
            ones are *other*. At most 10 names.
        mirror: The name of another bucket, such as `"gs://bucket-in-another-region"`, which also keeps each object,
            under the same name. `put` returns when both buckets have its objects. If one bucket cannot be reached,
            calls that store objects raise `StoreUnavailableError`. Reads use the mirror if the bucket has no such
            object, has other bytes, or does not answer. All savers of a store must name its mirror. `None` keeps
            objects in one bucket. Only a `gs://` store can have a mirror.
        replica: The connection string of the store that `langgraph-gcs replicate` has made this store's replica. The
            saver ships what it has stored there, in the background, and `close` waits for it for 3 seconds at most.
            What is left then, or when the process crashes, is shipped by `langgraph-gcs replicate --follow`. The first
            call that stores something raises `InvalidOptionError` if this store has another replica, or none. The
            replica gets the saver's credentials and `cipher`.
        timeout: Seconds until a call to a service that does not answer raises `StoreUnavailableError`.
        max_threads: Threads, and connections to Cloud Storage, of one saver.
        on_event: Called with every `langgraph_gcs_saver.events.Event`; `saver.subscribe` adds further handlers.
        interceptors: Code around each request to the stores and each local act, the outermost first: see
            `langgraph_gcs_saver.engine.interceptors.Interceptor`.
    """

    incremental: bool = True
    full_every: int | timedelta | None = 1000
    cache_max_bytes: int = 64 << 20
    cipher: CipherProtocol | None = None
    accept_clear: bool = False
    clear_metadata: Collection[str] = ()
    inline_max_bytes: int | Mapping[str, int] = 128 << 10
    zstd_level: int | None = 3
    dictionary: str | None = None
    verify: Verify | Mapping[str, Verify] = "readback"
    on_corruption: Literal["fallback", "raise"] = "fallback"
    max_value_bytes: int = 1 << 30
    retention: Retention | Mapping[str, Retention | None] | None = None
    ttl: timedelta | None = None
    writers: Literal["any", "leased"] = "any"
    stop_on: Policy | None = None
    objective: RTO | None = None
    labels: Collection[str] = ()
    mirror: str | None = None
    replica: str | None = None
    timeout: float = 30.0
    max_threads: int = 16
    on_event: EventHandler | Sink | None = None
    interceptors: Sequence[Interceptor] = ()

    def __post_init__(self) -> None:
        for name in (*BY_NAMESPACE, "retention"):
            if isinstance(getattr(self, name), Mapping):
                # Each process reads them when it first needs them, and the mapping is the caller's.
                object.__setattr__(self, name, dict(getattr(self, name)))
        self._check_int("inline_max_bytes", 0, 512 << 10)
        if self.zstd_level is not None:
            self._check_int("zstd_level", 1, 19)
        if self.dictionary is not None and not _ID_OF_DICTIONARY.match(str(self.dictionary)):
            raise InvalidOptionError(
                f"dictionary is {self.dictionary!r}; it must be the id of a trained dictionary: 8 digits, as "
                "`langgraph-gcs train --keep` prints them."
            )
        self._check_int("cache_max_bytes", 0, 1 << 40)
        self._check_int("max_value_bytes", 1 << 10, 1 << 40)
        self._check_word("verify", "readback", "pipelined", "checksum", "off")
        self._check_word("on_corruption", "fallback", "raise")
        self._check_word("writers", "any", "leased")
        for name in ("incremental", "accept_clear"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOptionError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        if isinstance(self.full_every, timedelta):
            if self.full_every < timedelta(hours=1):
                raise InvalidOptionError(f"full_every is {self.full_every!r}; as a time it must be an hour or more.")
        elif self.full_every is not None:
            self._check_int("full_every", 1, 1 << 40)
        if self.cipher is not None and not all(hasattr(self.cipher, name) for name in ("encrypt", "decrypt")):
            raise InvalidOptionError("cipher must have the methods encrypt and decrypt (LangGraph's CipherProtocol).")
        for name in ("clear_metadata", "labels"):
            keys = getattr(self, name)
            if isinstance(keys, str) or not isinstance(keys, Collection) or not all(isinstance(k, str) for k in keys):
                raise InvalidOptionError(f"{name} is {keys!r}; it must be a collection of names.")
        self._check_labels()
        if self.mirror is not None:
            if not isinstance(self.mirror, str) or not (found := _MIRROR.fullmatch(self.mirror)):
                raise InvalidOptionError(
                    f"mirror is {self.mirror!r}; it must be the name of a bucket, such as 'gs://bucket-in-another-region'"
                    ". Objects have the same names in both buckets, so a mirror has no prefix of its own."
                )
            object.__setattr__(self, "mirror", found[1])
        self._check_int("max_threads", 1, 256)
        rule = self.rule
        if rule is not None and (isinstance(rule, type) or not hasattr(rule, "keeps")):
            raise InvalidOptionError(
                f"retention is {rule!r}; it must be a rule such as KeepLast(10), a mapping from patterns of namespaces "
                "to rules, or None."
            )
        if self.ttl is not None and (not isinstance(self.ttl, timedelta) or self.ttl < timedelta(hours=1)):
            # A thread's document records use at most once a minute, so a shorter time could not detect idleness.
            raise InvalidOptionError(f"ttl is {self.ttl!r}; it must be a timedelta of an hour or more, or None.")
        if self.stop_on is not None and getattr(self.stop_on, "only_stops", False) is not True:
            raise InvalidOptionError(
                f"stop_on is {self.stop_on!r}; it must be a policy that only stops, such as cadence.Signal(SIGTERM)."
            )
        if self.replica is not None and not isinstance(self.replica, str):
            raise InvalidOptionError(f"replica is {self.replica!r}; it must be a connection string, or None.")
        timeout = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InvalidOptionError(f"timeout is {timeout!r}; it must be a positive number of seconds.")
        if self.on_event is not None and not callable(self.on_event) and not isinstance(self.on_event, Sink):
            raise InvalidOptionError(f"on_event is {self.on_event!r}; it must be callable with one event.")
        given = self.interceptors
        if not isinstance(given, (list, tuple)) or not all(isinstance(one, Interceptor) for one in given):
            raise InvalidOptionError(
                f"interceptors is {given!r}; it must be a list of objects with the methods around and aaround."
            )

    @property
    def rule(self) -> Retention | None:
        """The rule that `retention` is or describes."""
        if not isinstance(self.retention, Mapping):
            return self.retention
        from langgraph_gcs_saver.policy.retention import PerNamespace  # noqa: PLC0415 - few processes need it

        return PerNamespace.parse(self.retention)

    def by_namespace(self, name: str) -> ByNamespace[Any] | None:
        """The values of an option by namespace; `None` if all namespaces have the same.

        Raises:
            InvalidOptionError: A key of the mapping is no pattern.
        """
        given = getattr(self, name)
        if name not in BY_NAMESPACE or not isinstance(given, Mapping):
            return None
        from langgraph_gcs_saver.policy.namespaces import ByNamespace  # noqa: PLC0415 - likewise

        (default,) = (one.default for one in fields(self) if one.name == name)
        return ByNamespace.parse(given, default)

    def values(self, name: str) -> tuple[Any, ...]:
        """The values of an option in all namespaces."""
        found = self.by_namespace(name)
        return (getattr(self, name),) if found is None else found.values

    def _check_word(self, name: str, *words: str) -> None:
        for value in self.values(name):
            if value not in words:
                raise InvalidOptionError(f"{name} is {value!r}; it must be one of {', '.join(words)}.")

    def _check_labels(self) -> None:
        object.__setattr__(self, "labels", names := tuple(dict.fromkeys(self.labels)))
        if len(names) > MOST_LABELS or not all(LABEL.fullmatch(name) for name in names):
            raise InvalidOptionError(
                f"labels is {list(names)!r}; it must have at most {MOST_LABELS} names, each of at most 60 letters, "
                "digits and underscores that does not begin with a digit. They become names of columns."
            )
        if len({name.lower() for name in names}) < len(names):
            raise InvalidOptionError(
                f"labels is {list(names)!r}; two names must differ in more than letter case. They become names of "
                "columns, for which case does not count."
            )
        excluded = next(filter(NO_METADATA.fullmatch, names), None)
        if excluded is not None:
            raise InvalidOptionError(
                f"labels has {excluded!r}, which LangGraph does not store as metadata. Name metadata with few values, "
                "such as the agent's name."
            )

    def _check_int(self, name: str, low: int, high: int) -> None:
        for value in self.values(name):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidOptionError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Options from keyword arguments.

        Raises:
            InvalidOptionError: An option is unknown, or its value is outside its range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(given.keys() - known)
        if unknown:
            raise InvalidOptionError(
                f"Unknown option {unknown[0]!r}. Besides the saver's arguments, the options are "
                f"{', '.join(sorted(known))}."
            )
        return cls(**given)
