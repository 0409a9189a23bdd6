"""What Muster raises. Each type says what the caller can do next; all derive from MusterError.

An exception that a task raised is raised again as itself, with a RemoteTraceback as its cause, when
it can be rebuilt here; a plain TaskError stands for one that cannot.
Threads: plain values. All of them can be pickled.
"""

from __future__ import annotations

import concurrent.futures
import pickle
from typing import Any

__all__ = [
    "BrokerLost",
    "MusterError",
    "NoWorker",
    "NodesFailed",
    "PoolNotActive",
    "RemoteTraceback",
    "SerializationError",
    "TaskCancelled",
    "TaskCrashed",
    "TaskError",
    "TaskLost",
    "TaskStopped",
    "TaskTimeout",
    "Unsupported",
    "VersionMismatch",
]


class MusterError(Exception):
    """Something that is Muster's to report; the text says what to do."""


class TaskError(MusterError):
    """A task ended without a result.

    `kind` is a short stable word ("exception", "crashed", …), `message` one line, and
    `remote_traceback` the text of the traceback on the node, or "".
    """

    def __init__(self, message: str = "", kind: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.kind, self.remote_traceback)

    def __str__(self) -> str:
        return self.message


class TaskCrashed(TaskError):
    """The process that ran the task died: a signal, an exit, out of memory."""


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its timeout and was stopped."""


class TaskCancelled(TaskError, concurrent.futures.CancelledError):
    """The task was cancelled, or its pool was closed, before it ended."""


class TaskLost(TaskError):
    """Every worker that ran the task was lost, as often as that is tolerated."""


class NoWorker(TaskError):
    """No connected worker can run the task, for example for want of this Python version."""


class NodesFailed(MusterError):
    """Machines of the pool could not be used, so it did not start. `failures` has for each node the
    step that failed ("connect", "host key", "login", "python", …) and what to do about it."""

    def __init__(
        self, message: str = "", failures: dict[str, tuple[str, str]] | None = None
    ) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.failures)


class SerializationError(MusterError, pickle.PicklingError):
    """A function, an argument or a result cannot be pickled or unpickled."""


class BrokerLost(MusterError, ConnectionError):
    """The broker cannot be reached, or fell silent; what was under way has no known outcome."""


class VersionMismatch(MusterError):
    """The broker is of another version, or no node has this program's version of Python."""


class PoolNotActive(MusterError, RuntimeError):
    """The pool was not started, or is shut down."""


class Unsupported(MusterError, ValueError):
    """A parameter that this provider cannot honour, or one that makes no sense here."""


class RemoteTraceback(Exception):
    """The cause of an exception that came from a task: shows the traceback on the node."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class TaskStopped(BaseException):
    """Raised inside a task on a thread slot when it is cancelled or out of time; let it pass."""
