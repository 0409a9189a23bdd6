"""The modules that a runner imports before its first task, which would wait for them."""

from __future__ import annotations

import contextlib
import importlib
import os

VARIABLE = "MUSTER_PRELOAD"
"""The environment variable with their names, with commas."""


def preload() -> None:
    for name in os.environ.get(VARIABLE, "").split(","):
        if name:
            with contextlib.suppress(Exception):  # the task that needs it tells what is wrong
                importlib.import_module(name)
