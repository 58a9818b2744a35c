"""Trained dictionaries of a store: two equal objects each, fetched once by a process, and never changed or deleted.

A manifest names the dictionaries that its values need, and a frame names its own in its header. The id is made of the
dictionary's content, so a process knows whether what it has fetched is the dictionary that was named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from langgraph_gcs_saver.engine.effects import (
    Compute,
    DeleteBlobs,
    Emit,
    Flow,
    Gather,
    GetBlob,
    InBucket,
    ListBlobs,
    On,
)
from langgraph_gcs_saver.engine.steps import at
from langgraph_gcs_saver.errors import CheckpointVerificationError, DamageError, WrongKeyError
from langgraph_gcs_saver.events import ClearTextEncrypted
from langgraph_gcs_saver.flows import mirrors
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys, trained
from langgraph_gcs_saver.format.frames import Codec, DictionaryNeeded, FrameError
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.trained import Trained
from langgraph_gcs_saver.results import Finding, RepairPlan, RepairStep

T = TypeVar("T")

_ENCRYPT = "If it is older than the cipher, call `repair` without a thread on a saver with accept_clear=True."


def computed(function: Callable[[], T], *, size: int, codec: Codec) -> Flow[T]:
    """Compute something that decodes frames. Fetch the dictionary that they need, if this process does not have it.

    Raises:
        DamageError: Both objects of the dictionary are damaged.
    """
    while True:
        try:
            return (yield from Compute(function, size=size))
        except DictionaryNeeded as needed:
            wanted = needed.id
        yield from fetch((wanted,), codec)


def fetch(ids: Iterable[str], codec: Codec) -> Flow[None]:
    """Fetch dictionaries that this process does not have.

    Raises:
        DamageError: Both objects of one are damaged, in each bucket. This is not damage of what needs it: falling back,
            or setting it aside, would make it worse.
    """
    for id_ in ids:
        if id_ in codec.dictionaries:
            continue
        stored: dict[str, bytes | None] = {}
        whole = (yield from _read(id_, stored, codec)) or (yield from _read(id_, {}, codec, mirror=True))
        if whole is None:
            one, other = _compared(id_, stored, codec).values()
            is_clear = any(isinstance(damage, DamagedError) and damage.clear for damage in (one, other))
            advice = _ENCRYPT if is_clear else f"Restore {next(iter(stored))!r} from a backup."
            raise DamageError(
                f"The dictionary {id_!r} cannot be read: {one}, and {other}. What was compressed with it is "
                f"whole, but cannot be read without it. {advice}"
            )
        codec.dictionaries.add(whole)


def _read(id_: str, stored: dict[str, bytes | None], codec: Codec, *, mirror: bool = False) -> Flow[Trained | None]:
    """The dictionary in the first of its objects that is whole; `None` if neither is, or there is no mirror.

    Args:
        id_: The dictionary's id.
        stored: Takes what was read of each object.
        codec: Decodes the objects.
        mirror: Whether to read the mirror.
    """
    for name in keys.dictionary_blobs(id_):
        get = GetBlob(name)
        stored[name] = yield from (InBucket(get, mirror=True) if mirror else get)
        found = _opened(id_, name, stored[name], codec)
        if isinstance(found, Trained):
            if mirror:
                yield from mirrors.report_read(name)
            return found
    return None


def prepare(codec: Codec) -> Flow[None]:
    """Fetch the dictionary that the option `dictionary` names, before the first frame is made.

    Raises:
        DamageError: The store does not have it. Nothing is stored without it.
    """
    if codec.lacking is not None:
        yield from fetch((codec.lacking,), codec)


def _opened(id_: str, name: str, stored: bytes | None, codec: Codec) -> Trained | DamagedError | WrongKeyError:
    """The dictionary in an object; what is wrong with the object, if it has none."""
    if stored is None:
        return DamagedError("a dictionary is missing", frame=name, missing=True)
    try:
        found = Trained.of(codec.decode_bounded(stored, trained.MOST_BYTES))
    except WrongKeyError as error:
        return DamagedError("a dictionary cannot be decrypted", frame=name) if codec.has_key(stored) else error
    except FrameError as error:
        return DamagedError(f"a dictionary is {error}", frame=name, clear=error.clear)
    except ValueError:
        return DamagedError("an object is no dictionary", frame=name)
    return found if found.id == id_ else DamagedError("an object has another dictionary", frame=name)


def _compared(id_: str, stored: Mapping[str, bytes | None], codec: Codec) -> dict[str, Trained | DamagedError]:
    """What is in the objects of a dictionary. One that can be decrypted shows that another one is damaged.

    Raises:
        WrongKeyError: None can be decrypted, and nothing else was.
    """
    for _ in range(2):
        found = {name: _opened(id_, name, data, codec) for name, data in stored.items()}
    known: dict[str, Trained | DamagedError] = {}
    for name, one in found.items():
        if isinstance(one, WrongKeyError):
            raise one
        known[name] = one
    return known


def _look(id_: str, codec: Codec) -> Flow[dict[str, Trained | DamagedError]]:
    names = keys.dictionary_blobs(id_)
    stored = yield from Gather(tuple(GetBlob(name) for name in names))
    return _compared(id_, dict(zip(names, stored, strict=True)), codec)


def keep(dictionary: Trained, context: Context) -> Flow[list[str]]:
    """Store both objects of a dictionary, as far as they are not whole. Idempotent.

    Returns:
        The objects that were written.

    Raises:
        CheckpointVerificationError: One reads differently from what was written.
    """
    found = yield from _look(dictionary.id, context.codec)
    wrong = [name for name, one in found.items() if isinstance(one, DamagedError)]
    if wrong:
        yield from _write(dictionary, wrong, context)
    return wrong


def _write(dictionary: Trained, names: Sequence[str], context: Context) -> Flow[None]:
    yield from DeleteBlobs(tuple(names))
    stored = yield from Compute(partial(context.codec.encode, dictionary.data), size=len(dictionary.data))
    yield from Gather(tuple(context.upload(name, stored) for name in names))
    found = yield from _look(dictionary.id, context.codec)
    for name in names:
        if isinstance(found[name], DamagedError):
            raise CheckpointVerificationError(f"{name!r} was written, and then: {found[name]}. Call again.")


def survey(context: Context) -> Flow[list[Finding]]:
    """Findings about the store's dictionaries."""
    found: list[Finding] = []
    for id_ in (yield from stored_ids()):
        found += _findings((yield from _look(id_, context.codec)))
    return found


