"""What `repair` means to do, or did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from langgraph_gcs_saver.findings import Finding
from langgraph_gcs_saver.records import record

Action = Literal["re-encode", "set aside", "mend", "forget", "leave"]


@record(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """One thing to do.

    Attributes:
        action: `re-encode`: a value was found elsewhere, and is stored again for the checkpoints that lost it.
            `set aside`: a document that cannot be read goes to the thread's `lg_aside` collection, where nothing lists
            it. `mend`: fields or documents that queries use are written as they should be. `forget`: a checkpoint that
            is gone is not expected any more. `leave`: nothing can be done without doing harm.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint.
        channel: The channel, if it is about one.
        name: The document or object.
        reason: Why, or from what.
    """

    action: Action
    checkpoint_ns: str = ""
    checkpoint_id: str = ""
    channel: str | None = None
    name: str
    reason: str

    def __str__(self) -> str:
        where = f" {self.checkpoint_id}" if self.checkpoint_id else ""
        where += f" ({self.checkpoint_ns})" if self.checkpoint_ns else ""
        channel = "" if self.channel is None else f", channel {self.channel!r}"
        return f"{self.action}{where}{channel}: {self.reason} [{self.name}]"


@record(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What is to be done for a thread; its text is for people.

    Attributes:
        thread_id: The thread.
        findings: The damage that was found.
        steps: What is to be done about it, in order.
    """

    thread_id: str
    findings: tuple[Finding, ...]
    steps: tuple[RepairStep, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Thread {self.thread_id!r}: {len(self.findings)} damages, {len(self.steps)} steps"
        for finding in self.findings:
            yield f"  found {finding}"
        for step in self.steps:
            yield f"  {step}"
