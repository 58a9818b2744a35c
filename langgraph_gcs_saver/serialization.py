"""LangGraph's serialisers, with typed errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.manifest import Serialized

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol


def dumps(serde: SerializerProtocol, value: Any, what: str) -> Serialized:
    """Serialise a value.

    Args:
        serde: The serialiser.
        value: The value.
        what: What it is, for the error's message.

    Raises:
        SerializationError: The serialiser refuses it; the message names its type, never its content.
    """
    try:
        kind, data = serde.dumps_typed(value)
        # A bytearray is the live object itself, which its owner may change while it is uploaded.
        return Serialized(kind, data if type(data) is bytes else bytes(data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a serialiser may raise anything; all of it means the same here
        # Not `from error`: a serialiser's message may show the value, and tracebacks go to logs.
        raise SerializationError(
            f"{what} cannot be serialised by {type(serde).__name__}: {_told(error)} for a value of type "
            f"{type(value).__name__}. Keep such objects out of the state, or pass a `serde` that handles them. "
            "Nothing was stored."
        ) from None


def loads(serde: SerializerProtocol, value: Serialized) -> Any:
    """Deserialise a value.

    Raises:
        SerializationError: The serialiser refuses it, although it is what was written: its class may be gone or not
            allowed any more, or another serialiser or key wrote it.
    """
    try:
        return serde.loads_typed((value.type, value.data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a serialiser may raise anything; all of it means the same here
        raise SerializationError(
            f"A stored value of type {value.type!r} is intact, but {type(serde).__name__} cannot read it "
            f"({_told(error)}). Was it written with another `serde` or key?"
        ) from None


def _told(error: Exception) -> str:
    """What an exception may say in a message: its type, and the name of a class, which is no content."""
    known = re.fullmatch(r"Type is not msgpack serializable: [\w.]{1,100}", str(error))
    return f"{type(error).__name__} ({known[0]})" if known else type(error).__name__
