"""What the pages take for granted: a store, a graph, a thread, names that are imported."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph

import langgraph_gcs_saver
from langgraph_gcs_saver import GCSSaver, KeepEvery, KeepFor, KeepLast, cadence, run


def chat() -> Any:
    """A graph that answers, as a builder."""
    builder = StateGraph(MessagesState)
    builder.add_node("reply", lambda _: {"messages": [("ai", "hello, you")]})
    return builder.add_edge(START, "reply").add_edge("reply", END)


def leave_a_turn(saver: GCSSaver) -> None:
    """Begin a turn that another process has to finish: a worker that finds nothing to do waits without end."""
    graph = chat().compile(checkpointer=saver)
    given: Any = {"messages": [("user", "hello")]}
    with pytest.raises(GraphDrained):
        run(graph, given, {"configurable": {"thread_id": "left"}}, policy=cadence.Deadline(seconds=1e-9))


@pytest.fixture
def cloud(
    firestore_emulator: str, bucket_name: str, project_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """The names that blocks find, and what is put in the place of the pages' own bucket and project."""
    monkeypatch.setenv("AGENTS_KEY", "5f" * 32)
    monkeypatch.chdir(tmp_path)
    uri = f"gs://{bucket_name}/agents?project={project_id}"
    with GCSSaver.from_conn_string(uri) as saver:
        config = {"configurable": {"thread_id": "thread id"}}
        chat().compile(checkpointer=saver).invoke({"messages": [("user", "hello")]}, config)
        leave_a_turn(saver)
        names = {
            "__name__": "a_page",
            "GCSSaver": GCSSaver,
            "KeepEvery": KeepEvery,
            "KeepFor": KeepFor,
            "KeepLast": KeepLast,
            "langgraph_gcs_saver": langgraph_gcs_saver,
            "timedelta": timedelta,
            "builder": chat(),
            "config": saver.get_tuple(config).config,  # type: ignore[union-attr, arg-type]
            "page": print,
            "saver": saver,
            "uri": uri,
        }
        yield (
            names,
            {
                "gs://my-bucket": f"gs://{bucket_name}",
                "project=my-project": f"project={project_id}",
                'Path("agents").absolute()': f"Path({str(tmp_path / 'agents')!r})",
                "file:///home/me/": f"file://{tmp_path}/",
            },
        )
