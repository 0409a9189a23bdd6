"""`pool.scatter(obj)`: an object that is sent once, and the handle that stands for it in arguments.

Threads: a handle may be used from any.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from muster import _native
from muster._data.portable import Portable, Reduced
from muster.errors import SerializationError

if TYPE_CHECKING:
    from muster._native import Blob

_KEPT_OBJECTS = 32
"""Scattered objects that a runner keeps as they are; another use of an older one unpickles it.
Where memory for data is short it keeps one."""


class Scattered:
    """Stands for an object in the arguments of a pool's tasks, at any depth; the task gets the
    object itself. Made by `pool.scatter`, which has to be of the pool that runs the tasks.

    A process that runs tasks makes the object once, and all its tasks share it: they must not
    change it. Its arrays are read-only. The pool keeps the object until its last handle is gone.
    """

    __slots__ = ("__weakref__", "_blobs", "_key", "_kind", "_portable", "_space", "nbytes")

    nbytes: int
    """Of the pickle with all its parts."""

    def __init__(
        self, portable: Portable, blobs: Sequence[Blob], key: bytes, space: Any, kind: str
    ) -> None:
        self._portable = portable
        self._blobs = blobs
        self._key = key
        self._space = space
        self._kind = kind
        self.nbytes = len(portable.stream) + sum(place.size for place in portable.buffers)

    def nest(self, parts: Any, space: Any) -> Any:
        """What a pickle has of it that goes to `parts`."""
        if space is not self._space:
            raise SerializationError(
                f"{self!r} belongs to another pool; scatter the object in the pool that runs the "
                "tasks"
            )
        return _resolve, (self._key, Reduced(parts.nest(self._portable, self._blobs)))

    def __reduce__(self) -> Any:
        raise SerializationError(
            f"{self!r} means something in arguments of tasks of its own pool only: pass it to "
            "submit, map or Parallel of that pool, and do not pickle it otherwise"
        )

    def __repr__(self) -> str:
        return f"<scattered {self._kind}, {self.nbytes} bytes>"


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made = False
        self.value: Any = None
        self.used = time.monotonic()


def forget_unused(seconds: float) -> None:
    """Lets go of objects that no task has used for so long: their handles may be gone."""
    oldest = time.monotonic() - seconds
    with _lock:
        for key in [key for key, slot in _slots.items() if slot.used < oldest]:
            del _slots[key]


def _has_room() -> bool:
    """Whether the node's folder in memory is far from full: what this process has mapped stays
    there, also when the pool has let go of it."""
    try:
        facts = os.statvfs(os.path.join(os.environ.get(_native.BLOBS_VARIABLE, ""), "memory"))
    except OSError:
        return True  # there is no such folder
    return 2 * facts.f_bavail >= facts.f_blocks


_lock = threading.Lock()
_slots: OrderedDict[bytes, _Slot] = OrderedDict()


def _resolve(key: bytes, portable: Portable) -> Any:
    """The object, which this process makes once."""
    with _lock:
        slot = _slots.setdefault(key, _Slot())
        _slots.move_to_end(key)
        slot.used = time.monotonic()
        kept = _KEPT_OBJECTS if len(_slots) == 1 or _has_room() else 1
        while len(_slots) > kept:
            _slots.popitem(last=False)
    with slot.lock:
        if not slot.made:
            slot.value = portable.load()
            slot.made = True
        return slot.value
