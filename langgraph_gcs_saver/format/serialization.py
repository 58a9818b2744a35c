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
        what: What it is, for the error's message.

    Raises:
        SerializationError: The serializer refuses it. The message says why and which part of it: by its type, and the
            numbers of items and names of fields that lead there. It shows no value, and no key.
    """
    try:
        kind, data = serde.dumps_typed(value)
        # A bytearray is the live object itself, which its owner may change while it is uploaded.
        return Serialized(kind, data if type(data) is bytes else bytes(data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a serializer may raise anything; all of it means the same here
        reason = reason_of(error)
    # Raised only here: the serializer's exception, which may show the value, must not be the context of this one.
    raise refusal(serde, value, what, reason)


def loads(serde: SerializerProtocol, value: Serialized) -> Any:
    """Deserialize a value.

    Raises:
        SerializationError: The serializer refuses it, although it is what was written: its class may be gone or not
            allowed any more, or another serializer or key wrote it.
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
