"""How fast large payloads go to a worker and back, counted once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.harness import Bench, Figure, Rig, at_least, median, ratio_figure

_SIZES = {"1mb": 1_000_000, "16mb": 16_000_000}
_RATE = "megabytes_per_second"


def _measure(rig: Rig) -> Iterator[Figure]:
    goal = at_least(0.7)
    ratios = []
    rates = []
    for label, size in _SIZES.items():
        raw, muster = rig.take_turns(
            partial(rig.values, "raw_zmq_bench", "echo", "--size", str(size)),
            partial(rig.values, "muster_echo_bench", "--size", str(size)),
        )
        ratios.append(
            ratio_figure(
                f"ratio_to_raw_{label}", [s[_RATE] for s in muster], [s[_RATE] for s in raw], goal
            )
        )
        rates.append(Figure(f"{_RATE}_{label}", median(muster, _RATE), "MB/s"))
        rates.append(Figure(f"raw_{_RATE}_{label}", median(raw, _RATE), "MB/s"))
    lowest = min(ratios, key=lambda figure: figure.value)
    yield Figure("ratio_to_raw", lowest.value, goal=goal, note=f"the lowest: {lowest.name}")
    yield from ratios
    yield from rates


ECHO = Bench("echo", _measure, programs=("raw_zmq_bench", "muster_echo_bench"))
