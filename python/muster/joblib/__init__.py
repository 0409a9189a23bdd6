"""joblib on Muster: `n_jobs=-1` means the whole pool.

    from muster.joblib import JoblibPool
    with JoblibPool(concurrency=4):
        Parallel(n_jobs=-1)(delayed(work)(x) for x in data)

Importing this registers the backend "muster", so that `parallel_config("muster", broker=...)`,
`parallel_backend("muster", ...)` and `Parallel(backend="muster")` work as well. docs/joblib.md says
what each joblib version can do.
"""

from typing import TYPE_CHECKING, Any

from muster.joblib import backend as _backend
from muster.joblib import memory as _memory
from muster.joblib.backend import MusterBackend
from muster.joblib.memory import Store

if TYPE_CHECKING:
    from muster.joblib.pools import JoblibPool, ScikitLearnPool, sklearn_backend

__all__ = ["JoblibPool", "MusterBackend", "ScikitLearnPool", "Store", "sklearn_backend"]

_backend.register()
_memory.register()


def __getattr__(name: str) -> Any:
    """Pools are imported when they are asked for: a runner, which only runs batches, never does."""
    if name in ("JoblibPool", "ScikitLearnPool", "sklearn_backend"):
        from muster.joblib import pools

        return getattr(pools, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
