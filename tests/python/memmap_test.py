"""Memory-mapped arguments: by the name of their file where it is, by content elsewhere."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_backend

import muster.joblib  # noqa: F401 (registers the backend)
from muster import ComputePool, Worker
from muster._data import arrays, pickling
from muster._data.blobs import Blobs, Sharing

SHAPE = (300, 1000)
CONTENT = np.arange(300_000.0).reshape(SHAPE)


@pytest.fixture(scope="module")
def pool() -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2)) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "array"
    CONTENT.tofile(file)
    return file


def mapped(path: Path, mode: str = "r", **options: Any) -> Any:
    return np.memmap(path, "f8", mode, **{"shape": SHAPE, **options})  # type: ignore[call-overload]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "all": lambda a: a,
    "rows": lambda a: a[3:170],
    "one row": lambda a: a[7],
    "columns": lambda a: a[:, 5:900],
    "with gaps": lambda a: a[::2, ::3],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "an element": lambda a: a[5:6, 5:6],
    "as bytes": lambda a: a.view("u1"),
    "a plain array": np.asarray,
}


def file_of(array: Any) -> str:
    """What it is mapped from."""
    part = array
    while part is not None:
        base = getattr(part, "base", None)
        if isinstance(base, mmap.mmap):
            return str(part.filename)
        part = base
    return ""


def look(array: Any) -> tuple[Any, str, tuple[int, ...], bool]:
    return np.array(array), file_of(array), array.strides, array.flags.writeable


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_mapped_again(pool: ComputePool, path: Path, name: str) -> None:
    view = VIEWS[name](mapped(path))
    for content, file, strides, writeable in (
        pool.submit(look, view).result(),
        *pool.map(look, [view]),
    ):
        assert np.array_equal(content, view)
        assert (file, writeable) == (str(path), False)
        assert strides == view.strides or view.size == 1


def test_offsets_types_and_orders(pool: ComputePool, path: Path) -> None:
    for array in (
        mapped(path, offset=8 * 1003, shape=(100, 7)),
        mapped(path, offset=8 * 3, shape=(7, 100), order="F"),
        np.memmap(path, "i2", "r", offset=3, shape=(1001,)),
        np.memmap(path, [("a", "f4"), ("b", "f4")], "r"),
    ):
        content, file, strides, _ = pool.submit(look, array).result()
        assert content.tobytes() == np.array(array).tobytes()
        assert (content.dtype, file, strides) == (array.dtype, str(path), array.strides)


def add(array: Any, i: int) -> float:
    array[i] += 1000
    return float(array[i].max())


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_what_tasks_write_to_a_file_is_seen_by_all(
    pool: ComputePool, path: Path, mode: str
) -> None:
    array = mapped(path, mode)
    array[:] = CONTENT
    assert list(pool.map(add, [array] * 300, range(300))) == list(CONTENT.max(axis=1) + 1000)
    assert np.array_equal(array, CONTENT + 1000)
    assert list(pool.map(add, [array[i] for i in range(300)], [slice(None)] * 300)) == list(
        CONTENT.max(axis=1) + 2000
    )
    assert np.array_equal(array, CONTENT + 2000)


def test_read_only_and_copy_on_write(pool: ComputePool, path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pool.submit(add, mapped(path, "r"), 0).result()
    copied = mapped(path, "c")
    assert list(pool.map(add, [copied] * 4, [1] * 4)) == [2999.0] * 4
    assert np.array_equal(copied, CONTENT)


def test_a_result_that_is_a_map_comes_by_content(pool: ComputePool, path: Path) -> None:
    result = pool.submit(lambda a: a[1:], mapped(path)).result()
    assert type(result) is np.ndarray
    assert np.array_equal(result, CONTENT[1:])
    result[:] = 0
    small = pool.submit(lambda a: a[0, :3], mapped(path)).result()
    assert np.array_equal(small, CONTENT[0, :3])


def test_a_file_that_is_gone_goes_by_content(pool: ComputePool, path: Path) -> None:
    array = mapped(path)
    path.unlink()
    assert pool.submit(np.sum, array).result() == CONTENT.sum()


def test_dump_and_load_in_tasks(pool: ComputePool, tmp_path: Path) -> None:
    def store(i: int) -> str:
        file = str(tmp_path / f"{i}.joblib")
        joblib.dump({"a": CONTENT * i}, file)
        return file

    def add_up(file: str) -> float:
        return float(joblib.load(file, mmap_mode="r")["a"].sum())

    with parallel_backend("muster", pool=pool, n_jobs=-1):
        files = Parallel()(delayed(store)(i) for i in range(4))
        assert Parallel()(delayed(add_up)(f) for f in files) == [
            CONTENT.sum() * i for i in range(4)
        ]
        loaded = [joblib.load(file, mmap_mode="r")["a"] for file in files]
        found = Parallel()(delayed(look)(a) for a in loaded)
    assert [file for _, file, _, _ in found] == files
    assert all(np.array_equal(content, CONTENT * i) for i, (content, *_) in enumerate(found))


# --- On a machine that has other files: what its process would load ---


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Packs in a pool with other machines, and unpacks as one of these would."""
    monkeypatch.setattr(arrays, "shares_files", lambda: False)
    with ComputePool() as pool:
        space = pool.session.space
        monkeypatch.setattr(space, "one_machine", False)
        yield lambda array: pickling.unpack(
            pickling.pack([array], "the arguments", Blobs(space, Sharing()))
        )[0]


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
@pytest.mark.parametrize("name", VIEWS)
def test_elsewhere_it_is_the_content(
    elsewhere: Callable[[Any], Any], path: Path, name: str, mode: str
) -> None:
    view = VIEWS[name](mapped(path, mode))
    copy = elsewhere(view)
    assert file_of(copy) == ""
    assert np.array_equal(copy, view)
    assert copy.flags.writeable == (mode == "c")
    if mode == "c":
        copy.fill(0)
        assert np.array_equal(np.fromfile(path), CONTENT.ravel())
