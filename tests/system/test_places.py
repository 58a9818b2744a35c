"""Which store a connection string names: two that differ in the prefix never meet, however alike their threads."""

import uuid

import pytest

from langgraph_gcs_saver import GCSSaver
from tests.system.build import cfg, checkpoint, version

METADATA = {"source": "loop", "step": 0, "parents": {}}
LARGE = "x" * 20_000


@pytest.fixture
def open_at(firestore_emulator, bucket_name, project_id, request):
    """Opens savers at what follows the bucket in a connection string."""

    def opened(path, **options):
        separator = "&" if "?" in path else "?"
        saver = GCSSaver.from_conn_string(f"gs://{bucket_name}{path}{separator}project={project_id}", **options)
        request.addfinalizer(saver.close)
        return saver

    return opened


def put(saver, number, value):
    parent = number - 1 or None
    saver.put(cfg(parent), checkpoint(number, {"v": value}), METADATA, {"v": version(number)})


def value(saver):
    found = saver.get_tuple(cfg())
    return None if found is None else found.checkpoint["channel_values"]["v"]


@pytest.mark.parametrize("kind", ["small", "large"])
def test_two_prefixes_are_two_stores(open_at, kind):
    """In one bucket and one database, and with the same ids of threads."""
    places = ["/app-a", "/app-b", "", "/app", "/app-a/b", "/__a__"]
    values = {place: f"{uuid.uuid4()}{LARGE if kind == 'large' else ''}" for place in places}
    for place in places:
        saver = open_at(place)
        assert saver.get_tuple(cfg()) is None, place
        put(saver, 1, values[place])
    for place in places:
        saver = open_at(place)
        assert value(saver) == values[place]
        assert [info.thread_id for info in saver.threads()] == ["t"]
        assert not any(finding.is_damage for finding in saver.verify(depth="data"))
    open_at("/app-b").delete_thread("t")
    open_at("").delete_thread("t")
    for place in places:
        assert value(open_at(place)) == (None if place in {"/app-b", ""} else values[place])


def test_a_root_that_is_given_is_taken(open_at):
    put(open_at("/app-a?root=apps/one"), 1, "one")
    put(open_at("/app-a?root="), 1, "top")
    put(open_at("/app-a"), 1, "own")
    found = [value(open_at(place)) for place in ("/app-a?root=apps/one", "/app-a?root=", "/app-a")]
    assert found == ["one", "top", "own"]
    assert value(open_at("/app-a?root=lg_apps/app-a")) == "own"
