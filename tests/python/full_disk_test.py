"""Programs whose data finds the file systems full: they wait while their own tasks can make room,
and say what is wrong when nothing can. On real file systems, in a mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--mount", "--propagation", "private"]
if os.geteuid() != 0:
    NAMESPACE.append("--map-root-user")

PROGRAM = """
    import os, sys, threading, time
    from pathlib import Path

    import numpy as np
    from joblib import Parallel, delayed

    from muster import ComputePool, Worker
    from muster.errors import MusterError
    from muster.joblib import sklearn_backend

    disk, how = Path(sys.argv[1]), sys.argv[2]
    go = disk / "go"
    ITEMS, BYTES = 9, 8_000_000

    def total(array):
        deadline = time.monotonic() + 60
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return int(array[0]) + len(array)

    def make(number):
        return np.full(BYTES, number, np.uint8)

    def arrays():
        for number in range(ITEMS):
            if number == 3:  # memory has the others; this one finds no room
                threading.Timer(0.5, go.touch).start()
            yield np.full(BYTES, number, np.uint8)

    # One slot where the program waits for one result while the others' fill the disk: two slots may
    # finish a later task first, and its result takes the last room.
    slots = 1 if how == "results" else 2
    with ComputePool(worker=Worker(concurrency=slots)) as pool:
        assert pool.submit(abs, -1).result(60) == 1
        facts = os.statvfs(disk)
        others = os.open(disk / "of others", os.O_CREAT | os.O_WRONLY)
        os.posix_fallocate(others, 0, facts.f_bavail * facts.f_frsize - 2_000_000)
        expected = [number + BYTES for number in range(ITEMS)]
        if how == "map":
            assert list(pool.map(total, arrays())) == expected
        elif how == "submit":
            futures = [pool.submit(total, array) for array in arrays()]
            assert [future.result(60) for future in futures] == expected
        elif how == "scatter":
            futures = [pool.submit(total, pool.scatter(array)) for array in arrays()]
            assert [future.result(60) for future in futures] == expected
        elif how == "Parallel":
            with sklearn_backend(pool):
                calls = (delayed(total)(array) for array in arrays())
                assert Parallel(n_jobs=-1, pre_dispatch="all")(calls) == expected
        elif how == "results":
            futures = [pool.submit(make, number) for number in range(ITEMS)]
            futures[2].result(60)
            for number in range(ITEMS):  # the others wait for room until this one takes them
                assert (futures.pop(0).result(60) == number).all()
        elif how == "too large":
            try:
                pool.submit(total, np.ones(80_000_000, np.uint8)).result(60)
            except MusterError as error:
                assert "no room" in str(error) and "--blob-disk" in str(error), error
        print("done", flush=True)
"""


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not make mount namespaces",
)
@pytest.mark.parametrize("how", ["map", "submit", "scatter", "Parallel", "results", "too large"])
def test_a_full_disk_makes_wait_and_not_fail(tmp_path: Path, how: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts = f"mount -t tmpfs -o size=48M x /dev/shm && mount -t tmpfs -o size=40M x {disk}"
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f'{mounts} && exec "$@"', "sh"]
        + [sys.executable, "-c", textwrap.dedent(PROGRAM), str(disk), how],
        env={**os.environ, "XDG_CACHE_HOME": str(disk), "MUSTER_BROKER": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
