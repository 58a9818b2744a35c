"""Fetches and decodes stored frames, each of them once, and checks each value by its digest."""

from __future__ import annotations

from typing import Any, cast

from langgraph_gcs_saver.engine.effects import Doc, GetBlob, GetDocs, InBucket
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.errors import WrongKeyError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import manifest
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import DIGEST_DIGITS, DamagedError, FrameRef, Manifest, Step
from langgraph_gcs_saver.records import record

_DOCS_PER_PAGE = 100
"""How many documents one batched get fetches."""

_NOTHING = Digested.of(b"").digest


Fetch = GetDocs | GetBlob | InBucket["bytes | None"]
"""An effect that fetches frames."""


@record(frozen=True, slots=True)
class Found:
    """A checkpoint's document, with or without its frames, and its manifest."""

    doc: Doc
    manifest: Manifest


class _Node:
    """A frame, and the value that it gives on top of the frames before it.

    Attributes:
        step: The frame.
        before: The frame that it builds on, until it is decoded. It is `None` for a full frame, or if the cache had the
            value.
        uses: How many frames that build on this one still have to be decoded, plus how many times its value still has
            to be returned. At zero, the value is dropped.
        value: The value, while it is in memory.
        damage: Why there is no value.
    """

    __slots__ = ("before", "damage", "step", "uses", "value")

    def __init__(self, step: Step, before: _Node | None, value: Digested | None = None) -> None:
        self.step = step
        self.before = before
        self.uses = 0
        self.value = value
        self.damage: DamagedError | None = None

    def release(self) -> None:
        """Note that one use is over."""
        self.uses -= 1
        if not self.uses:
            self.value = None

    def forget_base(self) -> None:
        """Note that this frame no longer needs the frame before it."""
        if self.before is not None:
            self.before.release()
            self.before = None


