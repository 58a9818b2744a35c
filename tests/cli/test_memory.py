"""`memory:` names no store that a command could share with a program."""

import pytest


@pytest.mark.parametrize("store_uri", ["memory"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        ["setup"],
        ["threads"],
        ["history", "t"],
        ["show", "t", "latest"],
        ["prune", "t", "--keep-last", "1"],
        ["import", "missing.tar"],
        ["pull", "t", "memory:", "file:///nowhere"],
        ["demo", "--store", "memory:"],
        ["drill", "t"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_refuse_a_store_in_memory(command, arguments):
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "memory: is a store inside one process" in ended.err
    assert "Name a file:// or gs:// store." in ended.err
