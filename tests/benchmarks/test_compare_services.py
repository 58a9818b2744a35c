"""The proxies that the comparison of savers relies on: they delay what they should, and count what passes."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage

from benchmarks.compare import postgres, sizes
from benchmarks.compare.counting import (
    Conversation,
    Counter,
    CountingFirestore,
    CountingStorage,
    Messages,
    counting_postgres,
    of_http,
    of_rpc,
    rounds,
)
from benchmarks.compare.delay import delayed
from benchmarks.compare.relay import Relay
from benchmarks.compare.services import Services
from tests.patience import PATIENCE

DELAY = 0.1


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """`host:port` of a server that answers each connection on a thread."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=300))
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with connection:
                answer(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def connect(host: str) -> socket.socket:
    name, _, port = host.rpartition(":")
    return socket.create_connection((name, int(port)), timeout=PATIENCE)


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(1 << 16)
        assert piece, f"the connection ended after {len(data)} of {size} bytes"
        data += piece
    return data


# Delays


@pytest.fixture(scope="module")
def late() -> Iterator[str]:
    with server(echo) as host, delayed({host: DELAY}) as (relay,):
        yield relay


def test_each_request_is_late_once(late: str) -> None:
    with connect(late) as connection:
        for _ in range(3):
            began = time.monotonic()  # clock: a busy machine is later, and never earlier
            connection.sendall(b"hello")
            assert read(connection, 5) == b"hello"
            assert time.monotonic() - began >= DELAY  # clock: as above


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while there is anything to do, and then jumps to what is due next."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._select = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def _jump(self, seconds: float | None) -> list[Any]:
        ready: list[Any] = self._select(None if seconds is None else 0)
        if not ready and seconds is not None:
            self._now += seconds
        return ready


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def virtual_seconds(count: int, talk: Callable[[list[Streams]], Coroutine[Any, Any, None]]) -> float:
    """How long `talk` takes with so many connections to a server that answers at once, through a relay."""

    async def echo_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def main() -> float:
        server = await asyncio.start_server(echo_all, "127.0.0.1", 0, backlog=300)
        relay = Relay(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", forth=DELAY)
        port = await relay.start()
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        began = loop.time()
        await talk(connections)
        took = loop.time() - began
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # the server's ends
        await relay.close()
        server.close()
        await server.wait_closed()
        return took

    loop = VirtualTime()
    with closing(loop):
        return loop.run_until_complete(main())


def test_what_is_sent_meanwhile_waits_no_longer() -> None:
    words = [f"{n:03}".encode() for n in range(100)]

    async def talk(connections: list[Streams]) -> None:
        ((reader, writer),) = connections
        for word in words:
            writer.write(word)
            await asyncio.sleep(0.001)  # clock: of the relay's time
        assert await reader.readexactly(300) == b"".join(words)

    assert DELAY <= virtual_seconds(1, talk) < len(words) * DELAY / 2  # far from one after the other


def test_much_passes_whole_and_in_order(late: str) -> None:
    data = b"".join(n.to_bytes(4, "big") for n in range(2_000_000))
    with connect(late) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, data)
        assert read(connection, len(data)) == data
        sending.result()


def test_hundreds_of_connections_wait_side_by_side() -> None:
    async def talk(connections: list[Streams]) -> None:
        for _, writer in connections:
            writer.write(b"x")
        for reader, _ in connections:
            assert await reader.readexactly(1) == b"x"

    assert DELAY <= virtual_seconds(300, talk) < 300 * DELAY / 2


def test_half_of_a_connection_can_end(late: str) -> None:
    with connect(late) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, 10) == b"last words"
        assert connection.recv(1) == b""


def test_a_service_that_is_gone_looks_gone() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    with delayed({f"127.0.0.1:{port}": 0.0}) as (relay,), connect(relay) as connection:
        assert connection.recv(1) == b""


