from __future__ import annotations

import os
import pathlib

import pytest
from debian_root import SOURCE, run


@pytest.fixture(scope="session")
def packages() -> list[pathlib.Path]:
    """The packages of this tree, as scripts/package makes them."""
    if os.geteuid() != 0:
        pytest.skip("installing packages needs root")
    run([SOURCE / "scripts" / "package"], seconds=1200, HOME=os.environ.get("HOME", "/root"))
    built = sorted((SOURCE / "build" / "packages").glob("*.deb"))
    assert built
    return built


@pytest.fixture(scope="session")
def distribution() -> pathlib.Path:
    """The folder with source archive and wheel of this tree, as scripts/wheel makes them."""
    run([SOURCE / "scripts" / "wheel"], seconds=1700, HOME=os.environ.get("HOME", "/root"))
    return SOURCE / "build" / "dist"


@pytest.fixture(scope="session")
def wheel(distribution: pathlib.Path) -> pathlib.Path:
    (wheel,) = distribution.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def index() -> pathlib.Path:
    """A folder with the wheels that Muster's asks for, fetched once."""
    folder = SOURCE / "build" / "packaging" / "index"
    names = ("cloudpickle", "joblib")
    if not all(any(folder.glob(f"{name}-*.whl")) for name in names):
        command = ["/usr/bin/python3", "-m", "pip", "download", "--quiet", "--no-deps"]
        run([*command, "--dest", folder, *names], seconds=240)
    return folder
