"""`Blobs`: large data beside the state of a thread, which holds only a dict that names it.

`flows.blobs` stores and reads. This module knows the user's files and folders.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Compute, Flow
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import DamageError, InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.flows.blobs import Measured, Source
from langgraph_gcs_saver.format import blobs as stored
from langgraph_gcs_saver.format.serialization import dumps

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from langgraph_gcs_saver.engine.runner import Backend
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.format.blobs import Blob
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

BlobDict = dict[str, Any]
"""What names a blob in the state: `type` ("lg_blob"), `digest`, `size` and `media_type`."""

TREE = "application/vnd.langgraph-gcs-saver.tree+json"
"""The media type of a folder."""

MAX_FILES = 25_000
"""Most files of a folder: the document of its list has 35 bytes for each, and less than a mebibyte."""

MAX_TREE_BYTES = 64 << 20
"""Most bytes of a folder's list of files that are read."""

MAX_MEDIA_TYPE = 255
"""Most characters of a media type: twice 127 and a slash (https://www.rfc-editor.org/rfc/rfc6838#section-4.2)."""


class Blobs:
    """Large data beside the state of a thread. You get one from `saver.thread(id).blobs`.

    `put` returns a dict. Put it into the state: it is plain data, so every serializer keeps it. A blob stays as long as
    a checkpoint or a pending write of the thread names it, and for a day after `put`.

        def fetch(state):
            blob = saver.thread(thread_id).blobs.put(Path("report.pdf"), media_type="application/pdf")
            return {"report": blob}
    """

    def __init__(self, saver: GCSSaver, thread_id: str) -> None:
        probe = dumps(saver.serde, {"type": stored.TYPE, "digest": "0" * 64}, "A blob")
        if stored.digests_in(probe) != ("0" * 64,):
            raise InvalidOptionError(
                f"The serializer {type(saver.serde).__name__} hides which blobs a value names, so `collect` would "
                "delete them. To encrypt, pass `cipher=` to the saver instead of a serializer that encrypts."
            )
        self.thread_id = thread_id
        self._backend = saver._backend  # noqa: SLF001 - these calls are a part of the saver
        self._contexts = saver._contexts  # noqa: SLF001 - as above

    @property
    def _context(self) -> Context:
        return self._contexts.get()

    def put(
        self, data: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO, *, media_type: str | None = None
    ) -> BlobDict:
        """Store a blob; it is durable when this returns. The same content is stored once in a thread.

        Files are streamed: this takes less than 64 MiB of memory. They are read twice, first for their digest. A file
        object is read from its position. One that cannot seek is first copied to a temporary file.

        Args:
            data: The content: bytes, a path, or a file that is open for reading bytes. A text that names a file must be
                made a `pathlib.Path`.
            media_type: The kind of content, such as `"application/pdf"`, for those who read it. It is only in the dict.

        Returns:
            The dict that names the blob: `type` ("lg_blob"), `digest` (the hex sha256 of the content), `size` in bytes,
            and `media_type`.

        Raises:
            CheckpointVerificationError: Written data reads back differently, several times in a row.
            ConflictError: Other writers changed the thread in every try. Call again.
            InvalidInputError: The data is of another type, or changed while it was read.
            OSError: The file cannot be read.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ValueTooLargeError: It has more than 31 GiB.
        """
        _check_media_type(media_type)
        return run(self._put(data, media_type), self._backend)

    async def aput(
        self, data: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO, *, media_type: str | None = None
    ) -> BlobDict:
        """Asynchronous twin of `put`."""
        _check_media_type(media_type)
        return await arun(self._put(data, media_type), self._backend)

    def _put(self, data: Any, media_type: str | None) -> Flow[BlobDict]:
        with ExitStack() as stack:
            source = yield from Compute(partial(_source, data, stack), size=_UNKNOWN_SIZE)
            found = yield from flows.blobs.put(self.thread_id, [source], self._context)
        return _dict(found[0], media_type)

    def open(self, blob: BlobDict) -> BlobReader:
        """Open a blob for reading. A wrong byte raises `DamageError` before any byte of its segment is returned.

        The result is a file: `read`, `seek`, iteration over lines, and `with`. In coroutines, use `aread`, or `async
        for`, which gives segments. It holds one segment of 4 MiB in memory.

        Args:
            blob: The dict from `put`.

        Raises:
            DamageError: The blob is missing or damaged.
            InvalidInputError: It is not a dict that names a blob.
            StoreError: A service rejected a request, or did not answer before the deadline.
            WrongKeyError: The blob is encrypted with another key, or the saver has no key.
        """
        return run(self._open(blob), self._backend)

    async def aopen(self, blob: BlobDict) -> BlobReader:
        """Asynchronous twin of `open`."""
        return await arun(self._open(blob), self._backend)

    def _open(self, blob: object) -> Flow[BlobReader]:
        digest, size = _named(blob)
        found = yield from flows.blobs.look(self.thread_id, digest, size, self._context)

        def read(number: int) -> Flow[bytes]:
            return flows.blobs.read(self.thread_id, found, number, self._context)

        return BlobReader(found, read, self._backend)

    def put_tree(self, path: os.PathLike[str]) -> BlobDict:
        """Store a folder: a blob for each file that the thread does not have yet, and one that lists all of them.

        Of files, the content is stored, and whether the owner may execute them. Empty folders are stored too.

        Args:
            path: The folder.

        Returns:
            The dict that names the list. It keeps the files, too.

        Raises:
            InvalidInputError: It is no folder, or has more than 25,000 files. Or it has a symbolic link or another
                thing that is neither a file nor a folder, or a name that is not Unicode.
            OSError: A file cannot be read. This also raises what `put` raises.
        """
        return run(self._put_tree(path), self._backend)

    async def aput_tree(self, path: os.PathLike[str]) -> BlobDict:
        """Asynchronous twin of `put_tree`."""
        return await arun(self._put_tree(path), self._backend)

    def _put_tree(self, path: os.PathLike[str]) -> Flow[BlobDict]:
        root = Path(path)
        seen, folders = yield from Compute(partial(_walk, root), size=_UNKNOWN_SIZE)
        if len(seen) > MAX_FILES:
            raise _too_many(root)
        sources = [Source(partial(_read_file, root / name, opener=_open_no_link)) for name in seen]
        found = yield from flows.blobs.put(self.thread_id, sources, self._context)
        pairs = zip(seen.items(), found, strict=True)
        files = {name: [one.digest, one.size, is_executable] for (name, is_executable), one in pairs}
        text = json.dumps({"files": files, "folders": folders}, sort_keys=True, separators=(",", ":")).encode()
        if len(text) > MAX_TREE_BYTES:
            raise _too_many(root)
        listed = tuple(sorted({one.digest for one in found}))
        source = Source(partial(_read_bytes, text), len(text), listed)
        return _dict((yield from flows.blobs.put(self.thread_id, [source], self._context))[0], TREE)

    def write_tree(self, blob: BlobDict, path: os.PathLike[str]) -> None:
        """Write a folder that `put_tree` stored. If this fails, a part of it may have been written.

        Args:
            blob: The dict from `put_tree`.
            path: The folder. It must be empty, or not exist.

        Raises:
            DamageError: The list or a file of it is missing or damaged. No wrong byte was written.
            InvalidInputError: The dict names no folder, or the path is not an empty folder.
            OSError: A file cannot be written. This also raises what `open` raises.
        """
        return run(self._write_tree(blob, path), self._backend)

    async def awrite_tree(self, blob: BlobDict, path: os.PathLike[str]) -> None:
        """Asynchronous twin of `write_tree`."""
        return await arun(self._write_tree(blob, path), self._backend)

    def _write_tree(self, blob: object, path: os.PathLike[str]) -> Flow[None]:
        root = Path(path)
        digest, size = _named(blob)
        if not isinstance(blob, Mapping) or blob.get("media_type") != TREE or size > MAX_TREE_BYTES:
            raise InvalidInputError("The dict names no folder. Pass one that `put_tree` returned.")
        text = io.BytesIO()
        yield from self._copy(digest, size, text)
        tree = _parsed_tree(text.getvalue())
        yield from Compute(partial(_make_folders, root, tree), size=_UNKNOWN_SIZE)
        for name, (one, length, is_executable) in tree.files.items():
            with (root / name).open("xb") as file:
                yield from self._copy(one, length, file)
            if is_executable:
                (root / name).chmod(stat.S_IMODE((root / name).stat().st_mode) | 0o111)

    def _copy(self, digest: str, size: int, file: BinaryIO) -> Flow[None]:
        """Write a whole blob to a file, segment by segment."""
        found = yield from flows.blobs.look(self.thread_id, digest, size, self._context)
        checked = _Checked(found)
        for number in range(checked.count):
            part = found.inline
            if found.segments:
                part = yield from flows.blobs.read(self.thread_id, found, number, self._context)
            yield from Compute(partial(checked.take, number, part), size=len(part))
            yield from Compute(partial(file.write, part), size=len(part))


