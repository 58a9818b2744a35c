"""Tools to test stores, savers and recovery, also for implementations of your own.

`contract`: the tests that a store must pass. `crash`: stops a call after every effect. `damage`: flips, cuts, swaps and
deletes everything stored. `drill`: rehearses the recovery of a thread on a copy. `kills`: kills a process that runs a
graph, with SIGKILL. `firestore_proxy` and `storage_proxy`: lose, delay and falsify answers on the way. `interceptors`:
count requests and slow them down.
"""

PATIENCE = 900.0
"""Seconds after which a test assumes that what it waits for hangs. Nothing takes this long, even on slow machines."""
