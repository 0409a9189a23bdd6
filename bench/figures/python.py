"""Python programs over Muster, loky and Dask: each side runs bench/python/sides.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

from bench.harness import Bench, Figure, Rig, Values, at_least, at_most, median, ratio_figure


def _side(rig: Rig, bench: str, side: str) -> Values:
    return rig.python_values("bench/python/sides.py", bench, side)


def _joblib_noop(rig: Rig) -> Iterator[Figure]:
    sides = {name: partial(_side, rig, "joblib_noop", name) for name in ("muster", "loky", "dask")}
    muster, loky, dask = rig.take_turns(*sides.values())
    batch1, auto = "batch1_per_second", "auto_per_second"
    ours = [sample[batch1] for sample in muster]
    yield ratio_figure("batch1_ratio_to_loky", ours, [s[batch1] for s in loky], at_least(2))
    yield ratio_figure("batch1_ratio_to_dask", ours, [s[batch1] for s in dask], at_least(20))
    yield ratio_figure(
        "auto_ratio_to_loky", [s[auto] for s in muster], [s[auto] for s in loky], at_least(1)
    )
    for name, samples in (("muster", muster), ("loky", loky), ("dask", dask)):
        yield Figure(f"{name}_{batch1}", median(samples, batch1), "/s")
    for name, samples in (("muster", muster), ("loky", loky)):
        yield Figure(f"{name}_{auto}", median(samples, auto), "/s")


def _python_map(rig: Rig) -> Iterator[Figure]:
    (samples,) = rig.take_turns(partial(_side, rig, "python_map", "muster"))
    yield Figure("items_per_second", median(samples, "items_per_second"), "/s", at_least(200_000))
    yield Figure(
        "endless_per_second", median(samples, "endless_per_second"), "/s", at_least(200_000)
    )
    yield Figure("growth_mb", median(samples, "growth_mb"), "MiB")
    yield Figure("endless_growth_mb", median(samples, "endless_growth_mb"), "MiB")


def _python_round_trip(rig: Rig) -> Iterator[Figure]:
    names = ("muster", "loky", "dask")
    muster, loky, dask = rig.take_turns(
        *(partial(_side, rig, "python_round_trip", name) for name in names)
    )
    ours = [sample["p50_us"] for sample in muster]
    yield ratio_figure("ratio_to_loky", ours, [s["p50_us"] for s in loky], at_most(1.5))
    yield ratio_figure("ratio_to_dask", ours, [s["p50_us"] for s in dask], at_most(0.1))
    for name, side in zip(names, (muster, loky, dask), strict=True):
        for figure in ("p50_us", "p99_us"):
            yield Figure(f"{name}_{figure}", median(side, figure), "us")


def _slots(rig: Rig) -> Iterator[Figure]:
    (samples,) = rig.take_turns(partial(_side, rig, "slots", "muster"))
    for name, goal in (("100ms", 0.97), ("10ms", 0.85)):
        yield Figure(
            f"efficiency_{name}", median(samples, f"efficiency_{name}"), "", at_least(goal)
        )
        figure = f"joblib_efficiency_{name}"
        yield Figure(figure, median(samples, figure))


def _start(rig: Rig) -> Iterator[Figure]:
    def wall(side: str) -> float:
        begin = time.perf_counter()
        rig.python_output("bench/python/sides.py", "start", side)
        return time.perf_counter() - begin

    muster, joblib = rig.take_turns(partial(wall, "muster"), partial(wall, "joblib"))
    extra = [ours - theirs for ours, theirs in zip(muster, joblib, strict=True)]
    yield Figure("extra_seconds", statistics.median(extra), "s", at_most(0.5))
    yield Figure("muster_seconds", statistics.median(muster), "s")
    yield Figure("import_joblib_seconds", statistics.median(joblib), "s")


_PROGRAMS = ("muster-broker", "muster-worker")
JOBLIB_NOOP = Bench("joblib_noop", _joblib_noop, _PROGRAMS, python=True)
PYTHON_MAP = Bench("python_map", _python_map, _PROGRAMS, python=True)
PYTHON_ROUND_TRIP = Bench("python_round_trip", _python_round_trip, _PROGRAMS, python=True)
SLOTS = Bench("slots", _slots, _PROGRAMS, python=True)
START = Bench("start", _start, _PROGRAMS, python=True)
