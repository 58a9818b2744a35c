"""Short ways to make what a saver takes, and values that look like state."""

import random

DEFAULT = {"source": "loop", "step": 0, "parents": {}}


def cid(n):
    """A checkpoint id; those of greater numbers are newer."""
    return f"1f000000-0000-6000-8000-{n:012}"


def number(found):
    return int(found.config["configurable"]["checkpoint_id"].rsplit("-", 1)[1])


def version(n):
    return f"{n:032}.0.5"


def cfg(n=None, *, thread="t", ns=""):
    """A config: of checkpoint `n`, or of a namespace; with `ns` of None too, of a thread."""
    configurable = {"thread_id": thread}
    if ns is not None:
        configurable["checkpoint_ns"] = ns
    if n is not None:
        configurable["checkpoint_id"] = cid(n)
    return {"configurable": configurable}


def checkpoint(n, values=None, versions=None, **more):
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
        **more,
    }


def put(saver, n, values, *, parent=None, thread="t", ns="", metadata=None, changed=None):
    """Put checkpoint `n`; `changed` names its new channels, all by default; the others keep their parent's version."""
    changed = set(values) if changed is None else set(changed)
    versions = {channel: version(n if channel in changed else parent) for channel in values}
    return saver.put(
        cfg(parent, thread=thread, ns=ns),
        checkpoint(n, values, versions),
        DEFAULT if metadata is None else {**DEFAULT, **metadata},
        {channel: versions[channel] for channel in changed},
    )


def values(found):
    return found.checkpoint["channel_values"]


def noise(size, seed=0):
    """Bytes that nothing can compress; the same for the same seed."""
    return random.Random(f"{size} {seed}").randbytes(size)
