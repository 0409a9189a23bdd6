"""Where programs with pools run: scripts, -c, a REPL, notebooks, threads, asyncio, forks, tasks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pty
import queue
import re
import select
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_support import run_script

import muster
from muster import ComputePool, Worker

SECONDS = 60

PROGRAM = textwrap.dedent(
    """
    import collections, dataclasses, enum, functools
    import muster

    LIMIT = 10

    class Base:
        def value(self): return 1

    class Derived(Base):
        def __init__(self, x): self.x = x
        def value(self): return super().value() + self.x

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: int = 2

    Pair = collections.namedtuple("Pair", "left right")

    class Colour(enum.Enum):
        RED = 1

    class OwnError(Exception):
        pass

    def helper(x): return x + LIMIT
    def outer(x): return helper(x)
    def make_adder(n):
        def add(x): return x + n
        return add
    def swap(point): return Point(point.y, point.x)
    def pair(x): return Pair(x, Colour.RED)
    def refuse(x): raise OwnError(x)
    def recurse(n): return 1 if n == 0 else n * recurse(n - 1)

    def run():
        with muster.ComputePool(worker=muster.Worker(concurrency=2)) as pool:
            assert pool.submit(outer, 1).result() == 11
            assert pool.submit(Derived.value, Derived(4)).result() == 5
            assert pool.submit(Derived(4).value).result() == 5
            assert pool.submit(swap, Point(1)).result() == Point(2, 1)
            assert type(pool.submit(swap, Point(1)).result()) is Point
            assert pool.submit(pair, 3).result() == Pair(3, Colour.RED)
            assert pool.submit(pair, 3).result().right is Colour.RED
            assert pool.submit(make_adder(5), 1).result() == 6
            assert pool.submit(functools.partial(outer), 1).result() == 11
            assert pool.submit(recurse, 5).result() == 120
            assert list(pool.map(lambda x: x * LIMIT, range(4))) == [0, 10, 20, 30]
            assert list(pool.map(swap, [Point(x) for x in range(3)]))[2] == Point(2, 2)
            try:
                pool.submit(refuse, 7).result()
            except OwnError as error:
                assert error.args == (7,)
            print("all is well")

    """
)


def test_a_script(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM + "import beside\nrun()\n" + "assert beside.double(2) == 4\n")
    (tmp_path / "beside.py").write_text("def double(x): return 2 * x\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=elsewhere,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_a_module_beside_the_script_is_found_by_tasks(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(x): return 2 * x\n")
    script = tmp_path / "program.py"
    script.write_text(
        "import beside, muster\n"
        "with muster.ComputePool(worker=muster.Worker(concurrency=1)) as pool:\n"
        "    print(pool.submit(beside.double, 4).result())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd="/",
        check=False,
    )
    assert done.stdout == "8\n", done.stderr


def test_python_c() -> None:
    done = run_script(PROGRAM + "run()\n")
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-"],
        input=PROGRAM + "run()\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


class Terminal:
    """`python -i` in a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-q", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "dumb", "PYTHONSTARTUP": ""},
        )
        os.close(slave)
        self.text = ""
        self.count = 0

    def expect(self, pattern: str) -> str:
        """What came up to and with `pattern`."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{pattern!r} did not come; the terminal shows:\n{self.text}"
            self.text += os.read(self.master, 65536).decode()
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def say(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    def ask(self, line: str) -> str:
        self.say(line)
        self.count += 1
        self.say(f"print('answer', {self.count})")
        return self.expect(f"answer {self.count}\r")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    terminal.expect(">>> ")
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
    terminal.process.wait(SECONDS)
    os.close(terminal.master)


def test_a_repl(terminal: Terminal) -> None:
    terminal.ask("import muster, time")
    terminal.ask("pool = muster.ComputePool(worker=muster.Worker(concurrency=1)).start()")
    terminal.say("def double(x):")
    terminal.say("    return 2 * x")
    terminal.ask("")
    assert "42" in terminal.ask("pool.submit(double, 21).result()")
    terminal.say("def double(x):")
    terminal.say("    return 2 * x + 1")
    terminal.ask("")
    assert "43" in terminal.ask("pool.submit(double, 21).result()")
    terminal.say("pool.submit(print, 'said by a', 'task').result()")
    terminal.expect(r"\] said by a task")
    assert "ZeroDivisionError" in terminal.ask("pool.submit(divmod, 1, 0).result()")
    terminal.say("list(pool.map(time.sleep, [0.001] * 10000000))")
    terminal.expect(r"10000000\)")
    os.write(terminal.master, b"\x03")  # as the terminal would at Ctrl-C
    terminal.expect("KeyboardInterrupt")
    assert "[0, 1, 2]" in terminal.ask("list(pool.map(abs, range(3)))")
    terminal.say("exit()")
    assert terminal.process.wait(SECONDS) == 0


def test_a_notebook() -> None:
    manager_module = pytest.importorskip("jupyter_client.manager")
    manager, client = manager_module.start_new_kernel(kernel_name="python3", startup_timeout=120)

    def run(code: str) -> tuple[str, str]:
        """What the cell showed, and its error."""
        text = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                text.append(content["text"])
            if message["msg_type"] == "execute_result":
                text.append(content["data"]["text/plain"])

        reply = client.execute_interactive(
            textwrap.dedent(code), timeout=120, output_hook=take, allow_stdin=False
        )
        return "".join(text), reply["content"].get("ename", "")

    try:
        assert run("import muster, time") == ("", "")
        start = "pool = muster.ComputePool(worker=muster.Worker(concurrency=2)).start()"
        assert run(start) == ("", "")
        run("factor = 3\ndef times(x):\n    print('times', x)\n    return factor * x")
        assert run("list(pool.map(times, range(3)))")[0].endswith("[0, 3, 6]")
        # Lines follow the results, at the latest with what comes next in the session.
        shown = run("pool.submit(times, 14).result(); time.sleep(1)")[0]
        assert "] times 14\n" in shown, shown
        run("factor = 5")
        assert run("pool.submit(times, 2).result()")[0].endswith("10")
        assert run("pool.submit(divmod, 1, 0).result()")[1] == "ZeroDivisionError"
        assert "20/20" in run("_ = list(pool.map(abs, range(20), progress=True))")[0]
        assert run("pool.shutdown()") == ("", "")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request: pytest.FixtureRequest) -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2, executor=request.param)) as pool:
        yield pool


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Raises what the threads raised."""
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.put(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
        assert not thread.is_alive()
    if not failures.empty():
        raise failures.get()


def test_threads_of_one_client(pool: ComputePool) -> None:
    def work(number: int) -> None:
        def add(x: int) -> int:
            return x + number

        futures = [pool.submit(add, x) for x in range(200)]
        assert list(pool.map(add, range(500))) == [x + number for x in range(500)]
        assert [future.result(SECONDS) for future in futures] == [x + number for x in range(200)]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, number, 0).result(SECONDS)

    in_threads(8, work)


