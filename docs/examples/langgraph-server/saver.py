"""What `checkpointer.path` in langgraph.json names: entered once for each event loop, and left when the server ends."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph_gcs_saver import GCSSaver


@asynccontextmanager
async def make_saver() -> AsyncIterator[GCSSaver]:
    async with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        yield saver
