"""Inside the sandbox: one seed from the start of its pool to the audit.

chaos.run SEED local|nodes SECONDS FOLDER writes FOLDER/report.json; sandbox.py starts it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from chaos.audit import Audit, held_problem, log_problems
from chaos.loads import draw_loads
from chaos.local_pool import LocalPool
from chaos.marks import read_marks
from chaos.node_pool import NodePool
from chaos.schedule import Fault, Schedule
from chaos.subject import Subject, wait_for

_PATIENCE_SECONDS = 120.0  # after the last fault, for everything to end


class Run:
    """One seed."""

    def __init__(self, seed: int, seconds: float, folder: Path, *, nodes: bool) -> None:
        self._seconds = seconds
        self._folder = folder
        self._nodes = nodes
        rnd = random.Random(f"chaos {seed}")
        self._subject: Subject = NodePool(rnd, folder) if nodes else LocalPool(rnd, folder)
        subject = self._subject
        self._loads = draw_loads(rnd, seconds, subject, nodes=nodes)
        self._schedule = Schedule(rnd, subject.kinds(), seconds, subject.heartbeat_patience)
        for load in self._loads:
            if not load.lasting:
                at = rnd.uniform(0.2, 0.6) * seconds
                self._schedule.add(Fault(at, "kill producer", load.name, 0.0))
        self._faults: Counter[str] = Counter()
        self._began = time.monotonic()
        self.problems: list[str] = []

    def __call__(self) -> None:
        if not self._subject.await_slots(60):
            self.problems.append("the pool did not start")
        self._began = time.monotonic()
        for load in self._loads:
            load.start(self._subject)
        if not wait_for(self._all_connected, 60):
            self.problems.append("not all producers connected")
        self._began = time.monotonic()
        self._inflict()
        self._await_loads()
        self._check()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.2f} {text}", flush=True)

    def _all_connected(self) -> bool:
        """A program that finds no broker when it starts gives up early, and may."""
        told = self._subject.status()
        running = [each for each in self._subject.producers.values() if each.poll() is None]
        return told is not None and told["sessions"] > len(running)

    def _inflict(self) -> None:
        """All faults, each on a thread of its own: they may overlap."""
        threads = []
        for fault in self._schedule:
            time.sleep(max(0.0, self._began + fault.at - time.monotonic()))
            if all(each.poll() is not None for each in self._subject.producers.values()):
                self._say("all loads have ended")
                break
            thread = threading.Thread(target=self._inflict_one, args=(fault,))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _inflict_one(self, fault: Fault) -> None:
        self._say(f"begin {fault}")
        try:
            if self._subject.inflict(fault):
                self._faults[fault.kind] += 1
        except BaseException as error:
            self.problems.append(f"{fault}: {type(error).__name__}: {error}")
        self._say(f"end   {fault}")

    def _await_loads(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for load in self._loads:
            problem = load.problem(self._folder, max(1.0, deadline - time.monotonic()))
            self._say(f"load {load.name}: {problem or 'ok'}")
            if problem:
                self.problems.append(problem)

    def _check(self) -> None:
        subject = self._subject
        audit = Audit(subject.effects, subject.heartbeat_patience, nodes=self._nodes)
        if not self.problems:  # else it is known that tasks are missing
            for load in self._loads:
                if load.marked:
                    executions = read_marks(subject.marks_files(load.name))
                    self.problems += audit.check_executions(load.name, load.count, executions)
        if not subject.await_slots(60):
            self.problems.append(f"not all slots came back: {subject.status()}")
        self._say(f"held: {held_problem(subject.status()) or 'nothing'}")
        if not wait_for(lambda: not held_problem(subject.status()), 75):
            self.problems.append(held_problem(subject.status()))
        self._say("nothing is held")
        status = subject.status()
        (self._folder / "status.json").write_text(json.dumps(status, indent=1))
        self.problems += subject.close()
        self.problems += log_problems(self._folder)
        self._repeats = audit.repeats

    def report(self) -> dict[str, object]:
        return {
            "took": time.monotonic() - self._began,
            "tasks": sum(load.count for load in self._loads),
            "repeats": getattr(self, "_repeats", 0),
            "faults": dict(self._faults),
            "problems": self.problems,
        }


def main() -> None:
    seed, where, seconds, folder = sys.argv[1:]
    run = Run(int(seed), float(seconds), Path(folder), nodes=where == "nodes")
    run()
    Path(folder, "report.json").write_text(json.dumps(run.report(), indent=1))


if __name__ == "__main__":
    main()
