"""The programs of an installed wheel: what `muster` and its like in a virtual environment's bin
start. They stand in the package's own folder, and become this process.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin")


def muster() -> NoReturn:
    _become("muster")


def muster_broker() -> NoReturn:
    _become("muster-broker")


def muster_worker() -> NoReturn:
    # Python functions run where the package is, not with whatever Python comes first in PATH.
    os.environ.setdefault("MUSTER_PYTHON", sys.executable)
    _become("muster-worker")


def _become(name: str) -> NoReturn:
    program = os.path.join(_FOLDER, name)
    try:
        os.execv(program, [name, *sys.argv[1:]])
    except OSError as error:
        sys.exit(
            f"{name}: cannot start {program}: {error.strerror}; install the package muster again"
        )
