"""Adds to the site what is not in docs/: the repository's own pages, notebooks, and a navigation that lists folders.

The files stay readable on a disk or in a forge, because their links are relative to the repository. This hook rewrites
them to links of the site.
"""

from __future__ import annotations

import base64
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "overview.md": "README.md",
    "notebooks.md": "notebooks/README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
}
"""Pages of the site that are pages of the repository. A README would be taken for the start page."""

_FOUND = sorted((ROOT / "notebooks").glob("*.ipynb"))

NOTEBOOKS = {f"notebooks/{path.stem}.md": f"notebooks/{path.name}" for path in _FOUND}
"""Pages of the site that are made of notebooks, which the site also has as they are, under the same names."""

MOVED = {ours: page for page, ours in (PAGES | NOTEBOOKS).items()} | {"SECURITY.md": "explanation/security.md"}
"""Where links lead that name no page of docs/. The policy at the top becomes the page on security."""

# Inside of code nothing is a link: fences, and spans of backticks, are matched first and left alone.
_LINK = re.compile(
    r"(?P<code>^ *```.*?^ *```|(?<!\[)`[^`\n]+`)|(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the folders that the navigation names."""
    config.nav = _with_folders(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, and the pictures that they show."""
    for name, ours in NOTEBOOKS.items():
        content, pictures = _page_of(ROOT / ours)
        files.append(File.generated(config, name, content=content))
        files.append(File.generated(config, ours, abs_src_path=str(ROOT / ours)))
        for picture, data in pictures.items():
            files.append(File.generated(config, f"notebooks/{picture}", content=data))
    for name, ours in PAGES.items():
        content = (ROOT / ours).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
        for link in _LINK.finditer(content):
            target = link["target"] or ""
            if link["image"] and _is_elsewhere(target) and files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' names
    """Make links of the repository links of the site."""
    source = page.file.src_uri
    in_repository = (PAGES | NOTEBOOKS).get(source, f"docs/{source}")

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        there = _in_repository(target, in_repository)
        if not found["image"] and there not in MOVED and _is_elsewhere(there):
            return found["text"]
        return f"{found['image']}[{found['text']}]({_on_site(target, in_repository, source)})"

    return _LINK.sub(link, markdown)


def _is_elsewhere(there: str) -> bool:
    """Whether a name is of something in the repository that is not on the site: a folder, a program, a license."""
    path = ROOT / there
    return path.is_dir() or (path.exists() and not there.startswith("docs/"))


def _on_site(target: str, in_repository: str, source: str) -> str:
    _, mark, anchor = target.partition("#")
    there = _in_repository(target, in_repository)
    there = MOVED.get(there, there.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(source) or ".") + mark + anchor


def _in_repository(target: str, page: str) -> str:
    path = target.partition("#")[0]
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page


def _with_folders(nav: Any, docs: Path) -> Any:
    if isinstance(nav, list):
        return [_with_folders(item, docs) for item in nav]
    if isinstance(nav, dict):
        return {title: _with_folders(item, docs) for title, item in nav.items()}
    if nav == "notebooks/":
        return ["notebooks.md", *NOTEBOOKS]
    if nav.endswith("/"):
        return [f"{nav}{path.name}" for path in sorted((docs / nav).glob("*.md"))]
    return nav


# Notebooks


def _page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by their names: text, code, and what the code printed and drew."""
    pictures: dict[str, bytes] = {}
    parts: list[str] = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fenced(cell.source, "python"))
        for output in cell.outputs:
            png = output.get("data", {}).get("image/png")
            if png is None:
                parts.append(_fenced(_text_of(output), "text"))
            else:
                name = f"{path.stem}-{number}.png"
                pictures[name] = base64.b64decode(png)
                parts.append(f"![What the cell drew]({name})")
    # Below the title. In HTML, because a link in Markdown leads to the page.
    parts.insert(1, f'<a href="{path.name}" download>Download this notebook</a>')
    return "\n\n".join(parts) + "\n", pictures


def _text_of(output: Any) -> str:
    # An output that has neither, such as HTML alone, fails the build instead of being left out.
    text: str = output["text"] if output.output_type == "stream" else output["data"]["text/plain"]
    return text


def _fenced(text: str, language: str) -> str:
    fence = "`" * max([3, *(len(found) + 1 for found in re.findall("`{3,}", text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
