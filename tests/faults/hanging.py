"""Puts a checkpoint on services that never answer, is interrupted, and ends; run as a program: URI."""

import sys

from langgraph_gcs_saver import GCSSaver
from tests.system.build import noise, put


def main(uri):
    saver = GCSSaver.from_conn_string(uri, timeout=3600)
    try:
        put(saver, 1, {"n": 1, "large": noise(20_000)})
    except KeyboardInterrupt:
        print("interrupted")


if __name__ == "__main__":
    main(sys.argv[1])
