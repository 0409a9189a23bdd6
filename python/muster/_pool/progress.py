"""How far a map or a start is, for who watches: a tqdm bar, or lines on standard error without it.

Owner: a MapResults, or a pool that starts. Threads: one at a time. Nothing here raises: a bar that
cannot be shown is not.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any, Protocol

_LINE_SECONDS = 2.0  # between two lines, at least


class Progress(Protocol):
    """What a map tells of itself."""

    def advance(self, count: int) -> None:
        """So many more items have their results."""

    def close(self) -> None:
        """The end, good or bad. Again: no effect."""


def make(label: str, total: int | None, unit: str = "items") -> Progress:
    """`total`: how many items there will be, if that is known."""
    if sys.stderr is None or getattr(sys.stderr, "closed", False):
        return _Lines(
            label, total, unit
        )  # which nobody will see; a bar would complain when it is freed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a notebook without widgets it takes the plain bar
            from tqdm.auto import tqdm

            return _Bar(tqdm(total=total, desc=label, unit=f" {unit}"))
    except Exception:  # not installed, or at odds with where it is to show
        return _Lines(label, total, unit)


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, count: int) -> None:
        try:
            self._bar.update(count)
        except Exception:
            self._bar.disable = True  # its stream is gone

    def close(self) -> None:
        try:
            self._bar.close()
        except Exception:
            self._bar.disable = True


class _Lines:
    def __init__(self, label: str, total: int | None, unit: str = "items") -> None:
        self._unit = unit
        self._label = label
        self._total = total
        self._count = 0
        self._shown = -1
        self._began = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._last >= _LINE_SECONDS:
            self._last = now
            self._show(now)

    def close(self) -> None:
        self._show(time.monotonic())

    def _show(self, now: float) -> None:
        if self._shown == self._count:
            return
        self._shown = self._count
        of_total = "" if self._total is None else f" of {self._total:,}"
        line = (
            f"{self._label}: {self._count:,}{of_total} {self._unit} in {now - self._began:.1f} s\n"
        )
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except Exception:
            return  # no standard error
