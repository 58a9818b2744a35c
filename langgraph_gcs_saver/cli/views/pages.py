"""What the pages of commands share: one document without a script or a network, and the style of its text."""

from __future__ import annotations

import base64
import hashlib

from langgraph_gcs_saver.cli.views.html import Html, tag


def document(title: str, body: Html, style: str = "", *, images: bool = False) -> str:
    """A whole page.

    Args:
        title: The title.
        body: What the page shows.
        style: Rules besides those that all pages have.
        images: Whether the page has images, as `data:` addresses.
    """
    rules = _STYLE + style
    digest = base64.b64encode(hashlib.sha256(rules.encode()).digest()).decode()
    # A hash instead of 'unsafe-inline': even a style that was injected into the page would have no effect.
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="{policy}{"; img-src data:" if images else ""}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<style>{rules}</style>
{tag("title", title).markup}
</head>
<body>
{body.markup}
</body>
</html>
"""


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f6f7f9; --text: #1b1f24; --soft: #57606a; --edge: #d5dae0;
  --link: #0a58c2; --bad: #b3261e; --warn: #8a5200; --pin: #0b6a62; --fork: #6f3ec4; --new: #e4f5e7; --gone: #fdeae8;
  --manifest: #8c959f; --full: #1f6feb; --incremental: #0f9d77; --total: #1f6feb; --state: #bc4c00; }
@media (prefers-color-scheme: dark) { :root { --back: #111418; --card: #1a1f25; --text: #e6e9ed; --soft: #9aa5b1;
  --edge: #353c45; --link: #7db4ff; --bad: #ff8f85; --warn: #f0b44c; --pin: #56d0c3; --fork: #bfa1ff; --new: #14301d;
  --gone: #3a1b1a; --manifest: #7d8792; --full: #5b9dff; --incremental: #3ecf9f; --total: #5b9dff; --state: #ff9c5a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem max(1rem, env(safe-area-inset-right)) 3rem max(1rem, env(safe-area-inset-left));
  max-width: 60rem; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
h4 { font-size: .875rem; margin: 0 0 .25rem; }
p { margin: .25rem 0; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
nav a { padding: .5rem 0; }
.kicker, .note, dt, footer, .top, .ends, caption { color: var(--soft); font-size: .875rem; }
.kicker { margin: 0; }
.bad { color: var(--bad); }
.id { font-size: .8125rem; color: var(--soft); }
.findings .id { display: block; }
ul { padding-left: 1.25rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem; margin: 0; }
.facts > div { background: var(--card); border-radius: .5rem; padding: .5rem .75rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.facts dd { font-weight: 600; }
figure { margin: 0 0 1.75rem; }
figcaption { font-weight: 600; }
table { width: 100%; table-layout: fixed; border-collapse: collapse; font-size: .8125rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; }
th, td { text-align: right; padding: .2rem 0 .2rem .6rem; font-weight: 400; border-bottom: 1px solid var(--edge);
  vertical-align: top; }
thead th { color: var(--soft); }
footer { margin-top: 2rem; }
"""
