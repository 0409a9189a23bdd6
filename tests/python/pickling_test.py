"""Bytes come back as what they were made of, and errors name the part that is to blame."""

from __future__ import annotations

import functools
import gc
import pickle
import socket
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import core_pool
import pytest

from muster import errors
from muster._data import functions, pickling
from muster._node import tasks


def by_value(source: str, name: str) -> Any:
    """A function as `__main__` would define it: no other process can import it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace[name]


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


@pytest.mark.parametrize(
    "value",
    [
        0,
        "text",
        b"x" * 100_000,
        ((1, 2.5, None), {"key": [True, "x"]}),
        [[[1]]],
        {1: {2: {3: 4}}},
        list(range(1000)),
        [(1, "a")] * 1000,
        {frozenset({1})},
        sys,
    ],
)
def test_values_come_back(value: object) -> None:
    assert pickling.loads(pickling.dumps(value, "the value")) == value


def test_plain_data_is_what_the_standard_library_writes() -> None:
    value = ((1, "a", None), {"k": [1.5]})
    assert pickling.dumps(value, "the value") == pickle.dumps(value, 5)


def test_functions_go_by_value_wherever_they_hide() -> None:
    function = by_value("def f(x): return x + 1", "f")
    for value, find in (
        (function, lambda v: v),
        ((function,), lambda v: v[0]),
        (([function], {}), lambda v: v[0][0]),
        ((1, {"f": (function,)}), lambda v: v[1]["f"][0]),
    ):
        copy = find(pickling.loads(pickling.dumps(value, "the value")))
        assert copy is not function
        assert copy(1) == 2


class Holder:
    def __init__(self, part: object) -> None:
        self.part = part


def closure(variable: object) -> Callable[[], object]:
    return lambda: variable


BLAMED = [
    ("the arguments", lambda s: (({"sock": s},), {}), "args[0]['sock'] is a socket"),
    ("the arguments", lambda s: ((), {"to": [1, s]}), "kwargs['to'][1] is a socket"),
    ("the result", lambda s: s, "result is a socket"),
    ("the items", lambda s: [1, (2, s)], "items[1][1] is a socket"),
    ("the result", lambda s: Holder([s]), "result.part[0] is a socket"),
    ("the result", lambda s: {1, s}, "is a socket"),
    ("the function", closure, "function.<variable variable> is a socket"),
    ("the function", lambda s: functools.partial(print, s), "function.args[0] is a socket"),
    ("the function", lambda s: Holder(s).__init__, "function.__self__.part is a socket"),
    ("the result", lambda s: (i for i in [s]), "result is a generator"),
]


@pytest.mark.parametrize(("what", "make", "blamed"), BLAMED)
def test_the_part_that_cannot_be_pickled_is_named(
    what: str, make: Callable[[Any], object], blamed: str, connection: socket.socket
) -> None:
    with pytest.raises(errors.SerializationError) as caught:
        pickling.dumps(make(connection), what)

    text = str(caught.value)
    assert text.startswith(f"cannot pickle {what}: ")
    assert blamed in text
    assert "(type socket.socket): cannot pickle 'socket' object" in text or "generator" in text


def test_a_global_of_a_function_is_named(connection: socket.socket) -> None:
    function = by_value("def f(): return link", "f")
    function.__globals__["link"] = connection
    with pytest.raises(errors.SerializationError, match="function.<global link> is a socket"):
        pickling.dumps(function, "the function")


def test_what_is_too_deep_is_an_error_and_no_crash() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(errors.SerializationError):
        pickling.dumps(value, "the result")


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(errors.SerializationError) as caught:
        pickling.loads(b"cnowhere.at_all\nthing\n.", "the function of this task")

    assert "cannot load the function of this task" in str(caught.value)
    assert "No module named 'nowhere' (for nowhere.at_all.thing); install it there" in str(
        caught.value
    )


def test_a_name_that_is_missing_is_named() -> None:
    with pytest.raises(errors.SerializationError, match=r"\(for socket\.nothing\)"):
        pickling.loads(b"csocket\nnothing\n.")


def test_damaged_bytes_are_an_error() -> None:
    for data in (b"", b"\x80\x05", b"garbage", pickle.dumps([1, 2, 3])[:-4]):
        with pytest.raises(errors.SerializationError):
            pickling.loads(data)


class Job:
    """A client's SharedFunctions and a runner's table, which are one process here."""

    def __init__(self) -> None:
        self.functions = functions.SharedFunctions()
        self.job: tasks.LoadedJob | None = None
        self.body: dict[bytes, functions.Shared] = {}

    def start(self) -> None:
        self.body = self.functions.take_body()
        function = tasks.Call(print)
        self.job = tasks.LoadedJob(tasks.make_body(function, core_pool.context(), self.body))

    def payload(self, *values: object) -> bytes:
        packed = self.functions.pack(values, "the arguments")
        assert not packed.blobs
        return bytes(packed.body)

    def end(self) -> None:
        if self.job:
            self.job.forget()


@pytest.fixture
def job() -> Iterator[Job]:
    made = Job()
    yield made
    made.end()


LONG = "def f(x):\n" + "".join(f"    x = x + {i}\n" for i in range(200)) + "    return x\n"


def test_a_function_is_sent_once_and_loaded_once(job: Job) -> None:
    function = by_value(LONG, "f")
    first = job.payload(function, 1)
    job.start()
    second = job.payload(function, 2)

    assert len(job.body) == 1
    assert max(len(first), len(second)) < 150
    f1, one = pickling.loads(first)
    f2, two = pickling.loads(second)
    assert f1 is f2
    assert (f1(one), f2(two)) == (function(1), function(2))


def test_a_function_met_after_the_body_was_taken_travels_with_its_payloads(job: Job) -> None:
    job.start()
    function = by_value(LONG, "f")
    for _ in range(2):
        payload = job.payload(function)
        assert len(payload) > 1000
        assert pickling.loads(payload)[0](1) == function(1)


def test_functions_that_can_be_imported_are_not_shared(job: Job) -> None:
    payload = job.payload(closure, Holder, len, int)
    job.start()
    assert job.body == {}
    assert pickling.loads(payload) == (closure, Holder, len, int)


def test_recursive_and_mutually_recursive_functions(job: Job) -> None:
    source = (
        "def even(n): return n == 0 or odd(n - 1)\n"
        "def odd(n): return n != 0 and even(n - 1)\n"
        "def factorial(n): return 1 if n < 2 else n * factorial(n - 1)\n"
    )
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    payload = job.payload(namespace["even"], namespace["odd"], namespace["factorial"])
    job.start()
    even, odd, factorial = pickling.loads(payload)
    assert (even(10), odd(10), factorial(5)) == (True, False, 120)


def test_classes_by_value_and_their_instances(job: Job) -> None:
    kind = by_value("class Point:\n    def __init__(self, x): self.x = x", "Point")
    payload = job.payload(kind, kind(3))
    job.start()
    copy, point = pickling.loads(payload)
    assert type(point) is copy
    assert point.x == 3


def test_two_functions_at_one_address_are_not_mixed_up(job: Job) -> None:
    payloads = [job.payload(by_value(f"def f(): return {i}", "f")) for i in range(50)]
    job.start()
    assert [pickling.loads(payload)[0]() for payload in payloads] == list(range(50))


def test_closures_and_classes_of_a_long_call_are_forgotten(job: Job) -> None:
    kept = by_value(LONG, "f")
    job.payload(kept)
    job.start()
    made = []
    for number in range(1000):
        function = by_value(f"def f(): return {number}", "f")
        kind = by_value("class Point: pass", "Point")
        made += [weakref.ref(function), weakref.ref(kind)]
        payload = job.payload(function, kind(), kept)
        assert len(payload) < 1500, "the body has the one that is used again and again"
    del function, kind
    gc.collect()
    assert sum(reference() is not None for reference in made) < 600
    assert pickling.loads(payload)[0]() == 999


def test_a_digest_that_nobody_knows_is_an_error(job: Job) -> None:
    payload = job.payload(by_value("def f(): return 'unknown'", "f"))
    with pytest.raises(errors.SerializationError, match="no function with digest"):
        pickling.loads(payload)


def test_modules_are_no_functions(job: Job) -> None:
    assert isinstance(pickling.loads(job.payload(sys))[0], types.ModuleType)
