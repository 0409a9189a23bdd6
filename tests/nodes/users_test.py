"""Large data between users of one machine: a broker of one, programs and workers of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.rig import wait_until

import muster
from muster.provider import programs_folder

OWNER, MEMBER, STRANGER, GROUP = 20011, 20012, 20013, 20010
PATIENCE = 120.0

SETUP = """
import mmap, os, sys
import numpy as np
from muster import ComputePool

os.umask(0o077)
data = np.random.default_rng(7).integers(0, 256, 20_000_000, dtype=np.uint8)

def total(array, number=11):
    shares = os.path.exists(os.environ["MUSTER_BLOBS"] + "/shares")
    return shares, os.getuid(), int(array[number])

def mapped_file(array):
    address = array.__array_interface__["data"][0]
    for line in open("/proc/self/maps"):
        begin, _, end = line.split()[0].partition("-")
        if int(begin, 16) <= address < int(end, 16):
            return line.split()[5] if len(line.split()) > 5 else ""
"""


class Users:
    """A folder that all users may enter, a home for each, and what runs as whom."""

    def __init__(self, built: Path) -> None:
        self.built = built
        self.folder = Path(tempfile.mkdtemp(prefix="muster-users-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "run" / "broker"
        self.endpoint = f"ipc://{self.socket}"
        for user in (OWNER, MEMBER, STRANGER):
            self.home(user).mkdir(mode=0o700)
            os.chown(self.home(user), user, user)
        for name, mode in (("run", 0o750), ("disk", 0o750)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
            os.chown(self.folder / name, OWNER, GROUP)
        self._started: list[subprocess.Popen[bytes]] = []

    def home(self, user: int) -> Path:
        return self.folder / f"home-{user}"

    def command(self, user: int, *argv: str, group: int | None = None) -> list[str]:
        """By default the user's own group is the first, and GROUP another, except for strangers."""
        others = "--clear-groups" if user == STRANGER else f"--groups={GROUP}"
        words = ["setpriv", f"--reuid={user}", f"--regid={group or user}", others]
        return [*words, "sh", "-c", 'umask 077; exec "$@"', "sh", *argv]

    def environment(self, user: int) -> dict[str, str]:
        kept = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        return kept | {
            "HOME": str(self.home(user)),
            "MUSTER_BROKER": self.endpoint,
            "PYTHONPATH": str(self.built / "python"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(
        self, user: int, program: str, *argv: str, group: int | None = None
    ) -> subprocess.Popen[bytes]:
        words = self.command(user, str(self.built / "bin" / program), *argv, group=group)
        started = subprocess.Popen(words, env=self.environment(user), cwd="/")
        self._started.append(started)
        return started

    def start_broker(self, *options: str) -> None:
        self.start(OWNER, "muster-broker", "--listen", self.endpoint, *options, group=GROUP)
        wait_until(self.socket.exists, "the broker listens")
        self.socket.chmod(0o660)  # what its service does
        os.chown(self.socket, OWNER, GROUP)

    def start_worker(self, user: int) -> subprocess.Popen[bytes]:
        return self.start(user, "muster-worker", "--slots", "1")

    def run(self, user: int, script: str, *arguments: str) -> str:
        done = subprocess.run(
            self.command(user, sys.executable, "-c", SETUP + textwrap.dedent(script), *arguments),
            env=self.environment(user),
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        for process in reversed(self._started):
            process.terminate()
            process.wait(PATIENCE)
        shutil.rmtree(self.folder)
        for user in (OWNER, MEMBER, STRANGER):
            assert not list(Path("/dev/shm").glob(f"muster-{user}*")), "nothing is left"


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """Programs and package where every user may read them, laid out as in the build tree."""
    package = Path(muster.__file__).parent
    with tempfile.TemporaryDirectory(prefix="muster-built-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(package, folder / "python" / "muster")
        (folder / "bin").mkdir()
        for program in ("muster-broker", "muster-worker", "muster-runner"):
            shutil.copy(Path(programs_folder(), program), folder / "bin")
        yield folder


@pytest.fixture
def users(built: Path) -> Iterator[Users]:
    made = Users(built)
    try:
        yield made
    finally:
        made.end()


SHARED = """
with ComputePool() as pool:
    assert pool.session.space.available, "it shares the broker's folders"
    shares, user, value = pool.submit(total, data).result(60)
    assert value == data[11]
    print("the worker", "shares them" if shares else "has copies")
    returned = pool.submit(lambda array: array + 1, data).result(60)
    assert (returned == data + 1).all()
    print("the result is", "mapped" if "/muster-" in mapped_file(returned) else "read")
    first = returned[:10].tolist()
    returned[0] = 5
    scattered = pool.scatter(data)
    del data
    values = [pool.submit(total, scattered, number).result(60)[2] for number in range(10)]
    assert [(value + 1) % 256 for value in values] == first
"""
APART = """
with ComputePool() as pool:
    assert not pool.session.space.available
    assert pool.submit(total, data).result(60)[2] == data[11]
    returned = pool.submit(lambda array: array + 1, data).result(60)
    assert (returned == data + 1).all()
    assert pool.submit(lambda size: "x" * size, 5_000_000).result(60) == "x" * 5_000_000
    print("all is well")
"""


MAPPED = """
path = os.path.expanduser("~/data.npy")
np.save(path, data)
assert os.stat(path).st_mode & 0o777 == 0o600
mapped = np.load(path, mmap_mode="r")
with ComputePool() as pool:
    for array in (mapped, mapped[1000:]):
        for number in range(3):
            assert pool.submit(total, array, number).result(60)[2] == array[number]
print("all is well")
"""


def modes(folder: Path) -> set[tuple[str, str]]:
    """Kind and mode of what is in a broker's folder."""
    found = folder.glob("broker-*/**/*")
    return {("folder" if f.is_dir() else "file", f"{f.stat().st_mode & 0o7777:o}") for f in found}


@pytest.mark.parametrize("worker", [OWNER, MEMBER])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_group_shares_the_brokers_folders(users: Users, worker: int, place: str) -> None:
    options = ["--blob-memory", "1MiB"] if place == "disk" else []
    if worker == MEMBER:
        options += ["--worker-users", str(MEMBER)]
    users.start_broker("--blob-group", "--blob-folder", str(users.folder / "disk"), *options)
    users.start_worker(worker)
    assert users.run(MEMBER, SHARED).splitlines()[0] == "the worker shares them"
    folders = [Path(f"/dev/shm/muster-{OWNER}-{GROUP}"), users.folder / "disk"]
    found = modes(folders[0]) | modes(folders[1])
    assert found >= {("folder", "1730"), ("file", "444")}, found
    assert not list(folders[0].glob("broker-*/incoming/*")), "all is taken"
    for folder in folders:
        looked = users.command(STRANGER, "ls", *map(str, folder.glob("broker-*")))
        assert subprocess.run(looked, check=False, capture_output=True).returncode != 0, folder


def test_a_broker_of_its_user_alone_does_not_close_the_folders(users: Users) -> None:
    alone = users.home(OWNER) / "socket"
    users.start(OWNER, "muster-broker", "--listen", f"ipc://{alone}")
    wait_until(alone.exists, "the first broker listens")
    users.start_broker("--blob-group", "--blob-folder", str(users.folder / "disk"))
    users.start_worker(OWNER)
    assert users.run(MEMBER, SHARED) == "the worker shares them\nthe result is mapped\n"


def test_who_cannot_enter_the_folders_gets_everything_in_messages(users: Users) -> None:
    users.start_broker("--blob-group")  # on disk in the home of its user, which is closed
    users.start_worker(OWNER)
    assert users.run(MEMBER, APART) == "all is well\n"
    assert users.run(OWNER, SHARED) == "the worker shares them\nthe result is mapped\n"


def test_a_broker_without_a_group_gives_a_member_everything_in_messages(users: Users) -> None:
    users.start_broker()
    users.start_worker(OWNER)
    assert users.run(MEMBER, APART) == "all is well\n"


def test_a_file_that_only_its_user_can_read_is_copied(users: Users) -> None:
    users.start_broker("--blob-group", "--blob-folder", str(users.folder / "disk"))
    users.start_worker(OWNER)
    assert users.run(MEMBER, MAPPED) == "all is well\n"


def test_a_members_worker_is_refused_and_told_why(users: Users) -> None:
    users.start_broker()
    assert users.start_worker(MEMBER).wait(PATIENCE) != 0
    users.start_worker(OWNER)
    script = """
        with ComputePool() as pool:
            print(pool.submit(os.getuid).result(60))
    """
    assert users.run(MEMBER, script) == f"{OWNER}\n"
