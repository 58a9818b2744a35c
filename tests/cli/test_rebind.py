"""`rebind`: a store's objects were moved to another bucket, and a person says so."""

import json
import random
import uuid

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from langgraph_gcs_saver import GCSSaver
from tests.cli.stored import put


@pytest.fixture
def store_uri(firestore_emulator, bucket_name, project_id):
    return f"gs://{bucket_name}/agents?project={project_id}"


@pytest.fixture
def moved(store_uri, bucket_name, project_id):
    """The connection string of a store whose objects are in another bucket too, but for one of two; and that one."""
    with GCSSaver.from_conn_string(store_uri) as saver:
        first = put(saver, {"v": random.Random(1).randbytes(140_000)})
        put(saver, {"v": random.Random(2).randbytes(140_000)}, number=2, parent=first)
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    right, other = client.bucket(bucket_name), client.create_bucket(f"test-{uuid.uuid4().hex}")
    blobs = list(right.list_blobs())
    assert len(blobs) == 2
    right.copy_blob(blobs[0], other)
    return f"gs://{other.name}/agents?project={project_id}", lambda: right.copy_blob(blobs[1], other)


def test_a_bucket_that_was_moved(command, store_uri, moved):
    uri, copy_the_rest = moved
    refused = command("threads", "--store", uri)
    assert (refused.code, refused.out) == (7, "")
    assert "langgraph-gcs rebind" in refused.err
    # Something is missing there: nothing is asked, and nothing is done.
    refused = command("rebind", "--store", uri, answer="y")
    assert refused.code == 2
    assert "2 objects, of which 1 are missing" in refused.out
    assert "1 object missing" in refused.err
    assert "--force" in refused.err
    assert command("threads").code == 0
    copy_the_rest()
    shown = command("rebind", "--store", uri, "--dry-run")
    assert (shown.code, shown.out.splitlines()[-1]) == (0, "A dry run: nothing was done.")
    assert "of which 0 are missing" in shown.out
    assert command("rebind", "--store", uri, answer="n").code == 1
    assert command("rebind", "--store", uri).code == 2, "there is no terminal to ask at"
    assert command("threads").code == 0
    done = command("rebind", "--store", uri, answer="y")
    place = uri.partition("?")[0]
    assert (done.code, done.out.splitlines()[-1]) == (0, f"The store is bound to {place}.")
    assert command("verify", "--store", uri, "--depth", "data").code == 0
    assert command("threads").code == 7
    assert command("rebind", "--store", uri, "--yes").out == "There is nothing to do.\n"


def test_by_force(command, moved):
    uri, _ = moved
    done = command("rebind", "--store", uri, "--force", "--yes", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["done"] is True
    (plan,) = told["plans"]
    assert (plan["threads"], plan["objects"], plan["missing"], len(plan["examples"])) == (1, 2, 1, 1)
    assert plan["place"] == uri.partition("?")[0]
    assert command("verify", "--store", uri, "--depth", "existence").code == 4


def test_the_embedded_store_has_no_bucket(command, tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        put(saver, {"v": 1})
    refused = command("rebind", "--store", f"file://{tmp_path}/store")
    assert refused.code == 2
    assert "embedded" in refused.err
