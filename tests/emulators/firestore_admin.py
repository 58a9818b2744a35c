"""A server of Firestore's Admin API on loopback, with the two RPCs that set how fields are indexed.

The Firestore emulator has no Admin API. Every other RPC is forwarded to an emulator, if there is one, so that a saver
can use this server.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

import grpc
from google.cloud.firestore_admin_v1.types import field, firestore_admin
from google.longrunning import operations_pb2
from typing_extensions import Self

from tests.patience import PATIENCE

SERVICE = "/google.firestore.admin.v1.FirestoreAdmin/"
STREAMS = ("BatchGetDocuments", "RunQuery")

Field = field.Field.meta.pb


class FirestoreAdmin(grpc.GenericRpcHandler):
    """Keeps the settings of fields as the service does. A context manager.

    Attributes:
        host: `host:port` to set FIRESTORE_EMULATOR_HOST to.
        fields: Settings by the field's full name; a field that is not here has its database's.
        refusals: What an RPC is answered with instead, by its name: the status, the text, and how often.
        calls: The RPCs of this service that came: name, field, what routed them, and their seconds of patience.
    """

    def __init__(self, target: str | None = None) -> None:
        self._target = None if target is None else grpc.insecure_channel(target)
        self.fields: dict[str, Any] = {}
        self.refusals: dict[str, tuple[grpc.StatusCode, str, int]] = {}
        self.calls: list[tuple[str, str, str, float]] = []
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self], options=(("grpc.so_reuseport", 0),))
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()
        if self._target is not None:
            self._target.close()

    def called(self, rpc: str) -> list[str]:
        """The fields that an RPC came for."""
        return [name.split("/collectionGroups/")[1] for found, name, *_ in self.calls if found == rpc]

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method.startswith(SERVICE):
            return grpc.unary_unary_rpc_method_handler(partial(self._admin, method.removeprefix(SERVICE)))
        if method.endswith(STREAMS):
            return grpc.unary_stream_rpc_method_handler(partial(self._forward_stream, method))
        return grpc.unary_unary_rpc_method_handler(partial(self._forward, method))

    def _admin(self, rpc: str, body: bytes, context: Any) -> bytes:
        if rpc == "GetField":
            name = firestore_admin.GetFieldRequest.meta.pb.FromString(body).name
        else:
            request = firestore_admin.UpdateFieldRequest.meta.pb.FromString(body)
            name = request.field.name
        metadata = dict(context.invocation_metadata())
        self.calls.append((rpc, name, metadata["x-goog-request-params"], context.time_remaining()))
        code, text, left = self.refusals.get(rpc, (None, "", 0))
        if left:
            self.refusals[rpc] = (code, text, left - 1)
            context.abort(code, text)
        if rpc == "GetField":
            answer = self.fields.get(name)
            if answer is None:
                answer = Field(name=name)
                answer.index_config.uses_ancestor_config = True
                for order in (1, 2):
                    answer.index_config.indexes.add(query_scope=1).fields.add(field_path="*", order=order)
            return answer.SerializeToString()
        if list(request.update_mask.paths) != ["index_config"]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Only the index_config is to be changed.")
        kept = self.fields.setdefault(name, Field(name=name))
        kept.index_config.CopyFrom(request.field.index_config)
        # Without a configuration the field reverts to its ancestor's; without indexes in it, to none.
        kept.index_config.uses_ancestor_config = not request.field.HasField("index_config")
        return operations_pb2.Operation(name=f"{name}/operations/1").SerializeToString()

    def _forward(self, method: str, body: bytes, context: Any) -> bytes:
        try:
            return self._target.unary_unary(method)(body, metadata=_headers(context), timeout=PATIENCE)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())

    def _forward_stream(self, method: str, body: bytes, context: Any) -> Iterator[bytes]:
        try:
            yield from self._target.unary_stream(method)(body, metadata=_headers(context), timeout=PATIENCE)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())


def _headers(context: Any) -> list[tuple[str, str]]:
    return [pair for pair in context.invocation_metadata() if pair[0] != "user-agent"]
