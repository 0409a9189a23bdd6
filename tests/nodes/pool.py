"""A pool over the nodes of a rig, as someone at the rig's command line sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodes.rig import Rig, wait_until

WORKER = "[m]uster-worker --control"


class Pool:
    """`muster` on the rig's machine."""

    def __init__(self, rig: Rig, **defaults: object) -> None:
        self.rig = rig
        self.file = rig.home / "hosts.toml"
        self.file.write_text(rig.hosts(**defaults))

    def muster(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["muster", *words],
            check=False,
            env=self.rig.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def up(self, wait: float = 60) -> str:
        """What it said; checks nothing."""
        return self.muster("up", "--wait", str(wait), str(self.file)).stderr

    def down(self) -> None:
        self.muster("down")

    def status(self) -> dict[str, Any]:
        text = self.muster("status", "--json").stdout
        return json.loads(text) if text else {"nodes": [], "workers": []}

    def node(self, name: str) -> dict[str, Any]:
        rows = [row for row in self.status()["nodes"] if row["name"] == name]
        return rows[0] if rows else {"state": "gone"}

    def await_state(self, name: str, *states: str) -> dict[str, Any]:
        wait_until(lambda: self.node(name)["state"] in states, f"{name} is {' or '.join(states)}")
        return self.node(name)

    def workers(self) -> list[int]:
        return sorted(row["process_id"] for row in self.status()["workers"])

    def run(self, command: str, *inputs: str) -> list[str]:
        done = self.muster("run", "--shell", command, ":::", *inputs)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def start(self, command: str, *inputs: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["muster", "run", "--shell", command, ":::", *inputs],
            env=self.rig.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def broker(self) -> int:
        """The process id of the rig's broker; 0: there is none."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"muster-broker") and str(self.rig.home) in repr(words):
                return int(entry.name)
        return 0

    def kill_broker(self) -> None:
        """It has let go of its lock when this returns: an empty command line comes earlier."""
        broker = self.broker()
        os.kill(broker, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{broker}").exists(), "the broker is dead")


@contextmanager
def pool(count: int, **defaults: object) -> Iterator[Pool]:
    with Rig(count) as rig:
        made = Pool(rig, **defaults)
        try:
            yield made
        finally:
            made.down()
            if broker := made.broker():
                os.kill(broker, signal.SIGKILL)
