"""Finds the part of an object that cannot be pickled, for an error that names it."""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

_MAX_DEPTH = 32
_MAX_CHILDREN = 1000
_MAX_SECONDS = 2.0
"""Each step pickles the children of a part: a large object is not searched to its end."""

_NO_PARTS = (str, bytes, bytearray, int, float, complex, bool, type(None), types.ModuleType)


def describe_offender(
    obj: object, what: str, exc: Exception, pickle_one: Callable[[Any], bytes]
) -> str:
    """A sentence about why `obj`, which is `what`, cannot be pickled; `exc` is how it failed."""
    path, part, exc = _find(obj, _root(what), exc, pickle_one)
    path = path.replace("function._function", "function", 1)  # what a job wraps it in
    kind = type(part)
    module = kind.__module__
    full_name = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    article = "an" if kind.__name__[:1].lower() in "aeiou" else "a"
    subject = path or "it"
    return (
        f"cannot pickle {what}: {subject} is {article} {kind.__name__} (type {full_name}): "
        f"{str(exc) or type(exc).__name__}"
    )


def _root(what: str) -> str:
    """The name that paths begin with; a call's arguments begin with args or kwargs instead."""
    name = what.rsplit(" ", 1)[-1]
    return "" if name == "arguments" else name


def _find(
    obj: Any, path: str, exc: Exception, pickle_one: Callable[[Any], bytes]
) -> tuple[str, Any, Exception]:
    deadline = time.monotonic() + _MAX_SECONDS
    seen: set[int] = set()
    for _ in range(_MAX_DEPTH):
        seen.add(id(obj))
        for label, child in _children(obj, path):
            if id(child) in seen or isinstance(child, _NO_PARTS):
                continue
            if time.monotonic() > deadline:
                return path, obj, exc
            try:
                pickle_one(child)
            except Exception as failure:
                obj, path, exc = child, label, failure
                break
        else:
            break
    return path, obj, exc


def _children(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The parts of `obj`, each with the expression that leads to it."""
    try:
        for count, part in enumerate(_all_children(obj, path)):
            if count >= _MAX_CHILDREN:
                return
            yield part
    except Exception:
        return  # an object that cannot be looked into is the offender itself


def _all_children(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not path and type(obj) is tuple and len(obj) == 2:
        yield "args", obj[0]
        yield "kwargs", obj[1]
    elif isinstance(obj, dict):
        for key, value in obj.items():
            yield f"{path}[{_short(key)}]", value
            yield f"{path}.<key {_short(key)}>", key
    elif isinstance(obj, (list, tuple)):
        for index, item in enumerate(obj):
            yield f"{path}[{index}]", item
    elif isinstance(obj, (set, frozenset)):
        for item in obj:
            yield f"{path}.<item {_short(item)}>", item
    elif isinstance(obj, functools.partial):
        yield f"{path}.func", obj.func
        yield from _all_children(obj.args, f"{path}.args")
        yield from _all_children(obj.keywords, f"{path}.keywords")
    elif isinstance(obj, types.MethodType):
        yield f"{path}.__self__", obj.__self__
        yield f"{path}.__func__", obj.__func__
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj, path)
    elif isinstance(obj, type):
        for name, value in vars(obj).items():
            yield f"{path}.{name}", value
    else:
        yield from _reduced_parts(obj, path)


def _function_parts(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        yield f"{path}.<variable {name}>", cell.cell_contents
    yield from _all_children(function.__defaults__ or (), f"{path}.__defaults__")
    yield from _all_children(function.__kwdefaults__ or {}, f"{path}.__kwdefaults__")
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f"{path}.<global {name}>", function.__globals__[name]
    for name, value in vars(function).items():
        yield f"{path}.{name}", value


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _reduced_parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What pickle would look at: arguments, state, items of a list or dict."""
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, tuple):
        return
    for states in reduced[2:3]:
        for state in states if isinstance(states, tuple) else (states,):
            if isinstance(state, dict):
                for name, value in state.items():
                    yield f"{path}.{name}", value
            else:
                yield f"{path}.<state>", state
    for index, argument in enumerate(reduced[1]):
        yield f"{path}.<argument {index}>", argument
    for items in reduced[3:4]:
        for index, item in enumerate(items or ()):
            yield f"{path}[{index}]", item
    for items in reduced[4:5]:
        for key, value in items or ():
            yield f"{path}[{_short(key)}]", value


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
