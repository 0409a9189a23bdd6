"""What a task costs: no-op native tasks with 64-byte arguments, against raw ZeroMQ messages."""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Bench, Figure, Rig, at_least, median, ratio_figure


def _measure(rig: Rig) -> Iterator[Figure]:
    raw, muster = rig.take_turns(
        lambda: rig.values("raw_zmq_bench", "throughput"),
        lambda: rig.values("muster_noop_bench"),
    )
    rate = "tasks_per_second"
    cost = "cpu_us_per_task"
    yield ratio_figure(
        "ratio_to_raw", [s[rate] for s in muster], [s[rate] for s in raw], at_least(0.35)
    )
    yield Figure(rate, median(muster, rate), "tasks/s")
    yield Figure("raw_" + rate, median(raw, rate), "tasks/s")
    yield Figure(cost, median(muster, cost), "us")
    yield Figure("raw_" + cost, median(raw, cost), "us")


NOOP = Bench("noop", _measure, programs=("raw_zmq_bench", "muster_noop_bench"))
