"""HTML that is safe by construction: every string is escaped, and only what `tag` made is markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from langgraph_gcs_saver.cli.views.terminal import printable
from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True)
class Html:
    """Finished markup. Only this module makes it; `text`, `block` and `tag` make it from untrusted text."""

    markup: str


Child = Html | str | None
"""What an element may contain. A string is text, whatever it looks like."""


def text(value: str) -> Html:
    r"""One line of text, with control and bidirectional characters as `\x1b`, as in a terminal."""
    return Html(html.escape(printable(value)))


def block(value: str) -> Html:
    """Text of several lines, escaped as by `text` except for line breaks and tabs."""
    lines = ("\t".join(map(printable, line.split("\t"))) for line in value.replace("\r\n", "\n").split("\n"))
    return Html(html.escape("\n".join(lines)))


def tag(name: str, *children: Child, **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: The tag.
        *children: Its content; `None` is left out.
        **attributes: Its attributes: `class_` is `class`, `aria_label` is `aria-label`; `None` is left out. They are
            escaped, but the values of `href` and the like must come from the caller, never from a store.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{text(str(value)).markup}"' for key, value in given.items())
    return Html(f"<{name}{opening}>{join(*children).markup}</{name}>")


def named(value: str) -> Html:
    """Text from a store within a line. Its direction does not affect the text around it."""
    return tag("bdi", value)


def join(*children: Child) -> Html:
    """Join children, one after the other."""
    parts = (child if isinstance(child, Html) else text(child) for child in children if child is not None)
    return Html("".join(part.markup for part in parts))


def joined(parts: Iterable[Html], between: str) -> Html:
    """Join pieces, with text between them."""
    return Html(text(between).markup.join(part.markup for part in parts))
