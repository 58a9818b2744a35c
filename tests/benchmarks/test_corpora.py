"""The corpora of short threads: they are the same for the same seed, and threads differ in what people write."""

import pytest
from langchain_core.messages import ToolMessage

from benchmarks.corpora import CORPORA, Writer, fill
from langgraph_gcs_saver import GCSSaver


def states(corpus, **options):
    """The final state of each of three threads, without what LangGraph makes."""
    with GCSSaver.from_conn_string("memory:") as saver:
        ids = list(fill(saver, corpus, 3, **options))
        configs = [{"configurable": {"thread_id": thread}} for thread in ids]
        found = [saver.get_tuple(config).checkpoint["channel_values"] for config in configs]
    for message in (message for state in found for message in state.get("messages", ())):
        if isinstance(message, ToolMessage):
            message.id = None
    return found


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_is_the_same_each_time(corpus):
    once = states(corpus)
    assert once == states(corpus)
    assert once[0] != once[1] != once[2] != once[0]
    own = states(corpus, own_words=True)
    assert own != once
    assert own == states(corpus, own_words=True)


def test_own_words_occur_in_no_other_thread():
    """All but the short ones, which chance may repeat."""
    texts = [Writer(n, own_words=True).text(200, 201).split() for n in range(2)]
    one, other = ({word for word in text if len(word) > 6} for text in texts)
    assert one
    assert not one & other
    assert set(Writer(1).text(200, 201).split()) & set(Writer(2).text(200, 201).split())
