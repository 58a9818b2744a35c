"""`Connection`: how a store is opened, set up and closed. `GCSSaver` and `Admin` are two ways to use one.

This module does not import LangGraph. So a command that lists, moves or deletes threads starts in a fraction of the
time that an agent needs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.address import Address, GoogleAddress, LocalAddress, MemoryAddress, canonical, parse
from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.runner import Admit, Backend, Performer, arun, run
from langgraph_gcs_saver.errors import CheckpointVerificationError, InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.events import EventHandler, Sink, Subscribers
from langgraph_gcs_saver.flows import places, roles
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import WRITES_BYTES, Binding, Context, Loads, Place
from langgraph_gcs_saver.flows.roles import Region
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.format.trained import Dictionaries
from langgraph_gcs_saver.options import BY_NAMESPACE, Options
from langgraph_gcs_saver.saver import restores
from langgraph_gcs_saver.saver.labels import Labels

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from typing_extensions import Self

    from langgraph_gcs_saver.flows.companions import Companion
    from langgraph_gcs_saver.results import SetupReport
    from langgraph_gcs_saver.saver.trailing import Trailing

T = TypeVar("T")
C = TypeVar("C", bound="Connection")

logger = logging.getLogger("langgraph_gcs_saver")

_SHARED = ("serde", "_options", "_subscribers", "_labels", "_contexts", "_backend", "_trailing", "_behind", "_address")
"""The attributes that all ways to use one store share."""

FLUSH_SECONDS = 5.0
"""How long `close` waits for sinks. On Cloud Run, a process has 10 seconds from SIGTERM, and other work to do."""

DRAIN_SECONDS = 2.0
"""How long a drained run waits for sinks: https://cloud.google.com/run/docs/container-contract#instance-shutdown.

