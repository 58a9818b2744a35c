"""The store's own key for analytics: rows of all processes of a store have the same digests of threads.

The document `lg_store/analytics` holds it. The first process that needs it creates the document, and no process changes
it. It is stored in clear, also with a cipher: it hides ids of threads from readers of the rows, not from readers of the
store, which has these ids in clear.
"""

from __future__ import annotations

from langgraph_gcs_saver.engine.effects import Commit, Create, Flow, GetDocs
from langgraph_gcs_saver.errors import ConflictError, DamageError
from langgraph_gcs_saver.flows.context import MAX_TRIES
from langgraph_gcs_saver.format import keys

KEY_BYTES = 32
"""As many as SHA-256 has (https://www.rfc-editor.org/rfc/rfc2104#section-3)."""


def store_key(fresh: bytes) -> Flow[bytes]:
    """The store's key. All calls return the same one, whichever process came first.

    Args:
        fresh: Random bytes, which become the key if the store has none.

    Raises:
        DamageError: The document does not hold a key.
    """
    for _ in range(MAX_TRIES):
        doc = (yield from GetDocs((keys.ANALYTICS,))).get(keys.ANALYTICS)
        if doc is not None:
            found = doc.fields.get("key")
            if not isinstance(found, bytes) or len(found) != KEY_BYTES:
                raise DamageError(
                    f"The document {keys.ANALYTICS!r} does not hold a key of {KEY_BYTES} bytes. Restore it from a "
                    "backup. Or delete it, and the store gets another key: then new rows of a thread have another "
                    "digest than its earlier rows."
                )
            return found
        if (yield from Commit((Create(keys.ANALYTICS, {"key": fresh}),))) is not None:
            return fresh
    raise ConflictError(
        f"The document {keys.ANALYTICS!r} was created and deleted {MAX_TRIES} times in a row. Call again."
    )
