"""What sizes disclose to an attacker who can read the store, has no key, and chooses a part of the state.

Values are compressed before they are encrypted. So a guess that repeats a secret of the same value takes fewer bytes
than one that does not. With `zstd_level=None` sizes depend on lengths, and on nothing else. The tests compare only
bytes, and the secrets, the guesses and the order of both are the same each time.
"""

import hashlib
import json
import random
from typing import TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import MessagesState

from tests.incremental.eax import Eax
from tests.system.build import cfg, put, values

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")

HIDING = {"zstd_level": None}
TELLING = [{}, {"incremental": False}, {"incremental": False, "zstd_level": 19}, {"inline_max_bytes": 0}]
"""That values are stored in full does not help, as long as they are compressed."""

SEEDS = range(4)


def digits(rng):
    return "".join(rng.choice("0123456789abcdef") for _ in range(12))


def sizes(raw, before=(frozenset(), frozenset())):
    """The sizes of all payloads in documents and objects that were not there before, as an observer may read them."""
    documents, objects = raw.snapshot()
    found = [
        (name.split("/")[2], field, len(value))
        for name, fields in documents.items()
        if name not in before[0] and name.count("/") > 1
        for field, value in fields.items()
        if isinstance(value, bytes)
    ]
    return sorted([*found, *(("object", "", len(data)) for name, data in objects.items() if name not in before[1])])


class Attacker:
    """Sends texts to an agent with a secret in its state, each time from the same checkpoint, and compares sizes."""

    def __init__(self, saver, raw, rng):
        self.saver, self.raw, self.rng = saver, raw, rng
        self.secret = digits(rng)
        told = " ".join(f"word{rng.randrange(10**6):06}" for _ in range(40))
        self.system = ["system", f"You are the assistant of ACME. door_code={self.secret} Answer briefly. {told}"]
        self.asked = 1
        put(saver, 1, {"messages": [self.system]})

    def size(self, text):
        """The sizes of what a step with this text stored."""
        documents, objects = self.raw.snapshot()
        self.asked += 1
        put(self.saver, self.asked, {"messages": [self.system, ["user", text]]}, parent=1)
        return sizes(self.raw, (documents.keys(), objects.keys()))

    def candidates(self):
        found = [self.secret, *(digits(self.rng) for _ in range(15))]
        self.rng.shuffle(found)
        return found


def of_frames(found):
    """Bytes of frames of values; digests make those of manifests vary by a few bytes."""
    return sum(size for kind, field, size in found if field == "frames" or kind == "object")


@LOCAL
@pytest.mark.parametrize("options", TELLING, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_tell_a_secret_that_is_guessed(make_saver, raw, seed, options):
    """This is no goal. It shows that the other tests here see what an attacker would see."""
    attacker = Attacker(make_saver(cipher=KEY, **options), raw, random.Random(seed))
    found = {text: of_frames(attacker.size(f"door_code={text}")) for text in attacker.candidates()}
    assert min(found, key=found.__getitem__) == attacker.secret


@LOCAL
@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["inline", "objects"])
@pytest.mark.parametrize("seed", SEEDS)
def test_without_compression_they_tell_lengths_only(make_saver, raw, seed, inline):
    attacker = Attacker(make_saver(cipher=KEY, inline_max_bytes=inline, **HIDING), raw, random.Random(seed))
    whole = [attacker.size(f"door_code={text}") for text in attacker.candidates()]
    begun = [attacker.size(f"door_code={attacker.secret[:5]}{digit}") for digit in "0123456789abcdef"]
    assert len({str(one) for one in whole}) == len({str(one) for one in begun}) == 1
    assert whole[0] != begun[0], "lengths are disclosed"
    assert {kind for kind, _, _ in whole[0]} == {"lg_checkpoints", *(["object"] if inline == 0 else [])}


def test_equal_values_are_stored_again(make_saver, raw):
    """If an equal value were not stored, its absence would disclose that the value is the same as before."""
    seen = {}
    for name, options in {"compressed": {"incremental": False}, "hiding": HIDING}.items():
        saver = make_saver(cipher=KEY, **options)
        for thread, text in (("same", "no "), ("other", "yes")):
            put(saver, 1, {"answer": "no ", "n": 1}, thread=thread)
            documents, objects = raw.snapshot()
            put(saver, 2, {"answer": text, "n": 2}, parent=1, thread=thread)
            seen[name, thread] = sizes(raw, (documents.keys(), objects.keys()))
            assert values(make_saver(cipher=KEY).get_tuple(cfg(thread=thread)))["answer"] == text
            saver.delete_thread(thread)
    assert seen["compressed", "same"] != seen["compressed", "other"]
    assert seen["hiding", "same"] == seen["hiding", "other"]


@LOCAL
@pytest.mark.parametrize("options", [{}, HIDING], ids=str)
def test_pending_writes(make_saver, raw, options):
    """A task's writes are compressed together: what the user says beside what a tool has found."""
    rng = random.Random(7)
    saver, secret = make_saver(cipher=KEY, **options), digits(rng)
    put(saver, 1, {"messages": []})
    found = {}
    for number, text in enumerate([secret, *(digits(rng) for _ in range(15))]):
        documents, objects = raw.snapshot()
        writes = [("found", f"the door_code={secret} of ACME"), ("messages", f"door_code={text}")]
        saver.put_writes(cfg(1), writes, f"task {number:02}")
        found[text] = sizes(raw, (documents.keys(), objects.keys()))
    if options is HIDING:
        assert len({str(one) for one in found.values()}) == 1
    else:
        assert min(found, key=lambda text: sum(size for _, _, size in found[text])) == secret


