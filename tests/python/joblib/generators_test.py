"""Calls that return generators: joblib 1.3 and later (conftest.py leaves them out before)."""

from __future__ import annotations

import time
from pathlib import Path

import joblib
import pytest
from joblib import Parallel, delayed
from work import mark, pieces, square, wait_until, where

from muster import ComputePool

SQUARES = [x * x for x in range(50)]
RETURN_AS = ["generator"] if joblib.__version__ < "1.4" else ["generator", "generator_unordered"]


@pytest.mark.parametrize("return_as", RETURN_AS)
def test_generators(pool: ComputePool, return_as: str) -> None:
    results = Parallel(n_jobs=-1, return_as=return_as)(delayed(square)(x) for x in range(50))

    assert sorted(results) == SQUARES


def test_a_generator_feeds_another_call(pool: ComputePool) -> None:
    first = Parallel(n_jobs=-1, return_as="generator")(delayed(square)(x) for x in range(30))
    second = Parallel(n_jobs=-1, return_as="generator")(delayed(square)(x) for x in first)

    assert list(second) == [x**4 for x in range(30)]


@pytest.mark.filterwarnings("ignore:.*tasks")
def test_a_dropped_generator_stops_what_runs(pool: ComputePool, tmp_path: Path) -> None:
    results = Parallel(n_jobs=-1, return_as="generator")(
        delayed(mark)(str(tmp_path), str(i), 30) for i in range(9)
    )
    wait_until(lambda: list(tmp_path.glob("*.began")))
    del results

    start = time.monotonic()
    assert len(Parallel(n_jobs=-1)(delayed(where)() for _ in range(9))) == 9
    assert time.monotonic() - start < 15
    assert not list(tmp_path.glob("*.ended"))


@pytest.mark.parametrize("return_as", RETURN_AS)
def test_a_generator_that_nobody_reads_is_bounded(pool: ComputePool, return_as: str) -> None:
    limit, slack, size, count = 256 << 20, 64 << 20, 400_000, 1000
    results = Parallel(n_jobs=-1, return_as=return_as, batch_size=1)(
        delayed(pieces)(size) for _ in range(count)
    )
    full = []

    def is_full() -> bool:
        full[:] = [row for row in pool.status()["jobs"] if "results wait" in row["waiting"]]
        return bool(full)

    wait_until(is_full)
    assert limit / 2 < full[0]["done"] * size < limit + slack
    assert sum(len(result) for result in results) == count * 400