# Rounds


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], 0),
        ([(0, 1)], 1),
        ([(0, 1), (1, 2), (2, 3)], 3),
        ([(0, 2), (1, 3), (2, 4)], 2),
        ([(0, 10), (1, 2), (3, 4), (5, 6)], 3),
        ([(3, 4), (0, 1), (0, 1), (0, 1)], 2),
    ],
)
def test_rounds(intervals: list[tuple[float, float]], expected: int) -> None:
    assert rounds(intervals) == expected


def test_taking_waits_for_what_is_under_way() -> None:
    counter = Counter()
    request = counter.begin()
    request.operations = {"queries": 1}
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(counter.take)
        time.sleep(0.05)  # clock: nothing may happen, however long or short this is
        assert not taking.done()
        counter.end(request)
        assert taking.result(PATIENCE).operations == {"queries": 1}
    assert counter.take().requests == 0


# PostgreSQL


def startup() -> bytes:
    body = struct.pack("!i", 196608) + b"user\0bench\0\0"
    return struct.pack("!i", len(body) + 4) + body


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_told_apart_however_they_come(size: int) -> None:
    kinds = [b"P", b"B", b"E", b"S", b"Q", b"X"]
    stream = startup() + b"".join(message(kind, b"S" * 5 * n) for n, kind in enumerate(kinds))
    messages = Messages(is_client=True)
    found = [kind for at in range(0, len(stream), size) for kind in messages.feed(stream[at : at + size])]
    assert found == kinds


def test_encryption_is_refused() -> None:
    with pytest.raises(ValueError, match="sslmode=disable"):
        Conversation(Counter()).sent(struct.pack("!ii", 8, 80877103))


def postgres_like(connection: socket.socket) -> None:
    messages = Messages(is_client=True)
    connection.sendall(message(b"R", struct.pack("!i", 0)) + message(b"Z", b"I"))
    while data := connection.recv(1 << 16):
        for kind in messages.feed(data):
            if kind in {b"S", b"Q"}:
                connection.sendall(message(b"C", b"SELECT 1\0") + message(b"Z", b"I"))


ANSWER = 5 + 9 + 6


def test_round_trips_of_postgres_are_counted() -> None:
    counter = Counter()
    with server(postgres_like) as host, counting_postgres(host, counter) as proxy, connect(proxy) as connection:
        connection.sendall(startup())
        read(connection, 9 + 6)
        assert counter.take().requests == 0
        for query in (message(b"Q", b"SELECT 1\0"), message(b"P") + message(b"B") + message(b"E") + message(b"S")):
            connection.sendall(query)
            read(connection, ANSWER)
        pipeline = (message(b"B") + message(b"E")) * 5 + message(b"S")
        connection.sendall(pipeline)
        read(connection, ANSWER)
        traffic = counter.take()
        assert traffic.requests == traffic.rounds == 3
        assert traffic.operations == {"queries": 3}
        assert traffic.bytes_received == 3 * ANSWER + 9 + 6
        # Two that do not wait for each other are one round.
        connection.sendall(message(b"Q", b"SELECT 1\0") * 2)
        read(connection, 2 * ANSWER)
        traffic = counter.take()
        assert (traffic.requests, traffic.rounds) == (2, 1)


def test_a_lost_connection_is_not_waited_for() -> None:
    counter = Counter()
    with server(lambda connection: connection.recv(100) and None) as host, counting_postgres(host, counter) as proxy:
        with connect(proxy) as connection:
            connection.sendall(startup() + message(b"Q", b"SELECT 1\0"))
            assert connection.recv(1) == b""
        assert counter.take().requests == 1


def test_a_missing_server_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "_DEBIAN", f"{tmp_path}/*/bin")
    with pytest.raises(postgres.PostgresNotFoundError, match="apt-get install postgresql"):
        postgres.find_program("initdb")
    (tmp_path / "9" / "bin").mkdir(parents=True)
    (tmp_path / "15" / "bin").mkdir(parents=True)
    (tmp_path / "9/bin/initdb").touch()
    (tmp_path / "15/bin/initdb").touch()
    assert postgres.find_program("initdb") == f"{tmp_path}/15/bin/initdb"


