"""A look at the whole store now and then, for the gauges `leases` and `runs`."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

from langgraph_gcs_saver.errors import GCSSaverError, SaverClosedError, StoreError
from langgraph_gcs_saver.flows.work import STATES
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.background import Background, Kind
from langgraph_gcs_saver.telemetry.metrics import LEASES, RUNS, Metric

MOST = 10_000
"""Leases, and runs, that one look counts."""

_KIND = Kind("watch", most=1, wait=0.0)
_KEY = "look"

logger = logging.getLogger("langgraph_gcs_saver")


class StoreWatch:
    """Counts the leases and runs of a store, every so many seconds, on a thread of its own.

    A forked child does not look. If a look fails, there are no counts until one succeeds. It never raises.

    Args:
        admin: The store.
        seconds: Seconds between two looks.
    """

    def __init__(self, admin: Admin, seconds: float) -> None:
        self.counts: Mapping[tuple[Metric, str], int] = {}
        """The latest counts by metric and state."""
        self._admin = admin
        self._background = Background()
        # Not `self`, so that a saver that is dropped takes its watch with it.
        job = partial(_look, weakref.ref(self), self._background)
        self._background.submit(_KIND, _KEY, job)
        self._background.repeat(_KIND, _KEY, seconds, job)

    def look(self) -> None:
        """Count once."""
        try:
            self.counts = {
                **_by_state(
                    LEASES,
                    ("held", "expired"),
                    ("expired" if one.is_expired else "held" for one in self._admin.leases()),
                ),
                **_by_state(RUNS, STATES, (one.state for one in self._admin.runs())),
            }
        except GCSSaverError as error:
            self.counts = {}
            if isinstance(error, SaverClosedError):
                self.end()
            else:
                logger.info("The leases and runs of the store were not counted: %s", error)

    def end(self) -> None:
        """Look no more."""
        self.counts = {}
        self._background.stop(_KIND, _KEY)


def _by_state(metric: Metric, states: Iterable[str], found: Iterable[str]) -> dict[tuple[Metric, str], int]:
    """How many there are in each state; 0 for the states that none is in."""
    counted: Counter[str] = Counter()
    try:
        counted.update(islice(found, MOST))
    except (SaverClosedError, StoreError):
        raise
    except GCSSaverError as error:  # threads that cannot be read; it comes after all others
        logger.info("Not all %s were counted: %s", metric.name, error)
    return {(metric, state): counted[state] for state in states}


def _look(watch: weakref.ref[StoreWatch], background: Background) -> None:
    found = watch()
    if found is None:
        background.stop(_KIND, _KEY)
    else:
        found.look()
