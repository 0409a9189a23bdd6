"""`@muster.compute`: the operators, and what happens when they are forgotten."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from muster import ComputePool, Worker


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        yield pool


@muster.compute
def area(width: int, *, height: int = 2) -> int:
    """Of a rectangle."""
    return width * height


def test_the_operators(pool: ComputePool) -> None:
    assert area(3) >> pool == 6
    future = area(3, height=5) > pool
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == 15


def test_local_runs_here_and_the_function_keeps_its_name() -> None:
    assert area.local(4) == 8
    assert area.__name__ == "area"  # type: ignore[attr-defined]
    assert area.__doc__ == "Of a rectangle."


def test_submit_and_map_take_decorated_functions(pool: ComputePool) -> None:
    assert pool.submit(area, 5).result(30) == 10
    assert list(pool.map(area, range(5))) == [0, 2, 4, 6, 8]


def test_errors_come_through(pool: ComputePool) -> None:
    @muster.compute
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        fail() >> pool


def test_a_forgotten_operator_explains_itself() -> None:
    pending: Any = area(3)
    assert ">> pool" in repr(pending)
    with pytest.raises(TypeError, match=">> pool"):
        if pending:
            pass
    with pytest.raises(TypeError, match="ComputePool"):
        pending >> 3
    with pytest.raises(TypeError, match="ComputePool"):
        pending > 3  # noqa: B015
    with pytest.raises(TypeError):
        muster.compute(3)  # type: ignore[arg-type]


def test_functions_of_modules_and_of_main(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(
        "import muster\nfactor = 3\n\n@muster.compute\ndef triple(x):\n    return x * factor\n"
    )
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import muster, helpers

            @muster.compute
            def plus(x, y):
                return x + y

            if __name__ == "__main__":
                with muster.ComputePool(worker=muster.Worker(concurrency=1)) as pool:
                    print(plus(1, 2) >> pool, helpers.triple(4) >> pool)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["3", "12"], done.stderr
