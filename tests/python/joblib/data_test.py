"""What goes into tasks and comes back: memory maps, caches, warning filters, many slots."""

from __future__ import annotations

import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Memory, Parallel, delayed
from work import square, wait

from muster import ComputePool
from muster._data.pickling import unpack
from muster.joblib._reductions import BatchFunctions


def kind_and_sum(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())


def test_memory_mapped_arguments_stay_memory_mapped(pool: ComputePool, tmp_path: Path) -> None:
    joblib.dump(np.arange(1000.0).reshape(20, 50), tmp_path / "data.pkl")
    data = joblib.load(tmp_path / "data.pkl", mmap_mode="r")
    views = [data, data[3:7], data[:, ::2], data.T]

    found = Parallel(n_jobs=-1)(delayed(kind_and_sum)(view) for view in views)
    assert [kind for kind, _ in found][:2] == ["memmap", "memmap"]
    assert [total for _, total in found] == [float(view.sum()) for view in views]


def test_tasks_write_into_a_shared_file(pool: ComputePool, tmp_path: Path) -> None:
    out = np.memmap(tmp_path / "out", dtype="f8", shape=(9,), mode="w+")

    Parallel(n_jobs=-1)(delayed(out.__class__.__setitem__)(out, i, i * i) for i in range(9))
    assert list(out) == [i * i for i in range(9)]


def test_a_file_that_the_node_lacks_is_named(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "gone", dtype="f8", shape=(9,), mode="w+")
    payload = BatchFunctions().pack_batch([(np.sum, (array,), {})])
    (tmp_path / "gone").unlink()

    with pytest.raises(Exception, match="does not have .*gone.*memory-mapped"):
        unpack(payload)


def test_results_can_be_written_to(pool: ComputePool) -> None:
    for array in Parallel(n_jobs=-1)(delayed(np.zeros)(10) for _ in range(4)):
        array.fill(1)


def test_warning_filters_may_name_what_the_node_lacks(pool: ComputePool) -> None:
    module = types.ModuleType("only_on_the_client")
    category = type("LocalWarning", (UserWarning,), {"__module__": module.__name__})
    module.LocalWarning = category  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=category)
            filters = list(warnings.filters)
            found = Parallel(n_jobs=-1)(
                delayed(count_filters)(list(warnings.filters)) for _ in range(4)
            )
            assert found == [(len(filters), "LocalWarning")] * 4
            assert warnings.filters == filters
    finally:
        del sys.modules[module.__name__]


def count_filters(filters: list[Any]) -> tuple[int, str]:
    with warnings.catch_warnings():
        warnings.filters[:] = filters
        warnings.warn("still works", UserWarning, stacklevel=1)
    return len(filters), filters[0][2].__name__


def test_a_third_party_warning_class_is_itself_where_it_is_installed(pool: ComputePool) -> None:
    from sklearn.exceptions import ConvergenceWarning

    (same,) = Parallel(n_jobs=2)([delayed(is_convergence_warning)(ConvergenceWarning)])
    assert same


def is_convergence_warning(category: type) -> bool:
    from sklearn.exceptions import ConvergenceWarning

    return category is ConvergenceWarning


def say_it_ran(folder: str, name: str) -> None:
    with Path(folder, name).open("a") as file:
        file.write("ran\n")


def simulate(folder: str, first: float, second: int, seed: int) -> float:
    say_it_ran(folder, f"{first}-{second}-{seed}")
    return first * second + seed


def test_a_cached_parameter_sweep_runs_every_point_once(pool: ComputePool, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    cached = Memory(str(tmp_path / "cache"), verbose=0).cache(simulate)
    grid = [(a, b, s) for a in (0.1, 0.5) for b in (1, 2) for s in range(3)]

    def sweep() -> list[float]:
        return list(Parallel(n_jobs=-1)(delayed(cached)(str(tmp_path / "runs"), *p) for p in grid))

    assert sweep() == sweep() == [a * b + s for a, b, s in grid]
    assert {path.read_text() for path in (tmp_path / "runs").iterdir()} == {"ran\n"}


def stage(folder: str, name: str, data: list[int], fail: bool = False) -> list[int]:
    if fail:
        raise OSError("the second stage broke")
    say_it_ran(folder, name)
    return [value + 1 for value in data]


def test_a_workflow_resumes_after_its_first_stage(pool: ComputePool, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    runs = str(tmp_path / "runs")
    cached = Memory(str(tmp_path / "cache"), verbose=0).cache(stage, ignore=["fail"])

    def workflow(fail: bool) -> list[list[int]]:
        first = Parallel(n_jobs=-1)(delayed(cached)(runs, f"one-{i}", [i]) for i in range(4))
        return list(
            Parallel(n_jobs=-1)(
                delayed(cached)(runs, f"two-{i}", data, fail) for i, data in enumerate(first)
            )
        )

    with pytest.raises(OSError, match="second stage broke"):
        workflow(fail=True)
    assert workflow(fail=False) == [[i + 2] for i in range(4)]
    assert {path.read_text() for path in (tmp_path / "runs").iterdir()} == {"ran\n"}


def test_two_thousand_sleeping_tasks(threads: ComputePool) -> None:
    tasks, each = 2000, 0.05
    Parallel(n_jobs=-1)(delayed(square)(x) for x in range(240))
    start = time.monotonic()
    assert Parallel(n_jobs=-1)(delayed(wait)(each) for _ in range(tasks)) == [each] * tasks
    ideal = tasks / threads.total_slots * each
    print(f"efficiency {ideal / (time.monotonic() - start):.1%}")


def test_a_hundred_and_twenty_tasks_wait_at_once(threads: ComputePool) -> None:
    assert threads.total_slots == 120
    start = time.monotonic()
    Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all")(delayed(wait)(0.5) for _ in range(120))
    assert time.monotonic() - start < 10  # one after the other would take a minute


def test_the_serialization_check_of_the_documents() -> None:
    import cloudpickle

    assert cloudpickle.dumps(lambda x: x + 1)
    with pytest.raises(TypeError):
        cloudpickle.dumps(sys._getframe())
