"""`Jsonl`: rows as lines of JSON in a file of this machine."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from langgraph_gcs_saver.analytics.base import RowSink, check_number
from langgraph_gcs_saver.analytics.rows import Row, as_json
from langgraph_gcs_saver.engine.files import FILE_MODE, NotAFileError, make_directory

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
except ImportError:  # Windows, where appending is not atomic: use one file for each process there
    flock = None  # type: ignore[assignment]

_OPEN: int = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

_BEGINS = b'{"schema":'
"""What every line of this library begins with."""

_TAIL = 1 << 20
"""Most bytes that are searched for the end of the last whole line."""

_LASTING = (NotAFileError, PermissionError, IsADirectoryError, NotADirectoryError)


class Jsonl(RowSink[bytes]):
    """Append rows to a file, as one JSON object in each line.

    Several processes of a machine may write to one file. Each batch is appended by one write, under a lock of the file,
    so lines never mix. If a process is killed in the middle of a write, the file ends with a part of a line. The next
    write removes that part. Until then, ignore a last line without a newline.

    The file has mode 0600. Directories that are missing are made, with mode 0700. Another program may rename the file
    at any time, because each write opens it again.

    Args:
        path: The file.
        rotate_bytes: Rename the file before it becomes larger than this. Its new name has the time before the suffix,
            as in `rows-20300131T120000Z-1f2e3d4c.jsonl`. By default the file is never renamed.
        options: See `langgraph_gcs_saver.analytics.base.RowSink`.

    Raises:
        InvalidOptionError: An option is outside its range.
    """

    def __init__(self, path: str | os.PathLike[str], *, rotate_bytes: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if rotate_bytes is not None:
            check_number("rotate_bytes", rotate_bytes, 1, 1 << 50)
        # Another working directory must not mean another file.
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links
        self._rotate = rotate_bytes

    def encode(self, row: Row) -> bytes:
        """A row as a line."""
        return as_json(row).encode() + b"\n"

    def is_transient(self, error: BaseException) -> bool:
        """Whether the file may be written to later: the disk is full, or another process holds the lock."""
        return super().is_transient(error) or (isinstance(error, OSError) and not isinstance(error, _LASTING))

    def send(self, batch: Sequence[bytes]) -> None:
        """Append lines. All of them are in the file then, or none."""
        data = b"".join(batch)
        make_directory(self.path.parent)
        while not self._append(data):
            pass  # the file was renamed

    def _append(self, data: bytes) -> bool:
        handle = os.open(self.path, _OPEN, FILE_MODE)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise NotAFileError(errno.EINVAL, "it is not a file", str(self.path))
            if flock is not None:
                # Without waiting, because a process that was stopped may hold it. The system frees it at any end.
                flock(handle, LOCK_EX | LOCK_NB)
            if not self._is_current(handle):
                return False
            size = _whole(handle)
            if self._rotate is not None and size > 0 and size + len(data) > self._rotate:
                self.path.rename(self._old_name())
                return False
            if (written := os.write(handle, data)) < len(data):
                os.truncate(handle, size)
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written", str(self.path))
        finally:
            if flock is not None:
                flock(handle, LOCK_UN)  # A process that was forked meanwhile has the handle too, and so the lock.
            os.close(handle)
        return True

    def _is_current(self, handle: int) -> bool:
        """Whether the path still names the open file."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), self.path.stat())
        return False

    def _old_name(self) -> Path:
        now = datetime.now(timezone.utc)  # clock: only part of a name, which has random digits as well
        return self.path.with_name(f"{self.path.stem}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}{self.path.suffix}")


def _whole(handle: int) -> int:
    """The size of a file, after the part of a line at its end was removed. A foreign last line gets its newline."""
    size = os.fstat(handle).st_size
    begin = max(0, size - _TAIL)
    os.lseek(handle, begin, os.SEEK_SET)
    tail = os.read(handle, size - begin)
    part = tail[tail.rfind(b"\n") + 1 :]
    if not part:
        return size
    if part.startswith(_BEGINS) or _BEGINS.startswith(part):
        os.truncate(handle, size - len(part))
        return size - len(part)
    return size + os.write(handle, b"\n")
