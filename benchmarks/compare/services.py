"""The services that savers are compared on, on loopback: both emulators, and PostgreSQL."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from typing_extensions import Self

from benchmarks.compare.counting import Counter, CountingFirestore, CountingStorage, Traffic, counting_postgres
from benchmarks.compare.delay import DELAYS, delayed
from benchmarks.compare.postgres import Postgres, conninfo
from tests.emulators.firestore import FirestoreEmulator
from tests.emulators.storage import StorageEmulator

__all__ = ["BUCKET", "SERVICES", "Counter", "Endpoints", "Services", "Traffic"]

SERVICES = frozenset({"firestore", "storage", "postgres"})

BUCKET = "bench"
"""The one bucket; those who use it keep apart by prefixes."""


@dataclass(frozen=True)
class Endpoints:
    """Where the services are; plain texts, so that they can be passed to another process.

    Attributes:
        firestore: `host:port`; all of these are empty for a service that is not needed.
        storage: A URL.
        postgres: A connection string.
        setup: The same server's, past any proxy: for what an application does once, such as making its tables.
        directory: Where those keep files that need no service.
    """

    firestore: str
    storage: str
    postgres: str
    setup: str
    directory: str


class Services:
    """Starts the services in temporary directories, and ends them. A context manager.

    Args:
        needed: Which ones; all of `SERVICES` if not given.

    Attributes:
        direct: The services themselves: for timings.
        delayed: The same behind `delay.DELAYS`: for timings too.
        counted: The same behind proxies that count, for `counter`; slow.
        counter: What passed them.
    """

    direct: Endpoints
    delayed: Endpoints
    counted: Endpoints
    counter: Counter

    def __init__(self, needed: Collection[str] = SERVICES) -> None:
        self._needed = needed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        hosts: dict[str, str] = {}
        if "firestore" in self._needed:
            hosts["firestore"] = self._stack.enter_context(_RoomyFirestore(directory / "firestore.log")).host
        if "storage" in self._needed:
            storage = self._stack.enter_context(StorageEmulator(directory / "storage.log"))
            hosts["storage"] = urlsplit(storage.url).netloc
            _make_bucket(hosts["storage"])
        if "postgres" in self._needed:
            hosts["postgres"] = self._stack.enter_context(Postgres()).host
        late = self._stack.enter_context(delayed({host: DELAYS[name] for name, host in hosts.items()}))
        self.counter = Counter()
        self.direct = _endpoints(hosts, hosts, directory)
        self.delayed = _endpoints(dict(zip(hosts, late, strict=True)), hosts, directory)
        self.counted = _endpoints(dict(self._counting(hosts)), hosts, directory)

    def _counting(self, hosts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, host in hosts.items():
            match name:
                case "firestore":
                    yield name, self._stack.enter_context(CountingFirestore(host, self.counter)).host
                case "storage":
                    proxy = self._stack.enter_context(CountingStorage(f"http://{host}", self.counter))
                    yield name, urlsplit(proxy.url).netloc
                case "postgres":
                    yield name, self._stack.enter_context(counting_postgres(host, self.counter))


def _endpoints(hosts: Mapping[str, str], direct: Mapping[str, str], directory: Path) -> Endpoints:
    return Endpoints(
        hosts.get("firestore", ""),
        f"http://{hosts['storage']}" if "storage" in hosts else "",
        conninfo(hosts["postgres"]) if "postgres" in hosts else "",
        conninfo(direct["postgres"]) if "postgres" in direct else "",
        str(directory),
    )


class _RoomyFirestore(FirestoreEmulator):
    """The emulator with a larger heap: savers that store every state in full fill the usual one."""

    def command(self, port: int) -> list[str]:
        return ["-Xmx6g" if word.startswith("-Xmx") else word for word in super().command(port)]


def _make_bucket(host: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        body = json.dumps({"name": BUCKET})
        connection.request("POST", "/storage/v1/b?project=bench", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"no bucket on {host}: {answer.status} {answer.read()!r}")
    finally:
        connection.close()
