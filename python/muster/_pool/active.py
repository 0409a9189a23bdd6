"""The pools of this process that were started and not shut down, innermost last.

Owner: the module, which keeps no pool alive. A forked child begins with none: a pool's threads do
not live there.
Threads: any.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_lock = threading.RLock()
_pools: list[weakref.ref[Any]] = []


def enter(pool: Any) -> None:
    """Makes `pool` the innermost one. A pool may be in it more than once."""
    with _lock:
        _pools.append(weakref.ref(pool))


def leave(pool: Any) -> None:
    """Takes the innermost mention of `pool` out, if there is one."""
    with _lock:
        for index in range(len(_pools) - 1, -1, -1):
            if _pools[index]() is pool:
                del _pools[index]
                return


def innermost() -> Any | None:
    """None outside of all blocks."""
    with _lock:
        for reference in reversed(_pools):
            pool = reference()
            if pool is not None and pool.active:
                return pool
        return None


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 (another thread may have held it)
    _lock = threading.RLock()
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
