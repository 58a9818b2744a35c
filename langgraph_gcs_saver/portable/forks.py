"""Forks: what the copy of a checkpoint says about itself. It is what LangGraph stores for `__copy__`.

The copy is a sibling: it has the parent and the values of the original. A child would read the original's pending
writes, which belong to the original's own child, into its DeltaChannels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from langgraph_gcs_saver.portable.edits import id_at

SOURCE = "fork"
"""The `source` in the metadata of a fork, as LangGraph writes it."""

_VERSION = 4
"""The version of LangGraph's checkpoints (`LATEST_VERSION` of `langgraph.pregel._checkpoint`)."""

_BEFORE_FIRST = -2
"""The step of a graph that has not run, as LangGraph counts it."""

_RUN = "run_id"


def checkpoint_of(original: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The plain fields of a fork. All nodes that are due at the original are due at the fork, too.

    Args:
        original: Those of the checkpoint that is copied.
        now: The time, in seconds since the epoch.
    """
    return {**original, "ts": _time(now), "updated_channels": None}


def metadata_of(original: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a fork: that of the original, but no run has written the fork."""
    kept = {key: value for key, value in original.items() if key != _RUN}
    return {**kept, "source": SOURCE, "step": step_of(original) + 1}


def step_of(metadata: Mapping[str, Any]) -> int:
    """The step of a checkpoint."""
    step = metadata.get("step")
    return step if isinstance(step, int) else -1


def empty_checkpoint(now: float) -> dict[str, Any]:
    """The plain fields of a checkpoint from which a graph begins as if it had never run.

    Args:
        now: The time, in seconds since the epoch.
    """
    return {"v": _VERSION, "ts": _time(now), "channel_versions": {}, "versions_seen": {}, "updated_channels": None}


def empty_metadata(root_id: str) -> dict[str, Any]:
    """The metadata of such a checkpoint, whose graph is called by the graph at checkpoint `root_id`."""
    return {"source": SOURCE, "step": _BEFORE_FIRST, "parents": {"": root_id}}


def fork_id(newest: str, step: int, now: float, digits: str) -> str:
    """The id of a fork, which sorts after `newest`, whatever the clock says.

    Args:
        newest: The id that it must follow.
        step: The step of the fork.
        now: The time, in seconds since the epoch.
        digits: Random digits, which make the id unique.

    Raises:
        InvalidInputError: No id of LangGraph's kind sorts after `newest`.
    """
    node = int.from_bytes(hashlib.sha256(digits.encode()).digest()[:6], "big")
    return id_at(newest, step, now, node)


def _time(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).isoformat()
