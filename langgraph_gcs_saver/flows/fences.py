"""A lease as its holder knows it, and the check that rides in each of the holder's commits.

The fence is a document that changes only when a thread's lease changes hands. So its update time is the lease. Every
commit of the holder requires that time. After a loss no such commit is applied, however late it arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

from langgraph_gcs_saver.engine.effects import Doc, Merge, Write
from langgraph_gcs_saver.errors import FencedError
from langgraph_gcs_saver.flows.companions import Attempt
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.records import record

MAX_OWNER = 200
"""Most characters in the name of an owner."""


@record(frozen=True, slots=True)
class Fence:
    """A lease that this process has acquired. It is also the companion that checks the lease in a commit.

    Attributes:
        thread_id: The thread.
        token: Counts the changes of the holder.
        nonce: Digits that no other acquisition has. The holder's checkpoints contain them.
        time: The update time that the fence's document got from the acquisition. It is never read again.
        ttl: Seconds after which a lease without a beat has expired.
    """

    thread_id: str
    token: int
    nonce: str
    time: int
    ttl: float

    @property
    def name(self) -> str:
        """Name of the fence's document."""
        return keys.fence_doc(self.thread_id)

    def check(self) -> Write:
        """The write that makes a commit fail once the lease is lost. It changes nothing, not even the update time."""
        return Merge(self.name, {}, update_time=self.time)

    @property
    def mark(self) -> dict[str, str]:
        """The field of a checkpoint that the holder stores. It leads a writer without a lease to the fence."""
        return {"fence": self.nonce}

    def require(self, doc: Doc | None) -> None:
        """Check the fence's document as it was read.

        Raises:
            FencedError: The lease is lost.
        """
        if doc is not None and doc.update_time == self.time:
            return
        owner = None if doc is None else doc.fields.get("owner")
        holder = f"{owner[:MAX_OWNER]!r} holds it now" if isinstance(owner, str) else "it has no holder now"
        raise FencedError(
            f"This process has lost its lease of thread {self.thread_id!r}, and {holder}. Nothing of this call was "
            "stored. End the run. A process that acquires the lease continues the thread.",
            thread_id=self.thread_id,
        )

    def reads(self, attempt: Attempt, /) -> tuple[str, ...]:
        """The fence, after a conflict."""
        return () if attempt.number == 1 else (self.name,)

    def writes(self, attempt: Attempt, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """The check.

        Raises:
            FencedError: The lease is lost.
        """
        if attempt.number > 1:
            self.require(docs.get(self.name))
        return (self.check(),)


Fences = dict[tuple[str, int], Fence]
"""The leases that this process holds, by thread and token."""


def held_by(fences: Fences, thread_id: str) -> Fence | None:
    """The lease of a thread that this process holds; `None` if it holds none."""
    # Other threads change the leases meanwhile, so this looks at a copy.
    held = [fence for fence in tuple(fences.values()) if fence.thread_id == thread_id]
    return max(held, key=lambda fence: fence.token, default=None)


def fence_of(doc: Doc) -> str | None:
    """Digits of the last acquisition that a checkpoint's or a thread's document names, if any."""
    found = doc.fields.get("fence")
    return found if isinstance(found, str) else None
