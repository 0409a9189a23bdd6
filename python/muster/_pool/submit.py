"""`pool.submit`: futures, and the jobs that submits of the same function share.

A function that another interpreter can import is known by its identity: its job is found in well
under a microsecond. Anything else goes by value, with what it refers to, so its pickle decides: two
submits share a job when their pickles and their options are equal. A plain function is pickled
again only when what it refers to may have changed, which its fingerprint tells.
Threads: any.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle

from muster._data import failures, pickling
from muster._node import tasks
from muster._pool.map import COMPLAIN_SECONDS
from muster.errors import MusterError, TaskCancelled

if TYPE_CHECKING:
    from muster._data.failures import Failure
    from muster._data.portable import Packed
    from muster._link.dispatch import Handler, Result
    from muster._link.session import Job
    from muster._pool.options import TaskOptions

T = TypeVar("T")

_logger = logging.getLogger("muster")

MAX_JOBS = 256  # open jobs of a pool's submits; the one that was not used for longest is closed

_ATOMS = (int, float, complex, str, bytes, bool, type(None))


class TaskFuture(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` of a task. Whether the task runs already is not known here:
    `running()` is False until it ended."""

    _job: Job | None = None
    _sequence = -1
    _why_cancelled = "the task was cancelled"

    def cancel(self) -> bool:
        """Ends the future as cancelled unless it ended before, and asks to end the task, also
        while it runs. Does not block. Returns whether the future is cancelled."""
        if not super().cancel():
            return False
        job = self._job
        this_call = object()
        if self.__dict__.setdefault("_cancelled_by", this_call) is this_call:  # the first of all
            self.set_running_or_notify_cancel()
            if job is not None:
                self._job = None
                job.cancel(self._sequence)
        return True

    def result(self, timeout: float | None = None) -> T:
        self._check_fork()
        try:
            return super().result(self._wait(timeout))
        except CancelledError as error:
            raise self._cancelled(error) from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check_fork()
        try:
            return super().exception(self._wait(timeout))
        except CancelledError as error:
            raise self._cancelled(error) from None

    def _wait(self, timeout: float | None) -> float | None:
        """For the outcome, until it is time to say why there is none yet; returns the time that
        is left."""
        job = self._job
        if job is None or (timeout is not None and timeout <= COMPLAIN_SECONDS):
            return timeout
        try:
            super().exception(COMPLAIN_SECONDS)
        except CancelledError:
            return timeout
        except concurrent.futures.TimeoutError:
            with contextlib.suppress(MusterError):  # the outcome will tell
                if reason := job.waiting_reason():
                    _logger.warning("a task waits: %s", reason)
        return None if timeout is None else max(0.0, timeout - COMPLAIN_SECONDS)

    def _cancelled(self, error: CancelledError) -> BaseException:
        if isinstance(error, TaskCancelled) or not self.cancelled():
            return error  # the task's own
        return TaskCancelled(self._why_cancelled, "cancelled")

    def _check_fork(self) -> None:
        job = self._job
        if job is not None and job.session.forked:
            job.session.check()

    def _finish(self, result: Result, failure: Failure | None) -> None:
        """Its job's handler."""
        self._job = None
        if failure is not None and failure[0] == "task_cancelled":
            self._why_cancelled = failure[2]
            self.cancel()
            return
        value: Any = None
        error: BaseException | None = None
        try:
            if failure is not None:
                error = failures.rebuild(failure)
            else:
                assert result is not None
                value = pickling.unpack(tasks.split_result(result)[1], "the result")
        except BaseException as exc:  # whatever the task's own classes raise when they are loaded
            error = exc
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)


class SubmitJob:
    """An open job of single calls."""

    def __init__(self, job: Job, options: TaskOptions, digest: bytes) -> None:
        self._job = job
        self.options = options
        self.digest = digest
        self.pushing = 0  # submits that found it here and have not pushed yet
        self.retired = False

    def submit(self, payload: Packed) -> TaskFuture[Any]:
        future: TaskFuture[Any] = TaskFuture()
        future._job = self._job
        future._sequence = self._job.push(payload, future)
        return future

    def close(self) -> None:
        self._job.close()

    def pending(self) -> list[TaskFuture[Any]]:
        return self._job.missing()


class _Known:
    __slots__ = ("fingerprint", "function", "job", "references")

    def __init__(
        self,
        function: object,
        job: SubmitJob,
        fingerprint: tuple[int, ...] | None,
        references: list[object],
    ) -> None:
        self.function = function  # an id means something only while its object lives
        self.job = job
        self.fingerprint = fingerprint
        self.references = references


class _View:
    """What is open for tasks with the same options."""

    __slots__ = ("by_digest", "by_id")

    def __init__(self) -> None:
        self.by_id: OrderedDict[int, _Known] = OrderedDict()
        self.by_digest: dict[bytes, SubmitJob] = {}


