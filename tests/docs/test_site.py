"""The site builds without a warning, holds every page, and asks no other host for anything."""

from __future__ import annotations

import base64
import html
import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from tests.docs.fences import ROOT, pages
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_every_page_is_there(site):
    for page in pages():
        name = page.relative_to(ROOT).as_posix().removeprefix("docs/").replace("README", "overview")
        # The policy at the top of the repository is for reporters; the site has the page on security.
        name = "explanation/security.md" if name == "SECURITY.md" else name
        built = (site / name).with_suffix(".html")
        assert built.is_file(), page
        title = re.search(r"^# (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert title, page
        shown = re.search(r"<h1[^>]*>(.*?)(<a |</h1>)", built.read_text(encoding="utf-8"))
        assert shown, page
        assert re.sub(r"<.*?>", "", shown[1]) == html.escape(title[1].replace("`", ""), quote=False), page


class Loaded(HTMLParser):
    """Addresses that a browser fetches by itself, and those of links."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.add(given.get("href", ""))
        elif not (tag == "link" and given.get("rel") in {"canonical", "next", "prev"}):
            self.fetched |= {given[name] for name in ("src", "href", "srcset", "data") if name in given}


def _file(site: Path, page: Path, address: str) -> Path:
    path = re.split(r"[?#]", address)[0]
    # The page for what is not found may be shown anywhere, and names the top.
    return site / path[1:] if path.startswith("/") else page.parent / path


def test_nothing_comes_from_another_host(site):
    found = list(site.rglob("*.html"))
    assert len(found) > 20
    for page in found:
        text = page.read_text(encoding="utf-8")
        loaded = Loaded()
        loaded.feed(text)
        assert loaded.fetched
        assert not {address for address in loaded.fetched if re.match(r"(https?:)?//", address)}, page
        for address in loaded.fetched:
            assert _file(site, page, address).exists(), f"{page}: {address}"
        # Its drawings would be made by a script of another host.
        assert 'class="mermaid"' not in text, page
    for style in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", style.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text), style


def test_links_to_the_repository_became_links_of_the_site(site):
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        for address in loaded.links:
            if not re.match(r"[a-z]+:|#|$", address):
                assert _file(site, page, address).exists(), f"{page}: {address}"


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_links_to_notebooks_lead_to_pages(site):
    for page, expected in (("notebooks", NOTEBOOKS), ("guides/verify-and-repair", NOTEBOOKS[3:4])):
        loaded = Loaded()
        loaded.feed((site / f"{page}.html").read_text(encoding="utf-8"))
        assert not {address for address in loaded.links if address.endswith(".ipynb")}, page
        found = {posixpath.normpath(posixpath.join(posixpath.dirname(page), address)) for address in loaded.links}
        assert {f"notebooks/{path.stem}.html" for path in expected} <= found, page


class Shown(HTMLParser):
    """The text of the code blocks of a page, and of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self.text = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self._inside = True
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._inside = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside:
            self.blocks[-1] += data


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_page(site, path):
    """With its text, its code, and what that printed and drew; and it can be downloaded."""
    page = site / "notebooks" / f"{path.stem}.html"
    shown, loaded = Shown(), Loaded()
    for parser in (shown, loaded):
        parser.feed(page.read_text(encoding="utf-8"))
    expected: list[str] = []
    pictures: list[bytes] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            first = next(word for line in cell.source.splitlines() for word in re.findall(r"\w{4,}", line))
            assert first in shown.text
            continue
        expected.append(cell.source)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                pictures.append(base64.b64decode(output.data["image/png"]))
            else:
                expected.append(output["text"] if "text" in output else output["data"]["text/plain"])
    blocks = iter([block.rstrip() for block in shown.blocks])  # its text has some, too
    assert not [text for text in expected if text.rstrip() not in blocks]
    drawn = sorted(address for address in loaded.fetched if address.startswith(path.stem))
    assert sorted(pictures) == sorted((page.parent / address).read_bytes() for address in drawn)
    assert path.name in loaded.links
    assert (page.parent / path.name).read_bytes() == path.read_bytes()


def test_the_api_is_there(site):
    text = (site / "reference" / "saver.html").read_text(encoding="utf-8")
    for name in ("put", "aput", "get_tuple", "alist", "prune", "from_conn_string"):
        assert f'id="langgraph_gcs_saver.saver.checkpointer.GCSSaver.{name}"' in text, name
    for name in ("repair", "plan_repair", "sweep", "asweep", "transfer_thread", "from_conn_string"):
        assert f'id="langgraph_gcs_saver.saver.admin.Admin.{name}"' in text, name
    assert "CheckpointVerificationError" in text