def test_two_pools_at_once(pool: ComputePool) -> None:
    with (
        ComputePool(worker=Worker(concurrency=1)) as second,
        ComputePool(broker=pool.broker) as attached,
    ):
        results = zip(*(each.map(abs, range(300)) for each in (pool, second, attached)))
        assert list(results) == [(x, x, x) for x in range(300)]
        assert second.total_slots == 1
        assert attached.total_slots == 2
        mine = second.submit(os.getppid).result(SECONDS)
        assert mine != pool.submit(os.getppid).result(SECONDS)
    assert pool.submit(abs, -1).result(SECONDS) == 1


def test_asyncio(pool: ComputePool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        values = await asyncio.gather(
            *(loop.run_in_executor(pool, pow, x, 2) for x in range(50)),
            *(asyncio.wrap_future(pool.submit(pow, x, 3)) for x in range(50)),
        )
        assert values == [x**2 for x in range(50)] + [x**3 for x in range(50)]
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(pool, divmod, 1, 0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(pool.submit(time.sleep, 1)), 0.05)
        assert await loop.run_in_executor(pool, abs, -1) == 1

    asyncio.run(main())


def square_in_child(x: int) -> int:
    return x * x


def pool_in_child(answers: Any) -> None:
    with ComputePool(worker=Worker(concurrency=1)) as own:
        answers.put(own.submit(square_in_child, 6).result(SECONDS))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_beside_a_pool(pool: ComputePool, method: str) -> None:
    context = multiprocessing.get_context(method)
    futures = [pool.submit(abs, -x) for x in range(50)]
    with context.Pool(2) as processes:
        assert processes.map(square_in_child, range(5)) == [0, 1, 4, 9, 16]
    answers = context.Queue()
    child = context.Process(target=pool_in_child, args=(answers,))
    child.start()
    assert answers.get(timeout=2 * SECONDS) == 36
    child.join(SECONDS)
    assert child.exitcode == 0
    assert [future.result(SECONDS) for future in futures] == list(range(50))


def pool_in_task(x: int) -> list[int]:
    with ComputePool(worker=Worker(concurrency=1)) as inner:
        return list(inner.map(square_in_child, range(x)))


def pool_in_function(endpoint: str, x: int) -> int:
    with ComputePool(broker=endpoint) as attached:
        return int(attached.submit(square_in_child, x).result(SECONDS))


def test_a_pool_inside_a_task(pool: ComputePool) -> None:
    assert pool.submit(pool_in_task, 4).result(2 * SECONDS) == [0, 1, 4, 9]
    assert pool.submit(pool_in_function, pool.broker, 5).result(2 * SECONDS) == 25


def test_the_pool_itself_is_no_argument(pool: ComputePool) -> None:
    with pytest.raises(muster.SerializationError, match=r"args\[0\]"):
        pool.submit(str, pool)
