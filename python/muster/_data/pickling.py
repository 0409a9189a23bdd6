"""How functions, arguments and results become bytes and come back.

Plain data takes the standard library's pickler, everything else cloudpickle, which sends by value
what another interpreter cannot import: what `__main__` defines, lambdas, closures. Large parts
become blobs, where there are any (see `blobs`).
Threads: any.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import cloudpickle

from muster import _native
from muster._data import arrays
from muster._data.blobs import Blobs, NoRoom
from muster._data.offender import describe_offender
from muster._data.parts import RESULT_BYTES, ArgumentParts, ResultParts, digest_of
from muster._data.portable import (
    PROTOCOL,
    STREAMED_BYTES,
    Packed,
    Parts,
    PicklerFactory,
    Portable,
    Readable,
    Reduced,
    decode,
    encode,
)
from muster._data.portable import make as make_portable
from muster._data.scattered import Scattered
from muster.errors import BrokerLost, PoolNotActive, SerializationError, TaskCancelled

if TYPE_CHECKING:
    from muster._native import Blob

_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})
_CONTAINERS = frozenset({tuple, list, dict})
_PLAIN_OR_CONTAINER = _PLAIN | _CONTAINERS
_INNER_CONTAINERS = 64
"""So many are looked into; beyond, the look costs more than cloudpickle does."""
_JOINED_BYTES = 1 << 16
"""Larger single values are not pickled into a copy first."""


class DumpError(SerializationError):
    """Raised by `dumps`; on a runner, the failure of a task's result."""


class LoadError(SerializationError):
    """Raised by `loads`; on a runner, the failure to load a function or its arguments."""


def _is_plain(obj: Any, depth: int) -> bool:
    kind = type(obj)
    if kind in _PLAIN:
        return (kind is not bytes and kind is not str) or len(obj) < _JOINED_BYTES
    if kind is dict:
        return _are_plain(obj, depth) and _are_plain(obj.values(), depth)
    return (kind is tuple or kind is list) and _are_plain(obj, depth)


def _are_plain(items: Any, depth: int) -> bool:
    kinds = set(map(type, items))
    if kinds <= _PLAIN:
        return True
    if depth == 0 or not kinds <= _PLAIN_OR_CONTAINER or len(items) > _INNER_CONTAINERS:
        return False
    return all(_is_plain(item, depth - 1) for item in items if type(item) in _CONTAINERS)


