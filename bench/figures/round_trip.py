"""How long a lone task takes: submit one, wait for its outcome, submit the next."""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Bench, Figure, Rig, at_most, median, ratio_figure

_MUSTER = "muster_round_trip_bench"


def _measure(rig: Rig) -> Iterator[Figure]:
    raw, thread, process = rig.take_turns(
        lambda: rig.values("raw_zmq_bench", "round_trip"),
        lambda: rig.values(_MUSTER, "--executor", "thread"),
        lambda: rig.values(_MUSTER, "--executor", "process"),
    )
    below = [sample["p50_us"] for sample in raw]
    yield ratio_figure("ratio_to_raw", [s["p50_us"] for s in thread], below, at_most(1.6))
    yield ratio_figure("process_ratio_to_raw", [s["p50_us"] for s in process], below, at_most(2.5))
    for prefix, samples in (("", thread), ("process_", process), ("raw_", raw)):
        for figure in ("p50_us", "p99_us"):
            yield Figure(prefix + figure, median(samples, figure), "us")


ROUND_TRIP = Bench("round_trip", _measure, programs=("raw_zmq_bench", _MUSTER))
