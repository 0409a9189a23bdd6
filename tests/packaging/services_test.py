"""The services as systemd runs them: sandboxed, watched, drained."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from booted import Machine, booted, wait_until
from debian_root import fresh_root

ENDPOINT = "ipc:///run/muster/broker"
HOME = "/var/lib/muster-worker"

# Says what a task may do; each line is compared below.
LOOK_AROUND = r"""
echo "home $HOME"
touch ~/mine && echo "may write its home"
touch /etc/mine 2>/dev/null || echo "may not write /etc"
ls /root >/dev/null 2>&1 || echo "may not read /root"
unshare -Ur true 2>/dev/null || echo "may not make namespaces"
mount -t tmpfs none /mnt 2>/dev/null || echo "may not mount"
nice -n 5 true && echo "may be nice"
taskset -p -c 0 $$ >/dev/null && echo "may choose its core"
cp -a /etc/hostname ~/copied && echo "may keep owner and mode"
python3 -c "import mmap; mmap.mmap(-1, 4096, prot=7)" && echo "may compile as it runs"
echo "core files of $(ulimit -c)"
echo "manager ${NOTIFY_SOCKET-unknown}"
"""
EXPECTED = [
    f"home {HOME}",
    "may write its home",
    "may not write /etc",
    "may not read /root",
    "may not make namespaces",
    "may not mount",
    "may be nice",
    "may choose its core",
    "may keep owner and mode",
    "may compile as it runs",
    "core files of 0",
    "manager unknown",
]


@pytest.fixture(scope="module")
def machine(packages: list[pathlib.Path]) -> Iterator[Machine]:
    with fresh_root() as root:
        root.install(*(file for file in packages if "libmuster" not in file.name))
        root.run("useradd", "--create-home", "--groups", "muster", "ada")
        root.run("useradd", "--create-home", "eve")
        root.run("useradd", "--system", "muster-worker")  # libnss-systemd would name it otherwise
        keys = root.path / "etc/muster/keys"
        for key in (keys / "broker.key", keys.parent / "worker.key"):
            key.write_text("not a key, but as secret\n")
            key.chmod(0o600)
        with booted(root) as machine:
            machine.drop_in(
                "muster-worker",
                "SupplementaryGroups=muster\nExecStart=\nExecStart=/usr/bin/muster-worker"
                f" --connect {ENDPOINT} --slots 2 --drain-timeout 60\n",
            )
            done = machine.run("systemctl", "start", "muster-broker", "muster-worker", check=False)
            assert done.returncode == 0, machine.journal("muster-*")
            yield machine


def submit(user: str, command: str) -> list[str]:
    """`muster run` of one shell command, by a user of the machine."""
    words = ["muster", "run", "--broker", ENDPOINT, "--shell", command + "; : {}", ":::", "1"]
    return ["su", user, "--command", "cd / && exec " + shlex.join(words)]


def is_connected(machine: Machine) -> bool:
    return machine.show("muster-worker", "StatusText") == "connected to its broker"


def test_both_are_ready_and_the_worker_says_that_it_is_connected(machine: Machine) -> None:
    for unit in ("muster-broker", "muster-worker"):
        assert machine.show(unit, "ActiveState") == "active", machine.journal(unit)
        assert machine.show(unit, "NRestarts") == "0", machine.journal(unit)
    wait_until(lambda: is_connected(machine), "the worker is connected")


def test_a_task_works_in_the_sandbox_and_stays_in_it(machine: Machine) -> None:
    # Not in /tmp: the service has its own.
    (machine.root.path / "opt/look_around").write_text(LOOK_AROUND)
    done = machine.run(*submit("ada", "sh /opt/look_around"))
    assert done.stdout.splitlines() == EXPECTED, done.stderr


def test_keys_reach_the_services_and_nobody_else(machine: Machine) -> None:
    done = machine.run(*submit("ada", "cat $CREDENTIALS_DIRECTORY/worker.key"))
    assert done.stdout == "not a key, but as secret\n", done.stderr
    main = machine.show("muster-broker", "MainPID")
    folder = "/run/credentials/muster-broker.service"
    key = machine.run("cat", f"/proc/{main}/root{folder}/keys_broker.key")
    assert key.stdout == "not a key, but as secret\n"
    refused = machine.run("su", "eve", "--command", f"ls {folder} /etc/muster/keys", check=False)
    assert refused.returncode != 0
    assert refused.stdout == ""


def test_only_members_of_the_group_may_submit(machine: Machine) -> None:
    socket = machine.run("su", "eve", "--command", "ls /run/muster", check=False)
    assert "Permission denied" in socket.stderr
    done = machine.run(*submit("eve", "echo here"), check=False)
    assert done.returncode != 0
    assert "here" not in done.stdout


def test_a_worker_with_a_key_comes_by_tcp(machine: Machine) -> None:
    """The settings that the packages bring, with nothing but what docs/services.md says."""
    settings = machine.root.path / "etc/muster"
    for old in ("keys/broker.key", "worker.key"):
        (settings / old).unlink()
    machine.run("muster", "keygen", "--name", "broker", "--output", "/etc/muster/keys/broker.key")
    machine.run("muster", "keygen", "--name", "here", "--output", "/etc/muster/worker.key")
    shutil.copy(settings / "keys/broker.key.pub", settings / "broker.key.pub")
    shutil.copy(settings / "worker.key.pub", settings / "authorized_workers")
    toml = (settings / "broker.toml").read_text().replace("0.0.0.0", "127.0.0.1")
    lines = [line for line in toml.splitlines() if not line.startswith("listen")]
    wanted = ("# listen =", "# key =", "# authorized-workers =")
    uncommented = [line[2:] if line.startswith(wanted) else line for line in lines]
    (settings / "broker.toml").write_text("\n".join(uncommented) + "\n")
    machine.run("rm", "/etc/systemd/system/muster-worker.service.d/test.conf")
    machine.run("systemctl", "daemon-reload")
    for unit in ("muster-broker", "muster-worker"):
        done = machine.run("systemctl", "restart", unit, check=False)
        assert done.returncode == 0, machine.journal(unit)
    wait_until(lambda: is_connected(machine), "the worker is connected")
    assert "tcp://127.0.0.1:5670" in machine.journal("muster-worker")
    done = machine.run(*submit("ada", "echo by tcp"))
    assert done.stdout == "by tcp\n", done.stderr


def test_a_stop_lets_running_tasks_end(machine: Machine) -> None:
    home = machine.root.path / "var/lib/private/muster-worker"
    command = "touch ~/started; until [ -e ~/go ]; do sleep 0.05; done; echo ended"
    running = subprocess.Popen(
        machine.command(*submit("ada", command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((home / "started").exists, "the task runs")
    machine.run("systemctl", "stop", "--no-block", "muster-worker")
    wait_until(
        lambda: machine.show("muster-worker", "StatusText").startswith("draining"), "it drains"
    )
    assert machine.show("muster-worker", "ActiveState") == "deactivating"
    (home / "go").touch()
    output, errors = running.communicate(timeout=60)
    assert output == "ended\n", errors
    wait_until(lambda: machine.show("muster-worker", "ActiveState") == "inactive", "it stopped")
    assert machine.show("muster-worker", "Result") == "success"
    machine.run("systemctl", "start", "muster-worker")


def test_a_frozen_broker_is_started_again_and_the_worker_comes_back(machine: Machine) -> None:
    machine.drop_in("muster-broker", "WatchdogSec=5\n")
    machine.run("systemctl", "restart", "muster-broker")
    before = machine.show("muster-broker", "MainPID")
    wait_until(lambda: is_connected(machine), "the worker is connected")
    assert machine.show("muster-broker", "WatchdogUSec") == "5s"
    machine.run("kill", "-STOP", before)
    wait_until(lambda: machine.show("muster-broker", "NRestarts") == "1", "it is started again")
    assert "Watchdog timeout" in machine.journal("muster-broker")
    done = machine.run(*submit("ada", "echo again"))
    assert done.stdout == "again\n", done.stderr
    assert machine.show("muster-worker", "NRestarts") == "0"


def test_removed_packages_take_their_services_along(machine: Machine) -> None:
    machine.run("apt-get", "remove", "-y", "muster-broker", "muster-worker", seconds=120)
    assert machine.run("pgrep", "muster", check=False).stdout == ""
    machine.run("dpkg", "--purge", "muster-broker", "muster-worker")
    units = machine.run("systemctl", "list-units", "--all", "--no-legend", "muster*").stdout
    assert "loaded" not in units
    assert not (machine.root.path / "etc/muster").exists()
