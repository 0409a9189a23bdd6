"""`ComputePool`: a `concurrent.futures.Executor` over the slots of many nodes.

    with ComputePool(nodes=2, worker=Worker(concurrency=4)) as pool:
        pool.submit(pow, 2, 10).result()
        for value in pool.map(score, items): ...

How tasks get in is in muster/_pool/executor.py; this is how pools begin and end.
Threads: any. Only `start`, `shutdown`, `status`, `nodes`, waiting for a future and iterating over a
map block.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from muster import _native
from muster._data.portable import Packed
from muster._link.dispatch import Handler
from muster._link.output import Sink
from muster._link.session import Job, Node, Session
from muster._node import tasks
from muster._pool import active, bring_up
from muster._pool.executor import TaskExecutor
from muster._pool.options import Resources, TaskOptions
from muster._pool.submit import JobCache, TaskFuture
from muster.errors import MusterError, PoolNotActive, Unsupported
from muster.provider import (
    Image,
    Local,
    Plan,
    Provider,
    Request,
    Worker,
    check_seconds,
    cores,
    programs_folder,
    with_package,
)

T = TypeVar("T")

START_SECONDS = 60.0  # for the workers of an embedded pool to connect, on a busy machine
_logger = logging.getLogger("muster")


class ComputePool(TaskExecutor):
    """A pool of `nodes` nodes with `worker.concurrency` slots each, or a running one (`broker`).

    Parameters:
      provider      where nodes come from: `Local()`, this machine, or `SSH("user@host", …)`
      nodes         how many; None: one here, all hosts of SSH
      vcpus, memory requirements of each node ("8GB"); `accelerator`: its tasks take a GPU each;
                    `machine`, `allocation`, `region`, `ttl`: what a provider can rent
      worker        slots of each node, and whether they are processes or threads
      image         what nodes must have: Python version, packages, environment
      timeout       seconds that a task may run, from its start on a slot; None: any time
      retries       runs again after an exception, crash or time-out, this many times
      plugins       objects with `transform_image(image)` and `around_client(pool)`, both optional
      broker        "ipc://…" of a running pool; "auto": what MUSTER_BROKER names, else the one that
                    `muster up` started, if any; `ComputePool()`, which says nothing of what the
                    pool is to be, takes that one, too
      output        what tasks print, log and warn: True shows it here, a callable gets each
                    `OutputLine`, False leaves it on the nodes
      name          shown in `muster status`
      broker_timeout seconds that a broker may be silent before everything that waits for it raises
                    BrokerLost; None: waits take as long as it takes, and a line on standard error
                    says since when it has been silent. Silences that end do no harm
      spool         a folder where the values that `muster.joblib` caches in the pool outlive it;
                    one pool at a time may use it
      resources     what each task takes of its node, `Resources(cpu=2, memory="4GB")`;
                    `with_options` says it for some

    What the provider cannot honour raises Unsupported here, before anything starts. Use it with
    `with`, or call `start` and `shutdown`; before and after that, tasks raise PoolNotActive. A pool
    that is forgotten is closed when it is collected or the program ends.
    """

    def __init__(
        self,
        provider: Provider | None = None,
        nodes: int | None = None,
        vcpus: int | None = None,
        worker: Worker | None = None,
        image: Image | None = None,
        timeout: float | None = None,
        plugins: Sequence[Any] = (),
        *,
        broker: str | None = None,
        retries: int = 0,
        output: Sink = True,
        name: str | None = None,
        resources: Resources | None = None,
        accelerator: str | None = None,
        memory: str | None = None,
        machine: str | None = None,
        allocation: str | None = None,
        region: str | None = None,
        ttl: float | None = None,
        spool: str | os.PathLike[str] | None = None,
        broker_timeout: float | None = None,
    ) -> None:
        options = TaskOptions().changed(timeout=timeout, retries=retries)
        if not callable(output) and not isinstance(output, bool):
            raise TypeError(f"output must be True, False or a callable, not {output!r}")
        self._output: Sink = output
        self._name = name or ""
        self._broker_timeout = check_seconds("broker_timeout", broker_timeout)
        self._plugins = tuple(plugins)
        asked: dict[str, Any] = {
            "nodes": nodes,
            "vcpus": vcpus,
            "worker": worker,
            "image": image,
            "accelerator": accelerator,
            "memory": memory,
            "machine": machine,
            "allocation": allocation,
            "region": region,
            "ttl": ttl,
        }
        self._spool = os.path.abspath(os.fspath(spool)) if spool is not None else ""
        shape = {"provider": provider, **asked, "spool": spool}
        shaped = any(value is not None for value in shape.values())
        self._broker = _endpoint("auto" if broker is None and not shaped else broker)
        if self._broker:
            _refuse_shape(broker, shape)
        image = image or Image()
        for plugin in self._plugins:
            if hasattr(plugin, "transform_image"):
                image = plugin.transform_image(image)
        asked["image"] = image
        self._request = Request(**asked)
        self._plan: Plan | None = None  # None: the pool runs already
        if not self._broker:
            self._plan = (provider or Local()).plan(self._request)
            options = options.changed(gpus=self._plan.gpus, labels=self._plan.labels)
        self.task_options = options.with_resources(resources)
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._jobs: JobCache | None = None  # of submits
        self._surroundings: contextlib.ExitStack | None = None
        self._over = False
        self._context_of: tuple[Any, ...] = ()

    # --- Life ---

    def start(self) -> ComputePool:
        """Starts the nodes, or connects; blocks until all slots are there. Again: no effect.

        Raises MusterError: BrokerLost, VersionMismatch, or what kept the nodes from starting.
        """
        with self._lock:
            if self._session is not None:
                return self
            if self._over:
                raise PoolNotActive("this pool was shut down; make a new one")
            session = self._open_session()
            self._session = session
            self._jobs = JobCache(self._make_body, self._open_job)
            surroundings = contextlib.ExitStack()
            active.enter(self)
            try:
                for plugin in self._plugins:
                    if hasattr(plugin, "around_client"):
                        surroundings.enter_context(plugin.around_client(self))
            except BaseException:
                surroundings.close()
                active.leave(self)
                self._end()
                raise
            self._surroundings = surroundings
            return self

    def __enter__(self) -> ComputePool:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what was submitted; when an exception leaves the block, cancels it."""
        self.shutdown(wait=True, cancel_futures=kind is not None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more tasks. Blocks until the futures have their outcomes, unless they are cancelled,
        and ends the nodes; with wait=False a thread does that. Again: no effect."""
        with self._lock:
            self._over = True
            surroundings, self._surroundings = self._surroundings, None
            session, jobs = self._session, self._jobs
        active.leave(self)
        if surroundings is not None:
            surroundings.close()
        if session is None or jobs is None or session.forked:
            return
        pending = jobs.pending()
        if cancel_futures:
            for future in pending:
                future.cancel()
        elif not wait:
            finish = threading.Thread(
                target=self._finish, args=(pending,), name="muster-shutdown", daemon=True
            )
            finish.start()
            return
        self._finish(() if cancel_futures else pending)

    def _finish(self, pending: Sequence[TaskFuture[Any]]) -> None:
        try:
            concurrent.futures.wait(pending)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._over = True
            session, self._session, self._jobs = self._session, None, None
        if session is not None:
            session.close()

    def _open_session(self) -> Session:
        version = ".".join(platform.python_version_tuple()[:2])
        open_session = functools.partial(
            Session,
            label=self._name,
            output=self._output,
            python_version=version,
            spool=self._spool,
            broker_timeout=self._broker_timeout,
        )
        if self._broker:
            return open_session(broker=self._broker)
        if not sys.executable:
            raise MusterError("this program does not know its Python interpreter (sys.executable)")
        assert self._plan is not None
        hosts = self._plan.hosts
        if hosts is not None:
            return bring_up.session_over(open_session, hosts)
        plan = self._plan
        session = open_session(
            workers=plan.workers,
            slots=plan.slots,
            executor=plan.executor,
            python=sys.executable,
            environment=with_package(dict(plan.environment)),
            programs=programs_folder(),
            one_machine=True,
        )
        try:
            if not session.wait_for_slots(plan.total_slots, START_SECONDS):
                raise MusterError(
                    f"only {session.total_slots()} of {plan.total_slots} slots came up within "
                    f"{START_SECONDS:.0f} seconds; the standard error of this program may say why"
                )
        except BaseException:
            session.close()
            raise
        return session

    # --- Tasks ---

    def _root(self) -> ComputePool:
        return self

    def _active_jobs(self) -> JobCache:
        jobs = self._jobs
        if jobs is None or self._over:
            raise _not_active(self._over)
        # Jobs say what sys.path and the log level are; when these change, new jobs are due.
        context_of = (*sys.path, logging.getLogger().level)
        if context_of != self._context_of:
            self._context_of = context_of
            jobs.forget()
        return jobs

    def _make_body(self, options: TaskOptions, function: Callable[..., Any]) -> Packed:
        blobs = self._blobs(options, repeated=False)
        return tasks.make_body(tasks.Call(function), self._context(options), blobs=blobs)

    def _open_job(self, options: TaskOptions, body: Packed, label: str, handler: Handler) -> Job:
        return self.session.open_job(body, label, handler, **options.for_job())

    def _context(self, options: TaskOptions | None = None) -> tasks.JobContext:
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        limit = (options or self.task_options).threads
        if limit is None and self._plan is not None and self._plan.hosts is None:
            limit = max(1, cores() // self._plan.total_slots)
        return tasks.JobContext(
            sys_path=list(sys.path),
            main_path=os.path.abspath(main) if main else None,
            log_level=logging.getLogger().getEffectiveLevel(),
            capture=self._output is not False,
            thread_limit=limit,
        )

    # --- What it is ---

    @property
    def session(self) -> Session:
        """The connection, for other faces of the pool in this package."""
        session = self._session
        if session is None:
            raise _not_active(self._over)
        return session

    @property
    def total_slots(self) -> int:
        """How many tasks run at once; follows workers that come and go."""
        return self.session.total_slots()

    @property
    def broker(self) -> str:
        """The endpoint, for `ComputePool(broker=…)` and `muster status --broker` elsewhere."""
        return self.session.endpoint

    @property
    def active(self) -> bool:
        """Whether tasks can be submitted."""
        session = self._session
        return session is not None and not self._over and not session.closed

    def nodes(self) -> list[Node]:
        """The workers that are connected now. Blocks for one question to the broker."""
        return self.session.nodes()

    def status(self) -> dict[str, Any]:
        """What `muster status --json` shows. Blocks for one question to the broker."""
        return self.session.status()

    def __repr__(self) -> str:
        if not self.active:
            return "<ComputePool, not active>"
        return f"<ComputePool with {self.total_slots} slots at {self.broker}>"


def as_completed(
    futures: Iterable[concurrent.futures.Future[T]], timeout: float | None = None
) -> Iterator[concurrent.futures.Future[T]]:
    """The futures as they end, of any pools; see `concurrent.futures.as_completed`."""
    return concurrent.futures.as_completed(futures, timeout)


def _not_active(over: bool) -> PoolNotActive:
    if over:
        return PoolNotActive("this pool was shut down; make a new one")
    return PoolNotActive(
        "this pool has not been started; use it as\n"
        "    with ComputePool(...) as pool:\n"
        "        pool.submit(...)\n"
        "or call pool.start() first and pool.shutdown() at the end"
    )


def _endpoint(broker: str | None) -> str:
    if broker is None:
        return ""
    if broker == "auto":
        return _native.default_endpoint()
    if not isinstance(broker, str) or "://" not in broker:
        raise ValueError(f'broker must be like "ipc:///path" or "auto", not {broker!r}')
    return broker


def _refuse_shape(broker: str | None, asked: dict[str, Any]) -> None:
    """A running pool is as it is: what would shape it is an error."""
    given = [name for name, value in asked.items() if value is not None]
    if given:
        raise Unsupported(
            f"{', '.join(given)}: the pool at broker={broker!r} runs already and has its own "
            f"nodes; leave {'it' if len(given) == 1 else 'them'} out, or leave broker out"
        )
