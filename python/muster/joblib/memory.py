"""joblib's `Memory` over the pool's stores: one cache for the client and all nodes.

    memory = Memory("muster://experiment")      # joblib's own, after `import muster.joblib`
    @memory.cache
    def simulate(p, q): ...
    Parallel(n_jobs=-1)(delayed(simulate)(p, q) for p, q in grid)

Each value is computed once in the whole pool: who asks for one that another computes waits for it.
docs/joblib.md, "Memory", says the rules. Threads: any.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import pickle
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
from joblib import _store_backends, numpy_pickle
from joblib import memory as _joblib
from joblib._store_backends import (
    CacheItemInfo,
    FileSystemStoreBackend,
    StoreBackendBase,
    StoreBackendMixin,
)
from joblib.disk import memstr_to_bytes
from joblib.logger import format_time

from muster import _memo
from muster._memo import HIT, YOURS, Answer, Spill
from muster.errors import BrokerLost, MusterError, PoolNotActive

SCHEME = "muster:"
_LONGEST_ID = 1000  # of a function's path in a key
_LONGEST_TEXT = 60_000  # of what is said of a value


class _OldCacheWarning(Warning):
    """As CacheWarning of joblib 1.3 and later."""


CacheWarning: type[Warning] = getattr(_store_backends, "CacheWarning", _OldCacheWarning)


class _Flight:
    """One call of a cached function in one thread: what was claimed, found and computed."""

    def __init__(self, store: Store, claims: bool) -> None:
        self.store = store
        self.claims = claims
        self.asked = False
        self.claimed = ""  # a key
        self.found: tuple[str, Answer] | None = None
        self.answer: Answer | None = None  # to the claim
        self.pending: tuple[str, Spill] | None = None  # computed, not said yet


_flights = threading.local()
_unreachable: dict[str, tuple[float, BrokerLost]] = {}
_UNREACHABLE_SECONDS = 30.0


def _flight_of(store: Store) -> _Flight | None:
    stack = getattr(_flights, "stack", ())
    return stack[-1] if stack and stack[-1].store is store else None


class Store(StoreBackendBase, StoreBackendMixin):  # type: ignore[misc]
    """A store of the pool as a location for joblib's `Memory`: `Memory(Store("experiment"))`.

    `pool` or `broker` ("ipc://…") say which pool; without them it is the active one of the process,
    else the one that MUSTER_BROKER names or `muster up` started. Tasks use the pool that runs
    them. Without any pool, calls of cached functions raise PoolNotActive.
    """

    location = "muster://default"
    compress: Any = False
    mmap_mode: str | None = None
    verbose = 0
    _name = "default"
    _pool: Any = None
    _broker: str | None = None

    def __init__(
        self, name: str = "default", *, pool: Any = None, broker: str | None = None
    ) -> None:
        self._set_name(name)
        self._pool = pool
        self._broker = broker

    def configure(
        self, location: str, verbose: int = 0, backend_options: dict[str, Any] | None = None
    ) -> None:
        """joblib calls this with Memory's own options and its `backend_options`."""
        self._set_name(location)
        self.verbose = verbose
        options = dict(backend_options or {})
        self.compress = options.pop("compress", False)
        self.mmap_mode = options.pop("mmap_mode", None)
        self._pool = options.pop("pool", None)
        self._broker = options.pop("broker", None)
        if options:
            raise TypeError(f"the store backend of Muster has no option {', '.join(options)}")

    def _set_name(self, location: str) -> None:
        name = location
        if name.startswith(SCHEME):
            name = name[len(SCHEME) :]
        name = name.strip("/")
        if name == "joblib" or name.endswith("/joblib"):  # Memory adds it to every text
            name = name[: -len("joblib")].rstrip("/")
        self._name = name or "default"
        self.location = f"muster://{self._name}"

    @property
    def _store(self) -> _memo.Store:
        return _memo.Store(self._name, self._session)

    def _session(self) -> Any:
        from muster.joblib._connections import connected_pool, default_pool

        if self._pool is not None:
            return self._pool.session
        if self._broker is not None:
            when, before = _unreachable.get(self._broker, (0.0, None))
            if before is not None and time.monotonic() - when < _UNREACHABLE_SECONDS:
                raise before.with_traceback(None)
            try:
                return connected_pool(self._broker).session
            except BrokerLost as exc:  # found out by waiting: not for every call
                _unreachable[self._broker] = time.monotonic(), exc
                raise
        try:
            return default_pool().session
        except PoolNotActive:
            raise PoolNotActive(
                f"the cache {self.location} is in a pool, and there is none. Call the function "
                "inside the block of one:\n\n    with JoblibPool(concurrency=4):\n        ...\n\n"
                'or name a running one: Memory("muster://NAME", backend_options={"broker": '
                '"ipc://..."}), or the environment variable MUSTER_BROKER; `muster up` starts one '
                "that is found without"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        """Another process finds the pool that this one has; a task the one that runs it."""
        state = self.__dict__.copy()
        pool = state.pop("_pool", None)
        if pool is not None and not state.get("_broker") and pool.active:
            state["_broker"] = pool.broker
        return state

    # --- Values

    def contains_item(self, call_id: Any) -> bool:
        key = _key(call_id)
        flight = _flight_of(self)
        if flight is None or flight.asked:
            there = self._try("look for a value", lambda: self._store.look(key))
            return there is not None and there.status == HIT
        flight.asked = True
        return self._find(flight, key)

    def _find(self, flight: _Flight, key: str) -> bool:
        if not flight.claims:
            answer = self._try("look for a value", lambda: self._store.get(key))
        else:
            flight.claimed = key  # also while it waits
            answer = self._try("claim a value", lambda: self._store.claim(key))
            if answer is None or answer.status != YOURS:
                flight.claimed = ""
        flight.answer = answer
        if answer is None or answer.status != HIT:
            return False
        flight.found = key, answer
        return True

    def load_item(
        self,
        call_id: Any,
        verbose: int = 1,
        timestamp: float | None = None,
        metadata: dict[str, Any] | None = None,
        msg: str | None = None,
    ) -> Any:
        """Raises KeyError when there is no such value."""
        if verbose > 1:
            text = msg or _loading(call_id, timestamp, metadata)
            print(f"{text}..." if verbose < 10 else f"{text} from {self.location}/{_key(call_id)}")
        key = _key(call_id)
        flight = _flight_of(self)
        found: Answer | None = None
        if flight is not None and flight.found is not None and flight.found[0] == key:
            found = flight.found[1]
            flight.found = None
        if found is None:
            found = self._store.get(key)
        if found.status != HIT:
            raise KeyError(f"Non-existing item (may have been cleared): {self.location}/{key}")
        return self._load(key, found)

    def _load(self, key: str, found: Answer) -> Any:
        file = self._store.open(key, found)
        if file is None:
            raise KeyError(f"the value {self.location}/{key} was removed while it was read")
        with file:
            head = file.read(1)
            file.seek(0)
            if head != b"\x80":  # compressed: its reader wants to see the end
                return numpy_pickle.load(io.BytesIO(file.read(found.size)))
            if self.mmap_mode is not None:
                return _load_mapped(file, found, self.mmap_mode)
            return numpy_pickle.load(file)

    def dump_item(self, call_id: Any, item: Any, verbose: int = 1) -> None:
        """A value that cannot be stored is a CacheWarning: the call still returns it."""
        key = _key(call_id)
        if verbose > 10:
            print(f"Persisting in {self.location}/{key}")
        flight = _flight_of(self)
        if flight is not None and flight.asked and flight.answer is None:
            return  # there is no broker, as was said
        spill = Spill(flight.answer if flight is not None else None)
        try:
            _dump(item, spill, self.compress)
        except Exception as exc:
            spill.discard()
            _warn(f"the result of {call_id[0]} is not cached, it cannot be written: {exc}")
            return
        if flight is not None:
            flight.pending = key, spill  # goes with its metadata
        else:
            self._put(key, spill, "")

    def _put(self, key: str, spill: Spill, text: str) -> bool:
        try:
            return self._try("store a value", lambda: self._store.put(key, spill, text)) is not None
        finally:
            spill.discard()

    def clear_item(self, call_id: Any) -> None:
        key = _key(call_id)
        self._store.remove(key)
        flight = _flight_of(self)
        if flight is not None and flight.claims and not flight.claimed:
            flight.found = None  # it was found invalid: one of those who see that computes it
            self._find(flight, key)

    # --- What is said of values

    def get_metadata(self, call_id: Any) -> Any:
        key = _key(call_id)
        flight = _flight_of(self)
        answer: Answer | None
        if flight is not None and flight.found is not None and flight.found[0] == key:
            answer = flight.found[1]
        else:
            answer = self._try("look for a value", lambda: self._store.look(key))
        if answer is None or answer.status != HIT or not answer.text:
            return {}
        return json.loads(answer.text)

    def store_metadata(self, call_id: Any, metadata: dict[str, Any]) -> None:
        flight = _flight_of(self)
        if flight is None or flight.pending is None or flight.pending[0] != _key(call_id):
            return  # joblib says it of every call, also of those that could not be stored
        self._land(flight, _metadata_text(metadata))

    def _land(self, flight: _Flight, text: str) -> None:
        assert flight.pending is not None
        key, spill = flight.pending
        flight.pending = None
        if self._put(key, spill, text):
            flight.claimed = ""

    def get_item_info(self, call_id: Any) -> dict[str, Any]:
        return {"location": f"{self.location}/{_key(call_id)}"}

    # --- One call

    @contextmanager
    def flight(self, claims: bool = True) -> Iterator[None]:
        """Around one call of a cached function: what it claims ends with it."""
        stack = getattr(_flights, "stack", None)
        if stack is None:
            stack = _flights.stack = []
        flight = _Flight(self, claims)
        stack.append(flight)
        try:
            yield
        finally:
            stack.pop()
            if flight.pending is not None:  # what joblib wanted to say of it failed
                self._land(flight, "")
            if flight.claimed:
                self._try("end a claim", lambda: self._store.release(flight.claimed))

    def _try(self, what: str, action: Any) -> Any:
        """None, and a CacheWarning, when the broker cannot be asked: the function is computed."""
        try:
            return action()
        except PoolNotActive:
            raise
        except MusterError as exc:
            _warn(f"cannot {what} in {self.location}, so it is computed here: {exc}")
            return None

    # --- All of it

    def store_cached_func_code(self, call_id: Any, func_code: str | None = None) -> None:
        """joblib says this of every function that it caches, from the object that stands for it:
        the only moment at which a store meets those. They get to know where calls end."""
        import sys

        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, _joblib.MemorizedFunc):
            _adopt(caller)
            return
        if func_code is not None:
            spill = Spill(None)
            spill.write(func_code.encode())
            self._put("/".join([*call_id, "func_code.py"]), spill, "")

    def get_cached_func_code(self, call_id: Any) -> str:
        key = "/".join([*call_id, "func_code.py"])
        found = self._store.get(key)
        file = self._store.open(key, found) if found.status == HIT else None
        if file is None:
            raise FileNotFoundError(f"{self.location} has no {key}")
        with file:
            return str(file.read(found.size), "utf-8")

    def clear_path(self, call_id: Any) -> None:
        self._store.remove_all(f"{_key(call_id)}/")

    def clear(self) -> None:
        self._store.remove_all()

    def reduce_store_size(self, bytes_limit: Any) -> None:
        """What joblib 1.2 calls."""
        self.enforce_store_limits(bytes_limit)

    def enforce_store_limits(
        self,
        bytes_limit: int | str | None,
        items_limit: int | None = None,
        age_limit: datetime.timedelta | None = None,
    ) -> None:
        """Removes what was not used for longest until the limits hold."""
        limits: dict[str, int] = {}
        if bytes_limit is not None:
            limits["bytes_limit"] = int(
                memstr_to_bytes(bytes_limit) if isinstance(bytes_limit, str) else bytes_limit
            )
        if items_limit is not None:
            limits["items_limit"] = items_limit
        if age_limit is not None:
            if age_limit.total_seconds() < 0:
                raise ValueError("age_limit has to be a positive timedelta")
            limits["age_limit_ms"] = int(age_limit.total_seconds() * 1000)
        self._store.trim(**limits)

    def get_items(self) -> list[Any]:
        return [
            CacheItemInfo(f"{self.location}/{key}", size, datetime.datetime.fromtimestamp(accessed))
            for key, size, accessed, _ in self._store.entries()
        ]

    def clear_location(self, location: str) -> None:
        if location == self.location:
            self.clear()
            return
        key = location[len(self.location) :].strip("/")
        self._store.remove(key)
        self._store.remove_all(f"{key}/")

    def create_location(self, location: str) -> None:
        pass

    def _item_exists(self, location: str) -> bool:
        key = location[len(self.location) :].strip("/")
        return self._store.look(key).status == HIT

    def _open_item(self, location: str, mode: str) -> Any:
        raise io.UnsupportedOperation(f"{location}: values of a pool's store are no files")

    def _move_item(self, src: str, dst: str) -> None:
        raise io.UnsupportedOperation(f"{src}: values of a pool's store are no files")


