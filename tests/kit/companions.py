"""Two real companions: a fence that a writer checks, and an entry for each commit."""

from langgraph_gcs_saver.engine.effects import Commit, Create, GetDocs, Merge
from langgraph_gcs_saver.format import keys

FENCE = "lg_fence/fence"
"""The document that says who may write. Its update time is what a holder checks."""

ENTRIES = "lg_entries"


class FencedError(RuntimeError):
    """Another process has taken the fence. Nothing was stored."""


def take_fence(owner):
    """A flow that takes the fence from any holder; returns the fence's update time."""
    while True:
        seen = (yield from GetDocs((FENCE,))).get(FENCE)
        fields = {"owner": owner, "token": 1 if seen is None else seen.fields["token"] + 1}
        write = Create(FENCE, fields) if seen is None else Merge(FENCE, fields, update_time=seen.update_time)
        times = yield from Commit((write,))
        if times is not None:
            return times[0]


class FenceCheck:
    """Has each commit demand that the fence is still the one that its holder took.

    Args:
        time: The fence's update time when its holder took it.
    """

    def __init__(self, time):
        self.time = time

    def reads(self, attempt):
        return (FENCE,) if attempt.number > 1 else ()

    def writes(self, attempt, docs):
        if attempt.number > 1 and (FENCE not in docs or docs[FENCE].update_time != self.time):
            raise FencedError(
                f"Another process took the fence. Checkpoint {attempt.checkpoint_id!r} of thread "
                f"{attempt.thread_id!r} was not changed. Take the fence again."
            )
        return (Merge(FENCE, {}, update_time=self.time),)


class FirstLook(FenceCheck):
    """A check that reads the fence before the first attempt too."""

    def reads(self, attempt):
        return (FENCE,)

    def writes(self, attempt, docs):
        assert docs.keys() <= {FENCE}, "it gets what it requested, and nothing else"
        if FENCE not in docs or docs[FENCE].update_time != self.time:
            raise FencedError("Another process took the fence. Take it again.")
        return super().writes(attempt, docs)


def entry_of(attempt):
    """The name of a call's entry."""
    return f"{ENTRIES}/{keys.enc(attempt.thread_id)}-{attempt.checkpoint_id}-{attempt.call}"


class Entry:
    """Adds a document that says what a call has stored, once, however often the call tries."""

    def reads(self, attempt):
        return (entry_of(attempt),) if attempt.number > 1 else ()

    def writes(self, attempt, docs):
        name = entry_of(attempt)
        if name in docs:
            # An earlier attempt of this call, whose answer was lost, or that could not be withdrawn.
            return (Merge(name, {}, update_time=docs[name].update_time),)
        return (Create(name, {"kind": attempt.kind, "checkpoint_id": attempt.checkpoint_id, "ns": attempt.ns}),)