class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Hands the large parts over to its Parts."""

    def __init__(self, file: Any, parts: Parts) -> None:
        super().__init__(file, PROTOCOL, parts.take)
        self.parts = parts
        self._numpy = arrays.numpy_module()
        self._arrays: Any = () if self._numpy is None else self._numpy.ndarray
        if parts.named:
            self.persistent_id = parts.handle_of

    def reducer_override(self, obj: Any) -> Any:
        """Asked by the pickler for every object that is not of a built-in type."""
        kind = type(obj)
        if kind in arrays.kinds_by_name and obj in arrays.by_name:
            return NotImplemented
        if isinstance(obj, self._arrays):
            return arrays.reduce_array(obj, self.parts, self._numpy)
        if kind is Scattered:
            return self.parts.nest_scattered(obj)
        return super().reducer_override(obj)


def make(make_pickler: PicklerFactory, obj: object, what: str, parts: Parts) -> Portable:
    """As `portable.make`. Raises SerializationError that names the part of `obj` that cannot be
    pickled; `obj` is `what` ("the arguments") there. Raises NoRoom."""
    try:
        return make_portable(obj, make_pickler, parts)
    except (BrokerLost, NoRoom, PoolNotActive, TaskCancelled):
        raise
    except Exception as exc:
        if type(exc) is SerializationError:
            raise  # it says itself what is wrong
        raise DumpError(describe_offender(obj, what, exc, cloudpickle.dumps)) from exc


def pack_with(make_pickler: PicklerFactory, obj: object, what: str, blobs: Blobs) -> Packed:
    """For a payload of the call that `blobs` belongs to. Raises SerializationError."""
    if _is_plain(obj, 2):
        data = pickle.dumps(obj, PROTOCOL)
        if len(data) < STREAMED_BYTES:
            return Packed(data)
    parts = ArgumentParts(blobs)
    return parts.packed(make(make_pickler, obj, what, parts))


def pack(obj: object, what: str, blobs: Blobs) -> Packed:
    """As `pack_with`, with nothing special about it."""
    return pack_with(Pickler, obj, what, blobs)


def pack_items(
    items: list[Any], what: str, blobs: Blobs, make_pickler: PicklerFactory = Pickler
) -> Packed:
    """For the items of a chunk; `unpack_items` gives them. What one item does to its copies of
    large arrays no other one sees, though the same array is in many."""
    parts = ArgumentParts(blobs)
    if len(items) > 1 and blobs.sharing.copied and not _is_plain(items, 2):
        portable = make(make_pickler, items, what, parts)
        if not portable.buffers:
            return parts.packed(portable)
        apart = ArgumentParts(blobs)
        items = [_pack_apart(item, what, apart, blobs, make_pickler) for item in items]
        return apart.packed(make(make_pickler, items, what, apart))
    return pack_with(make_pickler, items, what, blobs)


def _pack_apart(
    item: Any, what: str, outer: ArgumentParts, blobs: Blobs, make_pickler: PicklerFactory
) -> Reduced:
    parts = ArgumentParts(blobs)
    portable = make(make_pickler, item, what, parts)
    return Reduced(outer.nest(portable, parts.blobs))


def unpack_items(packed: Packed, what: str) -> Iterable[Any]:
    """What `pack_items` packed. Raises SerializationError, now or when it comes to an item."""
    items: list[Any] = unpack(packed, what)
    if items and type(items[0]) is Portable:
        return (load(item, what) for item in items)
    return items


make_blob: Callable[[Iterable[Any]], Blob] | None = None
"""In a process that runs tasks, for the large parts of results: a blob of such parts."""

_thread = threading.local()


def keep_inline(inline: bool) -> None:
    """Whether results of this thread's tasks have no blobs from now on, because whoever wants them
    cannot read any."""
    _thread.inline = inline


def pack_result(value: object, prefix: bytes) -> Packed:
    """What a task returns, after `prefix`. Raises SerializationError, and MusterError when there is
    no room for it."""
    if _is_plain(value, 2):
        data = pickle.dumps(value, PROTOCOL)
        if len(data) < RESULT_BYTES:
            return Packed(prefix + data)
    to_blob = None if getattr(_thread, "inline", False) else make_blob
    parts = ResultParts(available=to_blob is not None)
    portable = make(Pickler, value, "the result", parts)
    blobs = [to_blob(contents) for contents in parts.contents] if to_blob else []
    return Packed(encode(portable, prefix), blobs)


def scatter(obj: object, blobs: Blobs) -> Scattered:
    """See `pool.scatter`; `blobs` is for this alone."""
    parts = ArgumentParts(blobs)
    portable = make(Pickler, obj, "the object", parts)
    if len(portable.stream) >= STREAMED_BYTES:
        place = parts.put(portable.stream, portable.stream)
        if place is not None:
            portable.stream = b""
            portable.buffers = [*portable.buffers, place]
    key = digest_of(portable, parts.blobs)
    return Scattered(portable, parts.blobs, key, blobs.space, type(obj).__name__)


def dumps(obj: object, what: str) -> bytes:
    """A pickle with everything in it. Raises SerializationError."""
    if _is_plain(obj, 2):
        return pickle.dumps(obj, PROTOCOL)
    return encode(make(Pickler, obj, what, Parts()))


def unpack(packed: Packed, what: str = "the data of a task") -> Any:
    """What was packed. Raises SerializationError that names what is missing."""
    try:
        portable = decode(packed)
    except Exception as exc:
        raise LoadError(f"cannot load {what} on {_node()}: {exc}") from exc
    return load(portable, what)


def loads(buffer: Readable, what: str = "the data of a task") -> Any:
    """As `unpack`, of what `dumps` returned."""
    return load(Portable(buffer), what)


def load(portable: Portable, what: str) -> Any:
    """What it is the pickle of. Raises SerializationError that names what is missing."""
    try:
        return portable.load()
    except Exception as exc:
        raise LoadError(_describe_load_failure(portable, what, exc)) from exc


class _Anything:
    """Stands for every object while `_Recorder` reads a pickle: it takes whatever comes."""

    def __new__(cls, *_: object, **__: object) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Anything:
        return self

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    append = extend = add = update = __call__


class _Recorder(pickle.Unpickler):
    """Reads a pickle for the names in it alone, without making any object."""

    missing: tuple[str, str] | None = None

    def find_class(self, module: str, name: str) -> Any:
        try:
            super().find_class(module, name)
        except BaseException:
            self.missing = module, name
            raise
        return _Anything

    def persistent_load(self, _: Any) -> Any:
        return _Anything()


def _node() -> str:
    node = os.environ.get(_native.NODE_VARIABLE)
    return "this machine" if node is None else f"node {node}"


def _describe_load_failure(portable: Portable, what: str, exc: Exception) -> str:
    node = _node()
    detail = str(exc) or type(exc).__name__
    if not isinstance(exc, (ImportError, AttributeError)):
        return f"cannot load {what} on {node}: {type(exc).__name__}: {detail}"
    recorder = _Recorder(portable.file(), buffers=itertools.repeat(b""))
    with contextlib.suppress(Exception):  # it fails as the real one did: the name is of interest
        recorder.load()
    text = f"cannot load {what} on {node}: {detail}"
    if recorder.missing:
        module, name = recorder.missing
        text += f" (for {module}.{name})"
    if isinstance(exc, ModuleNotFoundError):
        text += f"; {how_to_get(exc.name)}"
    elif recorder.missing:
        text += "; the module there is of another version, or not the one that you mean"
    return text


def how_to_get(module: str | None) -> str:
    """What to do about a module that a node lacks."""
    name = (module or "the module").partition(".")[0]
    return (
        f"install it there, on machines reached by ssh with Image(pip=[{name!r}]), or send your "
        f"own module along with Image(includes=[{name!r}]) or "
        f"cloudpickle.register_pickle_by_value({name})"
    )
