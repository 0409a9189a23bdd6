"""The joblib backend: what `Parallel` calls to run its batches on a pool.

One protocol for joblib 1.2 to 1.6: `submit` is also `apply_async`, futures have `get` and `result`,
and results are taken in the callback where joblib can (1.3 and later) or by `get` (1.2).

Owner: its maker; joblib makes one per `Parallel` or per context. One backend serves one
`Parallel` at a time: a second one that comes meanwhile gets a copy.
Threads: as joblib uses it, from the caller's thread and the call's callback thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable
from typing import Any

import joblib.parallel
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.parallel import EXTERNAL_BACKENDS, register_parallel_backend

from muster._data.blobs import Blobs, Sharing
from muster._pool.options import TaskOptions
from muster.errors import MusterError, NoWorker, PoolNotActive
from muster.joblib import _connections
from muster.joblib._batch import Initializer, slot_backend, slot_cores
from muster.joblib._call import BatchFuture, Call
from muster.joblib._settings import sharing_of, threads_of_the_client

NAME = "muster"
_NO_MEANING = "n_jobs == 0 in Parallel has no meaning"  # joblib's own words
_BATCH_SECONDS_PER_SLOT = 0.001
"""A batch costs the client about 0.1 ms: with batches of 1 ms per slot it is busy a tenth of the
time, however many slots there are."""
_AHEAD_SECONDS = 0.01
"""So much work per slot is on its way at least: some round trips on a busy machine."""
_MOST_AHEAD = 64  # batches per slot: a thousand slots then have 64,000 on their way
_MOST_BYTES_AHEAD = 16 << 20
_DEFAULT_PRE_DISPATCH = "2 * n_jobs"  # joblib's


class MusterBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs `Parallel` on a pool of Muster.

    `pool`: an active ComputePool. `broker`: the address of a broker to connect to instead. Without
    both: the innermost pool whose block this process is in, else the one that the environment
    variable MUSTER_BROKER names or `muster up` started, looked up when `Parallel` starts.

    `scatter`: a list of objects that are sent once per call, wherever in the arguments they are.
    `inner_max_num_threads`: how
    many threads BLAS and OpenMP may use inside a task. `wait_for_workers_timeout`: how many seconds
    a call waits for a first slot before it raises NoWorker. `initializer(*initargs)` runs once in
    each process before its first batch of a call. `cpu`, `memory`, `gpus`, `labels`, `timeout`,
    `retries`, `priority`: as `ComputePool.with_options` has them, for each batch.

    `n_jobs`: -1 all slots, following the pool as nodes come and go; -2 all but one; 20 at most 20
    at once; 1 is joblib's plain loop in the caller, as joblib documents it; None is -1, but on
    joblib 1.2, where `Parallel()` outside of a context cannot tell it from 1.
    """

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False
    # Where Parallel() takes None for 1 before it asks (1.2), effective_n_jobs has to agree.
    default_n_jobs = -1 if hasattr(ParallelBackendBase, "default_n_jobs") else 1

    def __init__(
        self,
        pool: Any = None,
        *,
        broker: str | None = None,
        scatter: Any = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        wait_for_workers_timeout: float = 10.0,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **task_options: Any,
    ) -> None:
        """Connects to nothing yet. Raises TypeError or ValueError for arguments of a wrong kind."""
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if pool is not None and broker is not None:
            raise ValueError("pass a pool or a broker, not both")
        if scatter is not None and not isinstance(scatter, (list, tuple)):
            raise TypeError(f"scatter must be a list or tuple, not {type(scatter).__name__}")
        TaskOptions().changed(**task_options)
        self._task_options = task_options
        self.parallel: Any = None
        self.wait_for_workers_timeout = wait_for_workers_timeout
        self._given_pool = pool
        self._broker = broker
        self._scatter = scatter
        self._initializer: Initializer | None = (
            (initializer, tuple(initargs)) if initializer else None
        )
        self._binding = threading.Lock()
        self._requested = -1
        self._announced = 0
        self._mean_seconds = _AHEAD_SECONDS
        self._call_initializer = self._initializer
        self._sharing = Sharing(mapped=True)
        # joblib's own tests know this name: the workers' handle, from configure to terminate.
        self._workers: Call | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Tiny, because joblib pickles backends into tasks: on a node it finds no pool."""
        return _unpickled, (self.nesting_level,)

    # --- How much runs at once ---

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many tasks run at once for this `n_jobs`. Raises ValueError for 0.

        With all slots asked for it is at least 2: joblib takes 1 for "run it in the caller", and
        a pool of one slot must run its tasks on its node. Blocks while the pool has no slot, up to
        `wait_for_workers_timeout`, then raises NoWorker.
        """
        if n_jobs == 0:
            raise ValueError(_NO_MEANING)
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs > 0:
            return int(n_jobs)
        if self._runs_inside_task():
            return int(slot_backend().effective_n_jobs(n_jobs))
        return max(self._slots() + 1 + n_jobs, 2)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        max_nbytes: int | str | None = "1M",
        mmap_mode: str | None = "r",
        **_of_local_backends: Any,
    ) -> int:
        """Makes the backend ready for a call of `parallel`; returns how many tasks run at once.

        `max_nbytes` and `mmap_mode` say what tasks get of large arrays (see `Sharing`);
        temp_folder and context mean nothing here. Raises FallbackToBackend
        for a plain loop (n_jobs=1), inside a task, and when another Parallel uses this backend.
        """
        effective = self.effective_n_jobs(n_jobs)
        if effective == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._runs_inside_task():
            raise FallbackToBackend(slot_backend(nesting_level=self.nesting_level or 1))
        with self._binding:
            if self._workers is not None and self.parallel is not parallel:
                raise FallbackToBackend(self._copy())
            slots = self._slots()
            self.parallel = parallel
            self._requested = n_jobs
            self._announced = effective
            self._mean_seconds = _AHEAD_SECONDS
            self._call_initializer = (
                (initializer, tuple(initargs)) if initializer else self._initializer
            )
            self._sharing = sharing_of(max_nbytes, mmap_mode)
            self._fit_batches(slots)
            if self._workers is not None:
                self._workers.drop()
            self._workers = self._new_call()
        return effective

    def start_call(self) -> None:
        """The pool may have lost its workers since `configure`, in `with Parallel() as p`.

        There joblib also keeps batches of a call that failed, and would run them in this one.
        """
        self._slots()
        with contextlib.suppress(queue.Empty, AttributeError):
            while True:
                self.parallel._ready_batches.get(block=False)

    def stop_call(self) -> None:
        """One job per call: the next call of `with Parallel() as p` gets a job of its own."""
        if self._workers is not None and self._workers.used:
            self._workers.finish()
            self._workers = self._new_call()

    def terminate(self) -> None:
        """Lets go of the call's job; the pool stays as it is."""
        call, self._workers = self._workers, None
        if call is not None:
            call.finish()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Ends the tasks of this call alone, running ones too. Ready again at once."""
        call, self._workers = self._workers, None
        if call is not None:
            call.drop()
        self.reset_batch_stats()
        if ensure_ready:
            self._workers = self._new_call()

    # --- Batches ---

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> BatchFuture:
        """Sends joblib's batch, taken apart: its nested backend and its pickle cache stay here.

        Does not block and does not raise. `callback(future)` runs once on the call's own thread,
        whatever becomes of the batch; never inside this function.
        """
        call = self._workers
        if call is None or getattr(getattr(callback, "parallel", None), "_aborting", False):
            future = BatchFuture(callback)
            future.set_failure(lambda: PoolNotActive("the Parallel call is over"))
            return future
        items = getattr(func, "items", None)
        if isinstance(items, list):
            return call.submit(items, callback)
        return call.submit([(func, (), {})], callback, single=True)

    apply_async = submit

    def retrieve_result_callback(self, out: BatchFuture) -> Any:
        """The results of a batch, or raises what it raised, with the remote traceback as cause."""
        return out.get_lazily(always=self._returns_generator())

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Takes what the batch ran for on its slot instead of `duration`, which has queueing and
        the network in it."""
        call = self._workers
        if call is not None and call.measured is not None:
            duration = max(call.measured, 1e-6)
            self._mean_seconds += (duration - self._mean_seconds) / 8
        super().batch_completed(batch_size, duration)

    def compute_batch_size(self) -> int:
        """joblib's, but never so much that slots have nothing left to do."""
        size = int(super().compute_batch_size())
        total = getattr(self.parallel, "n_tasks", None)
        if total:
            left = total - self.parallel.n_dispatched_tasks
            size = min(size, max(1, left // max(1, self._announced)))
        return size

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Not what tasks get (see RunBatch), but what joblib asks for."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    # --- The pool ---

    @property
    def pool(self) -> Any:
        """The pool that a call would use now. Raises PoolNotActive."""
        if self._given_pool is not None:
            return self._given_pool
        if self._broker is not None:
            return _connections.connected_pool(self._broker)
        return _connections.default_pool()

    def _session(self) -> Any:
        pool = self.pool
        if not pool.active:
            raise PoolNotActive(
                "the pool of the joblib backend is not active: run Parallel inside its `with` block"
            )
        return pool.session

    def _runs_inside_task(self) -> bool:
        """A pool or broker that was named is used even there."""
        return self._given_pool is None and self._broker is None and slot_cores() is not None

    def _slots(self) -> int:
        session = self._session()
        slots = int(session.total_slots())
        if slots == 0:
            if not session.wait_for_slots(1, self.wait_for_workers_timeout):
                raise NoWorker(
                    f"the pool has no worker after {self.wait_for_workers_timeout:g} s: start one "
                    "(muster-worker --connect ...), or wait longer with "
                    'parallel_config("muster", wait_for_workers_timeout=...)',
                    "no_worker",
                )
            slots = int(session.total_slots())
        return max(slots, 1)

    def _new_call(self) -> Call:
        pool = self.pool
        slots = self._slots()
        cap = self._requested if self._requested > 0 else max(1, slots + 1 + self._requested)
        options = pool.task_options.changed(**self._task_options)
        context = pool._context(options)
        limit = self.inner_max_num_threads or threads_of_the_client()
        if limit is not None:
            context = dataclasses.replace(context, thread_limit=limit)
        batch_size = getattr(self.parallel, "batch_size", "auto")
        tasks = batch_size if isinstance(batch_size, int) else 1
        session = self._session()
        return Call(
            session,
            context,
            Blobs(session.space, self._sharing, scattered=self._scatter or ()),
            initializer=self._call_initializer,
            refill=self._refill,
            watch=self._follow_pool,
            max_running=cap if cap < slots else 0,
            counts_results=self._returns_generator(),
            **options.for_job(tasks),
        )

    def _returns_generator(self) -> bool:
        """Else the results are the caller's list, however many."""
        return bool(getattr(self.parallel, "return_generator", False))

    def _copy(self) -> MusterBackend:
        copy = MusterBackend(
            self._given_pool,
            broker=self._broker,
            scatter=self._scatter,
            nesting_level=self.nesting_level,
            inner_max_num_threads=self.inner_max_num_threads,
            wait_for_workers_timeout=self.wait_for_workers_timeout,
            **self._task_options,
        )
        copy._initializer = self._initializer
        return copy

    def _fit_batches(self, slots: int) -> None:
        """How long a batch should take: long enough for the client to serve all slots."""
        self.MIN_IDEAL_BATCH_DURATION = min(0.2, max(0.02, slots * _BATCH_SECONDS_PER_SLOT))
        self.MAX_IDEAL_BATCH_DURATION = 10 * self.MIN_IDEAL_BATCH_DURATION

    def _refill(self) -> None:
        """On the call's thread: more batches for short tasks than joblib's default pre_dispatch,
        two per slot, which would leave slots idle for the time of a round trip."""
        parallel, call = self.parallel, self._workers
        if call is None or self._mean_seconds * 2 >= _AHEAD_SECONDS:
            return
        if parallel.pre_dispatch == _DEFAULT_PRE_DISPATCH:
            each = min(_MOST_AHEAD, int(_AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))
            most = _MOST_BYTES_AHEAD / max(call.mean_bytes, 1.0)
            self._dispatch_until(call, int(min(each * self._announced, most)))

    def _dispatch_until(self, call: Call, in_flight: int) -> None:
        parallel = self.parallel
        if call.in_flight >= in_flight or parallel._original_iterator is None:
            return
        with parallel._lock:
            while (
                call.in_flight < in_flight
                and parallel._original_iterator is not None
                and not getattr(parallel, "_aborting", False)
            ):
                parallel.dispatch_next()

    def _follow_pool(self) -> None:
        """On the call's thread: a pool that grew gets more tasks, as many as `pre_dispatch` says.

        A pool that shrank needs nothing: one task is dispatched per completed one.
        """
        parallel, call = self.parallel, self._workers
        if self._requested > 0 or call is None or parallel is None:
            return
        try:
            slots = int(self._session().total_slots())
        except MusterError:
            return  # it is gone: the call is told
        now = max(slots + 1 + self._requested, 2)
        if now <= self._announced:
            return
        self._announced = now
        self._fit_batches(now)
        parallel._cached_effective_n_jobs = now
        ahead = parallel.pre_dispatch
        if not isinstance(ahead, str) or "n_jobs" not in ahead:
            return
        wanted = int(joblib.parallel.eval_expr(ahead.replace("n_jobs", str(now))))
        self._dispatch_until(call, wanted)


def _unpickled(nesting_level: int | None) -> MusterBackend:
    return MusterBackend(nesting_level=nesting_level)


def register() -> None:
    """Makes `"muster"` a name that joblib knows. Again: no effect."""
    if NAME not in joblib.parallel.BACKENDS:
        register_parallel_backend(NAME, MusterBackend)
    EXTERNAL_BACKENDS.setdefault(NAME, register)
