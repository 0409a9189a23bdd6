"""`muster up` over machines behind real sshds (tests/nodes/rig.py), in a sandbox of their own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from chaos.local_pool import other_processes
from chaos.marks import now
from chaos.schedule import Fault, Kind
from chaos.subject import Subject, signal_process, wait_for
from nodes.machine import Node, RigError, command
from nodes.pool import WORKER, Pool
from nodes.rig import USER, USER_ID, Rig

_SLOTS = 3
_SHORT = (0.5, 2.0)
_OURS = "[m]uster-worker|[m]uster-runner|[m]uster.runner"
# A narrow link with a long queue, and one that drops what goes beyond its rate.
_SLOW = "rate 8mbit burst 64k latency 400ms"
_LOSSY = "rate 4mbit burst 8k latency 2ms"


class NodePool(Subject):
    """Owner: run.py."""

    def __init__(self, rnd: random.Random, logs: Path) -> None:
        super().__init__(logs)
        self._rig = Rig(rnd.choice((2, 3)))
        self.slots = _SLOTS * len(self._rig.nodes)
        self.kills_runners = rnd.random() < 0.5
        self._via = rnd.choice(("libssh", "libssh", "openssh"))
        self._pool = Pool(self._rig, slots=_SLOTS, python="3.11", via=self._via)
        self._ups: list[subprocess.Popen[bytes]] = []
        self._routes = threading.Lock()
        for node in self._rig.nodes:
            marks = node.home / "marks"
            marks.mkdir()
            os.chown(marks, USER_ID, USER_ID)
        self._up()

    @property
    def environment(self) -> dict[str, str]:
        # Named: a producer that starts while no broker runs must wait for it.
        environment = self._rig.environment
        endpoint = f"ipc://{environment['XDG_RUNTIME_DIR']}/muster/broker"
        return environment | {"MUSTER_BROKER": endpoint, "PYTHONFAULTHANDLER": "1"}

    @property
    def folder(self) -> Path:
        return self._rig.home

    def marks_file(self, load: str) -> str:
        return f"/home/{USER}/marks/{load}"

    def marks_files(self, load: str) -> list[Path]:
        return [node.home / "marks" / load for node in self._rig.nodes]

    def kinds(self) -> list[Kind]:
        def named(part: str) -> list[str]:
            return [f"{part} {node.name}" for node in self._rig.nodes]

        kinds = [
            Kind("kill broker", 3, ["broker"], (0.0, 0.2, 3.0)),
            Kind("stop broker", 2, ["broker"], _SHORT, long=True),
            Kind("kill worker", 2, named("worker"), loses=True),
            Kind("stop worker", 2, named("worker"), _SHORT, long=True),
            Kind("stop runner", 1, named("runner"), _SHORT),
            Kind("stop producer", 1, [f"producer {number}" for number in range(4)], _SHORT),
            Kind("kill sshd", 3, named("sshd"), (0.0, 1.0, 3.0)),
            Kind("stop sshd", 2, named("sshd"), _SHORT, long=True),
            Kind("cut link", 3, named("link"), _SHORT, long=True),
            Kind("narrow link", 1, named("link"), (2.0, 5.0)),
            Kind("lossy link", 1, named("link"), (2.0, 5.0)),
        ]
        if self.kills_runners:
            kinds.append(Kind("kill runner", 2, named("runner")))
        return kinds

    # --- Faults, by their names

    def _node(self, fault: Fault) -> Node:
        name = fault.target.split()[1]
        return next(node for node in self._rig.nodes if node.name == name)

    def _up(self) -> None:
        argv = ["muster", "up", "--wait", "60", str(self._pool.file)]
        self._ups.append(self.start("up", argv))

    def kill_broker(self, fault: Fault) -> bool:
        process = self._pool.broker()
        if not process:
            return False
        effect = self.note("kill", "broker")
        signal_process(process, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{process}").exists(), 20)
        effect.begin = now()
        self.last(fault.seconds)
        self._up()
        effect.end = now()
        return True

    def stop_broker(self, fault: Fault) -> bool:
        process = self._pool.broker()
        return bool(process) and self.pause(process, "broker", fault.seconds)

    def _signal(self, node: Node, process: int, number: int) -> bool:
        return node.run(f"kill -{number} {process}").returncode == 0

    def _worker(self, node: Node) -> int:
        found = node.processes(WORKER)
        return found[0] if found else 0

    def _runner(self, fault: Fault) -> int:
        node = self._node(fault)
        worker = self._worker(node)
        found = node.run(f"pgrep -P {worker}").stdout.split() if worker else []
        return int(found[int(fault.at * 100) % len(found)]) if found else 0

    def kill_worker(self, fault: Fault) -> bool:
        return self._kill(self._node(fault), "worker", self._worker(self._node(fault)))

    def kill_runner(self, fault: Fault) -> bool:
        return self._kill(self._node(fault), "runner", self._runner(fault))

    def _kill(self, node: Node, part: str, process: int) -> bool:
        if not process:
            return False
        effect = self.note("kill", part, host=node.name, process=process)
        killed = self._signal(node, process, signal.SIGKILL)
        effect.end = now()
        return killed

    def stop_worker(self, fault: Fault) -> bool:
        return self._pause(fault, "worker", self._worker(self._node(fault)))

    def stop_runner(self, fault: Fault) -> bool:
        return self._pause(fault, "runner", self._runner(fault))

    def _pause(self, fault: Fault, part: str, process: int) -> bool:
        node = self._node(fault)
        if not process or not self._signal(node, process, signal.SIGSTOP):
            return False
        effect = self.note("stop", part, host=node.name, process=process)
        self.last(fault.seconds)
        self._signal(node, process, signal.SIGCONT)
        effect.end = now()
        return True

    def kill_sshd(self, fault: Fault) -> bool:
        node = self._node(fault)
        effect = self.note("link", "node", host=node.name)
        node.kill_sshd()
        self.last(fault.seconds)
        node.start_sshd()
        effect.end = now()
        return True

    def stop_sshd(self, fault: Fault) -> bool:
        node = self._node(fault)
        effect = self.note("link", "node", host=node.name)
        node.stop_sshd()
        self.last(fault.seconds)
        node.continue_sshd()
        effect.end = now()
        return True

    def cut_link(self, fault: Fault) -> bool:
        node = self._node(fault)
        effect = self.note("link", "node", host=node.name)
        node.cut()
        self.last(fault.seconds)
        node.restore()
        effect.end = now()
        return True

    def narrow_link(self, fault: Fault) -> bool:
        return self._shape(fault, _SLOW)

    def lossy_link(self, fault: Fault) -> bool:
        return self._shape(fault, _LOSSY)

    def _shape(self, fault: Fault, rule: str) -> bool:
        """Both ways."""
        node = self._node(fault)
        effect = self.note("link", "node", host=node.name)
        tools = (["tc"], ["tc", "-n", node.namespace])
        for tool, device in zip(tools, (node.interface, "eth0")):
            command(*tool, "qdisc", "replace", "dev", device, "root", "tbf", *rule.split())
        self.last(fault.seconds)
        for tool, device in zip(tools, (node.interface, "eth0")):
            command(*tool, "qdisc", "delete", "dev", device, "root")
        effect.end = now()
        return True

    # --- The end

    def close(self) -> list[str]:
        problems = []
        for up in self._ups:
            try:
                up.wait(90)
            except subprocess.TimeoutExpired:
                problems.append("`muster up` does not end")
                up.kill()
        down = self._pool.muster("down")
        if down.returncode != 0:
            problems.append(f"`muster down` ended with {down.returncode}: {down.stderr[-500:]}")
        self._keep_logs()
        for node in self._rig.nodes:
            problems += self._leftovers_of(node)
        problems += self._leftovers_here()
        try:
            self._rig.close()
        except RigError as error:
            problems.append(str(error))
        if not wait_for(lambda: not other_processes(), 10):
            problems.append(f"left processes: {other_processes()[:5]}")
        return problems

    def _keep_logs(self) -> None:
        for node in self._rig.nodes:
            shutil.copy(node.folder / "sshd.log", self.logs / f"sshd-{node.name}.txt")
            log = node.run(f"cat /home/{USER}/.cache/muster/run/*/log").stdout
            (self.logs / f"worker-{node.name}.log").write_text(log)
        for log in (self._rig.home / "run").rglob("broker.log"):
            shutil.copy(log, self.logs / "broker.log")

    def _leftovers_of(self, node: Node) -> list[str]:
        left: dict[str, object] = {}

        def nothing_left() -> bool:
            left["processes"] = node.run(f"pgrep -af '{_OURS}' || :").stdout
            left["/dev/shm"] = node.run("find /dev/shm -mindepth 1").stdout
            left["/tmp"] = node.run("find /tmp -mindepth 1").stdout
            left["runs"] = node.run(f"ls -A /home/{USER}/.cache/muster/run").stdout
            return not any(left.values())

        if wait_for(nothing_left, 15):
            return []
        return [f"left on {node.name}, {what}: {text}" for what, text in left.items() if text]

    def _leftovers_here(self) -> list[str]:
        left: list[str] = []

        def nothing_left() -> bool:
            left[:] = [str(each) for each in Path("/dev/shm").rglob("*")]
            left.extend(str(each) for each in (self._rig.home / "run").rglob("*"))
            return not left

        return [] if wait_for(nothing_left, 10) else [f"left here: {left[:5]}"]
