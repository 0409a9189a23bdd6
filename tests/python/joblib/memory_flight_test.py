"""joblib's Memory in a pool: each value is computed once, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import memory_work as work
import pytest
from joblib import Memory
from pool_support import wait_until

from muster import ComputePool
from muster.errors import TaskCrashed
from muster.joblib import Store
from muster.joblib import memory as muster_memory
from muster.provider import programs_folder


def waits(pool: ComputePool) -> int:
    """How many wait for a value that another computes."""
    return int(dict(pool.status()["counters"]).get("stored_waits", 0))


# --- Single flight


def in_flight(pool: ComputePool, cached: Any, folder: str, count: int) -> list[Any]:
    """Tasks that all want the same value, when one computes it and the others wait."""
    wait_until(lambda: waits(pool) == 0)
    futures = [pool.submit(cached, folder, 7) for _ in range(count)]
    wait_until(lambda: waits(pool) == count - 1 and work.computed(folder))
    return futures


def test_tasks_that_miss_at_once_compute_once(
    pool: ComputePool, memory: Memory, folder: str
) -> None:
    futures = in_flight(pool, memory.cache(work.slow_square), folder, 3)
    Path(folder, "go").touch()
    assert [future.result(60) for future in futures] == [49, 49, 49]
    assert work.computed(folder) == ["7"]


def test_threads_of_one_process_compute_once(threads: ComputePool, folder: str) -> None:
    memory = Memory(f"muster://{uuid.uuid4().hex}", verbose=0)
    futures = in_flight(threads, memory.cache(work.slow_square), folder, 8)
    Path(folder, "go").touch()
    assert {future.result(60) for future in futures} == {49}
    assert work.computed(folder) == ["7"]


def test_the_client_waits_for_what_a_task_computes(
    pool: ComputePool, memory: Memory, folder: str
) -> None:
    cached = memory.cache(work.slow_square)
    futures = in_flight(pool, cached, folder, 1)
    Path(folder, "go").touch()
    assert cached(folder, 7) == futures[0].result(60) == 49
    assert work.computed(folder) == ["7"]


def test_another_computes_when_the_process_that_did_is_killed(
    pool: ComputePool, memory: Memory, folder: str
) -> None:
    futures = in_flight(pool, memory.cache(work.die_first), folder, 2)
    Path(folder, "go").touch()
    outcomes = [future.exception(60) or future.result() for future in futures]
    assert {type(outcome) for outcome in outcomes} == {TaskCrashed, int}
    assert 49 in outcomes
    assert work.computed(folder) == ["7", "7"]


def test_others_compute_when_the_function_raises(
    pool: ComputePool, memory: Memory, folder: str
) -> None:
    futures = in_flight(pool, memory.cache(work.fail_first), folder, 2)
    Path(folder, "go").touch()
    outcomes = [future.exception(60) or future.result() for future in futures]
    assert {type(outcome) for outcome in outcomes} == {LookupError, int}
    assert work.computed(folder) == ["7", "7"]


def test_a_cancelled_wait_and_a_cancelled_computation(threads: ComputePool, folder: str) -> None:
    memory = Memory(f"muster://{uuid.uuid4().hex}", verbose=0)
    cached = memory.cache(work.slow_square)
    futures = in_flight(threads, cached, folder, 3)
    for future in futures[1:]:
        future.cancel()
    futures[0].cancel()
    last = threads.submit(cached, folder, 7)
    Path(folder, "go").touch()
    assert last.result(60) == 49


# --- Brokers that end


def start_broker(endpoint: str, *options: str) -> subprocess.Popen[bytes]:
    program = os.path.join(programs_folder() or "", "muster-broker")
    broker = subprocess.Popen([program, "--listen", endpoint, *options, "--log-level", "warn"])
    wait_until(lambda: Path(endpoint[len("ipc://") :]).exists())
    return broker


@pytest.fixture
def brokers() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(endpoint: str, *options: str) -> subprocess.Popen[bytes]:
        started.append(start_broker(endpoint, *options))
        return started[-1]

    yield start
    for broker in started:
        broker.kill()
        broker.wait(30)


def test_a_spool_survives_the_broker(
    tmp_path: Path, folder: str, brokers: Callable[..., subprocess.Popen[bytes]]
) -> None:
    endpoint, spool = f"ipc://{tmp_path}/broker", str(tmp_path / "spool")
    broker = brokers(endpoint, "--spool", spool)
    memory = Memory("muster://kept", verbose=0)
    with ComputePool(broker=endpoint):
        for count in (3, 300_000):
            memory.cache(work.ramp)(folder, count)
        broker.kill()
        broker.wait(30)
        Path(f"{tmp_path}/broker").unlink()
        brokers(endpoint, "--spool", spool)
        for count in (3, 300_000):  # the same session, with a new connection
            assert len(memory.cache(work.ramp)(folder, count)) == count
    with ComputePool(broker=endpoint):
        assert len(memory.cache(work.ramp)(folder, 3)) == 3
    assert work.computed(folder) == ["3", "300000"]
    second = subprocess.run(
        [
            os.path.join(programs_folder() or "", "muster-broker"),
            "--listen",
            f"ipc://{tmp_path}/second",
            "--spool",
            spool,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2 and "another broker uses this folder" in second.stderr


def test_a_broker_that_is_gone_costs_a_warning_and_no_result(
    tmp_path: Path, folder: str, brokers: Callable[..., subprocess.Popen[bytes]]
) -> None:
    endpoint = f"ipc://{tmp_path}/broker"
    broker = brokers(endpoint)
    cached = Memory(Store("x", broker=endpoint), verbose=0).cache(work.square)
    assert cached(folder, 2) == 4
    from muster.joblib._connections import connected_pool

    pool = connected_pool(endpoint)
    broker.kill()
    broker.wait(30)
    pool.session.close()
    with pytest.warns(muster_memory.CacheWarning, match="so it is computed here"):
        assert cached(folder, 2) == 4
    assert work.computed(folder) == ["2", "2"]


WORKFLOW = """
    import sys
    import memory_work as work
    import muster.joblib
    from joblib import Memory, Parallel, delayed
    from muster import ComputePool
    from muster.joblib import sklearn_backend

    endpoint, folder = sys.argv[1:]
    memory = Memory("muster://workflow", verbose=0)

    @memory.cache
    def stage1(x):
        work.note(folder, f"one-{x}")
        if x >= 4:
            work.await_file(work.Path(folder, "go"))
        return list(range(x))

    @memory.cache
    def stage2(data):
        work.note(folder, f"two-{len(data)}")
        return sum(data)

    with ComputePool(broker=endpoint) as pool, sklearn_backend(pool):
        prepared = Parallel(n_jobs=-1)(delayed(stage1)(x) for x in range(8))
        print(sum(Parallel(n_jobs=-1)(delayed(stage2)(data) for data in prepared)))
"""


def test_a_workflow_of_two_stages_goes_on_after_a_kill(
    process_pool: ComputePool, tmp_path: Path, folder: str
) -> None:
    script = tmp_path / "workflow.py"
    script.write_text(textwrap.dedent(WORKFLOW))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(work.__file__).parent), *sys.path]),
    }
    command = [sys.executable, str(script), process_pool.broker, folder]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(work.computed(folder)) >= 5, 120)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    Path(folder, "go").touch()
    second = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert second.stdout.strip() == str(sum(sum(range(x)) for x in range(8))), second.stderr
    expected = [f"{stage}-{x}" for stage in ("one", "two") for x in range(8)]
    assert sorted(work.computed(folder)) == sorted(expected)
