"""`Parallel` on a pool: results, n_jobs, errors, what stops with a call."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed
from work import (
    fail_at,
    fail_when,
    kill_self,
    mark,
    nested_squares,
    nested_width,
    raise_stubborn,
    set_variable,
    square,
    wait,
    where,
)

from muster import (
    ComputePool,
    MusterBackend,
    PoolNotActive,
    SerializationError,
    TaskCrashed,
    TaskError,
)
from muster.errors import RemoteTraceback

SQUARES = [x * x for x in range(50)]


def test_results_come_in_order_from_other_processes(pool: ComputePool) -> None:
    assert Parallel(n_jobs=-1)(delayed(square)(x) for x in range(50)) == SQUARES
    assert os.getpid() not in Parallel(n_jobs=-1)(delayed(where)(x) for x in range(20))


def test_batches_of_any_size_and_lambdas_and_closures(pool: ComputePool) -> None:
    offset = 3
    for batch_size in (1, 7, "auto"):
        found = Parallel(n_jobs=-1, batch_size=batch_size)(
            delayed(lambda x: x + offset)(x) for x in range(30)
        )
        assert found == list(range(3, 33))


def test_n_jobs_follows_the_pool_unless_it_is_smaller(pool: ComputePool) -> None:
    backend = MusterBackend(pool)

    assert backend.effective_n_jobs(-1) == pool.total_slots == joblib.effective_n_jobs(-1)
    assert backend.effective_n_jobs(None) == backend.effective_n_jobs(backend.default_n_jobs)
    assert joblib.effective_n_jobs(None) == pool.total_slots
    assert backend.effective_n_jobs(-2) == pool.total_slots - 1
    assert backend.effective_n_jobs(-100) == 2
    assert backend.effective_n_jobs(20) == 20
    assert backend.effective_n_jobs(1) == 1
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        Parallel(n_jobs=0)(delayed(square)(x) for x in range(3))


@pytest.mark.parametrize("n_jobs", [1, 2, 20, -1, -2])
def test_every_n_jobs_gives_the_same_results(pool: ComputePool, n_jobs: int) -> None:
    assert Parallel(n_jobs=n_jobs)(delayed(square)(x) for x in range(50)) == SQUARES


def test_one_job_is_joblibs_loop_in_the_caller(pool: ComputePool) -> None:
    assert Parallel(n_jobs=1)(delayed(where)(x) for x in range(3)) == [os.getpid()] * 3


def test_n_jobs_caps_how_much_runs_at_once(threads: ComputePool, tmp_path: Path) -> None:
    Parallel(n_jobs=5, batch_size=1)(delayed(mark)(str(tmp_path), str(i), 0.05) for i in range(40))
    times = []
    for i in range(40):
        times.append(((tmp_path / f"{i}.began").stat().st_mtime_ns, 1))
        times.append(((tmp_path / f"{i}.ended").stat().st_mtime_ns, -1))
    running = most = 0
    for _, change in sorted(times):
        running += change
        most = max(most, running)
    assert 2 <= most <= 5


def test_an_exception_keeps_its_type_and_shows_where_it_was_raised(pool: ComputePool) -> None:
    with pytest.raises(LookupError, match="no 7") as caught:
        Parallel(n_jobs=-1)(delayed(fail_at)(x, 7) for x in range(50))

    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "fail_at" in str(caught.value.__cause__)
    assert Parallel(n_jobs=-1)(delayed(square)(x) for x in range(50)) == SQUARES


def test_an_exception_that_cannot_be_made_again_comes_as_text(pool: ComputePool) -> None:
    with pytest.raises(TaskError, match="stubborn") as caught:
        Parallel(n_jobs=-1)(delayed(raise_stubborn)(x) for x in range(3))

    assert "raise_stubborn" in caught.value.remote_traceback


def test_a_task_that_kills_its_process_is_an_error_of_the_call(pool: ComputePool) -> None:
    with pytest.raises(TaskCrashed, match="SIGKILL|signal 9"):
        Parallel(n_jobs=-1)(delayed(kill_self)(x) for x in range(2))

    assert Parallel(n_jobs=-1)(delayed(square)(x) for x in range(50)) == SQUARES


def test_what_cannot_be_pickled_is_named(pool: ComputePool) -> None:
    with pytest.raises(SerializationError, match=r"args\[1\] is a lock"):
        Parallel(n_jobs=-1)(delayed(fail_at)(x, threading.Lock()) for x in range(20))
    with pytest.raises(SerializationError, match="the result"):
        Parallel(n_jobs=-1)(delayed(threading.Lock)() for _ in range(4))

    assert Parallel(n_jobs=-1)(delayed(square)(x) for x in range(50)) == SQUARES


@pytest.mark.parametrize("raise_at", [0, 5, 40])
def test_a_generator_that_raises_midway_ends_the_call(pool: ComputePool, raise_at: int) -> None:
    def inputs() -> Iterator[Any]:
        for x in range(50):
            if x == raise_at:
                raise OSError("no more input")
            yield delayed(square)(x)

    with pytest.raises(OSError, match="no more input"):
        Parallel(n_jobs=-1)(inputs())


def test_an_error_stops_what_runs(pool: ComputePool, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(LookupError, match="it began"):
        Parallel(n_jobs=-1)(_overlapping(tmp_path))
    assert time.monotonic() - start < 15
    assert Parallel(n_jobs=-1)(delayed(where)() for _ in range(6))  # all slots are free again
    assert not (tmp_path / "long.ended").exists()


def _overlapping(folder: Path) -> Iterator[Any]:
    yield delayed(fail_when)(str(folder / "long.began"))
    yield delayed(mark)(str(folder), "long", 30)


def test_a_time_out_stops_what_runs(pool: ComputePool, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        Parallel(n_jobs=-1, timeout=0.5)(delayed(mark)(str(tmp_path), str(i), 30) for i in range(9))

    assert type(caught.value).__name__ == "TimeoutError"
    start = time.monotonic()
    assert len(Parallel(n_jobs=-1)(delayed(where)() for _ in range(9))) == 9
    assert time.monotonic() - start < 15
    assert not list(tmp_path.glob("*.ended"))


def test_two_threads_use_one_pool_and_an_error_in_one_leaves_the_other(pool: ComputePool) -> None:
    found: list[Any] = []

    def other() -> None:
        found.append(Parallel(n_jobs=-1, batch_size=1)(delayed(wait)(0.05) for _ in range(40)))

    thread = threading.Thread(target=other)
    thread.start()
    for _ in range(3):
        with pytest.raises(LookupError):
            Parallel(n_jobs=-1)(delayed(fail_at)(x, 2) for x in range(9))
    thread.join()
    assert found == [[0.05] * 40]


def test_a_managed_parallel_runs_many_calls(pool: ComputePool) -> None:
    with Parallel(n_jobs=-1) as parallel:
        for _ in range(3):
            assert parallel(delayed(square)(x) for x in range(50)) == SQUARES
        with pytest.raises(LookupError):
            parallel(delayed(fail_at)(x, 2) for x in range(9))
        assert parallel(delayed(square)(x) for x in range(50)) == SQUARES


def test_two_managed_parallels_share_a_context(pool: ComputePool) -> None:
    with Parallel(n_jobs=-1) as one, Parallel(n_jobs=2) as two:
        assert one(delayed(square)(x) for x in range(50)) == SQUARES
        assert two(delayed(square)(x) for x in range(50)) == SQUARES
        assert one(delayed(square)(x) for x in range(50)) == SQUARES


def test_nested_parallel_stays_on_its_slot(pool: ComputePool) -> None:
    for n_jobs in (2, -1):
        found = Parallel(n_jobs=-1)(
            delayed(nested_squares)(list(range(g, g + 5)), n_jobs) for g in range(4)
        )
        for group, (outer, inner, values) in enumerate(found):
            assert set(inner) == {outer} != {os.getpid()}
            assert values == [x * x for x in range(group, group + 5)]


def test_inside_a_task_all_cores_are_the_slots(pool: ComputePool) -> None:
    ((backend, all_cores, default, cores),) = Parallel(n_jobs=2)([delayed(nested_width)()])

    assert backend == "ThreadingBackend"
    assert cores is not None
    assert all_cores == default == int(cores)


def test_verbose_shows_progress(pool: ComputePool, capfd: pytest.CaptureFixture[str]) -> None:
    Parallel(n_jobs=-1, verbose=10)(delayed(square)(x) for x in range(20))

    shown = capfd.readouterr().err
    assert "Using backend MusterBackend with 3 concurrent workers" in shown
    assert "Done  20 out of  20" in shown


def test_pre_dispatch_bounds_how_far_the_input_is_read(pool: ComputePool) -> None:
    pulled: list[int] = []

    def inputs() -> Iterator[Any]:
        for x in range(100):
            pulled.append(x)
            yield delayed(fail_at)(x, 0)

    with pytest.raises(LookupError):
        Parallel(n_jobs=2, pre_dispatch=4, batch_size=1)(inputs())
    assert len(pulled) <= 60


def test_batches_follow_the_time_on_the_slot(threads: ComputePool) -> None:
    with Parallel(n_jobs=2, batch_size="auto") as parallel:
        parallel(delayed(wait)(0.03) for _ in range(30))
        # 0.03 s on the slot is long enough; with the queueing of 15 rounds it would look longer,
        # and without any measure it would not change at all.
        assert parallel._backend.compute_batch_size() <= 8


def test_an_initializer_runs_before_the_tasks(pool: ComputePool) -> None:
    backend = MusterBackend(pool, initializer=set_variable, initargs=("MUSTER_TEST", "1"))
    context = getattr(joblib, "parallel_config", joblib.parallel_backend)
    with context(backend, n_jobs=-1):
        assert Parallel()(delayed(os.getenv)("MUSTER_TEST") for _ in range(9)) == ["1"] * 9


def test_inner_max_num_threads_limits_blas(pool: ComputePool) -> None:
    context = getattr(joblib, "parallel_config", joblib.parallel_backend)
    with context(MusterBackend(pool), n_jobs=-1, inner_max_num_threads=2):
        found = Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(4))
    assert set(found) == {"2"}


def test_a_backend_is_tiny_in_a_pickle(pool: ComputePool) -> None:
    import pickle

    assert len(pickle.dumps(MusterBackend(pool))) < 200


def test_a_call_on_a_pool_that_is_shut_down_ends_with_an_error() -> None:
    pool = ComputePool()
    with pytest.raises(PoolNotActive, match="with"):
        Parallel(n_jobs=2, backend=MusterBackend(pool))(delayed(square)(x) for x in range(3))
