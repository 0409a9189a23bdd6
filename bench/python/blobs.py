"""One side of one comparison of large data: `blobs.py BENCH …` prints its figures as JSON lines.

As in sides.py, every side warms its processes up before it is timed. Arrays are filled anew for the
timed call: nobody has seen them before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from processes import (
    MEGA,
    command_of,
    descendants,
    folder_bytes,
    memory_folder,
    pss_bytes,
    sampled,
)
from sides import SLOTS, joblib_on, seconds, show

ARRAY_BYTES = 256 * MEGA
ARRAY_TASKS = 64
GRID_ROWS, GRID_COLUMNS, GRID_FOLDS = 50_000, 100, 3
GRID_PENALTIES = [10.0**power for power in range(-4, 4)]  # times the folds: 24 fits
RESULT_BYTES = 8 * MEGA
CONSUMER_SECONDS = 0.01


def fresh_array(size_bytes: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(size_bytes // 8)


def total(array: np.ndarray[Any, Any], number: int) -> float:
    return float(array.sum()) + number


def share(array: np.ndarray[Any, Any]) -> None:
    """All tasks need all of the array."""
    from joblib import Parallel, delayed

    expected = float(array.sum())
    results = Parallel(n_jobs=SLOTS, batch_size=1)(
        delayed(total)(array, i) for i in range(ARRAY_TASKS)
    )
    if any(abs(value - expected - i) > 1e-3 * expected for i, value in enumerate(results)):
        raise RuntimeError("a task saw another array")


def share_by_fork(array: np.ndarray[Any, Any]) -> None:
    """The same sums in processes that have the array already, and nothing to send."""
    float(array.sum())
    children = []
    for first in range(SLOTS):
        child = os.fork()
        if child == 0:
            for number in range(first, ARRAY_TASKS, SLOTS):
                total(array, number)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        raise RuntimeError("a process failed")


def shared_array(side: str) -> None:
    if side == "forks":
        array = fresh_array(ARRAY_BYTES, 2)
        show("seconds", seconds(lambda: share_by_fork(array)))
        return
    with joblib_on(side):
        share(fresh_array(1 * MEGA, 1))
        array = fresh_array(ARRAY_BYTES, 2)
        show("seconds", seconds(lambda: share(array)))


def shared_array_memory(side: str) -> None:
    """Of the pool: every process but this one, which has an array of its own."""
    with joblib_on(side):
        share(fresh_array(1 * MEGA, 1))
        array = fresh_array(ARRAY_BYTES, 2)
        with sampled(lambda: sum(map(pss_bytes, descendants(os.getpid())))) as peak:
            share(array)
        show("pool_pss_mb", peak.bytes / MEGA)
        show("samples", peak.samples)


def grid_search() -> Any:
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    rows, labels = make_classification(GRID_ROWS, GRID_COLUMNS, n_informative=20, random_state=3)
    search = GridSearchCV(
        LogisticRegression(max_iter=20),
        {"C": GRID_PENALTIES},
        cv=GRID_FOLDS,
        n_jobs=-1,
        refit=False,
        pre_dispatch="all",
    )
    return search, rows, labels


def warm_up_grid(search: Any) -> None:
    from sklearn.base import clone

    generator = np.random.default_rng(4)
    clone(search).fit(generator.random((200, GRID_COLUMNS)), generator.integers(0, 2, 200))


def grid(side: str) -> None:
    search, rows, labels = grid_search()
    search.n_jobs = SLOTS
    with joblib_on(side):
        warm_up_grid(search)
        show("seconds", seconds(lambda: search.fit(rows, labels)))
        show("best_score", search.best_score_)


def grid_nodes(hosts: str) -> None:
    """What goes to each node, by the counters of its tunnel, in copies of what the fits need."""
    from muster import SSH
    from muster.joblib import JoblibPool

    search, rows, labels = grid_search()
    needed = rows.nbytes + labels.nbytes
    with JoblibPool(SSH(hosts), concurrency=1, executor="process") as pool:
        warm_up_grid(search)
        before = {row["name"]: row["bytes_out"] for row in pool.status()["nodes"]}
        search.fit(rows, labels)
        after = {row["name"]: row["bytes_out"] for row in pool.status()["nodes"]}
    copies = [(after[name] - before[name]) / needed for name in after]
    show("least_copies", min(copies))
    show("most_copies", max(copies))
    show("nodes", len(copies))


def blocks(ring: list[np.ndarray[Any, Any]], count: int) -> Iterator[np.ndarray[Any, Any]]:
    """Arrays of which none is like another; each is written anew when the others had their turn."""
    for number in range(count):
        array = ring[number % len(ring)]
        array[:: 4096 // 8] = number  # in every page
        yield array


def length(block: np.ndarray[Any, Any]) -> int:
    return int(block.nbytes)


def bulk(endpoint: str, megabytes: str, block_megabytes: str) -> None:
    """From this program's memory to where the one remote worker's tasks see it."""
    from muster import ComputePool

    count = int(megabytes) // int(block_megabytes)
    size = int(block_megabytes) * MEGA
    # Of this run alone: the node still has what an earlier one sent.
    first = int.from_bytes(os.urandom(4), "big")
    ring = [fresh_array(size, first + number) for number in range(4)]
    with ComputePool(broker=endpoint) as pool:
        list(pool.map(length, ring[:2]))
        start = time.perf_counter()
        received = sum(pool.map(length, blocks(ring, count)))
        taken = time.perf_counter() - start
    if received != count * size:
        raise RuntimeError(f"{received} of {count * size} bytes arrived")
    show("megabytes_per_second", received / MEGA / taken)


def make_result(number: int) -> np.ndarray[Any, Any]:
    return np.full(RESULT_BYTES // 8, float(number))


def results(count: str) -> None:
    """This process, the broker and what the broker keeps in memory, while results are consumed."""
    from muster import ComputePool, Worker

    with ComputePool(worker=Worker(concurrency=SLOTS)) as pool:
        list(pool.map(make_result, range(2)))
        brokers = [
            process
            for process in descendants(os.getpid())
            if command_of(process).endswith("muster-broker")
        ]
        folder = memory_folder(brokers[0])
        own = os.getpid()
        parts = [0, 0, 0]

        def measure() -> int:
            now = [pss_bytes(own), pss_bytes(brokers[0]), folder_bytes(folder)]
            parts[:] = map(max, parts, now)
            return sum(now)

        with sampled(measure) as peak:
            start = time.perf_counter()
            for number, result in enumerate(pool.map(make_result, range(int(count)))):
                if result[0] != number or result[-1] != number:
                    raise RuntimeError("not the result of that task")
                time.sleep(CONSUMER_SECONDS)
            taken = time.perf_counter() - start
    show("peak_mb", peak.bytes / MEGA)
    for name, part in zip(("producer_mb", "broker_mb", "store_mb"), parts, strict=True):
        show(name, part / MEGA)
    show("results_per_second", int(count) / taken)


BENCHES = {
    "shared_array": shared_array,
    "shared_array_memory": shared_array_memory,
    "grid": grid,
    "grid_nodes": grid_nodes,
    "bulk": bulk,
    "results": results,
}

if __name__ == "__main__":
    BENCHES[sys.argv[1]](*sys.argv[2:])
