"""Where an application makes its checkpointer."""

from collections.abc import Iterator
from contextlib import contextmanager

from langgraph.checkpoint.sqlite import SqliteSaver


@contextmanager
def make_saver() -> Iterator[SqliteSaver]:
    with SqliteSaver.from_conn_string("checkpoints.sqlite") as saver:
        yield saver
