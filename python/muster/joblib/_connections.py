"""Which pool a backend uses: one that it was given, the active one, or a broker by its address.

Owner: the module; pools belong to their blocks, connections to brokers to this process, which
closes them at its end. A forked child has neither.
Threads: any.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from muster.errors import PoolNotActive

_lock = threading.Lock()
_active: list[Any] = []
_connections: dict[str, Any] = {}
_process_id = os.getpid()


def enter(pool: Any) -> None:
    """Makes `pool` the innermost active one."""
    with _lock:
        _forget_if_forked()
        _active.append(pool)


def leave(pool: Any) -> None:
    """Takes `pool` out, whether it is the innermost one or not."""
    with _lock:
        for index in range(len(_active) - 1, -1, -1):
            if _active[index] is pool:
                del _active[index]
                return


def active_pool() -> Any | None:
    """The innermost pool of this process whose block has not ended."""
    with _lock:
        _forget_if_forked()
        return _active[-1] if _active else None


def connected_pool(broker: str) -> Any:
    """The process's own connection to that broker, made when first asked for. Blocks up to 10 s.

    Raises BrokerLost when no broker listens there.
    """
    from muster.pool import ComputePool

    with _lock:
        _forget_if_forked()
        pool = _connections.get(broker)
        if pool is None or pool._session is None or pool._session.closed:
            pool = ComputePool(broker=broker)
            pool.__enter__()
            _connections[broker] = pool
        return pool


def default_pool() -> Any:
    """The active pool, else the one that MUSTER_BROKER names. Raises PoolNotActive without both."""
    pool = active_pool()
    if pool is not None:
        return pool
    broker = os.environ.get("MUSTER_BROKER")
    if broker:
        return connected_pool(broker)
    raise PoolNotActive(
        'the joblib backend "muster" has no pool. Run Parallel inside the block of one:\n\n'
        "    with JoblibPool(concurrency=4):\n"
        "        Parallel(n_jobs=-1)(...)\n\n"
        'or name a running broker: parallel_config("muster", broker="ipc://..."), or the '
        "environment variable MUSTER_BROKER"
    )


def _forget_if_forked() -> None:
    global _process_id
    if _process_id != os.getpid():
        _process_id = os.getpid()
        _active.clear()
        _connections.clear()


def _close_all() -> None:
    with _lock:
        _forget_if_forked()
        pools = list(_connections.values())
        _connections.clear()
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
