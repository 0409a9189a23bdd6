"""Each test has a room of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from room import Room


@pytest.fixture
def room() -> Iterator[Room]:
    # A short path, because sockets' names are short; not the one that TMPDIR says.
    room = Room(Path(tempfile.mkdtemp(prefix="muster-docs-", dir="/tmp")))
    try:
        yield room
    finally:
        room.end()
