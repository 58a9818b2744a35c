"""Hypothesis' `given` for this folder."""

from hypothesis import given, settings


def fuzz(*strategies, examples=100):
    """As `given`, and so many examples."""

    def decorate(function):
        return settings(max_examples=examples)(given(*strategies)(function))

    return decorate
