"""What an attacker does who can write to the store and has no key: copy ciphertexts, and compute digests again."""

import hashlib

from langgraph_gcs_saver.format import keys, manifest
from tests.system.build import cid


def name_of(n, *, thread="t", ns=""):
    """The document of checkpoint `n`."""
    return keys.checkpoint_doc(thread, ns, cid(n))


def put_checkpoint(raw, name, fields, **changed):
    """Put a checkpoint's document under a name, with the digest and the namespace that belong there."""
    fields = {**fields, "ns": keys.ns_segment_of(name), **changed}
    raw.set_document(name, {**fields, "digest": manifest.digest(name, fields["manifest"])})


def sealed(name, field, frame):
    """A field of pending writes, with the digest that belongs there."""
    return hashlib.sha256(b"%s\0%s\0%s" % (name.encode(), field.encode(), frame)).digest() + frame


def frame_in(field):
    """The frame in a field of pending writes."""
    return field[32:]


def put_writes(raw, name, frames):
    """Put a document of pending writes under a name: a frame for each field."""
    fields = {field: sealed(name, field, frame) for field, frame in frames.items()}
    raw.set_document(name, {"format": 1, **fields})


def frames_of(raw, name):
    """The frames of a document of pending writes, by field."""
    return {field: frame_in(data) for field, data in raw.documents()[name].items() if field != "format"}
