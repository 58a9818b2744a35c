"""A thread whose values name code. Whatever imports or calls what they name leaves a trace."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored, delta
from tests.system.build import cfg, checkpoint, version

MODULE = "a_module_that_only_a_store_names"


class Trap:
    """What stored values name: a module that leaves a file when it is imported, and commands that do.

    Attributes:
        sprung: The file that is there if anything was run.
    """

    def __init__(self, directory: Path) -> None:
        self.sprung = directory / "sprung"
        (directory / f"{MODULE}.py").write_text(
            f"from pathlib import Path\n\nPath({str(self.sprung)!r}).touch()\n\n\nclass Plan:\n    pass\n"
        )

    @property
    def is_sprung(self) -> bool:
        return self.sprung.exists() or MODULE in sys.modules

    def objects(self) -> list[Any]:
        """Every form in which MessagePack, as LangGraph's serializer reads it, names code."""
        touch = f"touch {self.sprung}"
        named = [
            Stored.of(0, ["os", "system", touch]),
            Stored.of(1, ["os", "system", [touch]]),
            Stored.of(2, ["subprocess", "getoutput", {"cmd": touch}]),
            Stored.of(3, ["os", "path", touch, "system"]),
            Stored.of(4, ["subprocess", "getoutput", {"cmd": touch}]),
            Stored.of(5, ["subprocess", "getoutput", {"cmd": touch}, "model_validate_json"]),
            *(Stored.of(code, [MODULE, "Plan", {}, "model_validate_json"]) for code in range(6)),
        ]
        envelope = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [touch]}
        return [
            *named,
            Stored.of(5, ["langchain_core.messages.human", "HumanMessage", {"content": named[0], "type": "human"}]),
            Stored.of(2, ["langgraph.types", "Interrupt", {"value": named[0], "id": "i"}]),
            Stored.of(2, ["langgraph.types", "Overwrite", {"value": [named[0]], "type": "__overwrite__"}]),
            Stored.of(6, ["|O", [1], "C", named[0]]),
            delta([named[0]]),
            envelope,
            {**envelope, "lc": 1},
        ]

    def deep(self) -> Any:
        """An object inside an object inside an object, further than Python recurses."""
        found = self.objects()[0]
        for _ in range(2000):
            found = Stored.of(0, ["m", "C", found])
        return found

    def tagged(self) -> list[Opaque]:
        """Values of other type tags that LangGraph's serializer knows or has known."""
        return [
            Opaque("pickle", pickle.dumps(_Calls(f"touch {self.sprung}"))),
            Opaque("json", b'{"lc": 2, "type": "constructor", "id": ["%s", "Plan"]}' % MODULE.encode()),
        ]


class _Calls:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.getoutput, (self._command,)


def fill(saver: Any, trap: Trap, thread: str = "t", *, is_metadata_json: bool = False) -> None:
    """Put a thread that has hostile objects in whatever a serializer writes.

    The serializer of the saver must be a `PortableSerializer`, which writes them.
    """
    objects = trap.objects()
    grown: list[Any] = []
    for n in range(1, 5):
        # Such that a lost value of `log` would be looked for in all ways that `repair` knows.
        update = [random.Random(n).randbytes(300), *objects]
        grown = [*grown, *update]
        values = {
            "log": grown,
            "messages": [_stored(HumanMessage("hello " * 20, id=str(k))) for k in range(n)],
            "deltas": delta(objects),
            "large": [random.Random(-n).randbytes(20_000), *objects],
            **{f"object-{k}": item for k, item in enumerate(objects)},
            "said": f"turn {n}",
        }
        if thread == "deep":
            values["deep"] = trap.deep()
        if thread == "tagged":
            values |= {f"tagged-{k}": item for k, item in enumerate(trap.tagged())}
        versions = dict.fromkeys(values, version(n))
        told = {
            "source": "loop" if n > 1 else "input",
            "step": n - 2,
            "parents": {},
            "run_id": "run",
            "writes": {"node": "none" if is_metadata_json else objects},
            "counters_since_delta_snapshot": {"deltas": [0, 0]},
        }
        if thread == "named":
            told["kind"] = objects[0]
        more = {"rest": objects}
        saver.put(cfg(n - 1 or None, thread=thread), checkpoint(n, values, versions, **more), told, versions)
        config = cfg(n, thread=thread)
        next_update = [random.Random(n + 1).randbytes(300), *objects]
        saver.put_writes(config, [("log", next_update), ("messages", objects), ("deltas", objects)], "task")
        for special in ("__error__", "__interrupt__", "__resume__", "__scheduled__"):
            saver.put_writes(config, [(special, objects)], f"task of {special}")


def _stored(value: Any) -> Any:
    kind, data = JsonPlusSerializer().dumps_typed(value)
    return PortableSerializer().loads_typed((kind, bytes(data)))
