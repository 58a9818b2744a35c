"""The saver's API, once for both of its halves, and short ways to make what it takes."""

import asyncio

from tests.kit import methods

DEFAULT = {"source": "loop", "step": 0, "parents": {}}


class Api:
    """A saver's methods through its synchronous half (on a worker thread) or its asynchronous one."""

    def __init__(self, saver, mode):
        self.saver = saver
        self.mode = mode

    async def _call(self, name, *args, **kwargs):
        if self.mode == "async":
            return await methods.acall(self.saver, name, *args, **kwargs)
        return await asyncio.to_thread(methods.call, self.saver, name, *args, **kwargs)

    async def put(self, config, checkpoint, metadata=None, new_versions=None):
        """`new_versions` of None: all of the checkpoint's versions are new."""
        new = checkpoint["channel_versions"] if new_versions is None else new_versions
        return await self._call("put", config, checkpoint, DEFAULT if metadata is None else metadata, new)

    async def put_writes(self, config, writes, task_id="task", task_path=""):
        await self._call("put_writes", config, writes, task_id, task_path)

    async def get(self, config):
        return await self._call("get_tuple", config)

    async def list(self, config, **kwargs):
        if self.mode == "async":
            return [found async for found in self.saver.alist(config, **kwargs)]
        return await asyncio.to_thread(lambda: list(self.saver.list(config, **kwargs)))

    async def ids(self, config, **kwargs):
        """The numbers of the listed checkpoints, in their order."""
        return [number(found) for found in await self.list(config, **kwargs)]

    async def delete_thread(self, thread_id):
        await self._call("delete_thread", thread_id)

    async def delta_history(self, config, channels):
        return await self._call("get_delta_channel_history", config=config, channels=channels)


def cid(n):
    """A checkpoint id; those of greater numbers are newer."""
    return f"1f000000-0000-6000-8000-{n:012}"


def number(found):
    return int(found.config["configurable"]["checkpoint_id"].rsplit("-", 1)[1])


def version(n):
    return f"{n:032}.0.5"


def cfg(thread="t", ns="", n=None):
    """A config: of a checkpoint, or with `n` of None of a namespace; with `ns` of None too, of a thread."""
    configurable = {"thread_id": thread}
    if ns is not None:
        configurable["checkpoint_ns"] = ns
    if n is not None:
        configurable["checkpoint_id"] = cid(n)
    return {"configurable": configurable}


def checkpoint(n, values=None, versions=None):
    """A checkpoint. Channels that are not in `versions` have version `n`."""
    values = {} if values is None else values
    return {
        "v": 4,
        "id": cid(n),
        "ts": f"2026-01-01T00:00:{n % 60:02}+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, version(n)) if versions is None else versions,
        "versions_seen": {"node": {"__start__": version(1)}},
        "updated_channels": sorted(values),
    }


def metadata(**more):
    return {**DEFAULT, **more}
