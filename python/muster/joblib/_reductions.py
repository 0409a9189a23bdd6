"""How a batch is pickled: what joblib's users put into arguments and plain pickling gets wrong.

- A function or class that goes by value (`__main__`, lambdas, closures) is pickled once per call.
- A warning class out of a module is sent as its name and looked up on the node without an error:
  scikit-learn sends the client's warning filters along, which may name modules the node lacks.
- An array that is memory-mapped from a file goes as the file's name and is mapped again.

Owner: a Call. Threads: one at a time (the Call's lock).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from muster._pickling import DumpError, SharedFunctions, _dump, _SharingPickler


def load_category(module: str, qualname: str) -> type[Warning]:
    """The warning class of that name; where it cannot be imported, a class that nothing raises."""
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
        if isinstance(found, type) and issubclass(found, Warning):
            return found
    except Exception:  # whatever an import runs into on a node must not cost the task
        pass
    placeholder = _placeholders.get((module, qualname))
    if placeholder is None:
        name = qualname.rpartition(".")[2]
        placeholder = type(name, (Warning,), {"__module__": module, "__qualname__": qualname})
        _placeholders[module, qualname] = placeholder
    return placeholder


_placeholders: dict[tuple[str, str], type[Warning]] = {}


def load_memmap(*args: Any) -> Any:
    """Maps an array again. Raises FileNotFoundError that says what to do."""
    from joblib._memmapping_reducer import _strided_from_memmap

    try:
        return _strided_from_memmap(*args)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"node {os.uname().nodename} does not have {args[0]}, which an argument is "
            "memory-mapped from; put the file where every node sees it, or pass a copy of the "
            "array (numpy.array)"
        ) from None


def _category_name(category: type) -> tuple[str, str] | None:
    """None: not an importable warning class, or one that every Python has."""
    if not issubclass(category, Warning):
        return None
    module, qualname = category.__module__, category.__qualname__
    top = module.partition(".")[0]
    if top == "__main__" or "<locals>" in qualname or top in _standard_modules:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return (module, qualname) if found is category else None


_standard_modules: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset({"builtins"}))


def _reduce_memmap(array: Any) -> Any:
    """NotImplemented: the array has no file that could be mapped again, so it goes by value."""
    from joblib._memmapping_reducer import _get_backing_memmap, _reduce_memmap_backed

    memmap = _get_backing_memmap(array)
    filename = getattr(memmap, "filename", None)
    if filename is None or array.dtype.hasobject or not os.path.exists(filename):
        return NotImplemented
    _function, args = _reduce_memmap_backed(array, memmap)[:2]
    return load_memmap, (os.path.abspath(filename), *args[1:])


def _reduce(obj: Any) -> Any:
    """NotImplemented for what needs no special care."""
    if isinstance(obj, type):
        name = _category_name(obj)
        return (load_category, name) if name else NotImplemented
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.ndarray) and obj.base is not None:
        return _reduce_memmap(obj)
    return NotImplemented


class _BatchPickler(_SharingPickler):
    def reducer_override(self, obj: Any) -> Any:
        reduced = _reduce(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


class BatchFunctions(SharedFunctions):
    """SharedFunctions with the reductions above."""

    def dumps(self, obj: object, what: str) -> bytes:
        """The pickle of `obj`. Raises SerializationError that names the culprit."""
        return _dump(functools.partial(_BatchPickler, functions=self), obj, what)

    def dump_batch(self, items: Sequence[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> bytes:
        """The payload of a batch of (function, args, kwargs)."""
        try:
            return self.dumps(list(items), "the tasks")
        except DumpError:
            for function, args, kwargs in items:  # for an error that names the argument
                self.dumps(function, "the function")
                self.dumps((args, kwargs), "the arguments")
            raise
