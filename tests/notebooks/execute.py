"""Executes notebooks, each in a fresh kernel, and writes them so that the same run gives the same bytes."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"

AT_ONCE = 2

IMPERCEPTIBLE = 0.25
"""Largest difference of a pixel, of 1, between pictures that differ only in the width of random ids."""

_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_ATTEMPT = re.compile(r"(?<=-)[0-9a-f]{12}(?=\.zst)")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


async def execute_all(paths: list[Path], output: Path | None, store: str | None) -> None:
    """Execute notebooks, each in its directory, and write them.

    Args:
        paths: The notebooks, absolute.
        output: The directory to write them to; where they are if not given.
        store: A connection string; the notebooks' own temporary directories if not given.

    Raises:
        CellExecutionError: A cell failed; the message shows it. Nothing is written of that notebook.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(_environment(Path(folder), store))
        if store is None:
            os.environ.pop("LANGGRAPH_GCS_STORE", None)
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(path: Path) -> None:
            async with turns:
                begin = time.monotonic()  # clock: to be printed
                await _execute(path, output or path.parent, Path(folder))
                print(f"{path.stem}: {time.monotonic() - begin:.1f} s", flush=True)  # clock: to be printed

        # It does not stop at the first failure, because the other notebooks continue and need the folder.
        ended = await asyncio.gather(*map(one, paths), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome


def _environment(folder: Path, store: str | None) -> dict[str, str]:
    """Nothing of the user's settings reaches the kernels, and nothing of theirs stays."""
    found = {name: str(folder / name) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    found["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    found["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Google's packages say at import that Python 3.10 is old.
    found["PYTHONWARNINGS"] = "ignore::FutureWarning"
    return found if store is None else found | {"LANGGRAPH_GCS_STORE": store}


async def _execute(path: Path, output: Path, folder: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    # Sockets in the folder, not ports that every user of this machine can connect to.
    kernel = {"transport": "ipc", "connection_file": str(folder / f"{secrets.token_hex(4)}.json")}
    client = NotebookClient(
        notebook,
        config=Config({"KernelManager": kernel}),
        kernel_name="python3",
        timeout=int(PATIENCE),  # for one cell
        startup_timeout=int(PATIENCE),
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    await client.async_execute()
    target = output / path.name
    if target.exists():
        keep_pictures(nbformat.read(target, as_version=4), notebook)
    target.write_text(written(notebook), encoding="utf-8")


def written(notebook: NotebookNode) -> str:
    """A notebook's text, without anything that would differ in the next run: what `make notebooks` writes."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(_METADATA)
    known: dict[str, str] = {}
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"c{number:02}"
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if "text" in output:
                output.text = steady(output.text, known)
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = steady(data, known)
    nbformat.validate(notebook)
    return nbformat.writes(notebook)


def steady(text: str, known: dict[str, str]) -> str:
    """A cell's text with numbered ids in place of random ones, and a name in place of the project's directory.

    Args:
        text: The text.
        known: The ids so far and what they became; it grows.
    """

    def numbered(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"1f000000-0000-6000-8000-{len(known) + 1:012}")

    text = _ATTEMPT.sub("0123456789ab", _UUID.sub(numbered, text))
    return text.replace(str(ROOT), "langgraph_gcs_saver")


def keep_pictures(before: NotebookNode, after: NotebookNode) -> None:
    """Put earlier pictures in place of new ones that look the same."""
    for old, new in zip(_pictures(before), _pictures(after), strict=False):
        if _look_the_same(old["image/png"], new["image/png"]):
            new["image/png"] = old["image/png"]


def _pictures(notebook: NotebookNode) -> list[NotebookNode]:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return [output.data for output in outputs if "image/png" in output.get("data", {})]


def picture(png: str) -> Any:
    """The pixels of a picture as it is in a notebook, an array: height, width, colors from 0 to 1."""
    import matplotlib.image
    import numpy as np

    return np.asarray(matplotlib.image.imread(io.BytesIO(base64.b64decode(png)), format="png"))


def _look_the_same(one: str, other: str) -> bool:
    before, after = picture(one), picture(other)
    return before.shape == after.shape and bool(abs(before - after).max() < IMPERCEPTIBLE)
