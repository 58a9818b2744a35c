"""Checkpoints with given values, for commands to read."""

from langgraph.checkpoint.base import empty_checkpoint


def put(saver, values, *, number=1, parent=None, thread="t", ns="", metadata=None):
    """Store a checkpoint with these values; its id."""
    checkpoint_id = f"1f000000-0000-6000-8000-{number:012}"
    versions = dict.fromkeys(values, f"{number:032}.0")
    checkpoint = empty_checkpoint() | {"id": checkpoint_id, "channel_values": values, "channel_versions": versions}
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
    if parent is not None:
        config["configurable"]["checkpoint_id"] = parent
    told = {"source": "loop", "step": number, "parents": {}, **(metadata or {})}
    saver.put(config, checkpoint, told, versions)
    return checkpoint_id
