"""Uses a saver in a function that is called when the interpreter ends; run as a program: URI."""

import atexit
import sys

from langgraph_gcs_saver import GCSSaver
from tests.system.build import cfg, number, put


def last(saver):
    put(saver, 2, {"n": 2}, parent=1 if number(saver.get_tuple(cfg())) else None)
    saver.close()
    print("stored")


def main(uri, is_warm):
    saver = GCSSaver.from_conn_string(uri)
    if is_warm:
        put(saver, 1, {"n": 1})
    else:
        with GCSSaver.from_conn_string(uri) as other:
            put(other, 1, {"n": 1})
    atexit.register(last, saver)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "warm")