@LOCAL
@pytest.mark.parametrize("options", [{}, HIDING], ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_graph_that_is_asked_again_and_again(make_saver, raw, seed, options):
    """With nothing but messages. The user may send any, each time from the same checkpoint."""
    rng = random.Random(seed)

    def new_id():
        return f"{rng.randrange(1 << 32):08x}"

    builder = StateGraph(MessagesState)
    builder.add_node("agent", lambda _: {"messages": [AIMessage("I cannot tell you that.", id=new_id())]})
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    secret = f"{rng.randrange(10**6):06}"
    with make_saver(cipher=KEY, **options) as saver:
        graph = builder.compile(checkpointer=saver)
        system = SystemMessage(f"The PIN of this customer's card is PIN={secret}; never say it.", id="s")
        graph.update_state({"configurable": {"thread_id": "t"}}, {"messages": [system]}, as_node="agent")
        base = saver.get_tuple(cfg()).config

        def frames(text):
            """Sizes of the frames that a run has stored; those of manifests depend on random versions as well."""
            before = raw.documents().keys()
            graph.invoke({"messages": [HumanMessage(f"PIN={text};", id=new_id())]}, base, durability="sync")
            found = [(name, fields) for name, fields in raw.documents().items() if name not in before]
            return sorted(len(fields["frames"]) for name, fields in found if "frames" in fields)

        texts = [secret, *(f"{rng.randrange(10**6):06}" for _ in range(9))]
        rng.shuffle(texts)
        found = {text: frames(text) for text in texts}
    if options is HIDING:
        assert len({str(one) for one in found.values()}) == 1
    else:
        assert min(found, key=lambda text: sum(found[text])) == secret


@LOCAL
def test_any_saver_reads_what_is_not_compressed(make_saver):
    """A thread that savers of both kinds continue, by turns, and a value of several blocks."""
    text = {n: [f"message {n} {number}" for number in range(9000)] for n in range(1, 7)}
    for n in range(1, 7):
        options = HIDING if n % 3 else {}
        put(
            make_saver(cipher=KEY, **options), n, {"messages": text[n], "large": "x" * n * 70_000}, parent=n - 1 or None
        )
        for reader in ({}, HIDING):
            found = make_saver(cipher=KEY, **reader)
            for earlier in range(1, n + 1):
                wanted = {"messages": text[earlier], "large": "x" * earlier * 70_000}
                assert values(found.get_tuple(cfg(earlier))) == wanted
    assert [one for one in make_saver(cipher=KEY).admin.verify("t", depth="data") if one.is_damage] == []


@LOCAL
@pytest.mark.parametrize("seed", SEEDS)
def test_a_serializer_that_encrypts_tells_lengths_of_values_only(make_saver, raw, seed):
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    attacker = Attacker(make_saver(serde=serde), raw, random.Random(seed))
    assert len({of_frames(attacker.size(f"door_code={text}")) for text in attacker.candidates()}) == 1


# Names


class Decision(TypedDict, total=False):
    risk: int
    note: str


BRANCHES = ["approve", "reject", "report"]


@LOCAL
@pytest.mark.parametrize("taken", range(3))
def test_names_of_pending_writes_tell_a_branch(make_saver, raw, taken):
    """As the page on security says, an attacker who guesses the names can compute their digest."""
    builder = StateGraph(Decision)
    for node in ("assess", *BRANCHES):
        builder.add_node(node, lambda _: {"note": "x"})
    builder.add_edge(START, "assess")
    builder.add_conditional_edges("assess", lambda state: BRANCHES[state["risk"]], BRANCHES)
    for node in BRANCHES:
        builder.add_edge(node, END)
    with make_saver(cipher=KEY, **HIDING) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"risk": taken}, {"configurable": {"thread_id": "t"}}, durability="sync")
    seen = {name.rpartition("!")[2] for name in raw.documents() if "/lg_writes/" in name}
    guesses = {
        branch: hashlib.sha256(json.dumps([[0, "note"], [1, f"branch:to:{branch}"]]).encode()).hexdigest()[:16]
        for branch in BRANCHES
    }
    assert [branch for branch, digest in guesses.items() if digest in seen] == [BRANCHES[taken]]


@LOCAL
def test_fields_of_pending_writes_tell_what_became_of_a_task(make_saver, raw):
    saver = make_saver(cipher=KEY, **HIDING)
    put(saver, 1, {"v": 1})
    for channel in ("__error__", "__scheduled__", "__interrupt__", "__resume__"):
        saver.put_writes(cfg(1), [(channel, "secret")], f"task {channel.strip('_')}")
    found = {
        name.split("!")[2]: fields.keys() - {"format"}
        for name, fields in raw.documents().items()
        if "/lg_writes/" in name
    }
    assert sorted(map(sorted, found.values())) == [["w1"], ["w2"], ["w3"], ["w4"]]
