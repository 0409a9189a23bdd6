"""Whether the broker's cost and memory stay flat: in queued tasks and in workers."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator, Sequence

from bench.harness import (
    Bench,
    Figure,
    MeasurementError,
    Reading,
    Rig,
    at_most,
    median,
    ratio_figure,
)

_PROGRAM = "scheduler_bench"
_MANY_WORKERS = "many_workers_bench"
_COST = "ns_per_task"
_MEMORY = "bytes_per_task"
_TURN = "ns_per_turn"

# The cost by the number of queued tasks or of workers.
_Costs = dict[int, Reading]


@functools.cache
def _runs(rig: Rig) -> list[list[Reading]]:
    """Two benches read the same runs: the program is slow and prints for both."""
    return [rig.readings(_PROGRAM) for _ in range(rig.pairs)]


def _costs_by(label: str, run: Sequence[Reading], figure: str = _COST) -> _Costs:
    costs = {
        int(reading.labels[label]): reading
        for reading in run
        if reading.figure == figure and label in reading.labels
    }
    if len(costs) < 2:
        raise MeasurementError(f"{_PROGRAM} printed no {figure} by {label}")
    return dict(sorted(costs.items()))


def _growth(name: str, runs: Sequence[_Costs], bound: float) -> Figure:
    """The dearest of the sizes against the smallest, each run by itself."""
    dearest = [max(reading.value for reading in run.values()) for run in runs]
    smallest = [run[min(run)].value for run in runs]
    sizes = f"{min(runs[0]):,} to {max(runs[0]):,}"
    return ratio_figure(name, dearest, smallest, at_most(bound), note=sizes)


def _cost_figures(label: str, runs: Sequence[_Costs]) -> Iterator[Figure]:
    for size in runs[0]:
        value = statistics.median(run[size].value for run in runs)
        yield Figure(f"{_COST}_{label}_{size}", value, "ns")


def _measure_queue_depth(rig: Rig) -> Iterator[Figure]:
    runs = [_costs_by("queued", run) for run in _runs(rig)]
    yield _growth("time_growth", runs, 1.2)
    deepest = [run[max(run)] for run in runs]
    if any(_MEMORY not in reading.labels for reading in deepest):
        raise MeasurementError(f"{_PROGRAM} printed no {_MEMORY}")
    overhead = statistics.median(
        reading.labels[_MEMORY] - reading.labels.get("payload_bytes", 0.0) for reading in deepest
    )
    yield Figure(
        "overhead_bytes_per_task",
        overhead,
        "bytes",
        at_most(200),
        f"beside the payload, {max(runs[0]):,} tasks queued",
    )
    yield from _cost_figures("queued", runs)
    # Jobs that wait, of which none fits a slot that is idle.
    misfits = [_costs_by("misfits", run, _TURN) for run in _runs(rig)]
    yield _growth("misfit_growth", misfits, 2.0)


def _measure_workers(rig: Rig) -> Iterator[Figure]:
    runs = [_costs_by("workers", run) for run in _runs(rig)]
    yield _growth("cost_growth", runs, 2.0)
    yield from _cost_figures("workers", runs)
    many = [rig.values(_MANY_WORKERS) for _ in range(rig.pairs)]
    yield Figure("tasks_per_second", median(many, "tasks_per_second"), "tasks/s")
    yield Figure(
        "fairness", median(many, "fairness"), note="tasks of the idlest worker / of the busiest"
    )


QUEUE_DEPTH = Bench("queue_depth", _measure_queue_depth, programs=(_PROGRAM,))
WORKERS = Bench("workers", _measure_workers, programs=(_PROGRAM, _MANY_WORKERS))
