"""`muster run` as people use it, against xargs and GNU parallel: thousands of tiny commands, and
commands that write more than a pipe holds."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Iterator

from bench.harness import Bench, Figure, MeasurementError, Rig, at_least, at_most, ratio_figure

_COMMANDS = 5_000
# GNU parallel is slow enough that a part shows its cost per command, give or take its start.
_QUICK_PARALLEL_COMMANDS = 1_000

_OUTPUT_BYTES = 1_000_000
_OUTPUT_COMMANDS = 400
_QUICK_OUTPUT_COMMANDS = 100


def _lines(count: int) -> str:
    return "".join(f"{number}\n" for number in range(1, count + 1))


def _seconds_of_output(rig: Rig, tool: str, count: int) -> float:
    """The time in which `tool` runs commands that write, and all that they wrote arrives."""
    command = f"{tool} 'head -c {_OUTPUT_BYTES} /dev/zero; : {{}}' | wc -c"
    start = time.perf_counter()
    arrived = int(rig.run(["sh", "-c", command], _lines(count)))
    taken = time.perf_counter() - start
    if arrived != count * _OUTPUT_BYTES:
        raise MeasurementError(f"{command}: {arrived:,} bytes of {count * _OUTPUT_BYTES:,}")
    return taken


def _measure_output(rig: Rig) -> Iterator[Figure]:
    count = _QUICK_OUTPUT_COMMANDS if rig.quick else _OUTPUT_COMMANDS
    muster_run = shlex.join([rig.program("muster"), "run", "--jobs", "2"])
    muster, xargs = rig.take_turns(
        lambda: _seconds_of_output(rig, muster_run, count),
        lambda: _seconds_of_output(rig, "xargs -P 2 -I{} sh -c", count),
    )
    megabytes = count * _OUTPUT_BYTES / 1e6
    size = f"{count:,} commands write {_OUTPUT_BYTES:,} bytes each"
    yield ratio_figure("output_ratio_to_xargs", muster, xargs, None, note=size)
    yield Figure("output_megabytes_per_second", megabytes / statistics.median(muster), "MB/s")
    yield Figure("xargs_output", megabytes / statistics.median(xargs), "MB/s")


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
    yield from _measure_output(rig)


RUN = Bench("run", _measure, programs=("muster",), tools=("xargs", "parallel"))
