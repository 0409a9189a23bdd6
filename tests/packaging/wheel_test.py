"""The wheel in bare virtual environments: here, and in a minimal Debian without our libraries."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import pathlib
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence

import pytest
from debian_root import fresh_root, run
from nodes.rig import Rig
from source_tree import version

pytestmark = pytest.mark.timeout(1800)  # the first that asks for the wheel builds it

MOST_BYTES = 16_000_000
PATIENCE = 300.0
OF_THE_MACHINE = re.compile(
    r"ld-linux-x86-64\.so\.2|lib(c|m|pthread|resolv|stdc\+\+|gcc_s)\.so\.\d+"
)

PROGRAM = """
import os, sys
import muster
from joblib import Parallel, delayed
from muster import ComputePool, JoblibPool, Worker

def square(number):
    return number * number, os.getpid()

if __name__ == "__main__":
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        results = list(pool.map(square, range(5)))
        assert pool.submit(lambda: sys.prefix).result() == sys.prefix
    assert [result for result, _ in results] == [0, 1, 4, 9, 16], results
    assert os.getpid() not in {pid for _, pid in results}
    with JoblibPool(concurrency=2):
        assert Parallel(n_jobs=-1)(delayed(pow)(i, 2) for i in range(4)) == [0, 1, 4, 9]
    print(muster.__version__, muster.__file__)
"""

# A broker that stays, a worker whose Python is the environment's, and somebody who joins.
SHARED = """
set -e
mkdir -m 0700 "$1/pool"
export MUSTER_BROKER=ipc://$1/pool/broker
"$2/muster-broker" & broker=$!
"$2/muster-worker" --slots 2 & worker=$!
"$2/muster" run 'echo {} squared is $(({}*{}))' ::: 1 2 3
"$2/python" -c "
import sys
from muster import ComputePool
with ComputePool(broker='auto') as pool:
    print(pool.submit(lambda: sys.prefix).result())
"
kill $worker; wait $worker
kill $broker; wait $broker
"""

REMOTE = """
import sys
from muster import SSH, ComputePool, Image
with ComputePool(SSH(sys.argv[1]), image=Image(wheels=sys.argv[2], pip=["joblib"])) as pool:
    print(pool.submit(lambda: __import__("socket").gethostname()).result())
"""

TYPED = """
from joblib import Parallel, delayed  # type: ignore  # it says no types
from muster import SSH, ComputePool, Image, JoblibPool, Resources, Worker, as_completed, compute
from muster.joblib import ScikitLearnPool


def half(number: int) -> float:
    return number / 2


@compute
def double(number: int) -> int:
    return 2 * number


def main() -> list[float]:
    with ComputePool(worker=Worker(concurrency=2), timeout=5.0) as pool:
        values: list[float] = list(pool.map(half, range(3)))
        future = pool.submit(half, 3)
        values.append(future.result())
        values += [done.result() for done in as_completed([future])]
        values += pool.with_options(retries=2).map(half, [1])
        values.append(pool.submit(sum, pool.scatter([1.0])).result())
        doubled: int = double(3) >> pool
        values.append(doubled)
    with JoblibPool(SSH("node1", identity="~/.ssh/id"), image=Image(pip=["numpy"])):
        values += Parallel(n_jobs=-1)(delayed(half)(i) for i in range(3))
    with ScikitLearnPool(resources=Resources(cpu=2, memory="1GB")) as estimators:
        values.append(float(estimators.total_slots))
    return values
"""
WRONG = """
from muster import ComputePool

with ComputePool(nodes="two") as pool:
    text: str = pool.submit(len, "x").result()
"""


def clean(folder: pathlib.Path) -> dict[str, str]:
    """The environment of somebody whose machine knows nothing of this tree."""
    return {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "MUSTER_BROKER": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def venv(wheel: pathlib.Path, index: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A virtual environment with nothing but the wheel and what it asks for."""
    place = folder / "venv"
    # Without a pip of its own, which takes longer than all else; the minimal Debian has one.
    run(["/usr/bin/python3", "-m", "venv", "--without-pip", place], seconds=PATIENCE)
    install = ["/usr/bin/python3", "-m", "pip", "--python", place / "bin" / "python", "install"]
    install += ["--quiet", "--no-index", "--find-links", index, wheel]
    run(install, seconds=PATIENCE)
    return place


def words(command: Sequence[str | os.PathLike[str]]) -> str:
    return run(command).stdout


def test_it_says_what_it_is_for(wheel: pathlib.Path) -> None:
    assert re.fullmatch(
        rf"muster-{version()}-cp3\d+-cp3\d+-manylinux_2_\d+_\w+\.whl", wheel.name
    ), wheel.name
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        info = f"muster-{version()}.dist-info"
        assert archive.read(f"{info}/WHEEL").decode().count("\nTag: ") == 1
        metadata = archive.read(f"{info}/METADATA").decode()
        for line in ("License-Expression: Apache-2.0", "Requires-Dist: joblib>=1.2"):
            assert f"\n{line}\n" in metadata, metadata
        record = csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode()))
        recorded = {path: (digest, size) for path, digest, size in record}
        files = {name for name in archive.namelist() if not name.endswith("/")}
        assert files == recorded.keys()
        for name in files - {f"{info}/RECORD"}:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            assert recorded[name] == (f"sha256={digest.rstrip('=')}", str(len(content))), name
        assert {"muster/py.typed", "muster/_native.pyi"} <= files
        assert not any("__pycache__" in name for name in files)


