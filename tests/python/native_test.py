"""The native module against a real pool: values, waits, ends, threads and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import core_pool
import pytest

from muster import _native
from muster._data import pickling
from muster._node import tasks


@pytest.fixture(scope="module")
def pool() -> Iterator[core_pool.CorePool]:
    with core_pool.CorePool(slots=2) as made:
        yield made


def echo(value: object) -> object:
    return value


def test_payloads_and_results_of_any_size(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.Call(echo))
    for size in (0, 1, 4095, 4096, 65_535, 65_536, 300_000, 20_000_000):
        value = os.urandom(size)
        result, failure = pool.outcome(job, pool.push(job, value))
        assert failure is None
        if not isinstance(result, tuple):  # else its blobs are with it
            assert type(result) is (bytes if len(result) < 65_536 else _native.Buffer)
        assert pickling.unpack(tasks.split_result(result)[1]) == value


def test_a_buffer_is_read_only_and_outlives_its_views(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.Call(echo))
    result, _ = pool.outcome(job, pool.push(job, b"x" * 100_000))
    view = memoryview(result)
    assert (view.readonly, view.nbytes, view.itemsize) == (True, len(result), 1)
    with pytest.raises(TypeError):
        view[0] = 1
    del result
    assert bytes(view[-10:-3]) == b"xxxxxxx"


def test_payloads_are_any_contiguous_buffer(pool: core_pool.CorePool) -> None:
    job = pool.open(tasks.Call(echo))
    data = pickling.dumps((("x",), {}), "the arguments")
    for payload in (data, bytearray(data), memoryview(data)):
        assert pool.value(job, pool.producer.push(job, payload)) == "x"
    with pytest.raises(TypeError):
        pool.producer.push(job, "text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        pool.producer.push(job, memoryview(b"abcdef")[::2])


def test_sequences_count_and_jobs_are_apart(pool: core_pool.CorePool) -> None:
    first, second = pool.open(tasks.Call(echo)), pool.open(tasks.Call(echo))
    assert [pool.push(first, i) for i in range(3)] == [0, 1, 2]
    assert pool.push(second, "other") == 0
    assert [pool.value(first, i) for i in range(3)] == [0, 1, 2]
    assert pool.value(second, 0) == "other"


def test_waits_end_in_time(pool: core_pool.CorePool) -> None:
    assert pool.producer.next(0.0) == []
    assert pool.producer.next(0.05) == []
    assert pool.producer.next_output(0.0) == []
    assert not pool.producer.wait_for_slots(1000, 0.05)
    assert pool.producer.wait_for_slots(2, core_pool.DEADLINE_SECONDS)
    assert pool.producer.total_slots() == 2
    assert '"workers"' in pool.producer.status()


def test_a_wake_ends_one_wait_also_a_later_one(pool: core_pool.CorePool) -> None:
    pool.producer.wake()
    assert pool.producer.next(None) == []
    waiter = threading.Thread(target=pool.producer.next, args=(None,))
    waiter.start()
    pool.producer.wake()
    waiter.join(core_pool.DEADLINE_SECONDS)
    assert not waiter.is_alive()


def test_what_is_wrong_is_an_error_with_five_arguments() -> None:
    with pytest.raises(_native.Error) as caught:
        _native.Producer(executor="fibre")
    assert caught.value.args[0] == "invalid"
    assert len(caught.value.args) == 5
    with pytest.raises(_native.Error) as caught:
        _native.Producer(endpoint="ipc:///nowhere/broker", connect_timeout=0.05)
    assert caught.value.args[0] in ("disconnected", "unusable")


def test_close_ends_the_waits_of_other_threads() -> None:
    pool = core_pool.CorePool()
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(pool.producer.next(None))
        except _native.Error as exc:
            ended.append(exc.args[0])

    waiter = threading.Thread(target=wait)
    waiter.start()
    pool.producer.close()
    pool.producer.close()
    waiter.join(core_pool.DEADLINE_SECONDS)

    assert ended in ([[]], ["disconnected"])
    assert pool.producer.next_output(1.0) == []
    assert pool.producer.endpoint
    with pytest.raises(_native.Error, match="closed"):
        pool.producer.next(1.0)


def run_script(source: str) -> subprocess.Popen[str]:
    head = "import os, sys, threading\nimport core_pool\nfrom muster._node import tasks\n"
    folders = [core_pool.PACKAGE_FOLDER, os.path.dirname(__file__)]
    return subprocess.Popen(
        [sys.executable, "-c", head + source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )


@pytest.mark.parametrize(
    "wait", ["next(None)", "next_output(1000.0)", "wait_for_slots(1000, 1000.0)"]
)
def test_ctrl_c_ends_a_wait(wait: str) -> None:
    script = run_script(
        f"pool = core_pool.CorePool()\nprint('waits', flush=True)\npool.producer.{wait}\n"
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "waits\n"
    script.send_signal(signal.SIGINT)
    _, text = script.communicate(timeout=core_pool.DEADLINE_SECONDS)
    assert text.endswith("KeyboardInterrupt\n"), text


def test_ctrl_c_ends_connecting() -> None:
    script = run_script(
        "from muster import _native\n"
        "print('waits', flush=True)\n"
        "_native.Producer(endpoint='ipc:///tmp/nobody-is-there', connect_timeout=1000.0)\n"
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "waits\n"
    script.send_signal(signal.SIGINT)
    _, text = script.communicate(timeout=core_pool.DEADLINE_SECONDS)
    assert text.endswith("KeyboardInterrupt\n"), text


@pytest.mark.parametrize(
    "end",
    [
        "",
        "del pool",
        "sys.exit(0)",
        "threading.excepthook = lambda _: None\n"
        "threading.Thread(target=pool.producer.next, args=(None,), daemon=True).start()",
    ],
)
def test_the_interpreter_ends_without_a_close(end: str) -> None:
    script = run_script(f"pool = core_pool.CorePool()\npool.call(len, 'abc')\n{end}\n")
    _, text = script.communicate(timeout=core_pool.DEADLINE_SECONDS)
    assert (script.returncode, text) == (0, "")


def test_a_forked_child_ends_without_touching_the_pool() -> None:
    script = run_script(
        "pool = core_pool.CorePool()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        pool.producer.next(0.0)\n"
        "    except Exception as exc:\n"
        "        print(exc.args[2])\n"
        "    pool.producer.close()\n"
        "    del pool\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(pool.call(len, 'abc'))\n"
    )
    output, text = script.communicate(timeout=core_pool.DEADLINE_SECONDS)
    assert (script.returncode, text) == (0, "")
    assert output == "the pool belongs to the process that forked this one\n3\n"
