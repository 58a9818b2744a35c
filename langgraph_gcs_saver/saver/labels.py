"""Labels: the few metadata, chosen by the option `labels`, that metrics, analytics and recovery records carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from langgraph_gcs_saver.policy.distinct import Distinct
from langgraph_gcs_saver.policy.labels import MOST_CHARACTERS, OTHER
from langgraph_gcs_saver.saver import configs


class Labels:
    """Reads the labels of a call. The ways to use a store share one object, and so the limit on values.

    Args:
        names: The names of metadata.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._values = {name: Distinct() for name in names}

    def of(self, config: object, metadata: object = None, *, stored: object = None) -> Mapping[str, str]:
        """The labels of a call. Those that it does not have, or that are no text, number or truth value, are absent.

        Args:
            config: The config, which may be invalid.
            metadata: The metadata of the checkpoint, which may be invalid.
            stored: Metadata that was read, for labels that the call itself does not have.
        """
        if not self._values:
            return {}
        # In the order in which LangGraph merges them into a checkpoint's metadata.
        given = (metadata, configs.part(config, "metadata"), configs.part(config, "configurable"), stored)
        parts = [part for part in given if isinstance(part, Mapping)]
        found = {}
        for name, values in self._values.items():
            value = next(filter(_is_plain, (part.get(name) for part in parts)), None)
            if value is not None:
                found[name] = values.of(_text(value).replace("\0", "")[:MOST_CHARACTERS])
        return found


def _is_plain(value: object) -> bool:
    """Whether LangGraph takes a value from a config into a checkpoint's metadata."""
    return isinstance(value, (str, int, float))


def _text(value: str | float) -> str:
    """A value as text. A text, such as a member of an enumeration, is itself, as in the stored metadata."""
    if isinstance(value, str):
        # No exporter takes lone surrogates, and the serializer of metadata replaces them in the same way.
        return str.__str__(value).encode(errors="replace").decode()
    try:
        return str(value)
    except ValueError:  # Python converts no int of more than 4,300 digits, and the services store none.
        return OTHER
