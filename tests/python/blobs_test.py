"""Large arguments, results and functions: every type of them, and what tasks may do to them."""

from __future__ import annotations

import gc
import operator
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from pool_support import left_in_memory, run_script, wait_until

from muster import ComputePool, SerializationError, Worker
from muster._data import pickling
from muster._data.blobs import Blobs, Sharing

MANY = 300_000  # elements; as floats more than READ_ONLY_BYTES
SOME = 20_000  # as floats more than LEAST_BYTES, and less than READ_ONLY_BYTES


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request: pytest.FixtureRequest) -> Iterator[ComputePool]:
    with ComputePool(worker=Worker(concurrency=2, executor=request.param)) as made:
        assert made.session.space.available
        yield made


def describe(value: Any) -> tuple[str, str]:
    """The type and all of the content."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, np.ndarray):
        content = f"{value.dtype} {value.shape} {value.tolist() if value.size < 9 else ''}"
        data = value.tobytes() if not value.dtype.hasobject else repr(value.tolist()).encode()
        return kind, f"{content} {hash_of(data)}"
    if isinstance(value, str):
        return kind, f"{len(value)} {hash_of(value.encode())}"
    return kind, f"{len(value)} {hash_of(bytes(value))}"


def hash_of(data: bytes) -> str:
    from hashlib import blake2b

    return blake2b(data, digest_size=8).hexdigest()


FLOATS = np.arange(float(MANY))
STRUCTURED = np.zeros(SOME, [("when", "M8[s]"), ("what", "S5"), ("value", "f4", (2,))])
STRUCTURED["value"] = 3
VALUES: dict[str, Any] = {
    "order C": FLOATS.reshape(1000, -1),
    "order F": np.asfortranarray(FLOATS.reshape(1000, -1)),
    "transposed": FLOATS.reshape(1000, -1).T,
    "with gaps": FLOATS[::3],
    "backwards": FLOATS[::-1],
    "columns": FLOATS.reshape(1000, -1)[:, 50:250],
    "read-only": np.frombuffer(bytes(8 * MANY)),
    "stretched": np.broadcast_to(FLOATS[:1000], (500, 1000)),
    "no elements": np.zeros((0, MANY)),
    "no dimensions": np.array(3.5),
    "no size": np.zeros(MANY, "V0"),
    "booleans": FLOATS % 3 == 0,
    "complex": FLOATS.astype("c16"),
    "other byte order": FLOATS.astype(">f4"),
    "dates": FLOATS.astype("M8[s]"),
    "durations": FLOATS.astype("m8[ms]"),
    "texts": np.array(["text", "more"] * SOME),
    "structured": STRUCTURED,
    "objects": np.array([FLOATS.tolist()[:10], "text", None] * SOME, dtype=object),
    "matrix": np.matrix(FLOATS.reshape(1000, -1)),
    "records": STRUCTURED.view(np.recarray),
    "masked": np.ma.masked_array(FLOATS, FLOATS % 2),
    "bytes": os.urandom(8 * MANY),
    "bytearray": bytearray(os.urandom(8 * MANY)),
    "text": "text äöü €" * MANY,
}


@pytest.mark.parametrize("name", VALUES)
def test_every_type_arrives_as_it_is(pool: ComputePool, name: str) -> None:
    value = VALUES[name]
    assert pool.submit(describe, value).result() == describe(value)
    nested = {"deep": [(1, {"in": value})]}
    assert pool.submit(lambda d: describe(d["deep"][0][1]["in"]), nested).result() == describe(
        value
    )


@pytest.mark.parametrize("name", VALUES)
def test_every_type_comes_back_as_it_was(pool: ComputePool, name: str) -> None:
    value = VALUES[name]
    for result in (pool.submit(operator.itemgetter(0), [value]).result(),):
        assert describe(result) == describe(value)
        if type(result) is np.ndarray and result.size:
            result.flat[0] = result.flat[-1]  # a result can be written to


def test_parts_of_an_argument_come_back_writable(pool: ComputePool) -> None:
    for part in pool.submit(lambda a: [a, a[:10], a[5:20_000], a[::2]], FLOATS).result():
        part[0] = -1
    assert FLOATS[0] == 0


def test_frames_and_sparse_matrices(pool: ComputePool) -> None:
    pandas = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    frame = pandas.DataFrame(
        {
            "float": FLOATS,
            "int": FLOATS.astype(int),
            "text": [f"text {i % 1000}" for i in range(MANY)],
            "category": pandas.Categorical(["x", "y"] * (MANY // 2)),
            "when": pandas.date_range("2020", periods=MANY, freq="s"),
            "nullable": pandas.array(range(MANY), dtype="Int64"),
        }
    )
    assert pool.submit(frame.equals, frame).result()
    assert pool.submit(lambda f: f, frame).result().equals(frame)
    matrix = sparse.random(2000, 2000, 0.05, format="csr", random_state=0)
    assert pool.submit(lambda m: (m @ m.T).sum(), matrix).result() == (matrix @ matrix.T).sum()
    assert (pool.submit(lambda m: m.tocsc(), matrix).result() != matrix).nnz == 0


def is_mapped(array: Any) -> bool:
    """Whether it lies in a file that other processes have mapped, too."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, _, _, inode, *name = line.split()
            first, last = (int(text, 16) for text in span.split("-"))
            if first <= address < last:
                return inode != "0" and "muster" in "".join(name)
    return False


