"""The saver beside others: the same work on each of them, in one run."""
