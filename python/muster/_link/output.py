"""What tasks say, said again here: lines, log records and warnings, each with where it came from.

Owner: a Session. Threads: `emit` from any, one at a time (the session sees to that). Nothing here
raises: whatever a sink throws is logged once and the line is gone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, Union

from muster import _native

KINDS = dict(zip(_native.LINE_KINDS, ("output", "error", "log", "warning")))
_logger = logging.getLogger("muster.output")


class OutputLine(NamedTuple):
    """One line that a task said, as `output=callable` gets it.

    `kind` is "output" (standard output), "error" (standard error), "log" or "warning"; `level` and
    `name` are a log record's, `name` also a warning's category; `task` counts the tasks of the
    call from 0; `dropped` lines before this one were left out because there were too many.
    """

    node: str
    task: int
    kind: str
    text: str
    level: int = 0
    name: str = ""
    dropped: int = 0


Sink = Union[bool, Callable[[OutputLine], object]]


class Printer:
    """Puts lines where this process's own output goes, or hands them to a callable.

    `sys.stdout` and `sys.stderr` are looked up for every batch, so that redirecting them works.
    """

    def __init__(self, sink: Sink = True) -> None:
        self._sink = sink
        self._complained = False

    def emit(self, lines: Iterable[_native.Line]) -> None:
        written = set()
        for _job, sequence, node, kind, level, name, text, dropped in lines:
            line = OutputLine(node, sequence, KINDS[kind], text, level, name, dropped)
            try:
                if callable(self._sink):
                    self._sink(line)
                else:
                    self._print(line)
                    written.add(line.kind)
            except BaseException:  # a sink may raise SystemExit: the lines after this one count
                if not self._complained:
                    self._complained = True
                    _logger.exception("what tasks say cannot be shown; later failures are silent")
        for shown in written:
            _flush(shown)

    def _print(self, line: OutputLine) -> None:
        prefix = f"[{line.node} #{line.task}] "
        if line.dropped:
            sys.stderr.write(f"{prefix}… {line.dropped:,} lines dropped\n")
        if line.kind == "log":
            _log(line, prefix)
            return
        stream = sys.stdout if line.kind == "output" else sys.stderr
        if stream is not None:  # None: a program without a console
            category = f"{line.name}: " if line.kind == "warning" and line.name else ""
            stream.write(f"{prefix}{category}{line.text}\n")


def _flush(kind: str) -> None:
    stream = {"output": sys.stdout, "log": None}.get(kind, sys.stderr)
    try:
        if stream is not None:
            stream.flush()
    except Exception:
        return  # closed meanwhile, or the program's own and broken


def _log(line: OutputLine, prefix: str) -> None:
    """Through the logger of the same name here: its levels, filters and handlers decide."""
    logger = logging.getLogger(line.name if line.name != "root" else None)
    if not logger.isEnabledFor(line.level):
        return
    record = logging.LogRecord(
        line.name or "root", line.level, "", 0, prefix + line.text, None, None
    )
    record.muster_node = line.node
    record.muster_task = line.task
    logger.handle(record)
