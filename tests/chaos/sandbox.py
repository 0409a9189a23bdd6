"""Runs one seed (run.py) in namespaces of its own: mounts, processes, network. What it leaves
behind can be counted there, and goes with the namespaces.

Needs root, as tests/nodes does. Threads: any. Blocking: until the run has ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
LOGS = ROOT / "build" / "chaos"
_PRIVATE = ("/dev/shm", "/tmp", "/var/tmp")
_PATIENCE_SECONDS = 300.0

# Process 1 of the sandbox: it reaps whatever is orphaned.
_PREPARE = """\
set -e
for folder in {private}; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t tmpfs tmpfs /run
mkdir /run/sshd
ip link set lo up
set +e
"$@"
exit $?
"""


@dataclass
class Report:
    """How one run went. No problems: nothing was lost, doubled, disordered or left behind."""

    seed: int
    nodes: bool
    seconds: float  # of faults
    took: float = 0.0
    tasks: int = 0
    repeats: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """Runs the same seed again."""
        where = " --nodes" if self.nodes else ""
        return f"scripts/chaos --seeds {self.seed}{where} --seconds {self.seconds:g}"

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        line = (
            f"seed {self.seed}: {'LOST' if self.problems else 'ok'}, {self.took:.0f} s, "
            f"{self.tasks} tasks, {self.repeats} repeats; {faults}"
        )
        if not self.problems:
            return line
        told = [f"  {problem}" for problem in self.problems]
        logs = folder_of(self.seed, self.nodes)
        return "\n".join([line, *told, f"  again: {self.command}", f"  logs: {logs}"])


def folder_of(seed: int, nodes: bool) -> Path:
    """Where the logs of a seed's last run are."""
    return LOGS / f"{'nodes' if nodes else 'local'}-{seed}"


def run_seed(seed: int, *, nodes: bool = False, seconds: float = 15.0) -> Report:
    """One run, `seconds` of faults. It never tries again."""
    folder = folder_of(seed, nodes)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = Report(seed, nodes, seconds)
    # A tree below one of these folders stays visible; what is left there is not counted then.
    private = [each for each in _PRIVATE if not ROOT.is_relative_to(each)]
    argv = ["unshare", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--mount-proc"]
    argv += ["--kill-child", "--propagation", "private", "sh", "-c"]
    argv += [_PREPARE.format(private=" ".join(private)), "chaos", sys.executable, "-m", "chaos.run"]
    argv += [str(seed), "nodes" if nodes else "local", str(seconds), str(folder)]
    with (folder / "run.log").open("wb") as log:
        try:
            subprocess.run(
                argv,
                check=False,
                env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=seconds + _PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            report.problems.append(f"it did not end in {seconds + _PATIENCE_SECONDS:g} s")
    _read_report(report, folder)
    return report


def _read_report(report: Report, folder: Path) -> None:
    try:
        told: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        log = (folder / "run.log").read_text(errors="replace")
        report.problems.append(f"it ended without a report: {log[-2000:]}")
        return
    report.took = told["took"]
    report.tasks = told["tasks"]
    report.repeats = told["repeats"]
    report.faults = told["faults"]
    report.problems += told["problems"]
