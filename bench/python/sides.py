"""One side of one Python comparison: `sides.py BENCH SIDE` prints its figures as JSON lines.

Every side warms its processes up with a call of its own before it is timed, and is measured in a
process of its own, so that no side inherits threads or memory of another.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from work import noop, sleep_10ms, sleep_100ms

SLOTS = 2
NOOP_TASKS = {"muster": 20_000, "loky": 10_000, "dask": 1_000}
AUTO_TASKS = 200_000
ROUND_TRIPS = {"muster": 2_000, "loky": 2_000, "dask": 500}
MAP_ITEMS = 1_000_000
SLEEPS = 2_000
SLEEP_SLOTS = 100


def show(figure: str, value: float) -> None:
    print(json.dumps({"figure": figure, "value": value}), flush=True)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def dask_client(workers: int) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def joblib_on(side: str) -> Iterator[None]:
    import joblib

    if side == "dask":
        with dask_client(SLOTS), joblib.parallel_config("dask"):
            yield
    elif side == "loky":
        with joblib.parallel_config("loky"):
            yield
    else:
        from muster.joblib import JoblibPool

        with JoblibPool(concurrency=SLOTS):
            yield


def joblib_noop(side: str) -> None:
    from joblib import Parallel, delayed

    def run(tasks: int, batch_size: int | str) -> float:
        parallel = Parallel(n_jobs=SLOTS, batch_size=batch_size)
        return tasks / seconds(lambda: parallel(delayed(noop)(i) for i in range(tasks)))

    with joblib_on(side):
        run(200, 1)
        show("batch1_per_second", run(NOOP_TASKS[side], 1))
        if side != "dask":
            run(AUTO_TASKS // 10, "auto")
            show("auto_per_second", run(AUTO_TASKS, "auto"))


def python_round_trip(side: str) -> None:
    def measure(call: Callable[[int], Any]) -> None:
        for i in range(100):
            call(i)
        times = sorted(seconds(lambda i=i: call(i)) for i in range(ROUND_TRIPS[side]))
        show("p50_us", statistics.median(times) * 1e6)
        show("p99_us", times[len(times) * 99 // 100] * 1e6)

    if side == "loky":
        from loky import get_reusable_executor

        executor = get_reusable_executor(max_workers=1)
        measure(lambda i: executor.submit(noop, i).result())
    elif side == "dask":
        with dask_client(1) as client:
            measure(lambda i: client.submit(noop, i, pure=False).result())
    else:
        from muster import ComputePool, Worker

        with ComputePool(worker=Worker(concurrency=1, executor="process")) as pool:
            measure(lambda i: pool.submit(noop, i).result())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def python_map(_: str) -> None:
    from muster import ComputePool, Worker

    with ComputePool(worker=Worker(concurrency=SLOTS)) as pool:
        for _item in pool.map(noop, range(MAP_ITEMS // 10)):
            pass
        before = peak_mb()
        count = 0
        start = time.perf_counter()
        for value in pool.map(noop, range(MAP_ITEMS)):
            count += value == count
        show("items_per_second", MAP_ITEMS / (time.perf_counter() - start))
        show("in_order", count)
        show("growth_mb", peak_mb() - before)
        endless = itertools.islice(pool.map(noop, itertools.count()), MAP_ITEMS)
        show("endless_per_second", MAP_ITEMS / seconds(lambda: sum(1 for _item in endless)))
        show("endless_growth_mb", peak_mb() - before)


def slots(_: str) -> None:
    from joblib import Parallel, delayed

    from muster import ComputePool, Worker
    from muster.joblib import sklearn_backend

    with ComputePool(worker=Worker(concurrency=SLEEP_SLOTS, executor="thread")) as pool:
        list(pool.map(noop, range(SLEEP_SLOTS)))
        for name, sleep, each in (("100ms", sleep_100ms, 0.1), ("10ms", sleep_10ms, 0.01)):
            ideal = SLEEPS / SLEEP_SLOTS * each
            taken = seconds(lambda sleep=sleep: list(pool.map(sleep, range(SLEEPS))))
            show(f"efficiency_{name}", ideal / taken)
            with sklearn_backend(pool):
                tasks = (delayed(sleep)(i) for i in range(SLEEPS))
                taken = seconds(lambda tasks=tasks: Parallel(n_jobs=-1)(tasks))
            show(f"joblib_efficiency_{name}", ideal / taken)


def start(side: str) -> None:
    if side == "joblib":
        import joblib

        assert joblib.__version__
    else:
        from muster import ComputePool

        with ComputePool() as pool:
            assert pool.submit(noop, 7).result() == 7


BENCHES = {
    "joblib_noop": joblib_noop,
    "python_round_trip": python_round_trip,
    "python_map": python_map,
    "slots": slots,
    "start": start,
}

if __name__ == "__main__":
    BENCHES[sys.argv[1]](sys.argv[2])
