"""The trip of `10-teams-and-sagas.ipynb`, in a file of its own because the notebook runs it in another process.

It books a flight and a hotel, cannot pay, and undoes what it booked:

python booker.py STORE THREAD LEDGER [--wait]    # with --wait, it waits before it cancels the flight
"""

import sys
from pathlib import Path

from langgraph_gcs_saver import GCSSaver, compensation

LEDGER = Path(sys.argv[3]) if len(sys.argv) > 3 else Path()
WAIT = "--wait" in sys.argv


class Declined(Exception):  # noqa: N818 - what has happened
    """The card was declined."""


def do(what):
    """What a provider does: it writes that down."""
    print(what, flush=True)
    with LEDGER.open("a") as ledger:
        ledger.write(f"{what}\n")
    return what


@compensation("cancel", version=1, mode="at_least_once")  # it may be called again, with the same key
def cancel(request, result, key):  # noqa: ARG001 - this provider needs no more
    """Undo a booking."""
    if WAIT and request["what"] == "flight":
        print("about to cancel the flight", flush=True)
        sys.stdin.read()
    do(f"cancel {request['what']}")


def decline():
    """Try to pay."""
    raise Declined


def book(saver, thread_id):
    """Book a trip: all of it, or nothing."""
    with saver.thread(thread_id).saga("trip", owner="notebook") as saga:
        for what in ("flight", "hotel"):
            saga.once(what, lambda what=what: do(f"book {what}"), request={"what": what}, undo="cancel")
        saga.once("pay", decline, irreversible=True, errors=(Declined,))


if __name__ == "__main__":
    with GCSSaver.from_conn_string(sys.argv[1]) as store:
        try:
            book(store, sys.argv[2])
        except Declined:
            print("the card was declined, and all is undone", flush=True)
