"""The short form: a few seeds of scripts/chaos, which runs many. Nothing is tried again."""

from __future__ import annotations

import pytest
from chaos.sandbox import run_seed

_SECONDS = 15.0
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_run_is_lost_on_one_machine(seed: int) -> None:
    report = run_seed(seed, seconds=_SECONDS)
    assert not report.problems, str(report)


def test_no_run_is_lost_on_nodes_behind_ssh() -> None:
    report = run_seed(1, nodes=True, seconds=_SECONDS)
    assert not report.problems, str(report)
