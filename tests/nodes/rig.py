"""Machines to ssh into, on this machine: each node is a network, mount, process and host name
namespace with an sshd of its own, its own address, users and /home.

    with Rig(3) as rig:
        node = rig.nodes[0]
        node.address                    # "ada@10.91.0.10": what a hosts file says
        subprocess.run([...], env=rig.environment)   # a client with its own HOME, key, known_hosts
        node.run("pgrep -f muster-worker")            # as the node's root
        node.kill_sshd(); node.start_sshd(); node.cut(); node.restore()

Needs root and the packages of scripts/setup. A rig that was killed is cleaned up by a later one.
Threads: one at a time per rig; rigs of different processes do not meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from nodes.machine import (
    NEIGHBOUR,
    PATIENCE_SECONDS,
    USER,
    USER_ID,
    Node,
    RigError,
    command,
    wait_until,
)

__all__ = [
    "NEIGHBOUR",
    "PATIENCE_SECONDS",
    "ROOT",
    "USER",
    "USER_ID",
    "Node",
    "Rig",
    "RigError",
    "wait_until",
]

ROOT = Path(__file__).resolve().parent.parent.parent
_LOCKS = Path("/run/muster-rig")
_MOST_RIGS = 200


class Rig:
    """`count` nodes, up and running; `delay_ms`: the round trip of every link."""

    def __init__(self, count: int, *, delay_ms: float = 0) -> None:
        if os.geteuid() != 0:
            raise RigError("nodes are network namespaces: run the tests as root")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._lock, index = _take_lock()
        self.name = f"mrig{index}"
        self.subnet = f"10.91.{index}"
        _remove_leftovers(self.name)
        self.folder = Path(tempfile.mkdtemp(prefix="muster-rig-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.home = self.folder / "client"
        self.key = self.home / ".ssh" / "id_ed25519"
        self.nodes = [Node(self, number) for number in range(count)]
        try:
            self._make_client()
            self._make_network()
            self._start_nodes()
            if delay_ms:
                for node in self.nodes:
                    node.delay(delay_ms)
            self.trust_all()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """Of a client whose home is the rig's, with this tree's programs and Python package."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MUSTER_", "SSH_", "XDG_"))
        }
        tree = ROOT / "build" / "release"
        return kept | {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "PATH": f"{tree / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONPATH": str(tree / "python"),
        }

    def hosts(self, **defaults: object) -> str:
        """A hosts file with all nodes; strings, numbers and lists of strings as defaults."""
        lines = ["[defaults]"] + [f"{key} = {_toml(value)}" for key, value in defaults.items()]
        for node in self.nodes:
            lines += ["[[host]]", f'name = "{node.name}"', f'address = "{node.address}"']
        return "\n".join(lines) + "\n"

    def trust_all(self) -> None:
        """known_hosts has the present key of every node."""
        lines = "".join(node.known_hosts_line() for node in self.nodes)
        (self.home / ".ssh" / "known_hosts").write_text(lines)

    def _make_client(self) -> None:
        for path in (self.home / ".ssh", self.home / "run"):
            path.mkdir(parents=True, mode=0o700)
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", str(self.key))

    def _make_network(self) -> None:
        lines = [
            f"link add {self.name} type bridge",
            f"addr add {self.subnet}.1/24 dev {self.name}",
            f"link set {self.name} up",
        ]
        for node in self.nodes:
            command("ip", "netns", "add", node.namespace)
            lines += [
                f"link add {node.interface} type veth peer name eth0 netns {node.namespace}",
                f"link set {node.interface} master {self.name} up",
            ]
        command("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for node in self.nodes:
            inner = f"addr add {node.ip}/24 dev eth0\nlink set lo up\nlink set eth0 up\n"
            command("ip", "-n", node.namespace, "-batch", "-", stdin=inner)

    def _start_nodes(self) -> None:
        for step in (Node.make_files, Node.boot, Node.await_boot, Node.start_sshd, Node.await_sshd):
            for node in self.nodes:
                step(node)

    def close(self) -> None:
        """Ends everything that runs on the nodes and removes every trace. Safe to call again."""
        for node in self.nodes:
            node.close()
        _remove_leftovers(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _take_lock() -> tuple[int, int]:
    _LOCKS.mkdir(exist_ok=True)
    for index in range(_MOST_RIGS):
        lock = os.open(_LOCKS / str(index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return lock, index
    raise RigError(f"{_MOST_RIGS} rigs are in use; see {_LOCKS}")


def _remove_leftovers(name: str) -> None:
    """Links and namespaces of a rig of this name: ours at the end, a killed one's at the start."""
    # A namespace takes its links along when the kernel finds the time; a next rig cannot wait.
    for link in Path("/sys/class/net").glob(f"{name}v*"):
        command("ip", "link", "delete", link.name)
    for line in command("ip", "netns", "list").splitlines():
        namespace = line.split()[0]
        if namespace.startswith(f"{name}n"):
            for process in command("ip", "netns", "pids", namespace).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            command("ip", "netns", "delete", namespace)
    if Path("/sys/class/net", name).exists():
        command("ip", "link", "delete", name)
