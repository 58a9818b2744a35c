"""The messages of the embedded store are those of Firestore on the wire."""

from google.cloud.firestore_v1.types import document

from langgraph_gcs_saver.stores.messages import PbMapValue, PbValue
from langgraph_gcs_saver.stores.values import from_fields, set_fields, to_map

FIELDS = {
    "none": None,
    "true": True,
    "least": -(2**63),
    "greatest": 2**63 - 1,
    "real": -0.1,
    "text": "\N{SNOWMAN}",
    "bytes": b"\0\xff",
    "empty": {},
    "inner": {"a": {"b": {"c": "", "d": b"", "e": 0, "f": False, "g": 0.0}}},
}


def fields(descriptor):
    """By name, what makes a message's fields what they are on the wire, and the messages that they hold."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED,
            field.containing_oneof.name if field.containing_oneof else None,
            [value.number for value in field.enum_type.values] if field.enum_type else None,
            field.message_type.name if field.message_type else None,
        )
        for field in descriptor.fields
    }


def test_each_field_is_googles():
    found, pending = set(), [(PbMapValue.DESCRIPTOR, document.MapValue.meta.pb.DESCRIPTOR)]
    while pending:
        ours, googles = pending.pop()
        if ours.name not in found:
            found.add(ours.name)
            theirs = fields(googles)
            assert fields(ours) == {name: theirs[name] for name in fields(ours)}
            held = [name for name, field in ours.fields_by_name.items() if field.message_type]
            pending += [(ours.fields_by_name[n].message_type, googles.fields_by_name[n].message_type) for n in held]
    assert found == {"MapValue", "FieldsEntry", "Value", "ArrayValue", "Timestamp", "LatLng"}


def test_what_one_writes_the_other_reads():
    google = document.MapValue.meta.pb()
    set_fields(google.fields, FIELDS)
    own = to_map(FIELDS)
    assert own.SerializeToString(deterministic=True) == google.SerializeToString(deterministic=True)
    assert from_fields(PbMapValue.FromString(google.SerializeToString()).fields) == FIELDS
    assert from_fields(type(google).FromString(own.SerializeToString()).fields) == FIELDS


def test_what_ours_does_not_know_is_handed_on():
    """Google's messages get new kinds of values; one that another program stored is kept as it is."""
    known = {field.number for field in PbValue.DESCRIPTOR.fields}
    data = bytes([(30 << 3 | 0) & 0x7F | 0x80, (30 << 3) >> 7, 5])  # field 30, a number
    assert 30 not in known
    value = PbValue.FromString(data)
    assert value.WhichOneof("value_type") is None
    assert value.SerializeToString() == data
