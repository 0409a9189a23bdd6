"""How a muster::Remote gets in, of both kinds, and what it says when it does not: real sshds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from nodes.rig import USER, Node, Rig, wait_until
from nodes.tunnel_driver import Connect, Driver, round_trip

# --- Login ---


def test_logs_in_with_the_key_of_the_home_folder(connect: Connect) -> None:
    with connect() as driver:
        assert "connect" in driver.do("open")["steps"]
        assert driver.do("run", command="id -un")["output"] == f"{USER}\n"


def test_a_named_identity(connect: Connect, rig: Rig, tmp_path: Path) -> None:
    key = tmp_path / "key"
    shutil.copy(rig.key, key)
    with connect({"HOME": str(tmp_path)}, identity=str(key), known_hosts=_known_hosts(rig)) as d:
        d.do("open")


def _known_hosts(rig: Rig) -> str:
    return str(rig.home / ".ssh" / "known_hosts")


def test_an_alias_of_the_config_file(connect: Connect, node: Node, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host some-alias\n  HostName {node.host}\n  User {USER}\n")
    with connect(address="some-alias", user="", ssh_config=str(config)) as driver:
        driver.do("open")


def test_an_unknown_host_key(connect: Connect, node: Node, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    with connect(known_hosts=str(known_hosts)) as driver:
        error = driver.fails("open")
    assert (error.step, error.lasting) == ("host key", True)
    assert node.host in error.text and "ssh-keygen -lf" in error.text
    assert not known_hosts.exists()


@pytest.mark.parametrize("line", ["StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_no_config_loosens_the_host_key_check(connect: Connect, line: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host *\n  {line}\n")
    with connect(ssh_config=str(config), known_hosts=str(tmp_path / "none")) as driver:
        assert driver.fails("open").step == "host key"


def test_a_changed_host_key(connect: Connect, node: Node, rig: Rig) -> None:
    node.change_host_key()
    with connect() as driver:
        error = driver.fails("open")
    assert (error.step, error.lasting) == ("host key", True)
    assert _known_hosts(rig) in error.text and "ssh-keygen" in error.text


def test_a_wrong_user(connect: Connect) -> None:
    with connect(user="nobody-of-that-name") as driver:
        error = driver.fails("open")
    assert (error.step, error.lasting) == ("login", True)
    assert "publickey" in error.text and "ssh-copy-id" in error.text


def _encrypt(rig: Rig, folder: Path) -> Path:
    key = folder / "encrypted"
    shutil.copy(rig.key, key)
    key.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "geheim", "-f", str(key)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    return key


def test_an_encrypted_identity_wants_an_agent(connect: Connect, rig: Rig, tmp_path: Path) -> None:
    key = _encrypt(rig, tmp_path)
    with connect(identity=str(key)) as driver:
        error = driver.fails("open")
    assert (error.step, error.lasting) == ("login", True)
    assert "ssh-add" in error.text and "geheim" not in error.text


def test_an_encrypted_identity_in_the_agent(connect: Connect, rig: Rig, tmp_path: Path) -> None:
    agent_socket = tmp_path / "agent"
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent_socket)], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(agent_socket.exists, "the agent listens")
        environment = {"SSH_AUTH_SOCK": str(agent_socket)}
        subprocess.run(
            ["ssh-add", "-q", str(rig.key)], check=True, env={**os.environ, **environment}
        )
        with connect(environment, identity=str(_encrypt(rig, tmp_path))) as driver:
            driver.do("open")
    finally:
        agent.kill()
        agent.wait()


def test_a_name_that_nobody_knows(connect: Connect) -> None:
    with connect(address="no-such-host.invalid") as driver:
        assert driver.fails("open").step == "resolve"


def test_a_port_where_nobody_listens(connect: Connect) -> None:
    with connect(port=1) as driver:
        error = driver.fails("open")
    assert (error.step, error.lasting) == ("connect", False)


def test_a_port_where_nobody_answers(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with connect(address="127.0.0.1", port=port, connect_timeout=1) as driver:
            error = driver.fails("open")
    assert (error.step, error.lasting) == ("connect", False)


def test_a_host_name_that_is_an_option(connect: Connect) -> None:
    with connect(address="-oProxyCommand=touch /tmp/owned") as driver:
        assert driver.fails("open").step == "resolve"
    assert not Path("/tmp/owned").exists()


# --- The way there ---


def test_a_jump_host(rig_of_two: Rig, via: str, echo_socket: Path) -> None:
    near, far = rig_of_two.nodes
    far.run(f"ip route add blackhole {rig_of_two.subnet}.1")
    jump = f"{USER}@{near.host}:22"
    host = {"address": far.host, "user": USER, "via": via, "connect_timeout": 5}
    with Driver(rig_of_two.environment, **host) as driver:
        assert driver.fails("open").step == "connect"
    if via == "openssh":  # which has no options of ours for the machines on its way
        config = rig_of_two.folder / "config"
        config.write_text(
            f"IdentityFile {rig_of_two.key}\nUserKnownHostsFile {_known_hosts(rig_of_two)}\n"
        )
        host["ssh_config"] = str(config)
    with Driver(rig_of_two.environment, jump=jump, **host) as driver:
        driver.do("open")
        port = driver.do("forward", port=0, socket=str(echo_socket))["port"]
        driver.order("serve", command="echo up; cat")
        assert driver.line()["text"] == "up"
        assert round_trip(far, port, 1_000_000) == 1_000_000


def test_a_jump_host_that_refuses(rig: Rig, node: Node) -> None:
    host = {"address": node.host, "user": USER, "jump": f"eva@{node.host}", "connect_timeout": 5}
    with Driver(rig.environment, **host) as driver:
        error = driver.fails("open")
    assert error.step == "connect" and "Permission denied" in error.text


def test_a_proxy_command_of_the_config_file(rig: Rig, node: Node, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host far\n  HostName {node.host}\n  ProxyCommand ssh -i {rig.key} "
        f"-o UserKnownHostsFile={_known_hosts(rig)} -W %h:%p -p %p %r@%h\n"
    )
    with Driver(rig.environment, address="far", user=USER, ssh_config=str(config)) as driver:
        assert "resolve" not in driver.do("open")["steps"]


def test_a_connection_that_is_shared_already(rig: Rig, node: Node, echo_socket: Path) -> None:
    """The user's own master connection is used, and outlives us without our forward."""
    control = rig.folder / "control"
    config = rig.folder / "shared_config"
    config.write_text(f"Host *\n  ControlPath {control}\n")
    words = ["ssh", "-F", str(config), "-S", str(control), "-i", str(rig.key), "-o"]
    words += [f"UserKnownHostsFile={_known_hosts(rig)}", f"{USER}@{node.host}"]
    with subprocess.Popen([*words, "-M", "-N"]) as master:
        try:
            wait_until(control.exists, "the connection is shared")
            node.authorize("# nobody can log in any more:")
            host = {"address": node.host, "user": USER, "ssh_config": str(config)}
            with Driver(rig.environment, via="openssh", **host) as driver:
                driver.do("open")
                port = driver.do("forward", port=0, socket=str(echo_socket))["port"]
                driver.order("serve", command="echo up; cat")
                assert driver.line()["text"] == "up"
                assert round_trip(node, port, 1000) == 1000
                driver.order("finish")
                assert driver.result("serve")["status"] == 0
            still = subprocess.run([*words, "echo still"], check=False, capture_output=True)
            assert still.stdout == b"still\n"
            probe = f"python3 -c 'import socket; socket.create_connection((\"localhost\", {port}))'"
            assert "refused" in node.run(probe).stderr
        finally:
            master.kill()


