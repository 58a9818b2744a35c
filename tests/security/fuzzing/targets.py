"""What is fuzzed: each target makes an input by a `random.Random`, and has it read."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Compute, Doc, Gather, GetBlob, InBucket
from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.flows.manifests import FIELD, locate_manifest, make_stub, metadata_of, rest_of
from langgraph_gcs_saver.flows.writes import read_writes
from langgraph_gcs_saver.format import frames, keys, manifest
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.portable import PortableSerializer, from_json, objects, to_json
from langgraph_gcs_saver.stores.archive import Archive
from langgraph_gcs_saver.stores.messages import PbMapValue
from langgraph_gcs_saver.stores.values import from_fields, to_map
from tests.kit.impatience import impatient
from tests.security import registry
from tests.security.fuzzing import mutations, seeds
from tests.security.fuzzing.seeds import NEWEST, Kind, Seed
from tests.security.registry import Around
from tests.security.sealing import plain_envelope
from tests.system.build import noise
from tests.system.raw import LocalRaw

STRICT = JsonPlusSerializer(allowed_msgpack_modules=[("my_agent.state", "Plan")])
PORTABLE = PortableSerializer()
ATTEMPT = "fa15efa15efa"

ODD_FIELDS = [
    *(None, True, -1, 1 << 62, float("nan"), "", "#", "x" * 5000, "[" * 100_000, '["\\ud800"]', b"", b"\xff"),
    *({}, {"a": {"b": None}}, "x#1", 0, 2, "t", "u"),
]
"""What a field of a document may hold."""


def _envelope(head: Any, tail: bytes) -> bytes:
    return plain_envelope(head, tail)


def driven(flow: Any, stored: Mapping[str, bytes]) -> Any:
    """The result of a flow that reads objects and computes, and requests nothing else."""

    def answer(effect: Any) -> Any:
        match effect:
            case Compute():
                return effect.function()
            case GetBlob():
                found = stored.get(effect.name)
                return None if found is None else found[effect.start :][: effect.length]
            case InBucket():
                return None  # There is no mirror.
            case Gather():
                return tuple(map(answer, effect.effects))
        raise AssertionError(effect)

    step: Callable[[], Any] = partial(next, flow)
    while True:
        try:
            effect = step()
        except StopIteration as done:
            return done.value
        try:
            step = partial(flow.send, answer(effect))
        except Exception as error:
            step = partial(flow.throw, error)


class Target:
    """What is fuzzed.

    Attributes:
        family: The errors that a caller of the tried functions must expect.
    """

    family: tuple[type[Exception], ...] = (GCSSaverError,)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def one(self, rng: Random) -> str:
        """Make one input, and have it read; returns a word for what was read."""
        raise NotImplementedError


# Envelopes and what they are stored as


class Forged:
    """Documents and objects of a seed, changed.

    Attributes:
        fields: Documents by name, decoded; `None` for one that is deleted. Only those that differ.
        rows: The same, for those that are changed as bytes.
        objects: Objects likewise.
    """

    def __init__(self, rng: Random, seed: Seed) -> None:
        self.rng = rng
        self.seed = seed
        self.codec = seed.kind.codec
        self.fields: dict[str, dict[str, Any] | None] = {}
        self.rows: dict[str, bytes] = {}
        self.objects: dict[str, bytes | None] = {}

    def names(self, collection: str, thread: str = "t") -> list[str]:
        begin = registry.COLLECTIONS[collection](thread)
        depths = (begin.count("/"), 3)
        found = [name for name in self.seed.rows if name.startswith(begin)]
        return [name for name in found if name.count("/") in depths or f"/{collection}/" in name]

    def doc(self, name: str) -> dict[str, Any]:
        found = self.fields.get(name)
        return dict(found) if found is not None else from_fields(PbMapValue.FromString(self.seed.rows[name]).fields)

    def opened(self, name: str) -> tuple[Any, bytes]:
        """Head and tail of a checkpoint's manifest."""
        plain = self.codec.decode_envelope(self.doc(name)["manifest"], (name, FIELD))
        return frames.open_envelope(plain)

    def opened_writes(self, name: str, field: str) -> tuple[Any, bytes]:
        """Head and tail of what a field of pending writes holds, in an object too."""
        stored = self.doc(name)[field][32:]
        head, tail = frames.open_envelope(self.codec.decode_envelope(stored, (name, field)))
        stub = manifest.stub_of(head)
        if stub is None:
            return head, tail
        data = self.seed.objects[keys.writes_blob(name, stub.attempt)]
        return frames.open_envelope(self.codec.decode(data, stub.size))

    def put_manifest(self, name: str, plain: bytes) -> None:
        """Have a document hold an envelope, with the right digest for whatever that is stored as."""
        stored = self._stored(plain, (name, FIELD), keys.blob_beside(name, keys.MANIFEST, ATTEMPT))
        self.fields[name] = self.doc(name) | {"manifest": stored, "digest": manifest.digest(name, stored)}

    def put_writes(self, name: str, field: str, plain: bytes) -> None:
        """As `put_manifest`, for a field of pending writes."""
        stored = self._stored(plain, (name, field), keys.writes_blob(name, ATTEMPT))
        seal = hashlib.sha256(b"%s\0%s\0%s" % (name.encode(), field.encode(), stored)).digest()
        self.fields[name] = self.doc(name) | {field: seal + stored}

    def _stored(self, plain: bytes, place: tuple[str, str], blob: str) -> bytes:
        rng, codec = self.rng, self.codec
        match rng.randrange(20):
            case 0:
                return mutations.in_bytes(rng, codec.encode_envelope(plain, place))
            case 1:
                return self._bound(mutations.in_frame(rng, plain, Codec(3).encode), place)
            case 2:
                return Codec(3).encode(plain)  # in clear, whatever the cipher
            case 3:
                return codec.encode_envelope(plain, (place[0], "another"))
            case 4:
                return codec.encode(plain)  # not bound
            case 5:
                return self._bound(mutations.zeros(max(rng.choice(mutations.SIZES), len(plain)), plain), place)
            case 6 | 7 | 8 | 9:
                return codec.encode_envelope(self._stub(plain, blob), place)
        return codec.encode_envelope(plain, place)

    def _bound(self, frame: bytes, place: tuple[str, str]) -> bytes:
        if self.codec.cipher is None:
            return frame
        return self.codec._encrypt(frames._PLACE_MARK + frames._digest_of(place) + frame)

    def _stub(self, plain: bytes, blob: str) -> bytes:
        """Put an envelope into an object, and return that of the stub for it."""
        rng = self.rng
        if rng.random() < 0.1:
            size = max(len(plain), rng.choice(mutations.SIZES[:-1]))
            data = self.codec._encrypt(mutations.zeros(size, plain))
            digest = hashlib.sha256(plain)
            for at in range(len(plain), size, 1 << 16):
                digest.update(bytes(min(1 << 16, size - at)))
            stub = manifest.Stub(ATTEMPT, len(data), size, digest.hexdigest())
        elif rng.random() < 0.2:
            data = self.codec._encrypt(mutations.in_frame(rng, plain, Codec(3).encode))
            stub = manifest.Stub(ATTEMPT, len(data), len(plain), hashlib.sha256(plain).hexdigest())
        else:
            stub, data = make_stub(plain, ATTEMPT, self.codec)
        self.objects[blob] = data
        head = stub.head()
        return _envelope(mutations.in_json(rng, head) if rng.random() < 0.2 else head, b"")

    # What is changed

    def change_manifest(self) -> None:
        rng = self.rng
        name = rng.choice(self.names(keys.CHECKPOINTS))
        head, tail = self.opened(name)
        others = [self.opened(rng.choice(self.names(keys.CHECKPOINTS)))[0]]
        match rng.randrange(8):
            case 0:
                plain = mutations.in_bytes(rng, _envelope(head, tail), [_envelope(others[0], tail)])
            case 1 | 2:
                # The metadata, with their length.
                kind, size = head["metadata"]
                data = mutations.in_msgpack(rng, tail[:size])
                plain = _envelope({**head, "metadata": [kind, len(data)]}, data + tail[size:])
            case 3:
                data = mutations.in_msgpack(rng, tail)
                kind = rng.choice(("msgpack", "msgpack", "bytes", "json", "pickle", "null", ""))
                plain = _envelope({**head, "rest": [kind, len(data)]}, tail[: head["metadata"][1]] + data)
            case 4:
                plain = _envelope(self._chains(head), tail)
            case _:
                plain = _envelope(mutations.in_json(rng, head, others), tail)
        self.put_manifest(name, plain)

    def _chains(self, head: Any) -> Any:
        """Many channels, or long chains, or other places and sizes of frames."""
        rng = self.rng
        head = mutations.copy.deepcopy(head)
        channels = head["channels"]
        channel = rng.choice(sorted(channels))
        ref = channels[channel]
        chain = ref["chain"]
        match rng.randrange(5):
            case 0:
                channels.update({f"{channel}{n}": ref for n in range(rng.choice((2, 70, 3000)))})
            case 1 if chain:
                link = {**chain[0], "size": ref["size"], "digest": ref["sha256"][:8]}
                ref["chain"] = [link] * rng.choice((1, 15, 63, 64, 1000)) + chain
            case 2 if chain:
                rng.choice(chain).update({rng.choice(("at", "stored", "size", "k")): rng.choice(mutations.EXTREMES)})
            case 3:
                ref["size"] = rng.choice((*mutations.EXTREMES, ref["size"] + 1))
            case _ if chain:
                rng.choice(chain)["in"] = f"1f000000-0000-6000-8000-{rng.randint(1, NEWEST + 1):012}"
        return head

    def change_value(self) -> None:
        """Another value for a channel, with the right digest, in the document."""
        rng = self.rng
        name = rng.choice(self.names(keys.CHECKPOINTS))
        head, tail = self.opened(name)
        channel = rng.choice(sorted(head["channels"]))
        ref = head["channels"][channel]
        is_large = rng.random() < 0.25
        if is_large:
            size = rng.choice((1 << 19, (1 << 20) - 5, 1 << 20))
            plain = b"\xc6" + size.to_bytes(4, "big") + bytes(size)
        else:
            plain = mutations.in_msgpack(rng, rng.choice(self.values), self.values)
        frame = self.codec.encode(plain, least=1 << 30)
        if rng.random() < 0.1:
            frame = self.codec._encrypt(mutations.in_frame(rng, plain, Codec(3).encode))
        before = self.doc(name).get("frames", b"")
        if not isinstance(before, bytes) or len(before) + len(frame) > 900_000:
            before = b""
        ref.update(size=len(plain), sha256=Digested.of(plain).digest)
        ref["type"] = rng.choice(("msgpack",) * 6 + ("bytes", "bytearray", "json", "null", "pickle", "x"))
        ref["chain"] = [{"k": 0, "stored": len(frame), "at": len(before)}]
        if rng.random() < (0.7 if is_large else 0.1):
            names = [f"{channel} {n}" for n in range(rng.choice((2, 60, 1000, 1000)))]
            head["channels"].update(dict.fromkeys(names, ref))
        self.fields[name] = self.doc(name) | {"frames": before + frame}
        self.put_manifest(name, _envelope(head, tail))

    @property
    def values(self) -> Sequence[bytes]:
        """Serialized values of the seed."""
        if not self.seed.values:
            self.seed.values.extend(values_of(Forged(self.rng, self.seed)))
        return self.seed.values

    def change_writes(self) -> None:
        rng = self.rng
        name = rng.choice(self.names(keys.WRITES))
        field = rng.choice(sorted(self.doc(name).keys() - {"format"}))
        head, tail = self.opened_writes(name, field)
        match rng.randrange(6):
            case 0:
                plain = mutations.in_bytes(rng, _envelope(head, tail), self.values)
            case 1 | 2:
                written = list(head["writes"])
                idx, channel, kind, _ = written[-1]
                data = mutations.in_msgpack(rng, tail)
                count = rng.choice((1, 1, 1, 100, 5000))
                if len(data) * count > 8 << 20:
                    count = 1
                head = {**head, "writes": [[idx + n, channel, kind, len(data)] for n in range(count)]}
                plain = _envelope(head, data * count)
            case _:
                plain = _envelope(mutations.in_json(rng, head), tail)
        new = rng.choice((field, field, field, "writes", "w1", "w2", "w3", "w4", "x", "wx", "ü"))
        if rng.random() < 0.05:
            for n in range(rng.choice((3, 70))):
                self.put_writes(name, f"w{n}", plain)
            return
        self.put_writes(name, new, plain)

    def change_fields(self) -> None:
        rng = self.rng
        collection = rng.choice([one for one in registry.COLLECTIONS if one not in registry.BUCKETS_ONLY])
        name = rng.choice(self.names(collection))
        known = {
            "heir",
            "pin",
            "run_id",
            "former_runs",
            "objects",
            "filter",
            "frames",
            "ns",
            "format",
            "active",
            "root",
        }
        known |= {"thread_id", "deleting", "copying", "claim", "bucket", "prefix", "token", "from", "reason"}
        known |= {"fence", "nonce", "owner", "ttl", "state", "attempts"}
        known |= {"holds", "held", "team", "member", "set", "vote", "preparing", "timeout", "contended", "retention"}
        fields = self.doc(name)
        for _ in range(rng.choice((1, 1, 2))):
            field = rng.choice(sorted(known | fields.keys()))
            if rng.random() < 0.2:
                fields.pop(field, None)
            elif isinstance(fields.get(field), bytes) and rng.random() < 0.5:
                fields[field] = mutations.in_bytes(rng, fields[field])
            else:
                fields[field] = rng.choice(ODD_FIELDS)
        if rng.random() < 0.5 and isinstance(fields.get("manifest"), bytes):
            fields["digest"] = manifest.digest(name, fields["manifest"])
        self.fields[name] = fields

    def change_row(self) -> None:
        name = self.rng.choice(sorted(self.seed.rows))
        self.rows[name] = mutations.in_bytes(self.rng, self.seed.rows[name], list(self.seed.rows.values()))

    def change_object(self) -> None:
        rng = self.rng
        for name in rng.sample(sorted(self.seed.objects), rng.choice((1, 1, 3))):
            data = self.seed.objects[name]
            match rng.randrange(5):
                case 0:
                    self.objects[name] = None
                case 1:
                    self.objects[name] = self.seed.objects[rng.choice(sorted(self.seed.objects))]
                case 2:
                    self.objects[name] = mutations.zeros(rng.choice(mutations.SIZES))
                case 3:
                    self.objects[name] = data + bytes(rng.choice((1, 1 << 20)))
                case _:
                    self.objects[name] = mutations.in_bytes(rng, data, list(self.seed.objects.values()))

    def change_names(self) -> None:
        """A document under another name, sealed for that."""
        rng = self.rng
        source = rng.choice(sorted(self.seed.rows))
        collection, _, leaf = rng.choice(self.names(rng.choice((keys.CHECKPOINTS, keys.WRITES)))).rpartition("/")
        odd = ("junk", "!", "!!!", "~!~!x", "a!b!c!d!e", "%FF!00!%FF!s", "~!zz~!task!s", "00!%FF", "~" * 1500)
        text = mutations.in_bytes(rng, leaf.encode()).decode(errors="ignore").replace("/", "").replace("\0", "")[:1000]
        name = f"{collection}/{rng.choice((*odd, leaf, text or 'x'))}"
        fields = self.doc(source)
        if isinstance(fields.get("manifest"), bytes):
            fields["digest"] = manifest.digest(name, fields["manifest"])
            with suppress(GCSSaverError):
                fields["ns"] = keys.ns_segment_of(name)
        self.fields[name] = fields
        if rng.random() < 0.2:
            self.fields[source] = None

    CHANGES = (
        *(change_manifest,) * 6,
        *(change_value,) * 4,
        *(change_writes,) * 5,
        *(change_fields,) * 2,
        *(change_object,) * 2,
        *(change_names,) * 2,
        change_row,
    )

    def change(self) -> None:
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            # Another change of the same may have left nothing to open.
            with suppress(FrameError, DamagedError, KeyError, TypeError, IndexError, AttributeError, ValueError):
                self.rng.choice(self.CHANGES)(self)

    def docs(self) -> dict[str, Doc]:
        """Changed documents whose fields are known."""
        return {name: Doc(name, fields, 1, 1) for name, fields in self.fields.items() if fields is not None}


