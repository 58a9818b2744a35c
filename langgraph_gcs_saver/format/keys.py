"""Names of documents and objects: how they are built from ids and parsed back.

```
lg_threads/{thread}                                            the thread
lg_threads/{thread}/lg_checkpoints/{inv(id)}!{enc(ns)}         a checkpoint
lg_threads/{thread}/lg_writes/{enc(ns)}!{inv(id)}!{task}!…     pending writes
lg_threads/{thread}/lg_aside/{the document's id}!{attempt}     damaged documents, kept for inspection
lg_threads/{thread}/lg_lease/fence-0                           the lease of the thread: who may write to it
lg_threads/{thread}/lg_lease/beat                              the last sign of life of the lease's holder
lg_threads/{thread}/lg_operations/{sha256(key)}                a recorded side effect
lg_store/operations/lg_operations/{sha256(key)}                a recorded side effect that all threads share
lg_threads/{thread}/lg_batches/{batch}                         a batch: its list of items
lg_threads/{thread}/lg_done/{batch}!{chunk}-{attempt}          items of a batch that were done or failed
lg_threads/{thread}/lg_chunks/{batch}!{chunk}                  a worker's claim of a chunk of items
lg_threads/{thread}/lg_resume/current                          the turn that a run has begun and not finished
lg_threads/{thread}/lg_resume/requests                         the latest requests of runs
lg_threads/{thread}/lg_recoveries/{time}-{nonce}               what was lost and repeated when a thread recovered
lg_threads/{thread}/lg_sagas/{saga}                            a saga: its state and its savepoints
lg_threads/{thread}/lg_blobs/{id}                              a blob: its segments
lg_threads/{thread}/lg_blobs/key                               the key of the ids of a thread's blobs
lg_runs/{run}/lg_threads/{thread}                              a thread that a run touched
lg_active/{thread}                                             a thread whose turn has not finished
lg_rollbacks/{sha256(saga)}                                    a saga whose rollback has not ended
lg_teams/{team}                                                a team of threads
lg_teams/{team}/lg_members/{member}                            a member of a team
lg_teams/{team}/lg_sets/{set}                                  a set: one checkpoint of each member
lg_teams/{team}/lg_sets/{set}/lg_votes/{member}                the checkpoint that a member votes for
lg_cache/{sha256(ns)}-{sha256(key)}                            a node's result that `FirestoreCache` keeps
lg_region/role-{00..ff}                                        which of two stores takes what is stored
lg_region/mark                                                 how far this store has what the other one has
lg_outbox/{thread}-{nonce}                                     a document that the other store has to get
lg_threads/{thread}/lg_ship/ship                               moves with each commit of a shipper
lg_store/place                                                 the bucket and prefix of the store's objects
lg_store/analytics                                             the key of the digests of threads in analytics
{thread}/{ns}/{checkpoint}/{channel}-{attempt}.zst             an object, below the prefix
{thread}/~operations/{sha256(key)}/result-{attempt}.zst        a large result of an operation
{thread}/~blobs/{id}/{segment}-{attempt}.zst                   a segment of a blob
~operations/{sha256(key)}/result-{attempt}.zst                 a large result of an operation that all threads share
~cache/{sha256(ns)}-{sha256(key)}/result-{attempt}.zst         a large result of a node that `FirestoreCache` keeps
```

Every mapping from ids to names is injective. Names are legal in both services:

- Firestore allows ids of 1 to 1,500 bytes, without `/`, except `.`, `..` and `__.*__`
  (https://firebase.google.com/docs/firestore/quotas).
- Cloud Storage allows names of 1 to 1,024 bytes, without CR and LF, except `.` and `..`
  (https://cloud.google.com/storage/docs/objects#naming).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase, digits
from urllib.parse import quote, unquote

from langgraph_gcs_saver.errors import DamageError, InvalidIdError

THREADS = "lg_threads"
CHECKPOINTS = "lg_checkpoints"
WRITES = "lg_writes"
RUNS = "lg_runs"
ACTIVE = "lg_active"
ROLLBACKS = "lg_rollbacks"
ASIDE = "lg_aside"
LEASES = "lg_lease"
_FENCE, _BEAT = "fence-0", "beat"
OPERATIONS = "lg_operations"
BATCHES = "lg_batches"
DONE = "lg_done"
CHUNKS = "lg_chunks"
RESUMES = "lg_resume"
RECOVERIES = "lg_recoveries"
SAGAS = "lg_sagas"
BLOBS = "lg_blobs"
TEAMS = "lg_teams"
MEMBERS = "lg_members"
SETS = "lg_sets"
VOTES = "lg_votes"
REGION = "lg_region"
OUTBOX = "lg_outbox"
SHIPS = "lg_ship"
SHIP = "ship"
_BLOB_KEY = "key"
CACHE = "lg_cache"
_CURRENT = "current"
_REQUESTS = "requests"

PLACE = "lg_store/place"
"""Name of the document that names the store's bucket and prefix."""

ANALYTICS = "lg_store/analytics"
"""Name of the document with the store's key for analytics."""

SHARED = "lg_store/operations"
"""Name of the document above the operations that all threads share.

A collection at the root would have the same name as the operations of a thread whose document is a store's root.
"""

