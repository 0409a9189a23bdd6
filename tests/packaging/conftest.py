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
