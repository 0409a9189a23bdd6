"""Options of tasks: views of a pool, decorated functions, the joblib backend."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

import muster
from muster import ComputePool, Resources, Worker
from muster._pool.options import TaskOptions
from muster.joblib import MusterBackend, sklearn_backend


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


def test_a_view_is_the_same_pool_with_other_options(pool: ComputePool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def fails_once() -> str:
        if not mark.exists():
            mark.touch()
            raise RuntimeError("not yet")
        return "done"

    view = pool.with_options(retries=1, priority=3)
    assert view.submit(fails_once).result(30) == "done"
    mark.unlink()
    assert list(view.map(lambda _: fails_once(), [0])) == ["done"]
    assert (view.total_slots, view.broker, view.active) == (pool.total_slots, pool.broker, True)
    nested = view.with_options(timeout=0.3)
    assert nested.task_options.retries == 1
    with pytest.raises(muster.TaskTimeout):
        pool.with_options(timeout=0.3).submit(time.sleep, 600).result(60)
    with view:
        pass  # is not the owner
    assert pool.submit(abs, -1).result(30) == 1


def test_pending_tasks_of_views_are_waited_for() -> None:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        future = pool.with_options(priority=1).submit(time.sleep, 0.2)
        view = pool.with_options(priority=2)
    assert future.done() and not future.cancelled()
    with pytest.raises(muster.PoolNotActive):
        view.submit(abs, 1)


def test_compute_takes_options(pool: ComputePool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @muster.compute(retries=1)
    def fails_once(path: str) -> str:
        if not os.path.exists(path):
            Path(path).touch()
            raise RuntimeError("not yet")
        return "done"

    assert fails_once(str(mark)) >> pool == "done"
    mark.unlink()
    assert pool.submit(fails_once, str(mark)).result(30) == "done"
    mark.unlink()
    assert list(pool.map(fails_once, [str(mark)])) == ["done"]
    with pytest.raises(TypeError, match="colour"):
        muster.compute(colour="red")


def test_the_joblib_backend_takes_options(pool: ComputePool, tmp_path: Path) -> None:
    marks = [str(tmp_path / str(i)) for i in range(3)]

    def fails_once(path: str) -> int:
        if not os.path.exists(path):
            Path(path).touch()
            raise RuntimeError("not yet")
        return int(os.path.basename(path))

    context: Any = getattr(joblib, "parallel_config", joblib.parallel_backend)
    with context("muster", pool=pool, retries=2, n_jobs=-1):
        calls = (joblib.delayed(fails_once)(mark) for mark in marks)
        assert joblib.Parallel(batch_size=1)(calls) == [0, 1, 2]
    for mark in marks:
        os.unlink(mark)
    with sklearn_backend(pool.with_options(retries=2)):  # type: ignore[arg-type]
        calls = (joblib.delayed(fails_once)(mark) for mark in marks)
        assert joblib.Parallel(n_jobs=-1, batch_size=1)(calls) == [0, 1, 2]
    with pytest.raises(TypeError, match="colour"):
        MusterBackend(pool, colour="red")


def test_resources_are_checked_and_merged() -> None:
    options = TaskOptions().changed(cpu=2, memory="4GB", gpus=1, labels=["b", "a", "b"])
    assert (options.cpus, options.memory_bytes, options.gpus) == (2.0, 4 * 2**30, 1)
    assert options.labels == ("a", "b")
    assert options.changed(cpu=None, memory=1024, labels=None) == TaskOptions(
        memory_bytes=1024, gpus=1
    )
    assert options.with_resources(Resources(cpu=0.5)).cpus == 0.5
    assert options.with_resources(Resources(cpu=0.5)).gpus == 1
    pool = ComputePool(resources=Resources(cpu=1.5, memory="1GB"), timeout=3)
    assert pool.task_options == TaskOptions(timeout=3.0, cpus=1.5, memory_bytes=2**30)
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cpu": 0}, ValueError),
        ({"cpu": "2"}, TypeError),
        ({"cpu": True}, TypeError),
        ({"memory": "much"}, ValueError),
        ({"memory": 1.5}, TypeError),
        ({"memory": 0}, ValueError),
        ({"gpus": -1}, ValueError),
        ({"gpus": 1.0}, TypeError),
        ({"labels": "gpu"}, TypeError),
        ({"labels": [""]}, TypeError),
        ({"labels": ["x"] * 65}, ValueError),
        ({"retries": -1}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"cores": 2}, TypeError),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        ComputePool().with_options(**options)
