"""What a thread is doing, and what a run does next: start a turn, continue it, or return what is there.

All of this is read from the tip, the newest checkpoint of the root graph. It has the request in its metadata. Its
channels say which nodes are due, and its pending writes say which tasks have finished, and which ones wait for a
person.

An *answer* is a `Command` for a tip, such as a person's answer to a question. It is stored as a pending write of a task
that no graph has. LangGraph ignores it. Its document appears in one commit, so an answer is stored as a whole or not
at all, and the name of its document says to which request it belongs. It names the questions that it was given for. An
answer is used up once its task has asked another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field, replace
from functools import partial
from typing import Any, Literal

from langgraph_gcs_saver.engine.effects import Compute, Delete, Doc, Flow, Gather, GetDocs, Merge, QueryDocs, Write
from langgraph_gcs_saver.flows import active, tips
from langgraph_gcs_saver.flows.active import Active
from langgraph_gcs_saver.flows.companions import Attempt
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.leases import Lease, lease_in
from langgraph_gcs_saver.flows.manifests import deserialize, metadata_of, read_manifest, unreadable
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.tips import Due
from langgraph_gcs_saver.flows.writes import PendingWrite, query, read_writes
from langgraph_gcs_saver.format import keys, recent, turns
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.holds import Hold, holds_of
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Manifest, Serialized, kind_of
from langgraph_gcs_saver.format.recent import Recent, Request
from langgraph_gcs_saver.format.turns import Turn
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Question

ANSWER = "lg_answer"
"""The channel of an answer. No graph has it."""

REQUEST, RUN, SEGMENT = "lg_request", "lg_run", "lg_segment"
"""Metadata of a turn's checkpoints: the caller's id of the request, the turn's id, and the number of the segment."""

_INPUT_TASK = "00000000-0000-0000-0000-000000000000"
"""The task id under which LangGraph stores the writes of a `Command` itself."""

_INTERRUPT = "__interrupt__"

State = Literal["empty", "due", "waiting", "finished"]
"""Nothing is stored; a step is due; all tasks of the step that are left wait for a person; the graph has finished."""


@record(frozen=True, slots=True)
class Answer:
    """A stored answer that the graph has not used up.

    Attributes:
        request_id: The request to which it belongs, if that has an id.
        command: The fields of its `Command`.
        is_known: Whether LangGraph has stored the command itself, so that it must not get it again.
        ids: The ids of the interrupts that it may still answer.
    """

    request_id: str | None
    command: Mapping[str, Any]
    is_known: bool
    ids: frozenset[str]


