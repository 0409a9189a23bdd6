"""What the broker's own tunnel costs against `ssh -R` with the same cipher, and whether a thousand
reconnects leave anything behind."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nodes.rig import Node
from nodes.rig import Rig as Machines
from nodes.tunnel_driver import Driver

from bench.harness import (
    ROOT,
    Bench,
    Figure,
    MeasurementError,
    Rig,
    Values,
    at_least,
    at_most,
    median,
    ratio_figure,
    read_values,
)

_PEER = ROOT / "bench" / "python" / "tunnel_peer.py"
_CIPHER = "aes128-gcm@openssh.com"
_MIB = 192
_ROUND_TRIPS = 3_000
_RECONNECTS = 1_000
_QUICK_RECONNECTS = 100
_LONG_SECONDS = 300.0


def _on_node(node: Node, *arguments: object) -> Values:
    argv = node.inside(["/usr/bin/python3", str(_PEER), *map(str, arguments)], "ada")
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_LONG_SECONDS)
    if done.returncode != 0:
        raise MeasurementError(f"tunnel_peer.py on the node: {done.stderr.strip()[-500:]}")
    return read_values("tunnel_peer.py", done.stdout)


@contextlib.contextmanager
def _local_end(path: Path) -> Iterator[None]:
    argv = ["/usr/bin/python3", str(_PEER), "listen", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def _openssh(machines: Machines, node: Node, socket: Path) -> Iterator[int]:
    """`ssh -R` as a person would type it."""
    argv = ["ssh", "-T", "-F", "none", "-o", "BatchMode=yes", "-i", str(machines.key)]
    argv += ["-o", f"UserKnownHostsFile={machines.home}/.ssh/known_hosts"]
    argv += ["-c", _CIPHER, "-R", f"localhost:0:{socket}", f"ada@{node.host}", "cat"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            words = process.stderr.readline().split()
            if words[:2] != ["Allocated", "port"]:
                raise MeasurementError(f"ssh -R: {' '.join(words)}")
            yield int(words[2])
        finally:
            process.kill()


@contextlib.contextmanager
def _muster(machines: Machines, node: Node, socket: Path) -> Iterator[int]:
    with Driver(machines.environment, address=node.host, user="ada") as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(socket))["port"]
        driver.order("serve", command="echo up; cat")
        driver.line()
        yield int(port)
        driver.order("finish")
        driver.result("serve")


def _speed(rig: Rig, machines: Machines) -> Iterator[Figure]:
    node = machines.nodes[0]
    socket = machines.folder / "tunnel.socket"
    with (
        _local_end(socket),
        _openssh(machines, node, socket) as theirs,
        _muster(machines, node, socket) as ours,
    ):
        for port in (theirs, ours):
            _on_node(node, "round_trip", port, 100)
        openssh, muster = rig.take_turns(
            lambda: _on_node(node, "bulk", theirs, _MIB),
            lambda: _on_node(node, "bulk", ours, _MIB),
        )
        openssh_trips, muster_trips = rig.take_turns(
            lambda: _on_node(node, "round_trip", theirs, _ROUND_TRIPS),
            lambda: _on_node(node, "round_trip", ours, _ROUND_TRIPS),
        )
    for name, goal in (("both", at_least(1.0)), ("up", None), ("down", None)):
        above, below = [s[name] for s in muster], [s[name] for s in openssh]
        figure = "ratio_to_openssh" if name == "both" else f"{name}_ratio_to_openssh"
        yield ratio_figure(figure, above, below, goal)
        yield Figure(f"{name}_mb_per_second", median(muster, name), "MB/s")
        yield Figure(f"{name}_openssh_mb_per_second", median(openssh, name), "MB/s")
    name = "round_trip"
    above, below = [s[name] for s in muster_trips], [s[name] for s in openssh_trips]
    yield ratio_figure("round_trip_ratio", above, below, at_most(1.2))
    yield Figure("round_trip", median(muster_trips, name), "us")
    yield Figure("openssh_round_trip", median(openssh_trips, name), "us")


def _reconnects(rig: Rig, machines: Machines) -> Iterator[Figure]:
    """One process connects, forwards and is cut, over and over."""
    count = _QUICK_RECONNECTS if rig.quick else _RECONNECTS
    node = machines.nodes[0]
    socket = machines.folder / "nobody.socket"
    with Driver(machines.environment, address=node.host, user="ada") as driver:

        def connect() -> None:
            driver.do("open")
            driver.do("forward", port=0, socket=str(socket))
            driver.do("renew")

        for _ in range(10):  # what is made once and kept
            connect()
        before = driver.status()
        for _ in range(count):
            connect()
        after = driver.status()
    note = f"{count:,} reconnects"
    for name, unit, scale in (
        ("resident", "KB each", 1024 * count),
        ("descriptors", "", 1),
        ("threads", "", 1),
    ):
        value = (after[name] - before[name]) / scale
        yield Figure(f"reconnect_{name}", value, unit, at_most(1 if scale > 1 else 0), note)


def _measure(rig: Rig) -> Iterator[Figure]:
    with Machines(1) as machines:
        yield from _speed(rig, machines)
        yield from _reconnects(rig, machines)


TUNNEL = Bench("tunnel", _measure, programs=("remote_driver",), tools=("ssh", "sshd", "ip"))
