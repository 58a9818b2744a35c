"""What other implementations and their tests can use.

`contract`: the tests that a store must pass. `crash`: a call stops after every effect. `damage`: everything stored is
flipped, cut, swapped and deleted. `drill`: the recovery of a thread is rehearsed on a copy. `kills`: a process that
runs a graph is killed with SIGKILL. `proxy` and `http_proxy`: answers are lost, late and false on the way.
"""

PATIENCE = 900.0
"""Seconds after which a test takes what it waits for to hang. Nothing else takes so long, on the slowest machine."""
