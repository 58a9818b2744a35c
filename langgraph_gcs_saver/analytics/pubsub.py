"""`PubSub`: rows as messages of a topic."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.analytics.base import REQUEST_SECONDS
from langgraph_gcs_saver.analytics.rows import Row, as_json
from langgraph_gcs_saver.analytics.services import ServiceSink
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.errors.extras import require

if TYPE_CHECKING:
    import grpc
    from google.pubsub_v1 import PublisherClient

_MODULES = ("google.pubsub_v1", "google.pubsub_v1.services.publisher.transports")

_MOST_MESSAGES = 1000
"""Messages in one request (https://cloud.google.com/pubsub/quotas#resource_limits)."""

_TOPIC = re.compile(r"projects/[^/]+/topics/[^/]+\Z")


class PubSub(ServiceSink[Any]):
    """Publish each row as a message of a topic: its data is JSON, its attributes are `schema`, `event` and `event_id`.

    The order of messages does not matter, and a message can arrive twice, with the same `event_id`. A BigQuery
    subscription that uses the table's schema writes such messages to the table of the sink `BigQuery`.

    Args:
        topic: The topic, as `projects/PROJECT/topics/TOPIC`.
        client: A `google.pubsub_v1.PublisherClient`. By default each process makes one.
        endpoint: `host:port` of an emulator, which is called without TLS and credentials; by default what
            `PUBSUB_EMULATOR_HOST` says, if it is set.
        options: See `langgraph_gcs_saver.analytics.base.RowSink`.

    Raises:
        NotInstalledError: The extra `pubsub` is not installed.
        InvalidOptionError: An option is outside its range.
    """

    role = "roles/pubsub.publisher on the topic"

    def __init__(
        self, topic: str, *, client: PublisherClient | None = None, endpoint: str | None = None, **options: Any
    ) -> None:
        self._types, self._transports = require("pubsub", _MODULES)
        super().__init__(client, endpoint or os.environ.get("PUBSUB_EMULATOR_HOST"), **options)
        if not _TOPIC.match(topic):
            raise InvalidOptionError(f"topic is {topic!r}; it must be projects/PROJECT/topics/TOPIC.")
        self._batch = min(self._batch, _MOST_MESSAGES)
        self._topic = topic
        self.where = f"The topic {topic}"

    def connect(self, channel: grpc.Channel | None) -> Any:
        """A client without threads: this sink has its own."""
        if channel is None:
            return self._types.PublisherClient()
        return self._types.PublisherClient(transport=self._transports.PublisherGrpcTransport(channel=channel))

    def encode(self, row: Row) -> Any:
        """A row as a message."""
        attributes = {"schema": str(row["schema"]), "event": row["event"], "event_id": row["event_id"]}
        return self._types.PubsubMessage.pb()(data=as_json(row).encode(), attributes=attributes)

    def size(self, encoded: Any) -> int:
        """Bytes of a message."""
        return int(encoded.ByteSize())

    def send(self, batch: Sequence[Any]) -> None:
        """Publish messages.

        Raises:
            GCSSaverError: They were not accepted.
        """
        self.call(partial(self._publish, batch))

    def _publish(self, batch: Sequence[Any], client: PublisherClient) -> None:
        kind = self._types.PublishRequest
        client.publish(kind.wrap(kind.pb()(topic=self._topic, messages=batch)), retry=None, timeout=REQUEST_SECONDS)
