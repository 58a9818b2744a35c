"""`BigQuery`: rows in a table, by the Storage Write API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.api_core import exceptions as api
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from langgraph_gcs_saver.analytics.base import REQUEST_SECONDS
from langgraph_gcs_saver.analytics.rows import Row, Type, columns
from langgraph_gcs_saver.analytics.services import ServiceSink
from langgraph_gcs_saver.errors import GCSSaverError, InvalidOptionError, TableMismatchError
from langgraph_gcs_saver.errors.extras import require

if TYPE_CHECKING:
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient

_MODULES = ("google.cloud.bigquery_storage_v1", "google.cloud.bigquery_storage_v1.services.big_query_write.transports")

_NAME = re.compile(r"([a-z0-9:.-]+)\.(\w+)\.([\w-]+)\Z")
"""A project, which can have a domain, a dataset and a table."""

_TYPES: dict[Type, descriptor_pb2.FieldDescriptorProto.Type.ValueType] = {
    "INT64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "FLOAT64": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "STRING": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "BOOL": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "TIMESTAMP": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,  # microseconds
}
"""https://cloud.google.com/bigquery/docs/supported-data-types#supported_protocol_buffer_data_types"""

_STATUSES = {status.value[0]: status for status in grpc.StatusCode}


class BigQuery(ServiceSink[bytes]):
    """Append rows to a table of BigQuery, by the default stream of the Storage Write API.

    A row is there at least once, and seconds after it was written. A batch whose answer was lost is sent again, so its
    rows can be there twice, with the same `event_id`. Create the table with the columns in
    `docs/reference/analytics.md`, and with a column for each label.

    Args:
        table: The table, as `PROJECT.DATASET.TABLE`.
        client: A `BigQueryWriteClient`. By default each process makes one.
        endpoint: `host:port` of an emulator, which is called without TLS and credentials.
        options: See `langgraph_gcs_saver.analytics.base.RowSink`.

    Raises:
        NotInstalledError: The extra `bigquery` is not installed.
        InvalidOptionError: An option is outside its range.
    """

    role = "roles/bigquery.dataEditor on the table"

    def __init__(
        self, table: str, *, client: BigQueryWriteClient | None = None, endpoint: str | None = None, **options: Any
    ) -> None:
        self._types, self._transports = require("bigquery", _MODULES)
        super().__init__(client, endpoint, **options)
        found = _NAME.match(table)
        if found is None:
            raise InvalidOptionError(f"table is {table!r}; it must be PROJECT.DATASET.TABLE.")
        self.where = f"The table {table}"
        self._stream = "projects/{}/datasets/{}/tables/{}/streams/_default".format(*found.groups())
        self._shape: tuple[tuple[str, ...], Any] | None = None

    def connect(self, channel: grpc.Channel | None) -> Any:
        """A client of the Storage Write API."""
        if channel is None:
            return self._types.BigQueryWriteClient()
        return self._types.BigQueryWriteClient(transport=self._transports.BigQueryWriteGrpcTransport(channel=channel))

    def encode(self, row: Row) -> bytes:
        """A row as a serialized message."""
        data: bytes = self._message()(**row).SerializeToString()
        return data

    def send(self, batch: Sequence[bytes]) -> None:
        """Append rows.

        Raises:
            TableMismatchError: The table lacks columns, or has others.
            GCSSaverError: The rows were not accepted.
        """
        self.call(partial(self._append, batch))

    def explain(self, error: Exception) -> GCSSaverError:
        """An error that says what to do."""
        if isinstance(error, api.InvalidArgument):
            return TableMismatchError(
                f"{self.where} does not have the columns of these rows: {error}. Add those that it lacks; "
                "`docs/reference/analytics.md` lists them."
            )
        return super().explain(error)

    def _append(self, batch: Sequence[bytes], client: BigQueryWriteClient) -> None:
        types = self._types.types
        schema = descriptor_pb2.DescriptorProto()
        self._message().DESCRIPTOR.CopyToProto(schema)
        data = types.AppendRowsRequest.ProtoData(
            writer_schema=types.ProtoSchema(proto_descriptor=schema), rows=types.ProtoRows(serialized_rows=batch)
        )
        request = types.AppendRowsRequest(write_stream=self._stream, proto_rows=data)
        # One request for each call: a stream that stays open can hang, and needs threads.
        answers = client.append_rows(
            iter([request]),
            retry=None,
            timeout=REQUEST_SECONDS,
            metadata=(("x-goog-request-params", f"write_stream={self._stream}"),),
        )
        for answer in answers:
            if answer.error.code:
                raise api.from_grpc_status(_STATUSES[answer.error.code], answer.error.message)
            if answer.row_errors:
                raise api.InvalidArgument(answer.row_errors[0].message)

    def _message(self) -> Any:
        """The class of rows, with a field for each column. New labels come last, so earlier rows stay valid."""
        if self._shape is None or self._shape[0] != self._labels:
            file = descriptor_pb2.FileDescriptorProto(name="rows.proto", package="langgraph_gcs_saver")
            shape = file.message_type.add(name="Row")
            for number, column in enumerate(columns(self._labels), 1):
                shape.field.add(
                    name=column.name,
                    number=number,
                    type=_TYPES[column.type],
                    label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
                )
            pool = descriptor_pool.DescriptorPool()
            pool.Add(file)
            found = pool.FindMessageTypeByName("langgraph_gcs_saver.Row")
            self._shape = (self._labels, message_factory.GetMessageClass(found))
        return self._shape[1]
