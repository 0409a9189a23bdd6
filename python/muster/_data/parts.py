"""Where the large parts of a pickle go: of arguments into the pool, of results to the client.

Threads: Parts belong to one pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from muster import _native
from muster._data import arrays
from muster._data.blobs import Blobs
from muster._data.portable import Packed, Parts, Place, Portable, encode

if TYPE_CHECKING:
    from muster._data.scattered import Scattered
    from muster._native import Blob

RESULT_BYTES = _native.RESULT_BLOB_BYTES
"""Smaller parts of results stay in the stream."""
MOST_BLOBS = _native.MAX_PAYLOAD_BLOBS // 2
"""Of one payload: half of what the protocol allows. Further parts stay in the stream."""

_OWN_BLOB_BYTES = 1 << 20  # a result's parts from here on are blobs of their own
_ALIGNMENT = 64


class ArgumentParts(Parts):
    """Of what goes to tasks."""

    def __init__(self, blobs: Blobs) -> None:
        super().__init__()
        blobs.begin_pickle()
        self._blobs_of_call = blobs
        sharing = blobs.sharing
        self.least_bytes = sharing.least_bytes
        self._copied = sharing.copied
        self._read_only_bytes = sharing.read_only_bytes
        self.large_bytes = sharing.read_only_bytes if sharing.mapped else None
        self.named = bool(blobs.scattered)
        self._numbers: dict[bytes, int] = {}
        self.blobs: list[Blob] = []

    def put(self, data: Any, owner: object) -> Place | None:
        if not self._has_room():
            return None
        return self._place(self._blobs_of_call.put(data, owner))

    def put_array(self, array: Any) -> Place | None:
        if not self._has_room():
            return None
        if array.flags.forc:
            return self._place(self._blobs_of_call.put(arrays.flat_bytes(array), array))
        return self._place(self._blobs_of_call.put_scattered_elements(array))

    def put_file(self, path: str, offset: int, size: int, mode: str, array: Any) -> Any:
        call = self._blobs_of_call
        if call.one_machine:
            return False
        if mode == "r+" or array.nbytes < self.least_bytes or not self._has_room():
            return array
        blob = call.put_file(path, offset, size)
        if blob is None:
            return False
        return Place(self.number(blob), 0, size, mode == "c")

    def number(self, blob: Blob) -> int:
        """Of a blob among those of the payload."""
        known = self._numbers.get(blob.id)
        if known is None:
            known = self._numbers[blob.id] = len(self.blobs)
            self.blobs.append(blob)
        return known

    def nest(self, portable: Portable, blobs: Sequence[Blob]) -> Any:
        """What a Portable, whose places are among `blobs`, is pickled as."""
        buffers = [
            self.token(place._replace(blob=self.number(blobs[place.blob])))
            for place in portable.buffers
        ]
        return Portable, (portable.stream, buffers, portable.cuts, portable.named)

    def nest_scattered(self, handle: Scattered) -> Any:
        return handle.nest(self, self._blobs_of_call.space)

    def handle_of(self, obj: Any) -> Any:
        return self._blobs_of_call.handle_of(obj)

    def packed(self, portable: Portable) -> Packed:
        return Packed(encode(portable), self.blobs)

    def _has_room(self) -> bool:
        return len(self.blobs) < MOST_BLOBS and self._blobs_of_call.available

    def _place(self, blob: Blob | None) -> Place | None:
        if blob is None:
            return None
        limit = self._read_only_bytes
        copied = self._copied or limit is None or blob.size < limit
        return Place(self.number(blob), 0, blob.size, copied)


class ResultParts(Parts):
    """Of what comes back: `contents` has what each blob consists of."""

    least_bytes = RESULT_BYTES
    writable = True

    def __init__(self, available: bool = True) -> None:
        """`available`: there are blobs."""
        super().__init__()
        self._available = available
        self.contents: list[list[Any]] = []
        self._joined: int | None = None  # the blob of parts that are too small for their own
        self._joined_bytes = 0

    def put(self, data: Any, owner: object) -> Place | None:
        view = memoryview(data).cast("B")
        size = view.nbytes
        if not self._available or size < RESULT_BYTES or len(self.contents) >= MOST_BLOBS:
            return None
        if size >= _OWN_BLOB_BYTES:
            self.contents.append([view])
            return Place(len(self.contents) - 1, 0, size, True)
        if self._joined is None:
            self._joined = len(self.contents)
            self.contents.append([])
        offset = self._joined_bytes
        padding = -size % _ALIGNMENT
        self.contents[self._joined] += [view, bytes(padding)] if padding else [view]
        self._joined_bytes += size + padding
        return Place(self._joined, offset, size, True)

    def put_array(self, array: Any) -> Place | None:
        if not array.flags.forc:
            import numpy

            array = numpy.ascontiguousarray(array)
        return self.put(arrays.flat_bytes(array), array)


def digest_of(portable: Portable, blobs: Sequence[Blob]) -> bytes:
    """Equal for equal pickles with equal parts; `blobs` are those of its places."""
    digest = blake2b(portable.stream, digest_size=16)
    if portable.buffers:
        places = [(blobs[place.blob].id, *place[1:]) for place in portable.buffers]
        digest.update(repr((places, portable.cuts)).encode())
    return digest.digest()
