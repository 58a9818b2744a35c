"""What a block of a test allocates."""

import tracemalloc


class peak:  # noqa: N801 - reads like a function
    """Fails when the block allocates more than it may.

    Args:
        most: Bytes.
    """

    def __init__(self, most):
        self.most = most

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, kind, *rest):
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kind is not None or taken < self.most, f"{taken:,} bytes were allocated"
