"""What tests run in processes of their own."""

from langgraph.checkpoint.base.id import uuid6

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing.kills import process
from tests.system.build import DEFAULT, checkpoint, version

__all__ = ["append", "process", "put_on_order"]


def append(uri, who, count, pipe):
    """Append checkpoints to the newest one of thread `t`. Sends their ids and values."""
    stored = []
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with GCSSaver.from_conn_string(uri) as saver:
        pipe.recv()
        for number in range(count):
            latest = saver.get_tuple(config)
            values = {} if latest is None else latest.checkpoint["channel_values"]
            versions = {} if latest is None else latest.checkpoint["channel_versions"]
            mine = {f"from {who}": [who, number], "shared": [*values.get("shared", []), who]}
            new = {channel: version(number + 1) + f"-{who}" for channel in mine}
            next_ = {**checkpoint(1, {**values, **mine}, {**versions, **new}), "id": str(uuid6())}
            parent = config if latest is None else latest.config
            saver.put(parent, next_, DEFAULT, new)
            stored.append((next_["id"], next_["channel_values"]))
    pipe.send(stored)


def put_on_order(uri, pipe):
    """Put what the pipe says, with caches that live as long as the process. Answers with what it then reads."""
    with GCSSaver.from_conn_string(uri) as saver:
        while (order := pipe.recv()) is not None:
            config, next_, new = order
            saver.put(config, next_, DEFAULT, new)
            found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
            pipe.send((found.checkpoint["id"], found.checkpoint["channel_values"]))
