"""LangGraph's serializers, with typed errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.portable.refusals import reason_of, refusal

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol


def dumps(serde: SerializerProtocol, value: Any, what: str) -> Serialized:
    """Serialize a value.

    Args:
        serde: The serializer.
        value: The value.
        what: What the value is, for the error message.

    Raises:
        SerializationError: The serializer rejects the value. The message gives the reason and the part of the value
            that was rejected: its type, and the numbers of items and names of fields that lead to it. It shows no
            value and no key.
    """
    try:
        kind, data = serde.dumps_typed(value)
        # A bytearray is copied because its owner may change it during the upload.
        return Serialized(kind, data if type(data) is bytes else bytes(data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a serializer may raise anything; all of it means the same here
        reason = reason_of(error)
    # Raised outside of `except`: the serializer's exception may show the value, so it must not become the context.
    raise refusal(serde, value, what, reason)


def loads(serde: SerializerProtocol, value: Serialized) -> Any:
    """Deserialize a value.

    Raises:
        SerializationError: The serializer cannot read the value, although its bytes are intact. Its class may be gone
            or no longer allowed, or it was written with another serializer or key.
    """
    try:
        return serde.loads_typed((value.type, value.data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a serializer may raise anything; all of it means the same here
        reason = reason_of(error)
    raise SerializationError(
        f"A stored value of type {value.type!r} is intact, but {type(serde).__name__} cannot read it "
        f"({reason}). Was it written with another `serde` or key?"
    )
