"""joblib's Memory in the stores of a pool of real processes."""

from __future__ import annotations

import asyncio
import datetime
import pickle
import uuid
from pathlib import Path
from typing import Any

import joblib
import memory_work as work
import numpy as np
import pytest
from joblib import Memory, Parallel, delayed

from muster import ComputePool
from muster._link import stores
from muster.errors import PoolNotActive
from muster.joblib import Store
from muster.joblib import memory as muster_memory

NEWER = hasattr(joblib, "parallel_config")  # than joblib 1.2


# --- Ways to name a store


def test_every_way_to_name_a_store_means_the_same(pool: ComputePool, folder: str) -> None:
    name = uuid.uuid4().hex
    for memory in (
        Memory(f"muster://{name}", verbose=0),
        Memory(f"muster://{name}/", backend="muster", verbose=0),
        Memory(name, backend="muster", verbose=0),
        Memory(Store(name), verbose=0),
        Memory(Store(name, pool=pool), verbose=0),
        Memory(f"muster://{name}", verbose=0, backend_options={"broker": pool.broker}),
    ):
        assert memory.cache(work.square)(folder, 3) == 9
        assert f"muster://{name}" in repr(memory)
    assert work.computed(folder) == ["3"]


def test_a_folder_is_still_joblibs_own(tmp_path: Path, folder: str) -> None:
    memory = Memory(tmp_path / "cache", verbose=0)
    assert type(memory.store_backend).__name__ == "FileSystemStoreBackend"
    assert memory.cache(work.square)(folder, 3) == memory.cache(work.square)(folder, 3) == 9
    assert work.computed(folder) == ["3"]
    with pytest.raises(TypeError, match="no option shape"):
        Memory("muster://x", backend_options={"shape": 1})


