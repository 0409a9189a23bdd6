"""What receives: the threads of a session, and the routes from outcomes to the handlers of jobs.

Owner: a Session; it may be collected while the threads run, which then end. Threads: any.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Union

from muster import _native
from muster._data import failures
from muster._data.failures import Failure
from muster._data.portable import Result as TaskResult
from muster._link.output import Printer
from muster.errors import MusterError, PoolNotActive

Result = Union[TaskResult, None]
Handler = Callable[[int, Result, Union[Failure, None]], None]

_logger = logging.getLogger("muster")
_CLOSED: Failure = ("task_cancelled", "closed", "the pool was shut down", "", b"")
_OUTPUT_SECONDS = 3600.0  # the thread that waits for lines is woken by the end of the producer


class Route:
    """Where the outcomes of one job go. Knows neither the session nor the job: the dispatcher
    holds routes, and must not keep an abandoned pool alive."""

    __slots__ = ("ended", "handler", "lock", "missing")

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.lock = threading.Lock()
        self.missing: set[int] = set()
        self.ended = False  # closed to pushes; forgotten when nothing is missing

    def deliver(self, sequence: int, result: Result, failure: Failure | None) -> None:
        with self.lock:
            if sequence not in self.missing:
                return
            self.missing.remove(sequence)
        try:
            self.handler(sequence, result, failure)
        except Exception:
            _logger.exception("internal error: the outcome of task %d was not handled", sequence)


class Core:
    """What the threads of a session share with it, and what outlives an abandoned session."""

    def __init__(self, producer: _native.Producer, printer: Printer | None) -> None:
        self.producer = producer
        self.printer = printer
        self.lock = threading.RLock()  # a collected session may be closed by whoever holds it
        self.print_lock = threading.Lock()
        self.routes: dict[int, Route] = {}
        self.failure: Failure | None = None  # set: nothing will come any more
        self.closing = False
        self.forked = False
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        loops: list[tuple[str, Callable[[], None]]] = [("muster-dispatch", self.dispatch)]
        if self.printer is not None:
            loops.append(("muster-output", self.print_output))
        for name, loop in loops:
            thread = threading.Thread(target=loop, name=name, daemon=True)
            self.threads.append(thread)
            thread.start()

    def dispatch(self) -> None:
        routes = self.routes
        failure = _CLOSED
        try:
            while not self.closing:
                for number, sequence, result, error in self.producer.next(None):
                    route = routes.get(number)
                    if route is None:
                        continue  # dropped
                    route.deliver(sequence, result, error)
                    if route.ended and not route.missing:
                        routes.pop(number, None)
        except _native.Error as error:
            if not self.closing:
                failure = failure_of(error)
        self.end(failure)

    def end(self, failure: Failure) -> None:
        """Every task without outcome ends with `failure`; no push is accepted from now on."""
        with self.lock:
            if self.failure is None:
                self.failure = failure
            routes = list(self.routes.values())
            self.routes.clear()
        for route in routes:
            with route.lock:
                missing = sorted(route.missing)
            for sequence in missing:
                route.deliver(sequence, None, failure)

    def print_output(self) -> None:
        with contextlib.suppress(_native.Error):
            while not self.closing:
                self.print_now(self.producer.next_output(_OUTPUT_SECONDS))

    def print_now(self, lines: list[_native.Line]) -> None:
        with self.print_lock:
            if self.printer is not None and lines:
                self.printer.emit(lines)

    def close(self) -> None:
        """Ends everything. Blocks at most a few seconds. Again: no effect."""
        with self.lock:
            if self.closing or self.forked:
                return
            self.closing = True
        if self.printer is not None:
            with contextlib.suppress(_native.Error):
                while lines := self.producer.next_output(0.0):
                    self.print_now(lines)
        self.producer.close()
        for thread in self.threads:
            if thread is not threading.current_thread():  # a handler may close its session
                thread.join(5)
        self.end(_CLOSED)

    def check(self) -> None:
        if self.forked:
            raise MusterError(
                "this pool belongs to the process that this one was forked from; start a "
                "ComputePool of its own here, or use the 'spawn' start method"
            )
        if self.closing:
            raise PoolNotActive("the pool was shut down")
        if self.failure is not None:
            raise failures.rebuild(self.failure)


def rebuilt(error: _native.Error) -> BaseException:
    """The public exception for what the core raised."""
    return failures.rebuild(failure_of(error))


def failure_of(error: _native.Error) -> Failure:
    if len(error.args) == 5:
        code, kind, message, traceback, extra = error.args
        return (code, kind, message, traceback, extra)
    return ("invalid", "internal", str(error), "", b"")


live_cores: weakref.WeakSet[Core] = weakref.WeakSet()
_never_freed: list[Core] = []


def _after_fork_in_child() -> None:
    for core in list(live_cores):
        core.forked = True
        _never_freed.append(core)  # the threads its destructor would wait for are not here


os.register_at_fork(after_in_child=_after_fork_in_child)
