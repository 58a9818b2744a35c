"""The demo's agent. It reads Python modules one step at a time, ranks them, and asks before it publishes.

It uses no language model. It analyzes modules with `ast` and `tokenize`, so every run can be checked.
"""

from __future__ import annotations

import ast
import io
import operator
import sys
import sysconfig
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

SERDE = JsonPlusSerializer(allowed_msgpack_modules=None)
"""Makes objects only of LangGraph's own types, because the state has no others."""

RANKINGS = {"lines": "by length", "longest_lines": "by longest function"}
"""Fields of a finding that can rank the report, and how to say it."""


class State(TypedDict):
    """The agent's memory: what to read, what it found (one finding a document), and its report."""

    queue: list[str]
    rank_by: str
    findings: Annotated[list[dict[str, Any]], operator.add]
    ranking: list[str]
    approved: bool
    report: str


@dataclass(frozen=True)
class Context:
    """Input of a run that is not state.

    Attributes:
        before_reading: Called before a document is read, with its number, from 1, and its name.
    """

    before_reading: Callable[[int, str], None]


Agent = CompiledStateGraph[State, Context, State, State]


# The documents


def modules(count: int) -> list[str]:
    """The first `count` modules of the standard library, by name, that come with source; fewer if there are fewer."""
    found: list[str] = []
    for name in sorted(sys.stdlib_module_names):
        if len(found) == count:
            break
        if not name.startswith("_") and _loader(name) is not None:
            found.append(name)
    return found


def _loader(name: str) -> SourceFileLoader | None:
    # Modules are found by path, not imported. `abc` is frozen, so importlib.util.find_spec finds no source of it, and
    # importing `antigravity` opens a web browser.
    spec = PathFinder.find_spec(name, [sysconfig.get_path("stdlib")])
    if spec is None or spec.submodule_search_locations is not None or not isinstance(spec.loader, SourceFileLoader):
        return None
    return spec.loader


def summarise(name: str) -> dict[str, Any]:
    """Read a module's source and say what is in it, as plain values."""
    loader = _loader(name)
    source = loader.get_source(name) if loader is not None else None
    if source is None:
        raise LookupError(f"The source of {name!r} is gone from {sysconfig.get_path('stdlib')}.")
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    longest = max(functions, key=_length, default=None)
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        "module": name,
        "about": (ast.get_docstring(tree) or "").partition("\n")[0],
        "lines": len(source.splitlines()),
        "comments": sum(token.type == tokenize.COMMENT for token in tokens),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        "longest": longest.name if longest is not None else "",
        "longest_lines": _length(longest) if longest is not None else 0,
        "imports": sorted(imports),
    }


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


# The graph


def _read(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    done = len(state["findings"])
    name = state["queue"][done]
    runtime.context.before_reading(done + 1, name)
    return {"findings": [summarise(name)]}


def _more(state: State) -> str:
    return "read" if len(state["findings"]) < len(state["queue"]) else "rank"


def _rank(state: State) -> dict[str, Any]:
    criterion = state["rank_by"]
    ranked = sorted(state["findings"], key=lambda finding: (-finding[criterion], finding["module"]))
    return {"ranking": [finding["module"] for finding in ranked]}


def _approve(state: State) -> dict[str, Any]:
    answer = interrupt(
        {
            "question": f"Publish the ranking of {len(state['ranking'])} modules {RANKINGS[state['rank_by']]}?",
            "top": state["ranking"][:5],
        }
    )
    return {"approved": answer == "yes"}


def _verdict(state: State) -> str:
    return "publish" if state["approved"] else END


def _publish(state: State) -> dict[str, Any]:
    findings = {finding["module"]: finding for finding in state["findings"]}
    lines = [f"{len(findings)} modules of the standard library, {RANKINGS[state['rank_by']]}"]
    for place, name in enumerate(state["ranking"], 1):
        finding = findings[name]
        lines.append(
            f"{place:3}. {name}: {finding['lines']} lines, {finding['functions']} functions, "
            f"{finding['classes']} classes, longest {finding['longest'] or '(none)'} ({finding['longest_lines']}). "
            f"{finding['about']}"
        )
    return {"report": "\n".join(lines)}


def build(saver: BaseCheckpointSaver[Any], name: str | None = None) -> Agent:
    """The agent: `read` loops, one document a step, then `rank`, `approve` (interrupts) and `publish`."""
    builder = StateGraph(State, Context)
    builder.add_node("read", _read)
    builder.add_node("rank", _rank)
    builder.add_node("approve", _approve)
    builder.add_node("publish", _publish)
    builder.add_edge(START, "read")
    builder.add_conditional_edges("read", _more, ["read", "rank"])
    builder.add_edge("rank", "approve")
    builder.add_conditional_edges("approve", _verdict, ["publish", END])
    builder.add_edge("publish", END)
    return builder.compile(checkpointer=saver, name=name)


def thread_config(thread_id: str) -> RunnableConfig:
    """The config of the thread. Its limit of steps exceeds any number of documents that the demo reads."""
    return {"configurable": {"thread_id": thread_id}, "recursion_limit": 1000}
