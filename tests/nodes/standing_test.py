"""Workers that are services of their nodes: tunnels bring the broker to them, keys let them in."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.client import Client
from nodes.rig import ROOT, USER, Node, Rig, wait_until

PORT = 5670
WORKER = ROOT / "build" / "release" / "bin" / "muster-worker"
MUSTER = ROOT / "build" / "release" / "bin" / "muster"


class Service:
    """`muster-worker` on a node, as its service manager starts it."""

    def __init__(self, node: Node, broker_key: Path) -> None:
        (node.home / "broker.key.pub").write_text(broker_key.read_text())
        options = f"--connect tcp://127.0.0.1:{PORT} --key n.key --broker-key broker.key.pub"
        script = f"cd && exec {WORKER} {options} --node {node.name} --slots 2 --python none"
        self.log = node.folder / "service.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                node.inside(["env", f"HOME=/home/{USER}", "sh", "-c", script], USER),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def runs(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig(1) as rig:
        yield rig


@pytest.fixture
def service(rig: Rig, client: Client) -> Iterator[Service]:
    """Everybody has a key and knows the other's; no broker runs yet."""
    node = rig.nodes[0]
    config = rig.home / ".config" / "muster"
    config.mkdir(parents=True)
    keys = client.run("keygen", "--name", "broker", "--output", str(config / "broker.key"))
    assert keys.returncode == 0, keys.stderr
    made = node.run(f"cd ~{USER} && {MUSTER} keygen --name {node.name} --output n.key", USER)
    assert made.returncode == 0, made.stderr
    (config / "authorized_workers").write_text((node.home / "n.key.pub").read_text())
    service = Service(node, config / "broker.key.pub")
    yield service
    service.end()


def hosts(client: Client, via: str, port: int = PORT) -> str:
    return client.write_hosts(client.rig.hosts(standing=True, reverse_port=port, via=via))


def await_worker(client: Client) -> int:
    wait_until(client.workers, "the worker is there")
    return client.workers()["n1"]


@pytest.mark.parametrize("via", ["libssh", "openssh"])
def test_a_service_outlives_brokers_and_tunnels(
    rig: Rig, client: Client, service: Service, via: str
) -> None:
    node = rig.nodes[0]
    up = client.run("up", hosts(client, via))
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("1 of 1 nodes up, 2 slots")
    run = client.run("run", "--shell", "uname -n; echo {}", ":::", "x")
    assert run.stdout == "n1\nx\n"
    worker = await_worker(client)
    assert worker in node.processes("[m]uster-worker --connect")
    assert not (node.home / ".cache" / "muster" / "bundles").exists()  # nothing was uploaded

    assert client.run("down").returncode == 0
    assert service.runs()
    up = client.run("up", "hosts.toml")
    assert up.returncode == 0, up.stderr
    assert await_worker(client) == worker

    client.kill_broker()
    up = client.run("up", "hosts.toml")
    assert up.returncode == 0, up.stderr
    assert await_worker(client) == worker

    node.kill_sshd()
    wait_until(lambda: client.states()["n1"] != "up", "it is missed")
    node.start_sshd()
    wait_until(lambda: client.states()["n1"] == "up", "the tunnel is back")
    assert client.run("run", "--shell", "echo {}", ":::", "back").stdout == "back\n"
    assert await_worker(client) == worker
    assert service.runs(), service.log.read_text()


def documented_options() -> str:
    """What docs/services.md says before the key in authorized_keys."""
    found = re.search(
        r"^ *(restrict,\S*) ssh-ed25519", (ROOT / "docs/services.md").read_text(), re.M
    )
    assert found is not None
    return found[1].replace("5670", str(PORT))


@pytest.mark.parametrize("via", ["libssh", "openssh"])
def test_the_documented_key_opens_one_tunnel_only(
    rig: Rig, client: Client, service: Service, via: str
) -> None:
    node = rig.nodes[0]
    node.authorize(documented_options())
    up = client.run("up", hosts(client, via))
    assert up.returncode == 0, up.stderr
    assert client.run("run", "--shell", "uname -n; : {}", ":::", "x").stdout == "n1\n"
    assert client.run("down").returncode == 0

    up = client.run("up", "--wait", "10", hosts(client, via, PORT + 1))
    assert up.returncode == 1
    row = client.status()["nodes"][0]
    assert (row["state"], row["step"]) == ("failed", "forward")
    assert "permitlisten" in row["detail"], row
    assert client.run("down").returncode == 0

    # No shell, no command, no files, no connections from the node.
    ssh = shlex.split(f"ssh -F none -i {rig.key} -o UserKnownHostsFile={rig.home}/.ssh/known_hosts")
    for flags, words in (
        ("", ""),
        ("", "touch hit"),
        ("-s", "sftp"),
        ("-W 127.0.0.1:22", ""),
        ("-N -o ExitOnForwardFailure=yes -R 127.0.0.1:9999:127.0.0.1:1", ""),
    ):
        done = subprocess.run(
            [*ssh, *flags.split(), node.address, *words.split()],
            check=False,
            input=b"touch hit\n",
            capture_output=True,
            timeout=60,
            env=rig.environment,
        )
        assert done.returncode != 0, (flags, words, done)
        assert b"SSH-2.0" not in done.stdout
    assert not (node.home / "hit").exists()


def test_a_broker_without_keys_says_what_it_needs(rig: Rig, client: Client) -> None:
    up = client.run("up", "--wait", "10", hosts(client, "libssh"))
    assert up.returncode == 1
    assert "broker.key" in up.stderr and "authorized_workers" in up.stderr, up.stderr


def test_a_worker_that_is_not_authorized_stays_outside(
    rig: Rig, client: Client, service: Service
) -> None:
    authorized = rig.home / ".config" / "muster" / "authorized_workers"
    other = client.run("keygen", "--name", "n1", "--output", str(rig.home / "other.key"))
    assert other.returncode == 0
    good = authorized.read_text()
    authorized.write_text((rig.home / "other.key.pub").read_text())
    up = client.run("up", "--wait", "2", hosts(client, "libssh"))
    assert up.returncode == 1
    wait_until(lambda: client.status()["counters"]["logins_refused"] > 0, "it was refused")
    assert client.workers() == {}
    authorized.write_text(good)
    for broker in client.brokers():
        os.kill(broker, signal.SIGHUP)
    assert client.run("run", "--shell", "uname -n; : {}", ":::", "x").stdout == "n1\n"
    assert service.runs()