# Firestore


@pytest.fixture
def documents(
    firestore_emulator: str, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[firestore.Client, Counter]]:
    counter = Counter()
    with CountingFirestore(firestore_emulator, counter) as proxy:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", proxy.host)
        client = firestore.Client(project=project_id, credentials=AnonymousCredentials())
        yield client, counter
        client.close()


def test_documents_are_counted(documents: tuple[firestore.Client, Counter]) -> None:
    client, counter = documents
    collection = client.collection("c")
    batch = client.batch()
    for n in range(3):
        batch.set(collection.document(str(n)), {"n": n})
    batch.delete(collection.document("9"))
    batch.commit()
    traffic = counter.take()
    assert traffic.operations == {"document writes": 3, "document deletes": 1}
    assert (traffic.requests, traffic.rounds) == (1, 1)
    assert min(traffic.bytes_sent, traffic.bytes_received) > 10

    list(client.get_all([collection.document(name) for name in ("0", "1", "missing")]))
    assert counter.take().operations == {"document reads": 3}
    assert len(collection.where(filter=firestore.FieldFilter("n", ">", 0)).get()) == 2
    assert counter.take().operations == {"document reads": 2}
    assert not collection.where(filter=firestore.FieldFilter("n", ">", 7)).get()
    assert counter.take().operations == {"document reads": 1}
    assert len(list(collection.list_documents())) == 3
    assert counter.take().operations == {"document reads": 3}
    with pytest.raises(Exception, match="already exists"):
        collection.document("0").create({})
    traffic = counter.take()
    assert (traffic.requests, dict(traffic.operations)) == (1, {})


async def test_requests_side_by_side_are_one_round(documents: tuple[firestore.Client, Counter]) -> None:
    client, counter = documents
    asynchronous = firestore.AsyncClient(project=client.project, credentials=AnonymousCredentials())
    some = [asynchronous.collection("c").document(str(n)) for n in range(4)]
    await some[0].get()
    await asyncio.to_thread(counter.take)
    for document in some:
        await document.get()
    traffic = await asyncio.to_thread(counter.take)
    assert traffic.requests == traffic.rounds == 4
    await asyncio.gather(*(document.get() for document in some))
    traffic = await asyncio.to_thread(counter.take)
    assert traffic.requests == traffic.operations["document reads"] == 4
    assert traffic.rounds < 4
    asynchronous.close()


def test_an_unknown_rpc_is_not_taken_for_free() -> None:
    with pytest.raises(ValueError, match="PartitionQuery"):
        of_rpc("PartitionQuery", b"", [])


def test_documents_are_as_large_as_the_documentation_says(
    firestore_emulator: str, project_id: str, documents: tuple[firestore.Client, Counter]
) -> None:
    client, counter = documents
    task = {"type": "Personal", "done": False, "priority": 1, "description": "Learn Cloud Firestore"}
    client.document("users/jeff/tasks/my_task_id").set(task)
    counter.take()
    assert sizes.documents(firestore_emulator, project_id) == 147
    client.document("users/jeff").set({"a": [None, {"b": b"12"}], "c": 1.5, "d": client.document("users/jeff")})
    more = (6 + 5 + 16) + (2 + 1 + 2 + 2) + (2 + 8) + (2 + 27) + 32
    assert sizes.documents(firestore_emulator, project_id) == 147 + more
    sizes.delete_documents(firestore_emulator, project_id)
    assert sizes.documents(firestore_emulator, project_id) == 0


# Cloud Storage


