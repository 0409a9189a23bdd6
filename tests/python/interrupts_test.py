"""Ctrl-C, SIGTERM and SIGKILL for a program with a pool: it ends at once and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import wait_until

PROGRAM = """
import concurrent.futures, os, pathlib, subprocess, sys, time
import muster
from muster import ComputePool, Worker

folder, executor = pathlib.Path(sys.argv[1]), sys.argv[2]

def wait_long(x):
    child = subprocess.Popen(["sleep", "600"])
    mark = folder / f"new-{os.getpid()}-{child.pid}"
    mark.touch()
    mark.rename(folder / f"task-{os.getpid()}-{child.pid}")
    for _ in range(60000):  # so that a thread can be stopped
        time.sleep(0.01)

def report(word):
    print(word, flush=True)

with ComputePool(worker=Worker(concurrency=2, executor=executor)) as pool:
    pool.submit(abs, 1).result()
    try:
        BODY
    except KeyboardInterrupt:
        report("interrupted")
    values = [future.result(60) for future in [pool.submit(abs, -x) for x in range(8)]]
    report(f"usable {values == list(range(8))}")
    if LEAVE:
        pool.submit(wait_long, 2)
        raise SystemExit(0)
"""

WAYS = {
    "submit": "future = pool.submit(wait_long, 0)\n        future.result()",
    "wait": "concurrent.futures.wait([pool.submit(wait_long, 0)])",
    "as_completed": "list(pool.as_completed([pool.submit(wait_long, 0)]))",
    "map": "list(pool.map(wait_long, range(100)))",
    "map_unordered": "list(pool.map_unordered(wait_long, range(100)))",
    "compute": "muster.compute(wait_long)(0) >> pool",
    "joblib": (
        "import joblib, muster.joblib\n"
        "        with joblib.parallel_backend('muster', broker=pool.broker):\n"
        "            joblib.Parallel(n_jobs=2)(joblib.delayed(wait_long)(x) for x in range(9))"
    ),
}
STOPS_TASKS = ("map", "map_unordered", "compute", "joblib")


class Program:
    """A client in a process of its own, in a folder for its temporary files."""

    def __init__(self, folder: Path, body: str, executor: str, *, leave: bool = False) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.folders = blob_folders()
        text = PROGRAM.replace("BODY", body).replace("LEAVE", str(leave))
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(text), str(folder), executor],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        self.family: set[int] = set()

    def wait_for_task(self) -> None:
        wait_until(lambda: self.tasks() or self.process.poll() is not None, 120)
        self.family = descendants(self.process.pid)

    def tasks(self) -> list[str]:
        return [path.name for path in self.folder.glob("task-*")]

    def task_children(self) -> set[int]:
        return {int(name.rsplit("-", 1)[1]) for name in self.tasks()}

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def assert_nothing_stays(self) -> None:
        everyone = self.family | self.task_children()
        wait_until(lambda: not {pid for pid in everyone if is_alive(pid)}, 60)
        assert [path.name for path in self.temporary.iterdir()] == []
        wait_until(lambda: blob_folders() <= self.folders, 60)


def blob_folders() -> set[Path]:
    return set(Path(f"/dev/shm/muster-{os.getuid()}").glob("*"))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in {root, *found}} - found:
        found |= new
    return found


@pytest.fixture(params=["process", "thread"])
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("m")  # short: the socket's path lies below


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_interrupts_and_leaves_the_pool_usable(
    folder: Path, executor: str, way: str
) -> None:
    program = Program(folder, WAYS[way], executor)
    program.wait_for_task()
    children = program.task_children()
    program.process.send_signal(signal.SIGINT)

    if way in STOPS_TASKS:
        code, out, err = program.finish()
        assert (code, out.split("\n")[:2]) == (0, ["interrupted", "usable True"]), err
    else:  # the future goes on: that is what futures do
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "interrupted\n"
        assert program.process.stdout.readline() == "usable True\n"
        assert any(is_alive(child) for child in children)
        program.process.send_signal(signal.SIGINT)  # while the block waits for it
        code, _, err = program.finish()
        assert code == -signal.SIGINT, err
        assert "KeyboardInterrupt" in err
    program.assert_nothing_stays()


def test_an_exception_that_leaves_the_block_stops_tasks(folder: Path, executor: str) -> None:
    program = Program(folder, "pass", executor, leave=True)
    code, out, err = program.finish()
    assert (code, out) == (0, "usable True\n"), err
    program.assert_nothing_stays()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("way", ["submit", "map", "joblib"])
def test_a_killed_program_takes_all_along(
    folder: Path, executor: str, way: str, number: signal.Signals
) -> None:
    program = Program(folder, WAYS[way], executor)
    program.wait_for_task()
    assert len(program.family) >= 3  # broker, worker, runner
    program.process.send_signal(number)

    assert program.finish()[0] == -number
    program.assert_nothing_stays()
