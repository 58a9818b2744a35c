"""Three corpora of short threads, each stored by a real graph: a chat, an agent with tools, a pipeline of documents.

A corpus is the same for the same seed, except for the ids and times that LangGraph makes. Threads of a corpus share
what threads of one deployment share: instructions, names of fields, the form of tools' results, the clauses of forms.
What people and models write differs from thread to thread. Its words follow each other as they do in Python's own
documentation, so texts have the statistics of prose and repeat no sentence.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pydoc_data.topics import topics
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

Play = Callable[[str, "Writer"], None]
"""Runs one thread: its id, and the writer of its texts."""


@cache
def _followers() -> dict[str, list[str]]:
    """Each word of the documentation, and the words that follow it."""
    words = " ".join(topics[name] for name in sorted(topics)).split()
    found: dict[str, list[str]] = {}
    for word, following in zip(words, [*words[1:], words[0]], strict=True):
        found.setdefault(word, []).append(following)
    return found


class Writer:
    """Writes the texts and facts of one thread.

    Args:
        seed: Determines what it writes.
        own_words: Whether no other writer uses its words, except by chance.
    """

    def __init__(self, seed: object, *, own_words: bool = False) -> None:
        self.random = random.Random(str(seed))
        self._key = self.random.getrandbits(32) if own_words else None
        self._words: dict[str, str] = {}

    def text(self, least: int, most: int) -> str:
        """So many words, most often nearer to `least`, as lengths of messages are distributed."""
        followers = _followers()
        count = int(least * (most / least) ** self.random.random())
        words = [self.random.choice(list(followers))]
        while len(words) < count:
            words.append(self.random.choice(followers[words[-1]]))
        return " ".join(words if self._key is None else map(self._own, words))

    def _own(self, word: str) -> str:
        """A word as long as the given one, which always stands for it."""
        if word not in self._words:
            letters = random.Random(f"{self._key} {word}")
            self._words[word] = "".join(letters.choices("etaoinshrdlucmfwypvbgkqjxz", range(26, 0, -1), k=len(word)))
        return self._words[word]

    def id(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def digits(self, count: int) -> str:
        return "".join(self.random.choices("0123456789", k=count))

    def letters(self, count: int) -> str:
        return "".join(self.random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", k=count))

    def name(self) -> str:
        """A person's name: 40 x 40 syllables for each part."""
        syllables = [
            a + b for a in ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti") for b in ("n", "r", "s", "la", "ck")
        ]
        return " ".join("".join(self.random.choices(syllables, k=2)).title() for _ in range(2))

    def date(self) -> str:
        return f"2026-{self.random.randint(1, 12):02}-{self.random.randint(1, 28):02}"

    def human(self, least: int = 5, most: int = 80) -> HumanMessage:
        return HumanMessage(self.text(least, most), id=self.id())

    def ai(self, content: str, tool_calls: list[dict[str, Any]] | None = None) -> AIMessage:
        """An answer with the metadata that clients of model services add to it."""
        asked, answered = self.random.randint(300, 4000), self.random.randint(10, 700)
        return AIMessage(
            content,
            id=f"run--{self.id()}-0",
            tool_calls=tool_calls or [],
            response_metadata={
                "token_usage": {
                    "completion_tokens": answered,
                    "prompt_tokens": asked,
                    "total_tokens": asked + answered,
                    "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
                    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
                },
                "model_name": "large-model-2026-04-14",
                "system_fingerprint": "fp_b376dfbbd5",
                "id": f"chatcmpl-{self.letters(29)}",
                "finish_reason": "tool_calls" if tool_calls else "stop",
                "logprobs": None,
            },
            usage_metadata={
                "input_tokens": asked,
                "output_tokens": answered,
                "total_tokens": asked + answered,
                "input_token_details": {"audio": 0, "cache_read": 0},
                "output_token_details": {"audio": 0, "reasoning": 0},
            },
        )


def _config(thread_id: str, writer: Writer) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "writer": writer}}


def _writer(config: RunnableConfig) -> Writer:
    found: Writer = config["configurable"]["writer"]
    return found


