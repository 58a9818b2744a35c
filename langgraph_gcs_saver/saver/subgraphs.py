"""Subgraphs that keep their state, in a run that resumes before their call has begun.

LangGraph lets each subgraph of the first step resume. A subgraph with `checkpointer=True` then continues from
its newest checkpoint. If that is the end of an earlier call, there is nothing to continue: the subgraph would return
the earlier result again, drop its input, and run no node. So `read` lets such a subgraph take its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_gcs_saver.flows import tips
from langgraph_gcs_saver.saver import langgraph_private

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointTuple


def read(config: RunnableConfig, newest: CheckpointTuple) -> None:
    """Let a subgraph, which reads its newest checkpoint, take its input if it has no call to resume.

    A checkpoint names those of the graphs around it from which its call was made. They are others in another call.
    """
    around = langgraph_private.resumes_within(config)
    if around is not None and newest.metadata.get("parents") != around and not tips.due_in(newest.checkpoint).tasks:
        langgraph_private.stop_resuming(config)
