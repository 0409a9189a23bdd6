"""Exceptions on their way from a task to the program that waits for it.

A failure is text first: kind, message and traceback need nothing to be imported. The pickled
exception is an extra, which the runner has already unpickled once to see that it can be.
Threads: any.
"""

from __future__ import annotations

import os
import pickle
import traceback
from typing import Any

import cloudpickle

from muster import _native, errors
from muster._data.pickling import DumpError, LoadError, how_to_get
from muster._data.portable import PROTOCOL

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MAX_MESSAGE = 8 * 1024
_MAX_TRACEBACK = _native.MAX_TEXT_BYTES - 2 * _MAX_MESSAGE
"""With the message and what UTF-8 adds below the protocol's limit of a text, mostly; the core cuts
the rest."""
_MAX_EXTRA_BYTES = 1 << 20
"""An exception that carries more than this with it comes back as text."""

Described = tuple[str, str, str, bytes]
"""(kind, message, traceback, extra)"""
Failure = tuple[str, str, str, str, bytes]
"""(code, kind, message, traceback, extra), as `muster._native.Failure`."""


def describe(exc: BaseException, frames_to_skip: int = 0) -> Described:
    """What became of a task that raised `exc`.

    The traceback leaves out its outermost `frames_to_skip` frames, and those of this package.
    """
    try:
        text = _traceback_text(exc, frames_to_skip)
    except Exception as failure:
        text = f"(the traceback cannot be shown: {type(failure).__name__})\n"
    if isinstance(exc, LoadError):
        return "unpickle", _cut(str(exc), _MAX_MESSAGE), text, b""
    if isinstance(exc, DumpError):
        return "result_not_picklable", _cut(str(exc), _MAX_MESSAGE), text, b""
    if isinstance(exc, ModuleNotFoundError) and _native.NODE_VARIABLE in os.environ:
        text += f"On node {os.environ[_native.NODE_VARIABLE]}: {how_to_get(exc.name)}\n"
    if isinstance(exc, SystemExit):
        code = "" if exc.code is None else _safely(repr, exc.code)
        return "system_exit", f"the task called sys.exit({code})", text, b""
    return "exception", _cut(_one_line(exc), _MAX_MESSAGE), text, _pickled(exc)


def _safely(show: Any, value: object) -> str:
    try:
        return str(show(value))
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


def _one_line(exc: BaseException) -> str:
    name, text = type(exc).__qualname__, _safely(str, exc)
    return f"{name}: {text}" if text else name


def _cut(text: str, limit: int) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"


def _traceback_text(exc: BaseException, frames_to_skip: int) -> str:
    shown = traceback.TracebackException.from_exception(exc)
    del shown.stack[:frames_to_skip]
    waiting: list[traceback.TracebackException | None] = [shown]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        ours = 0
        for frame in part.stack:
            if not frame.filename.startswith(_PACKAGE):
                break
            ours += 1
        del part.stack[:ours]
        waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return _cut("".join(shown.format()), _MAX_TRACEBACK)


class _Remade:
    """Pickles an exception whose own way back runs into its __init__: without calling that."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __reduce__(self) -> tuple[Any, ...]:
        exc = self._exc
        args = exc.args
        if isinstance(exc, OSError) and exc.filename is not None and len(args) == 2:
            args += (exc.filename,)  # which is no part of its args
        return _remake, (type(exc), args, vars(exc))


def _remake(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    exc = kind.__new__(kind, *args)
    built_in: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    built_in.__init__(exc, *args)
    vars(exc).update(state)
    return exc


def _pickled(exc: BaseException) -> bytes:
    """b"" when it cannot be pickled, or would come back as something else."""
    expected = _safely(str, exc)
    for form in (exc, _Remade(exc)):
        try:
            data: bytes = cloudpickle.dumps(form, PROTOCOL)
            if len(data) <= _MAX_EXTRA_BYTES:
                copy = pickle.loads(data)
                if type(copy) is type(exc) and str(copy) == expected:
                    return data
        except errors.TaskStopped:
            raise
        except BaseException:
            continue  # whatever the exception's own methods raise: it goes as text
    return b""


_BY_CODE: dict[str, type[errors.TaskError]] = {
    "task_timed_out": errors.TaskTimeout,
    "task_cancelled": errors.TaskCancelled,
    "task_lost": errors.TaskLost,
    "no_worker": errors.NoWorker,
}


def rebuild(failure: Failure) -> BaseException:
    """The exception to raise for a failure: the task's own when it can be made again here."""
    code, kind, message, text, extra = failure
    exc = _rebuilt(code, kind, message, text, extra)
    if text:
        exc.__cause__ = errors.RemoteTraceback(text)
    return exc


def _rebuilt(code: str, kind: str, message: str, text: str, extra: bytes) -> BaseException:
    if kind == "wrong_interpreter" or (code, kind) == ("refused", "version"):
        return errors.VersionMismatch(message)
    if code in _BY_CODE:
        return _BY_CODE[code](message, kind, text)
    if code == "disconnected":
        return errors.BrokerLost(message)
    if code == "wait_timed_out":
        return TimeoutError(message)
    if code != "task_failed":
        return errors.MusterError(message)
    if kind in ("unpickle", "result_not_picklable"):
        return errors.SerializationError(message)
    if kind in ("crashed", "out_of_memory"):
        return errors.TaskCrashed(message, kind, text)
    if kind == "exception" and extra:
        try:
            exc = pickle.loads(extra)
        except KeyboardInterrupt:
            raise
        except BaseException:
            exc = None  # its module or class is not here
        if isinstance(exc, BaseException):
            return exc
    return errors.TaskError(message, kind, text)
