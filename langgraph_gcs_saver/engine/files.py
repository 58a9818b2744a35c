"""Private files and directories, which links and devices cannot divert.

Only the user can read what this library makes. Directories have mode 0700 and files 0600, even if the umask allows
more.

A `Directory` is open. Its files are reached by its handle, without following links. So another process gains nothing by
putting a link in the place of a file or directory, neither before nor after it was checked. Windows has no such
handles, so there paths are checked before they are used.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from typing_extensions import Self

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

HOLLOW = 64 << 20
"""A file of at least this many bytes that has a hole was not written by this library."""

_NEEDED = {os.open, os.mkdir, os.stat, os.unlink, os.rmdir, os.link}
_HANDLES = os.supports_dir_fd >= _NEEDED and os.scandir in os.supports_fd and hasattr(os, "O_NOFOLLOW")
_NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_WRITE = os.O_RDWR | getattr(os, "O_BINARY", 0)
_INTO = os.O_WRONLY | getattr(os, "O_BINARY", 0)
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe or a device without waiting for its other end."""

_DIRECTORY: int = _READ | getattr(os, "O_DIRECTORY", 0)
_LINK = (errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP), getattr(errno, "EFTYPE", errno.ELOOP))
"""The errors of systems that do not follow a link."""


class NotAFileError(OSError):
    """A link, a directory, a pipe or a device is in the place of a file."""