def test_config_lines_that_libssh_ignores_are_named(rig: Rig, node: Node, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host other\n  HostKeyAlias a\nHost {node.host}\n  HostKeyAlias b\n")
    host = {"address": node.host, "user": USER, "ssh_config": str(config)}
    with Driver(rig.environment, **host) as driver:
        driver.do("open")
        driver.do("renew")
        driver.do("open")
    assert driver.log.count("HostKeyAlias b") == 1
    assert f"{config}:4: " in driver.log and 'via = "openssh"' in driver.log
    assert "HostKeyAlias a" not in driver.log


def test_a_revoked_host_key(rig: Rig, node: Node, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(node.known_hosts_line() + f"@revoked * {node.host_key}\n")
    with Driver(
        rig.environment, address=node.host, user=USER, known_hosts=str(known_hosts)
    ) as driver:
        error = driver.fails("open")
    assert error.step == "host key" and f"{known_hosts}:2" in error.text


def test_no_file_is_left_behind(rig: Rig, node: Node) -> None:
    """libssh would write the public half of a key beside it."""
    public = rig.key.with_suffix(".pub")
    text = public.read_text()
    public.unlink()
    try:
        with Driver(rig.environment, address=node.host, user=USER) as driver:
            driver.do("open")
        assert not public.exists()
    finally:
        public.write_text(text)


def test_a_certificate_beside_the_key(connect: Connect, rig: Rig, node: Node) -> None:
    authority = rig.folder / "authority"
    if not authority.exists():
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(authority)]
        subprocess.run(make, check=True)
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "a", "-n", USER, f"{rig.key}.pub"]
    subprocess.run(sign, check=True)
    node.restart_sshd(TrustedUserCAKeys=f"{authority}.pub")
    node.authorize("# no key is enough here:")
    try:
        with connect() as driver:
            driver.do("open")
    finally:
        Path(f"{rig.key}-cert.pub").unlink()