def carried(source: str, context: Context) -> Flow[None]:
    """Copy the objects of dictionaries that this store lacks from another one, byte for byte: no key is needed."""
    there = yield from _stored()
    for name in (yield from at(source, _stored())):
        data = None if name in there else (yield from On(source, GetBlob(name)))
        if data is not None:
            yield from context.upload(name, data)


def repair(*, dry_run: bool, context: Context) -> Flow[RepairPlan]:
    """Write damaged objects of dictionaries again, from another object of each, and encrypt those in clear.

    It writes the two objects of a dictionary one after the other, so that one of them is whole at any time.

    Returns:
        The repair, as a plan without a thread.
    """
    findings: list[Finding] = []
    steps: list[RepairStep] = []
    todo: list[tuple[Trained, str]] = []
    clear = 0
    strict = replace(context.codec, accept_clear=False)
    for id_ in (yield from stored_ids()):
        found = yield from _look(id_, strict)
        accepted = (yield from _look(id_, context.codec)) if context.codec.accept_clear else found
        # What the cipher vouches for comes first.
        whole = [one for one in (*found.values(), *accepted.values()) if isinstance(one, Trained)]
        if not whole and (mirrored := (yield from _read(id_, {}, strict, mirror=True))) is not None:
            whole = [mirrored]
        for one in _findings(found):
            findings.append(one)
            is_clear = isinstance(accepted[one.name], Trained)
            clear += is_clear
            reason = f"{one.reason}; another object has it" if whole else f"{one.reason}, and so is the other object"
            reason = f"{one.reason}; it is encrypted" if is_clear else reason
            steps.append(RepairStep(action="fix" if whole else "leave", name=one.name, reason=reason))
            todo += [(first, one.name) for first in whole[:1]]
    if clear and not dry_run:
        yield from Emit(ClearTextEncrypted(thread_id="", documents=clear))
    for dictionary, name in () if dry_run else todo:
        yield from _write(dictionary, (name,), context)
    return RepairPlan(thread_id="", findings=tuple(findings), steps=tuple(steps), clear=clear)


def _findings(found: Mapping[str, Trained | DamagedError]) -> list[Finding]:
    return [
        Finding(kind=one.kind, thread_id="", name=name, reason=one.reason)
        for name, one in found.items()
        if isinstance(one, DamagedError)
    ]


def stored_ids() -> Flow[Sequence[str]]:
    """The ids of the store's dictionaries."""
    names = yield from _stored()
    return sorted(set(names.values()))


def _stored() -> Flow[Mapping[str, str]]:
    """The ids of the store's dictionaries, by the names of their objects."""
    found: dict[str, str] = {}
    after: str | None = None
    while page := (yield from ListBlobs(f"{keys.DICTIONARIES}/", after, checksums=False)):
        found.update((blob.name, id_) for blob in page if (id_ := keys.dictionary_of(blob.name)) is not None)
        after = page[-1].name
    return found
