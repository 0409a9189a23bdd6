"""joblib's `Memory` over the pool's stores: one cache for the client and all nodes.

    memory = Memory("muster://experiment")      # joblib's own, after `import muster.joblib`
    @memory.cache
    def simulate(p, q): ...
    Parallel(n_jobs=-1)(delayed(simulate)(p, q) for p, q in grid)

Each value is computed once in the whole pool: callers that need the same one wait for it.
docs/joblib.md, "Memory", says the rules. Threads: any.
"""

from __future__ import annotations

import datetime
import io
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import _store_backends, numpy_pickle
from joblib import memory as _joblib
from joblib._store_backends import (
    CacheItemInfo,
    FileSystemStoreBackend,
    StoreBackendBase,
    StoreBackendMixin,
)
from joblib.disk import memstr_to_bytes

from muster._link import stores
from muster._link.stores import HIT, YOURS, Answer, Spill, StoreFailed
from muster.errors import BrokerLost, MusterError, PoolNotActive
from muster.joblib import _flight
from muster.joblib._flight import Flight, flight_of
from muster.joblib._memorized import adopt
from muster.joblib._values import dump, key_of, load_mapped, loading_text, metadata_text

SCHEME = "muster:"
_unreachable: dict[str, tuple[float, BrokerLost]] = {}
_UNREACHABLE_SECONDS = 30.0


class _OldCacheWarning(Warning):
    """As CacheWarning of joblib 1.3 and later."""


CacheWarning: type[Warning] = getattr(_store_backends, "CacheWarning", _OldCacheWarning)


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
        stores.use_in_tasks(self._name)

    @property
    def _store(self) -> stores.Store:
        return stores.Store(self._name, self._session)

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        stores.use_in_tasks(self._name)

    # --- Values

    def contains_item(self, call_id: Any) -> bool:
        key = key_of(call_id)
        flight = flight_of(self)
        if flight is None or flight.asked:
            there = self._try("look for a value", lambda: self._store.look(key))
            return there is not None and there.status == HIT
        flight.asked = True
        return self._find(flight, key)

    def _find(self, flight: Flight, key: str, besides: int = 0) -> bool:
        if not flight.claims:
            answer = self._try("look for a value", lambda: self._store.get(key))
        else:
            flight.claimed = key  # also while it waits
            answer = self._try("claim a value", lambda: self._store.claim(key, besides))
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
            text = msg or loading_text(call_id, timestamp, metadata)
            print(
                f"{text}..." if verbose < 10 else f"{text} from {self.location}/{key_of(call_id)}"
            )
        key = key_of(call_id)
        flight = flight_of(self)
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
                return load_mapped(file, found, self.mmap_mode)
            return numpy_pickle.load(file)

    def dump_item(self, call_id: Any, item: Any, verbose: int = 1) -> None:
        """A value that cannot be stored is a CacheWarning: the call still returns it."""
        key = key_of(call_id)
        if verbose > 10:
            print(f"Persisting in {self.location}/{key}")
        flight = flight_of(self)
        if flight is not None and flight.asked and flight.answer is None:
            return  # there is no broker, as was said
        spill = Spill(flight.answer if flight is not None else None)
        try:
            dump(item, spill, self.compress)
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
            said = self._try("store a value", lambda: self._put_or_keep(key, spill, text))
            return said is not None
        finally:
            spill.discard()

    def _put_or_keep(self, key: str, spill: Spill, text: str) -> bool:
        """A task stores nothing where a value is that it did not claim: that one stays."""
        try:
            self._store.put(key, spill, text)
        except StoreFailed:
            if stores.runner_link() is None or self._store.look(key).status != HIT:
                raise
        return True

    def clear_item(self, call_id: Any) -> None:
        key = key_of(call_id)
        flight = flight_of(self)
        if flight is None or not flight.claims or flight.claimed:
            self._store.remove(key)
            return
        # It was found invalid: one of those who see that computes it, and puts it there instead.
        version = flight.answer.version if flight.answer is not None else 0
        flight.found = None
        self._find(flight, key, besides=version)

    # --- What is said of values

    def get_metadata(self, call_id: Any) -> Any:
        key = key_of(call_id)
        flight = flight_of(self)
        answer: Answer | None
        if flight is not None and flight.found is not None and flight.found[0] == key:
            answer = flight.found[1]
        else:
            answer = self._try("look for a value", lambda: self._store.look(key))
        if answer is None or answer.status != HIT or not answer.text:
            return {}
        return json.loads(answer.text)

    def store_metadata(self, call_id: Any, metadata: dict[str, Any]) -> None:
        flight = flight_of(self)
        if flight is None or flight.pending is None or flight.pending[0] != key_of(call_id):
            return  # joblib says it of every call, also of those that could not be stored
        self._land(flight, metadata_text(metadata))

    def _land(self, flight: Flight, text: str) -> None:
        assert flight.pending is not None
        key, spill = flight.pending
        flight.pending = None
        if self._put(key, spill, text):
            flight.claimed = ""

    def get_item_info(self, call_id: Any) -> dict[str, Any]:
        return {"location": f"{self.location}/{key_of(call_id)}"}

    # --- One call

    @contextmanager
    def flight(self, claims: bool = True) -> Iterator[None]:
        """Around one call of a cached function: what it claims ends with it."""
        with _flight.flight(self, claims) as flight:
            try:
                yield
            finally:
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
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, _joblib.MemorizedFunc):
            adopt(caller)
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
        self._store.remove_all(f"{key_of(call_id)}/")

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
        raise io.UnsupportedOperation(f"{location}: values of a pool's store are not files")

    def _move_item(self, src: str, dst: str) -> None:
        raise io.UnsupportedOperation(f"{src}: values of a pool's store are not files")


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
