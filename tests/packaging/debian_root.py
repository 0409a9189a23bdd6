"""A minimal Debian of this machine's release in a folder, to install packages in.

`base_root` is made once by debootstrap from the machine's own mirror and kept in
build/packaging; every test works on a copy. Packages that were downloaded once are kept, too.
Needs root.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = SOURCE / "build" / "packaging"
# What the tests need beside a minimal system: services, and something that lists processes.
EXTRA = "systemd,systemd-sysv,procps,iproute2"
DOWNLOAD_SECONDS = 240


def release() -> str:
    """The code name of this machine's Debian."""
    text = pathlib.Path("/etc/os-release").read_text()
    match = re.search(r"^VERSION_CODENAME=(\w+)", text, re.MULTILINE)
    assert match, "not a Debian: /etc/os-release has no VERSION_CODENAME"
    return match[1]


def mirror(suite: str) -> str:
    """Where this machine gets Debian's packages of `suite`."""
    files = [pathlib.Path("/etc/apt/sources.list")]
    files += sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*.list"))
    for file in files:
        if not file.exists():
            continue
        for line in file.read_text().splitlines():
            match = re.match(rf"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s", line)
            if match:
                return match[1]
    for file in sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = dict(re.findall(r"^(\w+):\s*(.*)$", stanza, re.MULTILINE))
            if suite in fields.get("Suites", "").split():
                return fields["URIs"].split()[0]
    return "http://deb.debian.org/debian"


def run(
    command: Sequence[str | os.PathLike[str]],
    seconds: float = 60,
    check: bool = True,
    **options: str,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, in a clean environment; its output is in the error."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "TMPDIR") or name.lower().endswith("_proxy")
    }
    environment |= {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **options}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
    )
    if check:
        words = " ".join(map(str, command))
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def base_root() -> pathlib.Path:
    """The folder of an untouched minimal system; made when there is none yet."""
    suite = release()
    base = CACHE / f"root-{suite}"
    if base.exists():
        return base
    CACHE.mkdir(parents=True, exist_ok=True)
    archives = CACHE / "archives"
    archives.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="root-", dir=CACHE) as folder:
        new = pathlib.Path(folder) / "root"
        run(
            ["debootstrap", "--variant=minbase", f"--include={EXTRA}", f"--cache-dir={archives}"]
            + [suite, str(new), mirror(suite)],
            seconds=DOWNLOAD_SECONDS,
        )
        # No package may start a service: there is no init in a chroot.
        (new / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (new / "usr/sbin/policy-rc.d").chmod(0o755)
        (new / "etc/dpkg/dpkg.cfg.d/quick").write_text("force-unsafe-io\n")  # it may be lost
        shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
        Root(new).run("apt-get", "update", seconds=DOWNLOAD_SECONDS)
        new.rename(base)
    return base


class Root:
    """A copy of the minimal system that a test may change as it likes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def run(
        self, *command: str, seconds: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, with a /proc of its own; all that it started ends with it."""
        inside = 'mount -t proc proc "$1/proc" && root=$1 && shift && exec chroot "$root" "$@"'
        return run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, "sh"]
            + [str(self.path), *command],
            seconds,
            check,
            HOME="/root",
            PATH="/usr/sbin:/usr/bin:/sbin:/bin",
        )

    def install(self, *packages: str | pathlib.Path) -> None:
        """Installs packages by name or from files, with all they depend on, from the mirror."""
        names = []
        for package in packages:
            if isinstance(package, pathlib.Path):
                shutil.copy(package, self.path / "tmp" / package.name)
                names.append(f"/tmp/{package.name}")
            else:
                names.append(package)
        kept = CACHE / "packages"
        kept.mkdir(exist_ok=True)
        cached = self.path / "var/cache/apt/archives"
        for file in kept.glob("*.deb"):
            shutil.copy(file, cached)
        command = ["apt-get", "install", "-y", "--no-install-recommends"]
        # Kept, for the next root; never asked about.
        command += ["-o", "APT::Keep-Downloaded-Packages=true"]
        # Lists that were fetched long ago may name packages that are no more.
        done = self.run(*command, *names, seconds=DOWNLOAD_SECONDS, check=False)
        if done.returncode != 0:
            self.run("apt-get", "update", seconds=DOWNLOAD_SECONDS)
            self.run(*command, *names, seconds=DOWNLOAD_SECONDS)
        for file in cached.glob("*.deb"):
            if not (kept / file.name).exists():
                shutil.copy(file, kept)
            file.unlink()
        for name in names:
            if name.startswith("/tmp/"):
                (self.path / name[1:]).unlink()

    def files(self) -> set[str]:
        """Every path in it, less what package managers and caches write for themselves."""
        own = re.compile(
            r"/(proc|sys|dev|run|tmp|var/log|var/cache|var/lib/(apt|dpkg)|etc/resolv.conf"
            r"|etc/ld.so.cache|root/.cache)(/|$)|.*/__pycache__"
        )
        found = set()
        for folder, folders, files in os.walk(self.path):
            for name in folders + files:
                path = "/" + str(pathlib.Path(folder, name).relative_to(self.path))
                if not own.match(path):
                    found.add(path)
        return found


@contextlib.contextmanager
def fresh_root() -> Iterator[Root]:
    """What a test changes is in memory, over the untouched system; or a copy, where the kernel
    has no overlays."""
    base = base_root()
    with tempfile.TemporaryDirectory(prefix="copy-", dir=CACHE) as folder:
        mounts = [pathlib.Path(folder)]
        path, upper, work = (mounts[0] / name for name in ("root", "upper", "work"))
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "muster-test", mounts[0]])
        try:
            for new in (path, upper, work):
                new.mkdir()
            options = f"lowerdir={base},upperdir={upper},workdir={work}"
            command = ["mount", "-t", "overlay", "-o", options, "muster-test", path]
            if run(command, check=False).returncode == 0:
                mounts.append(path)
            else:
                run(["cp", "-a", f"{base}/.", path], seconds=DOWNLOAD_SECONDS)
            shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
            yield Root(path)
        finally:
            for mount in reversed(mounts):
                run(["umount", "--lazy", mount], check=False)
