"""What docs/reference/format.md demands of each commit to a replicated store, without the library's own rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Doc, Effect, GetDocs
from langgraph_gcs_saver.engine.interceptors import APerform, Interceptor, Perform
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.format import regions
from langgraph_gcs_saver.format.regions import Role, RoleName

TO = "gs://elsewhere"

WHAT = {
    "lg_checkpoints": "put",
    "lg_writes": "writes",
    "lg_operations": "operation",
    "lg_batches": "batch",
    "lg_done": "batch",
    "lg_resume": "resume",
    "lg_sagas": "saga",
    "lg_blobs": "blob",
}
"""What entries call the documents of each replicated collection."""

_EXCEPTED = {"heir", "fence", "holds", "objects", "run_id", "former_runs"}
"""Fields of a checkpoint whose changes need no entry."""

Find = Callable[[str], Doc | None]
"""Finds a document as it is, or was, at one moment."""


def fault(names: Iterable[str], before: Find, after: Find) -> str | None:
    """What is wrong with a commit that has written documents, if anything."""
    written = tuple(dict.fromkeys(names))
    entries = [after(name) for name in written if name.startswith("lg_outbox/")]
    told = {(entry.fields["what"], entry.fields["name"]) for entry in entries if entry is not None}
    aside = [after(name) for name in written if "/lg_aside/" in name]
    told.update(("delete", doc.fields["from"]) for doc in aside if doc is not None)
    for name in written:
        what = _what(name, before(name), after(name))
        if what is not None and (what, name) not in told:
            return f"untold: {what} of {name}"
        if what is None and is_acquired(name, before(name), after(name)):
            what = "lease"
        if what is None:
            continue
        segments = name.split("/")
        digits = segments[3][:2] if segments[0] == "lg_store" else segments[1][:2]
        role = before(f"lg_region/role-{digits}")
        if role is None or role.fields["role"] != "primary":
            return f"not primary: {what} of {name} was stored"
    return None


def is_acquired(name: str, was: Doc | None, now: Doc | None) -> bool:
    """Whether a commit has given a lease a new holder."""
    if not name.endswith("/lg_lease/fence-0") or now is None or now.fields.get("owner") is None:
        return False
    return was is None or was.update_time != now.update_time


def _what(name: str, was: Doc | None, now: Doc | None) -> str | None:
    """What the entry says about a document that a commit has changed; `None` if there is nothing to say."""
    segments = name.split("/")
    is_shared = name.startswith("lg_store/operations/")
    if (segments[0] != "lg_threads" and not is_shared) or len(segments) not in (2, 4):
        return None
    if len(segments) == 2:
        return "delete" if was is not None and now is None else None
    collection = segments[2]
    if collection not in WHAT:
        return None
    there, here = ({} if doc is None else dict(doc.fields) for doc in (was, now))
    if collection == "lg_checkpoints" and was is not None and now is not None:
        there, here = ({key: doc[key] for key in doc if key not in _EXCEPTED} for doc in (there, here))
    if there == here and (was is None) == (now is None):
        return None
    is_stripped = collection == "lg_checkpoints" and now is not None and "manifest" not in now.fields
    return "delete" if now is None or is_stripped else WHAT[collection]


class Judge(Interceptor):
    """Compares the documents before and after each commit of a saver with an embedded store.

    Attributes:
        saver: The saver, once it is open.
        faults: What was wrong.
        entries: The number of entries that commits have added.
    """

    def __init__(self) -> None:
        self.saver: GCSSaver | None = None
        self.faults: list[str] = []
        self.entries = 0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        if not isinstance(effect, Commit):
            return perform(effect)
        names, before = self._before(effect)
        return self._judged(names, before, perform(effect))

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        if not isinstance(effect, Commit):
            return await perform(effect)
        names, before = self._before(effect)
        return self._judged(names, before, await perform(effect))

    def _before(self, commit: Commit) -> tuple[list[str], Find]:
        names = [write.name for write in commit.writes]
        return names, self._docs((*names, *regions.ROLES)).get

    def _judged(self, names: list[str], before: Find, times: Any) -> Any:
        if times is not None:
            found = fault(names, before, self._docs(tuple(names)).get)
            self.faults += [] if found is None else [found]
            self.entries += sum(name.startswith("lg_outbox/") for name in names)
        return times

    def _docs(self, names: tuple[str, ...]) -> Any:
        assert self.saver is not None
        return self.saver._backend.documents.get_docs(GetDocs(tuple(dict.fromkeys(names))))


def give_role(saver: GCSSaver, name: RoleName, epoch: int = 1) -> None:
    """Give a saver's store a role, as another process does: the saver does not learn of it."""

    def flow() -> Any:
        docs = yield from GetDocs(regions.ROLES)
        return (yield from Commit(Role(epoch, name, TO).writes(docs)))

    assert run(flow(), saver._as_shipper) is not None
