"""The package of the build tree can be imported, and its native module is the one beside it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import muster


def test_the_native_module_lies_in_the_package_and_has_a_version() -> None:
    native = importlib.import_module("muster._native")

    assert Path(native.__file__ or "").parent == Path(muster.__file__).parent
    assert re.fullmatch(r"\d+\.\d+\.\d+", native.VERSION)
