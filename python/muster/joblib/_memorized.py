"""joblib's cached functions in a pool's store: their calls begin and end, and keys name the code.

Threads: as joblib's.
"""

from __future__ import annotations

import hashlib
import sys
import types
from typing import TYPE_CHECKING, Any

from joblib import memory as _joblib

from muster.joblib._flight import flight_of

if TYPE_CHECKING:
    from muster.joblib.memory import Store


class _InFlight:
    """What cached functions of a pool's store do beyond joblib's: calls begin and end, and the key
    names the code, so that versions of a function live side by side."""

    func: Any
    func_id: str
    store_backend: Store
    func_code_info: Any
    _verbose: int
    warn: Any
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
        if self._verbose > 0 and warn:
            self.warn(f"Clearing function cache identified by {self.func_id}")
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
        if flight_of(self.store_backend) is not None and _in_cached_call():
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


def adopt(function: Any) -> None:
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
