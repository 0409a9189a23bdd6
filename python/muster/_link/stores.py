"""The pool's stores of computed values, from wherever this code runs: a task or a client.

A store is a name and holds values by key. `claim` finds a value or makes the caller the one who
computes it, while all others in the pool that claim it wait; see `muster/store.hpp`.
Threads: any. Everything blocks for an answer of the broker; `claim` as long as another computes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from muster import _native
from muster.errors import MusterError

if TYPE_CHECKING:
    from muster._link.dispatch import Core
    from muster._link.session import Session

GET, CLAIM, PUT, RELEASE, CONTAINS, LIST, REMOVE, REMOVE_ALL, TRIM, READ, LEAVE = (
    _native.STORE_OPERATIONS
)
HIT, MISS, YOURS, DONE, CHANGED, REFUSED = _native.STORE_STATES

_PIECE_BYTES = _native.STORE_PIECE_BYTES
_PIECES_AHEAD = 8
_TRIES = 3  # a broker that restarts, or a value that changes, makes a transfer begin again
_SLICE_SECONDS = 0.1  # how soon a wait notices Ctrl-C or the end of its task

_numbers = itertools.count(1)
_thread = threading.local()


class StoreFailed(MusterError):
    """The store did not do what it was asked to; the text says why."""


class Answer(NamedTuple):
    """As `muster::StoreReply`."""

    status: int
    text: str
    value: Any
    size: int
    version: int
    machine: str
    file: str
    folder: str
    entries: list[tuple[str, int, float, int]]


class Store:
    """One store of one pool, for one process. `session` is called when a client asks; it may raise
    what keeps this process from having a pool."""

    def __init__(self, name: str, session: Callable[[], Session]) -> None:
        self._name = name
        self._session = session

    def claim(self, key: str, besides: int = 0) -> Answer:
        """HIT; YOURS: compute it, then `put` or `release`; MISS: compute it, there is no claim to
        be had here. Blocks while another computes it. The value of version `besides` is no hit: the
        caller puts another in its place."""
        link = runner_link()
        if link is not None and link.task() is None:
            return self._ask(GET, key)
        return self._ask(CLAIM, key, version=besides, may_block=link is None or _has_pools())

    def get(self, key: str) -> Answer:
        """HIT or MISS."""
        return self._ask(GET, key)

    def look(self, key: str) -> Answer:
        """HIT, with the text but not the value, or MISS. Does not count as an access."""
        return self._ask(CONTAINS, key)

    def release(self, key: str) -> None:
        """The claim, or the wait for it, ends."""
        self._ask(RELEASE, key)

    def put(self, key: str, value: Spill, text: str = "") -> int:
        """Stores what was written to `value`, and what is to be said of it. Returns its size."""
        value.finish()
        if value.shared_name:
            self._ask(PUT, key, text=text, file=value.shared_name, size=value.size)
            return value.size
        for _ in range(_TRIES):
            if self._put_pieces(key, value, text):
                return value.size
        raise StoreFailed("the value could not be sent: the broker restarts again and again")

    def _put_pieces(self, key: str, value: Spill, text: str) -> bool:
        under_way: deque[_native.Asked] = deque()
        for offset, piece in value.pieces():
            under_way.append(
                self._begin(PUT, key, text=text, value=piece, offset=offset, size=value.size)
            )
            if len(under_way) > _PIECES_AHEAD and _end(under_way.popleft()).status == CHANGED:
                return False
        answers = [_end(asked) for asked in under_way]  # of all, whatever they are
        return all(answer.status != CHANGED for answer in answers)

    def open(self, key: str, found: Answer) -> Any:
        """The content of what `get` or `claim` found, as a file that is read from its beginning
        (what follows `found.size` bytes is not the value's). None: it is gone meanwhile."""
        if found.size == len(found.value):
            return io.BytesIO(found.value)
        local = open_shared(found)
        if local is not None:
            return local
        file: Any = tempfile.TemporaryFile(dir=_temporary_folder())  # noqa: SIM115
        try:
            if not self._read_pieces(key, found, file):
                file.close()
                return None
            file.seek(0)
            return file
        except BaseException:
            file.close()
            raise

    def _read_pieces(self, key: str, found: Answer, file: Any) -> bool:
        under_way: deque[_native.Asked] = deque()
        offset = 0
        while offset < found.size or under_way:
            while offset < found.size and len(under_way) <= _PIECES_AHEAD:
                size = min(_PIECE_BYTES, found.size - offset)
                under_way.append(
                    self._begin(READ, key, version=found.version, offset=offset, size=size)
                )
                offset += size
            piece = _end(under_way.popleft())
            if piece.status != HIT:
                return False
            file.write(piece.value)
        return True

    def remove(self, key: str) -> None:
        self._ask(REMOVE, key)

    def remove_all(self, prefix: str = "") -> None:
        """Every key that begins with `prefix`."""
        self._ask(REMOVE_ALL, prefix)

    def trim(self, **limits: int) -> int:
        """Removes what was not used for longest until the limits hold: bytes_limit, items_limit,
        age_limit_ms. Returns how many values went."""
        return self._ask(TRIM, "", **limits).size

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int, float, int]]:
        """(key, size in bytes, time of last access, hits since the broker's start)."""
        after = ""
        while page := self._ask(LIST, after, text=prefix).entries:
            yield from page
            after = page[-1][0]

    def _ask(self, operation: int, key: str, **fields: Any) -> Answer:
        return _end(self._begin(operation, key, **fields))

    def _begin(self, operation: int, key: str, **fields: Any) -> _native.Asked:
        """Raises what `session` raises; StoreFailed when there is no broker."""
        link = runner_link()
        if link is not None:
            task = link.task() or 0
            asked: _native.Asked = link.ask(task, _claimant(), operation, self._name, key, **fields)
            return asked
        core = self._session()._core
        core.check()
        try:
            return core.producer.ask(_claimant(), operation, self._name, key, **fields)
        except _native.Error as error:
            raise StoreFailed(error.args[2]) from None


