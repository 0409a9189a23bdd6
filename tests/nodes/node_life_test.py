"""A node's life, with the real broker and real sshds: what comes, breaks, comes back and ends."""

from __future__ import annotations

import json
import subprocess

from nodes.client import kill_with_keeper
from nodes.pool import WORKER, Pool, pool
from nodes.rig import Node, Rig, wait_until
from nodes.wheels import wheel_of_files, wheel_of_installed


def worker_log(node: Node) -> str:
    return node.run("cat /home/ada/.cache/muster/run/*/log").stdout


def reverse_port(node: Node) -> int:
    """Where the node's worker went last."""
    return int(worker_log(node).split("tcp://127.0.0.1:")[-1].split()[0])


def bundles(node: Node) -> list[tuple[str, int]]:
    """Name and inode of each bundle that the node has."""
    folder = node.home / ".cache" / "muster" / "bundles"
    return [(each.name, each.stat().st_ino) for each in folder.iterdir() if each.is_dir()]


def test_a_bundle_is_uploaded_once() -> None:
    with pool(2, slots=1) as it:
        it.up()
        first = [bundles(node) for node in it.rig.nodes]
        assert all(len(found) == 1 for found in first)
        assert set(it.run("uname -n; : {}", *map(str, range(50)))) == {"n1", "n2"}
        it.down()
        again = it.up()
        assert "upload" not in again and "probe" not in again
        assert [bundles(node) for node in it.rig.nodes] == first
        assert it.run("echo {}", "warm") == ["warm"]


def test_the_end_leaves_nothing_that_runs() -> None:
    with pool(2) as it:
        it.up()
        task = it.start("sleep 1000; : {}", "1")
        nodes = it.rig.nodes
        wait_until(lambda: any(node.processes("[s]leep 1000;") for node in nodes), "the task runs")
        task.kill()
        task.communicate()
        it.down()
        for node in nodes:
            assert node.processes(WORKER) == []
            assert node.processes("[s]leep 1000;") == []
            assert node.run("ls /home/ada/.cache/muster/run").stdout == ""
        assert it.broker() == 0


def test_a_killed_worker_is_started_again() -> None:
    with pool(1, slots=1) as it:
        it.up()
        before = it.workers()
        it.rig.nodes[0].kill(WORKER)
        wait_until(lambda: it.workers() not in ([], before), "another worker is there")
        assert it.run("echo {}", "after") == ["after"]
        wait_until(lambda: it.node("n1").get("reconnects") == 1, "it is counted")


def test_a_task_outlives_the_session() -> None:
    with pool(1, slots=1) as it:
        node = it.rig.nodes[0]
        it.up()
        workers = it.workers()
        task = it.start("echo {} >> starts; while [ ! -e go ]; do sleep 0.02; done; echo {}", "one")
        starts = node.home / "starts"
        wait_until(starts.exists, "the task runs")
        node.kill_sshd()
        it.await_state("n1", "waiting")
        (node.home / "go").touch()  # it ends while nobody is there to hear it
        node.start_sshd()
        assert task.communicate(timeout=60)[0] == "one\n"
        assert starts.read_text() == "one\n"
        assert it.workers() == workers


def test_a_cut_cable_loses_and_repeats_nothing() -> None:
    with pool(1, slots=2) as it:
        node = it.rig.nodes[0]
        it.up()
        size = 15_000_000  # of each of six results, which nothing packs
        command = (
            f"echo {{}} >> starts; head -c {size} /dev/urandom | base64 -w0 | tee data{{}}; echo"
        )
        task = it.start(command, *"abcdef")
        wait_until(lambda: it.node("n1")["bytes_in"] > size, "results are on their way")
        node.cut()
        wait_until(lambda: it.workers() == [] or it.node("n1")["state"] != "up", "it is missed")
        node.restore()
        lines = task.communicate(timeout=120)[0].splitlines()
        assert task.returncode == 0
        # A result that was under way when the worker counted as lost may have been made twice; each
        # came once, and whole.
        files = [(node.home / f"data{letter}").read_text() for letter in "abcdef"]
        assert len(lines) == 6
        assert sorted(lines) == sorted(files)


