"""What happens to a call when its pool or its client changes under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed
from work import wait_and_where, wait_for_file, wait_until

import muster
from muster import ComputePool

PROGRAMS = Path(muster.__file__).parent.parent.parent / "bin"
in_context = getattr(joblib, "parallel_config", joblib.parallel_backend)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def worker(broker: str, slots: int) -> tuple[str, ...]:
    program = str(PROGRAMS / "muster-worker")
    return (program, "--connect", broker, "--slots", str(slots), "--python", sys.executable)


def test_nodes_that_come_during_a_call_get_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    broker = f"ipc://{tmp_path}/broker"
    with ExitStack() as stack:
        stack.enter_context(running(str(PROGRAMS / "muster-broker"), "--listen", broker))
        stack.enter_context(running(*worker(broker, 1)))
        stack.enter_context(in_context("muster", broker=broker, n_jobs=-1))

        def tasks() -> Iterator[Any]:
            for i in range(60):
                if i == 1:
                    stack.enter_context(running(*worker(broker, 8)))
                yield delayed(wait_and_where)(0.2)

        processes = Parallel(batch_size=1)(tasks())
    # Four were on their way with one slot; that many stayed on their way if nobody followed.
    assert len(set(processes)) > 5


def test_what_a_generator_raises_for_nodes_that_come_ends_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    broker = f"ipc://{tmp_path}/broker"
    go = tmp_path / "go"
    with ExitStack() as stack:
        stack.enter_context(running(str(PROGRAMS / "muster-broker"), "--listen", broker))
        stack.enter_context(running(*worker(broker, 1)))
        stack.enter_context(in_context("muster", broker=broker, n_jobs=-1))

        def tasks() -> Iterator[Any]:
            for i in range(4):
                if i == 3:
                    stack.enter_context(running(*worker(broker, 8)))
                yield delayed(wait_for_file)(str(go))
            go.touch()
            raise LookupError("the generator")

        with pytest.raises(LookupError, match="the generator"):
            Parallel(batch_size=1)(tasks())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_is_interrupted_or_killed_stops_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    code = (
        "import muster.joblib, work; from joblib import Parallel, delayed\n"
        f"Parallel(n_jobs=2, backend='muster')(delayed(work.mark)({str(tmp_path)!r}, str(i), 60)"
        " for i in range(9))"
    )
    broker = f"ipc://{tmp_path}/broker"
    monkeypatch.setenv("MUSTER_BROKER", broker)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    serve = (str(PROGRAMS / "muster-broker"), "--listen", broker, "--session-grace", "1")
    with running(*serve), running(*worker(broker, 2)):
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as client:
            wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2)
            client.send_signal(number)
            _, said = client.communicate(timeout=30)
        assert (b"KeyboardInterrupt" in said) == (number == signal.SIGINT)
        with ComputePool(broker=broker) as pool:
            wait_until(lambda: pool.nodes()[0].busy == 0)
            assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert not list(tmp_path.glob("*.ended"))
