"""`pool.scatter`: objects that are sent once, and the handles that stand for them."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_backend
from pool_support import wait_until

import muster.joblib  # noqa: F401 (registers the backend)
from muster import ComputePool, Scattered, SerializationError, Worker
from muster.provider import programs_folder

LARGE = np.arange(400_000.0)
TEXTS = [f"text {i}" for i in range(50_000)]


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as made:
        yield made


class Model:
    """Counts how often it is unpickled in a process."""

    made = 0

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        Model.made += 1
        self.__dict__.update(state)


def use(model: Model, i: int) -> tuple[int, int, float]:
    return os.getpid(), Model.made, float(model.weights[i])


@pytest.mark.parametrize(
    "value",
    [LARGE, TEXTS, {"a": LARGE, "b": [1, 2]}, b"x" * 1_000_000, "text", 7, None, LARGE[:10]],
    ids=["array", "texts", "dict", "bytes", "short", "int", "none", "small array"],
)
def test_the_task_gets_the_object_wherever_the_handle_is(pool: ComputePool, value: Any) -> None:
    handle = pool.scatter(value)
    assert isinstance(handle, Scattered)
    expected = repr(value)
    assert pool.submit(repr, handle).result() == expected
    assert pool.submit(lambda d: repr(d["x"][1]), {"x": [0, handle]}).result() == expected
    assert list(pool.map(repr, [handle] * 3)) == [expected] * 3
    assert pool.submit(lambda x=None: repr(x), x=handle).result() == expected
    assert pool.submit(lambda: repr(handle)).result() == expected  # in a closure


def test_a_process_makes_the_object_once(pool: ComputePool) -> None:
    handle = pool.scatter(Model(LARGE), broadcast=False)
    found = list(pool.map(use, [handle] * 40, range(40), chunksize=1))
    found += [pool.submit(use, handle, i).result() for i in range(40, 50)]
    assert [value for _, _, value in found] == list(range(50))
    assert all(made == 1 for _, made, _ in found)


def test_its_arrays_are_read_only(pool: ComputePool) -> None:
    handle = pool.scatter({"large": LARGE, "less": LARGE[:20_000]})
    for name in ("large", "less"):
        with pytest.raises(ValueError, match="read-only"):
            pool.submit(lambda d, n: d[n].fill(0), handle, name).result()


def test_an_object_that_changes_later_stays_as_it_was(pool: ComputePool) -> None:
    array = np.ones(400_000)
    handle = pool.scatter(array)
    array[:] = 2
    assert pool.submit(np.sum, handle).result() == 400_000


def test_a_handle_says_what_it_is(pool: ComputePool) -> None:
    handle = pool.scatter(LARGE)
    assert LARGE.nbytes < handle.nbytes < LARGE.nbytes + 1000
    assert repr(handle) == f"<scattered ndarray, {handle.nbytes} bytes>"


def test_a_handle_is_good_in_its_own_pool_only(pool: ComputePool) -> None:
    handle = pool.scatter(LARGE)
    with pytest.raises(SerializationError, match="arguments of tasks of its own pool only"):
        pickle.dumps(handle)
    with ComputePool() as other, pytest.raises(SerializationError, match="belongs to another pool"):
        other.submit(np.sum, [handle])


def test_what_cannot_be_pickled_is_named(pool: ComputePool) -> None:
    import threading

    with pytest.raises(SerializationError, match=r"cannot pickle the object: object\[1\] is a"):
        pool.scatter([LARGE, threading.Lock()])


def test_a_view_of_the_pool_takes_its_handles(pool: ComputePool) -> None:
    view = pool.with_options(retries=1)
    assert list(view.map(np.sum, [view.scatter(LARGE), pool.scatter(LARGE)])) == [LARGE.sum()] * 2


def test_a_handle_that_is_dropped_leaves_the_pool(tmp_path: Path) -> None:
    """What nobody needs stays as a cache, but not beyond half of the broker's memory."""
    folder = f"/dev/shm/muster-{os.getuid()}"

    def is_there(size: int) -> bool:
        """A file of that size, which no other test has, in Muster's memory."""
        for root, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    if Path(root, name).stat().st_size == size:
                        return True
        return False

    endpoint = f"ipc://{tmp_path}/broker"
    command = [Path(programs_folder(), "muster-broker"), "--listen", endpoint]
    with subprocess.Popen([*command, "--blob-memory", "24mb"]) as broker:
        with ComputePool(broker=endpoint) as own:
            handle = own.scatter(np.zeros(7_654_321, "u1"))
            other = own.scatter(np.zeros(9_876_543, "u1"))
            own.nodes()  # the broker has answered: it took both
            assert is_there(7_654_321)
            assert is_there(9_876_543)
            del handle
            gc.collect()
            wait_until(lambda: not is_there(7_654_321))
            assert is_there(9_876_543)
            del other
        broker.terminate()


# --- joblib ---


def look(x: Any, y: Any, i: int) -> tuple[int, int, float, bool]:
    return os.getpid(), id(x), float(x[i]) + len(y["texts"]), x.flags.writeable


def test_joblib_finds_what_is_to_be_scattered(pool: ComputePool) -> None:
    y = {"texts": TEXTS}
    with parallel_backend("muster", pool=pool, scatter=[LARGE, TEXTS, y], n_jobs=-1):
        for _ in range(2):
            found = Parallel()(delayed(look)(LARGE, y, i) for i in range(50))
            assert [value for _, _, value, _ in found] == [i + len(TEXTS) for i in range(50)]
            objects = {(process, identity) for process, identity, _, _ in found}
            assert len(objects) == len({process for process, _ in objects})
            assert not any(writeable for _, _, _, writeable in found)
        (inside,) = Parallel()([delayed(lambda d: len(d["deep"][0]))({"deep": (TEXTS,)})])
        assert inside == len(TEXTS)


def test_joblib_sends_what_changed_between_calls(pool: ComputePool) -> None:
    x = [np.zeros(400_000)]
    with parallel_backend("muster", pool=pool, scatter=[x], n_jobs=-1):
        for i in range(3):
            x[0][:] = i
            found = Parallel()(delayed(lambda x: x[0].mean())(x) for _ in range(4))
            assert found == [i] * 4
