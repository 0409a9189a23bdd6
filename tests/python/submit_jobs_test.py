"""The jobs behind `submit`: few are open, whatever the options, and none stalls another."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_support import wait_until

from muster import ComputePool, Worker
from muster._data.portable import Packed
from muster._link.session import Session
from muster._pool import submit
from muster.provider import programs_folder


@pytest.fixture
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as made:
        yield made


@pytest.fixture
def lone_broker(tmp_path: Path) -> Iterator[str]:
    """A broker without workers."""
    endpoint = f"ipc://{tmp_path}/broker"
    program = Path(programs_folder(), "muster-broker")
    options = ("--listen", endpoint, "--no-worker-timeout", "600")
    with subprocess.Popen([program, *options]) as broker:
        yield endpoint
        broker.kill()


def test_options_of_a_loop_leave_few_jobs_open(pool: ComputePool) -> None:
    count = 2 * submit.MAX_JOBS
    for priority in range(count):
        assert pool.with_options(priority=priority).submit(abs, -1).result(60) == 1
    wait_until(lambda: len(pool.status()["jobs"]) <= submit.MAX_JOBS)
    assert pool.status()["counters"]["jobs"] == count


def test_the_job_that_is_used_stays_open(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "MAX_JOBS", 2)
    for priority in range(6):
        assert pool.submit(abs, -1).result(60) == 1
        assert pool.with_options(priority=priority).submit(abs, -1).result(60) == 1
    assert pool.status()["counters"]["jobs"] == 6, "with priority 0 they share one"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_pool_waits_for_tasks_of_closed_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(submit, "MAX_JOBS", 2)
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        seconds = 600 if cancelled else 0.02
        views = [pool.with_options(priority=priority) for priority in range(12)]
        futures = [view.submit(time.sleep, seconds) for view in views]
        if cancelled:
            pool.shutdown(cancel_futures=True)
    assert all(future.done() and future.cancelled() == cancelled for future in futures)


def test_more_jobs_than_a_broker_takes_of_a_program(lone_broker: str) -> None:
    """Those that it would refuse wait here; the session used to end as one of another version."""
    outcomes: list[int] = []
    session = Session(broker=lone_broker, python_version="3.11")
    jobs = []
    for number in range(16_384 + 3):
        jobs.append(
            session.open_job(
                Packed(b"body"), "one", lambda task, _result, _failure: outcomes.append(task)
            )
        )
        jobs[-1].push(Packed(b""), number)
    wait_until(lambda: "as many as one may have" in jobs[-1].waiting_reason(), seconds=120)
    assert session.status()["counters"]["jobs"] == 16_384
    for job in jobs[:5]:
        job.close()
        job.cancel()
    wait_until(lambda: session.status()["counters"]["jobs"] == 16_384 + 3, seconds=120)
    assert "as many as one may have" not in jobs[-1].waiting_reason()
    assert sorted(outcomes) == list(range(5))
    session.close()


def test_outcomes_that_overtake_their_push(pool: ComputePool) -> None:
    """Many threads push to one job, whose tasks end at once."""
    futures: list[list[Any]] = [[] for _ in range(8)]

    def push(mine: list[Any]) -> None:
        for number in range(200):
            mine.append((number, pool.submit(abs, -number)))

    threads = [threading.Thread(target=push, args=(mine,)) for mine in futures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in futures:
        assert all(future.result(60) == number for number, future in mine)
