"""Documents as rows: names, fields, queries and commits of the embedded store and the store in memory.

A row holds a document's fields, as the bytes of a `MapValue` message, and its times. This module decides, and each
store acts in its own way: the embedded store with SQL in a transaction, the store in memory on a mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Doc, Merge, QueryDocs, Write
from langgraph_gcs_saver.errors import DamageError, InvalidIdError, InvalidInputError, StoreError
from langgraph_gcs_saver.stores.messages import PbMapValue
from langgraph_gcs_saver.stores.values import from_fields, from_value, to_map, to_value

Key = tuple[str, bytes]
"""A document's collection id, and its name with segments joined by NUL, so that names sort by segments."""

Row = tuple[bytes, int, int]
"""A document's fields, the time when it was created, and the time when it last changed."""


# Names

_NO_SEGMENTS = frozenset((b"", b".", b".."))


def segments_of(name: str) -> list[bytes]:
    """The segments of a name of a document or object.

    Raises:
        InvalidIdError: The name is illegal.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise InvalidIdError(f"The name {name[:200]!r} holds a lone surrogate, which is not Unicode text.") from None
    segments = encoded.split(b"/")
    if b"\0" in encoded or not _NO_SEGMENTS.isdisjoint(segments):
        raise InvalidIdError(f"The name {name[:200]!r} is illegal: a part of it is empty, `.`, `..` or holds a NUL.")
    return segments


def object_segments_of(name: str) -> list[bytes]:
    """The segments of an object's name, of any length that Cloud Storage allows. Raises what `segments_of` raises."""
    segments = segments_of(name)
    if len(name.encode()) > limits.OBJECT_NAME_BYTES:
        raise InvalidIdError(
            f"The name {name[:80]!r}… is longer than the {limits.OBJECT_NAME_BYTES} bytes that Cloud Storage allows."
        )
    return segments


def key_of(name: str) -> Key:
    """The key of a document. Raises what `segments_of` raises."""
    segments, path = _path_of(name)
    if len(segments) % 2:
        raise InvalidIdError(f"{name[:200]!r} names a collection, not a document.")
    return segments[-2].decode(), path


def name_of(path: bytes) -> str:
    """The name in a key."""
    return path.replace(b"\0", b"/").decode(errors="replace")


def is_document(key: Key) -> bool:
    """Whether a document can have this key. A forged row may have any, and no name would lead back to that row."""
    collection_id, path = key
    segments = path.split(b"\0")
    is_name = is_segment(path) and _NO_SEGMENTS.isdisjoint(segments) and _fits(path, segments)
    return is_name and len(segments) % 2 == 0 and segments[-2] == collection_id.encode()


