"""What tasks are run with: their limits, and what each takes of its node.

Frozen values that check themselves when they are made. Threads: any. Nothing here blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muster import _native
from muster._data.blobs import Sharing
from muster.provider import check_count, check_seconds, memory_bytes

_MAX_CPUS = 65_536


@dataclass(frozen=True)
class Resources:
    """What one task takes of its node: `cpu` cores (2, 0.5), `memory` ("4GB", or bytes), `gpus`
    (those alone are visible to it), and the `labels` that its node must have. What is left out is
    the share of a slot."""

    cpu: float | None = None
    memory: str | int | None = None
    gpus: int | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_cpu(self.cpu)
        _check_memory(self.memory)
        if self.gpus is not None:
            check_count("gpus", self.gpus, least=0)
        object.__setattr__(self, "labels", _check_labels(self.labels))


@dataclass(frozen=True)
class TaskOptions:
    """Of each task of a job, as the core takes them; 0 and () are its defaults."""

    timeout: float = 0.0
    retries: int = 0
    priority: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    labels: tuple[str, ...] = ()
    mmap_mode: str = "r"

    def with_resources(self, resources: Resources | None) -> TaskOptions:
        if resources is None:
            return self
        given = {
            name: value
            for name, value in vars(resources).items()
            if value is not None and value != ()
        }
        return self.changed(**given)

    def changed(self, **changes: Any) -> TaskOptions:
        """With what the user says: `timeout`, `retries`, `priority`, `cpu`, `memory`, `gpus`,
        `labels`, `mmap_mode`. None means the default. Raises TypeError and ValueError, which name
        it."""
        fields: dict[str, Any] = {}
        for name, value in changes.items():
            if name == "timeout":
                fields["timeout"] = check_seconds("timeout", value)
            elif name in ("retries", "gpus"):
                fields[name] = 0 if value is None else check_count(name, value, least=0)
            elif name == "priority":
                fields["priority"] = (
                    0 if value is None else check_count(name, value, least=-(2**31))
                )
            elif name == "cpu":
                fields["cpus"] = _check_cpu(value)
            elif name == "memory":
                fields["memory_bytes"] = _check_memory(value)
            elif name == "mmap_mode":
                fields["mmap_mode"] = _check_mmap_mode(value)
            elif name == "labels":
                fields["labels"] = _check_labels(() if value is None else value)
            else:
                raise TypeError(
                    f"{name!r} is not an option of tasks; there are timeout, retries, priority, "
                    "cpu, memory, gpus, labels and mmap_mode"
                )
        return dataclasses.replace(self, **fields)

    @property
    def threads(self) -> int | None:
        """How many threads BLAS and OpenMP get for `cpus`; None: it was not said."""
        return max(1, math.floor(self.cpus)) if self.cpus else None

    def for_job(self, items: int = 1) -> dict[str, Any]:
        """The arguments of `Session.open_job`; a task of several items gets the time of all."""
        options = {**vars(self), "timeout": self.timeout * items}
        del options["mmap_mode"]
        return options

    @property
    def sharing(self) -> Sharing:
        """What tasks get of large arguments."""
        return Sharing(copied=self.mmap_mode == "c")


def _check_cpu(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"cpu must be a number of cores, not {value!r}")
    if not 0.001 <= value <= _MAX_CPUS:
        raise ValueError(f"cpu must be between 0.001 and {_MAX_CPUS} cores, not {value}")
    return float(value)


def _check_memory(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        return check_count("memory", value)
    if not isinstance(value, str):
        raise TypeError(f'memory must be like "4GB" or a number of bytes, not {value!r}')
    return memory_bytes(value)


def _check_mmap_mode(value: object) -> str:
    if value is None:
        return "r"
    if value not in ("r", "c"):
        raise ValueError(f'mmap_mode must be "r" (read-only) or "c" (copy on write), not {value!r}')
    return str(value)


def _check_labels(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"labels must be a list of words, not {value!r}")
    for label in value:
        if not isinstance(label, str) or not label:
            raise TypeError(f"labels must be words, not {label!r}")
    if len(value) > _native.MAX_LABELS:
        raise ValueError(f"at most {_native.MAX_LABELS} labels, not {len(value)}")
    return tuple(sorted(set(value)))
