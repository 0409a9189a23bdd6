"""What the tests of nodes share: machines, a client of them, a muster::Remote to drive."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.client import Client
from nodes.rig import USER, Node, Rig
from nodes.tunnel_driver import Connect, Driver, Listener, echo


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(1) as rig:
        yield rig


@pytest.fixture
def node(rig: Rig) -> Iterator[Node]:
    """The node as it was made, whatever an earlier test did to it."""
    node = rig.nodes[0]
    yield node
    node.authorize("")
    rig.trust_all()
    node.restart_sshd()


@pytest.fixture(scope="module")
def rig_of_two() -> Iterator[Rig]:
    with Rig(2) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[Client]:
    """Leaves no broker and no worker behind, whatever its test did."""
    client = Client(rig)
    yield client
    client.run("down")
    for process in client.brokers():
        os.kill(process, signal.SIGKILL)
    for node in rig.nodes:
        node.kill("[m]uster-worker")
    client.run("down")


@pytest.fixture(params=["libssh", "openssh"])
def via(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(via: str, rig: Rig, node: Node) -> Connect:
    def make(environment: dict[str, str] | None = None, **fields: object) -> Driver:
        host = {"address": node.host, "user": USER, "via": via, **fields}
        return Driver(rig.environment | (environment or {}), **host)

    return make


@pytest.fixture
def echo_socket(tmp_path: Path) -> Iterator[Path]:
    listener = Listener(tmp_path / "echo", echo)
    yield listener.path
    listener.close()
