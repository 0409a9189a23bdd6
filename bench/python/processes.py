"""What processes and the folders of their blobs take of memory, by /proc. For benches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MEGA = 1_000_000


def descendants(process: int) -> list[int]:
    """Every living process that `process` or one of its children started."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        try:
            children = [int(word) for word in (task / "children").read_text().split()]
        except OSError:  # that thread has just ended
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def pss_bytes(process: int) -> int:
    """Its share of memory: pages that several processes map count in parts; 0 when it ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def memory_folder(broker: int) -> Path:
    """Where this broker keeps blobs in memory: it holds files open there."""
    for entry in Path(f"/proc/{broker}/fd").iterdir():
        try:
            path = Path(os.readlink(entry))
        except OSError:
            continue
        if path.is_relative_to("/dev/shm") and len(path.parts) > 4:
            return Path(*path.parts[:5])  # / dev shm muster-UID NAME
    raise RuntimeError(f"the broker {broker} has no folder of blobs in /dev/shm")


def folder_bytes(folder: Path) -> int:
    """What the files in it take, those that are being written too."""
    total = 0
    for place in (folder, folder / "incoming"):
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except OSError:  # released meanwhile
                continue
    return total


class Peak:
    def __init__(self) -> None:
        self.bytes = 0
        self.samples = 0


@contextmanager
def sampled(measure: Callable[[], int], every_seconds: float = 0.05) -> Iterator[Peak]:
    """Calls `measure` all the time in a thread and keeps the largest of what it returned."""
    peak = Peak()
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(every_seconds):
            peak.bytes = max(peak.bytes, measure())
            peak.samples += 1

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
