"""`Logging`: rows as entries of Cloud Logging."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from langgraph_gcs_saver.analytics.base import REQUEST_SECONDS
from langgraph_gcs_saver.analytics.rows import Row, as_text
from langgraph_gcs_saver.analytics.services import ServiceSink
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.errors.extras import require

if TYPE_CHECKING:
    import grpc
    from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client

_MODULES = (
    "google.cloud.logging_v2.types",
    "google.cloud.logging_v2.services.logging_service_v2",
    "google.cloud.logging_v2.services.logging_service_v2.transports",
)

_LOG = re.compile(r"projects/[^/]+/logs/[^/]+\Z")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,500}\Z")

_INSERT_ID = "logging.googleapis.com/insertId"
"""https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields"""


class Logging(ServiceSink[Any]):
    """Write each row as a structured entry of a log.

    An entry has the row as its `jsonPayload`, and the time and the `event_id` of the row as its timestamp and insert
    id. Cloud Logging shows entries with the same insert id once.

    Args:
        log_name: The log: a name such as `langgraph-gcs`, or `projects/PROJECT/logs/NAME`.
        project: The project of a log that is given by its name; by default what `GOOGLE_CLOUD_PROJECT` says.
        stream: Write lines of JSON to this stream, such as `sys.stdout`, and call no service. Cloud Run, GKE and Cloud
            Functions make an entry of each line, in a log of their own. This needs no extra.
        client: A `LoggingServiceV2Client`. By default each process makes one.
        endpoint: `host:port` of an emulator, which is called without TLS and credentials.
        options: See `langgraph_gcs_saver.analytics.base.RowSink`.

    Raises:
        NotInstalledError: The extra `logging` is not installed.
        InvalidOptionError: An option is outside its range.
    """

    role = "roles/logging.logWriter"

    def __init__(
        self,
        log_name: str = "langgraph-gcs",
        *,
        project: str | None = None,
        stream: TextIO | None = None,
        client: LoggingServiceV2Client | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(client, endpoint, **options)
        self._stream = stream
        if stream is not None:
            self.where = "The stream"
            return
        self._types, self._service, self._transports = require("logging", _MODULES)
        self._log = _log(log_name, project or os.environ.get("GOOGLE_CLOUD_PROJECT"))
        self.where = f"The log {self._log}"

    def connect(self, channel: grpc.Channel | None) -> Any:
        """A client without threads: this sink has its own."""
        if channel is None:
            return self._service.LoggingServiceV2Client()
        transport = self._transports.LoggingServiceV2GrpcTransport(channel=channel)
        return self._service.LoggingServiceV2Client(transport=transport)

    def encode(self, row: Row) -> Any:
        """A row as an entry, or as a line."""
        payload = {**row, "time": as_text(row["time"])}
        if self._stream is not None:
            return json.dumps({"severity": "INFO", **payload, _INSERT_ID: row["event_id"]}) + "\n"
        entry = self._types.LogEntry.pb()(insert_id=row["event_id"])
        entry.severity = 200  # INFO
        entry.timestamp.FromMicroseconds(row["time"])
        entry.json_payload.update(payload)
        return entry

    def size(self, encoded: Any) -> int:
        """Bytes of an entry or a line."""
        return len(encoded) if isinstance(encoded, str) else int(encoded.ByteSize())

    def send(self, batch: Sequence[Any]) -> None:
        """Write entries.

        Raises:
            GCSSaverError: The service did not accept them.
        """
        if self._stream is None:
            self.call(partial(self._write_entries, batch))
        else:
            self._stream.write("".join(batch))
            self._stream.flush()

    def _write_entries(self, batch: Sequence[Any], client: LoggingServiceV2Client) -> None:
        kind = self._types.WriteLogEntriesRequest
        request = kind.pb()(log_name=self._log, entries=batch)
        request.resource.type = "global"
        client.write_log_entries(kind.wrap(request), retry=None, timeout=REQUEST_SECONDS)


def _log(name: str, project: str | None) -> str:
    if _LOG.match(name):
        return name
    if not _ID.match(name) or project is None:
        raise InvalidOptionError(
            f"log_name is {name!r}; it must be projects/PROJECT/logs/NAME, or a name, and then `project=` or "
            "GOOGLE_CLOUD_PROJECT must be set."
        )
    return f"projects/{project}/logs/{name}"
