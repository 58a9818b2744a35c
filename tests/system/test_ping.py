"""`ping()`: one round to both services, and an error that names what is missing or does not answer."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import PermissionDeniedError, StoreNotFoundError
from tests.kit.interceptors import Rounds
from tests.system.build import noise, put

both = pytest.mark.parametrize("ping", [GCSSaver.ping, lambda saver: asyncio.run(saver.aping())], ids=["ping", "aping"])


@both
def test_a_store_that_can_be_reached(make_saver, ping):
    """It is one round of two requests, once the saver knows that the store is its bucket's."""
    count = Rounds()
    saver = make_saver(interceptors=[count])
    assert ping(saver) is None
    # At first also the threads, of a store that names no place yet. Its place rides along, and is not counted.
    assert count.take() in {(1, 2), (2, 3)}
    put(saver, 1, {"large": noise(20_000)})
    count.take()
    assert ping(saver) is None
    assert count.take() == (1, 2)


@both
def test_it_stores_nothing(make_saver, ping):
    ping(make_saver())
    assert make_saver().admin.threads() == []
    assert make_saver().admin.stats().checkpoints == 0


@both
def test_a_missing_bucket(firestore_emulator, storage_emulator, project_id, ping):
    with (
        GCSSaver.from_conn_string(f"gs://no-such-bucket/agents?project={project_id}") as saver,
        pytest.raises(StoreNotFoundError, match="no-such-bucket"),
    ):
        ping(saver)


class Refusing(grpc.GenericRpcHandler):
    """A Firestore that refuses every query."""

    def __init__(self, code, details):
        self.answer = code, details

    def service(self, details):
        def refuse(request, context):
            context.abort(*self.answer)

        return grpc.unary_stream_rpc_method_handler(refuse)


@both
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, (StoreNotFoundError, "'agents'")),
        (grpc.StatusCode.PERMISSION_DENIED, (PermissionDeniedError, "roles/datastore.user")),
    ],
)
def test_a_database_that_is_missing_or_refuses(bucket_name, monkeypatch, ping, code, expected):
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing(code, "a database that does not exist")])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
    try:
        uri = f"gs://{bucket_name}?project=p&database=agents"
        with GCSSaver.from_conn_string(uri) as saver, pytest.raises(expected[0], match=expected[1]):
            ping(saver)
    finally:
        server.stop(None).wait()
