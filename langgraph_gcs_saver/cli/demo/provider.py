"""A fake provider of payments and e-mails. It does whatever it is sent, as often as it is sent, and counts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Provider:
    """The outside world. It ignores the keys that come with requests, so only its callers can avoid duplicates.

    Attributes:
        ledger: A file outside of the store. It gets a line for each request, in one write that no other process's write
            can split.
    """

    ledger: Path

    def do(self, what: str, key: str, **details: Any) -> dict[str, Any]:
        """Charge a card, or send an e-mail.

        Args:
            what: `charge` or `e-mail`.
            key: The caller's key.
            **details: What to charge, or to whom to write.

        Returns:
            The receipt.
        """
        receipt = {"receipt": f"{what}-{len(self.done()) + 1}", "key": key}
        line = json.dumps({"pid": os.getpid(), "what": what, **receipt, **details})
        descriptor = os.open(self.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
        return receipt

    def done(self, what: str | None = None) -> list[dict[str, Any]]:
        """All that it did so far, in order; with `what`, only these."""
        if not self.ledger.exists():
            return []
        lines = [json.loads(line) for line in self.ledger.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if what in {None, line["what"]}]

    def find(self, what: str, key: str) -> dict[str, Any] | None:
        """The receipt of the first request with a key, or None if there was none."""
        for line in self.done(what):
            if line["key"] == key:
                return {"receipt": line["receipt"], "key": key}
        return None
