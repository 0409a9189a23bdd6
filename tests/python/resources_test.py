"""Tasks that ask for memory, cores or accelerators, on real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from core_pool import CorePool

from muster._node import tasks

_MEGABYTE = 1 << 20


def _grow(size_bytes: int, folder: str) -> int:
    kept = bytearray(size_bytes)
    for offset in range(0, size_bytes, 4096):
        kept[offset] = 1
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return len(kept)


def _overlap(folder: str, number: int) -> int:
    mine = Path(folder) / f"task{number}"
    mine.touch()
    time.sleep(0.05)
    running = len(list(Path(folder).glob("task*")))
    mine.unlink()
    return running


def test_a_greedy_task_dies_alone_with_the_reason(tmp_path: Path) -> None:
    with CorePool(slots=3) as pool:
        job = pool.open(tasks.Call(_grow), memory_bytes=300 * _MEGABYTE)
        good = [pool.push(job, 5 * _MEGABYTE, str(tmp_path)) for _ in range(2)]
        greedy = pool.push(job, 2000 * _MEGABYTE, str(tmp_path))
        failure = pool.failure(job, greedy)
        assert failure[1] == "out_of_memory"
        assert "its limit is 300 MB" in failure[2]
        (tmp_path / "go").touch()
        assert [pool.value(job, task) for task in good] == [5 * _MEGABYTE] * 2


def test_tasks_of_two_slots_never_overlap_beyond_the_slots(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with CorePool(slots=4) as pool:
        assert pool.producer.wait_for_slots(4, 60.0)
        job = pool.open(tasks.Call(_overlap), cpus=cores / 2)
        pushed = [pool.push(job, str(tmp_path), number) for number in range(10)]
        assert max(pool.value(job, task) for task in pushed) == 2
