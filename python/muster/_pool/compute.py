"""`@muster.compute`: functions that are sent to a pool with an operator.

    @muster.compute
    def area(radius): ...

    area(2) >> pool    # runs on the pool, blocks, returns the result or raises
    area(2) > pool     # a Future, at once
    area.local(2)      # runs here

    @muster.compute(gpus=1, memory="8GB")    # what each call takes of its node
    def train(fold): ...

Threads: any; nothing is shared.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar, overload

R = TypeVar("R")


class ComputeFunction(Generic[R]):
    """A decorated function: calling it makes a PendingCall and runs nothing."""

    local: Callable[..., R]
    """The function itself."""
    options: Mapping[str, Any]
    """As `ComputePool.with_options` takes them."""

    def __init__(self, function: Callable[..., R], **options: Any) -> None:
        if not callable(function):
            raise TypeError(f"@muster.compute goes on a function, not on {function!r}")
        functools.update_wrapper(self, function)
        self.local = function
        self.options = options
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
        function = self._function
        if function.options:
            with_options = getattr(pool, "with_options", None)
            if with_options is None:
                raise TypeError(
                    f"{self._name} has options ({', '.join(function.options)}), and {pool!r} is no "
                    "ComputePool"
                )
            pool = with_options(**function.options)
        return pool.submit(function.local, *self._args, **self._kwargs)

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


@overload
def compute(function: Callable[..., R]) -> ComputeFunction[R]: ...
@overload
def compute(
    function: None = None, **options: Any
) -> Callable[[Callable[..., R]], ComputeFunction[R]]: ...
def compute(function: Callable[..., R] | None = None, **options: Any) -> Any:
    """Decorates `function`, so that calls of it are sent to a pool with `>>` or `>`.

    With options, `@compute(cpu=2, memory="4GB")`, its tasks run with these: see
    `ComputePool.with_options`, which says what there is. Raises TypeError and ValueError.
    """
    if function is not None and not options:
        return ComputeFunction(function)
    from muster._pool.options import TaskOptions

    TaskOptions().changed(**options)  # what is wrong is said here, where it was written
    if function is not None:
        return ComputeFunction(function, **options)
    return functools.partial(ComputeFunction, **options)


def plain_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside a ComputeFunction; anything else as it is."""
    inner: Callable[..., Any] = getattr(function, "local", function)
    return inner if isinstance(function, ComputeFunction) else function