def is_segment(data: bytes) -> bool:
    """Whether bytes can be in a segment of a name: they are text without a slash."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"/" not in data


def _path_of(name: str) -> tuple[list[bytes], bytes]:
    segments = segments_of(name)
    path = b"\0".join(segments)
    if not _fits(path, segments):
        raise InvalidIdError(
            f"The name {name[:80]!r}… has {len(path)} bytes. Firestore allows {limits.NAME_BYTES} bytes, and "
            f"{limits.SEGMENT_BYTES} bytes in each part."
        )
    return segments, path


def _fits(path: bytes, segments: Sequence[bytes]) -> bool:
    return len(path) <= limits.NAME_BYTES and max(map(len, segments)) <= limits.SEGMENT_BYTES


# Reading


def read(name: str, row: Iterable[Any], mask: tuple[str, ...] | None) -> Doc:
    """The document in a row; a document without a format if the row is corrupt."""
    return _masked(name, _read(*row), mask)


class Query:
    """A query whose arguments were checked.

    Attributes:
        collection_id: The collection id in the keys of its documents.
        start: First path, inclusive.
        end: Last path, exclusive.
        prefix: Number of bytes of a path after which a NUL excludes the document; `None` if a NUL may be anywhere.

    Args:
        query: The query.

    Raises:
        InvalidInputError: The query does not name a collection, or has a value that no document can hold.
    """

    __slots__ = ("_limit", "_mask", "_where", "collection_id", "end", "prefix", "start")

    def __init__(self, query: QueryDocs) -> None:
        segments, above = _path_of(query.collection)
        lower, upper = [], []
        if query.start is not None:
            lower.append(key_of(query.start)[1])
        if query.after is not None:
            lower.append(key_of(query.after)[1] + b"\0")  # the smallest path after it
        if query.end is not None:
            upper.append(key_of(query.end)[1])
        self.prefix: int | None = None
        if query.group:
            if len(segments) != 1 or query.start is None or query.end is None:
                raise InvalidInputError("A query of a collection group needs a bare collection id, `start` and `end`.")
        else:
            if len(segments) % 2 == 0:
                raise InvalidIdError(f"{query.collection[:200]!r} names a document, not a collection.")
            lower.append(above + b"\0")
            upper.append(above + b"\1")
            # The range also contains nested collections with the same id, such as `a/x/a`.
            self.prefix = len(above) + 1
        self.collection_id, self.start, self.end = segments[-1].decode(), max(lower), min(upper)
        self._where = [(path, from_value(to_value(asked))) for path, asked in query.where]
        self._limit, self._mask = query.limit, query.mask

    def includes(self, key: Key) -> bool:
        """Whether a document is in the range of names."""
        collection_id, path = key
        return (
            collection_id == self.collection_id
            and self.start <= path < self.end
            and (self.prefix is None or path.find(b"\0", self.prefix) < 0)
        )

    def find(self, rows: Iterable[Iterable[Any]]) -> list[Doc]:
        """The documents that match.

        Args:
            rows: The paths in the range of names, each followed by its row, in ascending order.
        """
        return list(islice(self._matching(rows), self._limit))  # No row is read after the last one.

    def _matching(self, rows: Iterable[Iterable[Any]]) -> Iterator[Doc]:
        for path, *row in rows:
            message, create_time, update_time = _read(*row)
            # A corrupt document might have matched, so the reader must see it.
            if message is _DAMAGED or all(_matches(message, where, asked) for where, asked in self._where):
                yield _masked(name_of(path), (message, create_time, update_time), self._mask)


_DAMAGED = to_map({"format": None})
"""The message for a document whose stored bytes do not parse. It has no format, which readers report as damage."""


def _read(stored: Any, create_time: Any, update_time: Any) -> tuple[Any, int, int]:
    """The message and the times of a row. Types are checked, because SQLite allows any type in any column."""
    if not (isinstance(stored, bytes) and isinstance(create_time, int) and isinstance(update_time, int)):
        return _DAMAGED, 0, 0
    try:
        return PbMapValue.FromString(stored), create_time, update_time
    except DecodeError:
        return _DAMAGED, create_time, update_time


def _masked(name: str, row: tuple[Any, int, int], mask: tuple[str, ...] | None) -> Doc:
    message, create_time, update_time = row
    if mask is None:
        return Doc(name, from_fields(message.fields), create_time, update_time)
    selected: dict[str, Any] = {}
    for path in mask:
        found = _find(message, path)
        if found is not None:
            *parents, last = path.split(".")
            target = selected
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = from_value(found)
    return Doc(name, selected, create_time, update_time)


def _find(message: Any, path: str) -> Any | None:
    """The `Value` at a field path; `None` if there is none."""
    found = None
    for part in path.split("."):
        found = message.fields.get(part)
        if found is None:
            return None
        message = found.map_value  # empty if the value is not a map
    return found


def _matches(message: Any, path: str, asked: object) -> bool:
    found = _find(message, path)
    return found is not None and _equal(from_value(found), asked)


def _equal(value: object, asked: object) -> bool:
    """Whether Firestore treats two values as equal: numbers by value, all others by type and value."""
    if isinstance(value, dict) and isinstance(asked, dict):
        return value.keys() == asked.keys() and all(_equal(value[key], asked[key]) for key in value)
    if isinstance(value, bool) or isinstance(asked, bool):
        return value is asked
    return value == asked


# Writing


class Writes:
    """The writes of a commit, after a check of their names, values and size.

    Args:
        commit: The commit.

    Raises:
        InvalidInputError: Firestore does not store a name or a field of the commit.
        StoreError: The commit exceeds Firestore's limit.
    """

    __slots__ = ("_writes",)

    def __init__(self, commit: Commit) -> None:
        self._writes: list[tuple[Write, Key, Any]] = [
            (write, key_of(write.name), None if isinstance(write, Delete) else to_map(write.fields))
            for write in commit.writes
        ]
        size = sum(len(write.name) + (0 if m is None else m.ByteSize()) for write, _, m in self._writes)
        if size > limits.COMMIT_BYTES:
            raise StoreError(
                f"A commit of {size} bytes exceeds the limit of {limits.COMMIT_BYTES}. Write less at once."
            )

    def apply(
        self, get: Callable[[Key], tuple[Any, ...] | None], now: int
    ) -> tuple[tuple[int, ...], dict[Key, Row | None]] | None:
        """The result of `Commit` and the changed rows, with `None` for deleted ones; `None` if a precondition fails.

        Args:
            get: Finds a row, if there is one.
            now: The time of this commit, later than that of every earlier commit.

        Raises:
            DamageError: The stored bytes of a document are corrupt.
            StoreError: A document would exceed Firestore's limit.
        """
        changed: dict[Key, Row | None] = {}
        times = []
        for write, key, message in self._writes:
            row = changed[key] if key in changed else get(key)
            if isinstance(write, Create):
                if row is not None:
                    return None
            elif write.update_time is not None and (row is None or row[2] != write.update_time):
                return None
            if isinstance(write, Delete):
                if row is not None:
                    changed[key] = None
                times.append(0)
            elif row is None:
                changed[key] = (_serialized(key, message), now, now)
                times.append(now)
            elif isinstance(write, Merge):
                merged = _merged(write, row[0], message)
                if merged is not None:
                    changed[key] = (_serialized(key, merged), row[1], now)
                times.append(row[2] if merged is None else now)
        return tuple(times), changed


def _merged(write: Merge, stored: Any, message: Any) -> Any | None:
    """The message of a document after a merge; `None` if the merge changes nothing."""
    try:
        target = PbMapValue.FromString(stored)
    except (DecodeError, TypeError) as error:
        raise DamageError(
            f"The stored bytes of document {write.name!r} are corrupt. Restore the database from a backup."
        ) from error
    removed = [field for field in write.remove if field in target.fields and field not in message.fields]
    changed = [field for field, value in message.fields.items() if not _is_same(target.fields.get(field), value)]
    for field in removed:
        del target.fields[field]
    for field in changed:
        target.fields[field].CopyFrom(message.fields[field])
    return target if removed or changed else None


def _is_same(found: Any | None, value: Any) -> bool:
    """Whether two values are stored as the same bytes. Messages with a NaN are never equal."""
    return found is not None and _bytes_of(found) == _bytes_of(value)


def _bytes_of(message: Any) -> bytes:
    stored: bytes = message.SerializeToString(deterministic=True)
    return stored


def _serialized(key: Key, message: Any) -> bytes:
    stored = _bytes_of(message)
    # Firestore counts little more than a message's length: 10 bytes for 9, for a short field with a number.
    if len(stored) > limits.DOCUMENT_BYTES // 2:
        size = _size(message.fields) + len(key[1]) + 17
        if size > limits.DOCUMENT_BYTES:
            raise StoreError(
                f"The document {name_of(key[1])!r} has {size} bytes, and the limit is {limits.DOCUMENT_BYTES}. "
                "Store less in it."
            )
    return stored


def _size(fields: Mapping[str, Any]) -> int:
    """Bytes as Firestore counts them (https://firebase.google.com/docs/firestore/storage-size)."""
    return 32 + sum(len(name.encode()) + 1 + _value_size(value) for name, value in fields.items())


def _value_size(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    if kind == "string_value":
        return len(value.string_value.encode()) + 1
    if kind == "bytes_value":
        return len(value.bytes_value)
    if kind == "map_value":
        return _size(value.map_value.fields)
    return 8 if kind in ("integer_value", "double_value") else 1
