"""Grows a line of checkpoints, forks, and grows it on both sides; run as a program with a connection string.

Prints every checkpoint's values by number.
"""

import os
import sys
import traceback
import warnings

from langgraph_gcs_saver import GCSSaver
from tests.incremental.threads import Thread, growing, numbers


def grow(saver, thread, first):
    thread.line([saver], growing(24, 4), first=first, parent=4)
    thread.line([saver], growing(22, 3), first=first + 10, parent=2)
    for n in thread.values:
        thread.check_one(saver, n)
    assert sum(k > 0 for k, _ in numbers(saver, thread)) >= 6


def main(uri):
    warnings.simplefilter("ignore")  # from Python 3.12 on, of forking with threads
    saver, thread = GCSSaver.from_conn_string(uri), Thread()
    thread.line([saver], growing(20, 4))
    thread.check(saver)
    children = []
    for first in (100, 200):
        pid = os.fork()
        if pid == 0:
            try:
                # Nothing is known here yet: the first read fills the caches.
                assert saver._context.values._bytes == 0
                thread.check_one(saver, 4)
                thread.check_one(saver, 2)
                grow(saver, thread, first)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    grow(saver, thread, 300)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    assert codes == [0, 0], codes
    saver.close()
    for first in (100, 200):
        for n in range(4):
            thread.values[first + n] = thread.values[300 + n]
        for n in range(10, 13):
            thread.values[first + n] = thread.values[300 + n]
    print(thread.values)


if __name__ == "__main__":
    main(sys.argv[1])
