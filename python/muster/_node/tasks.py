"""What a job of Python tasks is made of: the callable that runs its tasks, and where it runs.

A job's body is the pickle of a callable and of its `JobContext`. The runner loads it once and calls
the callable with each task's payload; it returns the result as execution seconds (struct "<d") and
the pickle of the value. Payloads, bodies and results are bytes and the blobs that belong to them
(`portable.Packed`).
Threads: any; one loaded job may run in many threads at once.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from muster._data import failures
from muster._data.blobs import Blobs, Sharing
from muster._data.functions import Shared, add_functions, remove_functions
from muster._data.parts import ArgumentParts, ResultParts
from muster._data.pickling import DumpError, Pickler, load, make, pack_result, unpack, unpack_items
from muster._data.portable import Packed, Result
from muster.errors import TaskStopped

TaskFunction = Callable[[Packed], Packed]

_SECONDS = struct.Struct("<d")


def split_result(result: Result) -> tuple[float, Packed]:
    """Execution seconds, and the pickle of the value without a copy."""
    body, blobs = result if isinstance(result, tuple) else (result, ())
    view = memoryview(body)  # type: ignore[arg-type]
    return _SECONDS.unpack_from(view)[0], Packed(view[_SECONDS.size :], blobs)


def counted_bytes(result: Result) -> int:
    """What of a result counts until `Job.consumed` says that the program has it. Blobs do not: the
    pool counts them by itself."""
    body = result[0] if isinstance(result, tuple) else result
    return len(body) if isinstance(body, bytes) or not body.is_blob else 0


def join_result(seconds: float, value: object) -> Packed:
    """The opposite of `split_result`. Raises SerializationError."""
    return pack_result(value, _SECONDS.pack(seconds))


class Call:
    """One task is one call; the payload is `pack((args, kwargs), "the arguments", blobs)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, payload: Packed) -> Packed:
        args, kwargs = unpack(payload, "the arguments of this task")
        start = perf_counter()
        value = self._function(*args, **kwargs)
        return join_result(perf_counter() - start, value)


class MapChunk:
    """One task is many calls; the payload is the pickle of a list of items.

    The value is (results, failure): when an item raises, those before it have results, and
    `failure` says what `failures.describe` says of it; else it is None. `starred`: each item is a
    tuple of arguments.
    """

    def __init__(self, function: Callable[..., Any], starred: bool) -> None:
        self._function = function
        self._starred = starred

    def __call__(self, payload: Packed) -> Packed:
        items = unpack_items(payload, "the arguments of this task")
        function = self._function
        results: list[Any] = []
        append = results.append
        failure: failures.Described | None = None
        start = perf_counter()
        try:
            if self._starred:
                for item in items:
                    append(function(*item))
            else:
                for item in items:
                    append(function(item))
        except TaskStopped:
            raise
        except BaseException as exc:
            failure = failures.describe(exc)
        seconds = perf_counter() - start
        with contextlib.suppress(DumpError):
            return join_result(seconds, (results, failure))
        count, failure = _first_failure(results)
        return join_result(seconds, (results[:count], failure))


def _first_failure(results: list[Any]) -> tuple[int, failures.Described | None]:
    for count, result in enumerate(results):
        try:
            make(Pickler, result, "the result", ResultParts(available=False))
        except DumpError as exc:
            return count, failures.describe(exc)
    return len(results), None


@dataclass(frozen=True)
class JobContext:
    """What a job's tasks find around them."""

    sys_path: list[str]
    """The client's; what exists on the node and is missing there is appended."""
    main_path: str | None
    """The client's script; its folder counts as part of sys_path."""
    log_level: int
    """Of the root logger while tasks of the job run, when they are captured."""
    capture: bool
    """What tasks print, log and warn goes to the client."""
    thread_limit: int | None
    """How many threads BLAS and OpenMP may use inside a task; None: as many as they like."""

    def extend_path(self) -> None:
        """Appends the client's folders that this interpreter has and does not search yet."""
        folders = list(self.sys_path)
        if self.main_path:
            folders.append(os.path.dirname(os.path.abspath(self.main_path)))
        for folder in folders:
            if folder and folder not in sys.path and os.path.isdir(folder):
                sys.path.append(folder)


def make_body(
    callable_object: TaskFunction,
    context: JobContext,
    functions: Mapping[bytes, Shared] | None = None,
    blobs: Blobs | None = None,
) -> Packed:
    """The body of a job; `functions` is what `SharedFunctions.take_body` returned, `blobs` are
    those of its call.

    Raises SerializationError.
    """
    blobs = blobs or Blobs(None, Sharing())
    fields = (
        context.sys_path,
        context.main_path,
        context.log_level,
        context.capture,
        context.thread_limit,
    )
    parts = ArgumentParts(blobs)
    # The callable is a pickle of its own: it is loaded after the path has been extended.
    body = (
        fields,
        {digest: shared.nest(parts) for digest, shared in (functions or {}).items()},
        Shared(callable_object, blobs).nest(parts),
    )
    return parts.packed(make(Pickler, body, "the function", parts))


class LoadedJob:
    """A job's body in the process that runs its tasks."""

    def __init__(self, body: Packed) -> None:
        """Raises SerializationError when the callable cannot be loaded here."""
        fields, self._functions, function = unpack(body, "the body of this job")
        self.context = JobContext(*fields)
        self.context.extend_path()
        add_functions(self._functions)
        try:
            self.function: TaskFunction = load(function, "the function of this task")
        except BaseException:
            remove_functions(self._functions)
            raise

    def forget(self) -> None:
        """No task of the job will come any more."""
        remove_functions(self._functions)
