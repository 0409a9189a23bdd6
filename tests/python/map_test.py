"""`pool.map`: order, laziness, chunks, ends and failures."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_support import wait_until

import muster
from muster import ComputePool, Worker


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


def nothing(x: Any) -> Any:
    return x


def test_results_come_in_the_order_of_the_inputs(pool: ComputePool) -> None:
    assert list(pool.map(lambda x: x * x, range(10_000))) == [x * x for x in range(10_000)]


def test_several_iterables_end_with_the_shortest(pool: ComputePool) -> None:
    assert list(pool.map(pow, [2, 3, 4], itertools.count(1))) == [2, 9, 64]
    assert list(pool.map(pow, [2, 3, 4], [1, 1], chunksize=1)) == [2, 3]


@pytest.mark.parametrize("inputs", [[], iter(()), range(0)])
def test_no_inputs(pool: ComputePool, inputs: Any) -> None:
    assert list(pool.map(abs, inputs)) == []


@pytest.mark.parametrize("chunksize", ["auto", 1, 7, 100_000])
def test_chunk_sizes_change_nothing_else(pool: ComputePool, chunksize: Any) -> None:
    assert list(pool.map(nothing, range(1000), chunksize=chunksize)) == list(range(1000))


def test_endless_inputs_are_pulled_as_they_are_needed(pool: ComputePool) -> None:
    pulled = 0

    def inputs() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled - 1

    results = pool.map(nothing, inputs())
    assert list(itertools.islice(results, 50_000)) == list(range(50_000))
    assert pulled < 2_000_000
    results.close()
    assert list(results) == []


@pytest.mark.parametrize("buffersize", [1, 5, 100])
def test_buffersize_bounds_the_run_ahead(pool: ComputePool, buffersize: int) -> None:
    pulled = 0

    def inputs() -> Iterator[int]:
        nonlocal pulled
        for i in range(2000):
            pulled += 1
            yield i

    for returned, _result in enumerate(pool.map(nothing, inputs(), buffersize=buffersize), 1):
        # A chunk's results are returned one by one; its items no longer wait then.
        assert pulled - returned <= 2 * buffersize
    assert pulled == 2000


def test_an_input_that_raises_comes_after_the_results_before_it(pool: ComputePool) -> None:
    def inputs() -> Iterator[int]:
        yield from range(1234)
        raise LookupError("no more")

    results = pool.map(nothing, inputs())
    seen = []
    with pytest.raises(LookupError, match="no more"):
        for result in results:
            seen.append(result)
    assert seen == list(range(1234))
    assert list(results) == []


@pytest.mark.parametrize("chunksize", ["auto", 1, 64])
def test_a_task_that_raises_comes_after_the_results_before_it(
    pool: ComputePool, chunksize: Any
) -> None:
    def check(x: int) -> int:
        if x == 777:
            raise ZeroDivisionError(f"at {x}")
        return x

    seen = []
    with pytest.raises(ZeroDivisionError, match="at 777") as caught:
        for result in pool.map(check, itertools.count(), chunksize=chunksize):
            seen.append(result)
    assert seen == list(range(777))
    assert "in check" in str(caught.value.__cause__)


def test_a_task_that_raises_stop_iteration_does_not_look_like_the_end(pool: ComputePool) -> None:
    def stop(x: int) -> int:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(pool.map(stop, range(10)))


def test_an_item_that_cannot_be_pickled_comes_after_the_results_before_it(
    pool: ComputePool,
) -> None:
    items: list[Any] = [*range(100), threading.Lock(), 100]
    seen = []
    with pytest.raises(muster.SerializationError):
        for result in pool.map(nothing, items, chunksize=30):
            seen.append(result)
    assert seen == list(range(100))


def test_timeout_counts_from_the_call(pool: ComputePool) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        list(pool.map(time.sleep, [600], timeout=0.3))
    assert time.monotonic() - start < 30
    assert pool.submit(abs, -1).result(30) == 1


def test_an_abandoned_iterator_frees_the_slots(pool: ComputePool, tmp_path: Path) -> None:
    def hang(path: str) -> None:
        Path(path).touch()
        time.sleep(600)

    results = pool.map(hang, [str(tmp_path / str(i)) for i in range(10)])
    wait_until(lambda: any(tmp_path.iterdir()))
    del results
    gc.collect()
    assert pool.submit(abs, -1).result(60) == 1


def test_the_pool_s_timeout_holds_for_each_item() -> None:
    with ComputePool(worker=Worker(concurrency=2), timeout=2) as pool:
        # The chunks that grew on quick items take longer than the timeout; no item does.
        slow = [0.0] * 20_000 + [0.25] * 20
        assert len(list(pool.map(time.sleep, slow))) == len(slow)
        with pytest.raises(muster.TaskTimeout):
            list(pool.map(time.sleep, [0, 600]))


def test_retries_hold_for_each_item(tmp_path: Path) -> None:
    def flaky(path: str) -> str:
        mark = Path(path)
        if not mark.exists():
            mark.touch()
            raise OSError("first time")
        return mark.name

    with ComputePool(worker=Worker(concurrency=2), retries=1) as pool:
        paths = [str(tmp_path / str(i)) for i in range(20)]
        assert list(pool.map(flaky, paths)) == [str(i) for i in range(20)]


def test_unordered_results_come_as_they_are_ready(pool: ComputePool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait_for_gate(x: int) -> int:
        while x == 0 and not gate.exists():
            time.sleep(0.01)
        return x

    results = pool.map_unordered(wait_for_gate, range(20), chunksize=1)
    first = [next(results) for _ in range(19)]
    assert sorted(first) == list(range(1, 20))
    gate.touch()
    assert list(results) == [0]


def test_chunks_stay_one_where_every_slot_is_needed() -> None:
    tasks, slots = 400, 20
    with ComputePool(worker=Worker(concurrency=slots, executor="thread")) as pool:
        list(pool.map(nothing, range(slots)))
        before = pool.status()["workers"][0]["tasks_done"]
        list(pool.map(lambda _: time.sleep(0.02), range(tasks)))
        wait_until(lambda: pool.status()["workers"][0]["tasks_done"] >= before + tasks)


def test_a_million_items_in_seconds_and_flat_memory(pool: ComputePool) -> None:
    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    for _result in pool.map(nothing, range(100_000)):
        pass
    before = resident_mb()
    start = time.perf_counter()
    expected = 0
    for result in pool.map(nothing, range(1_000_000)):
        assert result == expected
        expected += 1
    seconds = time.perf_counter() - start
    assert expected == 1_000_000
    assert seconds < 5, f"{seconds:.1f} s"
    assert resident_mb() - before < 50


def test_large_results_do_not_pile_up(pool: ComputePool) -> None:
    pulled = 0

    def inputs() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield 4_000_000

    results = pool.map(bytes, inputs())
    for returned in range(1, 200):
        assert len(next(results)) == 4_000_000
        assert (pulled - returned) * 4_000_000 < 400e6
    results.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"chunksize": 0},
        {"chunksize": "many"},
        {"chunksize": True},
        {"buffersize": 0},
        {"buffersize": 1.5},
    ],
)
def test_wrong_arguments(pool: ComputePool, arguments: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        pool.map(abs, [1], **arguments)
    with pytest.raises(TypeError):
        pool.map(abs)
