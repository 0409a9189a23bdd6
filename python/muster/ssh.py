"""`SSH`: a pool of machines that this one can ssh into.

    with ComputePool(SSH("node1", "ada@node2:2222*8")) as pool: ...
    with ComputePool(SSH("hosts.toml"), image=Image(pip=["numpy"])) as pool: ...

This turns what the program says into one hosts file, whose form docs/hosts.md has; the pool's own
broker reads it and does the rest. Threads: any. Nothing here connects to anything.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.errors import MusterError, Unsupported
from muster.provider import (
    DEFAULT_ALLOCATION,
    Hosts,
    Image,
    Plan,
    Request,
    check_count,
    check_seconds,
    find_include,
    memory_bytes,
)

KEYS = frozenset(
    (
        *("user", "port", "identity", "jump", "known_hosts"),
        *("ssh_config", "via", "reverse_port", "connect_timeout", "standing"),
        *("slots", "executor", "labels", "environment", "directory"),
        *("worker", "curve", "orphan_grace", "python", "pip"),
        *("wheels", "includes", "plugins", "nice", "max_cores", "max_memory"),
        *("pause_load"),
    )
)
"""Of a hosts file, what may be said for all hosts together."""
REACH_SECONDS = 60.0

_LOCAL_PATHS = ("identity", "known_hosts", "ssh_config", "wheels")
_LISTS_OF_PATHS = ("includes", "plugins")
_Host = dict[str, Any]


class SSH:
    """Nodes are machines with an ssh server; nothing has to be installed there but Python.

    `hosts`: hosts files ("hosts.toml"), and hosts in the short form "[user@]host[:port][*slots]",
    as arguments or as `hosts=[...]`, where one may also be a mapping of the keys of docs/hosts.md.
    Any other keyword is such a key, for all hosts: identity="~/.ssh/id_work", jump="gateway",
    slots=8, labels=["gpu"], nice=10, via="openssh". What a host says itself comes first, then what
    the program says (here, in Worker and in Image), then the file's [defaults].

    The pool starts when all hosts are up; with `at_least=N` it starts with so many, warns about
    the others and takes them in when they come. `reach_seconds`: how long a host that does not
    answer is tried.
    """

    def __init__(
        self,
        *sources: str | os.PathLike[str],
        hosts: Sequence[str | Mapping[str, Any]] = (),
        at_least: int | None = None,
        reach_seconds: float = REACH_SECONDS,
        **defaults: Any,
    ) -> None:
        """Raises TypeError or ValueError for arguments of a wrong kind. Reads no file."""
        if isinstance(hosts, (str, Mapping)):
            raise TypeError(f"hosts must be a list of hosts, not {hosts!r}")
        self._sources: tuple[str | Path | Mapping[str, Any], ...] = tuple(
            source if isinstance(source, Mapping) else _source(source)
            for source in (*sources, *hosts)
        )
        if not self._sources:
            raise ValueError(
                'SSH needs hosts: a hosts file, SSH("hosts.toml"), or SSH("user@host*4", ...)'
            )
        self._at_least = None if at_least is None else check_count("at_least", at_least)
        self._reach_seconds = check_seconds("reach_seconds", reach_seconds) or float("inf")
        unknown = sorted(set(defaults) - KEYS)
        if unknown:
            raise TypeError(
                f"SSH knows no {unknown[0]!r}{_nearest(unknown[0])}; it takes at_least, "
                "reach_seconds and the keys of hosts files (docs/hosts.md)"
            )
        self._defaults = _absolute(defaults, Path.cwd())

    def __repr__(self) -> str:
        return f"SSH({', '.join(map(repr, self._sources))})"

    def plan(self, request: Request) -> Plan:
        """See Provider. Reads the hosts files; raises ValueError for one that is no TOML."""
        _refuse_renting(request)
        hosts, texts = self._read()
        if request.nodes is not None:
            if request.nodes > len(hosts):
                raise Unsupported(
                    f"nodes={request.nodes}: {len(hosts)} hosts are listed; list more, or leave "
                    "nodes out to use all of them"
                )
            hosts = hosts[: request.nodes]
        at_least = len(hosts) if self._at_least is None else self._at_least
        if at_least > len(hosts):
            raise Unsupported(f"at_least={at_least}: the pool has only {len(hosts)} hosts")
        said = {**self._defaults, **_of_worker(request)}
        image = _of_image(request.image)
        merged = [_merge(host, file_defaults, said, image) for host, file_defaults in hosts]
        gpus = 1 if request.accelerator else 0
        labelled = any(request.accelerator in host.get("labels", ()) for host in merged)
        return Plan(
            hosts=Hosts(
                text=_to_toml(merged),
                origin=texts[0][1] if len(self._sources) == len(texts) == 1 else repr(self)[:200],
                sources=tuple(texts),
                count=len(merged),
                at_least=at_least,
                reach_seconds=self._reach_seconds,
                cores=request.vcpus or 0,
                memory_bytes=memory_bytes(request.memory) if request.memory else 0,
                gpus=gpus if not labelled else 0,
            ),
            gpus=gpus,
            labels=(request.accelerator,) if request.accelerator and labelled else (),
        )

    def _read(self) -> tuple[list[tuple[_Host, _Host]], list[tuple[str, str]]]:
        """Every host with the defaults of its file, and the files."""
        hosts: list[tuple[_Host, _Host]] = []
        texts: list[tuple[str, str]] = []
        for source in self._sources:
            if isinstance(source, Mapping):
                hosts.append((_absolute(source, Path.cwd()), {}))
            elif isinstance(source, Path):
                text, path = _text_of(source), str(source.absolute())
                texts.append((text, path))
                hosts += _hosts_of(text, path)
            else:
                hosts.append(({"address": source}, {}))
        return hosts, texts


def _source(source: object) -> str | Path:
    if isinstance(source, os.PathLike):
        return Path(os.fspath(source)).expanduser()
    if not isinstance(source, str) or not source:
        raise TypeError(f'a host must be like "user@host:port*slots", not {source!r}')
    if source.endswith(".toml") or "/" in source:
        return Path(source).expanduser()
    return source


def _nearest(name: str) -> str:
    import difflib

    found = difflib.get_close_matches(name, KEYS, 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _refuse_renting(request: Request) -> None:
    for name, instead in (
        ("machine", "list the hosts that are of this kind"),
        ("region", "list the hosts that are there"),
        ("ttl", "they are yours and stay up, the pool only leaves them when it closes"),
    ):
        if getattr(request, name) is not None:
            raise Unsupported(
                f"{name}={getattr(request, name)!r}: SSH uses the machines that are listed and "
                f"rents none; {instead}, and leave {name} out"
            )
    if request.allocation not in (None, DEFAULT_ALLOCATION):
        raise Unsupported(
            f"allocation={request.allocation!r}: SSH uses the machines that are listed and rents "
            "none; leave allocation out"
        )


# --- Files ----------------------------------------------------------------------------------------


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the hosts file {path} cannot be read: {error}") from error


def _hosts_of(text: str, path: str) -> list[tuple[_Host, _Host]]:
    """What has an unknown key or a wrong type goes through: the broker names its line."""
    table = _parse(text, path)
    folder = Path(path).parent
    defaults = table.get("defaults", {})
    short, long = table.get("hosts", []), table.get("host", [])
    known = (
        set(table) <= {"defaults", "hosts", "host"}
        and isinstance(defaults, dict)
        and all(isinstance(found, list) for found in (short, long))
        and all(isinstance(host, str) for host in short)
        and all(isinstance(host, dict) for host in long)
    )
    if not known:
        raise ValueError(
            f"{path}: a hosts file has a list `hosts`, a table `[defaults]` and tables `[[host]]`, "
            f"and this one has {', '.join(table) or 'nothing'} (docs/hosts.md)"
        )
    hosts: list[_Host] = [{"address": host} for host in short]
    hosts += [_absolute(host, folder) for host in long]
    if not hosts:
        raise ValueError(f'{path}: it names no host; add hosts = ["user@host"] or a [[host]]')
    return [(host, _absolute(defaults, folder)) for host in hosts]


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise MusterError(
            f"{path}: to read hosts files with this Python, install the package 'tomli'"
        ) from None
    try:
        table: dict[str, Any] = parser.loads(text)
        return table
    except parser.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def _absolute(table: Mapping[str, Any], folder: Path) -> _Host:
    """With the paths of this machine made absolute."""
    host = {key: os.fspath(v) if isinstance(v, os.PathLike) else v for key, v in table.items()}
    for key in _LOCAL_PATHS:
        if isinstance(host.get(key), str):
            host[key] = str(folder / Path(host[key]).expanduser())
    for key in _LISTS_OF_PATHS:
        paths = host.get(key)
        if isinstance(paths, (list, tuple)):
            host[key] = [str(folder / Path(os.fspath(path)).expanduser()) for path in paths]
    return host


# --- What the program says ------------------------------------------------------------------------


def _of_worker(request: Request) -> _Host:
    worker = request.worker
    if worker is None:
        return {}
    host: _Host = {"executor": worker.executor}
    if worker.concurrency is not None:
        host["slots"] = worker.concurrency
    return host


def _of_image(image: Image) -> _Host:
    host: _Host = {}
    mine = ".".join(platform.python_version_tuple()[:2])
    if image.python != "auto" and ".".join(image.python.split(".")[:2]) != mine:
        raise Unsupported(
            f"python={image.python!r}: this program runs on Python {mine}, and functions and data "
            f"travel between equal versions only; leave python out, or run it with {image.python}"
        )
    if image.apt:
        raise Unsupported(
            f"apt={list(image.apt)!r}: SSH installs nothing outside of its cache folder; run "
            f"`apt install {' '.join(image.apt)}` on the nodes and leave apt out"
        )
    if image.python != "auto":
        host["python"] = image.python
    if image.wheels is not None:
        folder = Path(image.wheels).expanduser()
        if not any(folder.glob("*.whl")):
            raise Unsupported(f"wheels={image.wheels!r}: there is no folder with wheels (*.whl)")
        host["wheels"] = str(folder.absolute())
    if image.includes:
        host["includes"] = [str(_include(str(include))) for include in image.includes]
    if image.pip:
        host["pip"] = list(image.pip)
    if image.env:
        host["environment"] = dict(image.env)
    return host


def _include(include: str) -> Path:
    path = find_include(include)
    if path is None:
        raise Unsupported(
            f"includes: {include!r} is not a file or folder here, nor a module that this program "
            "can import"
        )
    return path


_SAID_IN_ADDRESS = {
    "user": re.compile(r"[^@]+@"),
    "port": re.compile(r"(?:[^@]+@)?(?:\[[^]]*\]|[^][:*]+):\d"),
    "slots": re.compile(r".*\*"),
}


def _merge(host: _Host, file_defaults: _Host, said: _Host, image: _Host) -> _Host:
    """The host comes first, then the program, then the file's defaults; lists of packages and
    variables are joined."""
    mine = ".".join(platform.python_version_tuple()[:2])
    merged: _Host = {"python": mine, **file_defaults, **said, **image}
    address = str(host.get("address", ""))
    for key, pattern in _SAID_IN_ADDRESS.items():
        if key not in host and pattern.match(address):
            merged.pop(key, None)
    merged.update(host)
    layers = (file_defaults, said, image, host)
    for key in ("pip", "includes"):
        lists = [layer[key] for layer in layers if isinstance(layer.get(key), (list, tuple))]
        if len(lists) > 1:
            merged[key] = list(dict.fromkeys(item for items in lists for item in items))
    tables = [found for layer in layers if isinstance(found := layer.get("environment"), Mapping)]
    if len(tables) > 1:
        merged["environment"] = {key: text for table in tables for key, text in table.items()}
    return merged


# --- TOML -----------------------------------------------------------------------------------------


def _to_toml(hosts: Sequence[_Host]) -> str:
    lines: list[str] = []
    for host in hosts:
        lines.append("[[host]]")
        lines += [f"{json.dumps(str(key))} = {_value(key, value)}" for key, value in host.items()]
    return "\n".join(lines) + "\n"


def _value(key: str, value: Any) -> str:
    if isinstance(value, (bool, int, float)):
        return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(_value(key, item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(k))} = {_value(key, item)}" for k, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    raise TypeError(f"{key} must be text, a number, a list or a table, not {value!r}")
