"""Tasks that harm the process they run in: their error says what happened, and the pool goes on."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_support import wait_until

import muster
from muster import ComputePool, Worker

SECONDS = 60


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request: pytest.FixtureRequest) -> Iterator[ComputePool]:
    worker = Worker(concurrency=2, executor=request.param)
    with ComputePool(worker=worker, output=lambda line: None) as pool:
        yield pool


@pytest.fixture(autouse=True)
def the_pool_goes_on(pool: ComputePool) -> Iterator[None]:
    yield
    futures = [pool.submit(abs, -x) for x in range(20)]
    assert [future.result(SECONDS) for future in futures] == list(range(20))
    assert pool.total_slots == 2


def segfault() -> None:
    ctypes.string_at(0)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_terminated() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)


def close_the_link() -> None:
    os.close(3)


def close_all() -> None:
    os.closerange(3, 200)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (segfault, "segfault ended: killed by signal 11 (Segmentation fault)"),
        (be_killed, "killed by signal 9 (Killed); the kernel does that when memory runs out"),
        (be_terminated, "killed by signal 15 (Terminated)"),
    ],
)
def test_a_signal_is_named(pool: ComputePool, task: Callable[[], None], expected: str) -> None:
    with pytest.raises(muster.TaskCrashed) as error:
        pool.submit(task).result(SECONDS)
    assert expected in str(error.value)
    assert error.value.kind == "crashed"


def test_a_segfault_shows_where(pool: ComputePool) -> None:
    with pytest.raises(muster.TaskCrashed) as error:
        pool.submit(segfault).result(SECONDS)
    assert "Fatal Python error: Segmentation fault" in error.value.remote_traceback
    assert "in segfault" in str(error.value.__cause__)


def test_a_crash_in_a_map_is_raised_after_the_results_before_it(pool: ComputePool) -> None:
    def crash_at_three(x: int) -> int:
        if x == 3:
            os._exit(5)
        return x

    results = pool.map(crash_at_three, range(10), chunksize=3)
    with pytest.raises(muster.TaskCrashed, match="exited with status 5"):
        for _ in results:
            pass


def test_os_exit_ends_the_task_alone(pool: ComputePool) -> None:
    with pytest.raises(muster.TaskCrashed, match="exited with status 3"):
        pool.submit(os._exit, 3).result(SECONDS)
    with pytest.raises(muster.TaskCrashed, match=r"exited with status 0; .*os\._exit"):
        pool.submit(os._exit, 0).result(SECONDS)


def test_sys_exit_is_an_error(pool: ComputePool) -> None:
    with pytest.raises(muster.TaskError, match=r"the task called sys\.exit\(3\)") as error:
        pool.submit(sys.exit, 3).result(SECONDS)
    assert error.value.kind == "system_exit"


@pytest.mark.parametrize("task", [close_the_link, close_all])
def test_closing_the_link_is_a_crash(pool: ComputePool, task: Callable[[], None]) -> None:
    with pytest.raises(muster.TaskCrashed, match="closed fd 3"):
        pool.submit(task).result(SECONDS)


def fill_memory() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
    try:
        return len(bytearray(8 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_task_without_memory_raises_memory_error(pool: ComputePool) -> None:
    with pytest.raises(MemoryError):
        pool.submit(fill_memory).result(SECONDS)


def fork_and_return() -> Any:
    child = os.fork()
    if child == 0:
        return "nobody sees this"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_raise() -> Any:
    child = os.fork()
    if child == 0:
        raise SystemExit(4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_does_not_answer(pool: ComputePool) -> None:
    assert pool.submit(fork_and_return).result(SECONDS) == 0
    assert pool.submit(fork_and_raise).result(SECONDS) == 4


def ask() -> str:
    return input("your name? ")


def read_input() -> tuple[str, bytes]:
    return sys.stdin.read(), os.read(0, 10)


def test_standard_input_is_empty(pool: ComputePool) -> None:
    assert pool.submit(read_input).result(SECONDS) == ("", b"")
    with pytest.raises(EOFError):
        pool.submit(ask).result(SECONDS)


def print_much() -> str:
    print("x" * 3_000_000)
    os.write(1, b"y" * 3_000_000)
    subprocess.run(["sh", "-c", "yes | head -c 3000000"], check=True)
    return "said"


def test_megabytes_of_output_block_nothing(pool: ComputePool) -> None:
    assert pool.submit(print_much).result(SECONDS) == "said"


def close_the_streams() -> str:
    sys.stdout.close()
    for descriptor in (1, 2):
        os.close(descriptor)
    print("into nowhere")
    return "closed"


def replace_the_streams() -> str:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    print("into nowhere")
    return "replaced"


def test_tasks_may_close_or_replace_the_streams(pool: ComputePool) -> None:
    assert pool.submit(close_the_streams).result(SECONDS) == "closed"
    assert pool.submit(replace_the_streams).result(SECONDS) == "replaced"
    assert pool.submit(print, "usable").result(SECONDS) is None


def leak_threads() -> str:
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(600,)).start()

    def chatter() -> None:
        while True:
            print("a leaked thread speaks")
            logging.getLogger("leaked").error("and logs")
            time.sleep(0.001)

    threading.Thread(target=chatter).start()
    return "leaked"


def test_leaked_threads_keep_nothing(pool: ComputePool) -> None:
    assert pool.submit(leak_threads).result(SECONDS) == "leaked"


def ignore_signals() -> str:
    if threading.current_thread() is threading.main_thread():
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
    return "ignored"


def child_status() -> int:
    return subprocess.run(["sh", "-c", "exit 3"], check=False).returncode


def test_ignored_signals_are_as_before_afterwards(pool: ComputePool) -> None:
    assert pool.submit(ignore_signals).result(SECONDS) == "ignored"
    statuses = [pool.submit(child_status) for _ in range(4)]
    assert [status.result(SECONDS) for status in statuses] == [3] * 4


def set_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def test_an_alarm_does_not_hit_the_next_task() -> None:
    with ComputePool(worker=Worker(concurrency=1)) as own:
        own.submit(set_an_alarm).result(SECONDS)
        own.submit(time.sleep, 0.2).result(SECONDS)


def change_folder() -> None:
    os.chdir("/")


def test_another_folder_ends_with_its_task() -> None:
    with ComputePool(worker=Worker(concurrency=1)) as own:
        before = own.submit(os.getcwd).result(SECONDS)
        own.submit(change_folder).result(SECONDS)
        assert own.submit(os.getcwd).result(SECONDS) == before


def test_a_task_that_ignores_sigterm_is_stopped_all_the_same() -> None:
    def stay(path: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        while True:
            time.sleep(1)

    with (
        tempfile.TemporaryDirectory() as folder,
        ComputePool(worker=Worker(concurrency=1)) as own,
    ):
        mark = Path(folder, "pid")
        future = own.submit(stay, str(mark))
        wait_until(lambda: mark.exists() and mark.read_text())
        assert future.cancel()
        wait_until(lambda: not Path("/proc", mark.read_text()).exists())
        assert own.submit(abs, -1).result(SECONDS) == 1
