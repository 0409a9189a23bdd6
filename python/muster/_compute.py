"""`@muster.compute`: functions that are sent to a pool with an operator.

    @muster.compute
    def area(radius): ...

    area(2) >> pool    # runs on the pool, blocks, returns the result or raises
    area(2) > pool     # a Future, at once
    area.local(2)      # runs here

Threads: any; nothing is shared.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class ComputeFunction(Generic[R]):
    """A decorated function: calling it makes a PendingCall and runs nothing."""

    local: Callable[..., R]
    """The function itself."""

    def __init__(self, function: Callable[..., R]) -> None:
        if not callable(function):
            raise TypeError(f"@muster.compute goes on a function, not on {function!r}")
        functools.update_wrapper(self, function)
        self.local = function
        # Where pickle finds the function now that its old name means the ComputeFunction.
        name = getattr(function, "__qualname__", "")
        if name and "<" not in name and not name.endswith(".local"):
            with contextlib.suppress(AttributeError, TypeError):  # built-in functions
                function.__qualname__ = f"{name}.local"

    def __call__(self, *args: Any, **kwargs: Any) -> PendingCall[R]:
        return PendingCall(self, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<muster.compute function {getattr(self, '__name__', self.local)}>"


class PendingCall(Generic[R]):
    """A function and its arguments, not run yet. `>> pool` runs it, `> pool` gives a Future."""

    __slots__ = ("_args", "_function", "_kwargs")

    def __init__(
        self, function: ComputeFunction[R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs

    def __gt__(self, pool: Executor) -> Future[R]:
        if not isinstance(pool, Executor):
            raise TypeError(f"{self._name}(...) > pool needs a ComputePool, not {pool!r}")
        return pool.submit(self._function.local, *self._args, **self._kwargs)

    def __rshift__(self, pool: Executor) -> R:
        if not isinstance(pool, Executor):
            raise TypeError(f"{self._name}(...) >> pool needs a ComputePool, not {pool!r}")
        future = self > pool
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C ends the task, too
            raise

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value before it ran")

    @property
    def _name(self) -> str:
        return str(getattr(self._function, "__name__", "function"))

    def __repr__(self) -> str:
        return (
            f"<call of {self._name} that has not run: `{self._name}(...) >> pool` runs it on a "
            f"pool, `{self._name}.local(...)` runs it here>"
        )


def compute(function: Callable[..., R]) -> ComputeFunction[R]:
    """Decorates `function`, so that calls of it are sent to a pool with `>>` or `>`."""
    return ComputeFunction(function)


def plain_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside a ComputeFunction; anything else as it is."""
    inner: Callable[..., Any] = getattr(function, "local", function)
    return inner if isinstance(function, ComputeFunction) else function
