"""`muster run` as people use it: thousands of tiny commands, against xargs and GNU parallel."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.harness import Bench, Figure, Rig, at_least, at_most, ratio_figure

_COMMANDS = 5_000
# GNU parallel is slow enough that a part shows its cost per command, give or take its start.
_QUICK_PARALLEL_COMMANDS = 1_000


def _lines(count: int) -> str:
    return "".join(f"{number}\n" for number in range(1, count + 1))


def _measure(rig: Rig) -> Iterator[Figure]:
    muster_argv = [rig.program("muster"), "run", "--jobs", "2", "--", "true", "{}"]
    xargs_argv = ["xargs", "-P", "2", "-n", "1", "true"]
    parallel_argv = ["parallel", "--will-cite", "-j2", "true", "{}"]
    lines = _lines(_COMMANDS)
    parallel_count = _QUICK_PARALLEL_COMMANDS if rig.quick else _COMMANDS
    parallel_lines = _lines(parallel_count)
    scale = _COMMANDS / parallel_count
    muster, xargs, parallel = rig.take_turns(
        lambda: rig.seconds(muster_argv, lines),
        lambda: rig.seconds(xargs_argv, lines),
        lambda: rig.seconds(parallel_argv, parallel_lines) * scale,
    )
    scaled = f"parallel's time is scaled from {parallel_count:,} commands" if scale != 1 else ""
    yield ratio_figure("speedup_over_parallel", parallel, muster, at_least(5), note=scaled)
    yield ratio_figure("ratio_to_xargs", muster, xargs, at_most(1.5))
    yield Figure("muster_seconds", statistics.median(muster), "s")
    yield Figure("xargs_seconds", statistics.median(xargs), "s")
    yield Figure("parallel_seconds", statistics.median(parallel), "s", note=scaled)


RUN = Bench("run", _measure, programs=("muster",), tools=("xargs", "parallel"))
