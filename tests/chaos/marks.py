"""What tasks write down when they run: a line at the beginning and one at the end of each
execution, so that the audit can count executions and say what explains a second one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def now() -> float:
    """Seconds since the boot: /proc/uptime of every namespace shows the same."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# The same in a shell, for `muster run`; {marks} is the file.
SHELL = (
    "mark() {{ read -r up rest < /proc/uptime; read -r host < /proc/sys/kernel/hostname; "
    'echo "$1 $2 $up $host $PPID $$" >> {marks}; }}; '
)


@dataclass
class Execution:
    """One run of a task's code, on one machine, in one process."""

    begin: float
    host: str
    worker: int  # process numbers as that machine sees them
    runner: int
    end: float = float("inf")


def read_marks(files: Iterable[Path]) -> dict[int, list[Execution]]:
    """All executions of each task, by the time of their beginnings."""
    executions: dict[int, list[Execution]] = defaultdict(list)
    for file in files:
        running: dict[tuple[int, int], Execution] = {}
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            number, event, moment, host, worker, runner = line.split()
            key = int(number), int(runner)
            if event == "begin":
                running[key] = Execution(float(moment), host, int(worker), int(runner))
                executions[int(number)].append(running[key])
            elif key in running:
                running.pop(key).end = float(moment)
    for each in executions.values():
        each.sort(key=lambda execution: execution.begin)
    return executions
