"""A pool whose room for large data is taken: what waits, what goes on, and what is said."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_support import wait_until

from muster import MusterError
from muster._data import pickling
from muster._data.blobs import Blobs, Sharing
from muster._data.portable import Packed
from muster._link.session import Session
from muster.provider import programs_folder

MEBIBYTE = 1 << 20


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[str]:
    """A broker without workers that keeps 4 MiB of large data."""
    endpoint = f"ipc://{tmp_path}/broker"
    program = Path(programs_folder(), "muster-broker")
    room = ("--blob-memory", "4MiB", "--blob-disk", "0", "--no-worker-timeout", "600")
    with subprocess.Popen([program, "--listen", endpoint, *room]) as broker:
        yield endpoint
        broker.kill()


def test_a_job_without_room_stalls_no_outcome(little_room: str) -> None:
    outcomes: list[int] = []
    session = Session(broker=little_room, python_version="3.11")
    job = session.open_job(
        Packed(b"body"), "full", lambda task, _result, failure: outcomes.append(task)
    )
    small = [job.push(Packed(b"small"), number) for number in range(50)]
    large = [job.push(Packed(bytes([i]) * (3 * MEBIBYTE // 2)), 50 + i) for i in range(2)]
    waiting = threading.Thread(target=lambda: job.push(Packed(bytes(3 * MEBIBYTE)), 52))
    waiting.start()
    for number, sequence in enumerate(small):
        job.cancel(sequence)
        wait_until(lambda: len(outcomes) > number)  # noqa: B023 (waits here)
    assert waiting.is_alive()
    for sequence in large:
        job.cancel(sequence)
    waiting.join(60)
    assert not waiting.is_alive()
    job.cancel()
    wait_until(lambda: len(outcomes) == 53)
    assert sorted(outcomes) == list(range(53))
    session.close()


def test_what_finds_no_room_is_said_and_leaves_the_rest_as_it_was(little_room: str) -> None:
    session = Session(broker=little_room)
    held = session.space.scatter(bytes(4 * MEBIBYTE - 50_000))
    blobs = Blobs(session.space, Sharing())
    with pytest.raises(MusterError, match="no room for a blob of 2097152 bytes.*let go of some"):
        pickling.pack([bytes(2 * MEBIBYTE)], "the arguments", blobs)
    small = bytes(100_000)
    packed = pickling.pack([small], "the arguments", blobs)
    assert not packed.blobs and pickling.unpack(packed) == [small], "a message takes it"
    del held
    large = bytes([1]) * (2 * MEBIBYTE)
    packed = pickling.pack([large, small], "the arguments", blobs)
    assert len(packed.blobs) == 2 and len(packed.body) < 1000
    assert pickling.unpack(packed) == [large, small]
    session.close()
