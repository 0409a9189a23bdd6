"""One `Parallel` call: its job, its batches on their way, and the thread that runs callbacks.

Owner: a MusterBackend, from `configure` to `terminate`. Nothing is opened before the first batch.
Threads: joblib submits from its caller's thread and from callbacks; outcomes come from the
session's dispatcher thread, which only queues them. A thread of the call's own runs joblib's
callbacks, because these take joblib's locks, unpickle results and pull the user's generator, which
may itself wait for outcomes of another call on the same session.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from joblib import _parallel_backends

from muster._data import failures, pickling
from muster._data.blobs import Blobs
from muster._data.portable import Packed
from muster._node import tasks
from muster.errors import NoWorker, PoolNotActive, TaskCancelled
from muster.joblib._batch import Initializer, RunBatch
from muster.joblib._reductions import BatchFunctions

_WATCH_SECONDS = 0.5
_LARGE_BODY_BYTES = 1 << 20  # from here on the body of a result is a blob, too
"""How often a call looks whether its pool grew or is gone: a look costs some microseconds."""
NO_WORKER_SECONDS = 60.0
"""How long a call that runs bears a pool without any slot before it fails. Longer than a worker
needs to come back after its connection broke (heartbeats are overdue after 10 s)."""

# joblib 1.2 tells a task's KeyboardInterrupt from one of the caller's; later versions do not.
_WorkerInterrupt: type[Exception] | None = getattr(_parallel_backends, "WorkerInterrupt", None)

_logger = logging.getLogger("muster.joblib")

Item = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Job(Protocol):
    def push(self, payload: Packed, task: object) -> int: ...
    def consumed(self, size: int) -> None: ...
    def close(self) -> None: ...
    def drop(self) -> None: ...


class BatchFuture:
    """The outcome of one batch, some time: what joblib calls a job.

    Threads: any. It is settled once; `get` unpickles, so it is called once, too.
    """

    def __init__(self, callback: Callable[[Any], None] | None, single: bool = False) -> None:
        self.callback = callback
        self.seconds: float | None = None
        """What the batch's functions took on their slot; None without a result."""
        self._single = single
        self._settled = False
        self._waiter: threading.Event | None = None  # only joblib 1.2 waits: made when it does
        self._result: Packed | None = None
        self._size = 0  # of the result, as its job counts it
        self._job: _Job | None = None
        self._failure: Callable[[], BaseException] | None = None

    def set_result(self, result: Any, job: _Job | None) -> None:
        self.seconds, self._result = tasks.split_result(result)
        if job is not None:
            self._size, self._job = tasks.counted_bytes(result), job
        self._settle()

    def set_failure(self, failure: Callable[[], BaseException]) -> None:
        """`failure` makes the exception when somebody asks for it."""
        self._failure = failure
        self._settle()

    def done(self) -> bool:
        return self._settled

    def _settle(self) -> None:
        self._settled = True  # before the look at the waiter, which looks here after it is made
        if self._waiter is not None:
            self._waiter.set()

    def get(self, timeout: float | None = None) -> Any:
        """The list of the batch's results. Blocks up to `timeout` seconds (None: for ever).

        Raises multiprocessing.TimeoutError when there is no outcome then, and else what the batch
        raised, with the remote traceback as its cause.
        """
        if not self._settled:
            waiter = self._waiter = threading.Event()
            if not self._settled and not waiter.wait(timeout):
                raise multiprocessing.TimeoutError
        if self._failure is not None:
            failure = self._failure()
            if _WorkerInterrupt is not None and isinstance(failure, KeyboardInterrupt):
                raise _WorkerInterrupt from failure
            raise failure
        values = list(self._load())
        return values[0] if self._single else values

    result = get

    def get_lazily(self, always: bool = False) -> Any:
        """As `get`, of a future that is settled, but its results are loaded when they are iterated
        over if they are large, or `always`: until then they tell the pool how far the consumer is
        behind."""
        if self._failure is not None or self._single or self._result is None:
            return self.get()
        is_large = bool(self._result.blobs) or len(self._result.body) >= _LARGE_BODY_BYTES
        return self._load() if always or is_large else self.get()

    def _load(self) -> Iterator[Any]:
        result, self._result = self._result, None
        assert result is not None
        values = pickling.unpack(result)
        del result  # the pool may forget its blobs once they are mapped
        job, self._job = self._job, None
        if job is not None:
            job.consumed(self._size)
        yield from values