class BlobReader(io.RawIOBase):
    """A blob that is open for reading, from `Blobs.open`.

    Attributes:
        size: Bytes of the blob.
    """

    def __init__(self, blob: Blob, fetch: Callable[[int], Flow[bytes]], backend: Backend) -> None:
        super().__init__()
        self.size = blob.size
        self._blob = blob
        self._fetch = fetch
        self._backend = backend
        self._checked = _Checked(blob)
        self._position = 0
        self._number, self._part = (-1, b"") if blob.segments else (0, blob.inline)
        if not blob.segments:
            self._checked.take(0, blob.inline)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position: from the beginning, from here, or from the end. Returns it."""
        self._check_open()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer, up to the end of a segment. Returns the number of bytes, 0 at the end."""
        with memoryview(buffer).cast("B") as view:
            found = self.read(min(len(view), self._left()))
            view[: len(found)] = found
            return len(found)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, fewer only at the end; all that are left without a size.

        Raises:
            DamageError: A segment is missing or damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._read(size), self._backend)

    async def aread(self, size: int | None = -1, /) -> bytes:
        """Asynchronous twin of `read`."""
        return await arun(self._read(size), self._backend)

    def peek(self, _size: int = 0, /) -> bytes:
        """Some of the bytes that come next, without a change of the position. Lines are read by this."""
        return run(self._peek(), self._backend)

    async def apeek(self, _size: int = 0, /) -> bytes:
        """Asynchronous twin of `peek`."""
        return await arun(self._peek(), self._backend)

    def _peek(self) -> Flow[bytes]:
        self._check_open()
        if self._position >= self.size:
            return b""
        yield from self._load(self._position)
        at = self._position - self._number * self._blob.segment_bytes
        return self._part[at : at + io.DEFAULT_BUFFER_SIZE]

    def readall(self) -> bytes:
        """Read all that is left; raises as `read` does."""
        return self.read()

    def _read(self, size: int | None) -> Flow[bytes]:
        self._check_open()
        left = max(self.size - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted:
            yield from self._load(self._position)
            at = self._position - self._number * self._blob.segment_bytes
            parts.append(self._part[at : at + wanted])
            wanted -= len(parts[-1])
            self._position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _left(self) -> int:
        """Bytes from the position to the end of its segment."""
        length = self._blob.segment_bytes or self.size
        return length - self._position % length if length else 0

    def _load(self, position: int) -> Flow[None]:
        number = position // self._blob.segment_bytes if self._blob.segments else 0
        if number != self._number:
            part = yield from self._fetch(number)
            yield from Compute(partial(self._checked.take, number, part), size=len(part))
            self._number, self._part = number, part

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("read of a closed blob")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while part := await self.aread(self._left()):
            yield part


class _Checked:
    """Compares the digest of a whole blob when its segments are read in order.

    Each segment has a digest of its own. This shows a forged list of segments in a store without a cipher.
    """

    def __init__(self, blob: Blob) -> None:
        self.count = len(blob.segments) or 1
        self._blob = blob
        self._next = 0
        self._hashed = hashlib.sha256()

    def take(self, number: int, part: bytes) -> None:
        """Count a segment.

        Raises:
            DamageError: It is the last one, and the blob does not have its digest.
        """
        if number != self._next:
            return
        self._next += 1
        self._hashed.update(part)
        if self._next == self.count and self._hashed.hexdigest() != self._blob.digest:
            raise DamageError(
                f"Document {self._blob.document!r} lists segments of other content. Put the blob's content again."
            )


# What names a blob


def _dict(found: Measured, media_type: str | None) -> BlobDict:
    return {"type": stored.TYPE, "digest": found.digest, "size": found.size, "media_type": media_type}


def _named(blob: object) -> tuple[str, int]:
    found = stored.named(blob)
    if found is None:
        raise InvalidInputError(
            f"This is no dict that names a blob, but a {type(blob).__name__}. Pass what `put` gave."
        )
    return found


def _check_media_type(media_type: object) -> None:
    if media_type is not None and not (isinstance(media_type, str) and 0 < len(media_type) <= MAX_MEDIA_TYPE):
        raise InvalidInputError(f"media_type must be text of 1 to {MAX_MEDIA_TYPE} characters, or None.")


# Files and folders


def _source(data: object, stack: ExitStack) -> Source:
    if isinstance(data, bytes | bytearray | memoryview):
        content = bytes(data)
        return Source(partial(_read_bytes, content), len(content))
    if isinstance(data, os.PathLike):
        path = Path(data)
        if not path.is_file():
            raise InvalidInputError(f"{str(path)!r} is no file. For a folder, call `put_tree`.")
        return Source(partial(_read_file, path))
    if isinstance(data, io.TextIOBase) or not hasattr(data, "read"):
        raise InvalidInputError(
            f"A {type(data).__name__} cannot be stored as a blob. Pass bytes, a `pathlib.Path`, or a file that is open "
            "for reading bytes."
        )
    file: Any = data
    if not (hasattr(file, "seekable") and file.seekable()):
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        copyfileobj(file, copy)
        file = copy
        file.seek(0)
    return Source(partial(_read_at, file, file.tell()))


def _read_bytes(data: bytes, start: int, length: int) -> bytes:
    return data[start : start + length]


def _open_no_link(path: str, flags: int) -> int:
    """Open a file of a folder. A program that writes to the folder may have put a link or a pipe in its place."""
    found = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise InvalidInputError(f"{path!r} was a file, and is none any more. Call again when the folder is complete.")
    return found


def _read_file(path: Path, start: int, length: int, *, opener: Callable[[str, int], int] | None = None) -> bytes:
    with open(path, "rb", opener=opener) as file:
        return _read_at(file, 0, start, length)


def _read_at(file: BinaryIO, base: int, start: int, length: int) -> bytes:
    file.seek(base + start)
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class _Tree(NamedTuple):
    """A folder, as its list says: files with their digest, size and mode, and folders; by relative path."""

    files: dict[str, tuple[str, int, bool]]
    folders: list[str]


def _walk(root: Path) -> tuple[dict[str, bool], list[str]]:
    """The files of a folder, with whether the owner may execute them, and its folders; in order."""
    if not root.is_dir():
        raise InvalidInputError(f"{str(root)!r} is no folder.")
    files: dict[str, bool] = {}
    folders: list[str] = []
    for path in sorted(root.rglob("*")):
        name, mode = path.relative_to(root).as_posix(), path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not _is_inside(name):
            raise InvalidInputError(
                f"{name!r} in the folder {str(root)!r} is neither a file nor a folder, or has a name that is not "
                "portable. Nothing was stored. Remove it, or copy what a link leads to."
            )
        if stat.S_ISDIR(mode):
            folders.append(name)
        else:
            files[name] = bool(mode & stat.S_IXUSR)
    return files, folders


def _too_many(root: Path) -> InvalidInputError:
    return InvalidInputError(f"The folder {str(root)!r} has too many files. Store its parts one by one.")


def _is_inside(name: object) -> bool:
    """Whether a relative path leads below its folder on each system."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or ":" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and path.as_posix() == name and not {".", ".."} & set(path.parts)


def _parsed_tree(text: bytes) -> _Tree:
    try:
        found = json.loads(text)
        files = {name: (str(digest), int(size), bool(mode)) for name, (digest, size, mode) in found["files"].items()}
        folders = list(found["folders"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamageError("The list of a folder does not parse. Put the folder again.") from None
    names = [stored.named({"type": stored.TYPE, "digest": one[0], "size": one[1]}) for one in files.values()]
    if None in names or not all(map(_is_inside, [*files, *folders])):
        raise DamageError("The list of a folder has a path outside of it. Nothing was written. Put the folder again.")
    return _Tree(files, folders)


def _make_folders(root: Path, tree: _Tree) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise InvalidInputError(f"The folder {str(root)!r} is not empty. Nothing was written.")
    for name in tree.folders:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in tree.files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)


_UNKNOWN_SIZE = 1 << 62
"""Work on files leaves the event loop, however small they are."""
