"""Which Python a node has, and what `muster up` says of one that has none."""

from __future__ import annotations

import subprocess

from nodes.client import PATIENCE, Client
from nodes.rig import Rig

ASK = """
from muster import ComputePool
with ComputePool(broker="auto") as pool:
    print(pool.submit(lambda: __import__("socket").gethostname()).result(60))
"""


def ask_for_python(client: Client) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/python3", "-c", ASK],
        env=client.rig.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_the_python_of_a_node_is_used_unasked(rig: Rig, client: Client) -> None:
    node = rig.nodes[0]
    up = client.run("up", node.address)
    assert up.returncode == 0 and "commands and native" not in up.stderr, up.stderr
    done = ask_for_python(client)
    assert done.stdout == "n1\n", done.stderr
    none = client.run("up", "--python", "none", node.address)
    assert none.returncode == 0 and "commands and native" not in none.stderr, none.stderr
    assert "--python" in ask_for_python(client).stderr


def test_a_node_that_lacks_python_says_so(rig: Rig, client: Client) -> None:
    node = rig.nodes[0]
    packages = "/usr/lib/python3/dist-packages"
    assert node.run(f"mount -t tmpfs tmpfs {packages}").returncode == 0
    try:
        node.run("rm -rf ~ada/.cache/muster/environments")
        up = client.run("up", f"{node.address}*2")
        assert up.returncode == 0, up.stderr
        line = next(line for line in up.stderr.splitlines() if "up, 2 slots" in line)
        assert "commands and native functions only" in line and "cloudpickle" in line, line
        assert "commands and native functions only" in client.run("status").stdout
        assert client.run("run", "--shell", "echo {}", ":::", "x").stdout == "x\n"
        assert "--python" in ask_for_python(client).stderr
        assert client.run("down").returncode == 0
    finally:
        node.run(f"umount -l {packages}")
    # What was missing is looked for again.
    node.run("touch -d '2 minutes ago' ~ada/.cache/muster/environments/*/ready")
    up = client.run("up", node.address)
    assert up.returncode == 0 and "commands and native" not in up.stderr, up.stderr
    assert ask_for_python(client).stdout == "n1\n"