def values_of(forged: Forged) -> list[bytes]:
    """All that a serializer wrote in the seed: values of channels, metadata, pending writes."""
    found: list[bytes] = []
    for name in forged.names(keys.CHECKPOINTS):
        head, tail = forged.opened(name)
        found.append(tail[: head["metadata"][1]])
        if "rest" in head:
            found.append(tail[head["metadata"][1] :])
    for name in forged.names(keys.WRITES):
        for field in forged.doc(name).keys() - {"format"}:
            head, tail = forged.opened_writes(name, field)
            for *_, size in head["writes"]:
                found.append(tail[:size])
                tail = tail[size:]
    serialized = [PORTABLE.dumps_typed(value) for value in seeds.sample_values()]
    return found + [data for kind, data in serialized if kind == "msgpack"]


class _OnSeeds(Target):
    """With a store of each kind."""

    kinds: Sequence[Kind] = seeds.KINDS

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.seeds = [_made(directory, kind) for kind in self.kinds]


@cache
def _made(directory: Path, kind: Kind) -> Seed:
    """A store of that kind; all targets of a process have the same."""
    return seeds.make(directory / f"seed-{seeds.KINDS.index(kind)}", kind)


# Targets


class Frames(Target):
    """Frames alone: full, incremental, spliced, in clear and encrypted."""

    family = (GCSSaverError, FrameError)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        text = b"".join(b"a message %d, and more of it; " % n for n in range(9000))
        self.values = [b"", b"x", text[:200], text[:5000], noise(3000), text, text + b"the end", noise(100_000)]
        self.codecs = [Codec(3, max_bytes=seeds.MAX_VALUE_BYTES), seeds.KINDS[2].codec]

    def one(self, rng: Random) -> str:
        codec = rng.choice(self.codecs)
        plain, base = rng.choice(self.values), rng.choice((None, *self.values))
        size = len(plain)
        match rng.randrange(6):
            case 0:
                frame = mutations.in_bytes(rng, codec.encode(plain, base), [codec.encode(rng.choice(self.values))])
            case 1:
                frame = codec._encrypt(mutations.in_bytes(rng, Codec(3).encode(plain, base)))
            case 2:
                frame = codec._encrypt(mutations.in_frame(rng, plain, lambda data: Codec(3).encode(data, base)))
            case 3:
                numbers = [rng.choice((*map(abs, mutations.EXTREMES), len(base or b""), len(plain))) for _ in range(4)]
                mark = rng.choice((b"\x02", b"\x04\1", b"\x04\2" + bytes(4)))
                end = b"" if mark == b"\x02" else bytes([rng.choice((0, 9, 63, 64))])
                literal = rng.choice((b"", plain[:100], plain))
                frame = codec._encrypt(
                    mark + b"".join(map(frames.splices._pack, numbers)) + end + Codec(3).encode(literal)
                )
                size = rng.choice(
                    (size, numbers[1] - numbers[0] + numbers[2] + len(literal), numbers[3] + len(literal))
                )
            case 4:
                size = rng.choice((*mutations.SIZES, (1 << 20) + 1))
                frame = codec._encrypt(mutations.zeros(size))
            case _:
                frame = codec.encode(plain, base)
                base = rng.choice((base, *self.values))
        if rng.random() < 0.2:
            size = rng.choice((*mutations.EXTREMES, size + 1))
        place = ("lg_threads/e3-t/lg_checkpoints/x", "manifest")
        match rng.randrange(4):
            case 0:
                codec.decode_bounded(frame, 1 << 20)
                return "bounded"
            case 1:
                if rng.random() < 0.5:
                    frame = codec._encrypt(frames._PLACE_MARK + frames._digest_of(place) + Codec(3).encode(plain))
                frames.open_envelope(codec.decode_envelope(frame, place))
                return "envelope"
            case _:
                found = codec.decode(frame, size, base)
                assert len(found) == size
                return "value"