def chat(saver: Any) -> Play:
    """A support chat of 1 to 4 turns. Its first message is the prompt of one of three assistants."""
    prompts = [Writer(f"prompt {number}").text(200, 600) for number in range(3)]

    def reply(_: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        writer = _writer(config)
        return {"messages": [writer.ai(writer.text(20, 300))]}

    builder = StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply").add_edge("reply", END)
    graph = builder.compile(checkpointer=saver)

    def play(thread_id: str, writer: Writer) -> None:
        beginning = [SystemMessage(writer.random.choice(prompts), id=writer.id())]
        for _ in range(writer.random.choices((1, 2, 3, 4), (4, 3, 2, 1))[0]):
            graph.invoke({"messages": [*beginning, writer.human()]}, _config(thread_id, writer))
            beginning = []

    return play


@tool
def find_orders(customer: str, since: str, config: RunnableConfig) -> str:
    """Find a customer's orders. They are for products of one catalog."""
    writer = _writer(config)
    orders = [
        {
            "order_id": writer.id(),
            "customer_id": customer,
            "status": writer.random.choice(["open", "paid", "shipped", "returned"]),
            "created_at": f"{since}T08:{writer.digits(2)}:{writer.digits(2)}Z",
            "currency": "EUR",
            "total": writer.random.randint(500, 90000) / 100,
            "items": [
                {
                    "sku": f"SKU-{n:07}",
                    "title": Writer(f"product {n}").text(3, 8),
                    "quantity": writer.random.randint(1, 4),
                }
                for n in writer.random.sample(range(5000), writer.random.randint(1, 4))
            ],
        }
        for _ in range(writer.random.randint(1, 5))
    ]
    return json.dumps(orders)


@tool
def get_customer(customer: str, config: RunnableConfig) -> str:
    """Get the record of a customer."""
    writer = _writer(config)
    record = {
        "customer_id": customer,
        "name": writer.name(),
        "email": f"{writer.name().replace(' ', '.').lower()}@example.com",
        "tier": writer.random.choice(["basic", "plus", "business"]),
        "address": {"street": writer.name(), "postal_code": writer.digits(5), "country": "DE"},
        "marketing_consent": writer.random.random() < 0.5,
        "notes": writer.text(5, 60),
    }
    return json.dumps(record)


@tool
def search_help(query: str, config: RunnableConfig) -> str:
    """Search the help center, which has 200 articles."""
    numbers = _writer(config).random.sample(range(200), 3)
    articles = [(n, Writer(f"article {n}")) for n in numbers]
    return json.dumps(
        [
            {"article": f"help/{n}", "title": one.text(4, 8), "text": one.text(60, 150), "query": query}
            for n, one in articles
        ]
    )


def agent(saver: Any) -> Play:
    """An agent with three tools, 1 or 2 turns of 1 to 3 calls. Its prompt is not in the state."""

    def think(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        writer = _writer(config)
        asked = max(n for n, message in enumerate(state["messages"]) if isinstance(message, HumanMessage))
        calls = (len(state["messages"]) - asked) // 2
        if calls > 3 or (calls and writer.random.random() < 0.5):
            return {"messages": [writer.ai(writer.text(20, 200))]}
        customer = f"C-{writer.digits(8)}"
        name, args = writer.random.choice(
            [
                ("find_orders", {"customer": customer, "since": writer.date()}),
                ("get_customer", {"customer": customer}),
                ("search_help", {"query": writer.text(3, 10)}),
            ]
        )
        call = {"name": name, "args": args, "id": f"call_{writer.letters(24)}", "type": "tool_call"}
        return {"messages": [writer.ai("", [call])]}

    builder = StateGraph(MessagesState).add_node("agent", think)
    builder.add_node("tools", ToolNode([find_orders, get_customer, search_help]))
    builder.add_edge(START, "agent").add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")
    graph = builder.compile(checkpointer=saver)

    def play(thread_id: str, writer: Writer) -> None:
        for _ in range(writer.random.choices((1, 2), (3, 2))[0]):
            graph.invoke({"messages": [writer.human()]}, _config(thread_id, writer))

    return play


class Claim(TypedDict, total=False):
    """The state of the document pipeline."""

    document: str
    kind: str
    fields: dict[str, Any]
    checks: list[dict[str, Any]]
    summary: str
    decision: dict[str, Any]


def documents(saver: Any) -> Play:
    """A pipeline of five nodes over a claim: a letter of 100 to 800 words with the form's own clauses."""
    clauses = [Writer(f"clause {number}").text(40, 120) for number in range(8)]
    rules = [Writer(f"rule {number}").text(8, 20) for number in range(10)]

    def classify(_: Claim, config: RunnableConfig) -> Claim:
        return {"kind": _writer(config).random.choice(["damage", "theft", "liability", "travel"])}

    def extract(_: Claim, config: RunnableConfig) -> Claim:
        writer = _writer(config)
        return {
            "fields": {
                "policy_number": f"P-{writer.digits(9)}",
                "policy_holder": {"name": writer.name(), "email": f"{writer.letters(8)}@example.com"},
                "date_of_loss": writer.date(),
                "amount_claimed": {"value": writer.random.randint(50, 90_000), "currency": "EUR"},
                "location": writer.text(2, 6),
                "confidence": round(writer.random.random(), 3),
            }
        }

    def check(_: Claim, config: RunnableConfig) -> Claim:
        writer = _writer(config)
        return {
            "checks": [
                {"rule": rule, "passed": writer.random.random() < 0.8, "evidence": writer.text(5, 25)} for rule in rules
            ]
        }

    def summarize(_: Claim, config: RunnableConfig) -> Claim:
        return {"summary": _writer(config).text(40, 150)}

    def decide(_: Claim, config: RunnableConfig) -> Claim:
        writer = _writer(config)
        outcome = writer.random.choice(["approve", "reject", "ask_for_documents", "refer_to_adjuster"])
        return {"decision": {"outcome": outcome, "reason": writer.text(10, 60), "reviewed_by": None}}

    steps = (classify, extract, check, summarize, decide)
    builder = StateGraph(Claim)
    graph = builder.add_sequence(list(steps)).add_edge(START, "classify").compile(checkpointer=saver)

    def play(thread_id: str, writer: Writer) -> None:
        used = "\n\n".join(writer.random.sample(clauses, 3))
        letter = f"CLAIM FORM 27-B\nDate: {writer.date()}\nName: {writer.name()}\n\n{writer.text(100, 800)}\n\n{used}"
        graph.invoke({"document": letter}, _config(thread_id, writer))

    return play


CORPORA: dict[str, Callable[[Any], Play]] = {"chat": chat, "tool agent": agent, "documents": documents}


def fill(saver: Any, corpus: str, threads: int, *, own_words: bool = False) -> Iterator[str]:
    """Store the threads of a corpus; yields the id of each."""
    play = CORPORA[corpus](saver)
    for number in range(threads):
        thread_id = f"{corpus.replace(' ', '-')}-{number:05}"
        play(thread_id, Writer(thread_id, own_words=own_words))
        yield thread_id
