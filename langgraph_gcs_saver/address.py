"""Connection strings: `gs://…`, `file://…` and `memory:`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from langgraph_gcs_saver.errors import InvalidURIError
from langgraph_gcs_saver.format import keys

_GCS_FORM = "gs://BUCKET/PREFIX?project=PROJECT&database=DATABASE&root=DOCUMENT_PATH&mirror=BUCKET"
_FILE_FORM = "file:///ABSOLUTE/DIRECTORY"
_MEMORY_FORM = "memory:"
_PARAMETERS = ("project", "database", "root", "mirror")

_SURROGATE = re.compile("[\ud800-\udfff]")

_HARMLESS = re.compile(r"[\w ./%()~+-]*\Z")
"""Text that holds no user name, password or parameter, because those need other characters around them."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{1,19}(?=://)", re.IGNORECASE)

APPS = "lg_apps"
"""The collection with one document for each store that has a prefix and no `root`; the store is below its document."""

MAX_PREFIX = 150
"""Longest prefix of object names, in bytes: with four encoded ids of 200, a name fits into Cloud Storage's 1,024."""


def _shown(text: str | None) -> str:
    """A part of a connection string, as a message shows it: not at all if it may hold a password."""
    return (
        repr(text)
        if text is None or _HARMLESS.match(unquote(text))
        else "what the string has there (not shown, because it may hold a password)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleAddress:
    """Where a `gs://` connection string points.

    Attributes:
        bucket: The bucket's name.
        prefix: The prefix of all object names, without a slash at the end; may be empty.
        project: The project, or `None` for the environment's.
        database: The Firestore database.
        root: Path of the document that the collections are below, empty for the top of the database. If it is not
            given, it is derived from the prefix, so that two prefixes are two stores.
        mirror: The bucket with the second copy of each object; `None` if there is none, or if an option names it.
    """

    bucket: str
    prefix: str = ""
    project: str | None = None
    database: str = "(default)"
    root: str | None = None
    mirror: str | None = None

    def __post_init__(self) -> None:
        for name in ("bucket", "prefix", "project", "database", "root", "mirror"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name in {"project", "root", "mirror"} and value is None):
                raise InvalidURIError(f"{name} is of type {type(value).__name__}; it must be a str.")
            if value is not None and _SURROGATE.search(value):
                raise InvalidURIError(f"{name} holds a lone surrogate, which is not Unicode text.")
        _check_bucket(self.bucket)
        if self.mirror is not None:
            _check_bucket(self.mirror)
            if self.mirror == self.bucket:
                raise InvalidURIError(
                    f"The mirror is the bucket {self.bucket!r} itself. Name another bucket, in another region."
                )
        segments = self.prefix.split("/") if self.prefix else []
        if len(self.prefix.encode()) > MAX_PREFIX or any(s in {"", ".", ".."} for s in segments):
            raise InvalidURIError(
                f"{_shown(self.prefix)} is not a prefix. A prefix has at most {MAX_PREFIX} bytes, and no segment of it "
                f"is empty, '.' or '..'. The form is {_GCS_FORM}."
            )
        if re.search(r"[\x00-\x1f\x7f#?*\[\]]", self.prefix):
            raise InvalidURIError("The prefix holds a character that is unsafe in object names, such as '#' or '?'.")
        if self.root is None:
            object.__setattr__(self, "root", f"{APPS}/{_app(self.prefix)}" if self.prefix else "")
        segments = self.root.split("/") if self.root else []
        if len(segments) % 2 or any(s in {"", ".", ".."} or re.fullmatch(r"__.*__", s) for s in segments):
            raise InvalidURIError(
                f"root is {_shown(self.root)}; it must be the path of a document, such as 'apps/my-app': pairs of a "
                "collection and a document id."
            )


def _check_bucket(name: str) -> None:
    # https://cloud.google.com/storage/docs/buckets#naming
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name):
        raise InvalidURIError(
            f"{_shown(name)} is not a bucket's name: 3 or more lower-case letters, digits, dashes, dots or "
            f"underscores. The form is {_GCS_FORM}."
        )


def _app(prefix: str) -> str:
    name = keys.enc(prefix)
    return "~" + name if name.startswith("__") else name  # Firestore reserves `__.*__`


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """Where a `file://` connection string points: a directory."""

    path: Path


@dataclass(frozen=True, slots=True)
class MemoryAddress:
    """Where `memory:` points: each saver that opens it gets a store of its own."""


def _unquote(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURIError("The '%' escapes in the connection string do not decode to UTF-8.") from None


Address = GoogleAddress | LocalAddress | MemoryAddress
"""What a connection string names."""


def canonical(address: Address) -> str:
    """The connection string of an address, in one form: two addresses of the same store give the same text.

    A directory is resolved, so a link to it is no other store. A `root` that follows from the prefix is left out.

    Args:
        address: The address. Its project is known, unless the environment names it on every machine.
    """
    if isinstance(address, MemoryAddress):
        return _MEMORY_FORM
    if isinstance(address, LocalAddress):
        return address.path.resolve().as_uri()
    derived = GoogleAddress(bucket=address.bucket, prefix=address.prefix).root
    parameters = {
        **({} if address.project is None else {"project": address.project}),
        "database": address.database,
        **({} if address.root == derived else {"root": address.root or ""}),
    }
    place = quote(f"{address.bucket}/{address.prefix}".rstrip("/"))
    return f"gs://{place}?{urlencode(parameters, safe='()/', quote_via=quote)}"


def parse(uri: str) -> Address:
    """Parse a connection string.

    Raises:
        InvalidURIError: The string names no store; the message shows the valid forms.
    """
    forms = f"The forms are {_GCS_FORM}, {_FILE_FORM} and {_MEMORY_FORM}"
    if not isinstance(uri, str):
        raise InvalidURIError(f"A connection string must be a str, not {type(uri).__name__}. {forms}")
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InvalidURIError(f"This is not a connection string. {forms}") from None
    if parts.fragment or parts.username is not None:
        raise InvalidURIError(f"A connection string has no '#' and no '@'. {forms}")
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query:
            raise InvalidURIError(
                f"The connection string does not name an absolute directory. The form is {_FILE_FORM}."
            )
        path = _unquote(parts.path)
        if "\0" in path or _SURROGATE.search(path):
            raise InvalidURIError("The directory's name holds a NUL or a lone surrogate, which no file system allows.")
        return LocalAddress(Path(path))
    if parts.scheme == "memory":
        if uri.lower() != _MEMORY_FORM:
            raise InvalidURIError(f"A store in memory has no name and no parameters. The form is {_MEMORY_FORM}")
        return MemoryAddress()
    if parts.scheme != "gs":
        # The rest is not shown, because a connection string of another service may hold a password.
        scheme = _SCHEME.match(uri)
        given_form = (
            f"The connection string begins with {scheme[0]}://, which"
            if scheme
            else "The connection string has a form that"
        )
        raise InvalidURIError(f"{given_form} this library does not know. {forms}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(given.keys() - set(_PARAMETERS))
    if unknown:
        raise InvalidURIError(
            f"Unknown parameter {_shown(unknown[0])} in the connection string. It takes {', '.join(_PARAMETERS)}; "
            "everything else is an option of from_conn_string."
        )
    return GoogleAddress(
        bucket=parts.netloc,
        prefix=_unquote(parts.path).strip("/"),
        project=given.get("project") or None,
        database=given.get("database") or "(default)",
        root=given["root"].strip("/") if "root" in given else None,
        mirror=given.get("mirror") or None,
    )
