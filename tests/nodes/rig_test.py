"""The rig itself: its nodes are machines that ssh reaches, apart from each other."""

from __future__ import annotations

import subprocess
import time

from nodes.rig import Node, Rig, wait_until


def ssh(rig: Rig, node: Node, command: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-i", str(rig.key), "-p", str(node.port)]
    argv += ["-o", f"UserKnownHostsFile={rig.home}/.ssh/known_hosts", node.address.split(":")[0]]
    argv += ["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5", command]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def test_every_node_is_a_machine_of_its_own() -> None:
    with Rig(2) as rig:
        names = [ssh(rig, node, "hostname; id -un; pwd").stdout.split() for node in rig.nodes]
        assert names == [["n1", "ada", "/home/ada"], ["n2", "ada", "/home/ada"]]
        assert ssh(rig, rig.nodes[0], "touch here").returncode == 0
        assert (rig.nodes[0].home / "here").exists()
        assert not (rig.nodes[1].home / "here").exists()
        rig.nodes[0].kill_sshd()
        assert ssh(rig, rig.nodes[0], "true").returncode == 255
        rig.nodes[0].start_sshd()
        rig.nodes[0].await_sshd()
        rig.nodes[1].change_host_key()
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ssh(rig, rig.nodes[1], "true").stderr
        rig.trust_all()
        for node in rig.nodes:
            wait_until(lambda node=node: ssh(rig, node, "true").returncode == 0, "both are back")


def test_a_delayed_link_takes_its_time() -> None:
    with Rig(1, delay_ms=50) as rig:
        begin = time.monotonic()
        assert ssh(rig, rig.nodes[0], "echo far").stdout == "far\n"
        assert time.monotonic() - begin > 0.2  # a handshake has more than four round trips
