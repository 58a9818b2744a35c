"""Prints the notes of a release, for the workflow that makes it: `python .ci/release_notes.py v1.2.3`.

The tag must be the version in pyproject.toml, and CHANGELOG.md must tell of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(tag: str, project: str, changelog: str) -> str:
    """Return what the changelog says of the version that a tag names.

    Args:
        tag: `v` and a version.
        project: The text of pyproject.toml.
        changelog: The text of CHANGELOG.md.

    Raises:
        ValueError: The tag is not the project's version, or the changelog has nothing to say of it.
    """
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
            return text.strip() + "\n"
    raise ValueError(f"CHANGELOG.md says nothing under '## {version}'.")


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: release_notes.py TAG")
    try:
        text = notes(
            sys.argv[1], (ROOT / "pyproject.toml").read_text("utf-8"), (ROOT / "CHANGELOG.md").read_text("utf-8")
        )
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
