"""Large data: one array for many tasks, scikit-learn over it, bulk to another machine, and results
that pile up. The Python sides are bench/python/blobs.py."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from nodes.rig import USER, USER_ID, Node
from nodes.rig import Rig as Machines

from bench.harness import (
    ROOT,
    Bench,
    Figure,
    MeasurementError,
    Rig,
    Values,
    at_least,
    at_most,
    median,
    ratio_figure,
    read_values,
)
from bench.python.processes import MEGA, folder_bytes, memory_folder, pss_bytes, sampled

_SIDES = "bench/python/blobs.py"
_CLIENT = ROOT / "bench" / "python" / "blobs.py"
_PYTHON = "/usr/bin/python3"  # the nodes have it, too
_ARRAY_MB = 256
_DATA_BYTES = 64 << 10  # from this size on buffers are blobs, which no socket carries
_BULK_MB, _QUICK_BULK_MB, _BLOCK_MB = 4096, 1024, 64
_RESULTS, _QUICK_RESULTS = 1_000, 200
_PATIENCE_SECONDS = 60.0


def _side(rig: Rig, bench: str, *arguments: str) -> Values:
    return rig.python_values(_SIDES, bench, *arguments)


# --- One array for many tasks


def _shared_array(rig: Rig) -> Iterator[Figure]:
    names = ("muster", "loky", "dask", "forks")
    sides = rig.take_turns(
        *(partial(_side, rig, "shared_array", name) for name in names),
        lambda: rig.values("digest_bench", "--megabytes", str(_ARRAY_MB)),
    )
    seconds = {
        name: [sample["seconds"] for sample in side]
        for name, side in zip(names, sides[:4], strict=True)
    }
    ours = seconds["muster"]
    yield ratio_figure("ratio_to_loky", ours, seconds["loky"], at_most(1.2))
    yield ratio_figure("ratio_to_dask", ours, seconds["dask"], at_most(1 / 3))
    yield ratio_figure("ratio_to_forks", ours, seconds["forks"], None)
    digests = [sample["digest_seconds"] for sample in sides[4]]
    yield ratio_figure("hash_share", digests, ours, at_most(0.05))
    memory = [_side(rig, "shared_array_memory", "muster") for _ in range(3)]
    samples = min(sample["samples"] for sample in memory)
    yield Figure(
        "pool_pss_mb",
        max(sample["pool_pss_mb"] for sample in memory),
        "MB",
        at_most(_ARRAY_MB + 300),
        f"largest of {samples:.0f} samples or more in each of {len(memory)} runs",
    )
    yield from _socket_bytes(rig)
    for name in names:
        yield Figure(f"{name}_seconds", statistics.median(seconds[name]), "s")


def _socket_bytes(rig: Rig) -> Iterator[Figure]:
    """Every byte that any process of the pool gives to a socket or a pipe, by system call."""
    log = rig.scratch / "sockets.strace"
    calls = "sendto,sendmsg,sendmmsg,write,writev,sendfile"
    rig.traced_python(
        ["strace", "-f", "-qq", "-y", "-s", "0", "-e", f"trace={calls}", "-o", str(log)],
        *(_SIDES, "shared_array", "muster"),
    )
    sizes = _sent_sizes(log)
    large = sum(size for size in sizes if size >= _DATA_BYTES)
    note = f"in calls of 64 KiB and more; {sum(sizes) / 1000:.0f} kB in all {len(sizes)}"
    yield Figure("socket_bytes", large, "B", at_most(0), note)


_CALL = re.compile(r"^(\d+) +(\w+)\(\d+<(socket|UNIX|TCP|pipe|anon_inode)?")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.* = (\d+)$")
_RESULT = re.compile(r" = (\d+)$")


def _sent_sizes(log: Path) -> list[int]:
    """What each call on a socket or pipe sent. A call that others interrupt stands in two lines."""
    sizes: list[int] = []
    unfinished: set[tuple[str, str]] = set()
    with log.open(errors="replace") as lines:
        for line in lines:
            text = line.rstrip()
            resumed = _RESUMED.match(text)
            if resumed is not None:
                if resumed.group(1, 2) in unfinished:
                    unfinished.discard((resumed[1], resumed[2]))
                    sizes.append(int(resumed[3]))
                continue
            call = _CALL.match(text)
            if call is None or call[3] in (None, "anon_inode"):
                continue
            result = _RESULT.search(text)
            if text.endswith("<unfinished ...>"):
                unfinished.add((call[1], call[2]))
            elif result is not None:
                sizes.append(int(result[1]))
    if not sizes:
        raise MeasurementError(f"strace saw nobody send anything ({log})")
    return sizes


# --- scikit-learn


def _grid(rig: Rig) -> Iterator[Figure]:
    muster, loky = rig.take_turns(
        partial(_side, rig, "grid", "muster"), partial(_side, rig, "grid", "loky")
    )
    scores = [sample["best_score"] for sample in (*muster, *loky)]
    if max(scores) - min(scores) > 1e-3:
        raise MeasurementError("the two sides found different scores")
    yield ratio_figure(
        "ratio_to_loky", [s["seconds"] for s in muster], [s["seconds"] for s in loky], at_most(1)
    )
    with Machines(2) as machines:
        hosts = machines.home / "hosts.toml"
        hosts.write_text(machines.hosts(python="3.11", slots=1))
        values = _client(rig, machines.environment, "grid_nodes", hosts)
    least, most = values["least_copies"], values["most_copies"]
    note = f"{least:.3f} to {most:.3f} of X and y through {values['nodes']:.0f} tunnels"
    yield Figure("copies_per_node", most, "", at_most(1.05), note)
    yield Figure("least_copies_per_node", least, "", at_least(0.95))
    yield Figure("muster_seconds", median(muster, "seconds"), "s")
    yield Figure("loky_seconds", median(loky, "seconds"), "s")


def _client(rig: Rig, environment: Mapping[str, str], bench: str, *arguments: object) -> Values:
    """One run of bench/python/blobs.py by the interpreter of the nodes."""
    binaries = Path(rig.program("muster")).resolve().parent
    words = {
        **environment,
        "PATH": f"{binaries}:{environment.get('PATH', '/usr/bin:/bin')}",
        "PYTHONPATH": str(binaries.parent / "python"),
        "MUSTER_BIN_DIR": str(binaries),
    }
    argv = ["env", "-i", *(f"{key}={text}" for key, text in words.items())]
    output = rig.run([*argv, _PYTHON, str(_CLIENT), bench, *map(str, arguments)])
    return read_values(f"blobs.py {bench}", output)


# --- Bulk to another machine


class _TrustingPool:
    """A broker with a TCP endpoint in the clear, and a worker on the node that comes there."""

    def __init__(self, rig: Rig, machines: Machines, node: Node) -> None:
        self.endpoint = f"ipc://{machines.home}/run/bulk"
        self._log = machines.home / "broker.log"
        secret = machines.home / "secret"
        rig.run([rig.program("muster"), "keygen", "--name", "bench", "--secret", str(secret)])
        with self._log.open("wb") as log:
            self.broker = subprocess.Popen(
                [rig.program("muster-broker"), "--listen", self.endpoint]
                + ["--listen", f"tcp://{machines.subnet}.1:*", "--trust-network", str(secret)]
                + ["--blob-memory", "128mb", "--blob-folder", str(machines.home / "blobs")],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        theirs = node.home / "secret"
        shutil.copy(secret, theirs)
        shutil.chown(theirs, USER_ID, USER_ID)
        theirs.chmod(0o600)
        binaries = Path(rig.program("muster-worker")).resolve()
        environment = [f"HOME=/home/{USER}", f"PYTHONPATH={binaries.parent.parent / 'python'}"]
        argv = [str(binaries), "--connect", self._tcp_endpoint(), "--slots", "1"]
        argv += ["--secret", f"/home/{USER}/secret", "--python", _PYTHON]
        # Of a bounded cache: pages that a virtual machine never touched before cost it ten times
        # what others do, and this is about moving data.
        argv += ["--blob-memory", "512mb"]
        with (node.folder / "worker.log").open("wb") as log:
            self._worker = subprocess.Popen(
                node.inside(["env", *environment, *argv], USER),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _tcp_endpoint(self) -> str:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and self.broker.poll() is None:
            found = re.search(r"listening on (tcp://\S+)", self._log.read_text())
            if found is not None:
                return found[1]
            time.sleep(0.02)
        self.broker.kill()
        raise MeasurementError(f"the broker does not listen: {self._log.read_text()[-500:]}")

    def close(self) -> None:
        for process in (self._worker, self.broker):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_SECONDS)
            process.kill()
            process.wait()


def _raw_bulk(rig: Rig, machines: Machines, node: Node, megabytes: int, *words: str) -> float:
    program = str(Path(rig.program("raw_bulk_bench")).resolve())
    endpoint = f"tcp://{machines.subnet}.1:5679"
    amount = ["--megabytes", str(megabytes), *words]
    with subprocess.Popen([program, "--listen", endpoint, *amount]) as sender:
        try:
            output = rig.run(node.inside([program, "--connect", endpoint, *amount]))
        finally:
            sender.kill()
    return read_values("raw_bulk_bench", output)["megabytes_per_second"]


def _iperf(rig: Rig, machines: Machines, node: Node, megabytes: int) -> float:
    """iperf3 with one connection, from the broker's machine to the node."""
    address = f"{machines.subnet}.1"
    with subprocess.Popen(
        ["iperf3", "--server", "--one-off", "--bind", address], stdout=subprocess.DEVNULL
    ) as server:
        try:
            argv = ["iperf3", "--client", address, "--reverse", "--json", "--connect-timeout"]
            argv += ["5000", "--bytes", f"{megabytes}M"]
            output = rig.run(node.inside(["sh", "-c", "sleep 0.5; exec " + " ".join(argv)]))
        finally:
            server.kill()
    found = re.search(r'"sum_received":\s*{[^}]*"bits_per_second":\s*([0-9.e+]+)', output)
    if found is None:
        raise MeasurementError("iperf3 printed no speed")
    return float(found[1]) / 8 / MEGA


