"""One call of a function that is cached in a pool's store, from its question to its value.

Owner: the store backend, for the time of the call. Threads: one each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster._link.stores import Answer, Spill
    from muster.joblib.memory import Store


class Flight:
    """One call of a cached function in one thread: what was claimed, found and computed."""

    def __init__(self, store: Store, claims: bool) -> None:
        self.store = store
        self.claims = claims
        self.asked = False
        self.claimed = ""  # a key
        self.found: tuple[str, Answer] | None = None
        self.answer: Answer | None = None  # to the claim
        self.pending: tuple[str, Spill] | None = None  # computed, not said yet


_flights = threading.local()


def flight_of(store: Store) -> Flight | None:
    stack = getattr(_flights, "stack", ())
    return stack[-1] if stack and stack[-1].store is store else None


@contextmanager
def flight(store: Store, claims: bool) -> Iterator[Flight]:
    """Around one call in this thread; calls nest."""
    stack = getattr(_flights, "stack", None)
    if stack is None:
        stack = _flights.stack = []
    stack.append(Flight(store, claims))
    try:
        yield stack[-1]
    finally:
        stack.pop()