@pytest.mark.parametrize("name", ["order C", "order F", "with gaps", "dates"])
def test_large_arrays_are_maps_that_all_share(pool: ComputePool, name: str) -> None:
    assert pool.submit(is_mapped, VALUES[name]).result()
    assert not pool.submit(is_mapped, FLOATS[:100]).result()


def write(array: Any) -> float:
    before = float(array.sum())
    array[:] = -1
    return before


def test_a_task_cannot_write_to_a_large_argument(pool: ComputePool) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pool.submit(write, FLOATS).result()
    assert FLOATS[5] == 5


def test_a_task_may_write_to_its_copy(pool: ComputePool) -> None:
    copies = pool.with_options(mmap_mode="c")
    for array in (FLOATS, FLOATS[::2]):
        assert copies.submit(write, array).result() == array.sum()
        assert list(copies.map(write, [array] * 9)) == [array.sum()] * 9
        assert list(copies.map(write, [array] * 9, chunksize=4)) == [array.sum()] * 9
        assert list(copies.map(np.sum, [array] * 9)) == [array.sum()] * 9
    small = np.ones(SOME)
    assert list(copies.map(write, [small] * 9, chunksize=4)) == [SOME] * 9
    assert list(pool.map(write, [small] * 9, chunksize=1)) == [SOME] * 9
    assert list(pool.map(np.sum, [small] * 9)) == [SOME] * 9


def test_bytearrays_are_the_tasks_own(pool: ComputePool) -> None:
    data = bytearray(8 * MANY)
    assert list(pool.map(lambda d: d.extend(b"more") or len(d), [data] * 4)) == [8 * MANY + 4] * 4
    data.clear()  # nothing holds on to it


def test_changes_between_calls_are_seen(pool: ComputePool) -> None:
    array = np.zeros(MANY)
    for i in range(4):
        array[i * 1000] = 1
        assert pool.submit(np.sum, array).result() == i + 1
        assert list(pool.map(np.sum, [array])) == [i + 1]


def test_a_generator_may_fill_one_array_again_and_again(pool: ComputePool) -> None:
    def refilled() -> Iterator[Any]:
        array = np.zeros(MANY)
        for i in range(50):
            array[:] = i
            yield array

    assert list(pool.map(np.mean, refilled())) == list(range(50))

    def refilled_with_gaps() -> Iterator[Any]:
        array = np.zeros(2 * MANY)
        for i in range(20):
            array[:] = i
            yield array[::2]

    assert list(pool.map(np.mean, refilled_with_gaps())) == list(range(20))


def test_arrays_that_follow_each_other_at_one_address_are_told_apart(pool: ComputePool) -> None:
    assert list(pool.map(np.mean, (np.full(MANY, i) for i in range(50)))) == list(range(50))


def closure(array: Any) -> Callable[[int], float]:
    return lambda i: float(array[i])


class Holder:
    def __init__(self, array: Any) -> None:
        self.array = array

    def get(self, i: int) -> float:
        return float(self.array[i])

    def is_shared(self, _: int) -> bool:
        return is_mapped(self.array)