class Manifests(_OnSeeds):
    """A checkpoint's document: its envelope, the manifest, metadata and the other fields."""

    family = (GCSSaverError, DamagedError)
    kinds = (seeds.KINDS[0], seeds.KINDS[2])

    def one(self, rng: Random) -> str:
        seed = rng.choice(self.seeds)
        forged = Forged(rng, seed)
        rng.choice((Forged.change_manifest, Forged.change_manifest, Forged.change_value))(forged)
        ((name, doc),) = forged.docs().items()
        assert name
        known, _ = driven(locate_manifest(doc, forged.codec), {k: v for k, v in forged.objects.items() if v})
        for channel in known.channels:
            known.steps(channel)
        _ = (known.blobs(), known.made, known.size, known.held, known.outline(), known.same_content(known))
        for serde in (PORTABLE, STRICT):

            def decode(value: Any, serde: Any = serde) -> Any:
                return loads(serde, value)

            for read in (metadata_of, rest_of):
                read(known, decode)
        return "read"


class Writes(_OnSeeds):
    """Documents of pending writes, and the objects that they point to."""

    family = (GCSSaverError, DamagedError)
    kinds = (seeds.KINDS[0], seeds.KINDS[1], seeds.KINDS[2])

    def one(self, rng: Random) -> str:
        seed = rng.choice(self.seeds)
        forged = Forged(rng, seed)
        forged.change_writes()
        stored = {**seed.objects, **{k: v for k, v in forged.objects.items() if v}}
        ids = [keys.writes_checkpoint_id_of(name) for name in forged.fields]
        found = driven(read_writes(ids, forged.docs().values(), forged.codec), stored)
        for write in (write for own in found.values() for write in own):
            for serde in (PORTABLE, STRICT):
                loads(serde, write.value)
        return "read"


