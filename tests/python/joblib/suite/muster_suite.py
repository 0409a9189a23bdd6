"""A pytest plug-in that runs joblib's own tests on Muster: `pytest -p muster_suite PATH`.

joblib's tests take their backends from joblib's registry and from lists in the test module; both
get "muster" before anything is collected. What does not mention it is left out, as are the tests
that exclusions.py names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from exclusions import exclusion

from muster.joblib import MusterBackend

NAME = "muster"
LISTS = ("PROCESS_BACKENDS", "PARALLEL_BACKENDS", "all_backends_for_context_manager")
NAMED_ROWS = {"backend, error": (NAME, False)}
"""Parametrisations over several names, and the row of ours."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours, others = [], []
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {}).values()
        mentions = any(value == NAME or isinstance(value, MusterBackend) for value in params)
        (ours if mentions and exclusion(item.name) is None else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = ours


def _extend(function: Any) -> None:
    for mark in getattr(function, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names, values = mark.args[:2]
        row = NAMED_ROWS.get(names)
        if row is not None:
            values.append(row)
        elif isinstance(values, list) and "loky" in values and NAME not in values:
            values.append(NAME)


def _prepare() -> None:
    from joblib.test import test_parallel

    for name in LISTS:
        names = getattr(test_parallel, name)
        if NAME not in names:
            names.append(NAME)
    seen: set[int] = set()
    for name, function in vars(test_parallel).items():
        if name.startswith("test_") and id(function) not in seen:
            seen.add(id(function))
            _extend(function)


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """A test that leaves tasks running would slow the next one down instead of failing itself."""
    yield


_prepare()