class JobCache:
    """The open jobs of a pool's submits, with whatever options."""

    def __init__(
        self,
        make_body: Callable[[TaskOptions, Callable[..., Any]], Packed],
        open_job: Callable[[TaskOptions, Packed, str, Handler], Job],
    ) -> None:
        self._make_body = make_body
        self._open_job = open_job
        self._lock = threading.RLock()
        self._views: dict[TaskOptions, _View] = {}
        self._open: OrderedDict[SubmitJob, None] = OrderedDict()  # the last used one last
        self._retired: list[SubmitJob] = []  # closed; those that still miss outcomes among them
        self._prune_at = MAX_JOBS

    def submit(
        self, options: TaskOptions, function: Callable[..., Any], payload: Packed
    ) -> TaskFuture[Any]:
        """Raises SerializationError, and what opening a job raises."""
        with self._lock:
            job = self._find(options, function)
            job.pushing += 1  # it stays open
        try:
            return job.submit(payload)  # without the lock: it may wait for room
        finally:
            with self._lock:
                job.pushing -= 1
                if job.retired and not job.pushing:
                    job.close()

    def _find(self, options: TaskOptions, function: Callable[..., Any]) -> SubmitJob:
        view = self._views.get(options) or _View()
        known = view.by_id.get(id(function))
        references: list[object] = []
        by_name = known is not None and known.fingerprint == ()
        if by_name or is_importable(function):
            fingerprint: tuple[int, ...] | None = ()
        else:
            fingerprint = _fingerprint(function, references)
        if known is not None and fingerprint is not None and known.fingerprint == fingerprint:
            view.by_id.move_to_end(id(function))
            self._open.move_to_end(known.job)
            return known.job
        body = self._make_body(options, function)
        digest = blake2b(body.body, digest_size=16)
        for blob in body.blobs:
            digest.update(blob.id)
        job = view.by_digest.get(digest.digest())
        if job is None:
            label = str(getattr(function, "__qualname__", type(function).__qualname__))
            opened = self._open_job(options, body, label, TaskFuture._finish)
            job = SubmitJob(opened, options, digest.digest())
            self._views[options] = view
            view.by_digest[job.digest] = job
            self._open[job] = None
            if len(self._open) > MAX_JOBS:
                self._retire(next(iter(self._open)))
        self._open.move_to_end(job)
        if fingerprint is not None:
            view.by_id[id(function)] = _Known(function, job, fingerprint, references)
            if len(view.by_id) > MAX_JOBS:
                view.by_id.popitem(last=False)
        return job

    def _retire(self, job: SubmitJob) -> None:
        del self._open[job]
        view = self._views[job.options]
        del view.by_digest[job.digest]
        for key in [key for key, known in view.by_id.items() if known.job is job]:
            del view.by_id[key]
        if not view.by_digest:
            del self._views[job.options]
        job.retired = True
        if not job.pushing:
            job.close()
        self._retired.append(job)
        if len(self._retired) >= self._prune_at:
            self._retired = [old for old in self._retired if old.pushing or old.pending()]
            self._prune_at = MAX_JOBS + 2 * len(self._retired)

    def forget(self) -> None:
        """New jobs from now on; those that are open are closed, and go on with what they have."""
        with self._lock:
            while self._open:
                self._retire(next(iter(self._open)))

    def pending(self) -> list[TaskFuture[Any]]:
        """The futures without outcome."""
        with self._lock:
            jobs = [*self._open, *self._retired]
        return [future for job in jobs for future in job.pending()]


def is_importable(obj: Any) -> bool:
    """Whether another interpreter finds `obj` by its module and name, as pickle would."""
    module_name = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(name, str) or module_name == "__main__":
        return False
    if any(
        module_name == by_value or module_name.startswith(f"{by_value}.")
        for by_value in cloudpickle.list_registry_pickle_by_value()
    ):
        return False
    found: Any = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


def _fingerprint(function: object, references: list[object]) -> tuple[int, ...] | None:
    """Ids of all that the pickle of a plain function depends on; None: it may change unseen.

    `references` gets the objects, which must be kept for the ids to stay theirs.
    """
    waiting = [function]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        references.append(item)
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            if is_importable(item):
                continue
            if item.__dict__:
                return None
            waiting += _parts(item)
        elif isinstance(item, (types.ModuleType, types.CodeType)) or type(item) in _ATOMS:
            continue
        elif not (isinstance(item, (type, types.BuiltinFunctionType)) and is_importable(item)):
            return None
    return tuple(map(id, references))


def _parts(function: types.FunctionType) -> list[object]:
    parts: list[object] = [function.__code__, *(function.__defaults__ or ())]
    for name, value in (function.__kwdefaults__ or {}).items():
        parts += (name, value)
    for cell in function.__closure__ or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:
            parts.append(None)  # not assigned yet
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += (const for const in code.co_consts if isinstance(const, types.CodeType))
        for name in code.co_names:
            if name in function.__globals__:
                parts.append(function.__globals__[name])
    return parts
