"""Prints the notes of a release, for the workflow that makes it: `python .ci/release_notes.py v1.2.3`.

The tag must be the version in pyproject.toml, which must say where the project is, and CHANGELOG.md must mention it.
README.md, which the package index shows, must not say that the index has no such package. Where GitHub's variables name
the repository, links to files of it become absolute: a release's notes have nothing that they are relative to.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(tag: str, project: str, changelog: str, readme: str) -> str:
    """Return what the changelog says of the version that a tag names.

    Args:
        tag: `v` and a version.
        project: The text of pyproject.toml.
        changelog: The text of CHANGELOG.md.
        readme: The text of README.md.

    Raises:
        ValueError: The tag is not the project's version, the changelog has nothing to say of it, or what the package
            index would show leads nowhere.
    """
    if "[project.urls]" not in project:
        raise ValueError("pyproject.toml has no [project.urls]: users could not find the project from its package.")
    if "not on PyPI" in readme:
        raise ValueError("README.md still says that the package is not on PyPI.")
    found = re.search(r'^version = "([^"]+)"$', project, re.MULTILINE)
    version = found[1] if found else ""
    if tag != f"v{version}":
        raise ValueError(
            f"The tag is {tag!r}, the version in pyproject.toml is {version!r}: one would be v + the other."
        )
    # A section ends where the next version begins.
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if title.split(" ")[0].strip("[]") == version and text.strip():
            return absolute(text.strip(), tag) + "\n"
    raise ValueError(f"CHANGELOG.md says nothing under '## {version}'.")


def absolute(text: str, tag: str) -> str:
    """Make relative links lead to the files of a tag, where the environment says in which repository."""
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    if not server or not repository:
        return text
    return re.sub(r"\]\((?!https?:|#|mailto:)", f"]({server}/{repository}/blob/{tag}/", text)


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: release_notes.py TAG")
    try:
        texts = [(ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "CHANGELOG.md", "README.md")]
        text = notes(sys.argv[1], *texts)
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
