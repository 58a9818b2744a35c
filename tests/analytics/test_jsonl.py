"""`Jsonl`: whole lines, whatever happens to the processes that write them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver, analytics
from langgraph_gcs_saver.analytics import jsonl
from tests.patience import PATIENCE
from tests.system.build import put

WRITING = """
import sys
from itertools import count
from langgraph_gcs_saver import analytics
from langgraph_gcs_saver.analytics.rows import as_json
sink = analytics.Jsonl(sys.argv[1])
for number in count():
    line = '{"schema":1,"event_id":"%s-%s","pad":"%s"}\\n' % (sys.argv[2], number, "x" * 200)
    try:
        sink.send([line.encode()] * 2000)
    except BlockingIOError:  # another process has the lock
        continue
    print("written", flush=True)
"""


def test_processes_that_write_one_file_and_are_killed_leave_whole_lines(tmp_path):
    path, processes = tmp_path / "rows.jsonl", []
    for name in "abc":
        command = [sys.executable, "-c", WRITING, str(path), name]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    try:
        for number, process in enumerate(processes):
            assert process.stdout.readline() == b"written\n"
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE) == -signal.SIGKILL, number
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    analytics.Jsonl(path).send([b'{"schema":1,"event_id":"last"}\n'])
    found = [json.loads(line)["event_id"] for line in path.read_bytes().split(b"\n")[:-1]]
    assert found[-1] == "last"
    assert {one.partition("-")[0] for one in found} == {*"abc", "last"}
    counts = {one: found.count(one) for one in set(found)} | {"last": 2000}
    assert sum(count != 2000 for count in counts.values()) <= 3  # a killed process may have written a part of a batch


@pytest.mark.parametrize("part", [b"{", b'{"schema":1,"event_', b'{"schema":1,"event_id":"1"}'])
def test_a_part_of_a_line_is_removed_by_the_next_write(tmp_path, part):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"schema":1}\n' + part)
    analytics.Jsonl(path).send([b'{"schema":1,"n":2}\n'])
    assert path.read_bytes() == b'{"schema":1}\n{"schema":1,"n":2}\n'


def test_a_line_of_another_program_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"theirs")
    analytics.Jsonl(path).send([b'{"schema":1}\n'])
    assert path.read_bytes() == b'theirs\n{"schema":1}\n'


def test_only_the_user_can_read_the_file(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    before = os.umask(0)
    try:
        analytics.Jsonl(path).send([b'{"schema":1}\n'])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_rotation_keeps_every_row(tmp_path):
    sink = analytics.Jsonl(tmp_path / "rows.jsonl", rotate_bytes=2000, batch=2, seconds=0)
    with GCSSaver.from_conn_string("memory:") as saver:
        saver.subscribe(sink)
        for n in range(1, 11):
            put(saver, n, {"v": n}, parent=n - 1 if n > 1 else None)
            assert sink.flush(PATIENCE)
    files = list(tmp_path.glob("rows*.jsonl"))
    assert len(files) > 3
    assert all(file.stat().st_size <= 2000 for file in files)
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len({row["event_id"] for row in rows}) == len(rows) == sink.written == 20


def test_a_file_that_was_renamed_is_made_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    sink = analytics.Jsonl(path)
    sink.send([b'{"schema":1}\n'])
    path.rename(tmp_path / "old")
    sink.send([b'{"schema":1}\n'])
    assert path.read_bytes() == (tmp_path / "old").read_bytes() == b'{"schema":1}\n'


FULL = """
import resource, signal, sys
from langgraph_gcs_saver import analytics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sink = analytics.Jsonl(sys.argv[1])
line = b'{"schema":1,"pad":"' + b"x" * 50 + b'"}\\n'
sink.send([line])
try:
    sink.send([line])
except OSError as error:
    assert sink.is_transient(error), error
else:
    raise AssertionError("nothing was raised")
"""


def test_a_full_disk_leaves_no_part_of_a_batch(tmp_path):
    path = tmp_path / "rows.jsonl"
    subprocess.run([sys.executable, "-c", FULL, str(path)], check=True, timeout=PATIENCE)
    assert len(path.read_bytes().splitlines()) == 1
    assert path.read_bytes().endswith(b'"}\n')


def test_a_process_that_was_forked_in_the_middle_of_a_write_does_not_keep_the_lock(tmp_path, monkeypatch):
    sink, read = analytics.Jsonl(tmp_path / "rows.jsonl"), jsonl._whole
    waits, ends = os.pipe()
    children = []

    def fork(handle):
        if not children:
            children.append(os.fork())
            if children == [0]:
                os.close(ends)
                os.read(waits, 1)  # until the parent has ended, or the test
                os._exit(0)
        return read(handle)

    monkeypatch.setattr(jsonl, "_whole", fork)
    try:
        for _ in range(2):
            sink.send([b'{"schema":1}\n'])
    finally:
        os.close(ends)
        os.close(waits)
        os.waitpid(children[0], 0)
    assert sink.path.read_bytes() == b'{"schema":1}\n' * 2


def test_a_directory_in_the_place_of_the_file_costs_rows_only(tmp_path):
    sink = analytics.Jsonl(tmp_path)
    with GCSSaver.from_conn_string("memory:") as saver:
        saver.subscribe(sink)
        put(saver, 1, {"v": 1})
        assert not sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (0, 2)


def test_a_pipe_does_not_hold_the_sink(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a file") as caught:
        analytics.Jsonl(path).send([b"{}\n"])
    assert not analytics.Jsonl(path).is_transient(caught.value)
