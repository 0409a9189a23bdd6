"""A broker that stands still and goes on: every kind of program comes back, and says it waited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import wait_until

import muster
from muster import ComputePool
from muster.provider import programs_folder

PREFACE = """
import itertools, pathlib, sys, time
from muster import ComputePool
folder = pathlib.Path(sys.argv[2])
mark = folder / sys.argv[3]
def task(n):
    mark.touch()
    while not (folder / "go").exists():
        time.sleep(0.1)
    return n
N = 30
with ComputePool(broker=sys.argv[1], output=False) as pool:
"""

KINDS = {
    "map": "list(pool.map(task, range(N))) == list(range(N))",
    "futures": "[f.result() for f in [pool.submit(task, i) for i in range(N)]] == list(range(N))",
    "one_future": "pool.submit(task, 5).result() == 5",
    "joblib": "(lambda: __import__('joblib').Parallel(n_jobs=-1)("
    "__import__('joblib').delayed(task)(i) for i in range(N)))() == list(range(N))",
    "endless_map": "[x for x, _ in zip(pool.map(task, itertools.count()), range(N))]"
    " == list(range(N))",  # the last: it takes every slot that is left
}
SLOTS = 128


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A broker with short heartbeats, and a worker with a slot for each task."""
    endpoint = f"ipc://{tmp_path}/broker"
    programs = programs_folder()
    environment = {**os.environ, "PYTHONPATH": str(Path(muster.__file__).parent.parent)}
    broker = subprocess.Popen(
        [Path(programs, "muster-broker"), "--listen", endpoint]
        + ["--heartbeat-interval", "0.2", "--session-grace", "0.5", "--log-level", "error"]
    )
    worker = subprocess.Popen(
        [Path(programs, "muster-worker"), "--connect", endpoint, "--slots", str(SLOTS)]
        + ["--executor", "thread", "--python", sys.executable, "--log-level", "error"],
        env=environment,
    )
    yield endpoint, broker
    for process in (worker, broker):
        process.kill()
        process.wait(30)


def start(kind: str, endpoint: str, folder: Path) -> subprocess.Popen[str]:
    script = PREFACE
    if kind == "joblib":
        script += "  from muster.joblib import sklearn_backend\n"
        script += f"  with sklearn_backend(pool):\n    print({KINDS[kind]})\n"
    else:
        script += f"  print({KINDS[kind]})\n"
    with (folder / f"{kind}.err").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", script, endpoint, folder, kind],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def test_every_kind_of_program_survives_a_brokers_standstill(
    daemons: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    endpoint, broker = daemons
    running = {}
    try:
        for kind in KINDS:
            running[kind] = start(kind, endpoint, tmp_path)
            wait_until((tmp_path / kind).exists, 120)
        broker.send_signal(signal.SIGSTOP)
        errors = [tmp_path / f"{kind}.err" for kind in KINDS]
        wait_until(lambda: all("waiting for the broker" in e.read_text() for e in errors), 120)
        broker.send_signal(signal.SIGCONT)
        (tmp_path / "go").touch()
        said = {kind: process.communicate(timeout=120)[0] for kind, process in running.items()}
        assert said == dict.fromkeys(KINDS, "True\n")
        assert all("answers again" in e.read_text() for e in errors)
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def test_a_wait_that_was_limited_ends(
    daemons: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    endpoint, broker = daemons
    with ComputePool(broker=endpoint, broker_timeout=1.5, output=False) as pool:
        assert pool.submit(abs, -1).result(60) == 1
        future = pool.submit(time.sleep, 600)
        broker.send_signal(signal.SIGSTOP)
        with pytest.raises(muster.BrokerLost, match="has not answered for"):
            future.result(60)
        broker.send_signal(signal.SIGCONT)


def test_the_limit_is_checked() -> None:
    with pytest.raises(ValueError, match="broker_timeout"):
        ComputePool(broker="ipc:///nowhere", broker_timeout=0)
    with pytest.raises(TypeError, match="broker_timeout"):
        ComputePool(broker="ipc:///nowhere", broker_timeout="soon")  # type: ignore[arg-type]