def test_functions_that_hold_arrays(pool: ComputePool) -> None:
    for function in (closure(FLOATS), Holder(FLOATS).get, partial(operator.getitem, FLOATS)):
        assert list(pool.map(function, range(5))) == list(range(5))
        assert pool.submit(function, 7).result() == 7
    assert all(pool.map(Holder(FLOATS).is_shared, range(4)))


def test_an_array_travels_once_in_a_call() -> None:
    class Space:
        """Counts what is put."""

        one_machine = True
        available = True
        puts = 0

        def scatter(self, data: Any, is_over: Callable[[], bool]) -> Any:
            type(self).puts += 1
            return real.scatter(data, is_over)

    with ComputePool() as pool:
        real = pool.session.space
        blobs = Blobs(Space(), Sharing())  # type: ignore[arg-type]
        large = np.zeros(4_000_000)
        for i in range(1000):
            packed = pickling.pack(((large, i), {"again": large[:]}), "the arguments", blobs)
            assert len(packed.blobs) == 1
            assert len(packed.body) < 1000
        assert Space.puts < 500  # once, and again as long as looking at all of it is cheap
        blobs.close()


def test_ten_thousand_tasks_share_an_array(pool: ComputePool) -> None:
    def take(pair: tuple[Any, int]) -> float:
        return float(pair[0][pair[1]])

    pairs = ((FLOATS, i) for i in range(10_000))
    assert list(pool.map(take, pairs)) == list(range(10_000))


def test_threads_of_the_client_submit_at_once(pool: ComputePool) -> None:
    found: list[float] = []

    def submit(number: int) -> None:
        for i in range(10):
            array = np.full(MANY, number * 100 + i)
            found.append(float(pool.submit(np.mean, array).result() - array[0]))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 40


def test_a_result_outlives_its_pool() -> None:
    with ComputePool() as pool:
        result = pool.submit(np.full, MANY, 7.0).result()
        del pool
    gc.collect()
    assert result.sum() == 7 * MANY
    result[:] = 1
    assert result.sum() == MANY


def test_a_pickle_with_a_part_that_cannot_be_pickled_is_named(pool: ComputePool) -> None:
    with pytest.raises(SerializationError, match=r"args\[0\]\['bad'\] is a lock"):
        pool.submit(len, {"good": FLOATS, "bad": threading.Lock()})


def test_an_argument_whose_class_the_node_lacks_is_named(pool: ComputePool) -> None:
    import sys
    import types

    module = types.ModuleType("only_here")
    exec("class Part: pass", module.__dict__)
    sys.modules["only_here"] = module
    try:
        if pool.nodes()[0].executor == "process":
            with pytest.raises(SerializationError, match="only_here"):
                pool.submit(len, [FLOATS, b"x" * 100_000, module.Part()]).result()
    finally:
        del sys.modules["only_here"]


def test_a_forked_child_of_the_client_harms_nothing(pool: ComputePool) -> None:
    handle = pool.scatter(FLOATS)
    result = pool.submit(np.full, MANY, 7.0).result()
    child = os.fork()
    if child == 0:
        del handle, result
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.submit(np.sum, handle).result() == FLOATS.sum()
    assert result.sum() == 7 * MANY


def fork_and_drop(array: Any) -> float:
    child = os.fork()
    if child == 0:
        del array
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    return float(array.sum())


def test_a_task_may_fork() -> None:
    with ComputePool() as pool:
        assert list(pool.map(fork_and_drop, [FLOATS] * 5)) == [FLOATS.sum()] * 5


def test_nothing_stays_in_memory_when_the_pool_ends() -> None:
    before = left_in_memory()
    with ComputePool() as pool:
        assert sum(pool.map(np.sum, [FLOATS] * 3)) == 3 * FLOATS.sum()
    wait_until(lambda: left_in_memory() <= before)


def test_nothing_stays_in_memory_when_the_client_is_killed() -> None:
    before = left_in_memory()
    run_script(
        """
        import os, signal
        import numpy as np
        from muster import ComputePool
        with ComputePool() as pool:
            array = np.zeros(1_000_000)
            handle = pool.scatter(array)
            pool.submit(np.sum, array).result()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    wait_until(lambda: left_in_memory() <= before)
