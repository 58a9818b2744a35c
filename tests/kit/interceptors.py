"""Interceptors for tests: they record what a saver requests, and act between its requests."""

import threading
from contextlib import contextmanager
from contextvars import ContextVar

from langgraph_gcs_saver.engine.effects import REQUESTS, GetDocs, Now, QueryDocs
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.regions import FIRST_ROLE
from langgraph_gcs_saver.testing.crash import READS
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

PLACE = GetDocs((keys.PLACE, FIRST_ROLE))
"""Accompanies a saver's first request, and reads whether the store is the saver's, and has a role."""

ROLE = GetDocs((FIRST_ROLE,))
"""Precedes the first commit to a store without a place, which is embedded, and reads whether it has a role."""


class Seen(Interceptor):
    """Keeps the requests of a saver, except the one for its place and role.

    Attributes:
        requests: The effects, in the order in which they began.
        docs: Names of the documents that queries found.
    """

    def __init__(self):
        self.requests, self.docs = [], []

    def around(self, effect, perform):
        self._ask(effect)
        return self._find(effect, perform(effect))

    async def aaround(self, effect, perform):
        self._ask(effect)
        return self._find(effect, await perform(effect))

    def only_reads(self):
        """Whether there were requests, and all of them leave a store as it is."""
        return bool(self.requests) and all(isinstance(effect, READS) for effect in self.requests)

    def _ask(self, effect):
        if isinstance(effect, REQUESTS) and effect not in (PLACE, ROLE):
            self.requests.append(effect)

    def _find(self, effect, found):
        if isinstance(effect, QueryDocs):
            self.docs += [doc.name for doc in found]
        return found


_gathering = ContextVar("gathering", default=())
"""The interceptors that stand around several effects in this context, which are performed at the same time."""


@contextmanager
def _gathers(interceptor):
    token = _gathering.set((*_gathering.get(), interceptor))
    try:
        yield
    finally:
        _gathering.reset(token)


class Rounds(CountingInterceptor):
    """Counts rounds and requests, but not the request for the store's place if it rides along with others.

    The first look of a process at an embedded store's role does not count either.

    Attributes:
        rode: The number of requests for the place that rode along.
    """

    def __init__(self):
        super().__init__()
        self.rode = 0

    def take(self):
        """Return the number of rounds and of requests since the last time."""
        taken = len(self.rounds), self.requests.total()
        self.clear()
        return taken

    def around(self, effect, perform):
        return perform(effect) if effect == ROLE or self._rides(effect) else super().around(effect, perform)

    async def aaround(self, effect, perform):
        return await (perform(effect) if effect == ROLE or self._rides(effect) else super().aaround(effect, perform))

    def around_all(self, effects, perform):
        with _gathers(self):
            return super().around_all(effects, perform)

    async def aaround_all(self, effects, perform):
        with _gathers(self):
            return await super().aaround_all(effects, perform)

    def _rides(self, effect):
        rides = effect == PLACE and self in _gathering.get()
        self.rode += rides
        return rides


class BeforeRounds(GatherInterceptor):
    """Calls something before each round of a synchronous call. A round is one or more requests at the same time.

    It calls nothing until `call` says what.
    """

    def __init__(self):
        self._call, self._number = None, 0

    def call(self, call):
        """From now on, call this before each round, with the number of rounds until then."""
        self._call, self._number = call, 0

    def around(self, effect, perform):
        self._begin([effect])
        return perform(effect)

    def around_all(self, effects, perform):
        self._begin(effects)
        with _gathers(self):
            return perform(effects)

    def _begin(self, effects):
        if (
            self._call is None
            or self in _gathering.get()
            or not any(isinstance(effect, REQUESTS) for effect in effects)
        ):
            return
        number = self._number
        self._number += 1
        self._call(number)


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

    async def aaround(self, effect, perform):
        if isinstance(effect, self.kinds) and self._is_now():
            self.call()
        return await perform(effect)

    def _is_now(self):
        with self._lock:
            self.left -= 1
            is_now = self.left < 0 and not self.is_done
            self.is_done = self.is_done or is_now
        return is_now


class Later(Interceptor):
    """Sets the saver's wall clock forward; that of the service stays.

    Args:
        seconds: How far.
    """

    def __init__(self, seconds):
        self.seconds = seconds

    def around(self, effect, perform):
        return self._moved(effect, perform(effect))

    async def aaround(self, effect, perform):
        return self._moved(effect, await perform(effect))

    def _moved(self, effect, found):
        return found + self.seconds if isinstance(effect, Now) else found
