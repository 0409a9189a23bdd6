"""The blobs of one call: what large parts of pickles become, each once.

Within one call (a `map`, a `Parallel`) a part that comes again is known by the object that owns its
memory. That it still has the content that was sent is seen from a sample, and for what is cheap to
read, from all of it: a generator that fills one array anew for each task is noticed. Every call,
and every `submit`, looks at all of the content again.

Threads: a Blobs and its stores belong to one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muster import _native
from muster._data import arrays
from muster.errors import MusterError, TaskCancelled

if TYPE_CHECKING:
    from muster._data.scattered import Scattered
    from muster._native import Blob

LEAST_BYTES = _native.BLOB_BYTES
"""Below it a copy in a message is cheaper than a file."""
READ_ONLY_BYTES = 1 << 20
"""joblib's own limit, `max_nbytes`: a task gets smaller arrays as copies that it may write to."""
_READ_BYTES = 1 << 20
_READ_SHARE = 0.02
_READ_SECONDS = 0.02
_SECONDS_PER_BYTE = 1e-10
"""A part that comes again is read as a whole up to 1 MiB, and as long as that takes (0.1 ms per MB)
less than 20 ms and 2 % of the call's time; else a sample tells whether it changed."""
_WAIT_SECONDS = 0.5  # between looks whether a call is over
_MOST_KNOWN = 1024
_ONCE_BYTES = 64 << 20
"""So much of what was used once is kept for a second use, beside the parts of the last two pickles:
what is kept stays in the pool."""

_logger = logging.getLogger("muster")


@dataclass(frozen=True)
class Sharing:
    """What tasks get of large arguments. `least_bytes`: smaller buffers travel inside messages.
    `read_only_bytes`: larger arrays are read-only, the others copies of the task's own (None: all
    are); `copied`: all are copies, made page by page where they are written to. `mapped`: large
    arrays are of type numpy.memmap."""

    least_bytes: int = LEAST_BYTES
    read_only_bytes: int | None = READ_ONLY_BYTES
    copied: bool = False
    mapped: bool = False


class NoRoom(MusterError):
    """The pool has no room for a large part of a pickle, nor has a message."""


class Space:
    """The blobs of a session. Threads: any."""

    def __init__(self, producer: _native.Producer, one_machine: bool) -> None:
        """`one_machine`: the whole pool is on this one, and sees its files."""
        self._producer = producer
        self.one_machine = one_machine

    @property
    def available(self) -> bool:
        """False: everything has to travel inside messages."""
        try:
            return self._producer.has_blobs()
        except _native.Error:
            return False  # it was closed: the push says so

    def scatter(self, data: Any, is_over: Callable[[], bool] = lambda: False) -> Blob:
        """Puts contiguous bytes into the pool, unless they are there. Blocks while they are copied,
        and until tasks have made room for them or nobody needs them any more (`is_over`). Ctrl-C
        interrupts. Raises muster._native.Error, and TaskCancelled when it is over."""
        while True:
            blob = self._producer.scatter(data, _WAIT_SECONDS)
            if blob is not None:
                return blob
            if is_over():
                raise TaskCancelled("the call ended while its arguments waited for room")

    def scatter_file(self, path: str, offset: int, size: int) -> Blob:
        return self._producer.scatter_file(path, offset, size)


class _Known:
    """A part that was put into the pool, and what it was."""

    __slots__ = ("blob", "dump", "fingerprint", "owner", "size", "uses")

    def __init__(self, blob: Blob, size: int, owner: Any, fingerprint: int, dump: int) -> None:
        self.blob = blob
        self.size = size
        self.owner = owner  # alive, or a weak reference: the key holds its address
        self.fingerprint = fingerprint
        self.dump = dump
        self.uses = 0


