"""Which pool a backend uses that was given none: the active one, or a broker by its address.

Owner: the module; connections to brokers last until the process ends. A forked child makes its own.
Threads: any.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from muster import _native
from muster._pool import active
from muster.errors import PoolNotActive

_lock = threading.Lock()
_connections: dict[str, Any] = {}
_of_the_parent: list[Any] = []  # never freed in a forked child, where their threads do not live


def connected_pool(broker: str) -> Any:
    """The process's own connection to that broker, made when first asked for. Blocks up to 30 s.

    Raises BrokerLost when no broker listens there.
    """
    from muster.pool import ComputePool

    with _lock:
        pool = _connections.get(broker)
        if pool is None or not pool.active:
            pool = _connections[broker] = ComputePool(broker=broker)
            pool.start()
            active.leave(pool)  # nobody's block
        return pool


def default_pool() -> Any:
    """The active pool, else the one that MUSTER_BROKER names or `muster up` started. Raises
    PoolNotActive without one."""
    pool = active.innermost()
    if pool is not None:
        return pool
    broker = _native.default_endpoint()
    if broker:
        return connected_pool(broker)
    raise PoolNotActive(
        'the joblib backend "muster" has no pool. Run Parallel inside the block of one:\n\n'
        "    with JoblibPool(concurrency=4):\n"
        "        Parallel(n_jobs=-1)(...)\n\n"
        'or name a running broker: parallel_config("muster", broker="ipc://..."), or the '
        "environment variable MUSTER_BROKER; `muster up` starts one that is found without"
    )


def _close_all() -> None:
    with _lock:
        pools = list(_connections.values())
        _connections.clear()
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 (another thread may have held it)
    _lock = threading.Lock()
    _of_the_parent.extend(_connections.values())
    _connections.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
