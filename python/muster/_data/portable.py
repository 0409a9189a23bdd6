"""Pickles whose large parts stay outside of them: how such a pickle is made, travels and is loaded.

`Parts` take the large parts while a pickler runs: buffers of the pickle protocol 5, and `bytes`,
`bytearray` and `str`, which the pickler hands over one by one as it writes. What is left is a small
`stream`, and a list of places where the parts are. A `Portable` is all of that together; it can be
a part of another one. In a payload it is either a plain pickle, which begins with the byte 0x80, or
the byte 0, the length of a head, the head (see `encode`) and the stream.

Threads: any; Parts belong to one pickle.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Union

from muster import _native

if TYPE_CHECKING:
    from muster._data.scattered import Scattered
    from muster._native import Blob, Buffer

PROTOCOL = 5
STREAMED_BYTES = 1 << 16
"""Single values of this size and more are written past the pickler's own buffer (CPython's frame
size), so these alone can be told apart."""
_LARGE_STREAM_BYTES = _native.MAX_BODY_BYTES
"""A stream of this size is stored as one more part: a message should stay small."""

_PACKED = 0
_HEAD = struct.Struct("<BI")

Readable = Any  # contiguous bytes: bytes, memoryview, muster._native.Buffer


class Packed(NamedTuple):
    """What travels: bytes, and the blobs that they need, in order."""

    body: Readable
    blobs: Sequence[Blob] = ()


Result = Union[bytes, "Buffer", "tuple[bytes | Buffer, Sequence[Blob]]"]
"""As an outcome brings it: its bytes, with the blobs that belong to them if there are any."""


class Place(NamedTuple):
    """Where a part is: which of the blobs that the parts or the payload have, and where in it."""

    blob: int
    offset: int
    size: int
    copied: bool
    """A process that loads it gets a copy of its own (on write); else it is read-only."""


class Parts:
    """Takes the large parts of one pickle; subclasses say where they go (`put`)."""

    least_bytes = STREAMED_BYTES
    """Smaller buffers stay in the stream."""
    large_bytes: int | None = None
    """Arrays of this size and more are loaded as `numpy.memmap`, as joblib's users know it."""
    writable = False
    """Arrays can be written to where they are loaded, whatever they were."""
    named = False
    """The pickler gives persistent ids, which are objects that stand for others."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._tokens: dict[int, tuple[bytearray, Place]] = {}

    def put(self, data: Any, owner: object) -> Place | None:
        """Stores contiguous bytes; `owner` is the object that they belong to. None: there is no
        place for them, they have to stay in the stream."""
        return None

    def put_array(self, array: Any) -> Place | None:
        """As `put`, for a numpy array of any layout; see `arrays`."""
        return None

    def put_file(self, path: str, offset: int, size: int, mode: str, array: Any) -> Any:
        """For an array that is mapped from that part of a file. None: it goes by content. False: it
        goes by the file's name alone. Else also by what stands for it where the file is not: the
        place of that part of the file, or `array` for its content as it is now."""
        return None

    def nest_scattered(self, handle: Scattered) -> Any:
        """What the pickle has of a handle."""
        return handle.__reduce__()

    def handle_of(self, obj: Any) -> Any:
        """The pickler's persistent_id, for parts with `named`: what stands for `obj`, or None."""
        return None

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer_callback; True leaves the buffer in the stream."""
        view = memoryview(buffer)
        if self._tokens and (known := self._tokens.get(id(view.obj))) is not None:
            self.places.append(known[1])
            return False
        if view.nbytes < self.least_bytes or not view.contiguous:
            return True
        place = self.put(buffer.raw(), view.obj)
        if place is None:
            return True
        self.places.append(place)
        return False

    def token(self, place: Place) -> pickle.PickleBuffer:
        """Stands for what is at `place` when it is pickled."""
        token = bytearray(1)
        self._tokens[id(token)] = token, place
        return pickle.PickleBuffer(token)


class Reduced:
    """Is pickled as what was made of another object."""

    def __init__(self, reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


class Pickler(Protocol):
    def dump(self, obj: object, /) -> object: ...


PicklerFactory = Callable[[Any, Parts], Pickler]


class _Stream:
    """The file that a pickler writes to. Large values arrive as they are, each after its opcode and
    its length, and go to `parts` if these take them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.chunks: list[bytes] = []
        self.size = 0
        self.cuts: list[tuple[int, Place]] = []

    def write(self, chunk: Any) -> int:
        size = memoryview(chunk).nbytes
        if size >= STREAMED_BYTES and self._is_value(size):
            place = self._parts.put(chunk, chunk)
            if place is not None:
                self.cuts.append((self.size, place))
                return size
        self.chunks.append(chunk if type(chunk) is bytes else bytes(chunk))
        self.size += size
        return size

    def _is_value(self, size: int) -> bool:
        """Not one of the pickler's own frames. A mistake would do no harm."""
        before = self.chunks[-1] if self.chunks else b""
        return before[-8:] == size.to_bytes(8, "little") or (
            before[-4:] == (size & 0xFFFFFFFF).to_bytes(4, "little")
        )


