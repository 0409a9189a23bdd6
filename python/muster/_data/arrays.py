"""How numpy arrays go into pickles and come out again, when they are large or memory-mapped.

numpy itself hands over contiguous arrays of most types. Here are the others: with gaps between
their elements, of dates, of numpy's own subclasses. An array that is mapped from a file goes as the
name of the file and is mapped again, where the file is.

Threads: any. numpy is not imported for this: where it is not loaded there are no arrays.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muster._data.portable import Place, Reduced

if TYPE_CHECKING:
    from muster._data.portable import Parts

shares_files: Callable[[], bool] = lambda: True  # noqa: E731 (a runner says better)
"""Whether the files of the client are those of this process."""


by_name: set[Any] = set()
kinds_by_name: set[Any] = set()
"""Functions and classes in the pickle of every array, and their types: they can be imported, and
looking at each for that took longer than all the rest."""


def numpy_module() -> Any:
    """None: nobody has imported it."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and not by_name and hasattr(numpy, "zeros"):  # else it is being imported
        by_name.update((load_array, load_mapped, load_strided, load_file, view_as))
        by_name.update((numpy.dtype, numpy.zeros(1).__reduce_ex__(5)[0]))
        kinds_by_name.update(map(type, by_name))
    return numpy


def reduce_array(array: Any, parts: Parts, numpy: Any) -> Any:
    """For a pickler's reducer_override; NotImplemented: numpy's own way is right."""
    kind = type(array)
    if array.base is not None and not array.dtype.hasobject:
        reduced = _reduce_mapped(array, parts, numpy)
        if reduced is not None:
            return reduced
    if kind is numpy.memmap:  # of no file that could be mapped again
        array = array.view(numpy.ndarray)
    elif kind is not numpy.ndarray and kind not in (numpy.matrix, numpy.recarray):
        return NotImplemented
    if array.nbytes < parts.least_bytes or array.dtype.hasobject or not array.dtype.itemsize:
        if type(array) is not numpy.ndarray:
            return NotImplemented
        if parts.writable and not array.flags.writeable:
            return array.copy("K").__reduce_ex__(5)
        return NotImplemented if kind is numpy.ndarray else array.__reduce_ex__(5)
    if type(array) is not numpy.ndarray:
        return view_as, (array.view(numpy.ndarray), kind)
    place = parts.put_array(array)
    if place is None:
        return NotImplemented
    make = load_array
    if parts.large_bytes is not None and place.size >= parts.large_bytes:
        make = load_mapped
    return make, (parts.token(place), array.dtype, array.shape, _stored_order(array))


def _stored_order(array: Any) -> str:
    """Of the elements where `Parts.put_array` has put them."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def load_array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    """An array over `buffer`, which can be written to if that can."""
    import numpy

    make: Any = numpy.ndarray
    return make(shape, dtype, buffer, order=order)


def load_mapped(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    """As load_array, but a numpy.memmap: what joblib's users get for large arrays."""
    import numpy

    make: Any = numpy.ndarray.__new__
    array = make(numpy.memmap, shape, dtype, buffer, order=order)
    array._mmap = buffer
    array.mode = "c" if array.flags.writeable else "r"
    array.offset = 0
    return array


def view_as(array: Any, kind: Any) -> Any:
    return array.view(kind)


def flat_bytes(array: Any) -> Any:
    """The memory of a contiguous array, as an array of bytes."""
    import numpy

    flat = array if array.flags.c_contiguous else array.T
    return flat.reshape(-1).view(numpy.uint8)


def owner_of(exporter: Any) -> Any:
    """The object whose memory a buffer or an array is a part of."""
    numpy = numpy_module()
    while True:
        if isinstance(exporter, memoryview):
            inner = exporter.obj
        elif numpy is not None and isinstance(exporter, numpy.ndarray):
            inner = exporter.base
        else:
            return exporter
        if inner is None:
            return exporter
        exporter = inner


def address_of(array: Any) -> int:
    """Of the first element of an array."""
    return int(array.__array_interface__["data"][0])


# --- Mapped from files ---


def _file_behind(array: Any, numpy: Any) -> Any:
    """The numpy.memmap that made the map which `array` is a part of, or None."""
    part = array
    while isinstance(part, numpy.ndarray):
        if isinstance(part.base, mmap.mmap):
            return part if isinstance(part, numpy.memmap) else None
        part = part.base
    return None


def _bounds(array: Any) -> tuple[int, int]:
    """The addresses of its first byte and of the byte after its last one."""
    low = high = address_of(array)
    for length, stride in zip(array.shape, array.strides):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.dtype.itemsize


def _reduce_mapped(array: Any, parts: Parts, numpy: Any) -> Any:
    """None: it goes by content."""
    whole = _file_behind(array, numpy)
    name = getattr(whole, "filename", None)
    if name is None or array.size == 0:
        return None
    path = os.path.abspath(name)
    if not os.path.exists(path):
        return None
    low, high = _bounds(array)
    mode = "r+" if whole.mode == "w+" else whole.mode
    offset, size = whole.offset + low - address_of(whole), high - low
    found = parts.put_file(path, offset, size, mode, array)
    if found is None:
        return None
    first = address_of(array) - low
    content = None
    if isinstance(found, Place):
        content = Reduced((load_strided, (parts.token(found), *_layout(array), first)))
    elif isinstance(found, numpy.ndarray):
        content = Reduced(_reduce_content(found, parts, numpy))
    flags = array.flags
    order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else ""
    return load_file, (path, offset, size, mode, *_layout(array), first, order, content)


def _layout(array: Any) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    return array.dtype, array.shape, array.strides


def _reduce_content(array: Any, parts: Parts, numpy: Any) -> Any:
    place = parts.put_array(array) if array.nbytes >= parts.least_bytes else None
    if place is None:
        return numpy.array(array).__reduce_ex__(5)
    return load_array, (parts.token(place), array.dtype, array.shape, _stored_order(array))


def load_strided(
    buffer: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], first: int
) -> Any:
    import numpy

    return numpy.ndarray(shape, dtype, buffer, first, strides)


def load_file(
    path: str,
    offset: int,
    size: int,
    mode: str,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    first: int,
    order: str,
    content: Any,
) -> Any:
    """The part of a file that an argument was mapped from. Where the files are others, it is
    `content`, which cannot be written to if that was to change the file. Raises FileNotFoundError
    that says what to do."""
    import numpy

    # The worker may be another user's, who cannot read the file.
    if content is not None and not (shares_files() and os.access(path, os.R_OK)):
        if mode != "c":
            content.flags.writeable = False
        return content
    kind: Any = numpy.memmap
    try:
        part = kind(path, numpy.uint8, mode, offset, (size,))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"node {os.uname().nodename} does not have {path}, which an argument is "
            "memory-mapped from; put the file where every node sees it, or pass a copy of the "
            "array (numpy.array)"
        ) from None
    if order:
        return part.view(dtype).reshape(shape, order=order)
    return numpy.ndarray(shape, dtype, part, first, strides)
