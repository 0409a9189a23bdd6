"""Functions and classes that go by value, and which many payloads of one job share.

The client pickles each once, into the job's body, and names it by a digest in the payloads; the
process that runs the tasks unpickles each once.
Threads: any.
"""

from __future__ import annotations

import functools
import pickle
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from muster._data.blobs import Blobs, Sharing
from muster._data.parts import ArgumentParts, digest_of
from muster._data.pickling import Pickler, make, pack_with
from muster._data.portable import Packed, Parts, Portable, Reduced

_KEPT_FUNCTIONS = 512
"""Unpickled functions that a runner keeps: more than one job has, few enough for their closures."""

_SHARED = 256
_OTHERS = 4096
"""Functions and classes of a call that it remembers: those that go by value, with what they hold,
and those that go by name."""

Functions = Mapping[bytes, Portable]
"""As the process has them that runs the tasks."""


class SharedFunctions:
    """The functions and classes that the payloads of one job share.

    What goes by value is pickled once, when it is first met, with all that it refers to, and is
    named by its digest from then on; changes to its globals or closure after that stay unseen, and
    in a runner all tasks of the job see one object. Before the first `take_body` the
    payloads only have the digests: put the body in the job that they are for.

    So many are remembered at most, for a program that makes a closure for each payload; what was
    not met for longest is forgotten, and pickled again when it comes again.
    """

    def __init__(self, blobs: Blobs | None = None) -> None:
        """`blobs`: of the call; None: everything stays in the pickles."""
        self.blobs = blobs or Blobs(None, Sharing())
        self._lock = threading.Lock()
        # By id, which is only good while its object lives.
        self._shared: OrderedDict[int, tuple[object, Shared]] = OrderedDict()
        self._others: dict[int, object] = {}
        self._bodies: dict[bytes, Shared] = {}  # until they are taken
        self._taken: frozenset[bytes] | None = None

    def pack(self, obj: object, what: str) -> Packed:
        """As `muster._data.pickling.pack`, with references instead of shared functions."""
        return pack_with(functools.partial(SharingPickler, functions=self), obj, what, self.blobs)

    def take_body(self) -> dict[bytes, Shared]:
        """All that was met so far, for the body of the job that the payloads belong to."""
        with self._lock:
            self._taken = frozenset(self._bodies)
            taken, self._bodies = self._bodies, {}
            return taken

    def shared(self, obj: Any, reduce: Callable[[Any], Any]) -> Shared | None:
        """None: `obj` does not go by value."""
        key = id(obj)
        if key in self._others:
            return None
        with self._lock:
            if key in self._shared:
                self._shared.move_to_end(key)
                return self._shared[key][1]
        if reduce(obj) is NotImplemented:
            with self._lock:
                if len(self._others) >= _OTHERS:
                    self._others.clear()
                self._others[key] = obj
            return None
        shared = Shared(obj, self.blobs)
        with self._lock:
            _, shared = self._shared.setdefault(key, (obj, shared))
            if len(self._shared) > _SHARED:
                self._shared.popitem(last=False)
            if self._taken is None:
                self._bodies[shared.digest] = shared
        return shared

    def inline(self, shared: Shared) -> Shared | None:
        """What goes along with a payload because the body does not have it."""
        taken = self._taken
        return None if taken is None or shared.digest in taken else shared


class Shared:
    """One pickled function or class, with its large parts."""

    __slots__ = ("_blobs", "_portable", "digest")

    def __init__(self, obj: object, blobs: Blobs) -> None:
        parts = ArgumentParts(blobs)
        self._portable = make(Pickler, obj, "the function", parts)
        self._blobs = parts.blobs
        self.digest = digest_of(self._portable, self._blobs)

    def nest(self, parts: Any) -> Reduced:
        """For a pickle that goes to `parts`."""
        return Reduced(parts.nest(self._portable, self._blobs))


class SharingPickler(Pickler):
    def __init__(self, file: Any, parts: Parts, functions: SharedFunctions) -> None:
        super().__init__(file, parts)
        self._functions = functions

    def reducer_override(self, obj: Any) -> Any:
        """Asked by the pickler for every object that is not of a built-in type."""
        if not isinstance(obj, (types.FunctionType, type)) or obj.__module__ == "builtins":
            return super().reducer_override(obj)
        shared = self._functions.shared(obj, super().reducer_override)
        if shared is None:
            return NotImplemented
        inline = self._functions.inline(shared)
        return _resolve, (shared.digest, inline.nest(self.parts) if inline else None)


_table_lock = threading.Lock()
_table: dict[bytes, tuple[int, Portable | None]] = {}
"""Pickles out of job bodies: digest to (jobs that have it, pickle)."""
_resolved: OrderedDict[bytes, object] = OrderedDict()


def add_functions(functions: Functions) -> None:
    """Makes the functions of a job's body known to this process, until `remove_functions`."""
    with _table_lock:
        for digest, data in functions.items():
            jobs, _ = _table.get(digest, (0, None))
            _table[digest] = jobs + 1, data


def remove_functions(functions: Functions) -> None:
    """The opposite of `add_functions`, when the job ended."""
    with _table_lock:
        for digest in functions:
            jobs, data = _table.pop(digest, (0, None))
            if jobs > 1:
                _table[digest] = jobs - 1, data
            else:
                _resolved.pop(digest, None)


def _resolve(digest: bytes, inline: Portable | None) -> object:
    """The function of that digest, unpickled once in this process."""
    with _table_lock:
        if digest in _resolved:
            _resolved.move_to_end(digest)
            return _resolved[digest]
        data = inline if inline is not None else _table.get(digest, (0, None))[1]
    if data is None:
        raise pickle.UnpicklingError(f"the job has no function with digest {digest.hex()}")
    function = data.load()
    with _table_lock:
        function = _resolved.setdefault(digest, function)
        while len(_resolved) > _KEPT_FUNCTIONS:
            _resolved.popitem(last=False)
    return function