class Portable:
    """See the file's head. Made by `make`, or by loading one; `load` works only for the latter."""

    __slots__ = ("buffers", "cuts", "named", "stream")

    def __init__(
        self,
        stream: Readable,
        buffers: Sequence[Any] = (),
        cuts: Sequence[tuple[int, int]] = (),
        named: bool = False,
    ) -> None:
        """`buffers`: places, or what was found there; first those of the pickler, then those that
        were cut out of the stream, and the stream itself if it is empty here. `cuts`: where in the
        stream which buffer was. `named`: the pickle has persistent ids, which are their objects."""
        self.stream = stream
        self.buffers = buffers
        self.cuts = cuts
        self.named = named

    def load(self) -> Any:
        """What it is the pickle of. Raises what unpickling raises."""
        buffers = iter(self.buffers)
        if not self.cuts and not self.named:
            return pickle.loads(self._whole_stream, buffers=buffers)
        unpickler = _Unpickler if self.named else pickle.Unpickler
        return unpickler(self.file(), buffers=buffers).load()

    def file(self) -> _Reader:
        """The pickle with everything that was cut out of it."""
        cuts = [(at, self.buffers[index]) for at, index in self.cuts]
        return _Reader(self._whole_stream, cuts)

    @property
    def _whole_stream(self) -> Readable:
        return self.buffers[-1] if self.buffers and not len(self.stream) else self.stream


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, named: Any) -> Any:
        return named


class _Reader:
    """A stream with the values that were cut out of it, as a file."""

    def __init__(self, stream: Readable, cuts: list[tuple[int, Any]]) -> None:
        self._parts = _uncut(memoryview(stream), cuts)
        self._part = next(self._parts)
        self._position = 0

    def read(self, size: int) -> bytes | memoryview:
        found = self._next(size)
        if len(found) == size:
            return found
        parts = [found]
        missing = size - len(found)
        while missing and (found := self._next(missing)):
            parts.append(found)
            missing -= len(found)
        return b"".join(parts)

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        filled = 0
        while filled < len(view) and (found := self._next(len(view) - filled)):
            view[filled : filled + len(found)] = found
            filled += len(found)
        return filled

    def readline(self) -> bytes:
        line = bytearray()
        while found := self._next(1):
            line += found
            if found[0] == 0x0A:
                break
        return bytes(line)

    def _next(self, most: int) -> memoryview:
        while self._position == len(self._part):
            part = next(self._parts, None)
            if part is None:
                return memoryview(b"")
            self._part, self._position = part, 0
        found = self._part[self._position : self._position + most]
        self._position += len(found)
        return found


def _uncut(stream: memoryview, cuts: list[tuple[int, Any]]) -> Iterator[memoryview]:
    position = 0
    for at, value in cuts:
        yield stream[position:at]
        yield memoryview(value).cast("B")
        position = at
    yield stream[position:]


def make(obj: object, make_pickler: PicklerFactory, parts: Parts) -> Portable:
    """Pickles `obj`. Its places are those of `parts`. Raises what pickling raises."""
    file = _Stream(parts)
    make_pickler(file, parts).dump(obj)
    buffers = parts.places
    cuts = [(at, len(buffers) + index) for index, (at, _) in enumerate(file.cuts)]
    buffers = [*buffers, *(place for _, place in file.cuts)]
    stream = file.chunks[0] if len(file.chunks) == 1 else b"".join(file.chunks)
    if buffers and len(stream) >= _LARGE_STREAM_BYTES:
        place = parts.put(stream, stream)
        if place is not None:
            stream = b""
            buffers.append(place._replace(copied=False))
    return Portable(stream, buffers, cuts, parts.named)


def encode(portable: Portable, prefix: bytes = b"") -> bytes:
    """The payload's body for a Portable of places, after `prefix`."""
    if not portable.buffers and not portable.named:
        return b"".join((prefix, portable.stream)) if prefix else bytes(portable.stream)
    places = [tuple(place) for place in portable.buffers]
    head = pickle.dumps((places, list(portable.cuts), portable.named), PROTOCOL)
    return b"".join((prefix, _HEAD.pack(_PACKED, len(head)), head, portable.stream))


def decode(packed: Packed) -> Portable:
    """The opposite of `encode`, with the parts mapped. Raises when a blob cannot be opened."""
    body, blobs = packed
    view = memoryview(body)
    if len(view) < _HEAD.size or view[0] != _PACKED:
        return Portable(body)
    _, size = _HEAD.unpack_from(view)
    places, cuts, named = pickle.loads(view[_HEAD.size : _HEAD.size + size])
    buffers = [
        blobs[number].map(offset, length, copied) for number, offset, length, copied in places
    ]
    return Portable(view[_HEAD.size + size :], buffers, cuts, named)
