"""What both kinds of muster::Remote promise once they are in, against real sshds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from nodes.rig import NEIGHBOUR, PATIENCE_SECONDS, USER, Node, wait_until
from nodes.tunnel_driver import ROUND_TRIP, Connect, Listener, echo, round_trip

# --- Commands and files ---


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -TERM $$", 143)])
def test_exit_status_of_a_command(connect: Connect, command: str, status: int) -> None:
    with connect() as driver:
        driver.do("open")
        assert driver.do("run", command=command)["status"] == status


def test_a_command_that_is_not_there(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        assert driver.do("run", command="no-such-program")["status"] == 127


def test_streams_of_a_command(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        done = driver.do("run", command="cat; echo other >&2", input="words\n" * 100_000)
        assert done["output"] == "words\n" * 100_000
        assert done["error_output"] == "other\n"


def test_output_that_nobody_wants_is_not_kept(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        done = driver.do("run", command="head -c 3000000 /dev/zero | tr '\\0' x; exit 4")
        assert (len(done["output"]), done["status"]) == (1 << 20, 4)


def test_a_command_that_takes_too_long(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        error = driver.fails("run", command="sleep 1000", patience=1)
        assert (error.step, error.lasting) == ("probe", False)


def test_an_uploaded_file_is_the_same_file(connect: Connect, node: Node, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_001))
    with connect() as driver:
        driver.do("open")
        done = driver.do("upload", file=str(source), path="it's here")
        assert done["progress"] == 3_000_001
    target = node.home / "it's here"
    assert (
        hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    )
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_full_disk(connect: Connect, node: Node, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    node.limit_disk("1m")
    try:
        with connect() as driver:
            driver.do("open")
            error = driver.fails("upload", file=str(source), path=".cache/file")
    finally:
        node.unlimit_disk()
    assert (error.step, error.lasting) == ("upload", True)
    assert "disk full on" in error.text and ".cache" in error.text and "df -h" in error.text


def test_a_folder_that_is_not_there(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    with connect() as driver:
        driver.do("open")
        error = driver.fails("upload", file=str(tmp_path / "source"), path="none/file")
        assert error.step == "upload" and "none" in error.text


# --- Forwarding ---


def test_a_tunnel(connect: Connect, node: Node, echo_socket: Path) -> None:
    with connect() as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(echo_socket))["port"]
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        assert round_trip(node, port, 3_000_000) == 3_000_000


def test_a_connection_that_comes_early(connect: Connect, node: Node, echo_socket: Path) -> None:
    with connect() as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(echo_socket))["port"]
        script = ROUND_TRIP.replace(
            "    connection.send", '    open("early", "w")\n    connection.send', 1
        )
        words = ["sh", "-c", "cd; " + script.format(port=port, count=100_000)]
        early = subprocess.Popen(
            node.inside(["env", f"HOME=/home/{USER}", *words], USER),
            stdout=subprocess.PIPE,
            text=True,
        )
        # A command runs here while sshd announces the connection, and still nobody serves.
        driver.do("run", command="until test -e early; do sleep 0.02; done; sleep 0.2; rm early")
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        assert early.communicate(timeout=PATIENCE_SECONDS)[0] == "100000\n"


def test_the_tunnel_is_on_the_loopback_only(connect: Connect, node: Node, tmp_path: Path) -> None:
    with connect() as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(tmp_path / "none"))["port"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((node.ip, port), timeout=PATIENCE_SECONDS)


def test_forwarding_denied(connect: Connect, node: Node, tmp_path: Path) -> None:
    node.restart_sshd(AllowTcpForwarding="no")
    with connect() as driver:
        driver.do("open")
        error = driver.fails("forward", port=0, socket=str(tmp_path / "none"))
    assert (error.step, error.lasting) == ("forward", True)
    for word in ("AllowTcpForwarding", "PermitListen", "permitlisten", "reverse_port"):
        assert word in error.text


def test_a_restricted_key(connect: Connect, node: Node, echo_socket: Path) -> None:
    node.authorize('restrict,port-forwarding,permitlisten="localhost:40123"')
    with connect() as driver:
        driver.do("open")
        assert driver.fails("forward", port=0, socket=str(echo_socket)).lasting
        assert driver.fails("forward", port=40124, socket=str(echo_socket)).lasting
        assert driver.do("forward", port=40123, socket=str(echo_socket))["port"] == 40123
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        assert round_trip(node, 40123, 1000) == 1000


def test_a_port_that_is_taken(connect: Connect, node: Node, tmp_path: Path) -> None:
    with connect() as first, connect() as second:
        for driver in (first, second):
            driver.do("open")
        first.do("forward", port=40200, socket=str(tmp_path / "none"))
        error = second.fails("forward", port=40200, socket=str(tmp_path / "none"))
        assert (error.step, error.lasting) == ("forward", False)
        assert "40200" in error.text and "reverse_port" in error.text


# --- The held command ---


def test_last_words(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        driver.order("serve", command="cat; echo over >&2; exit 9", input="first\n")
        assert driver.line()["text"] == "first"
        driver.order("finish", words="end 5\n")
        texts = {driver.line()["text"], driver.line()["text"]}
        assert texts == {"end 5", "over"}
        assert driver.result("serve")["status"] == 9


def test_last_words_that_come_first(connect: Connect) -> None:
    with connect() as driver:
        driver.do("open")
        driver.order("finish", words="end 0\n")
        driver.do("run", command="true")
        driver.order("serve", command="cat", input="config\n")
        assert [driver.line()["text"], driver.line()["text"]] == ["config", "end 0"]
        assert driver.result("serve")["status"] == 0


@pytest.mark.parametrize("stage", ["open", "run", "serve"])
def test_cut_ends_whatever_blocks(connect: Connect, stage: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as stack:
        if stage == "open":
            place = {"address": "127.0.0.1", "port": silent.getsockname()[1]}
            driver = stack.enter_context(connect(**place))
            driver.order("open")
            stack.enter_context(silent.accept()[0])
        else:
            driver = stack.enter_context(connect())
            driver.do("open")
            driver.order(stage, command="echo up; exec sleep 1000")
            if stage == "serve":
                driver.line()
        driver.order("cut")
        error = driver.fails_result(stage)
        assert (error.step, error.lasting) == ("serve", False)


def test_sshd_dies_in_mid_transfer(connect: Connect, node: Node, echo_socket: Path) -> None:
    with connect() as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(echo_socket))["port"]
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        sender = subprocess.Popen(
            node.inside(["sh", "-c", ROUND_TRIP.format(port=port, count=10**9)], USER),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: len(driver_bytes(echo_socket)) > 0, "bytes arrive")
            node.kill_sshd()
            error = driver.fails_result("serve")
        finally:
            sender.kill()
            sender.wait()
        node.start_sshd()
        node.await_sshd()
        assert (error.step, error.lasting) == ("serve", False)
        driver.do("renew")
        driver.do("open")
        assert driver.do("run", command="echo again")["output"] == "again\n"


def driver_bytes(path: Path) -> list[str]:
    """The connections that are open to a Unix socket here."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if line.endswith(str(path)) and line.split()[5] == "03"]


