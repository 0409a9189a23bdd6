"""Arrow's tables and buffers; where pyarrow is installed, as it is with the newest packages."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import numpy as np
import pytest

from muster import ComputePool, Worker

MANY = 50_000
FLOATS = np.arange(float(MANY))


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as pool:
        yield pool


if importlib.util.find_spec("pyarrow"):

    def test_arrow_tables_and_buffers(pool: ComputePool) -> None:
        import pyarrow as arrow

        table = arrow.table({"a": FLOATS, "b": [f"text {i}" for i in range(MANY)]})
        assert pool.submit(lambda t: (t.num_rows, t["b"][7].as_py()), table).result() == (
            MANY,
            "text 7",
        )
        assert pool.submit(lambda t: t, table).result().equals(table)
        buffer = arrow.py_buffer(os.urandom(MANY))
        assert pool.submit(lambda b: b.to_pybytes(), buffer).result() == buffer.to_pybytes()
