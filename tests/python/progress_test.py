"""map(progress=True): a bar with tqdm, lines without it."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator

import pytest
from pool_support import run_script

import muster
from muster import ComputePool, Worker
from muster._pool import progress

tqdm = pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


def bars() -> int:
    return len(getattr(tqdm.tqdm, "_instances", ()))


def refuse_five(x: int) -> int:
    if x == 5:
        raise ValueError("five")
    return x


def test_a_bar_counts_to_the_total(pool: ComputePool, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(pool.map(abs, range(2000), progress=True)) == list(range(2000))
    shown = capsys.readouterr().err
    assert "abs: 100%" in shown
    assert "2000/2000" in shown
    assert bars() == 0


def test_an_unknown_total_is_counted(pool: ComputePool, capsys: pytest.CaptureFixture[str]) -> None:
    results = pool.map_unordered(abs, (x for x in range(300)), progress=True)
    assert sorted(results) == list(range(300))
    shown = capsys.readouterr().err
    assert "300 items" in shown
    assert "%" not in shown


def test_a_bar_is_closed_by_an_error(pool: ComputePool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="five"):
        list(pool.map(refuse_five, range(10), chunksize=1, progress=True))
    assert bars() == 0
    assert "refuse_five:" in capsys.readouterr().err


def test_a_bar_is_closed_with_an_iterator_that_is_dropped(pool: ComputePool) -> None:
    results = pool.map(abs, range(100_000), progress=True)
    assert [next(results), next(results)] == [0, 1]
    assert bars() == 1
    del results
    gc.collect()
    assert bars() == 0


def test_no_bar_unless_it_is_asked_for(
    pool: ComputePool, capsys: pytest.CaptureFixture[str]
) -> None:
    list(pool.map(abs, range(10)))
    assert capsys.readouterr().err == ""


def test_without_tqdm_there_are_lines() -> None:
    done = run_script(
        """
        import sys
        sys.modules["tqdm"] = None
        import muster
        with muster.ComputePool(worker=muster.Worker(concurrency=1)) as pool:
            print(sum(pool.map(abs, range(1500), progress=True)))
            print(sum(pool.map(abs, (x for x in range(20)), progress=True)))
        """
    )
    assert done.stdout.split() == ["1124250", "190"], done.stderr
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith("abs: 1,500 of 1,500 items in ")
    assert second.startswith("abs: 20 items in ")


def test_a_stream_that_is_gone_harms_nothing(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(pool.map(abs, range(50), progress=True)) == list(range(50))
        lines = progress._Lines("label", 3)
        lines.advance(1)
        lines.close()


def test_compute_functions_have_their_names(
    pool: ComputePool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(pool.map(muster.compute(refuse_five), range(3), progress=True)) == [0, 1, 2]
    assert "refuse_five" in capsys.readouterr().err
