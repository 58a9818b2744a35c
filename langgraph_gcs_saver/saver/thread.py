"""`Thread`: one handle for everything about one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_gcs_saver.saver.lease import Lease

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.lease import Leases
    from langgraph_gcs_saver.saver.operations import Operations


class Thread:
    """A thread of a saver. Making one reads nothing and writes nothing; the thread need not exist.

    Attributes:
        id: The thread's id.
    """

    def __init__(self, saver: GCSSaver, leases: Leases, thread_id: str) -> None:
        self._saver = saver
        self._leases = leases
        self.id = thread_id

    @property
    def operations(self) -> Operations:
        """Side effects that are not repeated: perform one, and settle those with an unknown outcome."""
        from langgraph_gcs_saver.saver.operations import Operations  # noqa: PLC0415 - most processes need none

        return Operations(self._saver, self.id)

    def __repr__(self) -> str:
        return f"Thread({self.id!r})"

    def lease(
        self, *, ttl: float = 60.0, wait: float = 0.0, owner: str | None = None, take_over: bool = False
    ) -> Lease:
        """The lease of the thread, for `with` or `async with`: one process writes, and all others are kept out.

        This only makes the lease. The block's beginning acquires it, with four rounds, and its end releases it:

            with saver.thread("thread-1").lease() as lease:
                graph.with_config(lease.config).invoke(inputs, config)

        The beginning of the block raises `ThreadBusyError` if another process, or another call of this one, holds the
        lease. If its holder crashed, the lease can be acquired once it has given no sign of life for its `ttl`.

        Args:
            ttl: Seconds without a sign of life after which the lease expires, at least 5. A beat is written every third
                of it.
            wait: Seconds to wait for another holder; with 0, a held lease raises at once.
            owner: The holder's name, in at most 200 characters; by default host, process and random digits. A process
                with the same name takes the lease back at once, without waiting for the `ttl`. So pass a name that only
                the restarted process has, such as the id of a job's task or the name of a pod.
            take_over: Take the lease from a live holder too. What that one still tries to store raises `FencedError`.

        Raises:
            InvalidInputError: An argument is of the wrong type, or outside its range.
        """
        return Lease(self._leases, self.id, ttl=ttl, wait=wait, owner=owner, take_over=take_over)

    def pause(self, *, cancel: bool = False) -> bool:
        """Ask the holder of the thread's lease to end its run at the next boundary between two steps.

        This only leaves a wish. The holder finds it with its next beat, and its run raises `GraphDrained`. The state is
        stored, and `invoke(None, config)` continues.

        Args:
            cancel: Withdraw the wish. A run that has been asked already ends nevertheless.

        Returns:
            Whether the lease has a holder.

        Raises:
            ConflictError: Other writers kept changing the lease.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return self._saver.admin.pause(self.id, cancel=cancel)

    async def apause(self, *, cancel: bool = False) -> bool:
        """Asynchronous twin of `pause`."""
        return await self._saver.admin.apause(self.id, cancel=cancel)
