"""How pools end: forks, forgotten pools, killed programs, lost brokers."""

from __future__ import annotations

import concurrent.futures
import gc
import importlib.metadata
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import run_script, wait_until

import muster
from muster import ComputePool, Worker
from muster._data.portable import Packed
from muster._link.session import Session
from muster.joblib import JoblibPool, ScikitLearnPool
from muster.provider import programs_folder


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


def test_a_forked_child_is_told_and_does_not_hang(pool: ComputePool) -> None:
    future = pool.submit(time.sleep, 1)

    def child(answers: object) -> None:
        for call in (lambda: pool.submit(abs, 1), future.result, lambda: list(pool.map(abs, [1]))):
            try:
                call()
                answers.put("no error")  # type: ignore[attr-defined]
            except muster.MusterError as error:
                answers.put(str(error))  # type: ignore[attr-defined]

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    assert all("forked" in answers.get(timeout=30) for _ in range(3))
    process.join(30)
    assert process.exitcode == 0
    assert pool.submit(abs, -1).result(30) == 1


def test_a_fork_that_exits_normally_ends(pool: ComputePool) -> None:
    done = run_script(
        """
        import os, muster
        pool = muster.ComputePool(worker=muster.Worker(concurrency=1)).start()
        child = os.fork()
        if child == 0:
            raise SystemExit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), pool.submit(abs, -1).result())
        pool.shutdown()
        """
    )
    assert done.stdout.split() == ["7", "1"], done.stderr


def test_a_program_that_forgets_its_pool_ends() -> None:
    done = run_script(
        """
        import muster, time
        pool = muster.ComputePool(worker=muster.Worker(concurrency=1)).start()
        pool.submit(time.sleep, 600)
        results = pool.map(time.sleep, [600] * 10)
        print(pool.nodes()[0].process_id)
        """
    )
    assert done.returncode == 0, done.stderr
    worker = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_an_abandoned_pool_is_collected() -> None:
    pool = ComputePool(worker=Worker(concurrency=1)).start()
    assert pool.submit(abs, -1).result(30) == 1
    worker = pool.nodes()[0].process_id
    del pool
    gc.collect()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_a_killed_program_leaves_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import muster, time
        with muster.ComputePool(worker=muster.Worker(concurrency=1)) as pool:
            pool.submit(abs, 1).result()
            print(pool.nodes()[0].process_id, flush=True)
            time.sleep(600)
        """
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    program.send_signal(signal.SIGKILL)
    program.wait(30)
    program.stdout.close()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_the_end_of_the_session_ends_every_future() -> None:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        with ComputePool(broker=pool.broker) as attached:
            future = attached.submit(time.sleep, 600)
            attached.session.close()
            with pytest.raises(concurrent.futures.CancelledError, match="shut down"):
                future.result(30)
            with pytest.raises(muster.MusterError):
                attached.submit(abs, 1)
        assert pool.submit(abs, -1).result(30) == 1


@pytest.fixture
def lone_broker(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A broker without workers."""
    endpoint = f"ipc://{tmp_path}/broker"
    program = Path(programs_folder(), "muster-broker")
    broker = subprocess.Popen([program, "--listen", endpoint])
    yield endpoint, broker
    broker.kill()
    broker.wait(30)


def test_a_lost_broker_ends_every_task(
    lone_broker: tuple[str, subprocess.Popen[bytes]],
) -> None:
    endpoint, broker = lone_broker
    outcomes: list[object] = []
    session = Session(broker=endpoint, python_version="3.11", broker_timeout=1.0)
    job = session.open_job(
        Packed(b"body"),
        "lost",
        lambda task, _result, failure: outcomes.append((task, failure)),
    )
    assert [job.push(Packed(b""), task) for task in "ab"] == [0, 1]
    broker.kill()
    wait_until(lambda: len(outcomes) == 2)
    assert [(task, failure[0]) for task, failure in outcomes] == [  # type: ignore[misc]
        ("a", "disconnected"),
        ("b", "disconnected"),
    ]
    with pytest.raises(muster.BrokerLost):
        job.push(Packed(b""), "c")
    with pytest.raises(muster.BrokerLost):
        session.open_job(Packed(b"body"), "late", lambda *_: None)
    session.close()


def test_a_pool_without_workers_says_why_a_map_waits(
    lone_broker: tuple[str, subprocess.Popen[bytes]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("muster._pool.map.COMPLAIN_SECONDS", 0.5)
    with ComputePool(broker=lone_broker[0]) as pool:
        assert pool.total_slots == 0
        with pytest.raises(TimeoutError):
            list(pool.map(abs, [1], timeout=2))
    assert "worker" in caplog.text


def test_no_broker_at_the_endpoint_is_said(tmp_path: Path) -> None:
    session = f"ipc://{tmp_path}/nobody"
    with pytest.raises(muster.BrokerLost, match="nobody"):
        Session(broker=session, connect_timeout=0.5)


def test_muster_broker_is_used_where_it_is_asked_for_only(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_BROKER", pool.broker)
    with ComputePool(broker="auto") as attached:
        assert attached.broker == pool.broker
    with ComputePool(worker=Worker(concurrency=1)) as own:
        assert own.broker != pool.broker
    assert os.environ["MUSTER_BROKER"] == pool.broker


def test_a_pool_that_says_nothing_joins_the_running_one(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_BROKER", pool.broker)
    for make in (ComputePool, JoblibPool, ScikitLearnPool):
        with make() as attached:
            assert attached.broker == pool.broker
    with ScikitLearnPool(sklearn_version=importlib.metadata.version("scikit-learn")) as own:
        assert own.broker != pool.broker
    monkeypatch.setenv("MUSTER_BROKER", "")
    with ComputePool() as own:
        assert own.broker != pool.broker
