"""The process that runs Python tasks: `python -m muster.runner`, a child of muster-worker.

One task runs at a time, on the main thread; with --threads N beyond 1, N daemon threads run tasks
and the main thread waits. Descriptor 3 is the link to the worker.
"""

from __future__ import annotations

import _signal  # the functions of signal make an enum of every answer, which takes longer
import argparse
import contextlib
import os
import signal
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, NoReturn

from muster._native import MAX_RESULT_BYTES, THREAD_VARIABLES, VERSION, RunnerLink

if TYPE_CHECKING:
    from muster._native import RunnerTask
    from muster._node.capture import Capture
    from muster._node.tasks import JobContext, LoadedJob

_LINK_DESCRIPTOR = 3
link: RunnerLink | None = None  # of this process, for what tasks ask of the pool
_UNUSED_SECONDS = 60.0  # that scattered objects are kept for the next task

_SIGNALS = (
    (int(signal.SIGINT), int(signal.SIG_IGN)),  # a terminal's Ctrl-C is the client's to handle
    (int(signal.SIGTERM), int(signal.SIG_DFL)),
    (int(signal.SIGALRM), int(signal.SIG_DFL)),
    (int(signal.SIGCHLD), int(signal.SIG_DFL)),  # ignored, it would hide children's exit codes
)
"""What a task finds, whatever the one before did."""


class _LoadedLibraries:
    """Stands for libc in threadpoolctl, which asks it for the loaded libraries.

    libc walks through them with a lock of the loader and calls back into Python. A thread that
    imports an extension meanwhile has the GIL and waits for that lock: they would wait for each
    other for ever. The kernel knows the names as well.
    """

    def dl_iterate_phdr(self, callback: Any, data: Any) -> int:
        import ctypes

        import threadpoolctl

        with open("/proc/self/maps") as maps:
            names = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
        for name in sorted(names):
            info = threadpoolctl._dl_phdr_info(dlpi_name=os.fsencode(name))
            callback(ctypes.pointer(info), ctypes.sizeof(info), data)
        return 0


def _limit_thread_pools(limit: int) -> None:
    import threadpoolctl

    known = getattr(threadpoolctl.ThreadpoolController, "_system_libraries", None)
    if isinstance(known, dict) and hasattr(threadpoolctl, "_dl_phdr_info"):
        known["libc"] = _LoadedLibraries()
    threadpoolctl.threadpool_limits(limit)


