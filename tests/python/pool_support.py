"""What several tests of pools need."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Polls; fails with what it waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true"
        threading.Event().wait(0.01)


def run_script(text: str, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def left_in_memory() -> set[str]:
    """Folders of Muster in /dev/shm that no process holds."""
    left = set()
    for lock in Path(f"/dev/shm/muster-{os.getuid()}").glob("*/lock"):
        try:
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.add(lock.parent.name)
        except OSError:
            pass  # in use, or gone
    return left
