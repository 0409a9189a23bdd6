"""The libssh pump under load. MUSTER_SOAK_SECONDS=600 makes it go on with new seeds for so long;
MUSTER_SOAK_SEED=N repeats one."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.rig import USER, Node, Rig, wait_until
from nodes.tunnel_driver import Driver, Listener, echo

_PEER = Path(__file__).with_name("soak_peer.py")
_SOAK_SECONDS = float(os.environ.get("MUSTER_SOAK_SECONDS", "0"))
_LOAD_SECONDS = 280.0


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(1) as rig:
        yield rig


@contextlib.contextmanager
def local_end(path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, str(_PEER), "listen", str(path)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def tunnel(rig: Rig, socket: Path, **fields: object) -> Iterator[tuple[Driver, int]]:
    with Driver(rig.environment, address=rig.nodes[0].host, user=USER, **fields) as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(socket))["port"]
        driver.order("serve", command="echo up; cat")
        driver.line()
        yield driver, port


def load(node: Node, port: int, seed: int, *numbers: int) -> None:
    """Fails unless every connection got every byte."""
    mib, bulk, small, parallel = numbers
    print(f"seed {seed}: {bulk} x {mib} MiB, {small} short ones, {parallel} at a time")
    words = ["/usr/bin/python3", str(_PEER), "load", port, seed, mib, bulk, small, parallel]
    argv = node.inside([str(word) for word in words], USER)
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_LOAD_SECONDS)
    assert (done.returncode, done.stdout.strip()) == (0, str(bulk + small)), done.stderr


def seeds() -> Iterator[int]:
    given = os.environ.get("MUSTER_SOAK_SEED")
    if given is not None:
        yield int(given)
        return
    yield 1
    deadline = time.monotonic() + _SOAK_SECONDS
    while time.monotonic() < deadline:
        yield random.SystemRandom().getrandbits(32)


def test_many_channels_both_ways(rig: Rig, tmp_path: Path) -> None:
    socket = tmp_path / "peer"
    with local_end(socket), tunnel(rig, socket) as (driver, port):
        for seed in seeds():
            choose = random.Random(seed)
            load(rig.nodes[0], port, seed, choose.choice([8, 16, 24]), 4, 400, 8)
        after = driver.status()
        assert after["bytes_in"] > 20 << 20 and after["bytes_out"] > 20 << 20


def test_key_exchanges_in_between(rig: Rig, tmp_path: Path) -> None:
    """Both sides ask for new keys every few MiB, at different times."""
    socket = tmp_path / "peer"
    config = tmp_path / "config"
    config.write_text("RekeyLimit 5M\n")
    rig.nodes[0].restart_sshd(RekeyLimit="3M")
    try:
        with local_end(socket), tunnel(rig, socket, ssh_config=str(config)) as (_, port):
            for seed in seeds():
                load(rig.nodes[0], port, seed, 12, 3, 100, 4)
    finally:
        rig.nodes[0].restart_sshd()


def test_one_that_does_not_read_stops_nobody(rig: Rig, tmp_path: Path) -> None:
    """A reader that stands still holds a bounded number of bytes back, and no other connection."""
    flood = """python3 -c '
import socket, sys
connection = socket.create_connection(("localhost", int(sys.argv[1])), timeout=3)
total = 0
try:
    while total < 200_000_000: total += connection.send(bytes(65536))
except TimeoutError:
    print(total)
' {port}"""
    stuck = Listener(tmp_path / "stuck", lambda connection: connection.recv(1) and stop.wait())
    stop = threading.Event()
    with tunnel(rig, stuck.path) as (driver, port):
        before = driver.status()
        done = rig.nodes[0].run(flood.format(port=port), user=USER)
        after = driver.status()
        assert 0 < int(done.stdout) < 50_000_000
        assert after["resident"] - before["resident"] < 10 << 20
        assert after["cpu"] - before["cpu"] < 1.5, "it waits without turning"
        driver.order("finish")
        assert driver.result("serve")["status"] == 0
    stop.set()
    stuck.close()


def test_an_idle_tunnel_sleeps(rig: Rig, tmp_path: Path) -> None:
    listener = Listener(tmp_path / "echo", echo)
    with tunnel(rig, listener.path) as (driver, port):
        rig.nodes[0].run(
            f'python3 -c \'import socket; c = socket.create_connection(("localhost", {port})); '
            'c.sendall(b"x"); c.recv(1)\''
        )
        wait_until(lambda: listener.connections[0].fileno() < 0, "the connection is over")
        before = driver.status()
        with pytest.raises(queue.Empty):
            driver.lines.get(timeout=1)
        after = driver.status()
    listener.close()
    assert after["cpu"] - before["cpu"] < 0.5, "it waits without turning"