class Values(_OnSeeds):
    """What a serializer reads, and what the command line shows and edits of it."""

    kinds = (seeds.KINDS[0],)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.values = values_of(Forged(Random(0), self.seeds[0]))

    def one(self, rng: Random) -> str:
        kind = rng.choice(("msgpack",) * 9 + ("bytes", "bytearray", "null", "json", "pickle", ""))
        data = mutations.in_msgpack(rng, rng.choice(self.values), self.values)
        value = manifest.Serialized(kind, data)
        with suppress(GCSSaverError):
            loads(STRICT, value)
        found = loads(PORTABLE, value)
        shown = json.loads(json.dumps(to_json(found)))
        for one in objects(found):
            _ = (one.parts, one.type)
        assert to_json(from_json(shown)) == shown
        from_json(mutations.in_tree(rng, shown))
        return "read"


class Store(_OnSeeds):
    """A store of which some documents and objects are changed, read by the public API."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.other = directory / "other"
        self.databases = []
        for seed in self.seeds:
            with closing(sqlite3.connect(seed.directory / "documents.sqlite3")) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copytree(seed.directory, _pristine(seed))
            self.databases.append((seed.directory / "documents.sqlite3").read_bytes())
        self.methods = [name for name in registry.all_methods() if name not in {"migrate", "rebind", "setup"}]
        self.readers = [name for name in self.methods if name not in registry.WRITE]

    def one(self, rng: Random) -> str:
        number = rng.randrange(len(self.seeds))
        seed = self.seeds[number]
        forged = Forged(rng, seed)
        forged.change()
        is_real = rng.random() < 0.2
        names = rng.sample(self.methods if is_real else self.readers, 4 if is_real else 3)
        names.sort(key=lambda name: name in registry.DESTROY)
        raw = LocalRaw(seed.directory)
        told = set()
        try:
            self._apply(forged, raw)
            for name in names:
                told.add(self._perform(rng, seed, name))
        finally:
            if is_real:
                shutil.rmtree(seed.directory)
                shutil.copytree(_pristine(seed), seed.directory)
            else:
                self._restore(forged, number)
            shutil.rmtree(self.other, ignore_errors=True)
        return "read" if told == {"read"} else "refused by some" if "read" in told else "refused"

    def _perform(self, rng: Random, seed: Seed, name: str) -> str:
        options = seed.kind.options | {
            "verify": "off",
            "ttl": timedelta(days=1),
            "max_threads": 2,
            "cache_max_bytes": rng.choice((0, 1 << 20)),
            "accept_clear": seed.kind.has_cipher and rng.random() < 0.5,
            "on_corruption": rng.choice(("fallback", "raise")),
            "serde": rng.choice((PORTABLE, STRICT)),
        }
        is_async = rng.random() < 0.2
        ns = rng.choice(("", "sub:1", None))
        with (
            impatient(GCSSaver.from_conn_string(f"file://{seed.directory}", **options)) as saver,
            impatient(GCSSaver.from_conn_string(f"file://{self.other}", **options)) as other,
        ):
            around = _Around(self.directory, other, channels=("messages", "deltas"), newest=NEWEST, ns=ns)
            try:
                registry.perform(saver, name, around, is_async=is_async)
            except GCSSaverError as error:
                refuse_out_of_memory(error)
                return "refused"
            finally:
                with suppress(FileNotFoundError):
                    (self.directory / "exported.tar").unlink()
        return "read"

    def _apply(self, forged: Forged, raw: LocalRaw) -> None:
        for name, fields in forged.fields.items():
            if fields is None:
                raw.delete_document(name)
            else:
                with suppress(GCSSaverError):  # what no store can hold
                    raw.set_document(name, fields)
        for name, row in forged.rows.items():
            with suppress(AssertionError):  # one that was deleted
                raw.set_row(name, row)
        for name, data in forged.objects.items():
            if data is None:
                raw.delete_object(name)
            else:
                raw.set_object(name, data)

    def _restore(self, forged: Forged, number: int) -> None:
        seed = self.seeds[number]
        for end in ("-wal", "-shm"):
            (seed.directory / f"documents.sqlite3{end}").unlink(missing_ok=True)
        (seed.directory / "documents.sqlite3").write_bytes(self.databases[number])
        raw = LocalRaw(seed.directory)
        for name in forged.objects:
            if name in seed.objects:
                raw.set_object(name, seed.objects[name])
            else:
                raw.delete_object(name)


def _pristine(seed: Seed) -> Path:
    return seed.directory.with_name(f"{seed.directory.name}-pristine")


class _Around(Around):
    """Reads the namespace that it was made with."""

    def __init__(self, *args: Any, ns: str | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ns = ns

    def at(self, n: int | None = None) -> Any:
        ns = self.ns if n is None else "sub:1" if n >= NEWEST - 1 else ""
        return seeds.cfg(n, thread=self.thread, ns=ns)


class Archives(_OnSeeds):
    """A file that is said to be an archive: opened, read whole, and taken in."""

    kinds = (seeds.KINDS[0], seeds.KINDS[2], seeds.KINDS[1])

    def one(self, rng: Random) -> str:
        seed = rng.choice(self.seeds)
        path = self.directory / "forged.tar"
        forged = Tar(rng, seed.archive, [one.archive for one in self.seeds])
        path.write_bytes(forged.forged())
        # As a process that imports a file from a stranger opens it.
        with Archive(path, max_object=seeds.MAX_VALUE_BYTES + (1 << 20)) as archive:
            archive.contents()
            assert archive.thread_id
        if rng.random() < 0.5:
            return "opened"
        target = self.directory / "taken"
        try:
            options = {"serde": PORTABLE, "max_threads": 2, **seed.kind.options}
            with impatient(GCSSaver.from_conn_string(f"file://{target}", **options)) as saver:
                around = Around(self.directory, archive=path, newest=NEWEST)
                registry.perform(saver, "import_thread", around)
                for name in rng.sample(("get_tuple", "list", "verify", "history", "export_thread"), 2):
                    with suppress(GCSSaverError):
                        registry.perform(saver, name, around)
        finally:
            shutil.rmtree(target, ignore_errors=True)
        return "imported"


class Tar:
    """An archive, changed in its headers, its members, its index or its documents."""

    def __init__(self, rng: Random, data: bytes, others: Sequence[bytes]) -> None:
        self.rng = rng
        self.data = data
        self.others = others
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        at = 0
        while (header := data[at : at + 512]) != bytes(512):
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            self.members.append((info, data[at + 512 : at + 512 + info.size]))
            at += 512 + info.size + -info.size % 512

    def forged(self) -> bytes:
        rng = self.rng
        match rng.randrange(8):
            case 0:
                return mutations.in_bytes(rng, self.data, self.others)
            case 1:
                self._change_headers()
            case 2:
                self._change_order()
            case 3 | 4:
                self._change_index()
            case _:
                self._change_contents()
        return self.written()

    def written(self) -> bytes:
        found = []
        for info, data in self.members:
            try:
                found.append(info.tobuf(self.rng.choice((tarfile.GNU_FORMAT,) * 5 + (tarfile.PAX_FORMAT,))))
            except (ValueError, UnicodeError, OverflowError):
                found.append(bytes(511) + b"x")
            found.append(data + bytes(-len(data) % 512))
        return b"".join((*found, bytes(self.rng.choice((0, 512, 1024, 1024, 1024)))))

    def _change_headers(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 3))):
            info = rng.choice(self.members)[0]
            match rng.randrange(4):
                case 0:
                    info.size = rng.choice((*mutations.EXTREMES, info.size + 1, info.size - 1, 1 << 40, 1 << 62))
                case 1:
                    names = (
                        "../x",
                        "/etc/passwd",
                        "objects/0",
                        "index.json",
                        "documents/99999999",
                        "x" * 200,
                        "\ud800",
                    )
                    info.name = rng.choice((*names, info.name + "0", info.name.upper()))
                case 2:
                    types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
                    more = (tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"?")
                    info.type = rng.choice((*types, *more))
                    info.linkname = rng.choice(("", "/etc/passwd", "../x"))
                case _:
                    info.mtime = rng.choice((*mutations.EXTREMES, float("nan")))
                    info.pax_headers = {"size": "99999999999", "path": "../x"}

    def _change_order(self) -> None:
        rng = self.rng
        at = rng.randrange(len(self.members))
        match rng.randrange(4):
            case 0:
                rng.shuffle(self.members)
            case 1:
                self.members[at:at] = [self.members[at]] * rng.choice((1, 2, 1000))
            case 2:
                del self.members[at]
            case _:
                other = Tar(rng, rng.choice(self.others), ()).members
                self.members[at:] = other[at:]

    def _index(self) -> tuple[int, dict[str, list[list[Any]]]]:
        at = next(n for n, (info, _) in enumerate(self.members) if info.name == "index.json")
        return at, json.loads(self.members[at][1])

    def _set_member(self, at: int, data: bytes) -> None:
        self.members[at][0].size = len(data)
        self.members[at] = (self.members[at][0], data)

    def _set_index(self, at: int, index: bytes) -> None:
        self._set_member(at, index)
        self._set_member(at + 1, hashlib.sha256(index).hexdigest().encode())

    def _change_index(self) -> None:
        at, index = self._index()
        text = mutations.in_json(self.rng, index)
        if self.rng.random() < 0.2:
            self._set_member(0, mutations.in_json(self.rng, json.loads(self.members[0][1])))
        elif self.rng.random() < 0.1:
            text = text[:-1] + b" " * self.rng.choice((1 << 20, 16 << 20, 60 << 20)) + text[-1:]
        elif self.rng.random() < 0.1:
            text = b'{"objects":[' + b"[]," * self.rng.choice((1000, 1_000_000, 9_000_000)) + b'[]],"documents":[]}'
        self._set_index(at, text)

    def _change_contents(self) -> None:
        """Documents, objects or their names, with sizes and digests that are right again."""
        rng = self.rng
        at, index = self._index()
        rows = [*index["objects"], *index["documents"]]
        for _ in range(rng.choice((1, 1, 3))):
            number = rng.randrange(len(rows))
            row, (_, data) = rows[number], self.members[1 + number]
            match rng.randrange(5):
                case 0:
                    row[0] = rng.choice((*(one[0] for one in rows), mutations._changed(rng, row[0], ["x"])))
                case 1:
                    data = mutations.in_bytes(rng, data, [one for _, one in self.members])
                case 2 if number >= len(index["objects"]):
                    # What was changed before may parse no more; and not all that is odd can be written.
                    with suppress(DecodeError, GCSSaverError):
                        fields = from_fields(PbMapValue.FromString(data).fields)
                        fields[rng.choice((*fields, "x"))] = rng.choice(ODD_FIELDS)
                        data = to_map(fields).SerializeToString()
                case 3:
                    data = data + bytes(rng.choice((1, 1 << 20, 3 << 20)))
                case _:
                    row[3] = rng.choice((0, -1, 1 << 63, "AAAAAA==", None, row[3]))
            self._set_member(1 + number, data)
            row[1], row[2] = len(data), hashlib.sha256(data).hexdigest()
        self._set_index(at, json.dumps(index).encode())


def refuse_out_of_memory(error: BaseException | None) -> None:
    """Raise `MemoryError` if an error stands for one."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocat" in str(error).lower():
            raise MemoryError(f"behind {type(error).__name__}: {error}") from error
        error = error.__cause__ or error.__context__


TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "frames": Frames,
    "manifests": Manifests,
    "writes": Writes,
    "values": Values,
    "archives": Archives,
    "store": Store,
}