The 10 seconds must also be enough for the step under way, for the release of the lease, and for `close`.
"""


class Connection:
    """An open store, with everything that acts on it: the base of `GCSSaver` and `Admin`.

    Attributes:
        serde: The serializer. The default is a `langgraph_gcs_saver.portable.PortableSerializer`, which imports no
            class that a value names.
    """

    serde: SerializerProtocol

    _companions: tuple[Companion, ...] = ()
    """The companions of `put` and `put_writes`. Features of this package set them; they are not an option."""

    def __init__(
        self,
        bucket: Bucket | str | None = None,
        *,
        firestore: firestore_v1.Client | None = None,
        prefix: str = "",
        root: str | None = None,
        project: str | None = None,
        database: str = "(default)",
        credentials: Credentials | None = None,
        serde: SerializerProtocol | None = None,
        stores: tuple[DocumentStore, BlobStore] | None = None,
        **options: Any,
    ) -> None:
        if serde is None:
            from langgraph_gcs_saver.portable import PortableSerializer  # noqa: PLC0415 - savers do not need it

            serde = PortableSerializer()
        self.serde = serde
        self._options = chosen = Options.of(options)
        if chosen.objective is not None:
            restores.check(chosen.objective, chosen)
        self._subscribers = Subscribers()
        self._labels = Labels(chosen.labels)
        self._address: Address | None = None if stores is None else getattr(stores[0], "address", None)
        place: Place | None = None
        if stores is None:
            if bucket is None:
                raise InvalidOptionError("GCSSaver needs a bucket, or use GCSSaver.from_conn_string(…).")
            from langgraph_gcs_saver.stores.google import clients  # noqa: PLC0415 - other stores do not need it

            name = clients.bucket_name(bucket)
            address = GoogleAddress(
                bucket=name, prefix=prefix, project=project, database=database, root=root, mirror=chosen.mirror
            )
            place = Place(name, f"{prefix}/" if prefix else "", chosen.mirror)
            stores = google = clients.open_google(
                address,
                chosen,
                bucket=bucket,
                firestore_client=firestore,
                credentials=credentials,
                on_retry=self._subscribers.emit,
                on_read=self._subscribers.emit,
            )
            self._address = clients.resolved(address, google[0])
        elif chosen.mirror is not None:
            raise InvalidOptionError(
                f"mirror is {chosen.mirror!r}; only a store in a bucket (gs://…) has a mirror. Leave it out: the "
                "embedded store and the store in memory keep objects in one place."
            )
        self._contexts = PerProcess(partial(_new_context, chosen, place, self._companions))
        self._backend = Backend(
            *stores,
            subscribers=self._subscribers,
            max_threads=chosen.max_threads,
            timeout=chosen.timeout,
            admit=_admit_to(self._contexts),
            interceptors=chosen.interceptors,
        )
        self._trailing: Trailing | None = None
        self._behind: Performer = self._backend
        if "pipelined" in chosen.values("verify"):
            from langgraph_gcs_saver.saver.trailing import Trailing  # noqa: PLC0415 - other modes do not need it

            self._trailing = Trailing(self._backend, chosen.max_threads)
            self._behind = self._trailing.behind
        if chosen.on_event is not None:
            self._subscribers.subscribe(chosen.on_event, self)

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: Any) -> Self:
        """Open the store that a connection string names.

        `gs://BUCKET/PREFIX?project=PROJECT&database=DATABASE&root=DOCUMENT_PATH&mirror=BUCKET` is Cloud Storage and
        Firestore; all parts but the bucket are optional. `mirror` is the option of that name. `file:///DIRECTORY` is
        the embedded store, with the same documents and frames. `memory:` is a new and empty store that only this saver
        sees, for unit tests; nothing survives the process. `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` are
        respected.

        Args:
            conn_string: The connection string.
            options: `serde`, `credentials`, and the options in `langgraph_gcs_saver.options.Options`.

        Raises:
            InvalidURIError: The connection string names no store.
            InvalidOptionError: An option is unknown or outside its range, or nothing names a project.
            PermissionDeniedError: There are no credentials.
        """
        address = parse(conn_string)
        if isinstance(address, MemoryAddress):
            from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments  # noqa: PLC0415 - only if needed

            return cls(stores=(MemoryDocuments(), MemoryBlobs()), **options)
        if isinstance(address, LocalAddress):
            from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments  # noqa: PLC0415 - only if needed

            chosen = Options.of({k: v for k, v in options.items() if k not in {"serde", "credentials"}})
            stores = (
                LocalDocuments(address.path, timeout=chosen.timeout),
                LocalBlobs(address.path, timeout=chosen.timeout),
            )
            return cls(stores=stores, **options)
        if address.mirror is not None:
            if options.get("mirror") is not None:
                raise InvalidOptionError(
                    "The connection string and the option `mirror` both name a mirror. Name it once."
                )
            options["mirror"] = address.mirror
        return cls(
            address.bucket,
            prefix=address.prefix,
            root=address.root,
            project=address.project,
            database=address.database,
            **options,
        )

    # Lifetime

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointVerificationError:
            if error is None:  # Otherwise the block's own exception says more, and the log has both.
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except CheckpointVerificationError:
            if error is None:  # as above
                raise

    def close(self) -> None:
        """Release connections and threads. Idempotent; later calls of other methods raise `SaverClosedError`.

        Raises:
            CheckpointVerificationError: With `verify="pipelined"`, the proof of a call that has returned has failed.
        """
        try:
            if self._trailing is not None:
                self._trailing.close()
            self._subscribers.flush(FLUSH_SECONDS)
        finally:  # Ctrl-C may end the wait.
            self._backend.close()
        if self._trailing is not None:
            self._trailing.raise_failed()

    async def aclose(self) -> None:
        """Release connections and threads, those of the running event loop included. Idempotent; raises as `close`."""
        try:
            if self._trailing is not None:
                await asyncio.to_thread(self._trailing.close)
            await self._subscribers.aflush(FLUSH_SECONDS)
        finally:
            await self._backend.aclose()
        if self._trailing is not None:
            self._trailing.raise_failed()

    def subscribe(self, handler: EventHandler | Sink) -> Callable[[], None]:
        """Call a handler with every event of this saver from now on (`langgraph_gcs_saver.events`).

        Any number of handlers can subscribe, at any time and from any thread, in addition to the option `on_event`.
        They are called one after another, on the thread that does the work; in a coroutine, on its event loop. So keep
        them short. If a handler raises, the exception is logged and the call continues. A forked process keeps the
        handlers.

        A sink, such as `langgraph_gcs_saver.analytics.Jsonl`, may hold events back. `close` flushes it, and waits 5
        seconds at most. So does a run that is drained, for 2 seconds.

        Args:
            handler: Called with one event, or a `langgraph_gcs_saver.events.Sink`.

        Returns:
            A function that ends this subscription. You can call it several times. A call that is reporting an event at
            that moment may still pass it to the handler.

        Raises:
            InvalidInputError: The handler is not callable.
        """
        if not callable(handler) and not isinstance(handler, Sink):
            raise InvalidInputError(f"handler is of type {type(handler).__name__}; it must be callable with one event.")
        return self._subscribers.subscribe(handler, self)

    def setup(
        self,
        *,
        location: str | None = None,
        platform: bool = False,
        write_settings: str | os.PathLike[str] | None = None,
    ) -> SetupReport:
        """Create the bucket if it is missing, and check that documents and objects can be written.

        Idempotent and optional. It logs and returns warnings: what these credentials may not do, and which settings by
        other users endanger stored data. An example is a lifecycle rule that deletes objects by age, because later
        steps build on old objects.

        Args:
            location: Where to create the bucket, such as `europe-west1`; by default in the multi-region `US`, as Cloud
                Storage does. The bucket gets uniform bucket-level access, and public access is prevented.
            platform: Also apply settings of the platform, and keep those that other users have made. Lifecycle rules
                move objects to Nearline storage after 30 days, and abort incomplete multipart uploads after 7 days.
                Fields that no query filters by are removed from Firestore's indexes. The report's `missing` names the
                settings that these credentials may not apply. `docs/guides/platform-settings.md` names the roles.
            write_settings: A directory to write the same settings to, as files that an administrator can apply.
                `langgraph_gcs_saver.write_settings` does this without any permissions.

        Raises:
            PermissionDeniedError: Documents or objects cannot be written.
            StoreNotFoundError: The database does not exist.
            WrongStoreError: The documents belong to another bucket or prefix.
            OSError: A file cannot be written.
        """
        return _reported(
            run(flows.setup.setup(location, self._context, platform=platform), self._backend), write_settings
        )

    async def asetup(
        self,
        *,
        location: str | None = None,
        platform: bool = False,
        write_settings: str | os.PathLike[str] | None = None,
    ) -> SetupReport:
        """Asynchronous twin of `setup`."""
        return _reported(
            await arun(flows.setup.setup(location, self._context, platform=platform), self._backend), write_settings
        )

    def ping(self) -> None:
        """Raise if the store cannot be reached: one small read of the database and one of the bucket, at the same time.

        In a store with a mirror, both buckets must answer, because `put` needs both.

        Use it for a readiness check. It returns if both services answer, regardless of what is stored. Do not use it as
        a liveness check, because a restart does not help a process that cannot reach the store.

        Raises:
            StoreNotFoundError: The database or the bucket does not exist.
            WrongStoreError: The documents belong to another bucket or prefix.
            PermissionDeniedError: These credentials may not read them.
            StoreUnavailableError: A service did not answer before the deadline, `timeout`.
        """
        run(flows.setup.ping(self._context), self._backend)

    async def aping(self) -> None:
        """Asynchronous twin of `ping`."""
        await arun(flows.setup.ping(self._context), self._backend)

    # Needed by every call

    @property
    def _uri(self) -> str | None:
        """The connection string of the store in its canonical form; `None` for stores in memory, or of your own."""
        return None if self._address is None else canonical(self._address)

    @property
    def _context(self) -> Context:
        return self._contexts.get()

    @property
    def _as_shipper(self) -> Backend:
        """The open store, for flows that copy what the other region's store has, and for those that change roles.

        Their commits neither require a role nor add entries to the outbox.
        """
        return self._backend.admitting(_admit_shipper_to(self._contexts))

    @property
    def _loads(self) -> Loads:
        # Bound at each call, because LangGraph's `with_allowlist` changes the serializer of a copy of the saver.
        return partial(loads, self.serde)


def beside(open_already: Connection, kind: type[C]) -> C:
    """Another way to use an open store, which is closed with that store."""
    shared = vars(open_already)
    made = kind.__new__(kind)
    vars(made).update({name: shared[name] for name in _SHARED})
    return made


def _new_context(options: Options, place: Place | None, companions: tuple[Companion, ...]) -> Context:
    found = {name: options.by_namespace(name) for name in BY_NAMESPACE}
    new_attempt = partial(secrets.token_hex, 6)
    values = {name: getattr(options, name) if one is None else one.of("") for name, one in found.items()}
    return Context(
        **values,
        codec=Codec(
            options.zstd_level,
            options.cipher,
            options.max_value_bytes,
            accept_clear=options.accept_clear,
            dictionaries=Dictionaries(options.dictionary),
        ),
        incremental=options.incremental and options.zstd_level is not None,
        full_every=options.full_every,
        values=ByteCache(options.cache_max_bytes),
        writes=ByteCache(min(WRITES_BYTES, options.cache_max_bytes)),
        clear_metadata=None if options.cipher is None else frozenset(options.clear_metadata),
        falls_back=options.on_corruption == "fallback",
        timeout=options.timeout,
        new_attempt=new_attempt,
        binding=None if place is None else Binding(place),
        region=Region(new_attempt),
        companions=companions,
        by_namespace={name: one for name, one in found.items() if one is not None},
    )


def _admit_to(contexts: PerProcess[Context]) -> Admit:
    """An `Admit` that lets a flow reach only the saver's own store, and store something only in a primary."""

    def admit(flow: Flow[T], /) -> Flow[T]:
        context = contexts.get()
        # The read for the check of the place also looks for a role, so it passes through the check of that.
        return roles.admit(places.admit(flow, context.binding), context.region)

    return admit


def _admit_shipper_to(contexts: PerProcess[Context]) -> Admit:
    """An `Admit` that lets a flow reach only the saver's own store, whatever the store's role is."""

    def admit(flow: Flow[T], /) -> Flow[T]:
        return places.admit(flow, contexts.get().binding)

    return admit


def _reported(report: SetupReport, directory: str | os.PathLike[str] | None) -> SetupReport:
    """The report, after its warnings were logged, and its settings were written to the directory if there is one."""
    for line in (*report.missing, *report.warnings):
        logger.warning(line)
    if directory is not None:
        from langgraph_gcs_saver import provisioning  # noqa: PLC0415 - few processes need it

        provisioning.write_files(directory, report.settings.items())
    return report
