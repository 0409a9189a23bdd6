"""What every bench of scripts/bench is made of: programs to run, figures, goals, interleaving.

A bench is a function that takes a `Rig`, runs programs with it and yields `Figure`s. It says what
was measured and never judges: whether a goal is met is printed, not asserted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent

# No program that is run here takes minutes; one that does hangs.
PROGRAM_LIMIT_SECONDS = 600.0
# A program that was told to end may clean up for this long.
GRACE_SECONDS = 5.0

Sample = TypeVar("Sample")


class MeasurementError(Exception):
    """A figure could not be measured: a program failed, hung or did not print it."""


@dataclass(frozen=True)
class Goal:
    """An upper ("<=") or lower (">=") bound of a figure."""

    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.relation == "<=" else value >= self.bound


def at_most(bound: float) -> Goal:
    return Goal("<=", bound)


def at_least(bound: float) -> Goal:
    return Goal(">=", bound)


@dataclass(frozen=True)
class Figure:
    """One measured number. `unit` is empty for ratios, `note` is for people only."""

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    note: str = ""


@dataclass(frozen=True)
class Reading:
    """One line that a program printed; `labels` are its other numbers, such as "queued"."""

    figure: str
    value: float
    labels: Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """`programs` are Muster's own, in the build directory; `tools` are found in PATH."""

    name: str
    measure: Callable[[Rig], Iterator[Figure]]
    programs: Sequence[str]
    tools: Sequence[str] = field(default=())
    python: bool = False  # needs the Python package and the libraries that it is compared with


class Rig:
    """Runs programs for the benches, one at a time, and ends them when anything goes wrong.

    `scratch` is an empty directory; whatever programs leave in their temporary directory is in
    there. `pairs` is how often the programs that are compared take turns; a `quick` run has fewer.
    """

    def __init__(self, binaries: Path, scratch: Path, quick: bool) -> None:
        self.quick = quick
        self.pairs = 3 if quick else 5
        self.scratch = scratch
        self._binaries = binaries
        self._python = ""
        # GNU parallel keeps files in its home; people's own is not ours to write to.
        self._environment = {
            **os.environ,
            "TMPDIR": str(scratch),
            "PARALLEL_HOME": str(scratch / "parallel"),
            "PYTHONPATH": str(binaries.resolve().parent / "python"),
        }

    def program(self, name: str) -> str:
        return str(self._binaries / name)

    def python(self) -> str:
        """An interpreter with Muster and what it is measured against, made when there is none."""
        made = subprocess.run(
            [ROOT / "scripts" / "environment", "bench"],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if made.returncode != 0:
            raise MeasurementError(f"scripts/environment bench: {made.stderr.strip()}")
        return str(ROOT / "build" / "venv" / "bench" / "bin" / "python")

    def missing(self, bench: Bench) -> list[str]:
        """The programs and tools of `bench` that are not there."""
        programs = [self.program(name) for name in bench.programs]
        return [path for path in programs if not os.access(path, os.X_OK)] + [
            tool for tool in bench.tools if shutil.which(tool) is None
        ]

    def run(self, argv: Sequence[str], text: str = "") -> str:
        """Runs a program with `text` as its input and returns what it printed."""
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(text, timeout=PROGRAM_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                _end(process)
                raise MeasurementError(
                    f"{' '.join(argv)}: no end after {PROGRAM_LIMIT_SECONDS:g} s"
                ) from None
            except BaseException:
                _end(process)
                raise
        if process.returncode != 0:
            last = "; ".join(errors.strip().splitlines()[-3:]) or "it printed no error"
            raise MeasurementError(f"{' '.join(argv)}: exit {process.returncode}: {last}")
        return output

    def seconds(self, argv: Sequence[str], text: str) -> float:
        """The wall time of one run of a program."""
        start = time.perf_counter()
        self.run(argv, text)
        return time.perf_counter() - start

    def readings(self, name: str, *arguments: str) -> list[Reading]:
        """Runs one of Muster's benchmark programs with --json."""
        return _readings(name, self.run([self.program(name), *arguments, "--json"]))

    def values(self, name: str, *arguments: str) -> Values:
        """As readings(), for a program that prints each figure once."""
        return read_values(name, self.run([self.program(name), *arguments, "--json"]))

    def prepare_python(self, interpreter: str) -> None:
        """`interpreter` has what Muster is compared with; the package is in the build directory."""
        self._python = interpreter
        self._environment["PYTHONPATH"] = str(self._binaries.parent / "python")

    def python_output(self, script: str, *arguments: str) -> str:
        """Runs a Python program of this repository."""
        return self.run([self._python, str(ROOT / script), *arguments])

    def traced_python(self, tracer: Sequence[str], script: str, *arguments: str) -> str:
        """As python_output(), below a program that watches it."""
        return self.run([*tracer, self._python, str(ROOT / script), *arguments])

    def python_values(self, script: str, *arguments: str) -> Values:
        """As values(), for a Python program."""
        name = " ".join((script, *arguments))
        return read_values(name, self.python_output(script, *arguments))

    def take_turns(self, *sides: Callable[[], Sample]) -> list[list[Sample]]:
        """Runs A B ... A B ...: `pairs` samples of each side, those of one turn at one index."""
        turns = [[side() for side in sides] for _ in range(self.pairs)]
        return [[turn[index] for turn in turns] for index in range(len(sides))]


class Values:
    """The figures of one run of a program by name."""

    def __init__(self, program: str, found: Mapping[str, float]) -> None:
        self._program = program
        self._found = found

    def __getitem__(self, figure: str) -> float:
        if figure not in self._found:
            raise MeasurementError(f"{self._program} printed no figure {figure}")
        return self._found[figure]


def median(samples: Sequence[Values], figure: str) -> float:
    return statistics.median(sample[figure] for sample in samples)


def ratio_figure(
    name: str, above: Sequence[float], below: Sequence[float], goal: Goal | None, note: str = ""
) -> Figure:
    """The median of the ratios of the samples that were taken in the same turn.

    Neighbours in time share the machine's mood; medians taken over the whole run do not.
    """
    if any(value <= 0 for value in below):
        raise MeasurementError(f"{name}: measured a zero")
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
    notes = f"{spread}; {note}" if note else spread
    return Figure(name, statistics.median(ratios), goal=goal, note=notes)


def read_values(name: str, output: str) -> Values:
    """The figures that `name`, a program, printed as JSON lines."""
    readings = _readings(name, output)
    return Values(name, {reading.figure: reading.value for reading in readings})


def _readings(name: str, output: str) -> list[Reading]:
    try:
        return [_reading(line) for line in output.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"{name}: not a figure in its output: {error!r}") from error


def _reading(line: str) -> Reading:
    fields = json.loads(line)
    labels = {
        name: float(value)
        for name, value in fields.items()
        if name != "value" and isinstance(value, (int, float))
    }
    return Reading(str(fields["figure"]), float(fields["value"]), labels)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a program and all it started: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
