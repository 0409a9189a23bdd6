"""How tasks get into a pool: `submit` and `map`, of the pool itself and of its views.

A view (`pool.with_options(cpu=2)`) is the same pool with other options for the tasks that go
through it; it owns nothing and ends with its pool.
Threads: any. Only waiting for a future and iterating over a map block.
"""

from __future__ import annotations

import concurrent.futures
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from muster._data import pickling
from muster._data.blobs import Blobs, Sharing
from muster._node import tasks
from muster._pool.compute import ComputeFunction, plain_function
from muster._pool.map import MapResults
from muster._pool.options import TaskOptions
from muster._pool.submit import JobCache, TaskFuture
from muster.provider import check_count

if TYPE_CHECKING:
    from muster._data.scattered import Scattered
    from muster._link.dispatch import Handler
    from muster._link.session import Job, Node, Session

T = TypeVar("T")


class TaskExecutor(concurrent.futures.Executor):
    """What ComputePool and PoolView have in common."""

    task_options: TaskOptions
    """Of the tasks that go through here."""

    @abstractmethod
    def _root(self) -> TaskExecutor:
        """The pool that owns the connection."""

    @abstractmethod
    def _active_jobs(self) -> JobCache:
        """Those of the pool's submits. Raises PoolNotActive."""

    @abstractmethod
    def _context(self, options: TaskOptions | None = None) -> tasks.JobContext:
        """What jobs find around them."""

    @property
    @abstractmethod
    def session(self) -> Session:
        """The connection, for other faces of the pool in this package."""

    @property
    @abstractmethod
    def total_slots(self) -> int:
        """How many tasks run at once; follows workers that come and go."""

    @property
    @abstractmethod
    def broker(self) -> str:
        """The endpoint, for `ComputePool(broker=…)` and `muster status --broker` elsewhere."""

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether tasks can be submitted."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """The workers that are connected now. Blocks for one question to the broker."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """What `muster status --json` shows. Blocks for one question to the broker."""

    def with_options(self, **options: Any) -> PoolView:
        """The same pool, whose tasks are run with other options:

            timeout, retries, priority   seconds; runs again after a failure; higher runs first
            cpu, memory, gpus            what one task takes of its node: 2, "4GB", 1
            labels                       words that its node must have, as a hosts file gives them
            mmap_mode                    "r": large arrays are read-only in tasks; "c": each task
                                         may write to them, which changes its own copy

        A task starts where so much is free, and what it was not given it cannot use: it dies alone
        when it takes more memory, and sees its own GPUs only. What is left out stays as it is here;
        None means the default. Raises TypeError and ValueError. Does not block.
        """
        return PoolView(self._root(), self.task_options.changed(**options))

    @overload
    def submit(self, fn: ComputeFunction[T], /, *args: Any, **kwargs: Any) -> TaskFuture[T]: ...

    @overload
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> TaskFuture[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture[Any]:
        """One task; returns its future at once. The function and the arguments are pickled before
        this returns, so changing them later changes nothing.

        Raises PoolNotActive, SerializationError, and BrokerLost when the pool is gone.
        """
        if isinstance(fn, ComputeFunction):
            if fn.options:
                return self.with_options(**fn.options).submit(fn.local, *args, **kwargs)
            fn = fn.local
        jobs = self._active_jobs()
        blobs = self._blobs(self.task_options, repeated=False)
        payload = pickling.pack((args, kwargs), "the arguments", blobs)
        return jobs.submit(self.task_options, fn, payload)

    def scatter(self, obj: object, broadcast: bool = True) -> Scattered:
        """Sends `obj` to the pool, once, whatever it is; the handle stands for it anywhere in the
        arguments of this pool's tasks, which get the object itself.

        A process that runs tasks makes the object once and all its tasks share it, so they must not
        change it; its arrays are read-only. It stays in the pool until the last handle is gone.
        `broadcast` is a hint, that most nodes will need it; nodes get it when they do. Blocks while
        it is copied. Raises PoolNotActive, SerializationError.
        """
        self._active_jobs()
        sharing = Sharing(read_only_bytes=0)
        return pickling.scatter(obj, Blobs(self.session.space, sharing, repeated=False))

    def _blobs(self, options: TaskOptions, *, repeated: bool) -> Blobs:
        return Blobs(self.session.space, options.sharing, repeated=repeated)

    @overload
    def map(
        self,
        fn: ComputeFunction[T],
        *iterables: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | str = ...,
        buffersize: int | None = ...,
        progress: bool = ...,
    ) -> MapResults[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | str = ...,
        buffersize: int | None = ...,
        progress: bool = ...,
    ) -> MapResults[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
    ) -> MapResults[Any]:
        """`fn` of every item, as a lazy iterator in the order of the inputs.

        Inputs are pulled as there is room, so an endless generator works: at most `buffersize`
        items are ahead of the result that is missing (None: some ten thousand, and at most 256 MB).
        `chunksize` "auto" bundles tiny tasks so that a bundle takes about 10 ms; a number is kept.
        An item's exception is raised after the results before it, and ends the iteration, as does
        TimeoutError when a result is not there `timeout` seconds after this call. Closing or
        dropping the iterator cancels the rest. The pool's `timeout` and `retries` hold for each
        item; with a chunksize given, `timeout` times chunksize holds for the chunk.
        `progress` shows how many items are done: a bar if tqdm is installed, else lines on standard
        error.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, progress, ordered=True)

    @overload
    def map_unordered(
        self,
        fn: ComputeFunction[T],
        *iterables: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | str = ...,
        buffersize: int | None = ...,
        progress: bool = ...,
    ) -> MapResults[T]: ...

    @overload
    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | str = ...,
        buffersize: int | None = ...,
        progress: bool = ...,
    ) -> MapResults[T]: ...

    def map_unordered(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
    ) -> MapResults[Any]:
        """As `map`, but results come as they are ready."""
        return self._map(fn, iterables, timeout, chunksize, buffersize, progress, ordered=False)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | str,
        buffersize: int | None,
        progress: bool,
        ordered: bool,
    ) -> MapResults[Any]:
        self._active_jobs()
        if not iterables:
            raise TypeError("map needs at least one iterable")
        if isinstance(chunksize, str):
            if chunksize != "auto":
                raise ValueError(f'chunksize must be "auto" or a number, not {chunksize!r}')
            fixed = None
        else:
            fixed = check_count("chunksize", chunksize)
        if buffersize is not None:
            check_count("buffersize", buffersize)
        options = self.task_options
        if isinstance(fn, ComputeFunction):
            options = options.changed(**fn.options)
        function = plain_function(fn)
        single = options.retries > 0 and fixed is None  # the broker repeats tasks, not items
        if single:
            callable_object: tasks.TaskFunction = tasks.Call(function)
        else:
            callable_object = tasks.MapChunk(function, len(iterables) > 1)
        blobs = self._blobs(options, repeated=True)
        body = tasks.make_body(callable_object, self._context(options), blobs=blobs)
        label = str(getattr(function, "__qualname__", type(function).__qualname__))
        session = self.session

        def open_job(handler: Handler) -> Job:
            return session.open_job(
                body, label, handler, counts_results=True, **options.for_job(fixed or 1)
            )

        return MapResults(
            session,
            open_job,
            blobs,
            iterables,
            ordered=ordered,
            timeout=timeout,
            chunksize=fixed,
            buffersize=buffersize,
            single=single,
            keep_items=fixed is None and options.timeout > 0,
            progress=label if progress else None,
        )

    def as_completed(
        self, futures: Iterable[concurrent.futures.Future[T]], timeout: float | None = None
    ) -> Iterator[concurrent.futures.Future[T]]:
        """The futures as they end; see `concurrent.futures.as_completed`."""
        return concurrent.futures.as_completed(futures, timeout)


class PoolView(TaskExecutor):
    """Made by `with_options`; see there. `shutdown` does nothing: the pool has its own."""

    def __init__(self, pool: TaskExecutor, options: TaskOptions) -> None:
        self._pool = pool
        self.task_options = options

    def _root(self) -> TaskExecutor:
        return self._pool

    def _active_jobs(self) -> JobCache:
        return self._pool._active_jobs()

    def _context(self, options: TaskOptions | None = None) -> tasks.JobContext:
        return self._pool._context(options or self.task_options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No effect."""

    @property
    def session(self) -> Session:
        return self._pool.session

    @property
    def total_slots(self) -> int:
        """Of the pool, whatever a task takes."""
        return self._pool.total_slots

    @property
    def broker(self) -> str:
        return self._pool.broker

    @property
    def active(self) -> bool:
        return self._pool.active

    def nodes(self) -> list[Node]:
        return self._pool.nodes()

    def status(self) -> dict[str, Any]:
        return self._pool.status()

    def __repr__(self) -> str:
        default = vars(TaskOptions())
        said = {name: v for name, v in vars(self.task_options).items() if v != default[name]}
        return f"<view of {self._pool!r} with {said}>"
