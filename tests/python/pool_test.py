"""The pool as an executor: real pools, real processes."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import run_script, wait_until

import muster
from muster import ComputePool, Image, Local, Worker


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


def test_submit_returns_a_real_future(pool: ComputePool) -> None:
    future = pool.submit(divmod, 17, 5)

    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == (3, 2)
    assert future.done()
    assert future.exception() is None


def test_keyword_arguments_and_closures(pool: ComputePool) -> None:
    offset = 7

    assert pool.submit(lambda x, *, y: x + y + offset, 1, y=2).result(30) == 10


def test_a_closure_that_changed_between_submits_is_sent_anew(pool: ComputePool) -> None:
    offset = 1
    seen = []

    def add(x: int) -> int:
        return x + offset + len(seen)

    first = pool.submit(add, 0)
    offset = 10
    second = pool.submit(add, 0)
    seen.append(None)
    third = pool.submit(add, 0)

    assert [first.result(30), second.result(30), third.result(30)] == [1, 10, 11]


def test_globals_by_value_are_those_of_the_submit() -> None:
    done = run_script(
        """
        import muster
        base = 1
        def add(x): return x + base
        with muster.ComputePool(worker=muster.Worker(concurrency=1)) as pool:
            first = pool.submit(add, 0)
            base = 5
            print(first.result(), pool.submit(add, 0).result())
        """
    )
    assert done.stdout.split() == ["1", "5"], done.stderr


def test_submits_of_one_function_share_a_job(pool: ComputePool) -> None:
    before = pool.status()["counters"]
    futures = [pool.submit(abs, -i) for i in range(500)]

    assert [future.result(30) for future in futures] == list(range(500))
    jobs = [job for job in pool.status()["jobs"] if job["function"] == "abs"]
    assert len(jobs) <= 1, (before, jobs)


def test_exceptions_come_back_as_themselves_with_the_remote_traceback(pool: ComputePool) -> None:
    future = pool.submit(int, "seven")

    with pytest.raises(ValueError, match="seven") as caught:
        future.result(30)
    assert "ValueError" in str(caught.value.__cause__)
    assert isinstance(future.exception(), ValueError)


def test_what_cannot_be_pickled_is_said_at_once(pool: ComputePool) -> None:
    with pytest.raises(muster.SerializationError, match="lock"):
        pool.submit(print, threading.Lock())


def test_cancel_ends_a_running_task(pool: ComputePool, tmp_path: Path) -> None:
    started = tmp_path / "started"

    def forever(path: str) -> None:
        Path(path).touch()
        time.sleep(600)

    future = pool.submit(forever, str(started))
    wait_until(started.exists)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)
    both = [pool.submit(os.getpid) for _ in range(4)]  # the slot is free again
    assert all(other.result(30) for other in both)
    assert not both[0].cancel()
    assert future.cancel()


def test_callbacks_wait_and_as_completed(pool: ComputePool) -> None:
    called = threading.Event()
    futures = [pool.submit(pow, 2, i) for i in range(10)]
    futures[0].add_done_callback(lambda _future: called.set())

    done, missing = concurrent.futures.wait(futures, 30)
    assert len(done) == 10 and not missing
    assert called.wait(30)
    assert {f.result() for f in muster.as_completed(futures)} == {2**i for i in range(10)}


def test_timeout_and_retries(tmp_path: Path) -> None:
    marks = str(tmp_path)

    def fails_twice() -> int:
        count = len(os.listdir(marks))
        Path(marks, str(count)).touch()
        if count < 2:
            raise RuntimeError("not yet")
        return count

    with ComputePool(worker=Worker(concurrency=1), timeout=3, retries=2) as pool:
        assert pool.submit(fails_twice).result(30) == 2
        with pytest.raises(muster.TaskTimeout) as caught:
            pool.submit(time.sleep, 600).result(60)
        assert isinstance(caught.value, TimeoutError)


def test_a_crash_is_that_task_s_alone(pool: ComputePool) -> None:
    crashing = pool.submit(os._exit, 3)
    other = pool.submit(abs, -1)

    with pytest.raises(muster.TaskCrashed):
        crashing.result(60)
    assert other.result(30) == 1


def test_threads_share_their_process() -> None:
    with ComputePool(worker=Worker(concurrency=8, executor="thread")) as pool:
        assert pool.total_slots == 8
        assert len(set(pool.map(lambda _: os.getpid(), range(50), chunksize=1))) == 1


def test_nodes_slots_and_status() -> None:
    with ComputePool(nodes=2, worker=Worker(concurrency=3), name="two nodes") as pool:
        assert pool.total_slots == 6
        assert pool.submit(abs, -1).result(30) == 1
        nodes = pool.nodes()
        assert [node.slots for node in nodes] == [3, 3]
        assert {node.executor for node in nodes} == {"process"}
        assert pool.status()["total_slots"] == 6
        assert pool.broker.startswith("ipc://")
        assert "6 slots" in repr(pool)
    assert "not active" in repr(pool)


def test_a_second_program_attaches_by_the_endpoint(pool: ComputePool) -> None:
    with ComputePool(broker=pool.broker) as other:
        assert other.total_slots == pool.total_slots
        assert other.submit(abs, -3).result(30) == 3
    assert pool.submit(abs, -4).result(30) == 4


def test_two_pools_and_many_threads(pool: ComputePool) -> None:
    sums: list[int] = []

    def work(pool: ComputePool, base: int) -> None:
        sums.append(sum(f.result(60) for f in [pool.submit(abs, base + i) for i in range(200)]))

    with ComputePool(worker=Worker(concurrency=1)) as second:
        threads = [
            threading.Thread(target=work, args=(which, base))
            for base, which in enumerate([pool, second] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(sums) == [sum(range(base, base + 200)) for base in range(8)]


def test_a_pool_must_be_started() -> None:
    pool = ComputePool()
    with pytest.raises(muster.PoolNotActive, match="with ComputePool"):
        pool.submit(abs, 1)
    with pytest.raises(muster.PoolNotActive):
        pool.map(abs, [1])
    with pytest.raises(muster.PoolNotActive):
        _ = pool.total_slots
    pool.start()
    assert pool.submit(abs, -1).result(30) == 1
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(muster.PoolNotActive, match="shut down"):
        pool.submit(abs, 1)
    with pytest.raises(muster.PoolNotActive):
        pool.start()


def test_the_end_of_the_block_waits_and_an_exception_cancels() -> None:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        slow = pool.submit(time.sleep, 0.2)
    assert slow.done() and not slow.cancelled()

    with pytest.raises(KeyError), ComputePool(worker=Worker(concurrency=1)) as pool:
        endless = pool.submit(time.sleep, 600)
        raise KeyError("stop")
    assert endless.cancelled()


def test_shutdown_without_waiting() -> None:
    pool = ComputePool(worker=Worker(concurrency=1)).start()
    future = pool.submit(time.sleep, 0.2)
    pool.shutdown(wait=False)
    assert future.result(30) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"accelerator": "A100"}, "accelerator"),
        ({"machine": "t4g.micro"}, "machine"),
        ({"allocation": "always-spot"}, "allocation"),
        ({"region": "eu"}, "region"),
        ({"ttl": 600}, "ttl"),
        ({"memory": "999TB"}, "memory"),
        ({"vcpus": 100_000}, "vcpus"),
        ({"image": Image(pip=["no-such-package-anywhere"])}, "no-such-package-anywhere"),
        ({"image": Image(pip=["pytest>=999"])}, "pytest>=999"),
        ({"image": Image(python="3.4")}, "python"),
        ({"image": Image(apt=["git"])}, "apt"),
        ({"broker": "ipc:///tmp/x", "nodes": 2}, "nodes"),
        ({"broker": "ipc:///tmp/x", "provider": Local()}, "provider"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    arguments: dict[str, object], named: str
) -> None:
    with pytest.raises(muster.Unsupported, match=named):
        ComputePool(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Worker(concurrency=0),
        lambda: Worker(concurrency=True),
        lambda: Worker(concurrency=1.5),  # type: ignore[arg-type]
        lambda: Worker(executor="x"),
        lambda: ComputePool(nodes=0),
        lambda: ComputePool(nodes=True),
        lambda: ComputePool(timeout=-1),
        lambda: ComputePool(timeout="3"),  # type: ignore[arg-type]
        lambda: ComputePool(retries=-1),
        lambda: ComputePool(memory="much"),
        lambda: ComputePool(allocation="cheap"),
        lambda: ComputePool(broker="localhost"),
        lambda: Image(pip="numpy"),  # type: ignore[arg-type]
        lambda: Image(python="three"),
        lambda: Image(env={"A": 1}),  # type: ignore[dict-item]
    ],
)
def test_wrong_values_are_refused(make: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        make()  # type: ignore[operator]


def test_what_this_machine_has_is_accepted() -> None:
    image = Image(pip=["pytest>=1", "cloudpickle"], env={"MUSTER_TEST": "ä b"})
    pool = ComputePool(Local(), vcpus=1, memory="1MB", allocation="spot-if-available", image=image)
    with pool:
        assert pool.total_slots == 1
        assert pool.submit(os.getenv, "MUSTER_TEST").result(30) == "ä b"


def test_plugins_shape_the_image_and_surround_the_client() -> None:
    events = []

    class Plugin:
        def transform_image(self, image: Image) -> Image:
            return Image(env={**image.env, "PLUGGED": "yes"})

        def around_client(self, pool: ComputePool) -> object:
            import contextlib

            @contextlib.contextmanager
            def around() -> Iterator[None]:
                events.append(pool.submit(os.getenv, "PLUGGED").result(30))
                yield
                events.append("end")

            return around()

    with ComputePool(worker=Worker(concurrency=1), plugins=[Plugin()]):
        events.append("inside")
    assert events == ["yes", "inside", "end"]


def test_the_import_is_fast_and_lazy() -> None:
    done = run_script(
        "import sys, muster; print([m for m in sys.modules if m.startswith('muster.')]);"
        "print(muster.__version__); print(muster.compute.__name__, muster.ComputePool.__name__)"
    )
    assert done.stdout.splitlines()[0] == "[]", done.stderr
    assert done.stdout.splitlines()[2] == "compute ComputePool"
