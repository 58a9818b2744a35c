"""A reader of the stored format, written from `docs/reference/format.md`, without the library that it describes.

Section numbers are that document's. It reads an embedded store and gives serialized values. Where the document leaves
a check to the reader, it checks.
"""

import base64
import hashlib
import hmac
import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from urllib.parse import unquote_to_bytes

import zstandard
from google.cloud.firestore_v1.types import document

FORMAT, NEWEST_FORMAT = 1, 2
BELOW = 16_384
ENVELOPE_BYTES = 64 << 20
HEAD_BYTES, HEAD_MARKS = 16 << 20, 1_500_000
DICTIONARY_SHA256 = "8c3e7ec3eb8f4940d333efc7e0705d0c621bd8501d37d382ec2427a20b5f648b"


class DamageError(Exception):
    """What is stored is not what was written."""


class UnsupportedError(Exception):
    """A later version wrote it, or it needs a cipher that is not at hand."""


class ClearError(Exception):
    """The reader has a cipher, and this is in clear, or not bound to its place."""


@dataclass(frozen=True)
class Document:
    name: str
    fields: dict
    create_time: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. Serialized values are pairs of a type tag and bytes."""

    thread_id: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: dict
    rest: tuple | None
    metadata: tuple
    versions: dict
    values: dict
    writes: list


def damaged_unless(condition, what):
    if not condition:
        raise DamageError(what)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# 13
def folded(segment):
    text = "".join(f"^{char.lower()}" if "A" <= char <= "Z" else char for char in segment)
    if re.fullmatch(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", text):
        text = f"={ord(text[0]):02x}{text[1:]}"
    return "+/".join(text[at : at + 240] for at in range(0, len(text), 240))


# 7.5
def digest_of(value):
    if len(value) <= 32768:
        return sha256(value)
    blocks = (value[at : at + 32768] for at in range(0, len(value), 32768))
    return sha256(b"\x01" + b"".join(hashlib.sha256(block).digest() for block in blocks))


# 5.1


def enc(text):
    data = text.encode()
    if not data:
        return "~"
    found = "".join(chr(b) if re.match(rb"[A-Za-z0-9_-]", bytes([b])) else f"%{b:02X}" for b in data)
    return found if len(data) <= 200 and len(found) <= 200 else "~" + sha256(data)


def dec(text):
    if text == "~":
        return ""
    return None if text.startswith("~") else unquote_to_bytes(text).decode()


def spread(text):
    return f"{sha256(text.encode())[:2]}-{enc(text)}"


def codes():
    second = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    found = {}
    for first, top, low in (
        ("0", 255, 103),
        ("3", 102, 97),
        ("9", 96, 58),
        ("A", 57, 48),
        ("K", 47, 46),
        ("L", 45, 45),
    ):
        for n, byte in enumerate(range(top, low - 1, -1)):
            single = first in "3AL"
            found[byte] = chr(ord(first) + n) if single else chr(ord(first) + n // 62) + second[n % 62]
    found.update((byte, "M" + second[44 - byte]) for byte in range(45))
    return found


CODES = codes()


def inv(text):
    return "".join(CODES[byte] for byte in text.encode()) + "~"


def uninv(text):
    found, at = bytearray(), 0
    bytes_of = {code: byte for byte, code in CODES.items()}
    while text[at] != "~":
        length = 1 if text[at] in bytes_of else 2
        found.append(bytes_of[text[at : at + length]])
        at += length
    return found.decode()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return base64.b64encode((crc ^ 0xFFFFFFFF).to_bytes(4, "big")).decode()


class Reader:
    """Reads the store in a directory.

    `ciphers` maps names of ciphers to functions from ciphertext to plaintext. If there are any, `accepts_clear` says
    whether documents that are in clear, or not bound, are read all the same. `met` counts the features of the format
    that were met, so that a test can check that a store has them.
    """

    def __init__(self, path, dictionary, ciphers=None, *, accepts_clear=False):
        assert sha256(dictionary) == DICTIONARY_SHA256
        self.path = Path(path)
        self.dictionary = dictionary
        self.ciphers = ciphers or {}
        self.accepts_clear = accepts_clear or not self.ciphers
        self.met = Counter()
        self.listed = {}
        self.documents = self._load()

    # 13

    def _load(self):
        found = {}
        with closing(sqlite3.connect(self.path / "documents.sqlite3")) as db:
            self.version = db.execute("PRAGMA user_version").fetchone()[0]
            if self.version > 2:
                raise UnsupportedError("a later version's file")
            for key, fields, created in db.execute("SELECT name, fields, create_time FROM documents ORDER BY name"):
                name = key.replace(b"\0", b"/").decode()
                message = document.MapValue.pb().FromString(fields)
                found[name] = Document(name, _fields(message), created)
        return found

    def object(self, name):
        self.met["object"] += 1
        segments = name.split("/") if self.version == 1 else [folded(segment) for segment in name.split("/")]
        file = self.path.joinpath("objects", *segments)
        damaged_unless(file.is_file(), f"object {name} is missing")
        return file.read_bytes()

    # 7

    def payload(self, stored):
        """What is encrypted, and whether it is."""
        if stored[:1] != b"\x01":
            self.unless_accepted("in clear")
            return stored, False
        self.met["encrypted frame"] += 1
        end = 2 + stored[1]
        name = stored[2:end].decode()
        if name not in self.ciphers:
            raise UnsupportedError(f"cipher {name}")
        return self.ciphers[name](stored[end:]), True

    def unless_accepted(self, what):
        if not self.accepts_clear:
            raise ClearError(what)

    def frame(self, stored, accept, base=None, *, may_need=False):
        return self.decompressed(self.payload(stored)[0], accept, base, may_need=may_need)

    def decompressed(self, stored, accept, base=None, *, may_need=False):
        if base is not None and stored[:1] in {b"\x02", b"\x04"}:
            return self.splice(stored, accept, base)
        try:
            header = zstandard.get_frame_parameters(stored)
            damaged_unless(accept(header.content_size), "a frame of another size")
            if header.dict_id:
                damaged_unless(base is None and may_need, "a frame that needs a dictionary")
                raw = zstandard.ZstdCompressionDict(self.trained(header.dict_id), zstandard.DICT_TYPE_FULLDICT)
                self.met["trained dictionary"] += 1
            else:
                if base is None and header.content_size < BELOW:
                    base = self.dictionary
                raw = None if base is None else zstandard.ZstdCompressionDict(base, zstandard.DICT_TYPE_RAWCONTENT)
            plain = zstandard.ZstdDecompressor(dict_data=raw).decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise DamageError(str(error)) from None
        damaged_unless(len(plain) == header.content_size, "a frame that lied about its size")
        return plain

    # 7.7

    def trained(self, number):
        """The content of a trained dictionary."""
        found = []
        for copy in (1, 2):
            stored = self.payload(self.object(f"~dictionaries/{number:08x}-{copy}.zst"))[0]
            plain = self.decompressed(stored, lambda size: size <= 1 << 20)
            named = int.from_bytes(hashlib.sha256(plain[:4] + plain[8:]).digest()[:8], "big") % (2**31 - 32768) + 32768
            damaged_unless(plain[:4] == b"\x37\xa4\x30\xec" and named == number, "another dictionary")
            damaged_unless(int.from_bytes(plain[4:8], "little") == number, "a dictionary with another id")
            found.append(plain)
        damaged_unless(found[0] == found[1], "two dictionaries")
        return found[0]

    # 7.4

    def splice(self, stored, accept, base):
        at = 1

        def number():
            nonlocal at
            length = next((n for n in range(1, 10) if stored[at + n - 1 : at + n] < b"\x80"), 0)
            damaged_unless(length and at + length <= len(stored), "a splice that is cut off")
            at += length
            return sum((byte & 127) << 7 * n for n, byte in enumerate(stored[at - length : at]))

        if stored[:1] == b"\x04":
            self.met["splice of version 2"] += 1
            count = number()
            damaged_unless(count <= 4096, "a splice of too many copies")
            gaps = [tuple(number() for _ in range(4)) for _ in range(count)]
            self.met["most copies"] = max(self.met["most copies"], count)
            last = number()
            damaged_unless(max([last, *(near for _, near, _, _ in gaps)]) <= 63, "a dictionary that is too large")
            copied = sum(size for *_, size in gaps)
            ends = list(accumulate((skipped + size for _, _, skipped, size in gaps), initial=0))
            damaged_unless(ends[-1] <= len(base), "a splice of something else")
            dictionary, done = b"", 0
            for end, near in zip(ends, [*(near for _, near, _, _ in gaps), last], strict=True):
                if near:
                    dictionary += base[max(done, end - 2**near) : end + 2**near]
                    done = max(done, min(len(base), end + 2**near))
            literal = self.decompressed(stored[at:], lambda size: accept(size + copied), dictionary)
            damaged_unless(sum(gap[0] for gap in gaps) <= len(literal), "a literal that is too short")
            value, taken = b"", 0
            for (put, _, _, size), end in zip(gaps, ends[1:], strict=True):
                value += literal[taken : taken + put] + base[end - size : end]
                taken += put
            return value + literal[taken:]
        self.met["splice"] += 1
        head, end, tail, near = (number() for _ in range(4))
        rest = len(base) - tail
        damaged_unless(head <= end <= rest and near <= rest, "a splice of something else")
        copied = end - head + tail
        literal = self.decompressed(stored[at:], lambda size: accept(size + copied), base[near:rest])
        damaged_unless(head <= len(literal), "a literal that is too short")
        return literal[:head] + base[head:end] + literal[head:] + base[rest:]

    # 8

    def envelope_frame(self, stored, name, field):
        """The envelope in a field of a document."""
        payload, encrypted = self.payload(stored)
        if encrypted and payload[:1] == b"\x03":
            self.met["bound envelope"] += 1
            place = hashlib.sha256(b"%s\0%s" % (name.encode(), field.encode())).digest()
            damaged_unless(payload[1:33] == place, "an envelope of another place")
            payload = payload[33:]
        elif encrypted:
            self.unless_accepted("not bound")
        return self.decompressed(payload, lambda size: size <= ENVELOPE_BYTES, may_need=True)

    def needs(self, stored):
        """Whether an envelope's frame needs a trained dictionary."""
        payload = self.payload(stored)[0]
        payload = payload[33:] if payload[:1] == b"\x03" else payload
        return zstandard.get_frame_parameters(payload).dict_id != 0

    def sealed(self, found, field):
        """The envelope in a sealed field of a document (10)."""
        data = found.fields.get(field)
        damaged_unless(isinstance(data, bytes), "a sealed field that is not bytes")
        seal = hashlib.sha256(b"%s\0%s\0%s" % (found.name.encode(), field.encode(), data[32:])).digest()
        damaged_unless(data[:32] == seal, "a seal differs")
        return self.envelope_frame(data[32:], found.name, field)

    @staticmethod
    def envelope(plain):
        damaged_unless(len(plain) >= 4, "a short envelope")
        end = 4 + int.from_bytes(plain[:4], "big")
        damaged_unless(end <= len(plain), "a short envelope")
        marks = sum(plain.count(mark, 4, end) for mark in b"[{,:")
        damaged_unless(end - 4 <= HEAD_BYTES and marks <= HEAD_MARKS, "a head that is too large")
        try:
            head = json.loads(plain[4:end])
        except ValueError:
            raise DamageError("a head that is not JSON") from None
        damaged_unless(isinstance(head, dict), "a head that is no object")
        return head, plain[end:]

    def opened(self, plain, object_name):
        """Head and tail of an envelope, or of the one that it is a stub of."""
        head, tail = self.envelope(plain)
        if "gcs" not in head:
            return head, tail
        attempt, length, size, digest = head["gcs"]
        damaged_unless(re.fullmatch(r"[0-9a-z]{8,40}", attempt) and not tail, "an odd stub")
        self.met[f"stub {object_name.rpartition('/')[2]}"] += 1
        stored = self.object(f"{object_name}-{attempt}.zst")
        damaged_unless(len(stored) == length, "an object of another length")
        plain = self.frame(stored, lambda found: found == size)
        damaged_unless(sha256(plain) == digest, "an object that does not match its digest")
        head, tail = self.envelope(plain)
        damaged_unless("gcs" not in head, "a stub of a stub")
        return head, tail

    # 11.1

    def checkpoint_documents(self):
        for name, found in self.documents.items():
            if re.fullmatch(r"lg_threads/[^/]+/lg_checkpoints/[^/]+", name):
                if {"format", "ns", "manifest"} & found.fields.keys():
                    yield found
                else:
                    self.met["stripped"] += 1

    def checkpoints(self):
        return [self.read(found) for found in self.checkpoint_documents()]

    def latest(self, thread_id, ns):
        collection = f"lg_threads/{spread(thread_id)}/lg_checkpoints/"
        found = (d for d in self.checkpoint_documents() if d.name.startswith(collection) and d.fields["ns"] == enc(ns))
        return next(map(self.read, found), None)

    # 11.2

    @staticmethod
    def check_format(found, newest=FORMAT):
        stated = found.fields.get("format")
        if type(stated) is int and stated > newest:
            raise UnsupportedError(f"format {stated}")
        damaged_unless(type(stated) is int and stated >= FORMAT, "no format")

    def read(self, found):
        self.check_format(found, NEWEST_FORMAT)
        fields = found.fields
        encoded = fields.get("manifest")
        damaged_unless(isinstance(encoded, bytes), "no manifest")
        covered = b"%s\0%s" % (found.name.encode(), encoded)
        damaged_unless(fields.get("digest") == hashlib.sha256(covered).digest(), "the digest differs")
        _, thread_segment, _, leaf = found.name.split("/")
        inverted, ns_segment = leaf.split("!")
        damaged_unless(fields.get("ns") == ns_segment, "another namespace")
        checkpoint_id = uninv(inverted)
        beside = f"{thread_segment}/{ns_segment}/{enc(checkpoint_id)}"
        head, tail = self.opened(self.envelope_frame(encoded, found.name, "manifest"), f"{beside}/~manifest")
        self.met["heir"] += "heir" in fields
        self.met["root"] += self.documents.get(f"lg_threads/{thread_segment}", found).fields.get("root") is True
        self.met["former runs"] += "former_runs" in fields
        try:
            needed = max((f.get("v", 1) for ref in head["channels"].values() for f in ref["chain"]), default=1)
            named = head.get("dictionaries", [])
            damaged_unless(all(re.fullmatch(r"[0-7][0-9a-f]{7}", one) for one in named), "no id of a dictionary")
            needed = 2 if named else needed
            damaged_unless(fields["format"] == needed, "a format that is not the needed one")
            return self.manifest(thread_segment, ns_segment, checkpoint_id, head, tail)
        except (KeyError, TypeError, ValueError) as error:
            raise DamageError(f"a manifest of another shape: {error!r}") from error

    # 9

    def manifest(self, thread_segment, ns_segment, checkpoint_id, head, tail):
        thread_id, ns = dec(thread_segment[3:]), dec(ns_segment)
        thread_id = head["thread"] if thread_id is None else thread_id
        ns = head["ns"] if ns is None else ns
        damaged_unless((spread(thread_id), enc(ns)) == (thread_segment, ns_segment), "ids of another place")
        kind, end = head["metadata"]
        metadata = (kind, tail[:end])
        rest = None
        if "rest" in head:
            kind, size = head["rest"]
            rest, end = (kind, tail[end : end + size]), end + size
        damaged_unless(end == len(tail), "a tail of another length")
        known = head["checkpoint"].get("channel_versions", {})
        refs = head["channels"]
        self.listed[thread_id, checkpoint_id] = {digest for ref in refs.values() for digest in ref.get("blobs", ())}
        return Checkpoint(
            thread_id=thread_id,
            ns=ns,
            checkpoint_id=checkpoint_id,
            parent_id=head["parent"],
            checkpoint=head["checkpoint"],
            rest=rest,
            metadata=metadata,
            versions={
                channel: ref["version"] if "version" in ref else known.get(channel) for channel, ref in refs.items()
            },
            values={
                channel: (ref["type"], self.value(thread_segment, ns, checkpoint_id, channel, ref))
                for channel, ref in refs.items()
            },
            writes=self.writes(thread_segment, ns, checkpoint_id),
        )

    def value(self, thread_segment, ns, checkpoint_id, channel, ref):
        chain = ref["chain"]
        if not chain:
            damaged_unless(ref["size"] == 0 and ref["sha256"] == digest_of(b""), "a value without frames")
            self.met["value of no bytes"] += 1
            return b""
        numbers = [frame["k"] for frame in chain]
        damaged_unless(numbers[0] == 0, "a chain that does not begin with a full frame")
        sizes = [*(frame["size"] for frame in chain[:-1]), ref["size"]]
        damaged_unless(len(chain) <= 64 and sum(sizes) <= 16 * max(sizes), "a chain that is too long")
        stored = [frame["stored"] for frame in chain]
        damaged_unless(
            all(n <= 4 * size + 65_536 for n, size in zip(stored, sizes, strict=True)), "a frame that is too long"
        )
        self.met["incremental"] += len(chain) > 1
        self.met["skipped versions"] += any(b - a > 1 for a, b in pairwise(numbers))
        self.met["longest chain"] = max(self.met["longest chain"], len(chain))
        places = {"gcs" in frame for frame in chain}
        self.met["chain in documents and objects"] += len(places) == 2
        value = None
        for frame in chain:
            last = frame is chain[-1]
            size, digest = (ref["size"], ref["sha256"]) if last else (frame["size"], frame["digest"])
            damaged_unless(len(digest) == (64 if last else 8), "a digest of another length")
            stored = self.stored(thread_segment, ns, frame.get("in", checkpoint_id), channel, frame)
            value = self.frame(stored, lambda found, size=size: found == size, value, may_need=True)
            damaged_unless(digest_of(value).startswith(digest), f"a value of {channel!r} differs")
        return value

    def stored(self, thread_segment, ns, owner, channel, frame):
        at, length = frame.get("at", 0), frame["stored"]
        damaged_unless(type(at) is int and type(length) is int and min(at, length) >= 0, "no natural number")
        directory = f"{thread_segment}/{enc(ns)}/{enc(owner)}"
        self.met["inherited frame"] += "in" in frame
        if "gcs" not in frame:
            self.met["frame in a document"] += 1
            name = f"lg_threads/{thread_segment}/lg_checkpoints/{inv(owner)}!{enc(ns)}"
            damaged_unless(name in self.documents, "a frame's document is missing")
            data = self.documents[name].fields.get("frames")
            damaged_unless(isinstance(data, bytes), "a frame's document has no frames")
        elif "at" in frame:
            self.met["packed frame"] += 1
            data = self.object(f"{directory}/~frames-{frame['gcs']}.zst")
        else:
            self.met["frame in an object"] += 1
            data = self.object(f"{directory}/{enc(channel)}-{frame['gcs']}.zst")
            damaged_unless(len(data) == length and crc32c(data) == frame["crc32c"], "an object differs")
        damaged_unless(at + length <= len(data), "a frame that is cut off")
        return data[at : at + length]

    # 10

    def writes(self, thread_segment, ns, checkpoint_id):
        """Writes in their order: task path, task id, number, channel, type tag, bytes."""
        begin = f"lg_threads/{thread_segment}/lg_writes/{enc(ns)}!{inv(checkpoint_id)}!"
        found = [d for name, d in self.documents.items() if name.startswith(begin)]
        merged = {}
        for one in sorted(found, key=lambda d: (d.create_time, d.name)):
            self.check_format(one, NEWEST_FORMAT)
            task_segment, which = one.name[len(begin) :].split("!")
            fields = sorted((name, data) for name, data in one.fields.items() if name != "format")
            damaged_unless(fields, "no pending writes")
            plains = [self.sealed(one, name) for name, _ in fields]
            needs = any(self.needs(data[32:]) for _, data in fields)
            damaged_unless(one.fields["format"] == (2 if needs else 1), "a format that is not the needed one")
            for plain in plains:
                directory = f"{thread_segment}/{enc(ns)}/{enc(checkpoint_id)}"
                head, tail = self.opened(plain, f"{directory}/~writes")
                task = dec(task_segment)
                task = head["task"] if task is None else task
                damaged_unless(enc(task) == task_segment, "another task")
                if which != "s":
                    told = json.dumps([[idx, channel] for idx, channel, _, _ in head["writes"]])
                    damaged_unless(which == sha256(told.encode())[:16], "another call's writes")
                at = 0
                for idx, channel, kind, size in head["writes"]:
                    self.met["repeated write"] += (task, idx) in merged
                    self.met["special write"] += idx < 0
                    merged.setdefault((task, idx), (head["path"], task, idx, channel, kind, tail[at : at + size]))
                    at += size
                damaged_unless(at == len(tail), "a tail of another length")
        return sorted(merged.values(), key=lambda write: write[:3])

    def below(self, collection):
        """Documents of a collection, those of collections nested below them left out."""
        begin = f"{collection}/"
        return [
            found for name, found in self.documents.items() if name.startswith(begin) and "/" not in name[len(begin) :]
        ]

    # 17

    def operations(self, collection):
        """The operations of a collection, by key."""
        return {found["key"]: found for found in map(self.operation, self.below(collection))}

    def operation(self, found):
        self.check_format(found)
        fields = found.fields
        state, stored, saga = fields.get("state"), fields.get("operation"), fields.get("saga")
        damaged_unless(isinstance(stored, bytes) and isinstance(state, str), "no operation")
        clear = [found.name, state, *([] if saga is None else [saga])]
        covered = b"\0".join([*map(str.encode, clear), stored])
        damaged_unless(fields.get("digest") == hashlib.sha256(covered).digest(), "the digest differs")
        head, tail = self.envelope(self.envelope_frame(stored, found.name, "operation"))
        damaged_unless(head["attempt"][2] == state, "another state")
        damaged_unless(found.name.endswith(f"/{sha256(head['key'].encode())}"), "another key")
        values = {"result": (fields.get("result"), head.get("result"))}
        for at, (_, _, _, digest) in enumerate(head.get("late", ())):
            values[f"late.v{at}"] = fields.get("late", {}).get(f"v{at}"), digest
        step = head.get("step")
        damaged_unless(saga == (None if step is None else enc(step["saga"])), "another saga")
        request = None
        if step is not None:
            self.met["undone" if step.get("undone") else "undo" if "undoes" in step else "step"] += 1
            request = (step["undo"][2], tail) if "undo" in step else None
        damaged_unless(request is not None or not tail, "an odd tail")
        return {
            **head,
            "values": {field: self.outcome(found.name, field, *one) for field, one in values.items() if one[1]},
            "request of the step": request,
        }

    def outcome(self, name, field, stored, digest):
        """Type tag and bytes of an operation's value."""
        damaged_unless(isinstance(stored, bytes), "a missing value")
        plain = self.envelope_frame(stored, name, field)
        stub = self.envelope(plain)[0].get("gcs")
        damaged_unless(digest == (sha256(plain) if stub is None else stub[3]), "a value that does not match its digest")
        owner, _, key = name.removeprefix("lg_threads/").replace("/lg_operations/", "/~operations/").rpartition("/")
        head, tail = self.opened(plain, f"{owner}/{key}/result")
        return head["type"], tail

    # 18

    def sagas(self, thread_id):
        """The sagas of a thread, each with the operations of its steps and undos."""
        thread = f"lg_threads/{spread(thread_id)}"
        operations = self.operations(f"{thread}/lg_operations")
        sagas = {}
        for found in self.below(f"{thread}/lg_sagas"):
            self.check_format(found)
            head, tail = self.envelope(self.sealed(found, "saga"))
            damaged_unless(not tail and found.name.endswith(f"/{enc(head['id'])}"), "another saga")
            damaged_unless(found.fields.get("state") == head["state"], "another state")
            self.met[f"saga {head['state']}"] += 1
            for name, checkpoint_id in head["savepoints"]:
                if checkpoint_id is not None:
                    hold = f"savepoint {enc(head['id'])} {enc(name)}"
                    damaged_unless(hold in self.holds(thread_id, checkpoint_id), "a savepoint that is not held")
            steps = [one for one in operations.values() if one.get("step", {}).get("saga") == head["id"]]
            sagas[head["id"]] = {**head, "steps": sorted(steps, key=lambda one: (one["attempt"][5] or 0, one["key"]))}
        return sagas

    # 19

    def blobs(self, thread_id):
        """The content of each blob of a thread, by its digest."""
        thread = f"lg_threads/{spread(thread_id)}"
        documents = {found.name.rpartition("/")[2]: found for found in self.below(f"{thread}/lg_blobs")}
        key = documents.pop("key")
        self.check_format(key)
        head, key = self.envelope(self.sealed(key, "key"))
        damaged_unless(head == {} and len(key) == 32, "an odd key")
        found = {}
        for blob_id, one in documents.items():
            self.check_format(one)
            head, content = self.envelope(self.sealed(one, "blob"))
            wanted = hmac.new(key, head["digest"].encode(), "sha256").hexdigest()[:32]
            damaged_unless(blob_id == wanted, "another blob")
            for number, (attempt, length, size, digest) in enumerate(head.get("segments", ())):
                self.met["segment"] += 1
                stored = self.object(f"{spread(thread_id)}/~blobs/{blob_id}/{number}-{attempt}.zst")
                damaged_unless(len(stored) == length, "an object of another length")
                plain = self.frame(stored, lambda found, size=size: found == size)
                damaged_unless(sha256(plain) == digest, "an object that does not match its digest")
                inner, part = self.envelope(plain)
                damaged_unless(inner == {"number": number}, "another segment")
                damaged_unless(len(part) == min(head["bytes"], head["size"] - number * head["bytes"]), "an odd segment")
                content += part
            damaged_unless((len(content), sha256(content)) == (head["size"], head["digest"]), "an odd blob")
            damaged_unless(documents.keys() >= set(head.get("files", ())), "a file is missing")
            self.met["folder"] += "files" in head
            found[head["digest"]] = content
        return found

    # 6.15

    def holds(self, thread_id, checkpoint_id):
        """The keys of the holds of a root checkpoint."""
        name = f"lg_threads/{spread(thread_id)}/lg_checkpoints/{inv(checkpoint_id)}!~"
        damaged_unless(name in self.documents, "a held checkpoint is missing")
        return sorted(self.documents[name].fields.get("holds", {}))

    # 6.13 and 6.14

    def teams(self):
        """The teams, each with its members and its sets."""
        found = {}
        for one in self.below("lg_teams"):
            self.check_format(one)
            team = one.fields["team"]
            damaged_unless(one.name == f"lg_teams/{spread(team)}", "another team")
            members = []
            for member in self.below(f"{one.name}/lg_members"):
                self.check_format(member)
                damaged_unless(member.name.endswith(f"/{enc(member.fields['member'])}"), "another member")
                members.append(member.fields["member"])
            sets = [self.set(team, each) for each in self.below(f"{one.name}/lg_sets")]
            found[team] = {
                **{name: value for name, value in one.fields.items() if name != "format"},
                "members": members,
                "sets": {each["set"]: each for each in sets},
            }
        return found

    def set(self, team, found):
        self.check_format(found)
        head, tail = self.envelope(self.sealed(found, "set"))
        damaged_unless(not tail and found.fields.get("state") == head["state"], "another state")
        named = f"lg_teams/{spread(head['team'])}/lg_sets/{enc(head['set'])}"
        damaged_unless(head["team"] == team and found.name == named, "another set")
        members = head["members"]
        damaged_unless(members == sorted(set(members)) and 0 < len(members) <= 100, "odd members")
        is_held = head["state"] in {"committed", "broken"}
        damaged_unless([one[0] for one in head["cut"]] == (members if is_held else []), "an odd cut")
        self.met[f"set {head['state']}"] += 1
        if head["state"] == "committed":
            for member, checkpoint_id, digest in head["cut"]:
                thread_id = f"{team.replace('%', '%25').replace('/', '%2F')}/{member}"
                hold = f"set {enc(team)} {enc(head['set'])}"
                damaged_unless(hold in self.holds(thread_id, checkpoint_id), "a checkpoint that is not held")
                name = f"lg_threads/{spread(thread_id)}/lg_checkpoints/{inv(checkpoint_id)}!~"
                damaged_unless(self.documents[name].fields["digest"].hex() == digest, "a checkpoint that differs")
        votes = {}
        for one in self.below(f"{found.name}/lg_votes"):
            self.check_format(one)
            vote, tail = self.envelope(self.sealed(one, "vote"))
            damaged_unless(not tail, "an odd vote")
            self.met["vote"] += 1
            votes[dec(one.name.rpartition("/")[2])] = vote
        return {**head, "votes": votes}


def _fields(message):
    return {name: _value(value) for name, value in message.fields.items()}


def _value(value):
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        return _fields(value.map_value)
    return None if kind == "null_value" else getattr(value, kind)
