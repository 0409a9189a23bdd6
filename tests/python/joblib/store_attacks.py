"""What hostile tasks and programs of stores_hostile_test.py do."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from muster import ComputePool
from muster._link import stores


class Bomb:
    """Leaves a file where somebody unpickles it."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.mark, "w")


def bomb(mark: str) -> bytes:
    return pickle.dumps(Bomb(mark))


def ask(operation: int, store: str, key: str, value: bytes = b"", **fields: int) -> tuple[int, str]:
    """In a task: asks over the link of its process, past everything that Muster's own code does.
    Returns status and text of the answer."""
    link = sys.modules["muster.runner"].link
    if value:
        fields["size"] = len(value)
    asked = link.ask(link.task() or 0, 4711, operation, store, key, value=value, **fields)
    while (answer := asked.wait(1.0)) is None:
        pass
    return answer[0], answer[1]


def put_in_task(endpoint: str, store: str, key: str, mark: str) -> None:
    """A program that never names the store: its task tries to put a bomb there."""
    with ComputePool(broker=endpoint) as pool:
        status, text = pool.submit(ask, stores.PUT, store, key, bomb(mark)).result(60)
        print("stored" if status == stores.DONE else text)


def put_in_program(endpoint: str, store: str, key: str, mark: str) -> None:
    """A program that puts a bomb there itself."""
    with ComputePool(broker=endpoint) as pool:
        spill = stores.Spill(None)
        spill.write(bomb(mark))
        stores.Store(store, lambda: pool.session).put(key, spill)
        print("stored")


if __name__ == "__main__":
    {"task": put_in_task, "program": put_in_program}[sys.argv[1]](*sys.argv[2:])
