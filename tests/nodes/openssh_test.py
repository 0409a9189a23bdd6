"""A pool whose tunnels are the system's ssh."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from nodes.pool import WORKER, Pool, pool
from nodes.rig import wait_until


def masters(it: Pool) -> list[str]:
    """The ssh processes of this rig's client, wherever they run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].rpartition(b"/")[2] == b"ssh" and str(it.rig.home) in repr(words):
            found.append(repr(words))
    return found


def test_a_pool_through_openssh(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as temporary, pool(2, slots=1, via="openssh") as it:
        monkeypatch.setenv("TMPDIR", temporary)
        controls = Path(temporary)
        nodes = it.rig.nodes
        assert "2 of 2 nodes up" in it.muster("up", str(it.file)).stdout
        assert {it.node(node.name)["via"] for node in nodes} == {"openssh"}
        assert set(it.run("sleep 0.1; uname -n; : {}", *map(str, range(10)))) == {"n1", "n2"}
        workers = it.workers()
        assert len(masters(it)) >= 2
        assert len(list(controls.iterdir())) == 2

        task = it.start("echo {} >> starts; while [ ! -e go ]; do sleep 0.02; done; echo {}", "x")
        wait_until(lambda: any((node.home / "starts").exists() for node in nodes), "the task runs")
        for node in nodes:
            node.kill_sshd()
        wait_until(lambda: it.node("n1")["state"] != "up", "it is missed")
        wait_until(lambda: it.node("n2")["state"] != "up", "it is missed")
        for node in nodes:
            (node.home / "go").touch()
            node.start_sshd()
        assert task.communicate(timeout=60)[0] == "x\n"
        for node in nodes:
            it.await_state(node.name, "up")
        wait_until(lambda: it.workers() == workers, "the same workers are back")

        it.down()
        for node in nodes:
            assert node.processes(WORKER) == []
            assert node.run("ls /home/ada/.cache/muster/run").stdout == ""
            wait_until(lambda node=node: not node.processes("[s]shd: ada"), "no session is left")
        assert it.broker() == 0
        assert masters(it) == []
        assert list(controls.iterdir()) == []
