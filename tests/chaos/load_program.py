"""One producer of a chaos run: load_program.py KIND SEED COUNT MARKS RESULT.

Gives a pool COUNT tasks, compares every result with what the sequential run gives, in order, and
writes one JSON object to the file RESULT. MARKS: the file where the tasks write down that they ran
(marks.py); it is the nodes' when tasks run on nodes.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from typing import Any

from muster import ComputePool

RETRIES = 30  # a killed runner is its task's crash
MEGABYTE = 1 << 20


class Mark:
    """Writes down that a task ran. Goes to the nodes by value, so it imports what it needs."""

    def __init__(self, file: str, number: int) -> None:
        self.file, self.number = file, number

    def write(self, event: str) -> None:
        import os
        import time

        moment = time.clock_gettime(time.CLOCK_BOOTTIME)
        host = os.uname().nodename
        line = f"{self.number} {event} {moment:.4f} {host} {os.getppid()} {os.getpid()}\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def __enter__(self) -> None:
        self.write("begin")

    def __exit__(self, *_: object) -> None:
        self.write("end")


def value_of(number: int) -> int:
    return number * number + 7


def work(item: tuple[str, int, float]) -> int:
    """A small task."""
    import time

    marks, number, seconds = item
    with Mark(marks, number):
        time.sleep(seconds)
    return value_of(number)


def turn_round(item: tuple[str, int, bytes]) -> tuple[int, bytes]:
    """A megabyte in and out."""
    marks, number, data = item
    with Mark(marks, number):
        return number, data[::-1]


def look_at(marks: str, number: int, shared: bytes) -> tuple[str, bytes]:
    """Part of what all tasks share."""
    begin = number * 1009 % (len(shared) // 2)
    with Mark(marks, number):
        part = bytes(shared[begin : begin + 300_000])
        return hashlib.sha256(part).hexdigest(), part


class Load:
    """The tasks of one producer, and what they must give."""

    def __init__(self, seed: int, count: int, marks: str) -> None:
        self.seed, self.count, self.marks = seed, count, marks
        self.got = 0

    def items(self, share: float = 0.3, longest: float = 0.05) -> Iterator[tuple[str, int, float]]:
        rnd = random.Random(self.seed)
        for number in range(self.count):
            seconds = rnd.uniform(0.01, longest) if rnd.random() < share else 0.0
            yield self.marks, number, seconds

    def check(self, number: int, value: object, expected: object) -> None:
        if value != expected:
            text = f"result {number} is {str(value)[:80]} instead of {str(expected)[:80]}"
            raise AssertionError(text)
        self.got += 1

    def check_all(self, values: Iterator[object]) -> None:
        for number, value in enumerate(values):
            self.check(number, value, value_of(number))

    # --- One for each kind

    def map(self, pool: ComputePool) -> None:
        self.check_all(pool.map(work, self.items()))

    def chunked(self, pool: ComputePool) -> None:
        self.check_all(pool.map(work, self.items(share=0.0)))

    def long(self, pool: ComputePool) -> None:
        self.check_all(pool.map(work, self.items(share=1.0, longest=8.0), chunksize=1))

    def doomed(self, pool: ComputePool) -> None:
        """Is killed before its end, with large data under way."""
        shared = pool.scatter(random.Random(self.seed).randbytes(4 * MEGABYTE))
        numbers = range(self.count)
        for _ in pool.map(look_at, [self.marks] * self.count, numbers, [shared] * self.count):
            self.got += 1

    def futures(self, pool: ComputePool) -> None:
        numbers = {pool.submit(work, item): item[1] for item in self.items()}
        for future in as_completed(numbers):
            number = numbers[future]
            self.check(number, future.result(), value_of(number))

    def joblib(self, pool: ComputePool, **options: object) -> None:
        from joblib import Parallel, delayed

        from muster.joblib import sklearn_backend

        with sklearn_backend(pool):
            values = Parallel(n_jobs=-1, **options)(delayed(work)(item) for item in self.items())
            self.check_all(iter(values))

    def generator(self, pool: ComputePool) -> None:
        self.joblib(pool, return_as="generator")

    def big(self, pool: ComputePool) -> None:
        def inputs() -> Iterator[tuple[str, int, bytes]]:
            data = bytearray(random.Random(self.seed).randbytes(MEGABYTE))
            for number in range(self.count):
                data[:8] = number.to_bytes(8, "big")
                yield self.marks, number, bytes(data)

        sent = inputs()
        for value in pool.map(turn_round, inputs(), buffersize=12):
            _, number, data = next(sent)
            self.check(number, value, (number, data[::-1]))

    def blobs(self, pool: ComputePool) -> None:
        shared = random.Random(self.seed).randbytes(4 * MEGABYTE)
        handle = pool.scatter(shared)
        values = pool.map(
            look_at, [self.marks] * self.count, range(self.count), [handle] * self.count
        )
        for number, value in enumerate(values):
            begin = number * 1009 % (len(shared) // 2)
            part = shared[begin : begin + 300_000]
            self.check(number, value, (hashlib.sha256(part).hexdigest(), part))


def main() -> int:
    kind, seed, count, marks, result = sys.argv[1:]
    load = Load(int(seed), int(count), marks)
    run: Callable[[ComputePool], None] = getattr(load, kind)
    told: dict[str, Any] = {"load": kind, "error": ""}
    begin = time.monotonic()
    try:
        # With retries each item of a map is a task of its own.
        retries = 0 if kind == "chunked" else RETRIES
        with ComputePool(broker="auto", retries=retries, output=False, name=kind) as pool:
            run(pool)
        if load.got != load.count:
            told["error"] = f"{load.got} results of {load.count}"
    except BaseException as error:
        told["error"] = f"{type(error).__name__} after {load.got} of {load.count}: {error}"[:600]
    told["seconds"] = round(time.monotonic() - begin, 2)
    with open(result, "w") as file:
        json.dump(told, file)
    return 1 if told["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
