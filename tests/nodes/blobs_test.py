"""Large data on nodes: it crosses each tunnel once, whatever happens meanwhile, and fits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from nodes.rig import USER_ID, Node, Rig, wait_until

import muster
from muster import SSH, ComputePool, Image, Worker

MB = 1_000_000
PATIENCE = 120.0
WORKER = "[m]uster-worker --control"

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes do not have these tests


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(2) as rig:
        yield rig


@pytest.fixture(autouse=True)
def client(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the rig's client."""
    for name in ("HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, rig.environment[name])
    monkeypatch.setenv("MUSTER_BROKER", "")


def random_bytes(size: int, seed: int = 0) -> Any:
    """Nothing makes them smaller on the way."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@contextmanager
def pool(rig: Rig, nodes: int = 1, slots: int = 2, **environment: str) -> Iterator[ComputePool]:
    hosts = [{"name": n.name, "address": n.address} for n in rig.nodes[:nodes]]
    image = Image(env=environment) if environment else None
    with ComputePool(SSH(hosts=hosts), worker=Worker(concurrency=slots), image=image) as made:
        yield made


def row(pool: ComputePool, name: str) -> dict[str, Any]:
    return next(row for row in pool.status()["nodes"] if row["name"] == name)


def sent(pool: ComputePool, name: str = "n1") -> int:
    """Bytes that went through the tunnel to this node."""
    return int(row(pool, name)["bytes_out"])


def copies(node: Node) -> list[int]:
    """The sizes of the blobs that are on the node, in memory and on disk."""
    folders = f"/dev/shm/muster-{USER_ID}/worker-*/own /home/ada/.cache/muster/blobs/worker-*"
    found = node.run(f"find {folders} -maxdepth 1 -type f -printf '%f %s\\n' 2>/dev/null").stdout
    return [int(size) for size in re.findall(r"^[0-9a-f]{32} (\d+)$", found, re.MULTILINE)]


def look(data: Any, number: int) -> tuple[str, int]:
    import socket
    import time

    time.sleep(0.05)
    return socket.gethostname(), int(data[number])


def test_an_array_of_many_tasks_crosses_each_tunnel_once(rig: Rig) -> None:
    data = random_bytes(30 * MB)
    with pool(rig, nodes=2, slots=4) as it:
        assert it.submit(pow, 2, 3).result(PATIENCE) == 8
        before = {node.name: sent(it, node.name) for node in rig.nodes}
        futures = [it.submit(look, data, number) for number in range(40)]
        results = [future.result(PATIENCE) for future in futures]
        assert [value for _, value in results] == [int(data[i]) for i in range(40)]
        assert {place for place, _ in results} == {"n1", "n2"}
        for node in rig.nodes:
            crossed = sent(it, node.name) - before[node.name]
            assert len(data) <= crossed < 1.05 * len(data), (node.name, crossed)
            assert copies(node) == [len(data)]


def test_small_tasks_run_while_large_data_comes(rig: Rig) -> None:
    data = random_bytes(200 * MB)
    with pool(rig, slots=1) as it:
        assert it.submit(pow, 2, 3).result(PATIENCE) == 8
        before = sent(it)
        large = it.submit(look, data, 5)
        wait_until(lambda: sent(it) - before > 5 * MB, "the data is on its way")
        small = [it.submit(pow, 2, i) for i in range(20)]
        assert [future.result(PATIENCE) for future in small] == [2**i for i in range(20)]
        assert not large.done()
        assert large.result(PATIENCE) == ("n1", int(data[5]))


def test_a_cut_cable_costs_what_was_on_its_way(rig: Rig) -> None:
    data = random_bytes(200 * MB)
    node = rig.nodes[0]
    with pool(rig) as it:
        assert it.submit(pow, 2, 3).result(PATIENCE) == 8
        before = sent(it)
        future = it.submit(look, data, 7)
        wait_until(lambda: sent(it) - before > 70 * MB, "a third of the data went")
        node.cut()
        try:
            wait_until(lambda: row(it, "n1")["state"] != "up", "the broker noticed")
            assert not future.done()
        finally:
            node.restore()
        assert future.result(PATIENCE) == ("n1", int(data[7]))
        # What a socket and a tunnel hold is lost, and no more.
        assert sent(it) - before < len(data) + 40 * MB


def test_a_killed_worker_leaves_no_data_and_its_tasks_run(rig: Rig) -> None:
    data = random_bytes(100 * MB)
    node = rig.nodes[0]
    with pool(rig) as it:
        assert it.submit(look, data, 3).result(PATIENCE) == ("n1", int(data[3]))
        futures = [it.submit(look, data, number) for number in range(40)]
        wait(futures, PATIENCE, FIRST_COMPLETED)
        node.kill(WORKER)
        assert [f.result(PATIENCE)[1] for f in futures] == [int(data[i]) for i in range(40)]
        assert copies(node) == [len(data)]  # and not also the one of the worker that died
    wait_until(lambda: not node.processes(WORKER), "the worker ends with its pool")
    wait_until(lambda: not copies(node), "nothing stays")


def test_large_results_come_back_and_do_not_stay(rig: Rig) -> None:
    def make(number: int) -> Any:
        import numpy

        return numpy.full(1_000_000, number, dtype=float)

    node = rig.nodes[0]
    with pool(rig) as it:
        results = it.map(make, range(20), chunksize=1)
        for number, result in enumerate(results):
            assert result.shape == (1_000_000,)
            assert (result == number).all()
        incoming = f"find /dev/shm/muster-{USER_ID} -type f -path '*/incoming/*'"
        wait_until(lambda: not copies(node), "no result stays on the node")
        wait_until(lambda: not node.run(incoming).stdout, "nor a part of one")


def test_the_cache_stays_within_its_limit(rig: Rig) -> None:
    arrays = [random_bytes(8 * MB, seed) for seed in range(6)]
    limits = {"MUSTER_BLOB_MEMORY": "24MB", "MUSTER_BLOB_DISK": "0"}
    with pool(rig, slots=1, **limits) as it:
        for _ in range(2):
            for array in arrays:
                assert it.submit(look, array, 9).result(PATIENCE) == ("n1", int(array[9]))
                assert sum(copies(rig.nodes[0])) <= 24 * 2**20
        with pytest.raises(muster.TaskError, match="--blob-memory"):
            it.submit(look, random_bytes(30 * MB), 9).result(PATIENCE)
        # More tasks than the cache has room for: they wait for each other.
        futures = [it.submit(look, array, 9) for array in arrays]
        assert [f.result(PATIENCE)[1] for f in futures] == [int(array[9]) for array in arrays]


def test_a_full_node_says_so_and_goes_on(rig: Rig) -> None:
    node = rig.nodes[1]
    node.limit_memory("40m")
    node.limit_disk("300m")
    try:
        hosts = [{"name": node.name, "address": node.address}]
        with ComputePool(SSH(hosts=hosts), worker=Worker(concurrency=1)) as it:
            assert it.submit(pow, 2, 3).result(PATIENCE) == 8
            # Somebody fills what the worker counted on.
            node.run("head -c 39m /dev/zero > /dev/shm/filler")
            node.run("cd /home/ada/.cache; head -c 290m /dev/zero > filler; rm -f nothing")
            with pytest.raises(muster.TaskError, match="no room for a blob"):
                it.submit(look, random_bytes(12 * MB), 9).result(PATIENCE)
            assert it.submit(pow, 2, 4).result(PATIENCE) == 16
            node.run("rm /dev/shm/filler /home/ada/.cache/filler")
            data = random_bytes(12 * MB)
            assert it.submit(look, data, 9).result(PATIENCE) == ("n2", int(data[9]))
    finally:
        node.run("rm -f /dev/shm/filler")
        node.limit_memory("50%")
        node.unlimit_disk()


def test_a_broker_that_is_killed_in_mid_transfer_comes_back(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(rig.hosts(python=f"{sys.version_info.major}.{sys.version_info.minor}", slots=2))

    def command(*words: str) -> str:
        done = subprocess.run(
            ["muster", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=rig.environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def broker() -> int:
        runtime = rig.environment["XDG_RUNTIME_DIR"].encode()
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.split(b"\0")[0].endswith(b"muster-broker") and runtime in line:
                return int(entry.name)
        return 0

    script = """
        import sys
        import numpy as np
        from muster import ComputePool

        def total(data, number):
            return int(data[number::7].sum())

        data = np.random.default_rng(1).integers(0, 256, 300_000_000, dtype=np.uint8)
        with ComputePool() as pool:
            print("ready", flush=True)
            futures = [pool.submit(total, data, number) for number in range(10)]
            assert [f.result() for f in futures] == [total(data, n) for n in range(10)]
        print("done", flush=True)
    """
    command("up", str(file))
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=rig.environment,
    )
    try:
        partial = f"find /dev/shm/muster-{USER_ID} -name '*.writing' -size +10M"
        wait_until(lambda: rig.nodes[0].run(partial).stdout, "the data is on its way")
        pid = broker()
        os.kill(pid, 9)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the broker is dead")
        command("up", str(file))
        output, errors = program.communicate(timeout=PATIENCE)
        assert output == "ready\ndone\n", errors
    finally:
        program.kill()
        command("down")


def test_a_worker_that_does_not_see_the_brokers_files_gets_copies(rig: Rig, tmp_path: Path) -> None:
    """On the broker's machine, in a mount namespace with a /dev/shm of its own."""
    endpoint = f"ipc://{tmp_path}/broker"
    environment = rig.environment | {"MUSTER_BROKER": endpoint}
    script = "mount -t tmpfs tmpfs /dev/shm && exec muster-worker --slots 1 --node apart"
    started = [
        subprocess.Popen(["muster-broker", "--listen", endpoint], env=environment),
        subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env=environment | {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"},
        ),
    ]
    try:
        wait_until(Path(f"{tmp_path}/broker").exists, "the broker listens")
        data = random_bytes(20 * MB)

        def shares(array: Any) -> tuple[bool, int]:
            import os

            return os.path.exists(os.environ["MUSTER_BLOBS"] + "/shares"), int(array[11])

        with ComputePool(broker=endpoint) as it:
            assert it.submit(shares, data).result(PATIENCE) == (False, int(data[11]))
            returned = it.submit(lambda array: array + 1, data).result(PATIENCE)
            assert (returned == data + 1).all()
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.parametrize("apart", ["namespace", "no folders"])
def test_a_program_that_does_not_share_the_brokers_files_gets_its_results(
    rig: Rig, tmp_path: Path, apart: str
) -> None:
    """In a mount namespace with a /dev/shm of its own, or of a broker without folders."""
    endpoint = f"ipc://{tmp_path}/broker"
    environment = rig.environment | {"MUSTER_BROKER": endpoint}
    script = """
        import numpy as np
        from muster import ComputePool
        data = np.random.default_rng(7).integers(0, 256, 5_000_000, dtype=np.uint8)
        with ComputePool() as pool:
            assert not pool.session.space.available
            for result in (lambda: data[:300_000], lambda: data, lambda: [data, bytes(data)]):
                got = pool.submit(result).result(60)
                assert all(np.array_equal(one, other) for one, other in zip(got, result()))
            assert pool.submit(lambda size: "x" * size, 5_000_000).result(60) == "x" * 5_000_000
        print("done", flush=True)
    """
    none = ["--blob-memory", "0", "--blob-disk", "0"] if apart == "no folders" else []
    mount = "mount -t tmpfs tmpfs /dev/shm && " if apart == "namespace" else ""
    started = [
        subprocess.Popen(["muster-broker", "--listen", endpoint, *none], env=environment),
        subprocess.Popen(["muster-worker", "--slots", "1"], env=environment),
    ]
    try:
        wait_until(Path(f"{tmp_path}/broker").exists, "the broker listens")
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        done = subprocess.run(
            [*command, mount + 'exec "$@"', "sh", sys.executable, "-c", textwrap.dedent(script)],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.stdout == "done\n", done.stderr
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(PATIENCE)
