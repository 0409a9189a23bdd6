"""What the tasks of the Python benches do. A module of its own, so that tasks name it by import."""

from __future__ import annotations

import time


def noop(value: int) -> int:
    return value


def sleep_100ms(_: int) -> None:
    time.sleep(0.1)


def sleep_10ms(_: int) -> None:
    time.sleep(0.01)
