"""What the tasks of these tests do: a module of its own, so that they go by name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed


def square(x: int) -> int:
    return x * x


def pieces(size: int) -> list[bytes]:
    """As a pickle it has no part that could become a blob."""
    return [os.urandom(1000) for _ in range(size // 1000)]


def where(_: object = None) -> int:
    return os.getpid()


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise LookupError(f"no {x}")
    return x


def mark(folder: str, name: str, seconds: float) -> None:
    """Says in `folder` when it began and when it ended."""
    Path(folder, f"{name}.began").touch()
    time.sleep(seconds)
    Path(folder, f"{name}.ended").touch()


def nested_squares(items: list[int], n_jobs: int) -> tuple[int, list[int], list[int]]:
    """The process of this task, those of the tasks inside it, and their results."""
    found = Parallel(n_jobs=n_jobs)(delayed(square_and_where)(x) for x in items)
    return os.getpid(), [process for process, _ in found], [value for _, value in found]


def square_and_where(x: int) -> tuple[int, int]:
    return os.getpid(), x * x


def nested_width() -> tuple[str, int, int, str | None]:
    """The backend inside a task, how wide -1 and None are there, and the slot's cores."""
    from joblib import effective_n_jobs
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    return (
        type(backend).__name__,
        effective_n_jobs(-1),
        Parallel()._effective_n_jobs(),
        os.environ.get("MUSTER_SLOT_CORES"),
    )


def kill_self(_: object) -> None:
    os.kill(os.getpid(), 9)


class Stubborn(Exception):
    """Cannot be made again from what pickle keeps of it."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__("stubborn")
        self.lock = __import__("threading").Lock()


def raise_stubborn(_: object) -> None:
    raise Stubborn(1, 2)


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def fail_when(path: str) -> None:
    wait_until(Path(path).exists)
    raise LookupError("it began")


def wait_for_file(path: str) -> None:
    wait_until(Path(path).exists)


def set_variable(name: str, value: str) -> None:
    os.environ[name] = value


def wait_and_where(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def loaded(names: list[str]) -> list[bool]:
    """Which modules this process has imported."""
    return [name in sys.modules for name in names]
