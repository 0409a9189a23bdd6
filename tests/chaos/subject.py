"""What chaos happens to: the interface of LocalPool and NodePool, and what both need.

Owner: run.py. Threads: inflict() on one thread per fault, for different targets; the rest on one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chaos.marks import now
from chaos.sandbox import ROOT
from chaos.schedule import Effect, Fault, Kind

TREE = ROOT / "build" / "release"
SYSTEM_PYTHON = "/usr/bin/python3"


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether `condition()` came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def signal_process(process: int, number: int) -> bool:
    """False: it is gone."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def children(process: int) -> list[int]:
    """Of every thread of it."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


class Subject(ABC):
    """A pool, its faults, and what is left of it at the end."""

    heartbeat_patience = 10.0  # seconds of silence that its heartbeats bear
    slots = 0
    python = SYSTEM_PYTHON  # of producers and workers
    kills_runners = False  # a killed runner is its task's crash: tasks need retries

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.effects: list[Effect] = []
        self.producers: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = threading.Event()  # no fault begins or lasts any more
        self._lock = threading.Lock()
        self._busy: set[str] = set()  # targets of faults under way

    # --- For run.py

    @abstractmethod
    def kinds(self) -> list[Kind]:
        """The faults that it knows."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Of its producers."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where its producers run."""

    @abstractmethod
    def marks_file(self, load: str) -> str:
        """Where the tasks of a load write down that they ran."""

    @abstractmethod
    def marks_files(self, load: str) -> list[Path]:
        """The same, as this machine sees them."""

    @abstractmethod
    def close(self) -> list[str]:
        """Ends it. What it should not have left behind, or how it ended wrongly."""

    def inflict(self, fault: Fault) -> bool:
        """Does it, waits, mends it. False: there was nothing that it could happen to."""
        action: Callable[[Fault], bool] = getattr(self, fault.kind.replace(" ", "_"))
        with self._lock:
            if fault.target in self._busy:  # an earlier fault takes longer than it was to
                return False
            self._busy.add(fault.target)
        try:
            return action(fault)
        finally:
            with self._lock:
                self._busy.remove(fault.target)

    def start(self, name: str, argv: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        """A process of its own session, with its output in a log."""
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                argv,
                env=self.environment,
                cwd=self.folder,
                stdin=streams.get("stdin", subprocess.DEVNULL),
                stdout=streams.get("stdout", log),
                stderr=log,
                start_new_session=True,
            )

    def status(self) -> dict[str, Any] | None:
        """What `muster status` says; None: there is no answer."""
        try:
            done = subprocess.run(
                ["muster", "status", "--json"],
                check=False,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=20,
            )
            told: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None
        return told

    def await_slots(self, seconds: float) -> bool:
        """Whether all of them are connected in time."""
        return wait_for(
            lambda: (told := self.status()) and told["total_slots"] >= self.slots, seconds
        )

    # --- For the faults

    def note(self, kind: str, part: str, **fields: Any) -> Effect:
        effect = Effect(kind, part, now(), **fields)
        with self._lock:
            self.effects.append(effect)
        return effect

    def last(self, seconds: float) -> None:
        """As long as a fault lasts."""
        self.stopping.wait(seconds)

    def pause(self, process: int, part: str, seconds: float, **fields: Any) -> bool:
        """SIGSTOP, and SIGCONT later."""
        if not signal_process(process, signal.SIGSTOP):
            return False
        effect = self.note("stop", part, process=process, **fields)
        self.last(seconds)
        signal_process(process, signal.SIGCONT)
        effect.end = now()
        return True

    def kill_producer(self, fault: Fault) -> bool:
        self.producers[fault.target].kill()
        return True

    def stop_producer(self, fault: Fault) -> bool:
        running = [
            each
            for name, each in self.producers.items()
            if each.poll() is None and name != "doomed"
        ]
        if not running:
            return False
        chosen = running[int(fault.target.split()[1]) % len(running)]
        return self.pause(chosen.pid, "producer", fault.seconds)