def _bulk(rig: Rig) -> Iterator[Figure]:
    megabytes = _QUICK_BULK_MB if rig.quick else _BULK_MB
    with Machines(1) as machines:
        node = machines.nodes[0]
        pool = _TrustingPool(rig, machines, node)
        try:
            folder: list[Path] = []

            def memory() -> int:
                if not folder:
                    folder.append(memory_folder(pool.broker.pid))
                return pss_bytes(pool.broker.pid) + folder_bytes(folder[0])

            def ours() -> float:
                values = _client(
                    rig, machines.environment, "bulk", pool.endpoint, megabytes, _BLOCK_MB
                )
                return values["megabytes_per_second"]

            raw_bulk = partial(_raw_bulk, rig, machines, node, megabytes)
            sides = [ours, raw_bulk, partial(raw_bulk, "--files")]
            if shutil.which("iperf3") is not None:
                sides.append(partial(_iperf, rig, machines, node, megabytes))
            with sampled(memory) as peak:
                muster, raw, files, *iperf = rig.take_turns(*sides)
        finally:
            pool.close()
    yield ratio_figure("ratio_to_raw", muster, raw, at_least(0.8))
    note = f"with what it keeps in memory, {peak.samples} samples"
    yield Figure("broker_mb", peak.bytes / MEGA, "MB", at_most(256), note)
    yield Figure("mb_per_second", statistics.median(muster), "MB/s")
    yield Figure("raw_mb_per_second", statistics.median(raw), "MB/s")
    yield ratio_figure("ratio_to_raw_files", muster, files, None)
    yield Figure("raw_files_mb_per_second", statistics.median(files), "MB/s")
    for samples in iperf:
        yield ratio_figure("ratio_to_iperf", muster, samples, None)
        yield Figure("iperf_mb_per_second", statistics.median(samples), "MB/s")


# --- Results


def _results(rig: Rig) -> Iterator[Figure]:
    count = _QUICK_RESULTS if rig.quick else _RESULTS
    values = _side(rig, "results", str(count))
    parts = ", ".join(
        f"{part} {values[f'{part}_mb']:.0f}" for part in ("producer", "broker", "store")
    )
    note = f"at their own peaks: {parts}"
    yield Figure("peak_mb", values["peak_mb"], "MB", at_most(512), note)
    yield Figure("results_per_second", values["results_per_second"], "/s")


_PROGRAMS = ("muster", "muster-broker", "muster-worker")
SHARED_ARRAY = Bench(
    "shared_array", _shared_array, (*_PROGRAMS, "digest_bench"), tools=("strace",), python=True
)
GRID = Bench("grid", _grid, _PROGRAMS, tools=("sshd", "ip"), python=True)
BULK = Bench("bulk", _bulk, (*_PROGRAMS, "raw_bulk_bench"), tools=("sshd", "ip"))
RESULTS = Bench("results", _results, _PROGRAMS, python=True)
