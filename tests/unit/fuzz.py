"""Hypothesis' `given` for this folder: no deadline, for the machine may be busy."""

from hypothesis import given, settings


def fuzz(*strategies, examples=100):
    """As `given`, and so many examples."""

    def decorate(function):
        return settings(max_examples=examples, deadline=None)(given(*strategies)(function))

    return decorate
