"""Native functions of this machine's plug-ins, run by machines that are reached by ssh."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.client import PATIENCE, Client, has_worker
from nodes.rig import ROOT, Rig, wait_until

TREE = ROOT / "build" / "release"
PLUGIN = TREE / "plugins" / "test_tasks.so"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(2) as rig:
        yield rig


def drive(client: Client, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TREE / "bin" / "native_driver", *words],
        env=client.rig.environment,
        cwd=client.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def shipped(rig: Rig, number: int) -> dict[str, int]:
    """What node `number` keeps: DIGEST/NAME and when it came."""
    folder = rig.nodes[number].home / ".cache" / "muster" / "plugins"
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_program_takes_its_plugins_along(rig: Rig, client: Client, executor: str) -> None:
    hosts = client.write_hosts(rig.hosts(slots=1, executor=executor))
    done = drive(client, "2", hosts, os.path.relpath(PLUGIN, client.folder))
    assert (done.returncode, done.stdout) == (0, "n1\nn2\n144\n"), done.stderr
    wait_until(lambda: not any(map(has_worker, rig.nodes)), "the pool ended with the program")
    for number in range(2):
        (name,) = shipped(rig, number)
        assert name.endswith("/test_tasks.so")


def test_a_new_build_replaces_the_workers_that_load_it(rig: Rig, client: Client) -> None:
    plugin = client.folder / "my tasks.so"
    shutil.copy(PLUGIN, plugin)
    hosts = client.write_hosts(
        "[defaults]\nslots = 1\n"
        f'[[host]]\nname = "n1"\naddress = "{rig.nodes[0].address}"\nplugins = ["my tasks.so"]\n'
        f'[[host]]\nname = "n2"\naddress = "{rig.nodes[1].address}"\n'
    )
    up = client.run("up", hosts)
    assert up.returncode == 0, up.stderr
    assert drive(client, "1").stdout == "n1\n144\n"
    before, workers = shipped(rig, 0), client.workers()
    again = client.run("up", hosts)
    assert again.returncode == 0, again.stderr
    assert (shipped(rig, 0), client.workers()) == (before, workers)

    with plugin.open("ab") as file:
        file.write(b"a new build")
    assert client.run("up", hosts).returncode == 0
    wait_until(
        lambda: client.workers().keys() == {"n1", "n2"} and client.workers()["n1"] != workers["n1"],
        "n1 has another worker",
    )
    assert client.workers()["n2"] == workers["n2"]
    assert drive(client, "1").stdout == "n1\n144\n"
    after = shipped(rig, 0)
    assert before.items() < after.items() and len(after) == len(before) + 1


def test_what_is_wrong_with_a_plugin_is_said(rig: Rig, client: Client) -> None:
    up = client.run("up", client.write_hosts(rig.hosts(plugins=["missing.so"])))
    assert up.returncode == 255
    assert f"hosts.toml:2:12: an entry of plugins: there is no file '{client.folder}" in up.stderr

    (client.folder / "text.so").write_text("no library")
    up = client.run("up", client.write_hosts(rig.hosts(plugins=["text.so"])))
    assert up.returncode == 1
    assert "/text.so'" in up.stderr and "<muster/task.hpp>" in up.stderr, up.stderr

    done = drive(client, "1", client.write_hosts(rig.hosts()), "missing.so")
    assert done.returncode == 1
    assert "missing.so" in done.stderr
