"""What users get wrong: every mistake is told in words that help, and the pool goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_support import wait_until

import muster
from muster import ComputePool, Worker
from muster.provider import programs_folder

SECONDS = 60
GIB = 1 << 30


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request: pytest.FixtureRequest) -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2, executor=request.param)) as pool:
        yield pool


@pytest.fixture
def still_usable(pool: ComputePool) -> Iterator[ComputePool]:
    yield pool
    assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert pool.submit(abs, -1).result(SECONDS) == 1


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay at home")


class LoadsNowhere:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def locked(x: int) -> Any:
    return {"values": [x, threading.Lock()]} if x == 2 else x


def unloadable() -> Any:
    return LoadsNowhere()


# --- Pickling ---


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ({"deep": [1, threading.Lock()]}, r"args\[0\]\['deep'\]\[1\] is a lock"),
        ((x for x in ()), r"args\[0\] is a generator"),
        ([Refuses()], r"args\[0\]\[0\] is a Refuses .*: I stay at home"),
        (sys.stderr, r"args\[0\] is "),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named(
    still_usable: ComputePool, argument: Any, expected: str
) -> None:
    with pytest.raises(muster.SerializationError, match=expected):
        still_usable.submit(str, argument)


def test_a_closure_that_cannot_be_pickled_is_named(still_usable: ComputePool) -> None:
    lock = threading.Lock()
    with pytest.raises(muster.SerializationError, match="function.<variable lock> is a lock"):
        still_usable.submit(lambda: lock)


def test_an_item_that_cannot_be_pickled_comes_after_the_results_before_it(
    still_usable: ComputePool,
) -> None:
    results = still_usable.map(str, [1, 2, threading.Lock(), 4])
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(muster.SerializationError, match="is a lock"):
        next(results)
    assert list(results) == []


def test_a_result_that_cannot_be_pickled_is_named(still_usable: ComputePool) -> None:
    with pytest.raises(muster.SerializationError, match=r"result\['values'\]\[1\] is a lock"):
        still_usable.submit(locked, 2).result(SECONDS)
    got = []
    with pytest.raises(muster.SerializationError, match="is a lock"):
        for value in still_usable.map(locked, range(5), chunksize=5):
            got.append(value)
    assert got == [0, 1]


def test_what_cannot_be_loaded_says_where(still_usable: ComputePool) -> None:
    with pytest.raises(muster.SerializationError, match="arguments .* on node .*no number"):
        still_usable.submit(str, LoadsNowhere()).result(SECONDS)
    with pytest.raises(muster.SerializationError, match="result on this machine: .*no number"):
        still_usable.submit(unloadable).result(SECONDS)


@pytest.fixture
def only_here() -> Iterator[types.ModuleType]:
    """A module that no other interpreter can import."""
    module = types.ModuleType("only_here")
    exec("def echo(x): return x\nclass Thing: pass", vars(module))
    sys.modules["only_here"] = module
    yield module
    del sys.modules["only_here"]


def test_a_module_that_the_node_lacks_is_named(
    still_usable: ComputePool, only_here: types.ModuleType
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: still_usable.submit(only_here.echo, 1).result(SECONDS),
        lambda: still_usable.submit(str, only_here.Thing()).result(SECONDS),
        lambda: list(still_usable.map(only_here.echo, range(3))),
        lambda: list(still_usable.map(str, [only_here.Thing()])),
    ]
    for call in calls:
        with pytest.raises(muster.SerializationError) as error:
            call()
        assert "on node" in str(error.value)
        assert "No module named 'only_here'" in str(error.value)
        for advice in ("install it there", "Image(pip=['only_here'])", "Image(includes="):
            assert advice in str(error.value)
        assert "register_pickle_by_value(only_here)" in str(error.value)


# --- Exceptions and inputs ---


class NotRebuilt(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


def raise_not_rebuilt() -> None:
    raise NotRebuilt(1, 2)


def test_an_exception_that_cannot_be_rebuilt_comes_as_text(still_usable: ComputePool) -> None:
    with pytest.raises(muster.TaskError, match="NotRebuilt: 1 and 2") as error:
        still_usable.submit(raise_not_rebuilt).result(SECONDS)
    assert type(error.value) is muster.TaskError
    assert "in raise_not_rebuilt" in error.value.remote_traceback


def inputs_that_break() -> Iterator[int]:
    yield 1
    yield 2
    raise KeyError("midway")


@pytest.mark.parametrize("chunksize", ["auto", 1, 2, 10])
def test_a_generator_that_raises_midway(still_usable: ComputePool, chunksize: Any) -> None:
    got = []
    with pytest.raises(KeyError, match="midway"):
        for value in still_usable.map(abs, inputs_that_break(), chunksize=chunksize):
            got.append(value)
    assert got == [1, 2]


def test_wrong_calls_are_told_at_once(still_usable: ComputePool) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        still_usable.map(abs, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes exactly one argument"):
        still_usable.submit(abs, 1, 2).result(SECONDS)
    with pytest.raises(TypeError, match="not callable"):
        still_usable.submit(3).result(SECONDS)  # type: ignore[arg-type]


def test_a_pool_outside_of_its_block() -> None:
    pool = ComputePool()
    calls: list[Callable[[], object]] = [
        lambda: pool.submit(abs, 1),
        lambda: pool.map(abs, [1]),
        lambda: pool.total_slots,
        pool.status,
        lambda: muster.compute(abs)(1) >> pool,
    ]
    for call in calls:
        with pytest.raises(muster.PoolNotActive, match="with ComputePool"):
            call()


# --- Sizes ---


def large(size: int) -> bytes:
    return bytes(size)


@pytest.fixture(scope="module")
def one_slot() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        yield pool


def test_results_and_arguments_beyond_a_message_arrive(one_slot: ComputePool) -> None:
    assert len(one_slot.submit(large, GIB + 1).result(300)) == GIB + 1
    assert list(one_slot.map(len, [b"12", bytes(GIB + 1), b""])) == [2, GIB + 1, 0]


# --- Workers ---


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Gives up soon."""
    endpoint = f"ipc://{tmp_path}/broker"
    command = [str(Path(programs_folder(), "muster-broker")), "--listen", endpoint]
    command += ["--no-worker-timeout", "2", "--unknown-function-timeout", "0.2"]
    process = subprocess.Popen(command)
    yield endpoint
    process.terminate()
    process.wait(SECONDS)