class Blobs:
    """The blobs of one call. What it knows it keeps in the pool until `close`."""

    def __init__(
        self,
        space: Space | None,
        sharing: Sharing,
        *,
        repeated: bool = True,
        scattered: Iterable[object] = (),
    ) -> None:
        """`space` None: there are no blobs. `repeated`: there may be many pickles with the same
        parts. `scattered`: objects that are sent once, wherever they are a part of a pickle."""
        self.sharing = sharing
        self.sent_bytes = 0
        """Of all blobs that were not known when a pickle needed them."""
        self.space = space
        self.scattered: dict[int, tuple[object, Scattered | None]] = {
            id(obj): (obj, None) for obj in scattered
        }
        self._repeated = repeated
        self._known: OrderedDict[Any, _Known] = OrderedDict()
        self._gone: deque[Any] = deque()  # keys whose owner is gone, and its address free again
        self._files: OrderedDict[tuple[str, int, int], Blob] = OrderedDict()
        self._dump = 0
        self._began = time.monotonic()
        self._read_seconds = 0.0
        self._refused = False
        self._over = False

    def begin_pickle(self) -> None:
        """Another one begins."""
        self._dump += 1
        if self._known:
            self._trim()

    @property
    def available(self) -> bool:
        return self.space is not None and not self._refused and self.space.available

    @property
    def one_machine(self) -> bool:
        return self.space is None or self.space.one_machine

    def handle_of(self, obj: object) -> Scattered | None:
        """For one of the `scattered`."""
        known = self.scattered.get(id(obj))
        if known is None:
            return None
        if known[1] is None:
            from muster._data.pickling import scatter

            sharing = replace(self.sharing, read_only_bytes=0, copied=False)
            handle = scatter(obj, Blobs(self.space, sharing, repeated=False))
            known = self.scattered[id(obj)] = obj, handle
        return known[1]

    def end(self) -> None:
        """The call is over: a thread that waits for room gives up. Any thread may call it."""
        self._over = True

    def close(self) -> None:
        """Nothing more will be pickled for the call."""
        self.scattered = {key: (obj, None) for key, (obj, _) in self.scattered.items()}
        self._known.clear()
        self._files.clear()

    def put(self, data: Any, owner: Any) -> Blob | None:
        """Contiguous bytes that `owner` exports. None: they have to stay in the pickle.
        Raises NoRoom, and what ended the session."""
        owner = arrays.owner_of(owner)
        if not self._repeated or isinstance(owner, bytearray):
            return self._sent(self._scatter(data))
        key = (_identity(owner), _native.address_of(data), memoryview(data).nbytes)
        known = self._find(key)
        blob = None
        if known is not None:
            blob = self._again(known, data, owner)
            if blob is known.blob:
                return self._used(key, known)
        return self._remember(
            key, blob or self._scatter(data), owner, lambda: _native.fingerprint(data)
        )

    def put_scattered_elements(self, array: Any) -> Blob | None:
        """A numpy array with gaps between its elements, in order C without them."""
        import numpy

        owner = arrays.owner_of(array)
        key = (_identity(owner), arrays.address_of(array), array.shape, array.strides, array.dtype)
        known = self._find(key)
        if known is not None and not self._may_read(known.size, 10 * _SECONDS_PER_BYTE):
            if known.fingerprint == _sample_elements(array):
                return self._used(key, known)
            known = None
        began = time.monotonic()
        blob = self._scatter(arrays.flat_bytes(numpy.ascontiguousarray(array)))
        if not self._repeated:
            return self._sent(blob)
        if known is not None:
            self._read_seconds += time.monotonic() - began
            if blob is not None and blob.id == known.blob.id:
                return self._used(key, known)
        return self._remember(key, blob, owner, lambda: _sample_elements(array))

    def put_file(self, path: str, offset: int, size: int) -> Blob | None:
        key = path, offset, size
        blob = self._files.get(key)
        if blob is None and self.space is not None:
            try:
                blob = self.space.scatter_file(path, offset, size)
            except _native.Error as error:
                _logger.debug("%s goes by its name alone: %s", path, error.args[2:3])
                return None
            if self._repeated:
                self._files[key] = blob
                if len(self._files) > _MOST_KNOWN:
                    self._files.popitem(last=False)
        return blob

    def _scatter(self, data: Any) -> Blob | None:
        assert self.space is not None
        for attempt in range(2):
            try:
                return self.space.scatter(data, lambda: self._over)
            except _native.Error as error:
                code, text = error.args[0], error.args[2]
                if code == "out_of_space":
                    if attempt == 0 and self._known:
                        self._known.clear()  # kept for a next use, and perhaps in the way
                        continue
                    if memoryview(data).nbytes >= _native.MAX_BODY_BYTES:
                        raise NoRoom(text) from None
                    return None  # a message takes it, unless it gets too much
                if code == "unusable":
                    self._refused = True
                    _logger.info("large arguments travel inside messages: %s", text)
                    return None
                from muster._data import failures

                raise failures.rebuild(error.args) from None  # type: ignore[arg-type]
        return None

    def _again(self, known: _Known, data: Any, owner: Any) -> Blob | None:
        """The same blob if its content is as it was; else another one, or None."""
        if isinstance(owner, bytes):
            return known.blob
        if not self._may_read(known.size, _SECONDS_PER_BYTE):
            return known.blob if known.fingerprint == _native.fingerprint(data) else None
        began = time.monotonic()
        blob = self._scatter(data)
        if known.size > _READ_BYTES:
            self._read_seconds += time.monotonic() - began
        if blob is not None and blob.id == known.blob.id:
            return known.blob
        return blob

    def _may_read(self, size: int, seconds_per_byte: float) -> bool:
        """Whether all of a part that comes again may be looked at."""
        allowed = _READ_SECONDS + _READ_SHARE * (time.monotonic() - self._began)
        return size <= _READ_BYTES or self._read_seconds + size * seconds_per_byte <= allowed

    def _used(self, key: Any, known: _Known) -> Blob:
        known.uses += 1
        known.dump = self._dump
        self._known[key] = known  # it may have been forgotten meanwhile
        self._known.move_to_end(key)
        return known.blob

    def _remember(self, key: Any, blob: Blob | None, owner: Any, fingerprint: Any) -> Blob | None:
        if self._sent(blob) is None:
            return None
        assert blob is not None
        holder = owner
        if not _is_temporary(owner):
            gone = self._gone
            with contextlib.suppress(TypeError):  # `bytes` has no weak references: it is kept
                holder = weakref.ref(owner, lambda _: gone.append(key))
        self._known.pop(key, None)
        self._known[key] = _Known(blob, blob.size, holder, fingerprint(), self._dump)
        return blob

    def _sent(self, blob: Blob | None) -> Blob | None:
        self.sent_bytes += 0 if blob is None else blob.size
        return blob

    def _find(self, key: Any) -> _Known | None:
        while self._gone:
            self._known.pop(self._gone.popleft(), None)
        return self._known.get(key)

    def _trim(self) -> None:
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        if len(self._known) == 1:
            return
        once = [(key, known) for key, known in self._known.items() if not known.uses]
        size = sum(known.size for _, known in once)
        for key, known in once:
            if size <= _ONCE_BYTES or known.dump >= self._dump - 2:
                break
            size -= known.size
            self._known.pop(key, None)


def _is_temporary(owner: Any) -> bool:
    """Arrow makes a new object for a buffer each time that one looks at it: these are kept, so
    that an address goes on to mean the same buffer."""
    return type(owner).__module__.partition(".")[0] == "pyarrow"


def _identity(owner: Any) -> int:
    return 0 if _is_temporary(owner) else id(owner)


def _sample_elements(array: Any) -> int:
    """As `_native.fingerprint`, of elements that do not lie together."""
    each = max(1, 4096 // array.dtype.itemsize)
    step = max(each, array.size // 65)
    blocks = [array.flat[start : start + each].tobytes() for start in range(0, array.size, step)]
    blocks.append(array.flat[max(0, array.size - each) :].tobytes())
    return _native.fingerprint(b"".join(blocks))
