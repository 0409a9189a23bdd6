"""One machine of a rig (nodes/rig.py): its network, mount, process and host name namespaces, and
its sshd. Owner and threads: as the rig's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodes.rig import Rig

USER = "ada"
USER_ID = 20001
NEIGHBOUR = "eve"  # another user of every node
NEIGHBOUR_ID = 20002
PATIENCE_SECONDS = 60.0
_FIRST_HOST = 10

_SSHD_CONFIG = """\
Port 22
ListenAddress 0.0.0.0
HostKey {folder}/host_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
MaxStartups 100
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""

# Process 1 of the node: prepares the mounts, then reaps whatever is orphaned.
_INIT = """\
set -e
mount -t proc proc /proc
mount --bind {folder}/home /home
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for name in passwd group shadow; do mount --bind {folder}/$name /etc/$name; done
hostname {name}
touch {folder}/ready
while :; do sleep 1000 & wait; done
"""


class RigError(RuntimeError):
    """The rig could not be built; says which command failed."""


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS
) -> None:
    """Returns when `condition()` is true; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def command(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        argv, check=False, input=stdin, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise RigError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Node:
    """One machine of a rig. `home` is /home/ada as this machine sees it."""

    def __init__(self, rig: Rig, number: int) -> None:
        self.name = f"n{number + 1}"
        self.ip = f"{rig.subnet}.{_FIRST_HOST + number}"
        self.host, self.port = self.ip, 22  # where a client connects: the delay proxy, if any
        self.namespace = f"{rig.name}n{number}"
        self.interface = f"{rig.name}v{number}"
        self.folder = rig.folder / self.name
        self.home = self.folder / "home" / USER
        self._rig = rig
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._sshd: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{USER}@{self.host}" + ("" if self.port == 22 else f":{self.port}")

    def make_files(self) -> None:
        for user, number in ((USER, USER_ID), (NEIGHBOUR, NEIGHBOUR_ID)):
            ssh = self.folder / "home" / user / ".ssh"
            ssh.mkdir(parents=True, mode=0o700)
            shutil.copy(self._rig.key.with_suffix(".pub"), ssh / "authorized_keys")
            for path in (ssh.parent, ssh, ssh / "authorized_keys"):
                os.chown(path, number, number)
        users = ((USER, USER_ID), (NEIGHBOUR, NEIGHBOUR_ID))
        passwd = "".join(f"{u}:x:{n}:{n}::/home/{u}:/bin/sh\n" for u, n in users)
        group = "".join(f"{u}:x:{n}:\n" for u, n in users)
        shadow = "".join(f"{u}:*:19000:0:99999:7:::\n" for u, _ in users)
        for name, more in (("passwd", passwd), ("group", group), ("shadow", shadow)):
            (self.folder / name).write_text(Path("/etc", name).read_text() + more)
            (self.folder / name).chmod(0o640 if name == "shadow" else 0o644)
        (self.folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=self.folder))
        (self.folder / "init.sh").write_text(_INIT.format(folder=self.folder, name=self.name))
        self._make_host_key()

    def _make_host_key(self) -> None:
        key = self.folder / "host_key"
        for old in (key, key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def known_hosts_line(self) -> str:
        place = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{place} {self.host_key}\n"

    def boot(self) -> None:
        (self.folder / "ready").unlink(missing_ok=True)
        with (self.folder / "init.log").open("ab") as log:
            self._sandbox = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--uts"]
                + ["--fork", "--kill-child", "--propagation", "private"]
                + ["sh", str(self.folder / "init.sh")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_boot(self) -> None:
        assert self._sandbox is not None
        wait_until((self.folder / "ready").exists, f"{self.name} has booted")
        self._init = int(command("pgrep", "-P", str(self._sandbox.pid)).split()[0])

    def inside(self, argv: Sequence[str], user: str | None = None) -> list[str]:
        """`argv` so that it runs on the node, as its root or as `user`."""
        enter = ["nsenter", "-t", str(self._init), "--mount", "--net", "--pid", "--uts", "--"]
        if user is None:
            return [*enter, *argv]
        return [*enter, "setpriv", "--reuid", user, "--regid", user, "--clear-groups", *argv]

    def run(
        self, command: str, user: str | None = None, seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell command on the node, as its root or as `user`; checks nothing."""
        argv = self.inside(["sh", "-c", command], user)
        return subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def processes(self, pattern: str) -> list[int]:
        """The node's own numbers of its processes whose command line matches."""
        return [int(text) for text in self.run(f"pgrep -f '{pattern}' || :").stdout.split()]

    def kill(self, pattern: str, number: int = signal.SIGKILL) -> None:
        """Signals every process of the node whose command line matches."""
        self.run(f"pkill -{number} -f '{pattern}' || :")

    # --- ssh ---

    def start_sshd(self) -> None:
        with (self.folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(
                self.inside(["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_sshd(self) -> None:
        def listens() -> bool:
            if self._sshd is not None and self._sshd.poll() is not None:
                raise RigError(f"sshd of {self.name} ended:\n{self.sshd_log()[-2000:]}")
            return "Server listening" in self.sshd_log()

        wait_until(listens, f"sshd of {self.name} listens")

    def kill_sshd(self) -> None:
        """Ends sshd and all its sessions, as a crash does. What they started lives on."""
        self.run("pkill -KILL -x sshd || :")
        if self._sshd is not None:
            self._sshd.wait(PATIENCE_SECONDS)
        (self.folder / "sshd.log").write_text("")

    def stop_sshd(self) -> None:
        """sshd and all its sessions stand still, until continue_sshd()."""
        self.run("pkill -STOP -x sshd || :")

    def continue_sshd(self) -> None:
        self.run("pkill -CONT -x sshd || :")
        if self._sshd is not None:
            self._sshd.send_signal(signal.SIGCONT)  # nsenter stops itself with its child

    def restart_sshd(self, **options: str) -> None:
        """A new sshd with these options before the usual ones: AllowTcpForwarding="no"."""
        self.kill_sshd()
        lines = "".join(f"{key} {value}\n" for key, value in options.items())
        text = lines + _SSHD_CONFIG.format(folder=self.folder)
        (self.folder / "sshd_config").write_text(text)
        self.start_sshd()
        self.await_sshd()

    def change_host_key(self) -> None:
        """What a reinstalled, or another, machine looks like."""
        self._make_host_key()
        self.restart_sshd()

    def authorize(self, options: str) -> None:
        """The one line of authorized_keys, with `options` before the key."""
        key = self._rig.key.with_suffix(".pub").read_text()
        (self.home / ".ssh" / "authorized_keys").write_text(f"{options} {key}")

    def sshd_log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    # --- the machine ---

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told: a pulled cable."""
        command("ip", "link", "set", self.interface, "down")

    def restore(self) -> None:
        command("ip", "link", "set", self.interface, "up")

    def limit_disk(self, size: str) -> None:
        """~/.cache is a disk of its own of this size ("1m")."""
        self.run(f"mkdir -p /home/{USER}/.cache")
        done = self.run(
            f"mount -t tmpfs -o size={size},uid={USER_ID},gid={USER_ID} tmpfs /home/{USER}/.cache"
        )
        if done.returncode != 0:
            raise RigError(done.stderr)

    def unlimit_disk(self) -> None:
        self.run(f"umount -l /home/{USER}/.cache")

    def limit_memory(self, size: str) -> None:
        """/dev/shm has this size ("64m"); what is in it stays."""
        done = self.run(f"mount -o remount,size={size} /dev/shm")
        if done.returncode != 0:
            raise RigError(done.stderr)

    def crash(self) -> None:
        """Every process of the node is gone at once."""
        assert self._sandbox is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._sandbox.wait(PATIENCE_SECONDS)
        if self._sshd is not None:
            self._sshd.wait(PATIENCE_SECONDS)

    def delay(self, milliseconds: float) -> None:
        """From now on clients reach the node through a link with this round trip."""
        self._proxy = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("delay_proxy.py"))]
            + [self.ip, "22", str(milliseconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._proxy.stdout is not None
        self.host, self.port = "127.0.0.1", int(self._proxy.stdout.readline())

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()
        if self._sandbox is not None and self._init:
            self.crash()
