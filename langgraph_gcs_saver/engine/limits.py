"""Limits of Google's services, which the embedded store also observes.

Limits that this library chooses within them are defined where they are used.
"""

# Firestore

DOCUMENT_BYTES = 1 << 20
"""Most bytes of a document, its name included (https://firebase.google.com/docs/firestore/quotas)."""

COMMIT_BYTES = 10 << 20
"""Most bytes of a request (https://firebase.google.com/docs/firestore/quotas)."""

EMULATOR_REQUEST_BYTES = 4 << 20
"""Most bytes of a request to the emulator: what gRPC receives by default (https://github.com/grpc/grpc-java)."""

COMMIT_WRITES = 160
"""Documents that one commit of this library changes in one collection, apart from a few more.

Each may come with a write of another document, such as a parent's heir, and with an entry of the outbox. Firestore
allowed 500 writes until 2023 (https://cloud.google.com/firestore/docs/release-notes); emulators may still do.
"""

NAME_BYTES = 6 << 10
"""Most bytes of a document's path (https://firebase.google.com/docs/firestore/quotas)."""

SEGMENT_BYTES = 1500
"""Most bytes of the id of a collection or document (https://firebase.google.com/docs/firestore/quotas)."""

# Cloud Storage

OBJECT_NAME_BYTES = 1024
"""Most bytes of an object's name (https://cloud.google.com/storage/docs/objects#naming)."""

BATCH_CALLS = 100
"""Most calls in one batch (https://cloud.google.com/storage/docs/batch)."""

LIST_OBJECTS = 1000
"""Most objects in one page of a list (https://cloud.google.com/storage/docs/json_api/v1/objects/list)."""
