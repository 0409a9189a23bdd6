"""These tests run once with Debian's joblib and once with the newest: each run tests its own."""

from __future__ import annotations

import sys
from pathlib import Path

import joblib

import muster


def test_joblib_is_the_one_of_this_interpreter_and_muster_of_the_build_tree() -> None:
    prefix = Path(sys.prefix)

    assert prefix in Path(joblib.__file__).parents
    assert prefix not in Path(muster.__file__).parents
