"""What the program's own code raises where Muster calls it: the tasks of others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import wait_until

from muster import ComputePool, OutputLine, Worker


@pytest.fixture
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=1)) as made:
        yield made


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def interrupt_in(process_id: int) -> BaseException:
    """What an exception is made of: raises where that process loads it."""
    if os.getpid() == process_id:
        raise KeyboardInterrupt
    return Interrupting(process_id)


class Interrupting(Exception):
    def __reduce__(self) -> object:
        return interrupt_in, self.args


def fail_with(process_id: int) -> None:
    raise Interrupting(process_id)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError])
def test_a_callback_of_a_future(
    pool: ComputePool, tmp_path: Path, error: type[BaseException]
) -> None:
    def raise_it(_: object) -> None:
        raise error

    mark = tmp_path / "go"
    future = pool.submit(wait_for, str(mark))
    future.add_done_callback(raise_it)
    mark.touch()
    assert future.result(60) is None
    assert pool.submit(abs, -1).result(60) == 1
    assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_an_exception_that_cannot_be_loaded(pool: ComputePool) -> None:
    future = pool.submit(fail_with, os.getpid())
    assert isinstance(future.exception(60), KeyboardInterrupt)
    assert pool.submit(abs, -1).result(60) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_sink_of_output(error: type[BaseException]) -> None:
    lines: list[str] = []

    def take(line: OutputLine) -> None:
        lines.append(line.text)
        if line.text == "first":
            raise error

    with ComputePool(worker=Worker(concurrency=1), output=take) as pool:
        pool.submit(print, "first").result(60)
        wait_until(lambda: lines == ["first"])
        pool.submit(print, "second").result(60)
        wait_until(lambda: lines == ["first", "second"])
