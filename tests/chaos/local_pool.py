"""A broker and three workers on this machine, in a sandbox of their own (sandbox.py)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

from chaos.marks import now
from chaos.sandbox import ROOT
from chaos.schedule import Fault, Kind
from chaos.subject import TREE, Subject, children, signal_process, wait_for

# With the newest joblib, which has generators, if scripts/setup has made it.
_NEWEST = ROOT / "build" / "venv" / "newest" / "bin" / "python"
_SESSION_GRACE = 20  # seconds that a producer may be away: more than the longest stop
_WORKERS = 3
_SLOTS = 3
_SHORT = (0.5, 2.0)
_DOWN = (0.0, 0.2, 1.0, 3.0)


class LocalPool(Subject):
    """Owner: run.py."""

    slots = _WORKERS * _SLOTS

    def __init__(self, rnd: random.Random, logs: Path) -> None:
        super().__init__(logs)
        self._folder = Path("/tmp/chaos" if not TREE.is_relative_to("/tmp") else logs / "work")
        for name, mode in (("home", 0o755), ("run", 0o700), ("marks", 0o755)):
            (self._folder / name).mkdir(mode=mode, parents=True)
        if _NEWEST.exists():
            self.python = str(_NEWEST)
        self._interval = rnd.choice((1, 1, 2))
        self.heartbeat_patience = 5.0 * self._interval
        self._threads = rnd.random() < 0.3  # one worker's slots are threads of one process
        self.kills_runners = rnd.random() < 0.5
        self._broker = self._start_broker()
        self._workers = [self._start_worker(number) for number in range(_WORKERS)]

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MUSTER_", "SSH_", "XDG_"))
        }
        return kept | {
            "HOME": str(self._folder / "home"),
            "XDG_RUNTIME_DIR": str(self._folder / "run"),
            "MUSTER_BROKER": self._endpoint,
            "PATH": f"{TREE / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONPATH": str(TREE / "python"),
            "PYTHONFAULTHANDLER": "1",
        }

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def _endpoint(self) -> str:
        return f"ipc://{self._folder}/run/broker"

    def marks_file(self, load: str) -> str:
        return str(self._folder / "marks" / load)

    def marks_files(self, load: str) -> list[Path]:
        return [self._folder / "marks" / load]

    def kinds(self) -> list[Kind]:
        workers = [f"worker {number}" for number in range(_WORKERS)]
        runners = [f"runner {number}" for number in range(_WORKERS)]
        producers = [f"producer {number}" for number in range(4)]
        kinds = [
            Kind("kill broker", 4, ["broker"], _DOWN),
            Kind("stop broker", 3, ["broker"], _SHORT, long=True),
            Kind("kill worker", 3, workers, (0.0, 1.0), loses=True),
            Kind("drain worker", 1, workers, (0.0, 1.0)),
            Kind("stop worker", 3, workers, _SHORT, long=True),
            Kind("stop runner", 2, runners, _SHORT),
            Kind("stop producer", 2, producers, _SHORT, long=True),
        ]
        if self.kills_runners:
            kinds.append(Kind("kill runner", 2, runners))
        return kinds

    # --- Processes

    def _start_broker(self) -> subprocess.Popen[bytes]:
        words = ["--listen", self._endpoint, "--heartbeat-interval", str(self._interval)]
        words += ["--session-grace", str(_SESSION_GRACE)]
        return self.start("broker", [str(TREE / "bin" / "muster-broker"), *words])

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        words = ["--connect", self._endpoint, "--slots", str(_SLOTS), "--node", f"w{number}"]
        words += ["--executor", "thread" if self._threads and number == 0 else "process"]
        words += ["--python", self.python, "--plugin", str(TREE / "plugins" / "test_tasks.so")]
        return self.start(f"worker{number}", [str(TREE / "bin" / "muster-worker"), *words])

    # --- Faults, by their names

    def kill_broker(self, fault: Fault) -> bool:
        effect = self.note("kill", "broker")
        self._broker.kill()
        self._broker.wait()
        effect.begin = now()  # what the dead one had acknowledged, it had before
        self.last(fault.seconds)
        self._broker = self._start_broker()
        effect.end = now()
        return True

    def stop_broker(self, fault: Fault) -> bool:
        return self.pause(self._broker.pid, "broker", fault.seconds)

    def kill_worker(self, fault: Fault) -> bool:
        return self._replace_worker(fault, "kill", signal.SIGKILL)

    def drain_worker(self, fault: Fault) -> bool:
        return self._replace_worker(fault, "drain", signal.SIGTERM)

    def _replace_worker(self, fault: Fault, kind: str, number: int) -> bool:
        place = int(fault.target.split()[1])
        old = self._workers[place]
        effect = self.note(kind, "worker", process=old.pid)
        old.send_signal(number)
        old.wait()
        effect.end = now()
        self.last(fault.seconds)
        self._workers[place] = self._start_worker(place)
        return True

    def stop_worker(self, fault: Fault) -> bool:
        process = self._workers[int(fault.target.split()[1])].pid
        return self.pause(process, "worker", fault.seconds)

    def _runner(self, fault: Fault) -> int:
        """One that lives; 0: there is none."""
        found = children(self._workers[int(fault.target.split()[1])].pid)
        return found[int(fault.at * 100) % len(found)] if found else 0

    def kill_runner(self, fault: Fault) -> bool:
        process = self._runner(fault)
        if not process:
            return False
        effect = self.note("kill", "runner", process=process)
        killed = signal_process(process, signal.SIGKILL)
        effect.end = now()
        return killed

    def stop_runner(self, fault: Fault) -> bool:
        process = self._runner(fault)
        return bool(process) and self.pause(process, "runner", fault.seconds)

    # --- The end

    def close(self) -> list[str]:
        problems: list[str] = []
        named = [(f"worker {number}", each) for number, each in enumerate(self._workers)]
        for _, each in named:
            each.terminate()
        problems += [_end(name, each, 30) for name, each in named]
        self._broker.terminate()
        problems.append(_end("the broker", self._broker, 20))
        return [problem for problem in problems if problem] + self._leftovers()

    def _leftovers(self) -> list[str]:
        """What is still there a while after the end."""
        left: dict[str, list[str]] = {}

        def nothing_left() -> bool:
            home = [each for each in (self._folder / "home").rglob("*") if each.name != ".cache"]
            left["processes"] = other_processes()
            left["in /dev/shm"] = [str(each) for each in Path("/dev/shm").rglob("*")]
            left["beside the socket"] = [str(each) for each in (self._folder / "run").rglob("*")]
            left["in the home folder"] = [str(each) for each in home]
            if self._folder.is_relative_to("/tmp"):
                others = [each for each in Path("/tmp").iterdir() if each != self._folder]
                left["in /tmp"] = [str(each) for each in others]
            return not any(left.values())

        if wait_for(nothing_left, 10):
            return []
        return [f"left {place}: {found[:5]}" for place, found in left.items() if found]


def _end(name: str, process: subprocess.Popen[bytes], seconds: float) -> str:
    """What is wrong with how it ended after SIGTERM; empty: nothing."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"{name} does not end on SIGTERM in {seconds:g} s"
    return f"{name} ended with status {status}" if status else ""


def other_processes() -> list[str]:
    """Command lines of the sandbox, less process 1 and this one; zombies are not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (1, os.getpid()):
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if words and state != "Z":
            found.append(f"{entry.name} {words[:100]}")
    return found
