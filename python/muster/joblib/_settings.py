"""What the settings of joblib and of the caller's process mean for tasks. Plain functions."""

from __future__ import annotations

import os

from joblib._parallel_backends import ParallelBackendBase
from joblib.disk import memstr_to_bytes

from muster._data.blobs import LEAST_BYTES, Sharing


def sharing_of(max_nbytes: int | str | None, mmap_mode: str | None) -> Sharing:
    """What joblib's options mean here: arrays of `max_nbytes` and more are memory maps in tasks,
    the others copies of the task's own."""
    if max_nbytes is None or mmap_mode is None:
        return Sharing(read_only_bytes=None)
    limit = memstr_to_bytes(max_nbytes) if isinstance(max_nbytes, str) else int(max_nbytes)
    if mmap_mode not in ("r", "c", "r+", "w+"):
        raise ValueError(f"mmap_mode must be None, 'r', 'c', 'r+' or 'w+', not {mmap_mode!r}")
    return Sharing(
        least_bytes=min(LEAST_BYTES, max(limit, 1)),
        read_only_bytes=max(limit, 1),
        copied=mmap_mode != "r",
        mapped=True,
    )


def threads_of_the_client() -> int | None:
    """What the user set for this process holds for tasks as well, as with joblib's own backends."""
    for name in ParallelBackendBase.MAX_NUM_THREADS_VARS:
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return None
