"""An embedded pool of real processes, seen through the native module, for tests below the pool."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import muster
from muster import _native
from muster._data import failures, pickling
from muster._node import tasks

DEADLINE_SECONDS = 60.0
PACKAGE_FOLDER = str(Path(muster.__file__).parent.parent)


def context(**changes: Any) -> tasks.JobContext:
    """As a client would make it."""
    fields = {
        "sys_path": [folder for folder in sys.path if folder],
        "main_path": None,
        "log_level": logging.INFO,
        "capture": True,
        "thread_limit": None,
    }
    return tasks.JobContext(**{**fields, **changes})


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """For what another process does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.002)


class CorePool:
    """One job at a time, its tasks by their sequence."""

    def __init__(self, executor: str = "process", slots: int = 1) -> None:
        self.producer = _native.Producer(
            slots=slots,
            executor=executor,
            python=sys.executable,
            python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
            environment={"PYTHONPATH": PACKAGE_FOLDER},
        )
        self.outcomes: dict[tuple[int, int], tuple[Any, _native.Failure | None]] = {}

    def __enter__(self) -> CorePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.producer.close()

    def open(self, task_function: tasks.TaskFunction, **options: Any) -> int:
        """A job; its number."""
        made = {key: options.pop(key) for key in ("context", "functions") if key in options}
        body = tasks.make_body(task_function, made.get("context", context()), made.get("functions"))
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self.producer.open_job(
            label="test", python=version, body=body.body, blobs=body.blobs, **options
        )

    def push(self, job: int, *args: Any, **kwargs: Any) -> int:
        """A task of a job of `tasks.Call`."""
        return self.producer.push(job, pickling.dumps((args, kwargs), "the arguments"))

    def outcome(self, job: int, sequence: int) -> tuple[Any, _native.Failure | None]:
        """The result's bytes or the failure."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (job, sequence) not in self.outcomes:
            assert time.monotonic() < deadline, f"no outcome: {self.producer.status()}"
            for item_job, item_sequence, result, failure in self.producer.next(1.0):
                self.outcomes[item_job, item_sequence] = result, failure
        return self.outcomes.pop((job, sequence))

    def failure(self, job: int, sequence: int) -> _native.Failure:
        """Of a task that must fail."""
        result, failure = self.outcome(job, sequence)
        assert failure is not None, f"it has a result: {result}"
        return failure

    def value(self, job: int, sequence: int) -> Any:
        """Raises what the task raised."""
        result, failure = self.outcome(job, sequence)
        if failure is not None:
            raise failures.rebuild(failure)
        return pickling.unpack(tasks.split_result(result)[1])

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs one task of a job of its own."""
        job = self.open(tasks.Call(function))
        return self.value(job, self.push(job, *args, **kwargs))

    def lines(self, count: int) -> list[_native.Line]:
        """What tasks said, at least so many lines."""
        found: list[_native.Line] = []
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, f"only these lines came: {found}"
            found += self.producer.next_output(1.0)
        return found
