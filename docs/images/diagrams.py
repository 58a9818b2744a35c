"""Draws the diagrams of the page on architecture: `python docs/images/diagrams.py` writes the SVG files beside it.

Each has a ground of its own, light or dark as the reader's system is, so that it can be read on any page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 940
LANES = {"process": 190, "storage": 550, "firestore": 820}
TITLES = {"process": "your process", "storage": "Cloud Storage", "firestore": "Firestore"}

STYLE = """
  .ground { fill: #ffffff; stroke: #c9ced6 } .lane { stroke: #aeb5bf; stroke-dasharray: 3 4 }
  text { font: 14px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2933 }
  .title { font-weight: 600 } .small { font-size: 12.5px; fill: #52606d }
  .box { fill: #eef2f7; stroke: #aeb5bf } .head { fill: #dfe7f3; stroke: #8fa3bf }
  .arrow { stroke: #2f5d9b; stroke-width: 1.6; fill: none } .tip { fill: #2f5d9b }
  .mark { stroke: #1d7a46; stroke-width: 1.6; stroke-dasharray: 7 4 } .marked { fill: #1d7a46; font-weight: 600 }
  .else { fill: #fdf3e3; stroke: #d6a756 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #1b1f27; stroke: #3a4250 } .lane { stroke: #566072 }
    text { fill: #e4e8ee } .small { fill: #a9b3c1 }
    .box { fill: #262d38; stroke: #4a5567 } .head { fill: #2b3a52; stroke: #5b7299 }
    .arrow { stroke: #86b3f0 } .tip { fill: #86b3f0 }
    .mark { stroke: #5fce91 } .marked { fill: #5fce91 }
    .else { fill: #3a2f1b; stroke: #9a7a3c }
  }
"""


class Drawing:
    """Lanes from left to right, time from top to bottom."""

    def __init__(self, title: str, text: str) -> None:
        self._title, self._text = title, text
        self._parts: list[str] = []
        self._y = 64

    def _write(self, x: float, y: float, text: str, kind: str = "") -> None:
        shown = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text x="{x}" y="{y}"{shown} text-anchor="middle">{escape(text)}</text>')

    def work(self, *lines: str, kind: str = "box", width: int = 330) -> None:
        """Something that the process does: a headline and smaller lines."""
        height = 16 + 18 * len(lines)
        x = LANES["process"] - width / 2
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{self._y}" width="{width}" height="{height}" rx="6"/>')
        for n, line in enumerate(lines):
            self._write(LANES["process"], self._y + 21 + 18 * n, line, "" if n == 0 else "small")
        self._y += height + 14

    def arrow(self, source: str, target: str, *lines: str) -> None:
        """A request or an answer, with its text above it, beside its end."""
        begin, end = LANES[source], LANES[target]
        sign = 1 if end > begin else -1
        middle = (LANES["process"] + LANES["storage"]) / 2
        if "firestore" in (source, target):
            middle = (LANES["storage"] + LANES["firestore"]) / 2 - 95
        for line in lines:
            self._y += 16
            self._shade(middle, line)
            self._write(middle, self._y, line, "small")
        self._y += 9
        tip = end - 9 * sign
        self._parts.append(f'<path class="arrow" d="M{begin} {self._y}H{tip}"/>')
        self._parts.append(f'<path class="tip" d="M{end} {self._y}l{-10 * sign} -5v10z"/>')
        self._y += 14

    def mark(self, text: str) -> None:
        """A line across all lanes, with a text below it."""
        self._y += 2
        self._parts.append(f'<path class="mark" d="M20 {self._y}H{WIDTH - 20}"/>')
        self._y += 19
        middle = (LANES["process"] + LANES["storage"]) / 2
        self._shade(middle, text)
        self._write(middle, self._y, text, "marked")
        self._y += 6

    def _shade(self, middle: float, text: str) -> None:
        """A ground for a text, where it may cross a lane."""
        width = 7.4 * len(text)
        self._parts.append(
            f'<rect class="ground" style="stroke:none" x="{middle - width / 2:.1f}" y="{self._y - 13}" '
            f'width="{width:.1f}" height="17"/>'
        )

    def svg(self) -> str:
        """The file."""
        height = self._y + 10
        lanes = "".join(f'<path class="lane" d="M{x} 52V{height - 14}"/>\n' for x in LANES.values())
        heads = "".join(
            f'<rect class="head" x="{x - 75}" y="18" width="150" height="30" rx="6"/>\n'
            f'<text x="{x}" y="38" class="title" text-anchor="middle">{TITLES[name]}</text>\n'
            for name, x in LANES.items()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-labelledby="title text">\n<title id="title">{escape(self._title)}</title>\n'
            f'<desc id="text">{escape(self._text)}</desc>\n<style>{STYLE}</style>\n'
            f'<rect class="ground" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10"/>\n{lanes}{heads}'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def put() -> str:
    """A `put` with `verify="readback"`, the default."""
    drawing = Drawing(
        "A put",
        "Values are serialized and compressed, large frames are uploaded, then one commit makes the checkpoint "
        "visible, and its document and the objects are read back.",
    )
    drawing.work("serialize what has changed", "before the first await, on the calling thread")
    drawing.work(
        "compress each value",
        "as a change of an earlier version in the cache,",
        "or in full; digest; encrypt, if there is a cipher",
    )
    drawing.arrow("process", "storage", "frames over inline_max_bytes:", "create objects, crc32c checked")
    drawing.arrow(
        "process",
        "firestore",
        "one commit: create the checkpoint's document, with small",
        "frames; set heir in the parent's, if that is unchanged",
    )
    drawing.mark("durable, and visible to every reader")
    drawing.arrow("firestore", "process", "read the document back, and compare")
    drawing.arrow("storage", "process", "read the objects back, at the same time: sha256")
    drawing.work("return to LangGraph", kind="head")
    drawing.work("the parent has changed", "read it again; commit again, in full if it is gone", kind="else")
    drawing.work("something reads back differently", "withdraw all, write it again under new names", kind="else")
    return drawing.svg()


def get() -> str:
    """A `get_tuple` of the latest checkpoint."""
    drawing = Drawing(
        "A get_tuple",
        "One query finds the document, then everything else is fetched at once, and all of it is checked by digest "
        "before it is deserialized.",
    )
    drawing.arrow(
        "process",
        "firestore",
        "1st round: the latest of the namespace, limit 1;",
        "or the document of the checkpoint's id",
    )
    drawing.arrow("firestore", "process", "manifest and small frames")
    drawing.work("check the document's digest", "which frames are not in the cache?")
    drawing.arrow("process", "firestore", "2nd round, at once: pending writes,", "frames in earlier documents")
    drawing.arrow("process", "storage", "the same round:", "objects, in parallel")
    drawing.arrow("storage", "process", "frames")
    drawing.arrow("firestore", "process", "pending writes, frames")
    drawing.work("decode each value, base first", "sha256 of each must be the manifest's")
    drawing.work("deserialize", "return to LangGraph", kind="head")
    drawing.work("the process knows the latest checkpoint", "both rounds at once, if it is unchanged", kind="else")
    drawing.work("something is missing or differs", "read it all again; only twice the same is damage", kind="else")
    drawing.work("damage", "read by id: CheckpointCorruptError", "latest: the newest whole one, flagged", kind="else")
    return drawing.svg()


DIAGRAMS = {"put.svg": put, "get.svg": get}


def main() -> None:
    """Write the files."""
    for name, draw in DIAGRAMS.items():
        (HERE / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
