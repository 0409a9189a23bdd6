"""What a pool is made of: which machines (`Local`), how many tasks each runs at once (`Worker`) and
what they have installed (`Image`).

All are frozen values that check themselves when they are made. Threads: any. Nothing here blocks.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

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

    `concurrency`: its slots, that is how many tasks it runs at once; None: its share of the cores.
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

    A local pool runs on what this interpreter has: it checks `python` and `pip`, and cannot
    install. `env` is added to the environment of the workers.
    """

    python: str = "auto"
    pip: Sequence[str] = ()
    apt: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("pip", "apt"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"{name} must be a list of names, not {value!r}")
            object.__setattr__(self, name, tuple(value))
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

    nodes: int = 1
    vcpus: int | None = None
    worker: Worker = field(default_factory=Worker)
    image: Image = field(default_factory=Image)
    accelerator: str | None = None
    memory: str | None = None
    machine: str | None = None
    allocation: str | None = None
    region: str | None = None
    ttl: float | None = None

    def __post_init__(self) -> None:
        check_count("nodes", self.nodes)
        if self.vcpus is not None:
            check_count("vcpus", self.vcpus)
        if self.memory is not None:
            memory_bytes(self.memory)
        if self.allocation is not None and self.allocation not in ALLOCATIONS:
            names = ", ".join(ALLOCATIONS)
            raise ValueError(f"allocation must be one of {names}, not {self.allocation!r}")


class Provider(Protocol):
    """Where nodes come from."""

    def check(self, request: Request) -> None:
        """Raises Unsupported for what this provider cannot honour. Starts nothing."""

    def concurrency(self, request: Request) -> int:
        """The slots of each node."""

    def environment(self, request: Request) -> dict[str, str]:
        """What the workers' environment has beyond this process's."""


@dataclass(frozen=True)
class Local:
    """This machine: every node of the pool is a worker process on it.

    `vcpus` and `memory` are requirements of each node; the pool starts if the machine has that
    much for all nodes together.
    """

    def check(self, request: Request) -> None:
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
        if request.vcpus is not None and request.nodes * request.vcpus > cores():
            raise Unsupported(
                f"vcpus={request.vcpus}: {request.nodes} nodes would need "
                f"{request.nodes * request.vcpus} cores and this machine has {cores()}; ask for "
                "less, or for more tasks at once with Worker(concurrency=...)"
            )
        if request.memory is not None:
            have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if request.nodes * memory_bytes(request.memory) > have:
                raise Unsupported(
                    f"memory={request.memory!r}: this machine has {have / 2**30:.1f} GB for all "
                    f"{request.nodes} nodes together; ask for less or leave memory out"
                )
        check_image(request.image)

    def concurrency(self, request: Request) -> int:
        if request.worker.concurrency is not None:
            return request.worker.concurrency
        return request.vcpus or max(1, cores() // request.nodes)

    def environment(self, request: Request) -> dict[str, str]:
        return dict(request.image.env)


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
    missing = [text for text in image.pip if not _is_installed(text)]
    if missing:
        wanted = " ".join(f"'{text}'" for text in missing)
        raise Unsupported(
            f"pip: {', '.join(missing)} is not installed here, and a local pool installs nothing; "
            f"run `{sys.executable} -m pip install {wanted}`"
        )


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
            raise ValueError(f"pip: {requirement!r} is no requirement: {error}") from None
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
    if os.environ.get("MUSTER_BIN_DIR"):
        return ""  # who says where means there
    package = Path(__file__).absolute().parent
    for folder in (package / "bin", package.parent.parent / "bin"):
        if os.access(folder / "muster-broker", os.X_OK):
            return str(folder)
    return ""
