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
from typing import Any, Union

from muster import _native
from muster._data import failures
from muster._data.failures import Failure
from muster._data.portable import Result as TaskResult
from muster._link.output import Printer
from muster.errors import MusterError, PoolNotActive

Result = Union[TaskResult, None]
Handler = Callable[[Any, Result, Union[Failure, None]], None]
"""Gets what the task's push was given, and the task's outcome."""

_logger = logging.getLogger("muster")
_CLOSED: Failure = ("task_cancelled", "closed", "the pool was shut down", "", b"")
_OUTPUT_SECONDS = 3600.0  # the thread that waits for lines is woken by the end of the producer


class Route:
    """Where the outcomes of one job go. Knows neither the session nor the job: the dispatcher
    holds routes, and must not keep an abandoned pool alive.

    Nobody holds the lock while something blocks: the dispatcher waits for it.
    """

    __slots__ = ("_early", "_handler", "dropped", "ended", "lock", "missing")

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.lock = threading.Lock()
        self.missing: dict[int, Any] = {}  # by sequence, what the push was given
        self._early: dict[int, tuple[Result, Failure | None]] = {}  # of pushes that go on
        self.ended = False  # closed to pushes; forgotten when nothing is missing
        self.dropped = False

    def expect(self, sequence: int, task: Any) -> None:
        """Of a task that was pushed; its outcome may be here already."""
        with self.lock:
            early = self._early.pop(sequence, None)
            if early is None:
                self.missing[sequence] = task
        if early is not None:
            self._handle(sequence, task, *early)

    def deliver(self, sequence: int, result: Result, failure: Failure | None) -> None:
        """Each sequence once."""
        with self.lock:
            if sequence not in self.missing:
                if not self.dropped:
                    self._early[sequence] = result, failure
                return
            task = self.missing.pop(sequence)
        self._handle(sequence, task, result, failure)

    def drop(self) -> None:
        """The handler is not called again."""
        with self.lock:
            self.dropped = self.ended = True
            self.missing.clear()
            self._early.clear()

    def _handle(self, sequence: int, task: Any, result: Result, failure: Failure | None) -> None:
        try:
            self._handler(task, result, failure)
        except BaseException:  # a user's callback may raise SystemExit: the other outcomes count
            _logger.exception("the outcome of task %d was not handled", sequence)


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
        failure = _CLOSED
        try:
            while not self.closing:
                self.deliver(self.producer.next(None))
        except _native.Error as error:
            if not self.closing:
                failure = failure_of(error)
        except BaseException as error:  # whatever it is: nobody may wait for this thread for ever
            _logger.exception("internal error: outcomes are not received any more")
            failure = ("invalid", "internal", f"{type(error).__name__}: {error}", "", b"")
        self.end(failure)

    def deliver(self, outcomes: list[_native.Outcome]) -> None:
        for number, sequence, result, error in outcomes:
            route = self.routes.get(number)
            if route is None:
                continue  # dropped
            route.deliver(sequence, result, error)
            if route.ended and not route.missing:
                self.routes.pop(number, None)

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