# --- Functions


class _InFlight:
    """What cached functions of a pool's store do beyond joblib's: calls begin and end, and the key
    names the code, so that versions of a function live side by side."""

    func: Any
    func_id: str
    store_backend: Store
    func_code_info: Any
    _coded: tuple[Any, str] | None = None

    def _code_digest(self) -> str:
        info = self.func_code_info
        if self._coded is None or self._coded[0] is not info:
            self._coded = info, _digest_of_code(self.func, info)
        return self._coded[1]

    def _check_previous_func_code(self, stacklevel: int = 2) -> bool:
        return True

    def _write_func_code(self, func_code: str, first_line: int) -> None:
        pass

    def clear(self, warn: bool = True) -> None:
        """Removes what this function has in the cache, of all versions of its code."""
        if self._verbose > 0 and warn:  # type: ignore[attr-defined]
            self.warn(f"Clearing function cache identified by {self.func_id}")  # type: ignore[attr-defined]
        self.store_backend.clear_path([self.func_id])


class MemorizedFunc(_InFlight, _joblib.MemorizedFunc):  # type: ignore[misc]
    """joblib's, in a store of the pool."""

    def _get_args_id(self, *args: Any, **kwargs: Any) -> str:
        return f"{self._code_digest()}-{super()._get_args_id(*args, **kwargs)}"

    def _get_argument_hash(self, *args: Any, **kwargs: Any) -> str:
        return f"{self._code_digest()}-{super()._get_argument_hash(*args, **kwargs)}"

    def _cached_call(self, args: Any, kwargs: Any, shelving: bool = False) -> Any:
        with self.store_backend.flight():
            return super()._cached_call(args, kwargs, shelving=shelving)

    if not hasattr(_joblib.MemorizedFunc, "_get_args_id"):  # joblib 1.2 and 1.3

        def _get_output_identifiers(self, *args: Any, **kwargs: Any) -> tuple[str, str]:
            return self.func_id, self._get_argument_hash(*args, **kwargs)

        def call_and_shelve(self, *args: Any, **kwargs: Any) -> Any:
            _, args_id, metadata = self._cached_call(args, kwargs, shelving=True)
            return _joblib.MemorizedResult(
                self.store_backend,
                self.func_id,
                args_id,
                metadata=metadata,
                verbose=self._verbose - 1,
                timestamp=self.timestamp,
            )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Computes and stores, whatever is there."""
        if _flight_of(self.store_backend) is not None and _in_cached_call():
            return super().call(*args, **kwargs)
        with self.store_backend.flight(claims=False):
            return super().call(*args, **kwargs)


if hasattr(_joblib, "AsyncMemorizedFunc"):

    class AsyncMemorizedFunc(_InFlight, _joblib.AsyncMemorizedFunc):  # type: ignore[misc]
        """joblib's, in a store of the pool. Nothing is claimed: who waited for another's
        computation would keep its event loop from making it."""

        def _get_args_id(self, *args: Any, **kwargs: Any) -> str:
            return f"{self._code_digest()}-{super()._get_args_id(*args, **kwargs)}"

        def _cached_call(self, args: Any, kwargs: Any, shelving: bool) -> Any:
            with self.store_backend.flight(claims=False):
                return super()._cached_call(args, kwargs, shelving)

        def _after_call(self, *args: Any, **kwargs: Any) -> Any:
            with self.store_backend.flight(claims=False):
                return super()._after_call(*args, **kwargs)


def _adopt(function: Any) -> None:
    kind = type(function)
    if kind is _joblib.MemorizedFunc:
        function.__class__ = MemorizedFunc
    elif kind is getattr(_joblib, "AsyncMemorizedFunc", None):
        function.__class__ = AsyncMemorizedFunc
    else:
        return
    if "func_id" not in function.__dict__:  # joblib 1.2, where nodes would make another of it
        function.func_id = _joblib._build_func_identifier(function.func)


def _in_cached_call() -> bool:
    """joblib 1.2 computes inside of a cached call with `call`."""
    import sys

    return sys._getframe(2).f_code.co_name == "_cached_call"


def _digest_of_code(function: Any, info: tuple[str, Any, int]) -> str:
    source, _, first_line = info
    code = getattr(function, "__code__", None)
    if first_line == -1 and isinstance(code, types.CodeType):
        source = repr(_describe_code(code))  # joblib's stand-in differs from process to process
    return hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _describe_code(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(
        _describe_code(c)
        if isinstance(c, types.CodeType)
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    )
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


# --- Values as bytes


def _dump(item: Any, file: Any, compress: Any) -> None:
    """As joblib writes a file, but what `__main__` defines goes by value."""
    if compress:
        data = io.BytesIO()
        _Pickler(data, protocol=pickle.DEFAULT_PROTOCOL).dump(item)
        if isinstance(compress, tuple):
            method, level = compress
        elif isinstance(compress, str):
            method, level = compress, 3
        else:
            method, level = "zlib", 3 if isinstance(compress, bool) else compress
        with numpy_pickle._write_fileobject(file, compress=(method, level)) as packed:
            packed.write(data.getbuffer())
        return
    _Pickler(file, protocol=pickle.DEFAULT_PROTOCOL).dump(item)


class _Pickler(numpy_pickle.NumpyPickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
            return load_main, (obj.__qualname__, cloudpickle.dumps(obj))
        return NotImplemented


def load_main(qualname: str, pickled: bytes) -> Any:
    """What the program calls so, or else what its writer had under that name."""
    import sys

    found: Any = sys.modules.get("__main__")
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return pickle.loads(pickled) if found is None else found


def _load_mapped(file: Any, found: Answer, mmap_mode: str) -> Any:
    """Arrays stay in the file: the store's own on its machine, else one that has no name any more.

    Nobody may change the store's file: the writable modes are copies on write.
    """
    mode = "r" if mmap_mode == "r" else "c"
    name = file.name if isinstance(getattr(file, "name", None), str) else ""
    if name == found.file and name:
        return numpy_pickle.load(name, mmap_mode=mode)
    descriptor, name = tempfile.mkstemp(dir=_memo._temporary_folder(), prefix="muster-value-")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            while block := file.read(1 << 20):
                copy.write(block)
        return numpy_pickle.load(name, mmap_mode=mode)
    finally:
        os.unlink(name)


def _metadata_text(metadata: dict[str, Any]) -> str:
    text = json.dumps(metadata, default=repr)
    for most in (1000, 100, 10, 0):
        if len(text) <= _LONGEST_TEXT:
            break
        shown = {k: str(v)[:most] for k, v in metadata.get("input_args", {}).items()}
        text = json.dumps({**metadata, "input_args": shown if most else {}}, default=repr)
    return text


def _key(call_id: Any) -> str:
    first, *rest = call_id
    if len(first.encode("utf-8", "replace")) > _LONGEST_ID:
        digest = hashlib.blake2b(first.encode("utf-8", "replace"), digest_size=16).hexdigest()
        first = f"{first[: _LONGEST_ID // 4]}-{digest}"
    return "/".join([first, *rest])


def _loading(call_id: Any, timestamp: float | None, metadata: dict[str, Any] | None) -> str:
    elapsed = "" if timestamp is None else f"{format_time(time.time() - timestamp): <16}"
    signature = os.path.basename(call_id[0])
    if metadata and "input_args" in metadata:
        arguments = ", ".join(f"{k}={v}" for k, v in metadata["input_args"].items())
        signature += f"({arguments})"
    return f"[Memory]{elapsed}: Loading {signature}"


def _warn(text: str) -> None:
    warnings.warn(text, CacheWarning, stacklevel=4)


# --- Registration

_local = _joblib._STORE_BACKENDS.get("local", FileSystemStoreBackend)


class _ByLocation(FileSystemStoreBackend):  # type: ignore[misc]
    """What joblib makes for a location without `backend=`: decides when it is told the location."""

    def configure(
        self, location: str, verbose: int = 1, backend_options: dict[str, Any] | None = None
    ) -> None:
        self.__class__ = Store if location.startswith(SCHEME + "//") else _local
        self.configure(location, verbose=verbose, backend_options=backend_options)


def register() -> None:
    """Makes `Memory("muster://NAME")` work, with `backend="muster"` and without."""
    _joblib.register_store_backend("muster", Store)
    _joblib.register_store_backend("local", _ByLocation)
