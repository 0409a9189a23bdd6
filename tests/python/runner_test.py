"""What tasks may do to their process, and what the client learns of it: over real workers."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import core_pool
import pytest

from muster import errors
from muster._data import functions, pickling
from muster._node import tasks


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request: pytest.FixtureRequest) -> Iterator[core_pool.CorePool]:
    with core_pool.CorePool(request.param, slots=2) as made:
        yield made


@pytest.fixture(scope="module")
def process_pool() -> Iterator[core_pool.CorePool]:
    with core_pool.CorePool("process", slots=1) as made:
        yield made


def divide(dividend: float, divisor: float = 1) -> float:
    return dividend / divisor


def raise_it(exc: BaseException) -> None:
    raise exc


def test_results_and_execution_times(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.Call(divide))
    result, failure = pool.outcome(job, pool.push(job, 6, divisor=3))
    assert failure is None
    seconds, value = tasks.split_result(result)
    assert 0 <= seconds < 10
    assert pickling.unpack(value) == 2.0


@pytest.mark.parametrize(
    "exc", [ZeroDivisionError("x"), KeyError("k"), KeyboardInterrupt(), MemoryError(), OSError(1)]
)
def test_exceptions_come_back(pool: core_pool.CorePool, exc: BaseException) -> None:
    with pytest.raises(type(exc)) as caught:
        pool.call(raise_it, exc)
    text = str(caught.value.__cause__)
    assert "in raise_it" in text
    assert "runner.py" not in text
    assert "tasks.py" not in text


def test_sys_exit_is_a_failure_of_the_task(pool: core_pool.CorePool) -> None:
    with pytest.raises(errors.TaskError, match=r"^the task called sys.exit\(3\)$") as caught:
        pool.call(sys.exit, 3)
    assert caught.value.kind == "system_exit"


def test_functions_of_main_and_closures(pool: core_pool.CorePool) -> None:
    offset = 3
    assert pool.call(lambda x: x + offset, 1) == 4


def test_a_result_that_cannot_be_pickled(pool: core_pool.CorePool) -> None:
    with pytest.raises(errors.SerializationError, match=r"result\['lock'\] is a lock"):
        pool.call(lambda: {"lock": threading.Lock()})


def test_what_the_node_does_not_have(pool: core_pool.CorePool, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def f(x): return x\nclass C: pass\n")
    seen = core_pool.context()
    sys.path.append(str(tmp_path))
    try:
        import only_here  # type: ignore[import-not-found]

        for function, argument, what in (
            (only_here.f, 1, "the function of this task"),
            (str, only_here.C(), "the arguments of this task"),
        ):
            job = pool.open(tasks.Call(function), context=seen)
            with pytest.raises(errors.SerializationError) as caught:
                pool.value(job, pool.push(job, argument))
            assert f"cannot load {what} on node " in str(caught.value)
            assert "No module named 'only_here'" in str(caught.value)
            assert "install it there" in str(caught.value)

        job = pool.open(tasks.Call(only_here.f))  # with a path that has the folder
        assert pool.value(job, pool.push(job, 1)) == 1
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("only_here", None)


@pytest.mark.parametrize("starred", [False, True])
def test_a_chunk_up_to_the_item_that_fails(pool: core_pool.CorePool, starred: bool) -> None:
    job = pool.open(tasks.MapChunk(divide if starred else lambda x: 1 / x, starred))
    items: list[Any] = [(1, 2), (1, 0), (1, 1)] if starred else [2, 0, 1]
    payload = pickling.dumps(items, "the items")
    results, failure = pool.value(job, pool.producer.push(job, payload))
    assert results == [0.5]
    assert failure[:2] == ("exception", "ZeroDivisionError: " + failure[1].split(": ")[1])
    assert "tasks.py" not in failure[2]

    payload = pickling.dumps([(2, 1)] if starred else [2], "the items")
    assert pool.value(job, pool.producer.push(job, payload)) == ([2.0 if starred else 0.5], None)


def test_a_chunk_with_an_exception_that_ends_loops(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.MapChunk(raise_it, False))
    payload = pickling.dumps([StopIteration(1)], "the items")
    results, failure = pool.value(job, pool.producer.push(job, payload))
    assert (results, failure[1]) == ([], "StopIteration: 1")


def test_a_chunk_with_a_result_that_cannot_be_pickled(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.MapChunk(lambda x: threading.Lock() if x == 2 else x, False))
    payload = pickling.dumps([1, 2, 3], "the items")
    results, failure = pool.value(job, pool.producer.push(job, payload))
    assert (results, failure[0]) == ([1], "result_not_picklable")


def test_shared_functions_are_loaded_once(process_pool: core_pool.CorePool) -> None:
    shared = functions.SharedFunctions()
    function = lambda: None  # noqa: E731
    first = shared.pack(((function,), {}), "the arguments")
    job = process_pool.open(tasks.Call(id), functions=shared.take_body())
    late = lambda: None  # noqa: E731
    payloads = [first] + [shared.pack(((f,), {}), "the arguments") for f in (function, late, late)]
    ids = [process_pool.value(job, process_pool.producer.push(job, *p)) for p in payloads]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def say_much() -> None:
    print("one\ntwo", end="")
    print("three")
    print("shown then\rshown", end="\n")
    sys.stdout.buffer.write(b"bytes\n")
    sys.stderr.write("to error\n")
    logging.getLogger("a.name").info("logged %d", 3)
    logging.getLogger("a.name").debug("too quiet")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.exception("went wrong")
    warnings.warn("careful", stacklevel=1)
    print("no end", end="")


def test_what_a_task_says_comes_as_lines(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.Call(say_much), forward_output=True)
    sequence = pool.push(job)
    pool.value(job, sequence)
    lines = [line for line in pool.lines(9) if line[0] == job]

    assert {line[1] for line in lines} == {sequence}
    said = [(kind, level, name, text) for _, _, _, kind, level, name, text, _ in lines]
    assert said[:6] == [
        (0, 0, "", "one"),
        (0, 0, "", "twothree"),
        (0, 0, "", "shown"),
        (0, 0, "", "bytes"),
        (1, 0, "", "to error"),
        (2, logging.INFO, "a.name", "logged 3"),
    ]
    assert said[6][:3] == (2, logging.ERROR, "root")
    assert said[6][3].startswith("went wrong\nTraceback")
    assert said[7][:3] == (3, logging.WARNING, "UserWarning")
    assert said[7][3].endswith(": careful")
    assert "runner_test.py:" in said[7][3]
    assert said[8] == (0, 0, "", "no end")


def test_a_job_that_is_not_captured_says_nothing(pool: core_pool.CorePool) -> None:
    quiet = pool.open(tasks.Call(say_much), context=core_pool.context(capture=False))
    pool.value(quiet, pool.push(quiet))
    loud = pool.open(tasks.Call(print), forward_output=True)
    pool.value(loud, pool.push(loud, "loud"))
    assert [(line[0], line[6]) for line in pool.lines(1)] == [(loud, "loud")]


def test_a_thread_that_outlives_its_task_may_print(pool: core_pool.CorePool) -> None:
    def leak() -> None:
        threading.Thread(target=print, args=("leaked",)).start()
        print("own")

    job = pool.open(tasks.Call(leak), forward_output=True)
    pool.value(job, pool.push(job))
    assert "own" in [line[6] for line in pool.lines(1)]
    assert pool.call(divide, 4, 2) == 2


def read_input() -> str:
    return sys.stdin.read()


def test_standard_input_is_empty(pool: core_pool.CorePool) -> None:
    assert pool.call(read_input) == ""


def test_the_name_of_a_slot(pool: core_pool.CorePool) -> None:
    name = pool.call(lambda: threading.current_thread().name)
    assert name == "MainThread" or name.startswith("muster-slot-")


def test_main_is_not_the_runner(pool: core_pool.CorePool) -> None:
    assert pool.call(lambda: hasattr(sys.modules["__main__"], "Runner")) is False


def test_the_folder_and_the_signals_are_restored(process_pool: core_pool.CorePool) -> None:
    def change() -> str:
        folder = os.getcwd()
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return folder

    def look() -> tuple[str, bool, bool]:
        return (
            os.getcwd(),
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        )

    folder = process_pool.call(change)
    assert process_pool.call(look) == (folder, True, True)


def fork_and(child: Callable[[], object]) -> int:
    process = os.fork()
    if process == 0:
        child()
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize(
    ("child", "status"),
    [
        (lambda: os._exit(7), 7),
        (lambda: sys.exit(5), 5),
        (lambda: None, 0),
        (lambda: print("from the child"), 0),
        (lambda: 1 / 0, 0),
    ],
)
def test_a_forked_child_does_not_speak_for_the_task(
    pool: core_pool.CorePool, child: Callable[[], object], status: int
) -> None:
    assert pool.call(fork_and, child) == status
    assert pool.call(divide, 4, 2) == 2


def test_multiprocessing_inside_a_task(process_pool: core_pool.CorePool) -> None:
    def spread() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as children:
            return children.map(abs, [-1, -2, -3])

    assert process_pool.call(spread) == [1, 2, 3]


def test_a_crash_is_told_with_the_stack(process_pool: core_pool.CorePool) -> None:
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    job = process_pool.open(tasks.Call(crash), crash_budget=1)
    code, kind, _, text, _ = process_pool.failure(job, process_pool.push(job))
    assert (code, kind) in (("task_failed", "crashed"), ("task_lost", "crashed"))
    assert "Segmentation fault" in text
    assert process_pool.call(divide, 4, 2) == 2


def busy_until_stopped(started: str) -> None:
    Path(started).touch()
    while True:
        time.monotonic()


def all_exist(paths: list[Path]) -> bool:
    return all(path.exists() for path in paths)


def stubborn(started: str) -> str:
    Path(started).touch()
    try:
        while True:
            time.monotonic()
    except errors.TaskStopped:
        return "it came to an end"


@pytest.mark.parametrize("function", [busy_until_stopped, stubborn])
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_cancelled_task_frees_its_slot(
    function: Callable[[str], object], executor: str, tmp_path: Path
) -> None:
    with core_pool.CorePool(executor, slots=2) as pool:
        for attempt in range(5):
            started = [tmp_path / f"{attempt}-{i}" for i in range(2)]
            job = pool.open(tasks.Call(function))
            sequences = [pool.push(job, str(path)) for path in started]
            core_pool.wait_until(functools.partial(all_exist, started), "the start")
            pool.producer.cancel(job)
            for sequence in sequences:
                assert pool.failure(job, sequence)[0] == "task_cancelled"
            assert pool.call(divide, 4, 2) == 2


def test_a_task_that_runs_too_long(pool: core_pool.CorePool, tmp_path: Path) -> None:
    job = pool.open(tasks.Call(busy_until_stopped), timeout=0.1)
    assert pool.failure(job, pool.push(job, str(tmp_path / "x")))[0] == "task_timed_out"


def test_stops_that_come_as_tasks_end(tmp_path: Path) -> None:
    with core_pool.CorePool("thread", slots=2) as pool:
        for _ in range(30):
            job = pool.open(tasks.Call(divide))
            sequences = [pool.push(job, i) for i in range(20)]
            pool.producer.cancel(job)
            for sequence in sequences:
                result, failure = pool.outcome(job, sequence)
                assert failure is None or failure[0] == "task_cancelled"
        assert pool.call(divide, 4, 2) == 2


def test_the_threads_of_numeric_libraries(process_pool: core_pool.CorePool) -> None:
    def limits() -> tuple[set[int], str | None]:
        import numpy  # noqa: F401
        import threadpoolctl

        found = {info["num_threads"] for info in threadpoolctl.threadpool_info()}
        return found, os.environ.get("OMP_NUM_THREADS")

    for limit in (1, 2, 1):
        job = process_pool.open(tasks.Call(limits), context=core_pool.context(thread_limit=limit))
        found, variable = process_pool.value(job, process_pool.push(job))
        assert found <= {limit}
        assert variable == str(limit)


def test_the_version_and_a_start_by_hand() -> None:
    command = [sys.executable, "-m", "muster.runner"]
    environment = {**os.environ, "PYTHONPATH": core_pool.PACKAGE_FOLDER}
    version = subprocess.run(
        [*command, "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert version.stdout == f"{sys.version_info.major}.{sys.version_info.minor} 0.1.0\n"

    by_hand = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert by_hand.returncode == 2
    assert by_hand.stderr.startswith("muster.runner: not started by muster-worker; start ")
    assert by_hand.stderr.count("\n") == 1