class _ThreadLimit:
    """How many threads BLAS and OpenMP may use in this process: of the task that began last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit: int | None = None
        self._modules = 0
        share = os.environ.get("OMP_NUM_THREADS", "")  # the worker's idea of a slot's share
        self._usual = int(share) if share.isdecimal() else len(os.sched_getaffinity(0))
        self._environment = {name: os.environ.get(name) for name in THREAD_VARIABLES}

    def apply(self, limit: int | None) -> None:
        """Cheap while neither the limit nor the set of loaded modules changes."""
        modules = 0 if limit is None else len(sys.modules)
        if limit == self._limit and modules == self._modules:
            return
        with self._lock:
            if limit != self._limit:
                self._set_environment(limit)  # for the libraries that are loaded from now on
            # Not installed, or at odds with a library: the environment has to do.
            with contextlib.suppress(Exception):
                _limit_thread_pools(limit or self._usual)
            self._limit = limit
            self._modules = 0 if limit is None else len(sys.modules)

    def _set_environment(self, limit: int | None) -> None:
        for name, before in self._environment.items():
            value = before if limit is None else str(limit)
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Jobs:
    """The jobs whose bodies this process has loaded."""

    def __init__(self, link: RunnerLink) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._jobs: dict[int, _Slot] = {}

    def load(self, task: RunnerTask) -> LoadedJob:
        """Raises SerializationError, for every task of a job that cannot be loaded."""
        for key in self._link.forgotten():
            with self._lock:
                gone = self._jobs.pop(key, None)
            if gone and gone.job:
                gone.job.forget()
                if scattered := sys.modules.get("muster._data.scattered"):
                    scattered.forget_unused(_UNUSED_SECONDS)
        key = task.job_key
        slot = self._jobs.get(key)
        if slot is None:
            with self._lock:
                slot = self._jobs.setdefault(key, _Slot())
        return slot.job or slot.load(task)


class _Slot:
    def __init__(self) -> None:
        self.job: LoadedJob | None = None
        self._failure: Exception | None = None
        self._lock = threading.Lock()

    def load(self, task: RunnerTask) -> LoadedJob:
        from muster._data.portable import Packed
        from muster._node.tasks import LoadedJob
        from muster.errors import SerializationError

        with self._lock:
            if self._failure:
                raise self._failure.with_traceback(None)
            if self.job is None:
                try:
                    self.job = LoadedJob(Packed(task.body, task.job_blobs))
                except SerializationError as exc:
                    self._failure = exc
                    raise
            return self.job


class Runner:
    """Takes tasks from the link and runs them, in one thread or many."""

    def __init__(self, link: RunnerLink, capture: Capture, *, threads: int) -> None:
        self._link = link
        self._capture = capture
        self._threads = threads
        self._jobs = _Jobs(link)
        self._thread_limit = _ThreadLimit()
        self._forked = False
        self._folder = _current_folder()
        os.register_at_fork(after_in_child=self._after_fork)

    def serve(self) -> NoReturn:
        """Runs tasks until the worker is gone, which ends the process."""
        self._link.ready()
        if self._threads <= 1:
            self._loop()
        for number in range(self._threads):
            name = f"muster-slot-{number}"
            threading.Thread(target=self._loop, name=name, daemon=True).start()
        while True:
            signal.pause()

    def _loop(self) -> NoReturn:
        from muster.errors import TaskStopped

        while True:
            try:
                self._run(self._link.next())
            except TaskStopped:
                # Wherever it came down: the task has ended, its slot is to be freed.
                task_id = self._link.current()
                if task_id is not None:
                    self._link.finish(task_id, b"")

    def _run(self, task: RunnerTask) -> None:
        from muster._data import failures, pickling
        from muster._data.portable import Packed
        from muster.errors import TaskStopped

        context: JobContext | None = None
        result: Packed | None = None
        failure: failures.Described | None = None
        try:
            job = self._jobs.load(task)
            context = job.context
            self._capture.begin(task.id, context)
            self._thread_limit.apply(context.thread_limit)
            pickling.keep_inline(task.inline_results)
            result = job.function(Packed(task.payload, task.blobs))
        except TaskStopped:
            raise
        except BaseException as exc:
            if self._forked:
                _leave(exc)
            failure = failures.describe(exc)
            del exc
        finally:
            if self._forked:
                _leave(None)
            if context is not None:
                self._capture.end(context)
        if self._threads <= 1:
            self._tidy()
        if result is not None:
            self._link.finish(task.id, *result)
        elif failure is not None:
            self._link.fail(task.id, *failure)

    def _tidy(self) -> None:
        """Takes back what a task changed of its process."""
        if _current_folder() != self._folder and self._folder:
            os.chdir(self._folder)
        signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm is the task's own
        for number, handler in _SIGNALS:
            if _signal.getsignal(number) != handler:
                signal.signal(number, handler)

    def _after_fork(self) -> None:
        self._forked = True
        self._capture.silence()
        self._link.abandon()


def _leave(exc: BaseException | None) -> NoReturn:
    """A child that a task forked came back into the runner: only its parent goes on from here."""
    code = 0
    if isinstance(exc, SystemExit) and exc.code is not None:
        code = exc.code if isinstance(exc.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed or broken by the task: nothing to save
            stream.flush()
    os._exit(code & 0xFF)


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # removed


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor} {VERSION}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="muster.runner", description="Started by muster-worker.")
    parser.add_argument("--threads", type=int, default=1, help="run tasks in so many threads")
    parser.add_argument("--max-result", type=int, default=MAX_RESULT_BYTES, help="in bytes")
    parser.add_argument("--version", action="store_true", help="of Python and of Muster")
    return parser.parse_args(arguments)


def _connect(max_result_bytes: int) -> RunnerLink:
    from muster.errors import TaskStopped

    try:
        link = RunnerLink(
            _LINK_DESCRIPTOR, stop_exception=TaskStopped, max_result_bytes=max_result_bytes
        )
        os.set_inheritable(_LINK_DESCRIPTOR, False)
        return link
    except (RuntimeError, OSError) as exc:
        print(
            f"muster.runner: not started by muster-worker; start muster-worker instead ({exc})",
            file=sys.stderr,
        )
        sys.exit(2)


def _prepare_process() -> None:
    import faulthandler

    for number, handler in _SIGNALS:
        signal.signal(number, handler)
    # The worker shows the end of what it says in the error of the task that crashed.
    faulthandler.enable(file=2, all_threads=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def main(arguments: list[str] | None = None) -> None:
    """What `python -m muster.runner` does; returns only for --version."""
    options = _parse(arguments)
    if options.version:
        print(_version())
        return
    global link  # noqa: PLW0603
    link = _connect(options.max_result)
    _prepare_process()
    # A task that looks at __main__ finds nothing of the runner's, nor do its child processes.
    sys.modules["__main__"] = types.ModuleType("__main__")
    from muster._data import arrays, pickling
    from muster._node.capture import Capture  # with it cloudpickle: warm before the first task
    from muster._node.preload import preload

    arrays.shares_files = link.shares_files
    if link.keeps_blobs():
        pickling.make_blob = link.make_blob
    preload()
    capture = Capture(link)
    capture.install()
    Runner(link, capture, threads=options.threads).serve()


if __name__ == "__main__":
    from muster.runner import main as run  # under its own name, once

    run()