def test_a_changed_host_key_stops_one_node() -> None:
    with pool(2, slots=1) as it:
        it.up()
        it.rig.nodes[0].change_host_key()
        row = it.await_state("n1", "failed")
        assert row["step"] == "host key"
        assert "ssh-keygen" in row["detail"]
        assert set(it.run("uname -n; : {}", "1", "2")) == {"n2"}


def test_a_full_disk_stops_one_node() -> None:
    with pool(2, slots=1) as it:
        it.rig.nodes[0].limit_disk("1m")
        it.up(wait=10)
        row = it.await_state("n1", "failed")
        assert row["step"] == "upload"
        assert "no room on the node's disk" in row["detail"]
        assert set(it.run("uname -n; : {}", "1", "2")) == {"n2"}
        it.rig.nodes[0].unlimit_disk()


def test_a_worker_with_keys_inside_the_tunnel() -> None:
    with pool(1, slots=1, curve=True) as it:
        assert "1 of 1 nodes up" in it.muster("up", str(it.file)).stdout
        workers = it.workers()
        assert it.run("uname -n; : {}", "x") == ["n1"]
        node = it.rig.nodes[0]
        node.kill_sshd()
        it.await_state("n1", "waiting")
        node.start_sshd()
        it.await_state("n1", "up")
        assert it.run("uname -n; : {}", "x") == ["n1"]
        it.kill_broker()  # the next one has another key
        it.up()
        assert it.run("uname -n; : {}", "x") == ["n1"]
        assert it.workers() == workers


def test_an_orphan_ends_by_itself() -> None:
    with pool(1, orphan_grace=1) as it:
        it.up()
        kill_with_keeper(it.broker())
        wait_until(lambda: not it.rig.nodes[0].processes(WORKER), "the worker has ended")


def test_a_broker_finds_its_workers_again() -> None:
    with pool(2, slots=1) as it:
        it.up()
        workers = it.workers()
        it.kill_broker()
        it.up()
        assert it.workers() == workers
        assert it.run("echo {}", "again") == ["again"]


def test_another_user_of_the_node_gets_nowhere() -> None:
    with pool(1, slots=1) as it:
        node = it.rig.nodes[0]
        it.up()
        port = reverse_port(node)
        null_greeting = "ff00000000000000017f0301" + "4e554c4c" + "00" * 48
        for words in ("474554202f20485454502f312e310d0a0d0a", null_greeting, "00" * 5000):
            script = (
                "import socket; "
                f"s = socket.create_connection(('127.0.0.1', {port})); s.settimeout(20); "
                f"s.sendall(bytes.fromhex('{words}')); n = 0\n"
                "while True:\n"
                "    got = s.recv(4096)\n"
                "    n += len(got)\n"
                "    if not got: break\n"
                "print(n)\n"
            )
            done = node.run(f'python3 -c "{script}"', user="eve")
            # The greeting of ZeroMQ at most, and then the connection ends.
            assert done.returncode == 0, done.stderr
            assert int(done.stdout) <= 128
        assert len(it.workers()) == 1
        assert it.run("echo {}", "still") == ["still"]


def test_a_lost_tunnels_port_is_left_alone() -> None:
    with pool(1, slots=1) as it:
        node = it.rig.nodes[0]
        it.up()
        port = reverse_port(node)
        node.kill_sshd()
        wait_until(lambda: "tunnel is gone" in worker_log(node), "the worker knows")
        listener = (
            f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.settimeout(3)\n"
            "try: s.accept(); print('came')\n"
            "except TimeoutError: print('nobody')\n"
        )
        assert node.run(f'python3 -c "{listener}"', user="eve").stdout == "nobody\n"
        node.start_sshd()
        wait_until(lambda: it.node("n1")["state"] == "up", "the node is back")
        assert it.run("echo {}", "back") == ["back"]