@record(frozen=True, slots=True, kw_only=True)
class Status:
    """What a thread is doing.

    Attributes:
        thread_id: The thread.
        state: What comes next.
        checkpoint_id: The tip; `None` if there is none.
        step: The tip's step.
        made: The tip's time stamp, as LangGraph wrote it.
        stored: When the tip was stored, by the service's clock.
        holds: The sets and savepoints that hold the tip.
        request_id: The request of the turn: that of the tip, or of the last answer for the tip.
        run_id: The turn, if `run` began it.
        segment: The number of the call that made the tip, within its turn.
        due: The nodes of the next step.
        ran: The nodes that made the tip, except those that a packet of `Send` has called.
        has_begun: Whether a task of the next step has written or failed, or a person has answered.
        questions: The interrupts that wait for a person.
        asked: The tasks that have asked, with digests of their last questions, for an answer to name them.
        answer: An answer that the graph has not used up.
        answered: The tasks of all answers for the tip, and of an answer by the tip's own request.
        turn: What is stored about the tip's turn.
        attempts: The number of processes that have worked on it since a call last ended in an orderly way.
        has_turn: Whether there is a document of a turn, of this one or of one that is out of date.
        recent: The latest requests.
        active: What `lg_active` says about the thread; `None` if no turn of a run is unfinished.
        lease: The thread's lease.
    """

    thread_id: str
    state: State
    checkpoint_id: str | None = None
    step: int = -2
    made: str | None = None
    stored: int = 0
    holds: tuple[Hold, ...] = ()
    request_id: str | None = None
    run_id: str | None = None
    segment: int = 0
    due: Due = Due((), (), is_unknown=False)
    ran: frozenset[str] = frozenset()
    has_begun: bool = False
    questions: tuple[Any, ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    answered: frozenset[str] = frozenset()
    turn: Turn | None = None
    attempts: int = 0
    has_turn: bool = False
    recent: Recent = recent.NOTHING
    active: Active | None = None
    lease: Lease

    def is_of(self, request_id: str) -> bool:
        """Whether a request has made the tip or answered it, or belongs to the same exchange."""
        known = self.recent.find(request_id)
        return answer_task(request_id) in self.answered or (known is not None and known.end is None)

    def end_of(self, request_id: str | None) -> str | None:
        """The checkpoint at which a request had finished that others have followed; `None` if it is not known."""
        known = None if request_id is None else self.recent.find(request_id)
        return None if known is None else known.end

    def is_at_breakpoint(self, before: Sequence[str] | Literal["*"], after: Sequence[str] | Literal["*"]) -> bool:
        """Whether a run stops here until it is called without an input.

        Args:
            before: The nodes before which it stops; an asterisk for all.
            after: The nodes after which it stops.
        """
        nodes = {*self.due.nodes, *self.due.sends} - {"__start__"}
        return bool(nodes) and not self.has_begun and (_is_any(before, nodes) or _is_any(after, self.ran))


def _is_any(stops: Sequence[str] | Literal["*"], nodes: AbstractSet[str]) -> bool:
    return bool(nodes) if stops == "*" else not nodes.isdisjoint(stops)


_ANSWERS = "lg_answer_"


def answer_task(request_id: str) -> str:
    """The id of the task under which the answer of a request is stored."""
    return f"{_ANSWERS}{recent.digest_of(request_id)}"


# Reading

_PER_PAGE = 20
"""Checkpoints that are read at once to find the turn of the newest one."""


def status(thread_id: str, loads: Loads, context: Context) -> Flow[Status]:
    """What a thread is doing, in one or two rounds.

    Raises:
        CheckpointCorruptError: The tip is damaged, and the saver does not fall back to an older checkpoint; or its
            pending writes are.
        SerializationError: The serializer cannot read its metadata, or a question.
        UnsupportedFormatError: A newer version wrote it.
    """
    names = (
        keys.resume_doc(thread_id),
        keys.active_doc(thread_id),
        keys.fence_doc(thread_id),
        keys.beat_doc(thread_id),
        keys.requests_doc(thread_id),
    )
    newest, docs = yield from Gather((_newest(thread_id, None), GetDocs(names)))
    lease, said = lease_in(thread_id, docs), active.active_in(docs.get(names[1]))
    found = yield from _tip(thread_id, newest, context)
    if found is None:
        return Status(thread_id=thread_id, state="empty", has_turn=names[0] in docs, active=said, lease=lease)
    try:
        asked = docs.get(names[-1])
        read = yield from _read(found, docs.get(names[0]), lease, loads, context, has_requests=asked is not None)
        known = recent.NOTHING if asked is None else recent.recent_of(asked, context.codec)
        return replace(read, active=said, recent=known.at(read.run_id))
    except DamagedError as damage:
        yield from recheck(context, is_missing=damage.missing)
        raise unreadable(damage, thread_id, "", found.manifest.checkpoint_id) from None


def _newest(thread_id: str, after: str | None, limit: int = 1) -> QueryDocs:
    return QueryDocs(keys.checkpoints(thread_id), where=(("ns", keys.enc("")),), after=after, limit=limit)


def _tip(thread_id: str, docs: Sequence[Doc], context: Context) -> Flow[Found | None]:
    """The newest checkpoint of the root graph whose manifest can be read."""
    while docs:
        doc = docs[0]
        if keys.is_in_ns(doc.name, "") and kind_of(doc) is DocumentKind.CHECKPOINT:
            try:
                return Found(doc, (yield from read_manifest(doc, context.codec)))
            except DamagedError as damage:
                if damage.clear or not context.falls_back:
                    raise unreadable(damage, thread_id, "", keys.checkpoint_id_of(doc.name)) from None
        docs = yield from _newest(thread_id, doc.name)
    return None


def _read(
    found: Found, turn: Doc | None, lease: Lease, loads: Loads, context: Context, *, has_requests: bool
) -> Flow[Status]:
    known, thread_id = found.manifest, lease.thread_id
    metadata = metadata_of(known, loads)
    deciding = Found(found.doc, replace(known, channels=tips.deciding_in(known)))
    sources = Sources([deciding], context)
    results = yield from Gather((query(thread_id, "", known.checkpoint_id, known.checkpoint_id), *sources.fetches()))
    sources.fill(results[1:])
    size = deciding.manifest.size
    values = yield from Compute(partial(_values, deciding.manifest, sources, loads), size=size)
    due = tips.due_at(known, values, is_step=metadata.get("source") in ("input", "loop"))
    writes = yield from _Writes.read(known, results[0], loads, context)
    is_of_runs = turn is not None or has_requests
    of_turn = (yield from _of_turn(thread_id, found, loads, context)) if is_of_runs else metadata
    own = _text(of_turn, REQUEST)
    # An answer begins a turn, whose first checkpoint is still to come.
    request_id, run_id = writes.begun() or (own, _text(of_turn, RUN))
    of_tip = _turn_of(turn, run_id, context.codec)
    return Status(
        thread_id=thread_id,
        state=writes.state(due),
        checkpoint_id=known.checkpoint_id,
        step=_integer(metadata, "step", -2),
        made=_text(known.checkpoint, "ts"),
        stored=found.doc.create_time,
        holds=holds_of(found.doc),
        request_id=request_id,
        run_id=run_id,
        segment=_integer(of_turn, SEGMENT, 0),
        due=due,
        ran=tips.ran_at(known.checkpoint),
        has_begun=writes.has_begun,
        questions=writes.questions(),
        asked=writes.digests,
        answer=writes.answer(),
        answered=frozenset({*writes.answers, *(() if own is None else (answer_task(own),))}),
        turn=of_tip,
        attempts=0 if turn is None or of_tip is None else turns.attempts_of(turn),
        has_turn=turn is not None,
        lease=lease,
    )


def _of_turn(thread_id: str, found: Found, loads: Loads, context: Context) -> Flow[Mapping[str, Any]]:
    """The metadata of the last checkpoint of the tip's turn that `run` has stored.

    The graph's own methods, such as `update_state`, continue a turn without its ids. An input to them begins another
    turn. What is pruned or damaged cannot be followed.
    """
    doc, known, docs = found.doc, found.manifest, list[Doc]()
    metadata = metadata_of(known, loads)
    while RUN not in metadata and metadata.get("source") != "input" and known.parent_id is not None:
        docs = docs or (yield from _newest(thread_id, doc.name, _PER_PAGE))
        if not docs:
            break
        doc = docs.pop(0)
        is_parent = keys.is_in_ns(doc.name, "") and keys.checkpoint_id_of(doc.name) == known.parent_id
        if is_parent and kind_of(doc) is DocumentKind.CHECKPOINT:
            try:
                known = yield from read_manifest(doc, context.codec)
                metadata = metadata_of(known, loads)
            except DamagedError:
                break
    return metadata


def _values(known: Manifest, sources: Sources, loads: Loads) -> dict[str, object]:
    """The values that decide which nodes are due, by channel."""
    return {
        name: deserialize(loads, Serialized(ref.type, sources.plain(known, name)), "Channel", known, name)
        for name, ref in known.channels.items()
    }


def _turn_of(doc: Doc | None, run_id: str | None, codec: Codec) -> Turn | None:
    """The turn of the tip, if the document is about that turn."""
    if doc is None or run_id is None:
        return None
    found = turns.turn_of(doc, codec)
    return found if found.run_id == run_id else None


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    found = fields.get(name)
    return found if isinstance(found, str) else None


def _integer(fields: Mapping[str, Any], name: str, default: int) -> int:
    found = fields.get(name)
    return found if type(found) is int else default


class _Writes:
    """The pending writes of a tip.

    Attributes:
        finished: The tasks that have finished.
        asked: The tasks that were interrupted, by id, with the time of their last write.
        digests: Digests of their questions, as they are stored.
        failed: Those that have failed.
        interrupts: Their interrupts.
        answers: The answers, by the ids of their tasks, with their times.
        known: The time when LangGraph last stored a command itself; 0 if it has not.
        is_answered: Whether such a command answers a question.
        is_updated: Whether such a command updates the state, or chooses the next nodes.
    """

    def __init__(self) -> None:
        self.finished: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.failed: set[str] = set()
        self.interrupts: dict[str, list[Any]] = {}
        self.answers: dict[str, int] = {}
        self.contents: dict[str, Mapping[str, Any]] = {}
        self.known = 0
        self.is_answered = False
        self.is_updated = False

    @classmethod
    def read(cls, known: Manifest, docs: Sequence[Doc], loads: Loads, context: Context) -> Flow[_Writes]:
        """Read the documents of pending writes. Results of finished tasks are not read."""
        self = cls()
        wanted = [doc for doc in docs if self._take(doc)]
        checkpoint_id = known.checkpoint_id
        writes = (yield from read_writes([checkpoint_id], wanted, context.codec))[checkpoint_id]
        for write in writes:
            self._open(known, write, loads)
        return self

    def _take(self, doc: Doc) -> bool:
        """Note what the name and the times of a document say. Returns whether its content is needed."""
        task, is_special = keys.writes_task_of(doc.name)
        if task == keys.enc(_INPUT_TASK):
            self.known = max(self.known, doc.update_time)
            self.is_answered = self.is_answered or keys.ANSWERED in doc.fields
            self.is_updated = self.is_updated or not is_special
            return False
        if task.startswith(_ANSWERS):
            self.answers[task] = doc.update_time
            return True
        if not is_special:
            self.finished[task] = max(self.finished.get(task, 0), doc.update_time)
            return False
        if keys.FAILED in doc.fields:
            self.failed.add(task)
        question = doc.fields.get(keys.INTERRUPT)
        if not isinstance(question, bytes):
            return False
        self.asked[task] = doc.update_time
        self.digests[task] = hashlib.sha256(question).hexdigest()
        return True

    def _open(self, known: Manifest, write: PendingWrite, loads: Loads) -> None:
        task = keys.enc(write.task_id)
        if write.channel == ANSWER:
            content = deserialize(loads, write.value, "An answer", known)
            if isinstance(content, Mapping):
                self.contents[task] = content
        elif write.channel == _INTERRUPT:
            found = deserialize(loads, write.value, "An interrupt", known)
            self.interrupts[task] = list(found) if isinstance(found, list | tuple) else [found]

    @property
    def newest(self) -> str | None:
        """The latest answer."""
        return max(self.answers, key=lambda task: self.answers[task], default=None)

    @property
    def has_begun(self) -> bool:
        """Whether a task has written or failed, or a person has answered."""
        return bool(self.finished or self.asked or self.failed or self.answers or self.known)

    def begun(self) -> tuple[str | None, str | None] | None:
        """The request and the turn of the latest answer, if there is one."""
        content = {} if self.newest is None else self.contents.get(self.newest, {})
        run_id = content.get("run")
        return (_text(content, "request_id"), run_id) if isinstance(run_id, str) else None

    def _open_questions(self) -> list[str]:
        """The tasks that were interrupted and have not finished."""
        return [task for task in self.asked if task not in self.finished]

    def _is_for(self, task: str) -> bool:
        """Whether an answer came after a task's question, and is for that task."""
        asked, newest = self.asked[task], self.newest
        if newest is None:
            return (self.is_answered or self.is_updated) and self.known > asked  # by the graph's own methods
        # LangGraph stores a command beside the writes of the tasks that use it up, so its time proves nothing then.
        answered = self.contents.get(newest, {}).get("asked")
        if not isinstance(answered, Mapping) or answered.get(task) != self.digests[task]:
            return False
        # A question that looks the same was asked again. An error changes the time of the document too.
        if self.answers[newest] <= asked and task not in self.failed:
            return False
        mapped = interrupt_ids(self._command(newest).get("resume"))
        return mapped is None or any(question_of(one).id in mapped for one in self.interrupts.get(task, ()))

    def _command(self, task: str) -> Mapping[str, Any]:
        found = self.contents.get(task, {}).get("command")
        return found if isinstance(found, Mapping) else {}

    def _waiting(self) -> list[str]:
        return [task for task in self._open_questions() if not self._is_for(task)]

    def questions(self) -> tuple[Any, ...]:
        """The interrupts that wait for a person, each once: that of a `@task` is noted with its caller too."""
        found = [one for task in self._waiting() for one in self.interrupts.get(task, ())]
        return tuple({question_of(one).id or number: one for number, one in enumerate(found)}.values())

    def answer(self) -> Answer | None:
        """The latest answer, if the graph has not used it up."""
        newest = self.newest
        if newest is None:
            return None
        made, command = self.answers[newest], self._command(newest)
        # Without `resume`, it is used up by the next checkpoint.
        if command.get("resume") is not None and not any(map(self._is_for, self._open_questions())):
            return None
        ids = [
            question_of(one).id
            for task in self._open_questions()
            if self._is_for(task)
            for one in self.interrupts[task]
        ]
        return Answer(
            _text(self.contents.get(newest, {}), "request_id"),
            command,
            is_known=self.known > made,
            ids=frozenset(filter(None, ids)),
        )

    def state(self, due: Due) -> State:
        """What comes next."""
        answer, waiting = self.answer(), self._waiting()
        is_updated = self.is_updated or (answer is not None and answer.command.get("resume") is None)
        # What an update makes due is not known here.
        tasks = 0 if is_updated else due.tasks
        if waiting and waiting == self._open_questions() and len({*self.asked, *self.finished}) >= tasks:
            return "waiting"
        return "due" if is_updated or due.tasks or due.is_unknown else "finished"


def interrupt_ids(resume: object) -> frozenset[str] | None:
    """The ids of the interrupts that a `Command` answers one by one; `None` if it has one answer."""
    if isinstance(resume, Mapping) and all(_is_interrupt_id(key) for key in resume):
        return frozenset(resume)
    return None


def _is_interrupt_id(key: object) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(char in "0123456789abcdef" for char in key)


def question_of(interrupt: object) -> Question:
    """An interrupt as a question. A saver that imports nothing reads it as it was stored."""
    if isinstance(interrupt, Stored) and interrupt.parts is not None and isinstance(interrupt.parts[2], Mapping):
        fields = interrupt.parts[2]
        return Question(str(fields.get("id", "")), fields.get("value"))
    return Question(str(getattr(interrupt, "id", "")), getattr(interrupt, "value", interrupt))


# Deciding

Action = Literal["start", "answer", "continue", "return"]
"""Start a turn with an input; give the graph a command; continue what has begun; return what is there."""


def decide(
    found: Status,
    request_id: str | None,
    given: Literal["nothing", "command", "input"],
    is_at_breakpoint: bool,
) -> Action:
    """What a run does.

    Args:
        found: What the thread is doing.
        request_id: The caller's id of the request, if there is one.
        given: What the caller passes to the graph.
        is_at_breakpoint: Whether a run stops here until it is called without an input.
    """
    start: Action = "answer" if given == "command" else "start"
    if found.state == "empty":
        return "continue" if given == "nothing" else start
    if found.end_of(request_id) is not None:
        return "return"
    is_same = request_id is not None and found.is_of(request_id)
    if found.state == "waiting":
        return "answer" if given == "command" and not is_same else "return"
    if found.state == "finished":
        return "continue" if is_same or given == "nothing" else start
    if is_same or request_id is None or given == "nothing":
        # A retry must not pass a breakpoint. A call without an input does, as with LangGraph's own `invoke`.
        return "return" if is_at_breakpoint and given == "input" else "continue"
    return start


# Writing


def beside(thread_id: str) -> tuple[str, str]:
    """The documents that change when a process begins to work on a turn, and when it ends."""
    return keys.resume_doc(thread_id), keys.active_doc(thread_id)


def begun(thread_id: str, docs: Mapping[str, Doc]) -> tuple[Write, ...]:
    """The writes that count a process among those that have worked on the turn of a thread, if there is one.

    Args:
        thread_id: The thread.
        docs: Those of the documents `beside` it that exist.
    """
    resume, noted = beside(thread_id)
    doc, former = docs.get(resume), active.active_in(docs.get(noted))
    begins = active.noted(thread_id, "running", 1 if former is None else former.attempts + 1)
    if doc is None:
        return (begins,)
    return begins, Merge(resume, {turns.ATTEMPTS: turns.attempts_of(doc) + 1}, update_time=doc.update_time)


def changed(thread_id: str, turn: Turn, codec: Codec) -> Write:
    """The write that changes what is stored about a turn, and not how many processes have worked on it."""
    name = keys.resume_doc(thread_id)
    return Merge(name, {turns.TURN: turns.sealed(turn, name, codec)})


def left(thread_id: str, docs: Mapping[str, Doc]) -> tuple[Write, ...]:
    """The writes that undo `begun`, for a process that has not worked on the turn.

    Args:
        thread_id: The thread.
        docs: Those of the documents `beside` it that existed before.
    """
    resume, noted = beside(thread_id)
    doc = docs.get(resume)
    back = active.restored(thread_id, active.active_in(docs.get(noted)))
    return (back,) if doc is None else (back, Merge(resume, {turns.ATTEMPTS: turns.attempts_of(doc)}))


def ended(
    thread_id: str, how: Literal["finished", "waiting", "paused", "crashed"], *, has_turn: bool
) -> tuple[Write, ...]:
    """The writes that say how a process's work on a turn has ended.

    Args:
        thread_id: The thread.
        how: `crashed` if it raised an error. Such a process still counts.
        has_turn: Whether the turn has a document.
    """
    resume = keys.resume_doc(thread_id)
    if how == "finished":
        return active.finished(thread_id), *((Delete(resume),) if has_turn else ())
    if how == "crashed":
        return (active.noted(thread_id, how),)
    return active.noted(thread_id, how, 0), *((Merge(resume, {turns.ATTEMPTS: 0}),) if has_turn else ())


@record(frozen=True, slots=True)
class Opening:
    """The companion that stores a turn with its input.

    Attributes:
        thread_id: The thread.
        fields: The fields of the turn's document.
        requests: Those of the document of the latest requests; `None` if it stays as it is.
        state: What is noted about the thread.
    """

    thread_id: str
    fields: Mapping[str, Any]
    requests: Mapping[str, Any] | None = None
    state: active.State = "running"

    def reads(self, attempt: Attempt, /) -> tuple[str, ...]:  # noqa: ARG002 - it replaces what is there
        """No documents."""
        return ()

    def writes(self, attempt: Attempt, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:  # noqa: ARG002 - as above
        """The document of the turn, in place of an earlier turn's, and the note that a worker may have to resume it."""
        attempts = turns.attempts_of(Doc("", self.fields, 0, 0))
        return (
            Merge(keys.resume_doc(self.thread_id), self.fields),
            active.noted(self.thread_id, self.state, attempts),
            *(() if self.requests is None else (Merge(keys.requests_doc(self.thread_id), self.requests),)),
        )


def opening(found: Status, turn: Turn, content: str | None, codec: Codec, *, begins: bool = True) -> Opening:
    """The companion that stores a turn with its input.

    Args:
        found: What the thread is doing before.
        turn: The turn.
        content: The digest of its input, if there is one.
        codec: Writes frames.
        begins: Whether the caller works on the turn. If not, a worker has to.

    Raises:
        ValueTooLargeError: The context is larger than a document should be.
    """
    thread_id = found.thread_id
    fields = turns.fields_of(turn, keys.resume_doc(thread_id), codec)
    requests = _requests(found, turn, content, codec)
    if begins:
        return Opening(thread_id, fields, requests)
    return Opening(thread_id, {**fields, turns.ATTEMPTS: 0}, requests, "due")


def _requests(found: Status, turn: Turn, content: str | None, codec: Codec) -> Mapping[str, Any] | None:
    """The fields of the document of the latest requests once a turn has begun; `None` if it stays as it is."""
    if turn.request_id is None and all(one.end for one in found.recent.requests):
        return None
    asked = None if turn.request_id is None else Request(recent.digest_of(turn.request_id), content)
    known = found.recent.followed(turn.run_id, asked, found.checkpoint_id if found.state == "finished" else None)
    return recent.fields_of(known, keys.requests_doc(found.thread_id), codec)
