"""The types of what Muster raises: what they are besides, and that they survive pickling."""

from __future__ import annotations

import concurrent.futures
import pickle

import pytest

from muster import errors
from muster.errors import MusterError, TaskError


@pytest.mark.parametrize("name", errors.__all__)
def test_every_type_survives_pickling(name: str) -> None:
    error = getattr(errors, name)("what happened")
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert "what happened" in str(copy)


def test_task_errors_carry_where_they_came_from() -> None:
    error = pickle.loads(pickle.dumps(errors.TaskTimeout("too long", "timeout", "Traceback ...")))

    assert (error.message, error.kind, error.remote_traceback) == (
        "too long",
        "timeout",
        "Traceback ...",
    )


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.TaskTimeout, TimeoutError),
        (errors.TaskCancelled, concurrent.futures.CancelledError),
        (errors.BrokerLost, ConnectionError),
        (errors.PoolNotActive, RuntimeError),
        (errors.Unsupported, ValueError),
        (errors.TaskCrashed, TaskError),
        (errors.NoWorker, TaskError),
    ],
)
def test_types_are_what_callers_catch(kind: type[Exception], also: type[Exception]) -> None:
    assert issubclass(kind, also)
    assert issubclass(kind, MusterError)


def test_a_stopped_task_is_not_caught_by_mistake() -> None:
    assert not issubclass(errors.TaskStopped, Exception)
