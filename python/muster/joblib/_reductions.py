"""How a batch is pickled: what joblib's users put into arguments and plain pickling gets wrong.

- A function or class that goes by value (`__main__`, lambdas, closures) is pickled once per call.
- A warning class out of a module is sent as its name and looked up on the node without an error:
  scikit-learn sends the client's warning filters along, which may name modules the node lacks.

Owner: a Call. Threads: one at a time (the Call's lock).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from muster._data.functions import SharedFunctions, SharingPickler
from muster._data.pickling import DumpError, pack_items, pack_with
from muster._data.portable import Packed


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


class _BatchPickler(SharingPickler):
    def reducer_override(self, obj: Any) -> Any:
        """Asked by the pickler for every object that is not of a built-in type."""
        if isinstance(obj, type):
            name = _category_name(obj)
            if name is not None:
                return load_category, name
        return super().reducer_override(obj)


class BatchFunctions(SharedFunctions):
    """SharedFunctions with the reductions above."""

    def pack(self, obj: object, what: str) -> Packed:
        """The pickle of `obj`. Raises SerializationError that names the culprit."""
        return pack_with(functools.partial(_BatchPickler, functions=self), obj, what, self.blobs)

    def pack_batch(self, items: Sequence[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> Packed:
        """The payload of a batch of (function, args, kwargs)."""
        try:
            make_pickler = functools.partial(_BatchPickler, functions=self)
            return pack_items(list(items), "the tasks", self.blobs, make_pickler)
        except DumpError:
            for function, args, kwargs in items:  # for an error that names the argument
                self.pack(function, "the function")
                self.pack((args, kwargs), "the arguments")
            raise
