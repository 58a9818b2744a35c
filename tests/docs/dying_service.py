"""A saver for the service of the guide, which kills its process between the writes of a step and its checkpoint."""

from __future__ import annotations

import asyncio
import os
import signal
from types import ModuleType
from typing import Any

from langgraph_gcs_saver import GCSSaver


class Dying(GCSSaver):
    """Crashes when a step has written a message of the type `DIE_AT`: the writes are stored, the checkpoint is not."""

    doomed = False

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        messages = [one for channel, value in writes if channel == "messages" for one in value]
        is_last = any(one.type == os.environ["DIE_AT"] for one in messages)
        self.doomed = self.doomed or is_last  # before the checkpoint, which LangGraph puts after it
        await super().aput_writes(config, writes, task_id, task_path)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def aput(self, *arguments: Any) -> Any:
        if self.doomed:
            await asyncio.Event().wait()
        return await super().aput(*arguments)


def prepare(service: ModuleType) -> None:
    """Have the service use it, if the environment says when to crash."""
    if os.environ.get("DIE_AT"):
        service.GCSSaver = Dying  # type: ignore[attr-defined]
