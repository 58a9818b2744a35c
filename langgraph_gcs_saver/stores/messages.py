"""Firestore's `Value` and `MapValue` as protobuf messages, without Google's client.

Importing the client takes longer than all other imports of a command on the embedded store. These messages and Google's
read what the other writes, and a test compares each field.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "langgraph_gcs_saver"
_Field = descriptor_pb2.FieldDescriptorProto

# https://github.com/googleapis/googleapis/blob/master/google/firestore/v1/document.proto
_VALUE = (
    ("null_value", 11, _Field.TYPE_ENUM, "NullValue"),
    ("boolean_value", 1, _Field.TYPE_BOOL, ""),
    ("integer_value", 2, _Field.TYPE_INT64, ""),
    ("double_value", 3, _Field.TYPE_DOUBLE, ""),
    ("timestamp_value", 10, _Field.TYPE_MESSAGE, "Timestamp"),
    ("string_value", 17, _Field.TYPE_STRING, ""),
    ("bytes_value", 18, _Field.TYPE_BYTES, ""),
    ("reference_value", 5, _Field.TYPE_STRING, ""),
    ("geo_point_value", 8, _Field.TYPE_MESSAGE, "LatLng"),
    ("array_value", 9, _Field.TYPE_MESSAGE, "ArrayValue"),
    ("map_value", 6, _Field.TYPE_MESSAGE, "MapValue"),
)
_TIMESTAMP = (("seconds", 1, _Field.TYPE_INT64, ""), ("nanos", 2, _Field.TYPE_INT32, ""))
_LAT_LNG = (("latitude", 1, _Field.TYPE_DOUBLE, ""), ("longitude", 2, _Field.TYPE_DOUBLE, ""))
_ENTRY = (("key", 1, _Field.TYPE_STRING, ""), ("value", 2, _Field.TYPE_MESSAGE, "Value"))


def _add(message: Any, fields: tuple[tuple[str, int, int, str], ...], **more: Any) -> None:
    for name, number, kind, of in fields:
        type_name = {"type_name": f".{_PACKAGE}.{of}"} if of else {}
        message.field.add(name=name, number=number, type=kind, **{"label": _Field.LABEL_OPTIONAL, **more}, **type_name)


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}/document.proto", package=_PACKAGE, syntax="proto3")
    file.enum_type.add(name="NullValue").value.add(name="NULL_VALUE", number=0)
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value_type")
    _add(value, _VALUE, oneof_index=0)
    _add(file.message_type.add(name="Timestamp"), _TIMESTAMP)
    _add(file.message_type.add(name="LatLng"), _LAT_LNG)
    values = (("values", 1, _Field.TYPE_MESSAGE, "Value"),)
    _add(file.message_type.add(name="ArrayValue"), values, label=_Field.LABEL_REPEATED)
    mapping = file.message_type.add(name="MapValue")
    entry = mapping.nested_type.add(name="FieldsEntry")
    entry.options.map_entry = True
    _add(entry, _ENTRY)
    fields = (("fields", 1, _Field.TYPE_MESSAGE, "MapValue.FieldsEntry"),)
    _add(mapping, fields, label=_Field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


# These messages have their own pool, because the client registers Google's names in the common one.
_OWN = _pool()
PbValue: Any = message_factory.GetMessageClass(_OWN.FindMessageTypeByName(f"{_PACKAGE}.Value"))
PbMapValue: Any = message_factory.GetMessageClass(_OWN.FindMessageTypeByName(f"{_PACKAGE}.MapValue"))
