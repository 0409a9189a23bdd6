"""What the joblib tests share: pools that live as long as the run, because starting one costs more
than most tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest
from joblib import Memory

from muster import ComputePool, Worker
from muster.joblib import sklearn_backend

SLOTS = 3
collect_ignore = [] if hasattr(joblib, "parallel_config") else ["generators_test.py"]


@pytest.fixture(scope="session")
def process_pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=SLOTS)) as pool:
        yield pool


@pytest.fixture(scope="session")
def thread_pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=120, executor="thread")) as pool:
        yield pool


@pytest.fixture
def pool(process_pool: ComputePool) -> Iterator[ComputePool]:
    """joblib runs on this pool of three process slots."""
    with sklearn_backend(process_pool):
        yield process_pool


@pytest.fixture
def threads(thread_pool: ComputePool) -> Iterator[ComputePool]:
    """joblib runs on this pool of 120 thread slots."""
    with sklearn_backend(thread_pool):
        yield thread_pool


@pytest.fixture
def memory(pool: ComputePool) -> Memory:
    """A new store of the pool."""
    return Memory(f"muster://{uuid.uuid4().hex}", verbose=0)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)