def test_without_a_pool_a_call_says_what_is_missing(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster._pool.active._pools", [])
    cached = Memory("muster://x", verbose=0).cache(work.square)
    with pytest.raises(PoolNotActive, match="muster://x is in a pool, and there is none"):
        cached(folder, 1)
    assert work.computed(folder) == []


# --- Hits


def test_what_nodes_compute_the_client_finds_and_the_other_way_round(
    memory: Memory, folder: str
) -> None:
    cached = memory.cache(work.square)
    assert Parallel(n_jobs=-1)(delayed(cached)(folder, x) for x in range(6)) == [
        x * x for x in range(6)
    ]
    assert [cached(folder, x) for x in range(8)] == [x * x for x in range(8)]
    assert Parallel(n_jobs=-1)(delayed(cached)(folder, x) for x in range(8)) == [
        x * x for x in range(8)
    ]
    assert sorted(work.computed(folder)) == sorted(map(str, range(8)))


def test_a_hit_costs_one_question(memory: Memory, folder: str, pool: ComputePool) -> None:
    cached = memory.cache(work.square)
    cached(folder, 2)
    asked: list[int] = []
    begin = stores.Store._begin

    def count(self: Any, operation: int, key: str, **fields: Any) -> Any:
        asked.append(operation)
        return begin(self, operation, key, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores.Store, "_begin", count)
        assert cached(folder, 2) == 4
        assert asked == [stores.CLAIM]
        asked.clear()
        cached(folder, 3)
        assert asked == [stores.CLAIM, stores.PUT]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("count", [10, 300_000])
def test_arrays_come_back_writable_and_the_cache_stays_as_it_is(
    memory: Memory, folder: str, count: int, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:  # values travel in pieces then
        monkeypatch.setattr(stores, "_machine", lambda: "another")
    cached = memory.cache(work.ramp)
    for _ in range(3):
        array = cached(folder, count)
        assert array.sum() == count * (count - 1) / 2
        array[:] = -1
    assert work.computed(folder) == [str(count)]
    assert (
        Parallel(n_jobs=2)([delayed(work.total_of)(cached, folder, count)] * 2)
        == [("ndarray", count * (count - 1) / 2)] * 2
    )


@pytest.mark.parametrize("compress", [False, True, 9, ("gzip", 3), "lzma"])
def test_compressed_and_mixed_values(pool: ComputePool, folder: str, compress: Any) -> None:
    memory = Memory(f"muster://{uuid.uuid4().hex}", verbose=0, compress=compress)
    cached = memory.cache(work.frame)
    first = cached(folder, 30_000)
    again = cached(folder, 30_000)
    assert work.computed(folder) == ["30000"]
    assert first["table"].equals(again["table"])
    assert np.array_equal(first["raw"], again["raw"]) and again["text"] == first["text"]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_memory_maps(
    pool: ComputePool, folder: str, mode: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:
        monkeypatch.setattr(stores, "_machine", lambda: "another")
    memory = Memory(f"muster://{uuid.uuid4().hex}", verbose=0, mmap_mode=mode)
    cached = memory.cache(work.ramp)
    for _ in range(2):
        array = cached(folder, 200_000)
        assert isinstance(array, np.memmap)
        assert array.sum() == 200_000 * 199_999 / 2
        if mode != "r":
            array[:] = 0  # a copy: the next one is as it was
    assert (
        Parallel(n_jobs=2)([delayed(work.total_of)(cached, folder, 200_000)] * 2)
        == [("memmap", 200_000 * 199_999 / 2)] * 2
    )
    assert Parallel(n_jobs=2)([delayed(work.total)(cached(folder, 200_000))] * 2)
    assert work.computed(folder) == ["200000"]


def test_objects_of_main_and_failures_to_pickle(memory: Memory) -> None:
    cached = memory.cache(lambda x: (x, threading_lock()))
    with pytest.warns(muster_memory.CacheWarning, match="cannot be written"):
        assert cached(1)[0] == 1
    with pytest.warns(muster_memory.CacheWarning):
        cached(1)


def threading_lock() -> Any:
    import threading

    return threading.Lock()


# --- joblib's own interface


def test_joblibs_interface(memory: Memory, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    cached = memory.cache(work.square, ignore=["verbose"])
    assert not cached.check_call_in_cache(folder, 5)
    assert cached(folder, 5) == cached(folder, 5, verbose=True) == 25
    assert cached.check_call_in_cache(folder, 5)
    assert cached.call(folder, 5)[0] == 25
    assert work.computed(folder) == ["5", "5"]
    shelved = cached.call_and_shelve(folder, 5)
    assert pickle.loads(pickle.dumps(shelved)).get() == 25
    shelved.clear()
    with pytest.raises(KeyError):
        shelved.get()
    assert memory.eval(work.square, folder, 5) == 25
    loud = Memory(memory.location, verbose=11).cache(work.square)
    loud(folder, 5)
    assert "[Memory]" in capsys.readouterr().out
    cached.clear(warn=False)
    assert not cached.check_call_in_cache(folder, 5)
    cached(folder, 5)
    memory.clear(warn=False)
    assert not cached.check_call_in_cache(folder, 5)


def test_pickled_memories_and_shelved_results_work_in_tasks(memory: Memory, folder: str) -> None:
    cached = memory.cache(work.square)
    shelved = Parallel(n_jobs=2)(delayed(cached.call_and_shelve)(folder, x) for x in range(4))
    assert [result.get() for result in shelved] == [0, 1, 4, 9]
    assert Parallel(n_jobs=2)(delayed(evaluate)(memory, folder, x) for x in range(4)) == [
        0,
        1,
        4,
        9,
    ]
    assert sorted(work.computed(folder)) == ["0", "1", "2", "3"]


def evaluate(memory: Memory, folder: str, x: int) -> int:
    return int(memory.eval(work.square, folder, x))


if NEWER:

    def test_a_validation_callback_decides(memory: Memory, folder: str) -> None:
        seen: list[dict[str, Any]] = []

        def is_valid(metadata: dict[str, Any]) -> bool:
            seen.append(metadata)
            return len(seen) > 1

        cached = memory.cache(work.square, cache_validation_callback=is_valid)
        assert [cached(folder, 4) for _ in range(3)] == [16, 16, 16]
        assert work.computed(folder) == ["4", "4"]
        assert (
            seen[0]["input_args"]["x"] == "4" and seen[0]["duration"] >= 0 and seen[0]["time"] > 0
        )


if hasattr(joblib.memory, "AsyncMemorizedFunc"):

    def test_coroutines(memory: Memory, folder: str) -> None:
        async def work_later(x: int) -> int:
            work.note(folder, x)
            await asyncio.sleep(0)
            return x * x

        cached = memory.cache(work_later)

        async def all_of_them() -> list[int]:
            return [*await asyncio.gather(cached(2), cached(3)), await cached(2)]

        assert asyncio.run(all_of_them()) == [4, 9, 4]
        assert sorted(work.computed(folder)) == ["2", "3"]


def test_limits_remove_what_was_not_used_for_longest(memory: Memory, folder: str) -> None:
    cached = memory.cache(work.ramp)
    for count in (1000, 1001, 1002, 1003):
        cached(folder, count)
    cached(folder, 1000)
    store = memory.store_backend
    items = store.get_items()
    assert len(items) == 4 and all(item.size > 8000 for item in items)
    store.enforce_store_limits(sum(item.size for item in items) - 1)
    assert [cached.check_call_in_cache(folder, n) for n in range(1000, 1004)] == [
        True,
        False,
        True,
        True,
    ]
    store.enforce_store_limits("1G", items_limit=1)
    assert cached.check_call_in_cache(folder, 1000) and len(store.get_items()) == 1
    store.enforce_store_limits(None, None, datetime.timedelta(days=1))
    assert len(store.get_items()) == 1
    if NEWER:
        memory.reduce_size(age_limit=datetime.timedelta(0))
    else:
        store.reduce_store_size(0)
    assert store.get_items() == []


# --- Versions of the code


def test_changed_code_is_computed_anew_and_the_old_values_stay(
    memory: Memory, folder: str, tmp_path: Path
) -> None:
    versions = []
    for number in (1, 2):
        path = tmp_path / f"version{number}.py"
        path.write_text(f"def f(note, x):\n    note(x)\n    return {number} * x\n")
        names: dict[str, Any] = {"__name__": "experiment"}
        exec(compile(path.read_text(), str(path), "exec"), names)
        versions.append(memory.cache(names["f"]))

    def note(x: object) -> None:
        work.note(folder, x)

    old, new = (version.func for version in versions)
    assert versions[0].func_id == versions[1].func_id
    old_cached, new_cached = (memory.cache(function, ignore=["note"]) for function in (old, new))
    for _ in range(2):  # no thrashing
        assert old_cached(note, 5) == 5
        assert new_cached(note, 5) == 10
    assert work.computed(folder) == ["5", "5"]
    new_cached.clear(warn=False)
    assert not old_cached.check_call_in_cache(note, 5)
