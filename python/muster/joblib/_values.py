"""Values of cached functions as bytes and back, and their keys. Threads: any."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import tempfile
import time
import types
from typing import Any

import cloudpickle
from joblib import numpy_pickle
from joblib.logger import format_time

from muster._link import stores
from muster._link.stores import Answer

_LONGEST_ID = 1000  # of a function's path in a key
_LONGEST_TEXT = 60_000  # of what is said of a value


def dump(item: Any, file: Any, compress: Any) -> None:
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
    found: Any = sys.modules.get("__main__")
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return pickle.loads(pickled) if found is None else found


def load_mapped(file: Any, found: Answer, mmap_mode: str) -> Any:
    """Arrays stay in the file: the store's own on its machine, else one that has no name any more.

    Nobody may change the store's file: the writable modes are copies on write.
    """
    mode = "r" if mmap_mode == "r" else "c"
    name = file.name if isinstance(getattr(file, "name", None), str) else ""
    if name == found.file and name:
        return numpy_pickle.load(name, mmap_mode=mode)
    descriptor, name = tempfile.mkstemp(dir=stores._temporary_folder(), prefix="muster-value-")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            while block := file.read(1 << 20):
                copy.write(block)
        return numpy_pickle.load(name, mmap_mode=mode)
    finally:
        os.unlink(name)


def metadata_text(metadata: dict[str, Any]) -> str:
    text = json.dumps(metadata, default=repr)
    for most in (1000, 100, 10, 0):
        if len(text) <= _LONGEST_TEXT:
            break
        shown = {k: str(v)[:most] for k, v in metadata.get("input_args", {}).items()}
        text = json.dumps({**metadata, "input_args": shown if most else {}}, default=repr)
    return text


def key_of(call_id: Any) -> str:
    first, *rest = call_id
    if len(first.encode("utf-8", "replace")) > _LONGEST_ID:
        digest = hashlib.blake2b(first.encode("utf-8", "replace"), digest_size=16).hexdigest()
        first = f"{first[: _LONGEST_ID // 4]}-{digest}"
    return "/".join([first, *rest])


def loading_text(call_id: Any, timestamp: float | None, metadata: dict[str, Any] | None) -> str:
    elapsed = "" if timestamp is None else f"{format_time(time.time() - timestamp): <16}"
    signature = os.path.basename(call_id[0])
    if metadata and "input_args" in metadata:
        arguments = ", ".join(f"{k}={v}" for k, v in metadata["input_args"].items())
        signature += f"({arguments})"
    return f"[Memory]{elapsed}: Loading {signature}"
