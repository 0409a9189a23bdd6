"""Python programs whose pools are machines that they ssh into: real sshds, real pools."""

from __future__ import annotations

import collections
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed
from nodes.rig import Rig, wait_until
from nodes.wheels import wheel_of_files, wheel_of_installed
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import muster
from muster import SSH, ComputePool, Image, NodesFailed, OutputLine, Worker
from muster.joblib import JoblibPool, ScikitLearnPool

OURS = "[m]uster-worker|[m]uster-runner|[m]uster.runner"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(3) as rig:
        yield rig


@pytest.fixture(autouse=True)
def client(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the rig's client."""
    for name in ("HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, rig.environment[name])
    monkeypatch.setenv("MUSTER_BROKER", "")


def machines(rig: Rig, count: int = 3, **options: Any) -> SSH:
    nodes = rig.nodes[:count]
    return SSH(hosts=[{"name": n.name, "address": n.address} for n in nodes], **options)


def place(_: int) -> str:
    import socket

    time.sleep(0.2)
    return socket.gethostname()


def run_client(rig: Rig, text: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=rig.environment,
        start_new_session=True,
    )


def test_joblib_runs_on_three_nodes_and_leaves_nothing_there(rig: Rig) -> None:
    with JoblibPool(machines(rig), concurrency=2) as pool:
        assert pool.total_slots == 6
        found = Parallel(n_jobs=-1, batch_size=1)(delayed(place)(i) for i in range(24))
        assert set(found) == {"n1", "n2", "n3"}
        nodes = {node.name: node for node in pool.nodes()}
        assert {(node.state, node.slots) for node in nodes.values()} == {("up", 2)}
        assert nodes["n1"].address.startswith("ada@")
        rows = {row["name"]: row["state"] for row in pool.status()["nodes"]}
        assert rows == dict.fromkeys(("n1", "n2", "n3"), "up")
        assert all(node.processes(OURS) for node in rig.nodes)
    for node in rig.nodes:
        wait_until(lambda node=node: not node.processes(OURS), f"nothing of ours on {node.name}")


def test_a_grid_search_on_two_nodes_finds_what_it_finds_here(rig: Rig) -> None:
    data = load_iris(return_X_y=True)
    grid = {"C": [0.1, 1, 10], "kernel": ["rbf", "linear"]}
    with ScikitLearnPool(machines(rig, 2), concurrency=1) as pool:
        there = GridSearchCV(SVC(), grid, cv=5, n_jobs=-1).fit(*data)
        assert all(node.tasks_done > 0 for node in pool.nodes())
    here = GridSearchCV(SVC(), grid, cv=5, n_jobs=1).fit(*data)
    assert there.best_params_ == here.best_params_
    assert list(there.cv_results_["mean_test_score"]) == list(here.cv_results_["mean_test_score"])


def test_what_tasks_say_and_raise_comes_here_with_its_node(rig: Rig) -> None:
    said: list[OutputLine] = []

    def fails(x: int) -> None:
        print(f"said of {x}")
        raise LookupError(f"no {x}")

    with ComputePool(machines(rig, 1), output=said.append) as pool:
        with pytest.raises(LookupError, match="no 7") as caught:
            pool.submit(fails, 7).result(60)
        assert 'raise LookupError(f"no {x}")' in str(caught.value.__cause__)
        wait_until(lambda: any(line.text == "said of 7" for line in said), "the line came")
    assert {line.node for line in said} == {"n1"}


def test_modules_of_the_project_go_along(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "project_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from project_of_mine.deep import deep\n")
    (package / "deep.py").write_text("def deep(x):\n    import side\n    return side.twice(x)\n")
    (tmp_path / "side.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("project_of_mine")

    with ComputePool(machines(rig, 1)) as pool:
        with pytest.raises(muster.SerializationError) as caught:
            pool.submit(module.deep, 4).result(60)
        for words in ("n1", "project_of_mine", "Image(includes=", "Image(pip="):
            assert words in str(caught.value)
    image = Image(includes=["project_of_mine"])
    with ComputePool(machines(rig, 1), image=image) as pool:
        with pytest.raises(ModuleNotFoundError, match="side") as missing:
            pool.submit(module.deep, 4).result(60)
        assert "Image(includes=['side'])" in str(missing.value.__cause__)
    image = Image(includes=["project_of_mine", tmp_path / "side.py"])
    with ComputePool(machines(rig, 1), image=image) as pool:
        assert pool.submit(module.deep, 4).result(60) == 8


def test_a_wheel_is_installed_once_and_used_again(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wheel_of_files(tmp_path, "tiny-tool", "1.5", {"tiny_tool.py": "VALUE = 42\n"})
    for name in ("joblib", "cloudpickle"):
        wheel_of_installed(tmp_path, name)
    image = Image(pip=["tiny-tool==1.5"], wheels=tmp_path, env={"TINY": "yes"})

    def look() -> tuple[int, str, str]:
        import tiny_tool  # type: ignore[import-not-found]

        return tiny_tool.VALUE, sys.prefix, os.environ["TINY"]

    environments = rig.nodes[0].home / ".cache" / "muster" / "environments"
    before = set(environments.glob("*")) if environments.exists() else set()
    made = []
    for _ in range(2):
        with caplog.at_level("DEBUG", "muster"), ComputePool(machines(rig, 1), image=image) as pool:
            value, prefix, variable = pool.submit(look).result(60)
        assert (value, variable) == (42, "yes")
        new = set(environments.glob("[!.]*")) - before
        assert [path.name for path in new] == [Path(prefix).name]
        made.append([path.stat().st_mtime_ns for path in new])
    assert made[0] == made[1]
    assert "n1: preparing" in caplog.text


def test_tasks_run_where_their_labels_are(rig: Rig) -> None:
    hosts = [
        {"name": node.name, "address": node.address, "labels": [f"of-{node.name}"]}
        for node in rig.nodes[:2]
    ]
    with ComputePool(SSH(hosts=hosts), worker=Worker(concurrency=2)) as pool:
        second = pool.with_options(labels=["of-n2"], cpu=0.5)
        assert set(second.map(place, range(8), chunksize=1)) == {"n2"}
        assert (muster.compute(labels=["of-n1"])(place)(0) >> pool) == "n1"
        assert {node.labels for node in pool.nodes()} == {("of-n1",), ("of-n2",)}


def test_a_lost_ssh_server_repeats_no_task(rig: Rig) -> None:
    for node in rig.nodes:
        (node.home / "marks").unlink(missing_ok=True)

    def mark(number: int) -> int:
        with open("marks", "a") as file:
            file.write(f"{number}\n")
        time.sleep(0.1)
        return number

    def marks(which: int) -> list[int]:
        path = rig.nodes[which].home / "marks"
        return list(map(int, path.read_text().split())) if path.exists() else []

    tasks = 200
    with ComputePool(machines(rig, 2), worker=Worker(concurrency=2)) as pool:
        results = pool.map(mark, range(tasks), chunksize=1)
        assert next(results) == 0
        wait_until(lambda: len(marks(0)) > 5, "the first node works")
        rig.nodes[0].kill_sshd()
        rig.nodes[0].start_sshd()
        rig.nodes[0].await_sshd()
        assert list(results) == list(range(1, tasks))
        row = next(row for row in pool.status()["nodes"] if row["name"] == "n1")
        assert row["reconnects"] >= 1
    runs = collections.Counter(marks(0) + marks(1))
    assert sorted(runs) == list(range(tasks))
    assert set(runs.values()) == {1}


def test_broken_hosts_are_named_with_step_and_remedy(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.nodes[1].change_host_key()
    rig.nodes[2].kill_sshd()
    try:
        with pytest.raises(NodesFailed) as caught, ComputePool(machines(rig, reach_seconds=10)):
            pass
        assert caught.value.failures["n2"][0] == "host key"
        assert "ssh-keyscan" in caught.value.failures["n2"][1]
        assert caught.value.failures["n3"][0] == "connect"
        assert "2 of 3 nodes did not start" in str(caught.value)

        provider = machines(rig, reach_seconds=10, at_least=1)
        with ComputePool(provider, worker=Worker(concurrency=1)) as pool:
            assert pool.submit(place, 0).result(60) == "n1"
            states = {node.name: node.state for node in pool.nodes()}
            assert (states["n1"], states["n2"]) == ("up", "failed")
        assert "starts with 1 of 3 nodes" in caplog.text
    finally:
        rig.trust_all()
        rig.nodes[2].start_sshd()
        rig.nodes[2].await_sshd()


def test_a_hosts_file_with_a_typo_names_line_and_key(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(f'# mine\n[[host]]\naddress = "{rig.nodes[0].address}"\nslotz = 3\n')
    with pytest.raises(muster.MusterError) as caught, ComputePool(SSH(file)):
        pass
    assert f"{file}:4:" in str(caught.value)
    assert "slotz" in str(caught.value)


def test_ctrl_c_ends_a_start_and_all_that_it_started(rig: Rig) -> None:
    node = rig.nodes[0]
    node.cut()
    try:
        script = run_client(
            rig,
            """
            import logging, sys
            logging.basicConfig(level=logging.INFO)
            from muster import SSH, ComputePool
            ComputePool(SSH(sys.argv[1])).start()
            """,
            node.address,
        )
        assert script.stderr is not None
        for line in script.stderr:
            if "connecting" in line:
                break
        began = time.monotonic()
        script.send_signal(signal.SIGINT)
        _, errors = script.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        assert time.monotonic() - began < 20  # and not the time that the host has
        left = subprocess.run(
            ["pgrep", "-s", str(script.pid)], check=False, capture_output=True, text=True
        )
        assert left.stdout == ""
    finally:
        node.restore()


def test_ten_programs_share_a_running_broker(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(rig.hosts(python=f"{sys.version_info.major}.{sys.version_info.minor}", slots=2))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["muster", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=rig.environment,
        )

    up = command("up", str(file))
    try:
        assert up.returncode == 0, up.stderr
        programs = [
            run_client(
                rig,
                """
                import sys
                from muster import ComputePool
                base = int(sys.argv[1])
                with ComputePool() as pool:
                    assert pool.total_slots == 6, pool.total_slots
                    assert list(pool.map(lambda x: x + base, range(500))) == [
                        x + base for x in range(500)
                    ]
                    futures = [pool.submit(pow, base, i) for i in range(20)]
                    assert [future.result() for future in futures] == [base**i for i in range(20)]
                print("done")
                """,
                str(number),
            )
            for number in range(10)
        ]
        for program in programs:
            output, errors = program.communicate(timeout=120)
            assert output == "done\n", errors
    finally:
        down = command("down")
    assert down.returncode == 0, down.stderr
    for node in rig.nodes:
        wait_until(lambda node=node: not node.processes(OURS), f"nothing of ours on {node.name}")
