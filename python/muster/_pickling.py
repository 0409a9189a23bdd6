"""How functions, arguments and results become bytes and come back.

Threads: any. Plain data takes the standard library's pickler, everything else cloudpickle, which
sends by value what another interpreter cannot import: what `__main__` defines, lambdas, closures.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import threading
import types
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import cloudpickle

from muster._offender import describe_offender
from muster.errors import SerializationError

if TYPE_CHECKING:
    from muster._native import Buffer

PROTOCOL = 5
_DIGEST_BYTES = 16
_KEPT_FUNCTIONS = 512
"""Unpickled functions that a runner keeps: more than one job has, few enough for their closures."""

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


def dumps(obj: object, what: str, prefix: bytes = b"") -> bytes:
    """`prefix` and the pickle of `obj`, which is `what` ("the arguments") in error messages.

    Raises SerializationError that names the part of `obj` that cannot be pickled.
    """
    if _is_plain(obj, 2):
        data = pickle.dumps(obj, PROTOCOL)
        return prefix + data if prefix else data
    return _dump(cloudpickle.CloudPickler, obj, what, prefix)


def _dump(
    make_pickler: Callable[[io.BytesIO, int], Any], obj: object, what: str, prefix: bytes = b""
) -> bytes:
    file = io.BytesIO()
    file.write(prefix)
    try:
        make_pickler(file, PROTOCOL).dump(obj)
    except Exception as exc:
        raise DumpError(describe_offender(obj, what, exc, cloudpickle.dumps)) from exc
    return file.getvalue()


def loads(buffer: bytes | bytearray | memoryview | Buffer, what: str = "the data of a task") -> Any:
    """What `buffer` is the pickle of. Raises SerializationError that names what is missing."""
    try:
        return pickle.loads(buffer)  # type: ignore[arg-type]
    except Exception as exc:
        raise LoadError(_describe_load_failure(buffer, what, exc)) from exc


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


def _describe_load_failure(buffer: Any, what: str, exc: Exception) -> str:
    node = f"node {os.environ['MUSTER_NODE']}" if "MUSTER_NODE" in os.environ else "this machine"
    detail = str(exc) or type(exc).__name__
    if not isinstance(exc, (ImportError, AttributeError)):
        return f"cannot load {what} on {node}: {type(exc).__name__}: {detail}"
    recorder = _Recorder(io.BytesIO(buffer))
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


class SharedFunctions:
    """The functions and classes that the payloads of one job share.

    What goes by value is pickled once, when it is first met, with all that it refers to, and is
    named by its digest from then on; changes to its globals or closure after that stay unseen, and
    in a runner all tasks of the job see one object. Before the first `take_body` the
    payloads only have the digests: put the body in the job that they are for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[int, _Shared | None] = {}
        self._bodies: dict[bytes, bytes] = {}
        self._taken: frozenset[bytes] | None = None
        self._alive: list[object] = []  # an id is only good while its object lives

    def dumps(self, obj: object, what: str) -> bytes:
        """As `muster._pickling.dumps`, with references instead of shared functions."""
        if _is_plain(obj, 2):
            return pickle.dumps(obj, PROTOCOL)
        return _dump(functools.partial(_SharingPickler, functions=self), obj, what)

    def take_body(self) -> dict[bytes, bytes]:
        """All that was met so far, for the body of the job that the payloads belong to."""
        with self._lock:
            self._taken = frozenset(self._bodies)
            return dict(self._bodies)

    def _shared(self, obj: Any, reduce: Callable[[Any], Any]) -> _Shared | None:
        """None: `obj` does not go by value."""
        key = id(obj)
        try:
            return self._by_id[key]
        except KeyError:
            pass
        shared = None
        if reduce(obj) is not NotImplemented:
            data = cloudpickle.dumps(obj, PROTOCOL)
            digest = blake2b(data, digest_size=_DIGEST_BYTES).digest()
            shared = _Shared(digest, data)
        with self._lock:
            if key not in self._by_id:
                self._alive.append(obj)
                self._by_id[key] = shared
                if shared:
                    self._bodies[shared.digest] = shared.data
            return self._by_id[key]

    def _inline(self, shared: _Shared) -> bytes | None:
        taken = self._taken
        return None if taken is None or shared.digest in taken else shared.data


class _Shared:
    __slots__ = ("data", "digest")

    def __init__(self, digest: bytes, data: bytes) -> None:
        self.digest = digest
        self.data = data


class _SharingPickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, protocol: int, functions: SharedFunctions) -> None:
        super().__init__(file, protocol)
        self._functions = functions

    def reducer_override(self, obj: Any) -> Any:
        """Asked by the pickler for every object that is not of a built-in type."""
        if not isinstance(obj, (types.FunctionType, type)) or obj.__module__ == "builtins":
            return super().reducer_override(obj)
        shared = self._functions._shared(obj, super().reducer_override)
        if shared is None:
            return NotImplemented
        return _resolve, (shared.digest, self._functions._inline(shared))


_table_lock = threading.Lock()
_table: dict[bytes, tuple[int, bytes]] = {}
"""Pickles out of job bodies: digest to (jobs that have it, pickle)."""
_resolved: OrderedDict[bytes, object] = OrderedDict()


def add_functions(functions: dict[bytes, bytes]) -> None:
    """Makes the functions of a job's body known to this process, until `remove_functions`."""
    with _table_lock:
        for digest, data in functions.items():
            jobs, _ = _table.get(digest, (0, b""))
            _table[digest] = jobs + 1, data


def remove_functions(functions: dict[bytes, bytes]) -> None:
    """The opposite of `add_functions`, when the job ended."""
    with _table_lock:
        for digest in functions:
            jobs, data = _table.pop(digest, (0, b""))
            if jobs > 1:
                _table[digest] = jobs - 1, data
            else:
                _resolved.pop(digest, None)


def _resolve(digest: bytes, inline: bytes | None) -> object:
    """The function of that digest, unpickled once in this process."""
    with _table_lock:
        if digest in _resolved:
            _resolved.move_to_end(digest)
            return _resolved[digest]
        data = inline if inline is not None else _table.get(digest, (0, None))[1]
    if data is None:
        raise pickle.UnpicklingError(f"the job has no function with digest {digest.hex()}")
    function = pickle.loads(data)
    with _table_lock:
        function = _resolved.setdefault(digest, function)
        while len(_resolved) > _KEPT_FUNCTIONS:
            _resolved.popitem(last=False)
    return function
