"""A pytest plug-in that runs joblib's own tests on Muster: `pytest -p muster_suite PATH`.

joblib's tests take their backends from joblib's registry and from lists in the test module; both
get "muster" before anything is collected. What does not mention it is left out. With the variable
MUSTER_SUITE_DEFAULT the run is the other half: "muster" is joblib's default backend, and the tests
that name no backend run. exclusions.py names those that run in neither.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from exclusions import exclusion

# Registers the backend: before the test module looks at the registry.
from muster.joblib import MusterBackend

NAME = "muster"
AS_DEFAULT = "MUSTER_SUITE_DEFAULT" in os.environ
LISTS = ("PROCESS_BACKENDS", "PARALLEL_BACKENDS", "all_backends_for_context_manager")
NAMED_ROWS = {"backend, error": (NAME, False)}
"""Parametrisations over several names, and the row of ours."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours, others = [], []
    for item in items:
        wanted = _names_none(item) if AS_DEFAULT else _names_ours(item)
        (ours if wanted and exclusion(item.name) is None else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = ours


def _params(item: pytest.Item) -> dict[str, Any]:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def _names_ours(item: pytest.Item) -> bool:
    return any(
        value == NAME or isinstance(value, MusterBackend) for value in _params(item).values()
    )


def _names_none(item: pytest.Item) -> bool:
    return not any("backend" in name for name in _params(item))


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
    from joblib import parallel

    if AS_DEFAULT:
        parallel.DEFAULT_BACKEND = NAME
        return

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


_prepare()
