"""The node's side of a `Parallel` call: runs batches on a slot, with what the slot allows inside.

Imported by runners only for this; needs joblib on the node, of any version that Muster supports.
Threads: with the thread executor, one RunBatch runs in many threads at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import joblib
from joblib._parallel_backends import ThreadingBackend

from muster import _native
from muster._data.pickling import unpack_items
from muster._data.portable import Packed
from muster._node import tasks

Initializer = tuple[Callable[..., Any], tuple[Any, ...]]

_SLOT_CORES = _native.SLOT_CORES_VARIABLE
_JOBLIB_CORES = _native.JOBLIB_CORES_VARIABLE  # joblib counts so many cores at most


def slot_cores() -> int | None:
    """The cores of the slot that this code runs on, at least 1; None outside of tasks."""
    text = os.environ.get(_SLOT_CORES, "")
    return max(1, int(text)) if text.isdigit() else None


def slot_backend(nesting_level: int = 1) -> Any:
    """The backend of `Parallel` inside a task: threads on the slot's cores, never the pool.

    As joblib does one level below its own process backends. n_jobs=-1 means the slot's cores.
    """
    cores = slot_cores()
    if cores is not None:
        os.environ[_JOBLIB_CORES] = str(cores)
    return ThreadingBackend(nesting_level=nesting_level)


def inside_backend(backend: Any, n_jobs: int) -> AbstractContextManager[Any]:
    """Makes `backend` what joblib uses in this thread: parallel_config came with joblib 1.3."""
    context = getattr(joblib, "parallel_config", joblib.parallel_backend)
    return context(backend, n_jobs=n_jobs)  # type: ignore[no-any-return]


class RunBatch:
    """The callable of a `Parallel` call's job. A payload is the pickle of a list of (function,
    args, kwargs); its value is the list of their results.

    `initializer` runs once in every process before its first batch of the call, as in joblib 1.5.
    """

    def __init__(self, initializer: Initializer | None = None) -> None:
        self._initializer = initializer
        self._cores: int | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RunBatch, (self._initializer,)

    def __call__(self, payload: Packed) -> Packed:
        items = unpack_items(payload, "the arguments of this task")
        if self._cores is None:
            self._cores = slot_cores() or 1
            os.environ[_JOBLIB_CORES] = str(self._cores)
        with inside_backend(ThreadingBackend(nesting_level=1), self._cores):
            if self._initializer is not None:
                self._initialize()
            start = perf_counter()
            results = [function(*args, **kwargs) for function, args, kwargs in items]
            seconds = perf_counter() - start
        return tasks.join_result(seconds, results)

    def _initialize(self) -> None:
        with self._lock:
            if self._initializer is not None:
                function, args = self._initializer
                function(*args)
                self._initializer = None
