"""Stored bytes that hold frames, fetched once and decoded once, each value checked by its digest."""

from __future__ import annotations

from typing import Any, cast

from langgraph_gcs_saver import frames, manifest
from langgraph_gcs_saver.digests import Digested
from langgraph_gcs_saver.effects import Doc, GetBlob, GetDocs
from langgraph_gcs_saver.errors import WrongKeyError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.frames import FrameError
from langgraph_gcs_saver.manifest import DamagedError, FrameRef, Manifest
from langgraph_gcs_saver.records import record

_DOCS_BATCH = 100
"""Documents fetched in one batched get."""

_NOTHING = Digested.of(b"").digest


@record(frozen=True, slots=True)
class Found:
    """A checkpoint's document, with its frames or without, and what it says."""

    doc: Doc
    manifest: Manifest


class Sources:
    """Stored bytes that hold the frames of some checkpoints: documents' `frames` fields, and objects or parts of them.

    Each is fetched once, however many checkpoints refer to it, and each frame is decoded once. What the cache has needs
    neither.
    """

    def __init__(self, found: list[Found], context: Context) -> None:
        self._context = context
        self._bytes: dict[str, tuple[int, bytes]] = {}
        """Where each piece starts in its document or object, and the piece, by name."""
        self._values: dict[tuple[str, int], Digested] = {}
        """Values by place; those of the cache are pinned here, lest they go before their use."""
        self._docs: set[str] = set()
        self._blobs: dict[str, tuple[int, int | None]] = {}
        """Start and end of what is needed of each object; no end for a whole one."""
        self._effects: list[GetDocs | GetBlob] = []
        for item in found:
            if "frames" in item.doc.fields:
                self._bytes[item.doc.name] = (0, manifest.inner_frames(item.doc))
        for item in found:
            for channel, ref in item.manifest.channels.items():
                if ref.chain:
                    self._need(item.manifest, channel)

    def _need(self, known: Manifest, channel: str) -> None:
        for step in reversed(known.steps(channel)):
            name, frame = step.name, step.frame
            value = self._context.value(name, frame.at, step.digest)
            if value is not None:
                self._values[name, frame.at] = value
                return
            if frame.attempt is None:
                if name not in self._bytes:
                    self._docs.add(name)
            elif frame.packed:
                start, end = self._blobs.get(name, (frame.at, 0))
                self._blobs[name] = (min(start, frame.at), max(end or 0, frame.at + frame.stored))
            else:
                self._blobs[name] = (0, None)

    def fetches(self) -> list[GetDocs | GetBlob]:
        """The effects that fetch what is not at hand."""
        names = sorted(self._docs)
        self._effects = [
            GetDocs(tuple(names[at : at + _DOCS_BATCH]), mask=("frames",)) for at in range(0, len(names), _DOCS_BATCH)
        ]
        for name, (start, end) in self._blobs.items():
            self._effects.append(GetBlob(name, start, None if end is None else end - start))
        return self._effects

    def fill(self, results: tuple[Any, ...]) -> None:
        """Take the results of `fetches`."""
        for effect, result in zip(self._effects, results, strict=True):
            if isinstance(effect, GetBlob):
                if result is not None:
                    self._bytes[effect.name] = (effect.start, result)
            else:
                for name, doc in result.items():
                    self._bytes[name] = (0, manifest.inner_frames(doc))

    def plain(self, known: Manifest, channel: str) -> bytes:
        """A channel's serialised value, checked by its digest, as are the values that it builds on.

        Raises:
            DamagedError: A frame is missing, or a value differs from what was written.
        """
        ref = known.channels[channel]
        if not ref.chain:
            if ref.size or ref.sha256 != _NOTHING:
                raise DamagedError("a value of zero bytes does not match its digest", channel=channel)
            return b""
        steps = known.steps(channel)
        value: Digested | None = None
        first = 0
        for number, step in reversed(list(enumerate(steps))):
            at_hand = self._values.get((step.name, step.frame.at))
            if at_hand is not None and at_hand.digest.startswith(step.digest):
                value, first = at_hand, number + 1
                break
        for step in steps[first:]:
            name, frame = step.name, step.frame
            stored = self._stored(name, channel, frame)
            try:
                base = None if value is None else value.data
                plain = self._context.codec.decode(stored, step.size, base, name=name)
            except FrameError as error:
                raise DamagedError(
                    f"a value is {error}", channel=channel, frame=name, at=frame.at, clear=error.clear
                ) from None
            except WrongKeyError:
                # A frame may be older than its checkpoint's key.
                whole = frame.crc32c is not None and frames.crc32c(stored) == frame.crc32c
                if whole or not self._context.codec.has_key(stored):
                    raise
                raise DamagedError("a frame cannot be decrypted", channel=channel, frame=name, at=frame.at) from None
            value = Digested.of(plain, value)
            if len(plain) != step.size or not value.digest.startswith(step.digest):
                raise DamagedError("a value does not match its digest", channel=channel, frame=name, at=frame.at)
            self._values[name, frame.at] = value
            del stored, plain
            if frame.attempt is not None and not frame.packed:
                del self._bytes[name]  # Large states count: the object's bytes are not needed any more.
            self._context.keep(name, frame.at, value)
        return cast("Digested", value).data

    def _stored(self, name: str, channel: str, frame: FrameRef) -> bytes:
        if name not in self._bytes:
            raise DamagedError("a frame is missing", channel=channel, frame=name, at=frame.at, missing=True)
        start, data = self._bytes[name]
        stored = data[frame.at - start : frame.at - start + frame.stored]
        if len(stored) != frame.stored or (frame.attempt is not None and not frame.packed and len(data) != len(stored)):
            raise DamagedError("a frame is not as long as it was", channel=channel, frame=name, at=frame.at)
        return stored
