"""The version is said once, in CMakeLists.txt, and everything that has one agrees."""

from __future__ import annotations

import pathlib
import re
import subprocess
import tarfile

import pytest
from debian_root import SOURCE, run
from source_tree import version

# Whose files must not say it again; tests and examples may have made-up versions.
FOLDERS = ("cmake", "common", "broker", "worker", "producer", "python", "packaging", "scripts")


def test_no_other_file_says_it() -> None:
    files = subprocess.run(
        ["git", "-C", SOURCE, "ls-files", *FOLDERS, "pyproject.toml", "CMakePresets.json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert len(files) > 100
    said = re.compile(rb"(?<![\d.])" + re.escape(version().encode()) + rb"(?![\d.]*\d)")
    again = [name for name in files if said.search((SOURCE / name).read_bytes())]
    assert again == []


def test_documents_say_the_same() -> None:
    for number in re.findall(r"Muster (\d+\.\d+\.\d+)", (SOURCE / "README.md").read_text()):
        assert number == version(), "README.md shows another version"
    headings = re.findall(r"^## (.+)$", (SOURCE / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    for heading in released:
        assert re.match(r"\d+\.\d+\.\d+( |$)", heading), f"CHANGELOG.md: ## {heading}"
    # What is unreleased will be this version; without such a part the newest release is it.
    if headings[0] != "Unreleased":
        assert released[0].split()[0] == version()
    numbers = [tuple(map(int, heading.split()[0].split("."))) for heading in released]
    assert numbers == sorted(numbers, reverse=True)
    assert all(number <= tuple(map(int, version().split("."))) for number in numbers)


def test_the_build_tree_has_it() -> None:
    tree = SOURCE / "build" / "release"
    python = ["/usr/bin/python3", "-c", "import muster; print(muster.__version__)"]
    assert run(python, PYTHONPATH=str(tree / "python")).stdout == f"{version()}\n"
    for program in ("muster", "muster-broker", "muster-worker"):
        assert run([tree / "bin" / program, "--version"]).stdout.split()[-1] == version()
    digest = (tree / "share" / "muster" / "worker-bundle.tar.gz.sha256").read_text()
    assert f"\nversion {version()}\n" in digest


def test_packages_have_it(packages: list[pathlib.Path]) -> None:
    for package in packages:
        control = run(["dpkg-deb", "--field", package, "Version"]).stdout
        assert control == f"{version()}\n", package


@pytest.mark.timeout(1800)
def test_wheel_and_source_archive_have_it(distribution: pathlib.Path, wheel: pathlib.Path) -> None:
    assert wheel.name.startswith(f"muster-{version()}-")
    with tarfile.open(distribution / f"muster-{version()}.tar.gz") as archive:
        information = archive.extractfile(f"muster-{version()}/PKG-INFO")
        assert information is not None
        assert f"\nVersion: {version()}\n" in information.read().decode()