_used_names: set[str] = set()


def use_in_tasks(name: str) -> None:
    """Tasks of this process's pools, now and later, may use the store of that name; brokers refuse
    them every other one."""
    if name in _used_names:
        return
    _used_names.add(name)
    dispatch = sys.modules.get("muster._link.dispatch")
    for core in list(dispatch.live_cores) if dispatch is not None else ():
        tell_names(core)


def tell_names(core: Core) -> None:
    """Once its core is among the live ones, a session tells its broker of all that were used."""
    for name in list(_used_names):
        if not (core.forked or core.closing):
            with contextlib.suppress(_native.Error):  # it has ended
                core.producer.use_store(name)


class Spill(io.RawIOBase):
    """Takes a value's bytes: in memory while they are few, then in a file, which the broker takes
    over if it is on this machine."""

    def __init__(self, answer: Answer | None) -> None:
        """`answer`: of the claim, which says where a file may be."""
        self._memory: io.BytesIO | None = io.BytesIO()
        self._file: Any = None
        self._folder = ""
        if answer is not None and answer.folder and answer.machine == _machine():
            self._folder = answer.folder
        self.shared_name: str = ""
        self.size: int = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        if self._memory is not None and self.size + len(view) > _PIECE_BYTES:
            self._spill()
        (self._file if self._memory is None else self._memory).write(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size

    def _spill(self) -> None:
        assert self._memory is not None
        if self._folder and os.access(self._folder, os.W_OK):
            name = uuid.uuid4().hex
            self._file = open(os.path.join(self._folder, name), "xb")  # noqa: SIM115
            self.shared_name = name
        else:
            self._file = tempfile.TemporaryFile(dir=_temporary_folder())  # noqa: SIM115
        self._file.write(self._memory.getbuffer())
        self._memory = None

    def finish(self) -> None:
        """No more writes. The broker reads a file that it takes over."""
        if self.shared_name:
            self._file.close()

    def pieces(self) -> Iterator[tuple[int, Any]]:
        if self._memory is not None:
            yield 0, self._memory.getbuffer()
            return
        self._file.flush()
        for offset in range(0, self.size, _PIECE_BYTES):
            yield offset, os.pread(self._file.fileno(), _PIECE_BYTES, offset)

    def discard(self) -> None:
        """Nobody wants it: the file goes. Again, or after the broker took it: no effect."""
        if self._file is not None:
            self._file.close()
        if self.shared_name:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, self.shared_name))


def open_shared(found: Answer) -> Any:
    """The broker's own file, which begins with the value, or None: it is on another machine."""
    if not found.file or found.machine != _machine():
        return None
    try:
        return open(found.file, "rb")
    except OSError:
        return None  # another user's, or in another mount namespace


def runner_link() -> Any:
    """The link of the process that runs tasks; None in a client."""
    runner = sys.modules.get("muster.runner")
    return getattr(runner, "link", None)


def _end(asked: _native.Asked) -> Answer:
    try:
        while (answer := asked.wait(_SLICE_SECONDS)) is None:
            pass
    except _native.Error as error:
        raise StoreFailed(error.args[2]) from None
    reply = Answer(*answer)
    if reply.status == REFUSED:
        raise StoreFailed(reply.text)
    return reply


def _claimant() -> int:
    """A number of this thread's own."""
    try:
        number: int = _thread.number
    except AttributeError:
        number = _thread.number = next(_numbers)
    return number


def _has_pools() -> bool:
    """Whether this process, a runner, has pools of its own and may wait for their tasks."""
    dispatch = sys.modules.get("muster._link.dispatch")
    return dispatch is not None and len(dispatch.live_cores) > 0


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.readline().strip()
    except OSError:
        return "unknown"


def _temporary_folder() -> str:
    folder = os.environ.get(_native.BLOBS_VARIABLE, "")
    disk = os.path.join(folder, "disk")
    return disk if folder and os.access(disk, os.W_OK) else tempfile.gettempdir()