def test_a_neighbour_on_the_node_crowds_nobody_out(
    connect: Connect, node: Node, tmp_path: Path
) -> None:
    """Hundreds of connections that say nothing; one that is admitted lives, a new one gets in."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"g" * 64)
        if connection.recv(16) == b"password":
            connection.sendall(b"w" * 1000)
            echo(connection)
        connection.recv(1)

    listener = Listener(tmp_path / "greeter", greet)
    with connect() as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(listener.path))["port"]
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        done = node.run(_CROWD.format(port=port, user=NEIGHBOUR), seconds=120)
    listener.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "admitted before: True\nadmitted after: True\n"


_CROWD = """python3 -c '
import os, pwd, socket
def enter():
    connection = socket.create_connection(("localhost", {port}), timeout=60)
    left = 64
    while left: left -= len(connection.recv(left))
    connection.sendall(b"password")
    left = 1000
    while left: left -= len(connection.recv(left))
    return connection
def works(connection):
    connection.sendall(b"ping")
    return connection.recv(4) == b"ping"
first = enter()
assert works(first)
os.setuid(pwd.getpwnam("{user}").pw_uid)
strangers = []
for number in range(300):
    stranger = socket.create_connection(("localhost", {port}), timeout=60)
    stranger.recv(64)
    strangers.append(stranger)
print("admitted before:", works(first))
second = enter()
print("admitted after:", works(second) and works(first))
'"""


def test_secrets_of_standard_input_stay_there(connect: Connect, node: Node) -> None:
    with connect() as driver:
        driver.do("open")
        driver.order("serve", command="echo up; cat >/dev/null", input="s3cret-words\n")
        assert driver.line()["text"] == "up"
        for place in ("/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"):
            assert node.run(f"grep -l s3cret-words {place} 2>/dev/null").stdout.count("\n") <= 1
        words = Path(f"/proc/{driver.process.pid}/cmdline").read_bytes()
        assert b"s3cret" not in words
        assert "s3cret" not in driver.log
