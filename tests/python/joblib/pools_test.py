"""JoblibPool and its kin: what joblib uses in a block, beside it, in other threads and after it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import joblib.parallel
import pytest
import sklearn
from joblib import Parallel, delayed
from joblib.parallel import register_parallel_backend
from work import loaded, square, where

import muster
from muster import (
    ComputePool,
    JoblibPool,
    MusterBackend,
    NoWorker,
    PoolNotActive,
    ScikitLearnPool,
    Unsupported,
    Worker,
)
from muster.joblib import sklearn_backend

CONTEXTS = [
    getattr(joblib, name)
    for name in ("parallel_config", "parallel_backend")
    if hasattr(joblib, name)
]
SQUARES = [x * x for x in range(20)]


def squares(**options: Any) -> list[int]:
    return list(Parallel(**options)(delayed(square)(x) for x in range(20)))


def active_backend() -> str:
    return type(joblib.parallel.get_active_backend()[0]).__name__


@pytest.fixture(autouse=True)
def joblib_is_as_before() -> Iterator[None]:
    before = joblib.parallel.DEFAULT_BACKEND, active_backend(), set(joblib.parallel.BACKENDS)
    yield
    assert before == (
        joblib.parallel.DEFAULT_BACKEND,
        active_backend(),
        set(joblib.parallel.BACKENDS),
    )


def test_the_block_is_on_the_pool_and_what_follows_is_not() -> None:
    with JoblibPool(nodes=2, concurrency=2) as pool:
        assert pool.total_slots == 4
        assert squares(n_jobs=-1) == SQUARES
        assert active_backend() == "MusterBackend"
        assert os.getpid() not in Parallel()(delayed(where)(x) for x in range(4))
    assert active_backend() != "MusterBackend"


def test_a_pool_of_one_slot_runs_on_its_node() -> None:
    with JoblibPool() as pool:
        assert pool.total_slots == 1
        for n_jobs in (-1, -2, 4):
            found = set(Parallel(n_jobs=n_jobs)(delayed(where)(x) for x in range(5)))
            assert len(found) == 1
            assert os.getpid() not in found


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_backend_by_name_with_a_broker(process_pool: ComputePool, context: Any) -> None:
    with context("muster", broker=process_pool.broker, n_jobs=-1):
        assert squares() == SQUARES
        assert squares(n_jobs=2) == SQUARES


def test_the_backend_by_name_finds_the_innermost_pool(process_pool: ComputePool) -> None:
    with ComputePool(worker=Worker(concurrency=2)) as inner:
        before = inner.nodes()[0].tasks_done
        assert squares(n_jobs=2, backend="muster") == SQUARES
        assert inner.nodes()[0].tasks_done > before


def test_the_backend_by_name_finds_the_broker_of_the_environment(
    process_pool: ComputePool,
) -> None:
    code = (
        "import muster.joblib; from joblib import Parallel, delayed\n"
        "def square(x): return x * x\n"
        "print(Parallel(n_jobs=2, backend='muster')(delayed(square)(x) for x in range(5)))"
    )
    environment = {**os.environ, "MUSTER_BROKER": process_pool.broker}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "[0, 1, 4, 9, 16]", done.stderr


def test_manual_registration(process_pool: ComputePool) -> None:
    register_parallel_backend("muster", lambda: MusterBackend(process_pool))
    try:
        with joblib.parallel_backend("muster"):
            assert squares(n_jobs=-1) == SQUARES
    finally:
        register_parallel_backend("muster", MusterBackend)


def test_manual_activation() -> None:
    pool = ComputePool(worker=Worker(concurrency=2))
    with pytest.raises(PoolNotActive, match="with pool"), sklearn_backend(pool):
        pass
    with pool, sklearn_backend(pool):
        assert squares(n_jobs=-1) == SQUARES
    plugins = [muster.plugins.joblib(), muster.plugins.sklearn()]
    with ComputePool(worker=Worker(concurrency=2), plugins=plugins):
        assert squares(n_jobs=-1) == SQUARES
        assert active_backend() == "MusterBackend"


def test_runners_import_what_the_pool_is_for_before_their_first_task() -> None:
    with ScikitLearnPool(executor="thread") as pool:
        assert pool.submit(loaded, ["joblib", "sklearn", "pandas"]).result() == [True, True, False]


def test_other_threads_use_the_pool(process_pool: ComputePool) -> None:
    found: list[Any] = []
    with sklearn_backend(process_pool):
        thread = threading.Thread(
            target=lambda: found.extend(Parallel(n_jobs=-1)(delayed(where)(x) for x in range(4)))
        )
        thread.start()
        thread.join()
    assert len(found) == 4
    assert os.getpid() not in found
    assert set(found) <= _processes(process_pool)


def _processes(pool: ComputePool) -> set[int]:
    return set(pool.map(where, range(60), chunksize=1))


def test_blocks_nest_and_overlap(process_pool: ComputePool, thread_pool: ComputePool) -> None:
    def width() -> int:
        return int(joblib.effective_n_jobs(-1))

    with sklearn_backend(process_pool):
        assert width() == process_pool.total_slots
        with sklearn_backend(thread_pool):
            assert width() == thread_pool.total_slots
        assert width() == process_pool.total_slots

    first, second = sklearn_backend(process_pool), sklearn_backend(thread_pool)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert width() == thread_pool.total_slots
    second.__exit__(None, None, None)
    assert active_backend() != "MusterBackend"


def test_what_only_a_cloud_can_honour_is_refused() -> None:
    for options in (
        {"machine": "t4g.micro"},
        {"accelerator": "A100"},
        {"allocation": "always-spot"},
        {"cpu": 10_000},
        {"memory": "10000GB"},
        {"joblib_version": "0.1"},
    ):
        with pytest.raises(Unsupported):
            JoblibPool(**options)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="scikit-learn"):
        ScikitLearnPool(sklearn_version="0.1")
    with pytest.raises(Unsupported, match="joblib_version"):
        JoblibPool(broker="ipc:///tmp/none", joblib_version=joblib.__version__)
    JoblibPool(joblib_version=joblib.__version__, cpu=1, memory="1GB")
    ScikitLearnPool(sklearn_version=sklearn.__version__)


def test_a_pool_outside_of_its_block_is_a_clear_error() -> None:
    pool = JoblibPool(concurrency=2)
    with pytest.raises(PoolNotActive):
        squares(n_jobs=2, backend=MusterBackend(pool))
    with pytest.raises(PoolNotActive):
        _ = pool.total_slots


def test_the_backend_without_any_pool_is_a_clear_error() -> None:
    code = (
        "import muster.joblib; from joblib import Parallel, delayed\n"
        "muster.joblib.JoblibPool(concurrency=2)  # not entered\n"
        "Parallel(n_jobs=2, backend='muster')(delayed(abs)(x) for x in range(5))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["MUSTER_BROKER"] = ""  # nor the user's own broker
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "PoolNotActive" in done.stderr
    assert "with JoblibPool(concurrency=4):" in done.stderr


def test_a_pool_without_workers_is_an_error_in_time(tmp_path: Path) -> None:
    broker = subprocess.Popen(
        [_program("muster-broker"), "--listen", f"ipc://{tmp_path}/broker"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        context = CONTEXTS[0]
        start = time.monotonic()
        with (
            context("muster", broker=f"ipc://{tmp_path}/broker", wait_for_workers_timeout=0.5),
            pytest.raises(NoWorker, match="no worker after 0.5 s"),
        ):
            squares(n_jobs=2)
        assert time.monotonic() - start < 20
    finally:
        broker.terminate()
        broker.wait()


def _program(name: str) -> str:
    return str(Path(muster.__file__).parent.parent.parent / "bin" / name)