def test_it_carries_what_it_loads_and_the_licenses(venv: pathlib.Path) -> None:
    (package,) = venv.glob("lib/python3.*/site-packages/muster")
    libraries = {path.name for path in (package / "lib").iterdir()}
    assert any(name.startswith("libzmq-muster.so") for name in libraries)
    found = [*(package / "bin").iterdir(), *(package / "lib").iterdir(), *package.glob("*.so")]
    for path in found:
        dynamic = words(["readelf", "--dynamic", "--wide", path])
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
        strangers = {name for name in needed - libraries if not OF_THE_MACHINE.fullmatch(name)}
        assert strangers == set(), path
        paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", dynamic)
        assert len(paths) == 1 and paths[0].startswith("$ORIGIN"), (path, paths)
        assert ".symtab" not in words(["readelf", "--sections", "--wide", path]), path
    (licenses,) = package.parent.glob("muster-*.dist-info/licenses")
    assert (licenses / "LICENSE").exists()
    carried = {path.name for path in (licenses / "libraries").iterdir()}
    assert {"libzmq5.txt", "libsodium23.txt", "libmsgpack-cxx-dev.txt"} <= carried
    assert (licenses / "libraries" / "common-licenses" / "LGPL-3").exists()


def test_functions_and_commands_run(venv: pathlib.Path, folder: pathlib.Path) -> None:
    (folder / "program.py").write_text(PROGRAM)
    done = run([venv / "bin" / "python", folder / "program.py"], seconds=PATIENCE, **clean(folder))
    assert done.stdout.startswith(f"{version()} {venv}"), done
    muster = run([venv / "bin" / "muster", "--version"], seconds=PATIENCE, **clean(folder))
    assert muster.stdout == f"muster {version()}\n"
    shared = run(
        ["sh", "-c", SHARED, "sh", folder, venv / "bin"], seconds=PATIENCE, **clean(folder)
    )
    expected = ["1 squared is 1", "2 squared is 4", "3 squared is 9", str(venv)]
    assert shared.stdout.splitlines() == expected, shared.stderr


def check_types(venv: pathlib.Path, folder: pathlib.Path, text: str) -> tuple[int, str]:
    (folder / "typed.py").write_text(text)
    done = run(
        ["/usr/bin/python3", "-m", "mypy", "--strict", "--config-file", os.devnull]
        + ["--python-executable", venv / "bin" / "python"]
        + ["--cache-dir", folder / "mypy", folder / "typed.py"],
        seconds=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_programs_that_use_it_have_types(venv: pathlib.Path, folder: pathlib.Path) -> None:
    status, output = check_types(venv, folder, TYPED)
    assert status == 0, output
    status, output = check_types(venv, folder, WRONG)
    assert status == 1 and output.count("error:") == 2, output


@pytest.fixture
def rig() -> Iterator[Rig]:
    if os.geteuid() != 0:
        pytest.skip("nodes are network namespaces: root only")
    with Rig(1) as rig:
        yield rig


def test_machines_become_nodes(
    rig: Rig, venv: pathlib.Path, index: pathlib.Path, folder: pathlib.Path
) -> None:
    environment = clean(folder) | {
        name: rig.environment[name] for name in ("HOME", "XDG_RUNTIME_DIR")
    }
    node = rig.nodes[0]
    muster = venv / "bin" / "muster"
    try:
        up = run([muster, "up", f"{node.address}*2"], seconds=PATIENCE, **environment)
        assert up.stdout.startswith("1 of 1 nodes up, 2 slots"), up
        # An empty MUSTER_BROKER means a pool of one's own.
        environment["MUSTER_BROKER"] = re.findall(r"ipc://\S+", up.stdout)[0]
        done = run(
            [muster, "run", "--shell", "hostname; : {}", ":::", "1"], PATIENCE, **environment
        )
        assert done.stdout == f"{node.name}\n"
    finally:
        run([muster, "down"], seconds=PATIENCE, check=False, **environment)
    environment["MUSTER_BROKER"] = ""
    (folder / "remote.py").write_text(REMOTE)
    command = [venv / "bin" / "python", folder / "remote.py", node.address, index]
    assert run(command, seconds=PATIENCE, **environment).stdout == f"{node.name}\n"


def test_a_minimal_debian_needs_nothing_else(wheel: pathlib.Path, index: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a root needs root")
    with fresh_root() as root:
        root.install("python3-venv")
        for path in (wheel, *index.glob("*.whl")):
            (root.path / "tmp" / path.name).write_bytes(path.read_bytes())
        files = root.files()
        assert not any("libzmq" in path or "libfmt" in path for path in files)
        (root.path / "tmp/program.py").write_text(PROGRAM)
        root.run("python3", "-m", "venv", "/opt/venv", seconds=PATIENCE)
        root.run(
            *("/opt/venv/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/tmp"),
            f"/tmp/{wheel.name}",
            seconds=PATIENCE,
        )
        done = root.run("/opt/venv/bin/python", "/tmp/program.py", seconds=PATIENCE)
        assert done.stdout.startswith(f"{version()} /opt/venv/"), done.stderr
        shared = root.run("sh", "-c", SHARED, "sh", "/tmp", "/opt/venv/bin", seconds=PATIENCE)
        assert shared.stdout.splitlines()[-1] == "/opt/venv", shared.stderr


def test_the_source_archive_is_what_a_build_needs(
    distribution: pathlib.Path, folder: pathlib.Path
) -> None:
    (archive,) = distribution.glob("*.tar.gz")
    assert archive.name == f"muster-{version()}.tar.gz"
    names = subprocess.run(
        ["tar", "tzf", archive], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    inside = {name.split("/", 2)[1] for name in names}
    # The wheel was built from it (scripts/wheel), so all that is needed is there.
    assert {"CMakeLists.txt", "PKG-INFO", "README.md", "LICENSE"} <= inside
    assert not inside & {"build", "tests", ".git", "bench"}
    assert archive.stat().st_size < MOST_BYTES / 10
