"""Pools of machines that are reached by ssh: namespaces with real sshds, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodes.rig import Rig as Machines

from bench.harness import (
    ROOT,
    Bench,
    Figure,
    MeasurementError,
    Rig,
    Values,
    at_least,
    at_most,
    read_values,
)

_CLIENT = ROOT / "bench" / "python" / "nodes.py"
_PYTHON = "/usr/bin/python3"  # the nodes have it, too

_NODES, _SLOTS, _TASKS = 10, 10, 2_000
_WAN_SLOTS, _WAN_TASKS, _WAN_SECONDS, _WAN_DELAY_MS = 20, 40_000, 0.01, 50
_UP_NODES = 50


def _client(rig: Rig, machines: Machines, bench: str, *arguments: object) -> Values:
    """One run of bench/python/nodes.py, whose home is the machines' client."""
    hosts = machines.home / "hosts.toml"
    hosts.write_text(machines.hosts(python="3.11", slots=1, executor="thread"))
    binaries = Path(rig.program("muster")).resolve().parent
    environment = {
        **machines.environment,
        "PATH": f"{binaries}:{machines.environment['PATH']}",
        "PYTHONPATH": str(binaries.parent / "python"),
        "MUSTER_BIN_DIR": str(binaries),
    }
    argv = ["env", "-i", *(f"{key}={text}" for key, text in environment.items())]
    output = rig.run([*argv, _PYTHON, str(_CLIENT), bench, str(hosts), *map(str, arguments)])
    return read_values(f"nodes.py {bench}", output)


def _headline(rig: Rig) -> Iterator[Figure]:
    parts = {"5s": (5.0, 0.995), "500ms": (0.5, 0.98), "50ms": (0.05, 0.9)}
    if rig.quick:
        parts = {"500ms": parts["500ms"]}
    sleeps = [seconds for seconds, _ in parts.values()]
    with Machines(_NODES) as machines:
        _client(rig, machines, "headline", _SLOTS, 1, 0.01)  # uploads what the nodes lack
        values = _client(rig, machines, "headline", _SLOTS, _TASKS, *sleeps)
    for name, (seconds, goal) in parts.items():
        note = f"{values[f'seconds_{seconds}']:.2f} s"
        yield Figure(
            f"efficiency_{name}", values[f"efficiency_{seconds}"], "", at_least(goal), note
        )
    yield Figure("start_seconds", values["start_seconds"], "s")


def _wan(rig: Rig) -> Iterator[Figure]:
    with Machines(1, delay_ms=_WAN_DELAY_MS) as machines:
        values = _client(rig, machines, "wan", _WAN_SLOTS, _WAN_TASKS, _WAN_SECONDS)
    if values["round_trip_ms"] < _WAN_DELAY_MS:
        raise MeasurementError(f"the link's round trip is {values['round_trip_ms']:.1f} ms only")
    yield Figure(
        "efficiency", values["efficiency"], "", at_least(0.95), f"{values['seconds']:.2f} s"
    )
    yield Figure("round_trip_ms", values["round_trip_ms"], "ms")


def _up(rig: Rig) -> Iterator[Figure]:
    with Machines(_UP_NODES) as machines:
        values = _client(rig, machines, "up", _UP_NODES)
    yield Figure("seconds", values["warm_seconds"], "s", at_most(10))
    yield Figure("broker_mb_per_tunnel", values["broker_mb_per_tunnel"], "MB", at_most(3))
    yield Figure("cold_seconds", values["cold_seconds"], "s")
    yield Figure("broker_mb", values["broker_mb"], "MB")


_PROGRAMS = ("muster", "muster-broker", "muster-worker")
HEADLINE = Bench("headline", _headline, _PROGRAMS, tools=("sshd", "ip"))
WAN = Bench("wan", _wan, _PROGRAMS, tools=("sshd", "ip"))
UP = Bench("up", _up, _PROGRAMS, tools=("sshd", "ip"))
