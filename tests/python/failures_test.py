"""An exception crosses processes as itself when that is possible, as text in any case."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from muster import errors
from muster._data import failures


def described(raise_it: Callable[[], object]) -> failures.Described:
    try:
        raise_it()
    except BaseException as exc:
        return failures.describe(exc, 1)
    raise AssertionError("it did not raise")


def sent(raise_it: Callable[[], object]) -> BaseException:
    return failures.rebuild(("task_failed", *described(raise_it)))


def raising(exc: BaseException) -> Callable[[], object]:
    def raise_it() -> None:
        raise exc

    return raise_it


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


class Decorating(Exception):
    """Unpickles, as another exception."""

    def __init__(self, text: str) -> None:
        super().__init__(f"error: {text}")


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class KeywordOnly(OSError):
    def __init__(self, *, path: str) -> None:
        super().__init__(2, "nothing there", path)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("bad", 3),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        StopIteration(4),
        KeyboardInterrupt(),
        MemoryError(),
        TwoArguments(1, 2),
        Decorating("once"),
        KeywordOnly(path="/x"),
        errors.TaskLost("lost", "lost", "text"),
    ],
)
def test_an_exception_comes_back_as_itself(exc: BaseException) -> None:
    copy = sent(raising(exc))

    assert type(copy) is type(exc)
    assert (str(copy), copy.args, vars(copy)) == (str(exc), exc.args, vars(exc))
    assert isinstance(copy.__cause__, errors.RemoteTraceback)
    assert "raise exc" in str(copy.__cause__)


def test_the_traceback_begins_in_the_code_of_the_task() -> None:
    text = described(raising(ValueError("here")))[2]

    assert text.startswith("Traceback (most recent call last):\n")
    assert "in raise_it" in text
    assert "in described" not in text


def test_the_chain_of_causes_is_in_the_traceback() -> None:
    def chained() -> None:
        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise ValueError("outer") from exc

    text = described(chained)[2]
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text


def test_an_endless_recursion_has_a_short_traceback() -> None:
    def recurse() -> None:
        recurse()

    kind, message, text, _ = described(recurse)
    assert (kind, message.split(":")[0]) == ("exception", "RecursionError")
    assert len(text) < 10_000


def test_what_is_long_is_cut_in_the_middle() -> None:
    _, message, text, extra = described(raising(ValueError("x" * 3_000_000 + "end")))

    assert len(message) < 9_000
    assert message.endswith("end")
    assert len(text) < 50_000
    assert extra == b""


def test_what_cannot_be_pickled_is_told() -> None:
    copy = sent(raising(ValueError(lambda: 1, (i for i in ()))))

    assert type(copy) is errors.TaskError
    assert copy.kind == "exception"
    assert str(copy).startswith("ValueError: (<function")


def test_an_exception_without_a_text_is_told() -> None:
    kind, message, _, extra = described(raising(Hostile()))
    assert (kind, message, extra) == (
        "exception",
        "Hostile: <Hostile that cannot be shown>",
        b"",
    )


def test_a_class_that_is_not_here_is_told() -> None:
    extra = b"cnowhere\nMissing\n)R."
    copy = failures.rebuild(("task_failed", "exception", "Missing: gone", "the text", extra))

    assert type(copy) is errors.TaskError
    assert (copy.kind, copy.message, copy.remote_traceback) == (
        "exception",
        "Missing: gone",
        "the text",
    )
    assert isinstance(copy.__cause__, errors.RemoteTraceback)


@pytest.mark.parametrize("extra", [b"garbage", pickle.dumps("no exception"), b"\x80\x05."])
def test_an_extra_that_is_no_exception_is_told(extra: bytes) -> None:
    copy = failures.rebuild(("task_failed", "exception", "Some: text", "", extra))
    assert type(copy) is errors.TaskError


@pytest.mark.parametrize(
    ("code", "message"), [(3, "the task called sys.exit(3)"), (None, "the task called sys.exit()")]
)
def test_sys_exit_does_not_end_the_client(code: Any, message: str) -> None:
    copy = sent(raising(SystemExit(code)))
    assert type(copy) is errors.TaskError
    assert (copy.kind, copy.message) == ("system_exit", message)


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("task_timed_out", "timeout", errors.TaskTimeout),
        ("task_cancelled", "cancelled", errors.TaskCancelled),
        ("task_lost", "lost", errors.TaskLost),
        ("no_worker", "no_worker", errors.NoWorker),
        ("no_worker", "wrong_interpreter", errors.VersionMismatch),
        ("refused", "version", errors.VersionMismatch),
        ("refused", "over_limit", errors.MusterError),
        ("refused", "identity", errors.MusterError),
        ("disconnected", "disconnected", errors.BrokerLost),
        ("wait_timed_out", "wait_timed_out", TimeoutError),
        ("invalid", "invalid", errors.MusterError),
        ("unusable", "unusable", errors.MusterError),
        ("task_failed", "crashed", errors.TaskCrashed),
        ("task_failed", "unpickle", errors.SerializationError),
        ("task_failed", "result_not_picklable", errors.SerializationError),
        ("task_failed", "result_too_large", errors.TaskError),
    ],
)
def test_every_code_has_its_type(code: str, kind: str, expected: type[BaseException]) -> None:
    copy = failures.rebuild((code, kind, "the message", "", b""))
    assert type(copy) is expected
    assert str(copy) == "the message"
    assert copy.__cause__ is None


def test_the_rebuilt_survive_another_crossing() -> None:
    for code in ("task_timed_out", "task_cancelled", "task_lost", "no_worker"):
        failure = (code, "kind", "message", "text", b"")
        copy = pickle.loads(pickle.dumps(failures.rebuild(failure)))
        assert (copy.kind, copy.message, copy.remote_traceback) == ("kind", "message", "text")
