"""What the functions of memory_test.py do. Each says in a folder that it was computed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

_PATIENCE_SECONDS = 120.0


def note(folder: str, name: object) -> None:
    """A line per call, whoever makes it."""
    line = f"{name}\n".encode()
    descriptor = os.open(Path(folder, "computed"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line)
    os.close(descriptor)


def computed(folder: object) -> list[str]:
    path = Path(str(folder), "computed")
    return path.read_text().split() if path.exists() else []


def await_file(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} does not come")
        time.sleep(0.005)


def square(folder: str, x: int, verbose: bool = False) -> int:
    note(folder, x)
    return x * x


def slow_square(folder: str, x: int) -> int:
    note(folder, x)
    await_file(Path(folder, "go"))
    return x * x


def die_first(folder: str, x: int) -> int:
    note(folder, x)
    await_file(Path(folder, "go"))
    if len(computed(folder)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def fail_first(folder: str, x: int) -> int:
    note(folder, x)
    await_file(Path(folder, "go"))
    if len(computed(folder)) == 1:
        raise LookupError(f"no {x}")
    return x * x


def ramp(folder: str, count: int) -> Any:
    note(folder, count)
    return np.arange(count, dtype=np.float64)


def frame(folder: str, count: int) -> Any:
    import pandas as pd

    note(folder, count)
    table = pd.DataFrame({"x": np.arange(count), "name": [f"n{i}" for i in range(count)]})
    return {"table": table, "raw": np.ones((count, 3)), "text": "é" * count, "none": None}


def total(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())


def total_of(cached: Any, *args: Any) -> tuple[str, float]:
    return total(cached(*args))
