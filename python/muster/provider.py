"""What a pool is made of: which machines (`Local`, or `SSH` of muster/ssh.py), how many tasks each
runs at once (`Worker`) and what they have installed (`Image`).

All are frozen values that check themselves when they are made. Threads: any. Nothing here blocks.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from muster import _native
from muster.errors import MusterError, Unsupported

EXECUTORS = ("process", "thread")
ALLOCATIONS = ("spot-if-available", "always-spot", "spot", "on-demand", "cheapest")
DEFAULT_ALLOCATION = "spot-if-available"
_MEMORY_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def check_count(name: str, value: object, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`, else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def check_seconds(name: str, value: object) -> float:
    """`value` in seconds; None means no limit and gives 0."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be more than 0 seconds (None: no limit), not {value}")
    return float(value)


def cores() -> int:
    """The processors that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Worker:
    """How each node runs tasks.

    `concurrency`: its slots, that is how many tasks it runs at once; None: its cores, or its share
    of them.
    More slots than cores is right for tasks that wait. `executor`: "process" gives each slot a
    process of its own, so that a crash harms nothing else; "thread" runs all slots as threads of
    one process, which share its memory and its GIL.
    """

    concurrency: int | None = None
    executor: str = "process"

    def __post_init__(self) -> None:
        if self.concurrency is not None:
            check_count("concurrency", self.concurrency)
        if self.executor not in EXECUTORS:
            choice = " or ".join(repr(name) for name in EXECUTORS)
            raise ValueError(f"executor must be {choice}, not {self.executor!r}")


@dataclass(frozen=True)
class Image:
    """What the nodes must have: a Python version ("auto": this one's), packages, environment.

    `pip`: requirements ("numpy", "numpy==1.26.4"); `wheels`: a folder on this machine with wheels
    that are installed from instead of an index; `includes`: modules and packages of this project
    that tasks import, by path or by name. `env` is added to the environment of the workers.

    On other machines (`SSH`) `pip` becomes a virtual environment, which is kept there and used
    again. A local pool runs on what this interpreter has: it checks `python`, `pip` and
    `includes`, and cannot install.
    """

    python: str = "auto"
    pip: Sequence[str] = ()
    apt: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    wheels: str | os.PathLike[str] | None = None
    includes: Sequence[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        for name in ("pip", "apt"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"{name} must be a list of names, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        if isinstance(self.includes, (str, os.PathLike)):
            raise TypeError(f"includes must be a list of paths or names, not {self.includes!r}")
        object.__setattr__(self, "includes", tuple(os.fspath(item) for item in self.includes))
        if self.wheels is not None:
            object.__setattr__(self, "wheels", os.fspath(self.wheels))
        if not re.fullmatch(r"auto|\d+\.\d+(\.\d+)?", self.python):
            raise ValueError(f'python must be "auto" or like "3.11", not {self.python!r}')
        for key, text in self.env.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise TypeError(f"env must map strings to strings, not {key!r} to {text!r}")
            if not key or "=" in key or "\0" in key + text:
                raise ValueError(f"env cannot hold a variable {key!r}={text!r}")
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))


@dataclass(frozen=True)
class Request:
    """What a pool asks its provider for; None where the user said nothing."""

    nodes: int | None = None
    vcpus: int | None = None
    worker: Worker | None = None
    image: Image = field(default_factory=Image)
    accelerator: str | None = None
    memory: str | None = None
    machine: str | None = None
    allocation: str | None = None
    region: str | None = None
    ttl: float | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "vcpus"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.memory is not None:
            memory_bytes(self.memory)
        if self.allocation is not None and self.allocation not in ALLOCATIONS:
            names = ", ".join(ALLOCATIONS)
            raise ValueError(f"allocation must be one of {names}, not {self.allocation!r}")


@dataclass(frozen=True)
class Hosts:
    """Machines that the pool's broker is to reach by ssh."""

    text: str
    """A hosts file (docs/hosts.md)."""
    origin: str
    """What errors call it."""
    sources: tuple[tuple[str, str], ...]
    """The files that the user wrote, as (text, path): errors about them name their lines."""
    count: int
    at_least: int
    """With so many the pool starts; what is missing is warned about."""
    reach_seconds: float
    """A host that cannot be reached for so long has failed. Preparing it may take any time."""
    cores: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    """What each node must have, as `cores` and `memory_bytes`."""


@dataclass(frozen=True)
class Plan:
    """How a pool starts: so many workers on this machine, or hosts."""

    workers: int = 0
    slots: int = 0
    executor: str = "process"
    environment: Mapping[str, str] = field(default_factory=dict)
    hosts: Hosts | None = None
    gpus: int = 0
    """What a task takes unless it is said otherwise, as `labels`."""
    labels: tuple[str, ...] = ()

    @property
    def total_slots(self) -> int:
        """Of the workers on this machine."""
        return self.workers * self.slots


class Provider(Protocol):
    """Where nodes come from."""

    def plan(self, request: Request) -> Plan:
        """Raises Unsupported for what this provider cannot honour. Starts nothing."""


@dataclass(frozen=True)
class Local:
    """This machine: every node of the pool is a worker process on it.

    `vcpus` and `memory` are requirements of each node; the pool starts if the machine has that
    much for all nodes together.
    """

    def plan(self, request: Request) -> Plan:
        nodes = request.nodes or 1
        _check_machine(request, nodes)
        check_image(request.image)
        worker = request.worker or Worker()
        slots = worker.concurrency or request.vcpus or max(1, cores() // nodes)
        return Plan(nodes, slots, worker.executor, dict(request.image.env))


def _check_machine(request: Request, nodes: int) -> None:
    for name in ("accelerator", "machine", "region", "ttl"):
        if getattr(request, name) is not None:
            raise Unsupported(
                f"{name}={getattr(request, name)!r}: a local pool runs on this machine as it "
                f"is and cannot choose its {name}; leave {name} out"
            )
    if request.allocation not in (None, DEFAULT_ALLOCATION):
        raise Unsupported(
            f"allocation={request.allocation!r}: a local pool buys no machines; "
            "leave allocation out"
        )
    if request.vcpus is not None and nodes * request.vcpus > cores():
        raise Unsupported(
            f"vcpus={request.vcpus}: {nodes} nodes would need "
            f"{nodes * request.vcpus} cores and this machine has {cores()}; ask for "
            "less, or for more tasks at once with Worker(concurrency=...)"
        )
    if request.memory is not None:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if nodes * memory_bytes(request.memory) > have:
            raise Unsupported(
                f"memory={request.memory!r}: this machine has {have / 2**30:.1f} GB for all "
                f"{nodes} nodes together; ask for less or leave memory out"
            )


def check_image(image: Image) -> None:
    """Raises Unsupported if this interpreter is not what `image` asks for."""
    have = platform.python_version()
    if image.python != "auto" and image.python not in (have, ".".join(have.split(".")[:2])):
        raise Unsupported(
            f"python={image.python!r}: a local pool runs this interpreter, Python {have}; start "
            f"the program with Python {image.python} or leave python out"
        )
    if image.apt:
        raise Unsupported(
            f"apt={list(image.apt)!r}: a local pool installs nothing; "
            f"run `apt install {' '.join(image.apt)}` and leave apt out"
        )
    if image.wheels is not None:
        raise Unsupported(
            f"wheels={image.wheels!r}: a local pool installs nothing; run `{sys.executable} -m pip "
            f"install --no-index --find-links {image.wheels} ...` and leave wheels out"
        )
    for include in image.includes:
        if not _is_importable(str(include)):
            raise Unsupported(
                f"includes: {include!r} cannot be imported here, and the tasks of a local pool "
                "import what this program can; add its folder to sys.path or PYTHONPATH"
            )
    missing = [text for text in image.pip if not _is_installed(text)]
    if missing:
        wanted = " ".join(f"'{text}'" for text in missing)
        raise Unsupported(
            f"pip: {', '.join(missing)} is not installed here, and a local pool installs nothing; "
            f"run `{sys.executable} -m pip install {wanted}`"
        )


def find_include(include: str) -> Path | None:
    """The file or folder that `include` names: a path, or a module that can be imported here."""
    path = Path(include).expanduser()
    if path.exists():
        return path.absolute()
    if not re.fullmatch(r"[^\W\d]\w*", include):
        return None
    try:
        spec = importlib.util.find_spec(include)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute()
    return Path(spec.origin).absolute() if spec.origin and spec.has_location else None


def _is_importable(include: str) -> bool:
    path = find_include(include)
    if path is None:
        return False
    try:
        return importlib.util.find_spec(path.stem if path.is_file() else path.name) is not None
    except (ImportError, ValueError):
        return False


def _is_installed(requirement: str) -> bool:
    plain = re.fullmatch(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*", requirement)
    try:
        if plain:
            importlib.metadata.version(plain.group(1))
            return True
        try:
            from packaging.requirements import InvalidRequirement, Requirement
        except ImportError as missing:
            raise MusterError(
                f"pip: to compare versions as in {requirement!r}, install the package 'packaging'"
            ) from missing
        try:
            parsed = Requirement(requirement)
        except InvalidRequirement as error:
            raise ValueError(f"pip: {requirement!r} is not a requirement: {error}") from None
        if parsed.marker is not None and not parsed.marker.evaluate():
            return True
        version = importlib.metadata.version(parsed.name)
        return parsed.specifier.contains(version, prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def memory_bytes(text: str) -> int:
    """Bytes of a text like "32GB", "512 MiB" or "8g"."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if not found:
        raise ValueError(f'memory must be like "32GB", not {text!r}')
    return int(float(found.group(1)) * _MEMORY_UNITS[found.group(2).upper()])


def with_package(environment: dict[str, str]) -> dict[str, str]:
    """`environment`, in which Python finds this package first."""
    package = str(Path(__file__).absolute().parent.parent)
    others = environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (package, others) if part)
    return environment


def programs_folder() -> str:
    """The folder of muster-broker and muster-worker; "": the core looks for them."""
    if os.environ.get(_native.PROGRAMS_VARIABLE):
        return ""  # who says where means there
    package = Path(__file__).absolute().parent
    for folder in (package / "bin", package.parent.parent / "bin"):
        if os.access(folder / "muster-broker", os.X_OK):
            return str(folder)
    return ""
