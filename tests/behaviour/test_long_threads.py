"""A thread of 2,000 checkpoints is copied, pruned and deleted in rounds in proportion to documents over batch size."""

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.flows import copy
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import cfg
from tests.behaviour.test_prune import lengthy
from tests.system.raw import open_raw

LENGTHS = (200, 2000)


def test_rounds(tmp_path):
    uri = f"file://{tmp_path}"
    counts = {}
    count = CountingInterceptor()
    with GCSSaver.from_conn_string(uri, verify="off", interceptors=[count]) as saver:
        for length in LENGTHS:
            lengthy(saver, length, f"{length}", write=False)
        for length in LENGTHS:
            source, target = f"{length}", f"copy of {length}"
            for name, act in (
                ("copy_thread", lambda source=source, target=target: saver.copy_thread(source, target)),
                ("prune", lambda source=source: saver.prune([source])),
                ("delete_for_runs", lambda source=source: saver.delete_for_runs([f"run {int(source) // 10}"])),
                ("delete_thread", lambda target=target: saver.delete_thread(target)),
            ):
                count.clear()
                act()
                counts[name, length] = len(count.rounds)
            assert list(saver.list(cfg(source))) == []
            assert saver.get_tuple(cfg(source)) is None
    raw = open_raw(uri)
    assert sorted(raw.documents()) == sorted(keys.thread_doc(f"{length}") for length in LENGTHS)
    raw.close()
    more = LENGTHS[1] - LENGTHS[0]
    # A page with its frames, and a commit.
    assert _grown(counts, "copy_thread") <= 2 * more / copy.CHECKPOINTS_PER_PAGE + 1
    # A commit. For the documents of runs, one for ten checkpoints: two more commits, and the reads for them.
    assert _grown(counts, "prune") <= 2 * more / limits.COMMIT_WRITES + 1
    # A query and a commit, with the runs.
    assert _grown(counts, "delete_thread") <= 2 * more / limits.COMMIT_WRITES + 1
    assert _grown(counts, "delete_for_runs") <= 0
    print(counts)


def _grown(counts, name):
    return counts[name, LENGTHS[1]] - counts[name, LENGTHS[0]]
