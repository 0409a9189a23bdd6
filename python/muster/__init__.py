"""Muster: every machine that you can reach as slots for this program.

    from muster import ComputePool, Worker

    with ComputePool(worker=Worker(concurrency=4)) as pool:
        print(list(pool.map(abs, range(-3, 4))))

Names are imported when they are first used: `import muster` alone loads nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster import plugins as plugins
    from muster._data.scattered import Scattered as Scattered
    from muster._link.output import OutputLine as OutputLine
    from muster._link.session import Node as Node
    from muster._pool.compute import compute as compute
    from muster._pool.map import MapResults as MapResults
    from muster._pool.options import Resources as Resources
    from muster.errors import BrokerLost as BrokerLost
    from muster.errors import MusterError as MusterError
    from muster.errors import NodesFailed as NodesFailed
    from muster.errors import NoWorker as NoWorker
    from muster.errors import PoolNotActive as PoolNotActive
    from muster.errors import SerializationError as SerializationError
    from muster.errors import TaskCancelled as TaskCancelled
    from muster.errors import TaskCrashed as TaskCrashed
    from muster.errors import TaskError as TaskError
    from muster.errors import TaskLost as TaskLost
    from muster.errors import TaskStopped as TaskStopped
    from muster.errors import TaskTimeout as TaskTimeout
    from muster.errors import Unsupported as Unsupported
    from muster.errors import VersionMismatch as VersionMismatch
    from muster.joblib import JoblibPool as JoblibPool
    from muster.joblib import MusterBackend as MusterBackend
    from muster.joblib import ScikitLearnPool as ScikitLearnPool
    from muster.joblib import sklearn_backend as sklearn_backend
    from muster.pool import ComputePool as ComputePool
    from muster.pool import as_completed as as_completed
    from muster.provider import Image as Image
    from muster.provider import Local as Local
    from muster.provider import Worker as Worker
    from muster.ssh import SSH as SSH

    __version__: str

_ERRORS = (
    "BrokerLost",
    "MusterError",
    "NodesFailed",
    "NoWorker",
    "PoolNotActive",
    "SerializationError",
    "TaskCancelled",
    "TaskCrashed",
    "TaskError",
    "TaskLost",
    "TaskStopped",
    "TaskTimeout",
    "Unsupported",
    "VersionMismatch",
)
_MODULES = {
    "ComputePool": "pool",
    "as_completed": "pool",
    "Image": "provider",
    "Local": "provider",
    "Worker": "provider",
    "SSH": "ssh",
    "Resources": "_pool.options",
    "MapResults": "_pool.map",
    "Node": "_link.session",
    "Scattered": "_data.scattered",
    "OutputLine": "_link.output",
    "compute": "_pool.compute",
    "JoblibPool": "joblib",
    "MusterBackend": "joblib",
    "ScikitLearnPool": "joblib",
    "sklearn_backend": "joblib",
    **dict.fromkeys(_ERRORS, "errors"),
}

__all__ = [*_MODULES, "__version__", "plugins"]  # noqa: PLE0604 (names, all of them)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("muster._native").VERSION
    elif name == "plugins":
        value = importlib.import_module("muster.plugins")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"muster.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'muster' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