class Call:
    """See the file's head. `job_options` are those of `Session.open_job`.

    On the call's thread, `refill` is called after every callback and `watch` now and then.
    """

    def __init__(
        self,
        session: Any,
        context: tasks.JobContext,
        blobs: Blobs,
        *,
        initializer: Initializer | None = None,
        refill: Callable[[], None] | None = None,
        watch: Callable[[], None] | None = None,
        **job_options: Any,
    ) -> None:
        self.measured: float | None = None
        """Seconds of the batch whose callback runs right now; only that thread may look."""
        self._session = session
        self._context = context
        self._job_options = job_options
        self._counts_results = bool(job_options.get("counts_results"))
        self._initializer = initializer
        self._refill = refill
        self._watch = watch
        self._callback: Any = None  # the latest of joblib's
        self._blobs = blobs
        self._functions = BatchFunctions(blobs)
        # Reentrant: a generator that is collected while its thread submits aborts its own call.
        self._lock = threading.RLock()
        self._job: _Job | None = None
        self._over = False
        self._pushed = 0
        self._bytes = 0
        self._pending: set[BatchFuture] = set()
        self._outcomes: queue.SimpleQueue[BatchFuture | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._slots_seen = time.monotonic()

    @property
    def used(self) -> bool:
        return self._thread is not None

    @property
    def in_flight(self) -> int:
        """Batches without an outcome."""
        return len(self._pending)

    @property
    def mean_bytes(self) -> float:
        """Of a batch's payload; 0 before the first."""
        return self._bytes / self._pushed if self._pushed else 0.0

    def submit(
        self, items: Sequence[Item], callback: Callable[[Any], None] | None, single: bool = False
    ) -> BatchFuture:
        """Sends a batch. Does not block.

        Whatever is wrong with it becomes the future's outcome: joblib also submits from callbacks,
        where an exception would be lost and the call would wait for ever.
        """
        future = BatchFuture(callback, single)
        with self._lock:
            if self._over:
                future.set_failure(lambda: TaskCancelled("the Parallel call was aborted"))
                return future
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._deliver, name="muster-joblib-callbacks", daemon=True
                )
                self._thread.start()
            self._pending.add(future)
            self._callback = callback
            try:
                sent = self._blobs.sent_bytes
                payload = self._functions.pack_batch(items)
                job = self._job or self._open(items)
                job.push(payload, future)
                self._pushed += 1
                self._bytes += len(payload.body) + self._blobs.sent_bytes - sent
            except Exception as error:
                failure = error  # `error` is unbound after this block
                if self._take(future):
                    future.set_failure(lambda: failure)
                    self._outcomes.put(future)
            except BaseException:
                self._take(future)
                raise
        return future

    def drop(self) -> None:
        """Ends the call's tasks, those that run included. No callback comes any more."""
        self._end(abandon=True)

    def finish(self) -> None:
        """After the last outcome: forgets the job. Drops it when outcomes are still missing."""
        self._end(abandon=bool(self._pending))

    def fail(self, failure: Callable[[], BaseException]) -> None:
        """Ends every batch that is on its way with this exception."""
        for future in self._take_pending():
            future.set_failure(failure)
            self._outcomes.put(future)

    def _take_pending(self) -> Iterator[BatchFuture]:
        """Each of those that still miss their outcomes, to be given one; outcomes go on to arrive
        meanwhile, on the dispatcher's thread."""
        for future in list(self._pending):
            if self._take(future):
                yield future

    def _take(self, future: BatchFuture) -> bool:
        """Whether it had no outcome: one of all who ask is told so."""
        try:
            self._pending.remove(future)
        except KeyError:
            return False
        return True

    def _open(self, items: Sequence[Item]) -> _Job:
        body = tasks.make_body(
            RunBatch(self._initializer),
            self._context,
            self._functions.take_body(),
            self._blobs,
        )
        self._job = self._session.open_job(
            body, label_of(items), self._on_outcome, **self._job_options
        )
        assert self._job is not None
        return self._job

    def _end(self, abandon: bool) -> None:
        self._blobs.end()  # a submit that waits for room holds the lock
        with self._lock:
            if self._over:
                return
            self._over = True
            job, self._job = self._job, None
            self._blobs.close()
        self._outcomes.put(None)
        if job is not None:
            if abandon or self._counts_results:  # nobody says any more what was consumed
                job.drop()
            else:
                job.close()
        for future in self._take_pending():
            future.set_failure(lambda: TaskCancelled("the Parallel call was aborted"))

    def _on_outcome(self, future: BatchFuture, result: Any, failure: Any) -> None:
        """On the session's dispatcher thread."""
        if not self._take(future):
            return
        if failure is None:
            future.set_result(result, self._job if self._counts_results else None)
        else:
            future.set_failure(lambda: failures.rebuild(failure))
        self._outcomes.put(future)

    # --- The call's own thread ---

    def _deliver(self) -> None:
        watched = time.monotonic()
        while not self._over:
            try:
                future = self._outcomes.get(timeout=_WATCH_SECONDS)
            except queue.Empty:
                future = None
            if future is not None and not self._over and future.callback is not None:
                self.measured = future.seconds
                try:
                    future.callback(future)
                    if self._refill is not None:
                        self._refill()
                except BaseException as error:
                    _raise_in_caller(future.callback, error)
                finally:
                    self.measured = None
            del future
            if time.monotonic() - watched >= _WATCH_SECONDS and not self._over:
                watched = time.monotonic()
                if self._has_slots() and self._watch is not None:
                    try:
                        self._watch()
                    except BaseException as error:  # the user's generator did, perhaps
                        _raise_in_caller(self._callback, error)

    def _has_slots(self) -> bool:
        """Fails the call when there has been none for long."""
        try:
            if self._session.closed:
                self.fail(lambda: PoolNotActive("the pool was shut down during the Parallel call"))
            elif self._session.total_slots() > 0:
                self._slots_seen = time.monotonic()
                return True
            elif time.monotonic() - self._slots_seen > NO_WORKER_SECONDS:
                self.fail(
                    lambda: NoWorker(
                        f"the pool has had no worker for {NO_WORKER_SECONDS:.0f} s; start a worker",
                        "no_worker",
                    )
                )
        except Exception:
            _logger.debug("the pool's size is not known", exc_info=True)
        return False


def label_of(items: Sequence[Item]) -> str:
    """What `muster status` shows for the call: the name of its first function."""
    function = items[0][0] if items else None
    inner = getattr(function, "function", function)  # scikit-learn wraps
    inner = getattr(inner, "func", inner)  # functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))


def _raise_in_caller(callback: Any, error: BaseException) -> None:
    """Makes what joblib's callback raised (on 1.2 the user's generator did) the call's error.

    The main thread waits for the jobs that joblib registered; one that fails ends the call.
    """
    parallel = getattr(callback, "parallel", None)
    if parallel is None:
        _logger.error("a callback failed", exc_info=error)
        return
    failed = BatchFuture(None)
    failed.set_failure(lambda: error)
    with parallel._lock:
        parallel._original_iterator = None
        if hasattr(parallel, "_register_new_job") or hasattr(parallel, "_call_id"):
            tracker = type(callback)(0, 1, parallel)
            if hasattr(parallel, "_register_new_job"):
                parallel._register_new_job(tracker)
            else:
                parallel._jobs.append(tracker)
            tracker._register_outcome({"result": error, "status": "Error"})
        else:
            parallel._jobs.append(failed)
        parallel._iterating = False
