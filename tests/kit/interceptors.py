"""Interceptors of tests: what a saver asked for, and what happens in between."""

import threading

from langgraph_gcs_saver import keys
from langgraph_gcs_saver.effects import REQUESTS, GetDocs, QueryDocs
from langgraph_gcs_saver.interceptors import Interceptor

PLACE = GetDocs((keys.PLACE,))
"""What a saver's first request has beside it: whether the store is the saver's."""


class Seen(Interceptor):
    """Keeps the requests of a saver, but for that of its place.

    Attributes:
        requests: The effects, in the order in which they began.
        docs: Names of the documents that queries found.
    """

    def __init__(self):
        self.requests, self.docs = [], []

    def around(self, effect, perform):
        if isinstance(effect, REQUESTS) and effect != PLACE:
            self.requests.append(effect)
        found = perform(effect)
        if isinstance(effect, QueryDocs):
            self.docs += [doc.name for doc in found]
        return found


class Meanwhile(Interceptor):
    """Calls something, once, before the n-th request of some kinds.

    Attributes:
        is_done: Whether there were so many.
    """

    def __init__(self, kinds, call, at=0):
        self.kinds, self.call, self.left = kinds, call, at
        self.is_done = False
        self._lock = threading.Lock()

    def around(self, effect, perform):
        if isinstance(effect, self.kinds) and self._is_now():
            self.call()
        return perform(effect)

    def _is_now(self):
        with self._lock:
            self.left -= 1
            is_now = self.left < 0 and not self.is_done
            self.is_done = self.is_done or is_now
        return is_now
