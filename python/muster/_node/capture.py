"""What tasks print, log and warn, as lines that go to the client.

`Capture.install` replaces sys.stdout, sys.stderr, warnings.showwarning and adds a handler to the
root logger, once per runner. What is said in a thread that runs no captured task takes the way it
took before: to the real descriptors.
Threads: any.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from muster import _native
from muster._node.tasks import JobContext

if TYPE_CHECKING:
    from muster._native import RunnerLink

OUTPUT, ERROR, LOG, WARNING = _native.LINE_KINDS
_MAX_LINE = 4000
"""Characters; a longer line is said in pieces. The core cuts at about this."""


class Link(Protocol):
    """What this module needs of `muster._native.RunnerLink`."""

    def say(self, task_id: int, kind: int, level: int, name: str, text: str) -> None:
        """Sends one line."""


class _Speaker(threading.local):
    """Who speaks in this thread."""

    task_id: int | None = None

    def __init__(self) -> None:
        self.partial = {OUTPUT: "", ERROR: ""}  # lines without their end


class Capture:
    """The ways of one runner's output."""

    def __init__(self, link: Link | RunnerLink) -> None:
        self._link = link
        self._speaker = _Speaker()
        self._lock = threading.Lock()
        self._levels: Counter[int] = Counter()  # of the tasks that run
        self._show_warning = warnings.showwarning
        self._silent = False

    def install(self) -> None:
        """Once, before tasks run."""
        sys.stdout = cast(TextIO, _Stream(self, OUTPUT, sys.stdout))
        sys.stderr = cast(TextIO, _Stream(self, ERROR, sys.stderr))
        logging.captureWarnings(False)
        warnings.showwarning = self._warn
        logging.getLogger().addHandler(_Handler(self))

    def begin(self, task_id: int, context: JobContext) -> None:
        """What this thread says from now on is said by the task."""
        speaker = self._speaker
        speaker.task_id = task_id if context.capture else None
        if not context.capture:
            return
        level = context.log_level
        with self._lock:
            self._levels[level] += 1
            lowest = min(self._levels)
            root = logging.getLogger()
            if root.level != lowest:  # setting it empties the caches of all loggers
                root.setLevel(lowest)

    def end(self, context: JobContext) -> None:
        """The opposite of `begin`; lines without an end are said."""
        speaker = self._speaker
        if speaker.task_id is None:
            return
        for kind, rest in speaker.partial.items():
            if rest:
                speaker.partial[kind] = ""
                self._say_line(speaker.task_id, kind, rest)
        speaker.task_id = None
        with self._lock:
            self._levels[context.log_level] -= 1
            self._levels = +self._levels

    def silence(self) -> None:
        """For the child of a fork: nothing more goes over the link."""
        self._silent = True
        self._lock = threading.Lock()  # another thread may have held it

    def speaking(self) -> int | None:
        """The captured task of this thread."""
        return None if self._silent else self._speaker.task_id

    def write(self, kind: int, task_id: int, text: str) -> None:
        """Says the complete lines and keeps the rest."""
        partial = self._speaker.partial
        *lines, rest = (partial[kind] + text).split("\n")
        while len(rest) > _MAX_LINE:
            lines.append(rest[:_MAX_LINE])
            rest = rest[_MAX_LINE:]
        partial[kind] = rest
        for line in lines:
            self._say_line(task_id, kind, line)

    def _say_line(self, task_id: int, kind: int, line: str) -> None:
        line = line.rstrip("\r")
        _, _, line = line.rpartition("\r")  # what a terminal would show of a progress bar
        while True:
            self._link.say(task_id, kind, 0, "", line[:_MAX_LINE])
            line = line[_MAX_LINE:]
            if not line:
                return

    def log(self, record: logging.LogRecord, formatter: logging.Formatter) -> None:
        """Says a log record, or prints it as the logging module would without a handler."""
        task_id = self.speaking()
        if task_id is None:
            last = logging.lastResort
            if last and record.levelno >= last.level:
                last.handle(record)
            return
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + formatter.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        self._link.say(task_id, LOG, record.levelno, record.name, text)

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        task_id = self.speaking()
        if task_id is None or file is not None:
            self._show_warning(message, category, filename, lineno, file, line)
            return
        text = f"{filename}:{lineno}: {message}"
        self._link.say(task_id, WARNING, logging.WARNING, category.__name__, text)


class _Handler(logging.Handler):
    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._capture.log(record, self._formatter)
        except Exception:
            self.handleError(record)


class _Stream(io.TextIOBase):
    """A text stream that belongs to whichever task writes to it; else it is the real one."""

    def __init__(self, capture: Capture, kind: int, real: TextIO) -> None:
        super().__init__()
        self._capture = capture
        self._kind = kind
        self._real = real
        self._bytes = _ByteStream(self, real)

    @property
    def buffer(self) -> _ByteStream:
        """Takes bytes, as sys.stdout.buffer does."""
        return self._bytes

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the bytes that `buffer` takes."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Text is shown, never refused."""
        return "backslashreplace"

    @property
    def name(self) -> str:
        """As of the stream that it stands for."""
        return str(getattr(self._real, "name", ""))

    @property
    def line_buffering(self) -> bool:
        """A line leaves when it is complete."""
        return True

    def reconfigure(self, **_: Any) -> None:
        """Accepted, without effect."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        task_id = self._capture.speaking()
        if task_id is None:
            self._real.write(text)
            self._real.flush()
        else:
            self._capture.write(self._kind, task_id, text)
        return len(text)

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._capture.speaking() is None:
            self._real.flush()

    def close(self) -> None:
        """Streams of the process are not closed by a task."""

    def fileno(self) -> int:
        return self._real.fileno()

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _ByteStream(io.RawIOBase):
    def __init__(self, stream: _Stream, real: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._real = real

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self._stream.write(bytes(view).decode("utf-8", "backslashreplace"))
        return view.nbytes

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Streams of the process are not closed by a task."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._real.fileno()