MARK = f"{REGION}/mark"
"""Name of the document that says how far this store has what the other one of two stores has."""

SHARED_SHIP = f"{REGION}/ship"
"""Name of the document that moves with each commit of a shipper for operations that all threads share."""

SHARED_OUTBOX = "~operations"
"""What stands for the thread in the names of entries for operations that all threads share. No thread has this name."""

PROBES = "~setup"
"""Prefix of the names of objects that prove something and hold no state."""

OWNER = "~setup/owner"
"""Name of the object that says, in a mirror, which bucket and prefix it belongs to."""

MAX_ENCODED = 200
"""Longest percent-encoded id, in bytes. Longer ids are hashed. An object's name has room for four."""

MAX_CHECKPOINT_ID = 500
"""Longest checkpoint id, in bytes. Encoded, it takes up to twice as many of a name's 1,500 bytes."""

MAX_KEY = 2000
"""Longest key of an operation, in bytes. Names contain its digest, and the operation's document has the key itself."""

_KNOWN = 1024
"""Names that are cached, because a put builds the same few names a dozen times."""

_SINGLE = "fedcba9876543210-"
"""The characters of UUIDs, which LangGraph's checkpoint ids are.

In `inv`, each of these takes one character, and every other byte takes two.
"""


_SECOND = digits + ascii_uppercase + ascii_lowercase


def _codes() -> dict[int, str]:
    """The code of each byte in `inv`. A greater byte has a code that sorts earlier, and no code begins another."""
    leads, found = iter("0123456789ABCDEFGHIJKLM"), {}
    for is_single, run in groupby(range(255, -1, -1), lambda byte: chr(byte) in _SINGLE):
        for number, byte in enumerate(run):
            second = number % len(_SECOND)
            if is_single or not second:
                lead = next(leads)
            found[byte] = lead if is_single else lead + _SECOND[second]
    return found


_ENCODE = _codes()
_DECODE = {code: chr(byte) for byte, code in _ENCODE.items()}
_SIMPLE = {ord(code): char for code, char in _DECODE.items() if len(code) == 1}
_ALL_SIMPLE = re.compile(f"[{''.join(map(chr, _SIMPLE))}]*\\Z")
_CODE = re.compile(f"[{''.join(map(chr, _SIMPLE))}]|..", re.DOTALL)

# quote() never encodes `_.-~`. `.` and `~` need encoding because `.` and `..` are illegal names and `~` marks a hash.
_ALSO_ENCODE = str.maketrans({".": "%2E", "~": "%7E"})


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidIdError(
            f"The {what} {text!r} holds a lone surrogate, which is not Unicode text. "
            "Neither Firestore nor Cloud Storage can store it; use another id."
        ) from None