def test_settings_that_change_replace_the_worker() -> None:
    with pool(1, slots=1) as it:
        it.up()
        before = it.workers()
        it.file.write_text(it.rig.hosts(slots=3, labels=["new"]))
        it.up()
        wait_until(lambda: it.workers() not in ([], before), "another worker is there")
        assert [row["slots"] for row in it.status()["workers"]] == [3]


SHIPPED = """
import sys, json
import muster
def work(i):
    import shipped, single, weather
    return shipped.double(i) + single.one() + weather.degrees(), sys.prefix
with muster.ComputePool() as pool:
    print(json.dumps(list(pool.map(work, range(3)))))
"""


def test_an_image_with_wheels_and_includes() -> None:
    with Rig(1) as rig:
        wheels, project = rig.home / "wheels", rig.home / "project"
        for path in (wheels, project / "shipped"):
            path.mkdir(parents=True)
        for name in ("joblib", "cloudpickle"):
            wheel_of_installed(wheels, name)
        wheel_of_files(wheels, "weather", "2.0", {"weather.py": "def degrees(): return 100\n"})
        (project / "shipped" / "__init__.py").write_text("def double(i): return 2 * i\n")
        (project / "single.py").write_text("def one(): return 1\n")
        it = Pool(
            rig,
            slots=1,
            python="3.11",
            pip=["weather==2.0"],
            wheels=str(wheels),
            includes=[str(project / "shipped"), str(project / "single.py")],
        )
        try:
            it.up(wait=120)
            assert it.await_state("n1", "up", "failed")["state"] == "up", it.node("n1")
            script = subprocess.run(
                ["/usr/bin/python3", "-c", SHIPPED],
                check=False,
                env=rig.environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert script.returncode == 0, script.stderr
            results = json.loads(script.stdout)
            assert [number for number, _ in results] == [101, 103, 105]
            assert "/.cache/muster/environments/" in results[0][1]
            it.down()
            again = it.up()
            assert "python" not in again and "upload" not in again
        finally:
            it.down()


def test_what_is_wrong_with_python_is_said() -> None:
    with pool(1, python="3.7") as it:
        it.up(wait=20)
        row = it.await_state("n1", "failed")
        assert row["step"] == "python"
        assert "install python3.11" in row["detail"]
    with Rig(1) as rig:
        wheels = rig.home / "wheels"
        wheels.mkdir()
        wheel_of_files(wheels, "weather", "2.0", {"weather.py": ""})
        it = Pool(rig, python="3.11", pip=["weather==3"], wheels=str(wheels))
        try:
            it.up(wait=60)
            row = it.await_state("n1", "failed")
            assert "pip failed" in row["detail"] and "weather==3" in row["detail"]
        finally:
            it.down()


def test_doctor_and_clean() -> None:
    with pool(2, slots=1) as it:
        good, bad = it.rig.nodes
        bad.restart_sshd(AllowTcpForwarding="no")
        first = it.muster("doctor", good.address)
        assert first.returncode == 0 and "PROBLEM" not in first.stdout, first.stdout
        assert not (good.home / ".cache").exists()  # it only looks
        second = it.muster("doctor", good.address, bad.address)
        assert second.returncode == 1
        assert second.stdout.count("PROBLEM") == 1 and "AllowTcpForwarding" in second.stdout

        it.file.write_text(f'hosts = ["{good.address}*1"]\n')
        it.up()
        refused = it.muster("clean", good.address)
        assert refused.returncode == 1 and "muster down" in refused.stdout
        assert it.run("echo {}", "alive") == ["alive"]
        it.down()
        assert it.muster("clean", good.address).returncode == 0
        assert not (good.home / ".cache" / "muster").exists()