def test_bytes_of_objects(storage_emulator: str, bucket_name: str) -> None:
    client = storage.Client(
        project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": storage_emulator}
    )
    for name, size in (("a/1", 10), ("a/b c", 20), ("b", 40)):
        client.bucket(bucket_name).blob(name).upload_from_string(b"x" * size)
    assert sizes.objects(storage_emulator, bucket_name, "a/") == 30
    sizes.delete_objects(storage_emulator, bucket_name, "a/")
    assert sizes.objects(storage_emulator, bucket_name, "") == 40
    client.close()


def test_bytes_of_files_hold_what_is_in_logs(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (?)", (b"x" * 100_000,))
        connection.commit()
        assert sizes.files(tmp_path) == sum(path.stat().st_size for path in tmp_path.rglob("*.sqlite*"))
        assert not (tmp_path / "x.sqlite-wal").stat().st_size
        assert sizes.files(tmp_path) > 100_000


def test_objects_are_counted(storage_emulator: str, bucket_name: str) -> None:
    counter = Counter()
    with CountingStorage(storage_emulator, counter) as proxy:
        client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": proxy.url}
        )
        bucket = client.get_bucket(bucket_name)  # which the client does by itself otherwise, some time later
        assert counter.take().operations == {"object class B": 1}
        bucket.blob("a").upload_from_string(b"a" * 1000)
        traffic = counter.take()
        assert traffic.operations == {"object class A": 1}
        assert traffic.requests == 1
        assert traffic.bytes_sent > 1000
        bucket.blob("b").upload_from_string(b"b" * (9 << 20))  # so large that it is resumable
        traffic = counter.take()
        assert traffic.operations == {"object class A": 1}
        assert traffic.requests == traffic.rounds == 2
        assert bucket.blob("a").download_as_bytes() == b"a" * 1000
        traffic = counter.take()
        assert traffic.operations == {"object class B": 1}
        assert traffic.bytes_received == 1000
        blobs = list(bucket.list_blobs())
        assert counter.take().operations == {"object class A": 1}
        bucket.get_blob("a")
        assert counter.take().operations == {"object class B": 1}
        with client.batch():
            for blob in blobs:
                blob.delete()
        traffic = counter.take()
        assert traffic.operations == {"object deletes": 2}
        assert traffic.requests == 1
        client.close()


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "/upload/storage/v1/b/x/o?uploadType=resumable&name=o", "object class A"),
        ("POST", "/upload/storage/v1/b/x/o?uploadType=multipart", "object class A"),
        ("POST", "/storage/v1/b/x/o/a%2Fb/rewriteTo/b/x/o/c", "object class A"),
        ("POST", "/storage/v1/b/x/o/a/compose", "object class A"),
        ("PATCH", "/storage/v1/b/x/o/a", "object class A"),
        ("GET", "/storage/v1/b/x/o?prefix=a", "object class A"),
        ("GET", "/storage/v1/b?project=x", "object class A"),
        ("GET", "/storage/v1/b/x", "object class B"),
        ("GET", "/storage/v1/b/x/o/a%2Fb?alt=media", "object class B"),
        ("GET", "/download/storage/v1/b/x/o/a?alt=media", "object class B"),
        ("DELETE", "/storage/v1/b/x/o/a", "object deletes"),
    ],
)
def test_classes_of_requests(method: str, target: str, expected: str) -> None:
    assert of_http(method, target, b"") == {expected: 1}


def test_the_bytes_of_an_upload_are_part_of_it() -> None:
    assert of_http("PUT", "/upload/storage/v1/b/x/o?uploadType=resumable&upload_id=1", b"") == {}


# All together


def test_services_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    with Services({"storage"}) as services:
        addresses = {services.direct.storage, services.delayed.storage, services.counted.storage}
        assert len(addresses) == 3
        assert services.direct.firestore == services.direct.postgres == ""
        assert services.direct.setup == ""
        assert Path(services.direct.directory).is_dir()
        ended.append(services.direct)
    assert not Path(ended[0].directory).exists()
    monkeypatch.setattr("benchmarks.compare.services.delayed", None)
    with pytest.raises(TypeError), Services({"storage"}):
        pass
