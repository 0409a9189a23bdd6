"""Someone at the command line of a rig: `muster`, its output, and what runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from nodes.rig import Node, Rig, wait_until

PATIENCE = 120.0


class Client:
    """Someone at the rig's command line."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.folder = rig.home / "project"
        self.folder.mkdir(exist_ok=True)
        self.runtime = Path(rig.environment["XDG_RUNTIME_DIR"])

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["muster", *words],
            env=self.rig.environment | environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["muster", *words],
            env=self.rig.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write_hosts(self, text: str, name: str = "hosts.toml") -> str:
        (self.folder / name).write_text(text)
        return name

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def states(self) -> dict[str, str]:
        return {node["name"]: node["state"] for node in self.status()["nodes"]}

    def workers(self) -> dict[str, int]:
        """The process of each node's worker."""
        return {row["node"]: row["process_id"] for row in self.status()["workers"]}

    def brokers(self) -> list[int]:
        """Processes that listen in this client's runtime folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"/muster-broker") and str(self.runtime).encode() in words[2]:
                found.append(int(entry.name))
        return found

    def kill_broker(self) -> None:
        """It has let go of its lock when this returns: its command line goes earlier."""
        broker = self.brokers()[0]
        os.kill(broker, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{broker}").exists(), "the broker is dead")

    def kill_for_good(self) -> None:
        """The broker, and who would start it again."""
        kill_with_keeper(self.brokers()[0])


def kill_with_keeper(broker: int) -> None:
    keeper = int(Path(f"/proc/{broker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGSTOP)  # killed first, it would have the broker end in peace
    os.kill(broker, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{broker}").exists(), "the broker is dead")


def has_worker(node: Node) -> bool:
    return bool(node.processes("[m]uster-worker"))
