"""Savers that do not wait long for a deletion that crashed."""


def impatient(saver):
    """The saver, which takes a deletion for crashed at the second look. Its requests keep all their time."""
    saver._context.timeout = 0.1
    return saver