class Sources:
    """The stored frames of some checkpoints: documents' `frames` fields, and objects or parts of them.

    Each piece is fetched once, however many checkpoints refer to it, and each frame is decoded once. A value in the
    cache needs neither. A value stays in memory until the last frame that builds on it is decoded. So for one
    checkpoint, memory never holds more than two values at once. With several, it may also hold one value of each chain
    (`Manifest.held`).
    """

    def __init__(self, found: list[Found], context: Context) -> None:
        self._context = context
        self._bytes: dict[str, tuple[int, bytes]] = {}
        """Where each piece starts in its document or object, and the piece, by name."""
        self._needs: dict[str, int] = {}
        """How many frames of each document or object still have to be decoded."""
        self._nodes: dict[tuple[_Node | None, str, int, int, int, str], _Node] = {}
        """All frames, by the frame that they build on, their place, and a manifest's description of them."""
        self._cached: dict[tuple[str, int], _Node] = {}
        """Values of the cache, kept here so that the cache cannot drop them before their use."""
        self._targets: dict[tuple[str, str, str], dict[str, tuple[_Node, Step]]] = {}
        """By checkpoint and channel, each value that was not returned yet: its last frame, and what it must match."""
        self._docs: set[str] = set()
        self._blobs: dict[str, tuple[int, int]] = {}
        """Start and end of the part of each object that is needed."""
        self._checksums: dict[str, str | None] = {}
        """The checksums of objects that hold one frame each."""
        self.mirrored: set[str] = set()
        """Objects that are fetched from the mirror, because their bytes in the bucket were wrong before."""
        self._effects: list[Fetch] = []
        self.object_bytes = 0
        """Bytes of objects that were fetched."""
        for item in found:
            if "frames" in item.doc.fields:
                self.take(item.doc)
        for item in found:
            own = self._targets[_key(item.manifest)] = {}
            for channel, ref in item.manifest.channels.items():
                if ref.chain:
                    steps = item.manifest.steps(channel)
                    own[channel] = self._plan(steps), steps[-1]

    def _plan(self, steps: list[Step]) -> _Node:
        """The last of the frames that a value is made of, with one more use."""
        node, first = self._start(steps)
        for step in steps[first:]:
            frame = step.frame
            key = (node, step.name, frame.at, frame.stored, step.size, step.digest[:DIGEST_DIGITS])
            following = self._nodes.get(key)
            if following is None:
                following = self._nodes[key] = _Node(step, node)
                if node is not None:
                    node.uses += 1
                self._need(step)
            node = following
        found = cast("_Node", node)
        found.uses += 1
        return found

    def _start(self, steps: list[Step]) -> tuple[_Node | None, int]:
        """The last frame whose value the cache has, and the index of the frame after it."""
        for number in range(len(steps) - 1, -1, -1):
            step = steps[number]
            place = step.name, step.frame.at
            node = self._cached.get(place)
            if node is not None and node.value is not None and node.value.is_of(step.digest, step.size):
                return node, number + 1
            value = self._context.value(step.name, step.frame.at, step.digest, step.size)
            if value is not None:
                node = self._cached[place] = _Node(step, None, value)
                return node, number + 1
        return None, 0

    def _need(self, step: Step) -> None:
        name, frame = step.name, step.frame
        self._needs[name] = self._needs.get(name, 0) + 1
        if frame.attempt is None:
            if name not in self._bytes:
                self._docs.add(name)
        elif frame.packed:
            start, end = self._blobs.get(name, (frame.at, 0))
            self._blobs[name] = (min(start, frame.at), max(end, frame.at + frame.stored))
        else:
            # One more byte shows that an object is too long, without fetching all of it.
            self._blobs[name] = (0, max(self._blobs.get(name, (0, 0))[1], frame.stored + 1))
            self._checksums[name] = frame.crc32c

    def fetches(self) -> list[Fetch]:
        """The effects that fetch what is not in memory."""
        names = sorted(self._docs)
        self._effects = [
            GetDocs(tuple(names[at : at + _DOCS_PER_PAGE]), mask=("frames",))
            for at in range(0, len(names), _DOCS_PER_PAGE)
        ]
        chosen: dict[str, bool | None] = {}
        if self._context.is_mirrored:
            chosen = {name: self._context.corrupt.get(name) for name in self._blobs}
            self.mirrored = {name for name, mirror in chosen.items() if mirror}
        for name, (start, end) in self._blobs.items():
            effect = GetBlob(name, start, end - start, self._checksums.get(name))
            mirror = chosen.get(name)
            self._effects.append(effect if mirror is None else InBucket(effect, mirror=mirror))
        return self._effects

    def take(self, doc: Doc) -> None:
        """Take the frames in a document that was read."""
        self._bytes[doc.name] = (0, manifest.inner_frames(doc))

    def fill(self, results: tuple[Any, ...]) -> None:
        """Take the results of `fetches`."""
        for effect, result in zip(self._effects, results, strict=True):
            read = effect.effect if isinstance(effect, InBucket) else effect
            if isinstance(read, GetBlob):
                if result is not None:
                    self.object_bytes += len(result)
                    self._bytes[read.name] = (read.start, result)
            else:
                for doc in result.values():
                    self.take(doc)

    def plain(self, known: Manifest, channel: str) -> bytes:
        """A channel's serialized value. It and the values that it builds on are checked by their digests.

        It can be called once for each value.

        Raises:
            DamagedError: A frame is missing, or a value differs from what was written.
        """
        ref = known.channels[channel]
        if not ref.chain:
            if ref.size or ref.sha256 != _NOTHING:
                raise DamagedError("a value of zero bytes does not match its digest", channel=channel)
            return b""
        target, last = self._targets[_key(known)].pop(channel)
        value = self._value(target, channel)
        target.release()
        # The frame may have been decoded for another checkpoint, whose manifest knows less of its digest.
        _compare(value, last, channel)
        return value.data

    def _value(self, target: _Node, channel: str) -> Digested:
        todo: list[_Node] = []
        node: _Node | None = target
        while node is not None and node.value is None and node.damage is None:
            todo.append(node)
            node = node.before
        if node is not None and node.damage is not None:
            raise node.damage.alone()
        for following in reversed(todo):
            self._decode(following, channel)
        return cast("Digested", target.value)

    def _decode(self, node: _Node, channel: str) -> None:
        """Make a frame's value from the value before it, and drop what is no longer needed then."""
        try:
            node.value = self._made(node, channel)
        except DamagedError as damage:
            node.damage = damage.alone()
            if self._context.is_mirrored and node.step.frame.attempt is not None and node.step.frame.crc32c is None:
                self._switch(node.step.name)
            raise
        finally:
            name = node.step.name
            self._needs[name] -= 1
            if not self._needs[name]:
                self._bytes.pop(name, None)
            node.forget_base()

    def _switch(self, name: str) -> None:
        """Let the next read use the mirror's copy of a damaged object, and the bucket's own if this was the mirror's.

        A store cannot choose the copy of an object without a checksum: only the values in it have digests.
        """
        self._context.corrupt.put(name, name not in self.mirrored, len(name))

    def _made(self, node: _Node, channel: str) -> Digested:
        step = node.step
        name, frame = step.name, step.frame
        stored = self._stored(name, channel, frame)
        base = None if node.before is None else node.before.value
        try:
            decoding = self._context.codec.begin(stored, step.size, None if base is None else base.data, name=name)
            if not decoding.needs_base:
                base = None
                node.forget_base()
            plain = decoding.finish()
        except FrameError as error:
            raise DamagedError(
                f"a value is {error}", channel=channel, frame=name, at=frame.at, clear=error.clear
            ) from None
        except WrongKeyError:
            # The frame may have been encrypted with an older key than its checkpoint. A whole frame is not damaged.
            whole = frame.crc32c is not None and crc32c(stored) == frame.crc32c
            if whole or not self._context.codec.has_key(stored):
                raise
            raise DamagedError("a frame cannot be decrypted", channel=channel, frame=name, at=frame.at) from None
        value = Digested.of(plain, base)
        _compare(value, step, channel)
        self._context.keep(name, frame.at, value)
        return value

    def _stored(self, name: str, channel: str, frame: FrameRef) -> bytes:
        if name not in self._bytes:
            raise DamagedError("a frame is missing", channel=channel, frame=name, at=frame.at, missing=True)
        start, data = self._bytes[name]
        stored = data[frame.at - start : frame.at - start + frame.stored]
        if len(stored) != frame.stored or (frame.attempt is not None and not frame.packed and len(data) != len(stored)):
            raise DamagedError("a frame is not as long as it was", channel=channel, frame=name, at=frame.at)
        return stored


def _key(known: Manifest) -> tuple[str, str, str]:
    return known.thread_id, known.ns, known.checkpoint_id


def _compare(value: Digested, step: Step, channel: str) -> None:
    if not value.is_of(step.digest, step.size):
        raise DamagedError("a value does not match its digest", channel=channel, frame=step.name, at=step.frame.at)
