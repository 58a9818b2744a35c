"""Damage for `04-crash-and-recovery.ipynb`: changes one byte of a stored object, behind the saver's back."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit


def flip_a_byte(store, part_of_name):
    """Flip all bits of the first byte of the one object whose name contains these words."""
    address = urlsplit(store)
    if address.scheme == "file":
        objects = Path(unquote(address.path), "objects")
        (path,) = (path for path in objects.rglob("*.zst") if part_of_name in path.as_posix())
        path.write_bytes(_flipped(path.read_bytes()))
        return
    if "STORAGE_EMULATOR_HOST" not in os.environ:
        raise RuntimeError("This damages stored data. It runs on the embedded store and on the emulators only.")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    bucket = storage.Client(project="emulator", credentials=AnonymousCredentials()).bucket(address.netloc)
    (blob,) = (blob for blob in bucket.list_blobs() if part_of_name in blob.name)
    blob.upload_from_string(_flipped(blob.download_as_bytes()))


def _flipped(data):
    return bytes([data[0] ^ 0xFF]) + data[1:]
