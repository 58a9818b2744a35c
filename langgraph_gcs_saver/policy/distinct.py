"""A limit on the values that metrics and analytics distinguish."""

from __future__ import annotations

from langgraph_gcs_saver.policy.labels import MOST_VALUES, OTHER


class Distinct:
    """Lets the first values pass, and replaces all further ones by `other`.

    There is no lock: two threads that see a new value at the same time may both count it.

    Args:
        most: How many values pass.
    """

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = most
        self._seen: set[str] = set()

    def of(self, text: str) -> str:
        """The text, or `other`."""
        if text not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(text)
        return text
