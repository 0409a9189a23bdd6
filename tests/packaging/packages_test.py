"""The Debian packages in a minimal Debian: they install, work, and leave nothing behind."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator

import pytest
from debian_root import SOURCE, Root, fresh_root, run

NAMES = {
    "libmuster-dev",
    "libmuster0.1",
    "muster",
    "muster-broker",
    "muster-worker",
    "python3-muster",
}

# Starts a broker and a worker as a person would, and runs a command for each of three inputs.
COMMANDS = """
set -e
mkdir -m 0700 /tmp/pool
export MUSTER_BROKER=ipc:///tmp/pool/broker
muster-broker & broker=$!
muster-worker --slots 2 --python none & worker=$!
muster run 'echo {} squared is $(({}*{}))' ::: 1 2 3
kill $worker; wait $worker
kill $broker; wait $broker
rmdir /tmp/pool
"""

PYTHON = """
import os
from muster import ComputePool

def square(number):
    return number * number, os.getpid()

if __name__ == "__main__":
    with ComputePool() as pool:  # starts a broker and a worker of its own
        results = list(pool.map(square, range(5)))
    assert [result for result, _ in results] == [0, 1, 4, 9, 16], results
    assert os.getpid() not in {pid for _, pid in results}
    print("squares")
"""


@pytest.fixture(scope="module")
def installed(packages: list[pathlib.Path]) -> Iterator[Root]:
    with fresh_root() as root:
        assert not any("muster" in path for path in root.files())
        root.install(*packages)
        yield root


def control(package: pathlib.Path, field: str) -> str:
    return run(["dpkg-deb", "--field", package, field]).stdout.strip()


def test_there_is_a_package_for_each_part_and_each_says_what_it_is(
    packages: list[pathlib.Path],
) -> None:
    assert {control(package, "Package") for package in packages} == NAMES
    for package in packages:
        listing = run(["dpkg-deb", "--contents", package]).stdout
        for line in listing.splitlines():
            assert line.split()[1] == "root/root", line
        name = control(package, "Package")
        assert f"/usr/share/doc/{name}/copyright" in listing, name
        assert "__pycache__" not in listing
        assert "libzmq5" in control(package, "Depends") or name == "libmuster-dev"


def test_dpkg_is_content_with_what_is_installed(installed: Root) -> None:
    root = installed
    assert root.run("dpkg", "--audit").stdout == ""
    assert root.run("dpkg", "--verify", *sorted(NAMES)).stdout == ""
    settings = root.path / "etc/muster"
    assert sorted(path.name for path in settings.iterdir()) == [
        "broker.toml",
        "keys",
        "worker.toml",
    ]
    assert (settings / "keys").stat().st_mode & 0o777 == 0o700


def test_the_units_are_where_systemd_finds_them_and_name_programs_that_exist(
    installed: Root,
) -> None:
    for unit in ("muster-broker.service", "muster-worker.service"):
        done = installed.run("systemd-analyze", "verify", f"/lib/systemd/system/{unit}")
        assert done.stdout + done.stderr == "", unit


def test_commands_run_through_a_broker_and_a_worker(installed: Root) -> None:
    done = installed.run("sh", "-c", COMMANDS)
    expected = ["1 squared is 1", "2 squared is 4", "3 squared is 9"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_python_functions_run_with_debians_python(installed: Root) -> None:
    (installed.path / "tmp/squares.py").write_text(PYTHON)
    done = installed.run("/usr/bin/python3", "/tmp/squares.py")
    assert done.stdout == "squares\n", done.stderr


def test_a_program_is_built_with_the_development_package_and_runs(
    installed: Root, packages: list[pathlib.Path]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = pathlib.Path(folder, "files")
        build = pathlib.Path(folder, "build")
        for package in packages:
            if "libmuster" in package.name:
                run(["dpkg-deb", "--extract", package, files])
        consumer = SOURCE / "tests" / "consumer"
        run(
            ["cmake", "-G", "Ninja", "-S", consumer, "-B", build]
            + [f"-DCMAKE_PREFIX_PATH={files}/usr", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON"]
        )
        run(["cmake", "--build", build], seconds=300)
        for name in ("consumer", "square.so"):
            (installed.path / "tmp" / name).write_bytes((build / name).read_bytes())
    (installed.path / "tmp/consumer").chmod(0o755)
    done = installed.run("/tmp/consumer", "/tmp/square.so")
    assert done.stdout == "144\n", done.stderr


def test_purged_packages_leave_nothing_behind(installed: Root) -> None:
    root = installed
    # What a person and a run of the services would have added.
    (root.path / "etc/muster/worker.key").write_text("a secret\n")
    (root.path / "etc/muster/keys/broker.key").write_text("a secret\n")
    (root.path / "var/lib/private/muster-worker").mkdir(parents=True)
    (root.path / "var/lib/muster-worker").symlink_to("private/muster-worker")
    root.run("apt-get", "remove", "-y", *sorted(NAMES), seconds=120)
    assert (root.path / "etc/muster/worker.key").exists(), "settings and keys survive a removal"
    assert not (root.path / "usr/bin/muster-worker").exists()
    done = root.run("dpkg", "--purge", *sorted(NAMES))
    assert "not empty" not in done.stdout + done.stderr
    ours = {path for path in root.files() if "muster" in path}
    assert ours == set()
    assert "muster" not in (root.path / "etc/group").read_text()


def test_the_broker_package_alone_brings_all_that_it_needs(packages: list[pathlib.Path]) -> None:
    with fresh_root() as root:
        wanted = ("muster", "muster-broker")
        root.install(*(file for file in packages if control(file, "Package") in wanted))
        assert "muster-broker" in root.run("muster-broker", "--help").stdout
        refused = root.run("muster-broker", "--listen", "nonsense", check=False)
        assert refused.returncode == 2, refused
        assert refused.stderr.startswith("muster-broker: "), "its libraries are there"
