"""What a run must leave: executions that the faults explain, nothing held, no signs of bugs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.marks import Execution
from chaos.schedule import Effect

# How long after its start a broker waits for workers to report what they run.
_RESUME_SECONDS = 2.5
_SLACK_SECONDS = 1.0
# How long the broker may be away itself when such a worker comes back.
_TOLD_SECONDS = 4.0
_SIGNS_OF_BUGS = re.compile(
    r"terminate called|Assertion|CHECK|Segmentation|AddressSanitizer|internal error"
    r"|Fatal Python error|Traceback|\[critical\]"
)


class Audit:
    """Compares executions with the faults that were inflicted."""

    def __init__(self, effects: Sequence[Effect], patience: float, *, nodes: bool) -> None:
        self._effects = effects
        self._patience = patience
        self._nodes = nodes
        self.executions = 0
        self.repeats = 0

    def check_executions(
        self, load: str, count: int, executions: dict[int, list[Execution]]
    ) -> list[str]:
        """Each task ran, and again only if a fault explains it."""
        problems = []
        missing = [number for number in range(count) if number not in executions]
        if missing:
            problems.append(f"{load}: {len(missing)} tasks never ran, such as {missing[:3]}")
        for number, runs in executions.items():
            self.executions += len(runs)
            for first, second in zip(runs, runs[1:]):
                self.repeats += 1
                if not self._explains(first, second):
                    problems.append(f"{load}: no fault explains why {number} ran twice: {runs}")
                    break
        return problems[:4]

    def _explains(self, first: Execution, second: Execution) -> bool:
        return any(
            self._explains_one(each, first, second) or self._is_stale(each, first, second)
            for each in self._effects
        )

    def _is_stale(self, effect: Effect, first: Execution, second: Execution) -> bool:
        """One of their workers was away for long. It has leases that are another's now, and starts
        them until the broker tells it so."""
        if effect.kind not in ("stop", "link") or effect.part not in ("worker", "node"):
            return False
        is_its = any(self._is_of(effect, each.worker, each.host) for each in (first, second))
        when = first.begin - _TOLD_SECONDS, second.begin
        return is_its and self._is_long(effect) and effect.meets(*when)

    def _explains_one(self, effect: Effect, first: Execution, second: Execution) -> bool:
        if not effect.meets(first.begin, second.begin):
            return False
        if effect.part == "broker":
            return effect.kind == "kill" and self._broker_explains(effect, first)
        if effect.part == "worker" and not self._is_of(effect, first.worker, first.host):
            return False
        if effect.part == "runner":
            is_it = self._is_of(effect, first.runner, first.host)
            return effect.kind == "kill" and is_it and effect.begin <= first.end + _SLACK_SECONDS
        if effect.part == "node" and effect.host != first.host:
            return False
        if effect.part == "producer":
            return False
        return effect.kind in ("kill", "drain") or self._is_long(effect)

    def _broker_explains(self, kill: Effect, first: Execution) -> bool:
        """What had finished and was not delivered is gone with a broker. What ran is not, unless
        its worker was not there in time to say so."""
        if first.end <= kill.begin or self._nodes:
            return True
        end = kill.end + _RESUME_SECONDS + _SLACK_SECONDS
        return any(
            each.part == "worker"
            and self._is_of(each, first.worker, first.host)
            and each.meets(kill.begin, end)
            for each in self._effects
        )

    def _is_of(self, effect: Effect, process: int, host: str) -> bool:
        return effect.process in (0, process) and effect.host in ("", host)

    def _is_long(self, effect: Effect) -> bool:
        return effect.seconds > 0.6 * self._patience


def held_problem(status: dict[str, Any] | None) -> str:
    """What a broker still holds when all producers have ended; empty: nothing."""
    if status is None:
        return "the broker does not answer at the end"
    held = {
        "jobs": len(status["jobs"]),
        "leases": sum(worker["leases"] for worker in status["workers"]),
        "sessions": status["sessions"] - 1,  # who asks is one
        "outcomes waiting for blobs": dict(status["counters"]).get("outcomes_waiting_for_blobs", 0),
    }
    found = {name: count for name, count in held.items() if count}
    return f"the broker still holds {found}" if found else ""


def log_problems(logs: Path) -> list[str]:
    """Signs of our own bugs in what the programs said."""
    problems = []
    for log in sorted(logs.glob("*.log")):
        if log.name in ("run.log",) or log.name.startswith("stacks-"):
            continue
        text = log.read_text(errors="replace")
        if found := _SIGNS_OF_BUGS.search(text):
            part = text[max(0, found.start() - 200) : found.start() + 600]
            problems.append(f"{log.name}: {part}")
    return problems
