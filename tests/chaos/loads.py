"""The producers of a chaos run: processes that submit known tasks and check every result."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from chaos.marks import SHELL
from chaos.subject import SYSTEM_PYTHON, TREE, Subject

_PROGRAM = Path(__file__).with_name("load_program.py")

# Tasks of each load for every second of faults, on nine slots.
_RATES = {
    "map": 90,
    "chunked": 400,
    "long": 0.4,
    "futures": 40,
    "joblib": 40,
    "generator": 40,
    "big": 2,
    "blobs": 6,
    "run": 30,
    "native": 300,
    "doomed": 1000,
}


@dataclass
class Load:
    """One producer. `marked`: its tasks write down that they ran, and are counted. One that is not
    `lasting` is killed on the way: nothing of it may stay."""

    name: str
    count: int
    seed: int
    marked: bool = True
    lasting: bool = True
    process: subprocess.Popen[bytes] | None = None

    def start(self, subject: Subject) -> None:
        result = subject.logs / f"result-{self.name}"
        if self.name == "run":
            self._start_run(subject, result)
        elif self.name == "native":
            argv = [str(TREE / "bin" / "chaos_load"), str(self.count), str(result)]
            self.process = subject.start("load-native", argv)
        else:
            marks = subject.marks_file(self.name)
            argv = [subject.python, str(_PROGRAM), self.name, str(self.seed), str(self.count)]
            self.process = subject.start(f"load-{self.name}", [*argv, marks, str(result)])
        subject.producers[self.name] = self.process

    def _start_run(self, subject: Subject, result: Path) -> None:
        command = SHELL.format(marks=subject.marks_file("run"))
        command += "mark {} begin; sleep 0.0$(({} % 5)); mark {} end; echo r{}"
        with result.open("wb") as out:
            argv = ["muster", "run", "--retries", "30", "--shell", command]
            self.process = subject.start("load-run", argv, stdin=subprocess.PIPE, stdout=out)
        threading.Thread(target=self._feed, args=(self.process,), daemon=True).start()

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"".join(b"%d\n" % number for number in range(self.count)))
            process.stdin.close()

    def problem(self, logs: Path, seconds: float) -> str:
        """Waits for its end, `seconds` at most; what is wrong with its results, empty: nothing."""
        assert self.process is not None
        if not self.lasting:
            self.process.kill()
            self.process.wait()
            return ""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            _show_stacks(self.process, logs / f"stacks-{self.name}.log")
            return f"{self.name}: not done {seconds:.0f} s after the last fault: it hangs"
        result = logs / f"result-{self.name}"
        if self.name == "run":
            text = result.read_bytes()
            if text == b"".join(b"r%d\n" % number for number in range(self.count)):
                return "" if status == 0 else f"run: all outputs, but status {status}"
            lines = text.count(b"\n")
            return f"run: status {status}, {lines} lines of {self.count}, or in another order"
        try:
            error = json.loads(result.read_text())["error"]
        except (OSError, ValueError):
            error = f"no report, status {status}"
        return f"{self.name}: {error}" if error else ""


def draw_loads(rnd: random.Random, seconds: float, subject: Subject, *, nodes: bool) -> list[Load]:
    """The loads of one seed: all that can run, with as many tasks as the faults leave time for."""
    scale = 0.6 if nodes else 1.0
    loads = []
    for name, rate in _RATES.items():
        seed = rnd.randrange(1 << 30)
        if name == "chunked" and subject.kills_runners:
            continue  # it has no retries, and a killed runner is its task's crash
        if name == "generator" and subject.python == SYSTEM_PYTHON:
            continue  # its joblib has none
        if nodes and name in ("native", "doomed"):
            continue  # nodes have no plug-in, and keep what a dead producer had for a minute
        count = max(2, round(rate * seconds * scale))
        marked = name not in ("native", "doomed")
        loads.append(Load(name, count, seed, marked, lasting=name != "doomed"))
    return loads


def _show_stacks(process: subprocess.Popen[bytes], file: Path) -> None:
    """Of something that hangs, as far as a debugger is here; Python shows its own in its log."""
    argv = ["gdb", "-p", str(process.pid), "-batch", "-ex", "thread apply all bt 12"]
    with file.open("wb") as out, contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=out, timeout=60)
    process.send_signal(signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
