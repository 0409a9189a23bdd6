"""`muster up`, `status`, `run` and `down` over machines with real sshds."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from nodes.client import PATIENCE, Client, has_worker
from nodes.rig import Rig, wait_until


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(3) as rig:
        yield rig


def test_up_run_status_down(rig: Rig, client: Client) -> None:
    up = client.run("up", client.write_hosts(rig.hosts(slots=2)))
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("3 of 3 nodes up, 6 slots, broker ipc://")
    assert "n2  up, 2 slots" in up.stderr  # no terminal: a line for each change

    run = client.run("run", "--shell", "hostname; pwd; sleep 0.3", ":::", *"123456")
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == {"n1", "n2", "n3", "/home/ada"}

    status = client.run("status")
    assert re.search(r"^  n1 +ada@\S+ +up +\S+ \w+ +.* 0$", status.stdout, re.M), status.stdout
    row = client.status()["nodes"][0]
    assert row["bytes_in"] > 0 and row["bytes_out"] > 0 and row["round_trip_us"] > 0

    down = client.run("down")
    assert down.returncode == 0, down.stderr
    wait_until(lambda: not client.brokers(), "the broker is gone")
    assert not any(has_worker(node) for node in rig.nodes)
    assert list(client.runtime.iterdir()) == []
    for node in rig.nodes:
        assert node.run("ls -A ~ada/.cache/muster/run").stdout == ""
    again = client.run("down")
    assert (again.returncode, again.stderr) == (0, "muster down: no broker runs\n")
    assert client.run("status").returncode == 255


def test_short_forms_and_a_second_up(rig: Rig, client: Client) -> None:
    first, second, third = (node.address for node in rig.nodes)
    up = client.run("up", "--slots", "3", first, f"{second}*1")
    assert up.returncode == 0, up.stderr
    assert "2 of 2 nodes up, 4 slots" in up.stdout
    before = client.workers()
    more = client.run("up", third)
    assert more.returncode == 0, more.stderr
    assert more.stdout.startswith("1 of 1 nodes up")
    after = client.workers()
    assert len(after) == 3
    assert before.items() <= after.items()  # those that were up stayed as they were

    ip = rig.nodes[2].ip
    down = client.run("down", ip)
    assert down.returncode == 0, down.stderr
    assert ip not in client.states() and len(client.states()) == 2
    assert not has_worker(rig.nodes[2])
    unknown = client.run("down", "nowhere")
    assert unknown.returncode == 255
    assert "nowhere" in unknown.stderr and rig.nodes[0].ip in unknown.stderr


def test_one_wrong_host(rig: Rig, client: Client) -> None:
    hosts = rig.hosts() + f'[[host]]\nname = "wrong"\naddress = "nobody@{rig.nodes[0].ip}"\n'
    up = client.run("up", client.write_hosts(hosts))
    assert up.returncode == 1
    assert "3 of 4 nodes up" in up.stdout
    line = next(line for line in up.stderr.splitlines() if line.startswith("muster up: wrong"))
    assert f"wrong (nobody@{rig.nodes[0].ip}" in line
    assert "login" in line
    assert len(line) > 80, line  # and what to do
    assert client.run("run", "--shell", "echo {}", ":::", "x").stdout == "x\n"
    assert "login" in client.run("status").stdout


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('[[host]]\naddress = "a"\nslotz = 4\n', ":3:1: ", "did you mean 'slots'?"),
        ('hosts = ["a", "a"]\n', ":1:15: ", "taken by the host in line 1"),
        ('hosts = ["a"\n', ":1:14: ", ""),
        ('hosts = ["-oProxyCommand=touch hit"]\n', ":1:10: ", "option"),
    ],
)
def test_a_typo_names_line_and_key(client: Client, text: str, place: str, what: str) -> None:
    up = client.run("up", client.write_hosts(text))
    assert up.returncode == 255
    assert up.stderr.count("\n") == 1
    assert f"hosts.toml{place}" in up.stderr and what in up.stderr, up.stderr
    wait_until(lambda: not client.brokers(), "nothing was done")
    assert list(client.runtime.iterdir()) == []


def test_words_that_are_no_hosts(client: Client) -> None:
    for words, what in (
        (["missing.toml"], "cannot read the hosts file missing.toml"),
        (["."], "the command line:1:10"),
        (["./"], "folder"),
        (["a b"], "the command line:1:10"),
        ([], "HOST"),
        (["--slots", "0", "a"], "--slots"),
        (["--wait", "-1", "a"], "--wait"),
    ):
        up = client.run("up", *words)
        assert up.returncode == 255, words
        assert what in up.stderr, up.stderr
    assert not client.brokers()


def test_the_broker_is_killed_and_its_workers_are_found_again(rig: Rig, client: Client) -> None:
    hosts = client.write_hosts(rig.hosts(slots=1))
    assert client.run("up", hosts).returncode == 0
    before = client.workers()
    assert len(before) == 3
    client.kill_broker()
    assert client.run("status").returncode == 0  # the next one is on its way
    wait_until(lambda: client.workers() == before, "nodes and workers are back by themselves")
    client.kill_for_good()
    assert client.run("status").returncode == 255  # its socket is still there, nobody listens
    assert client.run("run", "-j1", "echo", ":::", "here").stdout == "here\n"  # a pool of its own
    again = client.run("up", hosts)
    assert again.returncode == 0, again.stderr
    assert client.workers() == before


def test_a_broker_that_dies_is_not_taken_for_one_that_runs(rig: Rig, client: Client) -> None:
    hosts = client.write_hosts(rig.hosts(slots=1))
    assert client.run("up", hosts).returncode == 0
    broker = client.brokers()[0]
    # As while the kernel clears a large one away: it holds its lock, and says nothing more.
    os.kill(broker, signal.SIGSTOP)
    up = client.start("up", hosts)
    try:
        wait_until(lambda: len(os.listdir(f"/proc/{up.pid}/task")) > 1, "it asks the broker")
        os.kill(broker, signal.SIGKILL)
        output, errors = up.communicate(timeout=PATIENCE)
    finally:
        up.kill()
    assert up.returncode == 0, errors
    assert output.startswith("3 of 3 nodes up")


def test_a_run_survives_the_broker(rig: Rig, client: Client) -> None:
    hosts = client.write_hosts(rig.hosts(slots=1))
    assert client.run("up", hosts).returncode == 0
    marks = "/home/ada/marks"
    wait = f"echo x >> {marks}; while [ ! -e {marks}.go ]; do sleep 0.1; done; echo {{}}"
    run = client.start("run", "--shell", wait, ":::", *"123")
    try:
        wait_until(
            lambda: all(node.run(f"test -e {marks}").returncode == 0 for node in rig.nodes),
            "a job runs on every node",
        )
        client.kill_broker()
        assert client.run("up", hosts).returncode == 0
        for node in rig.nodes:
            node.run(f"touch {marks}.go")
        output, errors = run.communicate(timeout=PATIENCE)
    finally:
        run.kill()
        lines = [node.run(f"cat {marks}; rm -f {marks} {marks}.go").stdout for node in rig.nodes]
    assert (run.returncode, output) == (0, "1\n2\n3\n"), errors
    assert lines == ["x\n"] * 3  # none ran twice


def test_two_ups_at_once(rig: Rig, client: Client) -> None:
    hosts = client.write_hosts(rig.hosts())
    ups = [client.start("up", hosts) for _ in range(4)]
    for up in ups:
        output, errors = up.communicate(timeout=PATIENCE)
        assert up.returncode == 0, errors
        assert output.startswith("3 of 3 nodes up")
    wait_until(lambda: len(client.brokers()) == 1, "the others have given up")
    for node in rig.nodes:
        assert len(node.processes("[m]uster-worker --control")) == 1


def test_ctrl_c_leaves_the_broker(rig: Rig, client: Client) -> None:
    rig.nodes[1].cut()
    try:
        up = client.start("up", client.write_hosts(rig.hosts()))
        wait_until((client.runtime / "muster" / "broker").exists, "a broker listens")
        wait_until(lambda: client.states().get("n1") == "up", "n1 is up")
        up.send_signal(signal.SIGINT)
        _, errors = up.communicate(timeout=PATIENCE)
        assert up.returncode == 130
        assert "the broker goes on" in errors and "muster down" in errors
        assert len(client.brokers()) == 1
    finally:
        rig.nodes[1].restore()
    wait_until(lambda: client.states()["n2"] == "up", "the broker has gone on to bring up n2")


def test_a_node_that_does_not_answer(rig: Rig, client: Client) -> None:
    rig.nodes[1].cut()
    try:
        up = client.run("up", "--wait", "3", client.write_hosts(rig.hosts()))
    finally:
        rig.nodes[1].restore()
    assert up.returncode == 1
    assert "2 of 3 nodes up" in up.stdout
    assert "muster up: n2 (" in up.stderr and "goes on trying" in up.stderr


def test_a_host_that_refuses_is_told_once(rig: Rig, client: Client) -> None:
    node = rig.nodes[1]
    node.kill_sshd()
    try:
        up = client.run("up", "--wait", "6", client.write_hosts(rig.hosts()))
    finally:
        node.restart_sshd()
    assert up.returncode == 1
    told = [line for line in up.stderr.splitlines() if line.startswith("n2  ")]
    assert any("waiting: connect" in line for line in told), up.stderr
    assert len(told) == len(set(told)), up.stderr


def test_a_full_disk_for_the_log(rig: Rig, client: Client) -> None:
    client.runtime.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(client.runtime)]
    subprocess.run(mount, check=True)
    try:
        fill = client.runtime / "filler"
        with pytest.raises(OSError, match="No space"), fill.open("wb", buffering=0) as file:
            while True:
                assert file.write(bytes(4096)) == 4096 or file.write(b"x")
        up = client.run("up", client.write_hosts(rig.hosts()))
        assert up.returncode == 0, up.stderr
        assert client.run("run", "--shell", "echo {}", ":::", "x").stdout == "x\n"
        assert client.run("down").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(client.runtime)], check=True)


def test_an_unsafe_runtime_folder_is_not_used(rig: Rig, client: Client) -> None:
    folder = client.runtime / "muster"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    try:
        up = client.run("up", rig.nodes[0].address)
        assert up.returncode == 255
        assert f"chmod 700 {folder}" in up.stderr
    finally:
        folder.rmdir()


def test_run_with_hosts_of_its_own(rig: Rig, client: Client) -> None:
    first, second, _ = (node.address for node in rig.nodes)
    run = client.run("run", "--host", first, "--host", f"{second}*2", "hostname; : {}", ":::", "1")
    assert (run.returncode, run.stdout.strip()) in ((0, "n1"), (0, "n2")), run.stderr
    assert not any(has_worker(node) for node in rig.nodes)
    file = client.run("run", "--hosts", client.write_hosts(rig.hosts()), "echo", ":::", "1", "2")
    assert (file.returncode, file.stdout) == (0, "1\n2\n"), file.stderr
    assert not any(has_worker(node) for node in rig.nodes)
    wrong = client.run("run", "--host", f"nobody@{rig.nodes[0].ip}", "echo", ":::", "1")
    assert wrong.returncode == 255
    assert "nobody@" in wrong.stderr and "login" in wrong.stderr
    both = client.run("run", "--host", first, "--broker", "ipc:///tmp/x/broker", "true", ":::", "1")
    assert both.returncode == 255 and "muster up" in both.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_nothing(
    rig: Rig, client: Client, number: signal.Signals
) -> None:
    words = ("run", "--hosts", client.write_hosts(rig.hosts(slots=1)), "--shell")
    run = client.start(*words, "sleep 987; : {}", ":::", *"123")
    wait_until(
        lambda: all(node.processes("[s]leep 987;") for node in rig.nodes), "a job on every node"
    )
    run.send_signal(number)
    run.communicate(timeout=PATIENCE)
    for pattern in ("[s]leep 987", "[m]uster-worker"):
        wait_until(
            lambda pattern=pattern: not any(node.processes(pattern) for node in rig.nodes),
            f"no {pattern} on the nodes",
        )
    wait_until(lambda: list(client.runtime.iterdir()) == [], "no file here")


def test_doctor_and_clean(rig: Rig, client: Client) -> None:
    hosts = client.write_hosts(rig.hosts())
    doctor = client.run("doctor", hosts)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert all(node.name in doctor.stdout for node in rig.nodes)
    wrong = client.run("doctor", f"nobody@{rig.nodes[0].ip}")
    assert wrong.returncode == 1
    assert "login" in wrong.stdout
    assert client.run("up", hosts).returncode == 0
    busy = client.run("clean", hosts)
    assert busy.returncode == 1, busy.stdout
    assert client.run("down").returncode == 0
    clean = client.run("clean", hosts)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    for node in rig.nodes:
        assert node.run("ls -d ~ada/.cache/muster").returncode != 0


def test_a_terminal_sees_a_line_for_each_node(rig: Rig, client: Client) -> None:
    leader, follower = pty.openpty()
    subprocess.run(["stty", "rows", "24", "cols", "100"], stdin=follower, check=True)
    up = subprocess.Popen(
        ["muster", "up", client.write_hosts(rig.hosts())],
        env=rig.environment | {"TERM": "xterm"},
        cwd=client.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    screen = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not select.select([leader], [], [], 1)[0]:
            continue
        try:
            screen += os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
    os.close(leader)
    assert up.communicate(timeout=PATIENCE)[0].startswith("3 of 3 nodes up")
    assert b"\x1b[3A" in screen  # drawn anew over the three lines
    assert screen.decode().splitlines()[-1].startswith("n3  up")


def test_no_secret_is_ever_told(rig: Rig, client: Client) -> None:
    """Whatever the broker writes at its lowest level, and whatever can be seen from outside."""
    endpoint = f"ipc://{client.runtime}/trace/broker"
    log = client.folder / "trace.log"
    with log.open("wb") as file:
        broker = subprocess.Popen(
            ["muster-broker", "--listen", endpoint, "--log-level", "trace"],
            env=rig.environment | {"MUSTER_TEST_SECRET": "none"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        wait_until((client.runtime / "trace" / "broker").exists, "the broker listens")
        hosts = client.write_hosts(rig.hosts(environment={"TOKEN": "s3cr3t-of-ada"}))
        up = client.run("up", "--broker", endpoint, hosts)
        assert up.returncode == 0, up.stderr
        status = client.run("status", "--json", "--broker", endpoint)
        told = up.stdout + up.stderr + status.stdout + log.read_text()
        for node in rig.nodes:
            told += node.run("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'").stdout
        assert "s3cr3t" not in told
        # Passwords and proofs are random texts of at least 128 bits: nothing of that form is told
        # but digests of bundles, incarnations and ids.
        for node in rig.nodes:
            held = node.run(
                "for p in $(pgrep -f '[m]uster-worker'); do tr '\\0' '\\n' < /proc/$p/environ; done"
            ).stdout
            assert "password" not in held.lower() and "proof" not in held.lower()
        assert "password" not in told.lower()
        assert client.run("down", "--broker", endpoint).returncode == 0
        assert broker.wait(PATIENCE) == 0, log.read_text()
    finally:
        broker.kill()
        broker.wait()