@contextlib.contextmanager
def worker(endpoint: str, *options: str) -> Iterator[None]:
    command = [str(Path(programs_folder(), "muster-worker")), "--connect", endpoint, "--slots", "1"]
    with subprocess.Popen([*command, *options], env=dict(os.environ)) as process:
        yield
        process.terminate()
        process.wait(SECONDS)


def test_a_pool_without_workers_warns_and_gives_up(
    broker: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster._pool.map.COMPLAIN_SECONDS", 1.0)
    monkeypatch.setattr("muster._pool.submit.COMPLAIN_SECONDS", 1.0)
    with ComputePool(broker=broker) as pool, caplog.at_level(logging.WARNING):
        with pytest.raises(muster.NoWorker, match="start one with: muster-worker --connect"):
            pool.submit(abs, 1).result(SECONDS)
        with pytest.raises(muster.NoWorker, match="start one with: muster-worker --connect"):
            list(pool.map(abs, [1, 2]))
        with pytest.raises(TimeoutError):
            pool.submit(abs, 1).result(0.001)
    said = [record.getMessage() for record in caplog.records if record.name == "muster"]
    assert [text.split(":")[0] for text in said] == ["a task waits", "map waits"]
    assert all("no worker is connected" in text for text in said)


def test_a_worker_of_another_python_is_told(broker: str) -> None:
    options = ("--python", sys.executable, "--python-version", "3.9")
    version = f"3.{sys.version_info.minor}"
    with ComputePool(broker=broker) as pool, worker(broker, *options):
        wait_until(lambda: pool.total_slots == 1)
        for call in (
            lambda: pool.submit(abs, 1).result(SECONDS),
            lambda: list(pool.map(abs, [1])),
        ):
            with pytest.raises(muster.VersionMismatch) as error:
                call()
            text = str(error.value)
            assert f"needs Python {version}" in text
            assert "offered: 3.9 on" in text
            assert f"install Python {version} and muster on node" in text


def test_a_pool_is_usable_once_the_right_python_is_there(broker: str) -> None:
    with ComputePool(broker=broker) as pool, worker(broker, "--python", "none"):
        wait_until(lambda: pool.total_slots == 1)
        with pytest.raises(muster.VersionMismatch, match="none has Python"):
            pool.submit(abs, 1).result(SECONDS)
        with worker(broker, "--python", sys.executable):
            wait_until(lambda: pool.total_slots == 2)
            assert pool.submit(abs, -1).result(SECONDS) == 1
