"""Results that nobody takes: a program and its pool hold so much of them at most, and what was
held back runs when somebody takes some."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import core_pool
import pytest
from pool_support import wait_until

from muster import ComputePool, Worker
from muster._data import pickling
from muster._node import tasks

LIMIT = 256 << 20
SLACK = 64 << 20  # what runs, is on its way, or was not said yet
RESULT = 400_000  # bytes; less than what becomes a blob


def pieces(size: int) -> list[bytes]:
    """As a pickle it has no part that could become a blob."""
    return [os.urandom(1000) for _ in range(size // 1000)]


def small_then_large(i: int) -> list[bytes]:
    return pieces(1000 if i < 500 else RESULT)


@pytest.fixture
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as made:
        yield made


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def full_job(pool: ComputePool) -> dict[str, Any]:
    """The pool's job that is full, once it is."""
    found: list[dict[str, Any]] = []

    def is_full() -> bool:
        found[:] = [
            row for row in pool.status()["jobs"] if row["waiting"].startswith("its results wait")
        ]
        return bool(found)

    wait_until(is_full, seconds=120)
    return found[0]


def test_a_map_whose_results_grow(pool: ComputePool) -> None:
    before = resident_bytes()
    results = pool.map(small_then_large, range(3000), chunksize=1)
    for _ in range(400):
        next(results)
    held = (full_job(pool)["done"] - 500) * RESULT
    assert LIMIT / 2 < held < LIMIT + SLACK
    assert resident_bytes() - before < 2 * LIMIT
    assert [len(next(results)) for _ in range(1000)] == [1] * 100 + [400] * 900
    results.close()


def test_a_map_beside_one_that_nobody_reads(pool: ComputePool) -> None:
    unread = pool.map(small_then_large, range(3000), chunksize=1)
    for _ in range(400):
        next(unread)
    full_job(pool)
    others = pool.map(pieces, itertools.repeat(RESULT, 100), chunksize=1)
    assert sum(len(result) for result in others) == 100 * 400
    unread.close()


def test_futures_are_the_program_s(pool: ComputePool) -> None:
    before = resident_bytes()
    for _ in range(1500):
        pool.submit(pieces, RESULT)  # nobody keeps it
    last = pool.submit(len, pieces(1000))
    assert last.result(timeout=120) == 1
    wait_until(lambda: all(row["queued"] == 0 for row in pool.status()["jobs"]), seconds=120)
    assert resident_bytes() - before < LIMIT


def test_what_a_job_of_the_core_counts() -> None:
    with core_pool.CorePool(slots=2) as core:
        job = core.open(tasks.Call(pieces), counts_results=True)
        for size in (0, 4000, 100_000, RESULT):
            result, failure = core.outcome(job, core.push(job, size))
            assert failure is None
            counted = tasks.counted_bytes(result)
            assert counted == len(result)
            assert counted == len(tasks.split_result(result)[1].body) + 8
        result, _ = core.outcome(job, core.push(job, 3_000_000))
        assert tasks.counted_bytes(result) == 0, "a blob counts by itself"
        assert len(pickling.unpack(tasks.split_result(result)[1])) == 3000
        core.producer.consumed(job, 1 << 60)
        core.producer.consumed(12345, 1)
