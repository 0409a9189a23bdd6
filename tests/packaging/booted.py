"""Boots the systemd of a Debian root in namespaces, as its process 1: real services, watched,
sandboxed and stopped by the real service manager. Needs root and a writable cgroup2.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from debian_root import Root, run

PATIENCE_SECONDS = 60.0

# In namespaces of its own, before it becomes process 1 of $1. systemd makes the credentials of a
# service in a mount namespace that shares what it mounts, hence the last mount.
BOOT = """
set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --make-rprivate "$root/sys"
umount -R "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/old"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ip link set lo up
cd "$root"
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""
UNWANTED = ("systemd-udevd", "systemd-networkd", "systemd-resolved", "systemd-timesyncd",
            "systemd-logind", "getty@tty1", "console-getty", "apt-daily.timer",
            "apt-daily-upgrade.timer", "dpkg-db-backup.timer")  # fmt: skip


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Polls; what is slow here is processes that start."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


class Machine:
    def __init__(self, root: Root, init: int) -> None:
        self.root = root
        self._init = init

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--all", *words]

    def run(
        self, *words: str, seconds: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return run(self.command(*words), seconds, check, PATH="/usr/sbin:/usr/bin:/sbin:/bin")

    def show(self, unit: str, field: str) -> str:
        return self.run("systemctl", "show", "--property", field, "--value", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--unit", unit, "--lines", "40").stdout

    def drop_in(self, unit: str, lines: str) -> None:
        folder = self.root.path / "etc/systemd/system" / f"{unit}.service.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{lines}")
        self.run("systemctl", "daemon-reload")


def cgroup_folder() -> pathlib.Path:
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        match = re.match(r"\S+ (\S+) cgroup2 (\S+)", line)
        if match and "rw" in match[2].split(","):
            return pathlib.Path(match[1])
    pytest.skip("no cgroup2 that may be written, so systemd cannot run here")


def remove_cgroups(folder: pathlib.Path) -> bool:
    """Whether it could: processes that were killed hold theirs for a moment."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not folder.exists()


@contextlib.contextmanager
def booted(root: Root) -> Iterator[Machine]:
    for unit in UNWANTED:
        name = unit if "." in unit else f"{unit}.service"
        (root.path / "etc/systemd/system" / name).symlink_to("/dev/null")
    group = cgroup_folder() / f"muster-test-{os.getpid()}"
    group.mkdir()
    join = f'echo $$ >"{group}/cgroup.procs" && exec "$@"'
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net"]
    outer = subprocess.Popen(
        ["sh", "-c", join, "sh", *unshare, "--cgroup", "sh", "-c", BOOT, "sh", str(root.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

        def is_up() -> bool:
            assert outer.poll() is None, outer.communicate()[1]
            ids = children.read_text().split()
            if not ids or "systemd" not in pathlib.Path(f"/proc/{ids[0]}/comm").read_text():
                return False
            state = Machine(root, int(ids[0])).run("systemctl", "is-system-running", check=False)
            return state.stdout.strip() in ("running", "degraded")

        wait_until(is_up, "systemd is up")
        yield Machine(root, int(children.read_text().split()[0]))
    finally:
        outer.send_signal(signal.SIGKILL)  # and its child with all that this started
        outer.communicate()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "all processes are gone")
        wait_until(lambda: remove_cgroups(group), "its control groups are gone")
