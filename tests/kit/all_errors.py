"""All errors of the library."""

from __future__ import annotations

from langgraph_gcs_saver import errors


def errors_by_name() -> dict[str, type[errors.GCSSaverError]]:
    """The errors that `langgraph_gcs_saver.errors` offers, by name, their base included."""
    found = {name: getattr(errors, name) for name in dir(errors)}
    return {name: one for name, one in found.items() if isinstance(one, type) and issubclass(one, errors.GCSSaverError)}
