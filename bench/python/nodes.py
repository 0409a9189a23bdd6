"""A program whose pool is machines that it reaches by ssh: `nodes.py BENCH HOSTS …` prints its
figures as JSON lines.

The pool is up, and has run a call of the same kind, before the clock runs; its start is a figure of
its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from joblib import Parallel, delayed

from muster import SSH, ComputePool, Worker
from muster.joblib import JoblibPool

UP_SECONDS = 300


def show(figure: str, value: float) -> None:
    print(json.dumps({"figure": figure, "value": value}), flush=True)


def headline(hosts: str, slots: str, tasks: str, *sleeps: str) -> None:
    """`tasks` sleeps through joblib, of each length that is named."""
    begin = time.perf_counter()
    with JoblibPool(SSH(hosts), concurrency=int(slots), executor="thread") as pool:
        show("start_seconds", time.perf_counter() - begin)
        Parallel(n_jobs=-1)(delayed(abs)(i) for i in range(2 * pool.total_slots))
        for sleep in sleeps:
            start = time.perf_counter()
            Parallel(n_jobs=-1)(delayed(time.sleep)(float(sleep)) for _ in range(int(tasks)))
            taken = time.perf_counter() - start
            show(f"efficiency_{sleep}", int(tasks) / pool.total_slots * float(sleep) / taken)
            show(f"seconds_{sleep}", taken)


def wan(hosts: str, slots: str, tasks: str, sleep: str) -> None:
    """Sleeps through `pool.map`."""
    worker = Worker(concurrency=int(slots), executor="thread")
    with ComputePool(SSH(hosts), worker=worker) as pool:
        show("round_trip_ms", max(node.round_trip_seconds for node in pool.nodes()) * 1000)
        list(pool.map(time.sleep, [float(sleep)] * 10 * pool.total_slots))
        show("round_trip_ms", max(node.round_trip_seconds for node in pool.nodes()) * 1000)
        start = time.perf_counter()
        for _ in pool.map(time.sleep, [float(sleep)] * int(tasks)):
            pass
        taken = time.perf_counter() - start
        show("efficiency", int(tasks) / pool.total_slots * float(sleep) / taken)
        show("seconds", taken)


def place(_: int) -> str:
    time.sleep(0.05)
    return socket.gethostname()


def memory_bytes(process: int) -> int:
    """What the process alone is to blame for: shared pages count in parts."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of process {process}")


def broker_of(endpoint: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("muster-broker") and any(endpoint in word for word in words):
            return int(folder.name)
    raise RuntimeError(f"no muster-broker listens at {endpoint}")


def up(hosts: str, count: str) -> None:
    """`muster up`, until a task ran on every node; the nodes are warm from a first time."""
    for turn in ("cold", "warm"):
        start = time.perf_counter()
        subprocess.run(["muster", "up", hosts], check=True, timeout=UP_SECONDS, stdout=2)
        try:
            with ComputePool(broker="auto") as pool:
                seen: set[str] = set()
                while len(seen) < int(count):
                    seen |= set(pool.map(place, range(2 * int(count)), chunksize=1))
                show(f"{turn}_seconds", time.perf_counter() - start)
                time.sleep(2)  # idle
                with_tunnels = memory_bytes(broker_of(pool.broker))
        finally:
            subprocess.run(["muster", "down"], check=True, timeout=UP_SECONDS, stdout=2)
    endpoint = f"ipc://{os.environ['XDG_RUNTIME_DIR']}/empty"
    with subprocess.Popen(["muster-broker", "--listen", endpoint]) as broker:
        try:
            with ComputePool(broker=endpoint) as pool:
                pool.status()
                without = memory_bytes(broker.pid)
        finally:
            broker.terminate()
    show("broker_mb", with_tunnels / 1e6)
    show("broker_mb_per_tunnel", (with_tunnels - without) / int(count) / 1e6)


if __name__ == "__main__":
    {"headline": headline, "wan": wan, "up": up}[sys.argv[1]](*sys.argv[2:])
