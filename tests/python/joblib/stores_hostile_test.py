"""Stores of computed values against hostile nodes: what no task claimed is not stored, and no later
program unpickles what another user's program or a foreign task put there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import memory_work as work
import pytest
import store_attacks as attacks
from joblib import Memory

from muster import ComputePool
from muster._link import stores


def key_of_square(pool: ComputePool, folder: str) -> str:
    """Keys are the same in every store."""
    memory = Memory(f"muster://{uuid.uuid4().hex}", verbose=0)
    assert memory.cache(work.square)(folder, 3) == 9
    Path(folder, "computed").unlink()
    ((key, *_),) = memory.store_backend._store.entries()
    return str(key)


def run_program(*arguments: str, **environment: str) -> str:
    """Another program; returns what it printed."""
    path = os.pathsep.join([str(Path(attacks.__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, attacks.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (stores.PUT, {"value": b"overwritten"}),
        (stores.REMOVE, {}),
        (stores.REMOVE_ALL, {}),
        (stores.TRIM, {"items_limit": 0}),
    ],
)
def test_a_task_changes_no_value_that_it_did_not_claim(
    pool: ComputePool, folder: str, operation: int, fields: dict[str, Any]
) -> None:
    name = uuid.uuid4().hex
    cached = Memory(f"muster://{name}", verbose=0).cache(work.square)
    assert cached(folder, 3) == 9
    key = key_of_square(pool, folder)
    for asked_for in (key, ""):
        status, text = pool.submit(attacks.ask, operation, name, asked_for, **fields).result(60)
        assert status == stores.REFUSED and text
    assert cached(folder, 3) == 9
    assert not work.computed(folder), "the value is still there"


@pytest.mark.parametrize("operation", [stores.GET, stores.CLAIM, stores.CONTAINS, stores.LIST])
def test_a_task_reaches_no_store_that_its_program_does_not_use(
    pool: ComputePool, operation: int
) -> None:
    status, text = pool.submit(attacks.ask, operation, uuid.uuid4().hex, "key").result(60)
    assert status == stores.REFUSED and "make its Memory in the program" in text


@pytest.mark.parametrize(
    ("how", "goes_off"), [("task", False), ("another user", False), ("the user", True)]
)
def test_who_makes_a_later_program_unpickle_what(
    pool: ComputePool, folder: str, tmp_path: Path, how: str, goes_off: bool
) -> None:
    """The last case shows that the others would be noticed."""
    name, mark = uuid.uuid4().hex, tmp_path / "mark"
    arguments = (pool.broker, name, key_of_square(pool, folder), str(mark))
    if how == "task":
        assert "make its Memory in the program" in run_program("task", *arguments)
    elif how == "another user":
        home = str(tmp_path / "cache of another")
        assert run_program("program", *arguments, XDG_CACHE_HOME=home) == "stored"
    else:
        assert run_program("program", *arguments) == "stored"
    result = Memory(f"muster://{name}", verbose=0).cache(work.square)(folder, 3)
    assert mark.exists() == goes_off
    assert goes_off or (result == 9 and work.computed(folder) == ["3"])


def test_the_seal_is_the_users_alone(pool: ComputePool, tmp_path: Path) -> None:
    def seal(cache: Path) -> str:
        run_program(
            "program", pool.broker, "any", "key", str(tmp_path / "m"), XDG_CACHE_HOME=str(cache)
        )
        path = cache / "muster" / "seal"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return path.read_text()

    first = seal(tmp_path)
    assert len(first) == 64 and seal(tmp_path) == first
    (tmp_path / "muster" / "seal").chmod(0o644)  # others may have read it
    assert seal(tmp_path) not in ("", first)
    assert seal(tmp_path / "elsewhere") != first
