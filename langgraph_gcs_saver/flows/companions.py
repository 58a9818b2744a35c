"""Companions: writes and preconditions that ride in the commit of a put, or of its pending writes.

A writer's lease is a companion with a precondition: the fence is still the one that the lease got. It is part of the
one commit that makes a checkpoint or pending writes visible, so either all of it is stored or nothing is. A companion
costs a round of its own only if it reads documents before the first attempt, and the call reads nothing else then.

`Context.companions` holds a process's companions. `flows.save.put` and `flows.writes.put_writes` ask them, and so does
each flow that stores a checkpoint through these. Other commits carry none: pruning, pinning, repairing, copying,
deleting, creating a thread's document before an upload (`flows.threads.guard`), and withdrawing data that did not read
back as it was written. `flows.leases` adds the check of a lease to all commits of a flow, and `flows.roles` adds what a
replicated store needs to all commits of all flows. See docs/explanation/design/011-companions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Protocol

from langgraph_gcs_saver.engine.effects import Create, Delete, Doc, Flow, GetDocs, Write
from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True)
class Attempt:
    """One try of one call.

    Attributes:
        kind: The call.
        thread_id: The thread.
        ns: The namespace.
        checkpoint_id: The checkpoint, or the one that the pending writes are for.
        call: A name that all attempts of this call have, and no other call.
        number: The number of the attempt, from 1.
    """

    kind: Literal["put", "put_writes"]
    thread_id: str
    ns: str
    checkpoint_id: str
    call: str
    number: int = 1


class Companion(Protocol):
    """Decides what rides in a commit. It performs nothing, and keeps nothing about a call.

    A companion is asked at each attempt, first for the documents that it needs, then for its writes. The attempts after
    the first one follow a conflict, a lost answer, or a withdrawal. So a companion that creates a document has to
    expect its own document from an earlier attempt. Put `Attempt.call` into its name to make it recognizable. A call
    whose data is already stored returns without another attempt.

    Three rules keep a companion safe:

    - It touches only documents of its own. The flow's own writes have the flow's preconditions.
    - It checks by a precondition, such as `Merge(name, {}, update_time=seen)`. A document that it has read may change
      before the commit.
    - It creates (`Create`) only documents that belong to this call. A withdrawal of the checkpoint, or of the pending
      writes, deletes them. It does not undo what a companion merges or deletes.

    All companions of a commit share its limits: 10 MiB, of which the flows use about 1 MiB at most. Firestore does not
    limit the number of writes, but some emulators reject more than 500. A store rejects a larger commit as a whole.
    """

    def reads(self, attempt: Attempt, /) -> tuple[str, ...]:
        """Names of the documents that `writes` needs for this attempt.

        After the first attempt they join the read that looks for the conflict's cause. Before it, they join a read of
        the parent or of the thread's document. If there is none, they take a round of their own.
        """
        ...

    def writes(self, attempt: Attempt, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """Give the writes and preconditions that ride in this attempt's commit.

        Args:
            attempt: The attempt. Nothing of it is uploaded or committed yet.
            docs: Those documents of the companions' `reads` that exist, with all their fields.

        Raises:
            GCSSaverError: The call must not store anything, and ends with this error. No attempt was committed, except
                one whose answer was lost and which the call could not recognize. Objects that earlier attempts have
                uploaded are orphans.
        """
        ...


class Companions:
    """The companions of one call, through all its attempts."""

    __slots__ = ("_attempt", "_companions", "_created", "_docs", "_names")

    def __init__(self, companions: tuple[Companion, ...], attempt: Attempt) -> None:
        self._companions = companions
        self._attempt = attempt
        self._names: tuple[str, ...] | None = None
        self._docs: Mapping[str, Doc] = {}
        self._created: tuple[Write, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Documents that the next attempt still needs: a flow that reads documents reads these as well."""
        if self._names is None:
            asked = (name for companion in self._companions for name in companion.reads(self._attempt))
            self._names = tuple(dict.fromkeys(asked))
        return self._names

    def take(self, docs: Mapping[str, Doc]) -> None:
        """Take the documents of `names` from a read."""
        if self.names:
            self._docs = {name: docs[name] for name in self.names if name in docs}
            self._names = ()

    def writes(self) -> Flow[tuple[Write, ...]]:
        """The writes that ride in the next attempt's commit. Calling this also begins the attempt after it."""
        if not self._companions:
            return ()
        if self.names:
            self.take((yield from GetDocs(self.names)))
        found = tuple([write for one in self._companions for write in one.writes(self._attempt, self._docs)])
        self._created = tuple([Delete(write.name) for write in found if isinstance(write, Create)])
        self._attempt = replace(self._attempt, number=self._attempt.number + 1)
        self._names, self._docs = None, {}
        return found

    def withdrawals(self) -> tuple[Write, ...]:
        """The writes that delete what the last attempt's commit created for its companions."""
        return self._created


NO_COMPANIONS = Companions((), Attempt("put", "", "", "", ""))
"""The companions of a call that has none. They read and keep nothing, so all such calls share them."""
