"""Making a pool what joblib uses, and undoing it, when blocks nest, overlap or run in threads.

joblib keeps its choice per thread. The thread that enters a block gets it the way joblib's own
context managers do; every other thread gets it as joblib's default backend, which lasts as long as
any block does and always means the innermost active pool.
Threads: any; a block should end in the thread in which it began.
"""

from __future__ import annotations

import threading
from typing import Any

import joblib.parallel
from joblib.parallel import register_parallel_backend

from muster._pool import active
from muster.joblib._batch import inside_backend
from muster.joblib.backend import MusterBackend

_DEFAULT = "muster-active-pool"
_lock = threading.Lock()
_activations: list[Activation] = []
_before_all: list[str] = []  # joblib's default backend


class Activation:
    """One block. `begin` and `end` are called once each, by the block's pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.backend = MusterBackend(pool)
        self._context: Any = None
        self._thread = 0

    def begin(self) -> None:
        """joblib uses the pool from now on."""
        active.enter(self._pool)
        with _lock:
            if not _activations:
                _before_all[:] = [joblib.parallel.DEFAULT_BACKEND]
                register_parallel_backend(_DEFAULT, MusterBackend, make_default=True)
            _activations.append(self)
        self._thread = threading.get_ident()
        self._context = inside_backend(self.backend, -1)
        self._context.__enter__()

    def end(self) -> None:
        """joblib uses what it would without this block."""
        active.leave(self._pool)
        with _lock:
            _activations.remove(self)
            inner = [
                other for other in _activations if _backend_before(other._context) is self.backend
            ]
            if not _activations:
                if joblib.parallel.DEFAULT_BACKEND == _DEFAULT:
                    joblib.parallel.DEFAULT_BACKEND = _before_all.pop()
                joblib.parallel.BACKENDS.pop(_DEFAULT, None)
        if self._thread == threading.get_ident() and _current_backend() is self.backend:
            self._context.unregister()
        for other in inner:  # began inside of this block and outlives it
            setattr(other._context, _BEFORE, getattr(self._context, _BEFORE))


# joblib 1.3 keeps a dictionary with the key "backend" where 1.2 keeps a tuple with n_jobs.
_HAS_CONFIG = hasattr(joblib, "parallel_config")
_BEFORE = "old_parallel_config" if _HAS_CONFIG else "old_backend_and_jobs"


def _backend_in(state: Any) -> Any:
    if not state:
        return None
    return state["backend"] if _HAS_CONFIG else state[0]


def _backend_before(context: Any) -> Any:
    return _backend_in(getattr(context, _BEFORE, None))


def _current_backend() -> Any:
    name = "config" if _HAS_CONFIG else "backend_and_jobs"
    return _backend_in(getattr(joblib.parallel._backend, name, None))
