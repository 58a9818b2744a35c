"""Trains a dictionary from a sample of a store's threads, and measures it on other threads.

The sample is the first threads by name. Names begin with digits of a hash, so these are any threads. The dictionary is
trained from some of them, and its gain is measured on the rest, whose values the trainer has not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from langgraph_gcs_saver.engine.effects import Compute, Doc, Flow, Gather, QueryDocs
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.dictionaries import computed, keep
from langgraph_gcs_saver.flows.manifests import FIELD, read_manifest
from langgraph_gcs_saver.flows.writes import envelopes
from langgraph_gcs_saver.format import frames, keys, manifest, trained
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Manifest, kind_of
from langgraph_gcs_saver.format.seals import SEAL_BYTES
from langgraph_gcs_saver.format.sizes import document_bytes
from langgraph_gcs_saver.format.trained import Trained
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import KindBytes, Training

WORTH = 0.10
"""Least share of the stored bytes that a dictionary must save. Below it, it is not worth another thing to keep."""

_NAMES_PER_PAGE = 1000
_TOGETHER = 8
_DOCS = 50
"""How many names, threads, and newest documents of a collection of each thread are read at once."""

KINDS = MANIFESTS, FULL, INCREMENTAL, OBJECTS, WRITES, REST = (
    "manifests",
    "full values",
    "incremental values",
    "values in objects",
    "pending writes",
    "names and other fields",
)
"""The kinds of bytes. A dictionary makes the first, the second and the fifth smaller."""


@record(frozen=True, slots=True)
class _Piece:
    """Some stored bytes.

    Attributes:
        kind: Their kind.
        stored: Their number.
        plain: What they are the full frame of; `None` if no dictionary makes them smaller.
        dictionary: The trained dictionary that the frame has already, if any.
    """

    kind: str
    stored: int
    plain: bytes | None = None
    dictionary: Trained | None = None

    def size_with(self, dictionary: Trained, level: int) -> int:
        """Their number with a dictionary."""
        if self.plain is None or len(self.plain) >= trained.BELOW:
            return self.stored
        before = len(frames.compress(self.plain, level, self.dictionary))
        return self.stored + len(frames.compress(self.plain, level, dictionary)) - before


def train(sample: int, holdout: float, *, keeps: bool, context: Context) -> Flow[Training]:
    """Train a dictionary, and measure what it saves on threads that it was not trained from.

    Args:
        sample: Most threads to read, of each its newest checkpoints and pending writes.
        holdout: The share of these threads that the dictionary is not trained from.
        keeps: Whether to store the dictionary if it is worth it. Nothing else is changed.
        context: Options and caches.
    """
    names = yield from _threads(sample)
    cut = len(names) - round(len(names) * holdout)
    samples: list[bytes] = []
    room = trained.SAMPLE_BYTES
    for page in _pages(names[:cut]):
        for piece in (yield from _pieces(page, context)):
            if piece.plain is not None and len(piece.plain) < min(trained.BELOW, room):
                samples.append(piece.plain)
                room -= len(piece.plain)
    found = yield from Compute(partial(trained.train, samples), size=trained.SAMPLE_BYTES - room)
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    level = context.codec.level
    for page in _pages(names[cut:]):
        pieces = yield from _pieces(page, context)
        size = sum(len(piece.plain or b"") for piece in pieces)
        for piece in pieces:
            before[piece.kind] += piece.stored
        if found is not None and level is not None:
            after += yield from Compute(partial(_sizes, pieces, found, level), size=size)
    kinds = [KindBytes(kind=kind, before=size, after=after[kind]) for kind, size in before.most_common()]
    refusal = _refusal(context.codec, found, kinds)
    is_kept = keeps and found is not None and refusal is None
    if is_kept and found is not None:
        yield from keep(found, context)
    return Training(
        threads=cut,
        held_out=len(names) - cut,
        kinds=tuple(kinds),
        dictionary_bytes=0 if found is None else len(found.data),
        refusal=refusal,
        dictionary=found.id if is_kept and found is not None else None,
    )


def _refusal(codec: Codec, found: Trained | None, kinds: Sequence[KindBytes]) -> str | None:
    """Why the dictionary must not be used; `None` if it is worth it."""
    if codec.level is None:
        return "The saver does not compress (zstd_level=None), so it has no use for a dictionary."
    if found is None or not kinds:
        return "There are too few values to train a dictionary from and to measure it with. Store more threads first."
    before, after = sum(one.before for one in kinds), sum(one.after for one in kinds)
    gain = 1 - after / before
    if gain < WORTH:
        return f"A dictionary saves {gain:.1%} of what the held-out threads store, and it must save {WORTH:.0%}."
    return None


def _threads(most: int) -> Flow[list[str]]:
    """Names of the documents of threads, at most so many."""
    found: list[str] = []
    while len(found) < most:
        docs = yield from QueryDocs(
            keys.THREADS, after=found[-1] if found else None, limit=min(_NAMES_PER_PAGE, most - len(found)), mask=()
        )
        if not docs:
            break
        found += [doc.name for doc in docs]
    return found


def _pages(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), _TOGETHER):
        yield names[at : at + _TOGETHER]


def _pieces(names: Sequence[str], context: Context) -> Flow[list[_Piece]]:
    """What some threads store. Damaged documents count as nothing: `verify` reports them."""
    collections = [f"{name}/{id_}" for name in names for id_ in (keys.CHECKPOINTS, keys.WRITES)]
    results = yield from Gather(tuple(QueryDocs(collection, limit=_DOCS) for collection in collections))
    found: list[_Piece] = []
    for doc in (doc for docs in results for doc in docs):
        found += yield from _pieces_of(doc, context.codec)
    return found


def _pieces_of(doc: Doc, codec: Codec) -> Flow[list[_Piece]]:
    try:
        if f"/{keys.WRITES}/" in doc.name:
            return (yield from computed(partial(_of_writes, doc, codec), size=document_bytes(doc), codec=codec))
        if kind_of(doc) is DocumentKind.CHECKPOINT:
            known = yield from read_manifest(doc, codec)
            return (yield from Compute(partial(_of_checkpoint, doc, known, codec), size=known.size))
    except (DamagedError, FrameError):
        return []
    return [_Piece(REST, document_bytes(doc))]


def _of_writes(doc: Doc, codec: Codec) -> list[_Piece]:
    found = [_framed(WRITES, doc.fields[field][SEAL_BYTES:], plain, codec) for field, plain in envelopes(doc, codec)]
    return [*found, _Piece(REST, document_bytes(doc) - sum(piece.stored for piece in found))]


def _of_checkpoint(doc: Doc, known: Manifest, codec: Codec) -> list[_Piece]:
    stored, inner = manifest.encoded_of(doc), manifest.inner_frames(doc)
    found = [
        _framed(MANIFESTS, stored, codec.decode_envelope(stored, (doc.name, FIELD)), codec),
        _Piece(REST, document_bytes(doc) - len(stored) - len(inner)),
    ]
    for ref in known.channels.values():
        frame = ref.chain[-1] if ref.chain else None
        if frame is None or frame.owner is not None:
            continue
        if frame.attempt is not None:
            found.append(_Piece(OBJECTS, frame.stored))
        elif len(ref.chain) > 1:
            found.append(_Piece(INCREMENTAL, frame.stored))
        else:
            data = inner[frame.at : frame.at + frame.stored]
            found.append(_framed(FULL, data, codec.decode(data, ref.size, name=doc.name), codec))
    return found


def _framed(kind: str, stored: bytes, plain: bytes, codec: Codec) -> _Piece:
    return _Piece(kind, len(stored), plain, codec.dictionary_of(stored))


def _sizes(pieces: Sequence[_Piece], dictionary: Trained, level: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for piece in pieces:
        found[piece.kind] += piece.size_with(dictionary, level)
    return found