class Directory:
    """An open directory; a context manager that closes it.

    Attributes:
        path: The path by which it was opened, for messages.
    """

    __slots__ = ("_handle", "path")

    def __init__(self, path: str, handle: int | None) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def at(cls, path: str, within: int | None = None) -> Self:
        """Open a directory. Raise `NotADirectoryError` if a file or a link is there."""
        if not _HANDLES:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise _no_directory(path)
            return cls(path, None)
        try:
            return cls(path, os.open(path, _DIRECTORY | _NO_LINKS, dir_fd=within))
        except OSError as error:
            if error.errno in _LINK:
                raise _no_directory(path) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    def status(self) -> os.stat_result:
        """Its owner and mode."""
        return os.lstat(self.path) if self._handle is None else os.fstat(self._handle)

    def directory(self, name: str, *, make: bool = False) -> Self:
        """Open a directory in this one; with `make`, make it if it is missing."""
        try:
            return self._below(name)
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(self._name(name), DIRECTORY_MODE, dir_fd=self._handle)
        return self._below(name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raise `NotAFileError` for anything else, and for a large file with a hole."""
        if self._handle is None and not stat.S_ISREG(os.lstat(self._name(name)).st_mode):
            raise _no_file(name)
        try:
            file = _regular(os.open(self._name(name), _READ | _NO_LINKS | _AT_ONCE, dir_fd=self._handle), name)
        except OSError as error:
            if error.errno in _LINK:
                raise _no_file(name) from error
            raise
        if _is_hollow(file.fileno()):
            file.close()
            raise _no_file(name)
        return file

    def create(self, name: str) -> BinaryIO:
        """Make a file, which must not exist yet, and open it for writing."""
        handle = os.open(self._name(name), _WRITE | os.O_CREAT | os.O_EXCL, FILE_MODE, dir_fd=self._handle)
        return cast("BinaryIO", os.fdopen(handle, "wb"))

    def link(self, source: Directory, name: str, target: str) -> None:
        """Give a file of another directory a name in this one too. Raise `FileExistsError` if the name is taken."""
        if self._handle is None:
            os.link(source._name(name), self._name(target))
        else:
            os.link(name, target, src_dir_fd=source._handle, dst_dir_fd=self._handle, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        """Remove a file, or a link itself."""
        os.unlink(self._name(name), dir_fd=self._handle)

    def has(self, name: str) -> bool:
        """Whether there is anything with this name."""
        return self.look(name) is not None

    def look(self, name: str) -> os.stat_result | None:
        """The status of what has this name, without following links; `None` if there is nothing."""
        with suppress(FileNotFoundError):
            return os.stat(self._name(name), dir_fd=self._handle, follow_symlinks=False)
        return None

    def remove_empty(self, name: str) -> bool:
        """Remove a directory in this one if it is empty, and return whether it is gone."""
        try:
            os.rmdir(self._name(name), dir_fd=self._handle)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        return True

    def names(self) -> list[tuple[str, bool]]:
        """The names of the files and directories in it, each with whether it is a directory. Others are left out."""
        with os.scandir(self.path if self._handle is None else self._handle) as entries:
            found = [(entry, entry.is_dir(follow_symlinks=False)) for entry in entries]
            return [(entry.name, is_dir) for entry, is_dir in found if is_dir or entry.is_file(follow_symlinks=False)]

    def entries(self) -> list[str]:
        """The names of everything in it."""
        return os.listdir(self.path if self._handle is None else self._handle)  # noqa: PTH208 - of a handle

    def sync(self) -> None:
        """Make its entries durable."""
        if self._handle is not None:  # NTFS logs them
            os.fsync(self._handle)

    def _below(self, name: str) -> Self:
        return type(self).at(self._name(name), self._handle)

    def _name(self, name: str) -> str:
        return name if self._handle is not None else os.path.join(self.path, name)  # noqa: PTH118 - os takes a str


def _no_directory(path: str) -> NotADirectoryError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)


def _no_file(path: str) -> NotAFileError:
    return NotAFileError(errno.EINVAL, "it is not a file", path)


def _is_hollow(handle: int) -> bool:
    """Whether a large file has a hole. A hole takes no space on the disk, but may take hours to read."""
    size = os.fstat(handle).st_size
    if size < HOLLOW or not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        return os.lseek(handle, 0, os.SEEK_HOLE) < size
    except OSError:  # the file system does not know
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)


def _regular(handle: int, path: str) -> BinaryIO:
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return cast("BinaryIO", os.fdopen(handle, "rb"))
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    raise _no_file(path)


def open_file(path: Path) -> BinaryIO:
    """Open a file that a user named for reading, following links. Raise `NotAFileError` for a pipe or a device."""
    return _regular(os.open(path, _READ | _AT_ONCE), str(path))


def create_file(path: Path) -> BinaryIO:
    """Make a private file, which must not exist yet, and open it for writing."""
    handle = os.open(path, _WRITE | os.O_CREAT | os.O_EXCL, FILE_MODE)
    return cast("BinaryIO", os.fdopen(handle, "wb"))


def write_file(path: Path, data: bytes, *, replace: bool, devices: bool = False) -> None:
    """Write a whole private file, or nothing.

    Args:
        path: The file.
        data: Its content.
        replace: Whether to replace an existing file, or a link itself, not its target. Without it, either raises
            `FileExistsError`.
        devices: Whether `replace` writes to a pipe, a device or `/dev/stdout`, and leaves it in place.
    """
    if devices and replace and _is_handle(path) and path.exists():
        with path.open("wb") as handle:
            handle.write(data)
        return
    if devices and replace and _is_other(path):
        with os.fdopen(os.open(path, _INTO | _NO_LINKS), "wb") as device:
            device.write(data)
        return
    made = beside(path) if replace else path
    file = create_file(made)
    try:
        with file:
            file.write(data)
        if replace:
            made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _is_other(path: Path) -> bool:
    """Whether the path is a pipe, a device or a directory itself, not a link to one."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False  # Making the file raises the real error.
    return not stat.S_ISREG(mode) and not stat.S_ISLNK(mode)


def _is_handle(path: Path) -> bool:
    """Whether a path names a file that a process has open. `/dev/stdout` is a link that must stay, even to a file."""
    above = os.path.realpath(path.parent)
    return above in {"/dev", "/dev/fd"} or above.startswith("/proc/")


def add_file(path: Path, data: bytes) -> None:
    """Make a whole file atomically and durably. Raise `FileExistsError` if anything is there."""
    made = beside(path)
    try:
        with create_file(made) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        made.rename(path) if os.name == "nt" else os.link(made, path)  # neither replaces a file
    finally:
        made.unlink(missing_ok=True)
    sync(path.parent)


def beside(path: Path) -> Path:
    """An unguessable name for a file that becomes `path` when it is whole."""
    # A name has at most 255 bytes, and a character up to four.
    return path.parent / f"{path.name[:50]}.{secrets.token_hex(8)}.part"


def make_directory(path: Path) -> None:
    """Make a private directory, and those above it that are missing, durably."""
    if not path.is_dir():
        make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(DIRECTORY_MODE)
        if not path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        sync(path.parent)


def sync(path: Path) -> None:
    """Make the entries of a directory durable."""
    if os.name == "nt":  # Windows cannot open directories, and NTFS logs their entries
        return
    handle = os.open(path, _READ)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_trusted(owner: os.stat_result) -> bool:
    """Whether something belongs to the user of this process, or to root, which can do anything anyway."""
    return not hasattr(os, "geteuid") or owner.st_uid in {os.geteuid(), 0}


@contextmanager
def descend(directory: Directory, names: Iterable[str], *, make: bool = False) -> Iterator[list[Directory]]:
    """A directory and a path below it, as a list of open directories, one for each name.

    Those below the first are closed at the end of the block.
    """
    opened = [directory]
    try:
        for name in names:
            opened.append(opened[-1].directory(name, make=make))
        yield opened
    finally:
        for deeper in opened[1:]:
            deeper.close()