def is_text(value: str) -> bool:
    """Whether an id can be stored and be part of a name: JSON can hold a lone surrogate, UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(_KNOWN)
def enc(text: str, what: str = "id") -> str:
    """Encode an id as one segment of a name: `[A-Za-z0-9_%-]`, or `~` and a sha256 if the id is long.

    The empty id is `~`, because Firestore forbids empty segments and file systems drop them.
    """
    data = _utf8(what, text)
    if not data:
        return "~"
    if len(data) <= MAX_ENCODED:
        encoded = quote(data, safe="").translate(_ALSO_ENCODE)
        if len(encoded) <= MAX_ENCODED:
            return encoded
    return "~" + _sha256(data)


def dec(encoded: str) -> str | None:
    """Decode `enc`; `None` for a hash, and for text that `enc` does not make, such as another spelling of an id."""
    if encoded == "~":
        return ""
    try:
        text = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        return None
    return text if is_text(text) and enc(text) == encoded else None


def told_id(segment: str, candidates: Iterable[str] = ()) -> str:
    """The id to show for a segment: the decoded id, or the candidate with that hash, or else the segment itself."""
    text = dec(segment)
    return next((one for one in candidates if enc(one) == segment), segment) if text is None else text


@lru_cache(_KNOWN)
def spread(text: str, what: str = "id") -> str:
    """Encode an id as a document id that spreads over the key space: two hex digits of its sha256, a dash, the id.

    Run ids and many thread ids are time-ordered. Without these digits, all writes would go to the end of the range,
    and Firestore throttles that (https://firebase.google.com/docs/firestore/best-practices#hotspots).
    """
    return f"{_sha256(_utf8(what, text))[:2]}-{enc(text, what)}"


def inv(checkpoint_id: str) -> str:
    """Encode a checkpoint id so that encoded ids sort in the reverse order of ids."""
    data = _utf8("checkpoint id", checkpoint_id)
    if len(data) > MAX_CHECKPOINT_ID:
        raise InvalidIdError(
            f"The checkpoint id {checkpoint_id[:40]!r}… has {len(data)} bytes. At most {MAX_CHECKPOINT_ID} fit a name; "
            "LangGraph's own ids have 36. Use a shorter id."
        )
    return data.decode("latin-1").translate(_ENCODE) + "~"


def uninv(encoded: str) -> str:
    """Decode `inv`.

    Raises:
        ValueError: `inv` makes no such text.
    """
    codes = encoded.removesuffix("~")
    text = (
        codes.translate(_SIMPLE)
        if _ALL_SIMPLE.match(codes)
        else _CODE.sub(lambda code: _DECODE.get(code[0], ""), codes)
    )
    found = text.encode("latin-1").decode()
    if inv(found) != encoded:
        raise ValueError("not an encoded checkpoint id")
    return found


# Documents


def thread_doc(thread_id: str) -> str:
    """Name of a thread's document."""
    return f"{THREADS}/{spread(thread_id, 'thread id')}"


def checkpoints(thread_id: str) -> str:
    """Name of the collection of a thread's checkpoints."""
    return f"{thread_doc(thread_id)}/{CHECKPOINTS}"


@lru_cache(_KNOWN)
def checkpoint_doc(thread_id: str, ns: str, checkpoint_id: str) -> str:
    """Name of a checkpoint's document."""
    return f"{checkpoints(thread_id)}/{inv(checkpoint_id)}!{enc(ns, 'namespace')}"


def checkpoint_range(thread_id: str, checkpoint_id: str) -> tuple[str, str]:
    """Range of names [start, end) of all documents with this checkpoint id, in every namespace."""
    start = f"{checkpoints(thread_id)}/{inv(checkpoint_id)}"
    return f"{start}!", f'{start}"'


def checkpoint_id_of(name: str) -> str:
    """The checkpoint id in the name of a checkpoint's document."""
    return _parsed(name)[0]


def ns_segment_of(name: str) -> str:
    """The encoded namespace in the name of a checkpoint's document."""
    return _parsed(name)[1]


def is_of_call(ns: str) -> bool:
    """Whether a namespace is that of a single call of a subgraph: a colon and the id of a task follow a name in it.

    A subgraph that keeps its state has a namespace without one.
    """
    return ":" in ns


def is_in_ns(name: str, ns: str) -> bool:
    """Whether a checkpoint document's name has this namespace. A query finds it by a field, which can be corrupt."""
    return ns_segment_of(name) == enc(ns, "namespace")


def _parsed(name: str) -> tuple[str, str]:
    """The checkpoint id and the encoded namespace in a checkpoint document's name.

    Raises:
        DamageError: The name has another shape, so this library did not write the document.
    """
    try:
        inverted, ns = name.rpartition("/")[2].split("!")
        return uninv(inverted), ns
    except ValueError:
        pass
    raise DamageError(
        f"The document {name!r} is in a thread's collection of checkpoints, but it does not have a checkpoint's name. "
        "langgraph-gcs-saver did not write it. Delete the document, or move it elsewhere."
    )


def is_direct(name: str) -> bool:
    """Whether a document that a query of all threads found belongs directly to a thread.

    Documents nested deeper can belong to another store, whose root is a path below a thread of this one.
    """
    return name.count("/") == _SLASHES


def is_checkpoint_doc(name: str) -> bool:
    """Whether a document in a thread's collection of checkpoints has the name of a checkpoint."""
    try:
        _parsed(name)
    except (DamageError, InvalidIdError):
        return False
    return True


def is_writes_doc(name: str) -> bool:
    """Whether a document in a thread's collection of pending writes has the name of pending writes."""
    try:
        return len(_writes_segments(name)) == 4 and bool(uninv(_writes_segments(name)[1]))
    except (DamageError, InvalidIdError, ValueError):
        return False


def split_checkpoint_doc(name: str) -> tuple[str, str]:
    """The thread's segment and the checkpoint's segment in the name of a checkpoint's document."""
    _, thread, _, leaf = name.split("/")
    return thread, leaf


def all_threads_range(after: str) -> tuple[str, str]:
    """Range of names [start, end) of the threads after the one whose document has the id `after`; empty for all."""
    return f"{THREADS}/{after}!", f"{THREADS}/g"


def thread_ranges(prefix: str) -> list[tuple[str, str]]:
    """Ranges of names [start, end) that hold the documents of all threads whose id begins with `prefix`.

    Names begin with two digits of the id's hash. So there are 256 ranges, and 256 more for names that are hashes. The
    latter hold all threads with an id too long for a name, including ids without the prefix. An empty prefix gives one
    range.
    """
    if not prefix:
        return [all_threads_range("")]
    encoded = enc(prefix, "prefix of thread ids")
    starts = [f"{THREADS}/{number:02x}-" for number in range(256)]
    # `~` sorts after all characters of readable names, and is the first character of hashes.
    hashes = [(f"{start}~0", f"{start}~g") for start in starts]
    return hashes if encoded.startswith("~") else [(start + encoded, f"{start}{encoded}~") for start in starts] + hashes


def thread_segment_of(name: str) -> str:
    """The id of the thread's document, from the name of any document of the thread."""
    return name.split("/", 2)[1]


def thread_of(name: str) -> str:
    """Name of the thread's document, from the name of any document of the thread."""
    return f"{THREADS}/{thread_segment_of(name)}"


def thread_id_of(segment: str) -> str | None:
    """The id of the thread that a segment stands for; `None` if the id is hashed, or the segment is not a thread's."""
    thread_id = dec(segment[3:])
    return thread_id if thread_id is not None and spread(thread_id) == segment else None


def told_thread_id(segment: str) -> str:
    """The thread id to show for a segment: the decoded id, or else the segment itself."""
    thread_id = thread_id_of(segment)
    return segment if thread_id is None else thread_id


_SLASHES = 3
"""Slashes in the names of documents in a thread's collections. Documents of nested collections have more."""

_LONG_THREAD = re.compile(r"[0-9a-f]{2}-~[0-9a-f]{64}\Z")


@lru_cache(_KNOWN)
def is_thread_segment(segment: str) -> bool:
    """Whether a segment of a name can stand for a thread, because `spread` makes it from some id."""
    is_long = _LONG_THREAD.match(segment) is not None and segment[:2] == segment[4:6]  # both begin the id's hash
    return is_long or thread_id_of(segment) is not None


def told_thread_of_blob(name: str) -> str:
    """The thread id to show for an object; empty if it belongs to no thread."""
    segment = name.partition("/")[0]
    return told_thread_id(segment) if is_thread_segment(segment) else ""


def past_thread_blobs(segment: str) -> str:
    """A name that sorts after the names of all objects below a segment, such as a thread's: `0` sorts after `/`."""
    return f"{segment}0"


def all_checkpoints_range() -> tuple[str, str]:
    """Range of names [start, end) of all threads' documents, whose ids begin with a hex digit."""
    return f"{THREADS}/!", f"{THREADS}/g"


def writes(thread_id: str) -> str:
    """Name of the collection of a thread's pending writes."""
    return f"{thread_doc(thread_id)}/{WRITES}"


def writes_range(thread_id: str, ns: str, newest_id: str, oldest_id: str) -> tuple[str, str]:
    """Range of names [start, end) of all pending writes of the checkpoints from `newest_id` down to `oldest_id`."""
    return writes_span(spread(thread_id, "thread id"), enc(ns, "namespace"), newest_id, oldest_id)


def writes_span(thread_segment: str, ns_segment: str, newest_id: str, oldest_id: str) -> tuple[str, str]:
    """Like `writes_range`, for a thread and a namespace that are encoded as in names."""
    base = f"{THREADS}/{thread_segment}/{WRITES}/{ns_segment}"
    return f"{base}!{inv(newest_id)}!", f'{base}!{inv(oldest_id)}"'


SPECIAL = "s"
"""The end of the name of a document of special writes."""


def regular_writes_doc(thread_id: str, ns: str, checkpoint_id: str, task_id: str, which: str) -> str:
    """Name of the document of one `put_writes` call; `which` is a digest of the numbers and channels of its writes."""
    return f"{writes_range(thread_id, ns, checkpoint_id, checkpoint_id)[0]}{enc(task_id, 'task id')}!{which}"


def special_writes_doc(thread_id: str, ns: str, checkpoint_id: str, task_id: str) -> str:
    """Name of the document of one task's special writes (errors, interrupts, resumes), one field each."""
    return f"{writes_range(thread_id, ns, checkpoint_id, checkpoint_id)[0]}{enc(task_id, 'task id')}!{SPECIAL}"


def writes_field(idx: int) -> str:
    """The field that holds write number `idx` in a document of pending writes; each special write has its own."""
    return "writes" if idx >= 0 else f"w{-idx}"


INTERRUPT = writes_field(-3)
"""The field that holds a task's interrupts; -3 is LangGraph's number of that channel (`WRITES_IDX_MAP`)."""

FAILED = writes_field(-1)
"""The field that holds a task's error; -1 is LangGraph's number of that channel."""

ANSWERED = writes_field(-4)
"""The field that holds the answers that a task has got; -4 is LangGraph's number of that channel."""


def writes_checkpoint_id_of(name: str) -> str:
    """The checkpoint id in the name of a document of pending writes."""
    try:
        return uninv(_writes_segments(name)[1])
    except ValueError:
        raise _not_writes(name) from None


def writes_ns_of(name: str) -> str:
    """The encoded namespace in the name of a document of pending writes."""
    return _writes_segments(name)[0]


def writes_task_of(name: str) -> tuple[str, bool]:
    """The encoded task id in the name of a document of pending writes, and whether it holds the special writes."""
    _, _, task, *rest = _writes_segments(name)
    return task, rest == [SPECIAL]


def writes_which_of(name: str) -> str:
    """Which of a task's writes a document of pending writes has: `SPECIAL`, or a digest of numbers and channels."""
    return _writes_segments(name)[-1]


def writes_task_id_of(name: str) -> str | None:
    """The task id in the name of a document of pending writes; `None` if the id is hashed because it is too long."""
    return dec(_writes_segments(name)[2])


def _writes_segments(name: str) -> list[str]:
    """The segments in the name of a document of pending writes: the namespace, the checkpoint, the task and more.

    Raises:
        DamageError: The name has another shape, so this library did not write the document.
    """
    segments = name.rpartition("/")[2].split("!")
    if len(segments) < 3:
        raise _not_writes(name)
    return segments


def _not_writes(name: str) -> DamageError:
    return DamageError(
        f"The document {name!r} is in a thread's collection of pending writes, but it does not have a name of pending "
        "writes. langgraph-gcs-saver did not write it. Delete the document, or move it elsewhere."
    )


def aside(thread_id: str) -> str:
    """Name of the collection of documents that repair has set aside."""
    return f"{thread_doc(thread_id)}/{ASIDE}"


def fence_doc(thread_id: str) -> str:
    """Name of the document that says who holds a thread's lease. It changes only when the holder changes."""
    return lease_docs(spread(thread_id, "thread id"))[0]


def beat_doc(thread_id: str) -> str:
    """Name of the document that the holder of a thread's lease writes from time to time."""
    return lease_docs(spread(thread_id, "thread id"))[1]


def lease_docs(segment: str) -> tuple[str, str]:
    """Names of the fence and of the beat of a thread, whose document has the id `segment`."""
    return f"{THREADS}/{segment}/{LEASES}/{_FENCE}", f"{THREADS}/{segment}/{LEASES}/{_BEAT}"


def is_fence_doc(name: str) -> bool:
    """Whether a name is that of a fence."""
    return name.endswith(f"/{LEASES}/{_FENCE}")


def is_lease_doc(leaf: str) -> bool:
    """Whether the last segment of a name can be that of a document of a lease."""
    return leaf in (_FENCE, _BEAT)


def resume_doc(thread_id: str) -> str:
    """Name of the document of the turn that a run has begun on a thread and not finished."""
    return f"{thread_doc(thread_id)}/{RESUMES}/{_CURRENT}"


def requests_doc(thread_id: str) -> str:
    """Name of the document of the latest requests of runs on a thread."""
    return f"{thread_doc(thread_id)}/{RESUMES}/{_REQUESTS}"


def is_requests_doc(name: str) -> bool:
    """Whether a name is that of the document of a thread's latest requests."""
    return name.endswith(f"/{RESUMES}/{_REQUESTS}")


def is_resume_doc(leaf: str) -> bool:
    """Whether the last segment of a name can be that of the document of a turn, or of a thread's latest requests."""
    return leaf in (_CURRENT, _REQUESTS)


def recoveries(thread_id: str) -> str:
    """Name of the collection of a thread's recovery records."""
    return f"{thread_doc(thread_id)}/{RECOVERIES}"


def recovery_doc(thread_id: str, time: int, nonce: str) -> str:
    """Name of a recovery record; names sort by time, in nanoseconds since the epoch."""
    return f"{recoveries(thread_id)}/{time:020d}-{nonce}"


_RECOVERY = re.compile(r"[0-9]{20}-[0-9A-Za-z-]{1,40}\Z")


def is_recovery_doc(leaf: str) -> bool:
    """Whether the last segment of a name can be that of a recovery record."""
    return bool(_RECOVERY.match(leaf)) and int(leaf[:20]) < 1 << 63


def recovery_time_of(name: str) -> int:
    """The time in the name of a recovery record, in nanoseconds since the epoch."""
    return int(name.rpartition("/")[2][:20])


def recovery_nonce_of(name: str) -> str:
    """The digits in the name of a recovery record that no other record of the thread has."""
    return name.rpartition("/")[2][21:]


def operations(thread_id: str | None) -> str:
    """Name of the collection of a thread's operations; `None` for those that all threads share."""
    return f"{SHARED if thread_id is None else thread_doc(thread_id)}/{OPERATIONS}"


def operation_segment(key: str) -> str:
    """The last segment of the name of an operation's document."""
    data = _utf8("key", key)
    if len(data) > MAX_KEY:
        raise InvalidIdError(
            f"The key {key[:40]!r}… of an operation has {len(data):,} bytes, and at most {MAX_KEY:,} are stored. "
            "Use a digest of it."
        )
    return _sha256(data)


def operation_doc(thread_id: str | None, key: str) -> str:
    """Name of an operation's document."""
    return f"{operations(thread_id)}/{operation_segment(key)}"


_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def is_operation_doc(name: str) -> bool:
    """Whether a document in a collection of operations has the name of an operation."""
    return _SHA256.match(name.rpartition("/")[2]) is not None


def operation_thread_segment(name: str) -> str | None:
    """The thread's segment in the name of an operation's document; `None` if all threads share the operation."""
    return None if name.startswith(f"{SHARED}/") else thread_segment_of(name)


def operation_blob(doc: str, attempt: str) -> str:
    """Name of an object that an operation's document refers to."""
    segment = operation_thread_segment(doc)
    owner = OPERATION_BLOBS if segment is None else f"{segment}/{OPERATION_BLOBS}"
    return f"{owner}/{doc.rpartition('/')[2]}/result-{attempt}.zst"


def cache_namespace(ns: Iterable[str]) -> str:
    """What the names of a namespace's cached results begin with, in their collection."""
    return f"{_sha256('/'.join(enc(part, 'namespace') for part in ns).encode())}-"


def cache_doc(ns: Iterable[str], key: str) -> str:
    """Name of the document of a node's cached result."""
    return f"{CACHE}/{cache_namespace(ns)}{_sha256(_utf8('key', key))}"


def cache_blob(doc: str, attempt: str) -> str:
    """Name of the object that a document of a cached result refers to."""
    return f"{CACHE_BLOBS}/{doc.rpartition('/')[2]}/result-{attempt}.zst"


def cache_range(begin: str) -> tuple[str, str]:
    """Range of names [start, end) of the cached results whose names begin so; all if it is empty."""
    return f"{CACHE}/{begin or '0'}", f"{CACHE}/{begin or 'f'}~"


_CACHE_BLOB = re.compile(r"~cache/[0-9a-f]{64}-[0-9a-f]{64}/result-[0-9a-z]{8,40}\.zst\Z")


def is_cache_blob(name: str) -> bool:
    """Whether an object has the name of one that `FirestoreCache` makes."""
    return _CACHE_BLOB.match(name) is not None


def cache_doc_of(blob: str) -> str:
    """Name of the document that refers to an object of a cached result, if any does."""
    return f"{CACHE}/{blob.split('/')[1]}"


_DICTIONARY = re.compile(r"~dictionaries/([0-9a-f]{8})-[12]\.zst\Z")


def dictionary_blobs(dictionary_id: str) -> tuple[str, str]:
    """Names of the two equal objects of a trained dictionary."""
    return f"{DICTIONARIES}/{dictionary_id}-1.zst", f"{DICTIONARIES}/{dictionary_id}-2.zst"


def dictionary_of(blob: str) -> str | None:
    """The id of the trained dictionary that an object holds, by its name."""
    found = _DICTIONARY.match(blob)
    return None if found is None else found[1]


def batches(thread_id: str) -> str:
    """Name of the collection of a thread's batches."""
    return f"{thread_doc(thread_id)}/{BATCHES}"


def batch_doc(thread_id: str, batch_id: str) -> str:
    """Name of a batch's document."""
    return f"{batches(thread_id)}/{enc(batch_id, 'batch id')}"


def done_doc(batch: str, chunk: int, attempt: str) -> str:
    """Name of a document that says which items of a chunk were done or failed, from the name of its batch."""
    return f"{_of_batch(batch, DONE)}{chunk}-{attempt}"


def done_range(batch: str, chunk: int | None = None) -> tuple[str, str, str]:
    """The collection and the range of names [start, end) of such documents, of a batch or of one of its chunks."""
    start = _of_batch(batch, DONE)
    collection = start.rpartition("/")[0]
    if chunk is None:
        return collection, start, f'{start[:-1]}"'
    return collection, f"{start}{chunk}-", f"{start}{chunk}."


def chunk_doc(batch: str, chunk: int) -> str:
    """Name of the document that says which worker handles a chunk."""
    return f"{_of_batch(batch, CHUNKS)}{chunk}"


def chunk_range(batch: str) -> tuple[str, str, str]:
    """The collection and the range of names [start, end) of the claims of a batch's chunks."""
    start = _of_batch(batch, CHUNKS)
    return start.rpartition("/")[0], start, f'{start[:-1]}"'


def _of_batch(batch: str, collection: str) -> str:
    """The beginning of the names of a batch's documents in another collection of the thread."""
    _, thread, _, leaf = batch.split("/")
    return f"{THREADS}/{thread}/{collection}/{leaf}!"


_SEGMENT = "[A-Za-z0-9_%-]{1,200}|~(?:[0-9a-f]{64})?"
_SEGMENT_ID = re.compile(rf"(?:{_SEGMENT})\Z")
_CHUNK = re.compile(rf"(?:{_SEGMENT})!(?:0|[1-9][0-9]{{0,8}})\Z")


def is_batch_doc(name: str) -> bool:
    """Whether a document in a thread's collection of batches has the name of a batch."""
    return _SEGMENT_ID.match(name.rpartition("/")[2]) is not None


def is_done_doc(name: str) -> bool:
    """Whether a document in a thread's collection of done items has such a document's name."""
    chunk, _, attempt = name.rpartition("/")[2].rpartition("-")
    return _CHUNK.match(chunk) is not None and ATTEMPT.match(attempt) is not None


def is_chunk_doc(name: str) -> bool:
    """Whether a document in a thread's collection of claims has the name of a chunk's claim."""
    return _CHUNK.match(name.rpartition("/")[2]) is not None


def batch_segment_of(name: str) -> str:
    """The encoded batch id in the name of a batch's document, or of a document of its items."""
    return name.rpartition("/")[2].partition("!")[0]


def sagas(thread_id: str) -> str:
    """Name of the collection of a thread's sagas."""
    return f"{thread_doc(thread_id)}/{SAGAS}"


def saga_doc(thread_id: str, saga_id: str) -> str:
    """Name of a saga's document."""
    return f"{sagas(thread_id)}/{enc(saga_id, 'saga id')}"


def is_saga_doc(name: str) -> bool:
    """Whether a document in a thread's collection of sagas has the name of a saga."""
    return _SEGMENT_ID.match(name.rpartition("/")[2]) is not None


def rollback_doc(saga: str) -> str:
    """Name of the document that says that the rollback of a saga has not ended.

    Args:
        saga: The name of the saga's document. It has two ids, so both together may be too long for a name.
    """
    return f"{ROLLBACKS}/{hashlib.sha256(saga.encode()).hexdigest()}"


BLOB_DIGITS = 32
"""Hex digits of a blob's id."""

_BLOB_ID = re.compile(rf"[0-9a-f]{{{BLOB_DIGITS}}}\Z")


def blobs(thread_id: str) -> str:
    """Name of the collection of a thread's blobs."""
    return f"{thread_doc(thread_id)}/{BLOBS}"


def blob_doc(thread_id: str, blob_id: str) -> str:
    """Name of a blob's document."""
    return f"{blobs(thread_id)}/{blob_id}"


def blob_key_doc(thread_id: str) -> str:
    """Name of the document with the key of the ids of a thread's blobs."""
    return f"{blobs(thread_id)}/{_BLOB_KEY}"


def is_blob_key_doc(name: str) -> bool:
    """Whether a document in a thread's collection of blobs is that of the key."""
    return name.rpartition("/")[2] == _BLOB_KEY


def is_blob_id(leaf: str) -> bool:
    """Whether a text can be the id of a blob."""
    return _BLOB_ID.match(leaf) is not None


def is_blob_doc(leaf: str) -> bool:
    """Whether the last segment of a name can be that of a document of blobs."""
    return leaf == _BLOB_KEY or is_blob_id(leaf)


def team_doc(team: str) -> str:
    """Name of a team's document."""
    return f"{TEAMS}/{spread(team, 'team id')}"


def members(team: str) -> str:
    """Name of the collection of a team's members."""
    return f"{team_doc(team)}/{MEMBERS}"


def member_doc(team: str, member: str) -> str:
    """Name of the document of a team's member."""
    return f"{members(team)}/{enc(member, 'name of a member')}"


def sets(team: str) -> str:
    """Name of the collection of a team's sets."""
    return f"{team_doc(team)}/{SETS}"


def set_doc(team: str, set_id: str) -> str:
    """Name of a set's document."""
    return f"{sets(team)}/{enc(set_id, 'id of a set')}"


def votes(set_name: str) -> str:
    """Name of the collection of the votes for a set, from the name of the set's document."""
    return f"{set_name}/{VOTES}"


def vote_doc(set_name: str, member: str) -> str:
    """Name of the document of a member's vote, from the name of the set's document."""
    return f"{votes(set_name)}/{enc(member, 'name of a member')}"


def all_votes_range(team: str) -> tuple[str, str]:
    """Range of names [start, end) of all votes for a team's sets, whether or not the sets exist."""
    return f"{sets(team)}/!", f"{sets(team)}/~~"


def set_of_vote(name: str) -> str:
    """The name of a set's document, from the name of a vote for it."""
    return name.rsplit("/", 2)[0]


def member_thread_id(team: str, member: str) -> str:
    """The id of a member's thread: `team/member`, with slashes and percent signs of the team's id encoded.

    Two members of one team, or of two teams, never have the same thread.
    """
    return f"{team.replace('%', '%25').replace('/', '%2F')}/{member}"


def member_of(team: str, thread_id: str) -> str | None:
    """The member whose thread a thread is; `None` if it is not a thread of that team."""
    start = member_thread_id(team, "")
    return thread_id[len(start) :] if len(thread_id) > len(start) and thread_id.startswith(start) else None


def aside_doc(name: str, attempt: str) -> str:
    """Name under which a document of a checkpoint or of pending writes is set aside. Each `attempt` has its own name.

    Names of checkpoints and of pending writes cannot collide, because they differ in shape.
    """
    _, thread, _, leaf = name.split("/")
    return f"{THREADS}/{thread}/{ASIDE}/{leaf}!{attempt}"


def set_aside(name: str, source: object) -> tuple[str, bool]:
    """The former name of a document that was set aside, from its `source`, and whether it was a checkpoint.

    Raises:
        DamageError: The source is not a document of the same thread, so this library did not write the document.
    """
    thread = thread_of(name)
    if isinstance(source, str) and is_direct(source) and thread_of(source) == thread:
        with suppress(DamageError):
            if source.startswith(f"{thread}/{CHECKPOINTS}/"):
                checkpoint_id_of(source)
                return source, True
            if source.startswith(f"{thread}/{WRITES}/"):
                writes_checkpoint_id_of(source)
                return source, False
    raise DamageError(
        f"The document {name!r} is in a thread's collection of documents set aside, but it does not name the document "
        "that it was. langgraph-gcs-saver did not write it. Delete the document, or move it elsewhere."
    )


def run_doc(run_id: str, thread_id: str) -> str:
    """Name of the document that records that a run touched a thread."""
    return f"{RUNS}/{spread(run_id, 'run id')}/{THREADS}/{spread(thread_id, 'thread id')}"


def active_doc(thread_id: str) -> str:
    """Name of the document that says that a thread's turn has not finished."""
    return f"{ACTIVE}/{spread(thread_id, 'thread id')}"


def role_doc(digits: str) -> str:
    """Name of the document with the store's role, for threads whose names begin with these two digits."""
    return f"{REGION}/role-{digits}"


def outbox_doc(segment: str, nonce: str) -> str:
    """Name of an entry of the outbox, for the thread with this segment, or for `SHARED_OUTBOX`."""
    return f"{OUTBOX}/{segment}-{nonce}"


def outbox_segment(name: str) -> str:
    """The thread's segment in the name of an entry of the outbox, or `SHARED_OUTBOX`."""
    return name.partition("/")[2].rpartition("-")[0]


def outbox_range(segment: str) -> tuple[str, str]:
    """Range of names [start, end) that holds all entries of a thread, and some of threads whose ids begin like its."""
    return f"{OUTBOX}/{segment}-", f"{OUTBOX}/{segment}."


def ship_doc(thread_id: str) -> str:
    """Name of the document that moves with each commit of a shipper for a thread."""
    return f"{thread_doc(thread_id)}/{SHIPS}/{SHIP}"


def is_ship_doc(leaf: str) -> bool:
    """Whether the last segment of a name can be that of a document of shippers."""
    return leaf == SHIP


def run_threads(run_id: str) -> str:
    """Name of the collection of the threads that a run touched."""
    return f"{RUNS}/{spread(run_id, 'run id')}/{THREADS}"


# Objects


def thread_blobs(thread_id: str) -> str:
    """Prefix of the names of all objects of a thread."""
    return f"{spread(thread_id, 'thread id')}/"


def blob(thread_id: str, ns: str, checkpoint_id: str, what: str, attempt: str) -> str:
    """Name of an object: `what` is an encoded channel, or `MANIFEST`, `FRAMES` or `WRITES_BLOB`."""
    segments = (enc(ns, "namespace"), enc(checkpoint_id, "checkpoint id"))
    return f"{thread_blobs(thread_id)}{'/'.join(segments)}/{what}-{attempt}.zst"


def blob_beside(doc: str, what: str, attempt: str) -> str:
    """Name of an object of the checkpoint whose document is `doc`."""
    thread, leaf = split_checkpoint_doc(doc)
    inverted, ns = leaf.split("!", 1)
    return f"{thread}/{ns}/{enc(uninv(inverted))}/{what}-{attempt}.zst"


def writes_blob(doc: str, attempt: str) -> str:
    """Name of an object that a document of pending writes refers to."""
    _, thread, _, leaf = doc.split("/")
    ns, inverted, *_ = leaf.split("!")
    return f"{thread}/{ns}/{enc(uninv(inverted))}/{WRITES_BLOB}-{attempt}.zst"


def batch_blob(doc: str, attempt: str) -> str:
    """Name of an object that a document of a batch, or of its items, refers to."""
    return f"{thread_segment_of(doc)}/{BATCH_BLOBS}/{batch_segment_of(doc)}/{WRITES_BLOB}-{attempt}.zst"


def segment_blob(doc: str, number: int, attempt: str) -> str:
    """Name of the object of a segment of the blob whose document is `doc`."""
    return f"{segment_blobs(doc)}{number}-{attempt}.zst"


def segment_blobs(doc: str) -> str:
    """What the names of the objects of all segments of the blob whose document is `doc` begin with."""
    return f"{thread_segment_of(doc)}/{BLOB_SEGMENTS}/{doc.rpartition('/')[2]}/"


def writes_checkpoint_doc(doc: str) -> str:
    """Name of the document of the checkpoint that a document of pending writes belongs to."""
    _, thread, _, leaf = doc.split("/")
    ns, inverted, *_ = leaf.split("!")
    return f"{THREADS}/{thread}/{CHECKPOINTS}/{inverted}!{ns}"


def blob_owner(name: str) -> tuple[str, str]:
    """The encoded namespace and the encoded checkpoint id in the name of an object below a thread's prefix."""
    _, ns, checkpoint, *_ = (*name.split("/"), "", "")
    return ns, checkpoint


# No channel has these encodings: `~` alone is the empty id, and otherwise 64 hex digits follow it.
MANIFEST = "~manifest"
FRAMES = "~frames"
WRITES_BLOB = "~writes"
BATCH_BLOBS = "~batches"
"""The segment that objects of batches have in place of a namespace's."""

CACHE_BLOBS = "~cache"
"""The first segment of objects of `FirestoreCache`. No thread has this encoding. Only the cache deletes them."""

DICTIONARIES = "~dictionaries"
"""The first segment of objects of trained dictionaries. No thread has this encoding. Nothing deletes them."""

OPERATION_BLOBS = "~operations"
"""In an object's name, it takes the place of the namespace. No namespace has this encoding either."""

BLOB_SEGMENTS = "~blobs"
"""The same for the segments of blobs."""

ATTEMPT = re.compile(r"[0-9a-z]{8,40}\Z")
"""A random, lower-case name for one try of one call, which distinguishes its objects from all others."""

BLOB = re.compile(r"(?:[A-Za-z0-9_%~-]{1,200}/){2}[A-Za-z0-9_%~-]{1,200}-[0-9a-z]{8,40}\.zst\Z")
"""The part of an object's name that follows the thread's prefix."""

_SHARED_BLOB = re.compile(r"[0-9a-f]{64}/result-[0-9a-z]{8,40}\.zst\Z")


def is_blob(name: str) -> bool:
    """Whether an object has a name that stores use. Objects with other names below the prefix are not the store's."""
    thread, _, rest = name.partition("/")
    if thread == OPERATION_BLOBS:
        return _SHARED_BLOB.match(rest) is not None
    return is_thread_segment(thread) and BLOB.match(rest) is not None


SIMPLE_FIELD = re.compile(r"(?!__.*__\Z)[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
"""Field names that Firestore allows, and that need no quoting in a field path."""
