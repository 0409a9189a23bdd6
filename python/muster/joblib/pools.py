"""Pools whose block makes joblib and scikit-learn run on them.

    with JoblibPool(nodes=2, concurrency=4) as pool:
        Parallel(n_jobs=-1)(delayed(work)(x) for x in data)     # on pool.total_slots slots

Threads: as ComputePool.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from muster import _native
from muster.errors import PoolNotActive, Unsupported
from muster.joblib import _package
from muster.joblib._activation import Activation
from muster.pool import ComputePool
from muster.provider import DEFAULT_ALLOCATION, Image, Local, Worker

_IMAGE_PLACE = 5  # among the arguments of a JoblibPool


class JoblibPool(ComputePool):
    """A ComputePool that `joblib.Parallel` uses while its block lasts, also in other threads.

    `nodes` × `concurrency` tasks run at once, one by default; on other machines, `provider=SSH(…)`,
    all of them with all their cores. `timeout` is in seconds per batch of tasks, from its
    start on a slot. `machine`, `accelerator`, `cpu`, `memory` and `allocation` choose machines and
    raise Unsupported from a provider that has no choice; so does a `joblib_version` that the
    provider cannot install. `broker` joins a running pool instead; so does a pool that says
    nothing of what it is to be, when MUSTER_BROKER names one or `muster up` started one.
    """

    def __init__(
        self,
        provider: Any = None,
        nodes: int | None = None,
        concurrency: int | None = None,
        machine: str | None = None,
        image: Image | None = None,
        accelerator: str | None = None,
        cpu: int | None = None,
        memory: str | None = None,
        allocation: str = DEFAULT_ALLOCATION,
        timeout: float | None = 3600,
        joblib_version: str | None = None,
        *,
        executor: str | None = None,
        broker: str | None = None,
        plugins: Any = (),
        **options: Any,
    ) -> None:
        """Checks the arguments; starts nothing. Raises Unsupported, TypeError or ValueError."""
        worker: Worker | None = None
        if concurrency is not None or executor is not None:
            worker = Worker(concurrency=concurrency, executor=executor or "process")
        shape = (provider, nodes, worker, machine, image, accelerator, cpu, memory, joblib_version)
        if broker is None and not any(shape) and options.get("spool") is None:
            broker = _native.default_endpoint() or None
        if broker is not None:
            _refuse_versions(joblib_version=joblib_version)
        elif provider is None or isinstance(provider, Local):
            worker = worker or Worker()
            worker = dataclasses.replace(worker, concurrency=worker.concurrency or 1)
        super().__init__(
            provider,
            nodes,
            worker=worker,
            image=image,
            timeout=timeout,
            plugins=[*plugins, _package.joblib(joblib_version)],
            broker=broker,
            machine=machine,
            accelerator=accelerator,
            vcpus=cpu,
            memory=memory,
            allocation=None if allocation == DEFAULT_ALLOCATION else allocation,
            **options,
        )


class ScikitLearnPool(JoblibPool):
    """A JoblibPool for scikit-learn: `n_jobs=-1` of a search or a validation is the whole pool."""

    def __init__(
        self, *args: Any, sklearn_version: str | None = None, plugins: Any = (), **options: Any
    ) -> None:
        """As JoblibPool; `sklearn_version` as `joblib_version`."""
        if options.get("broker") is not None:
            _refuse_versions(sklearn_version=sklearn_version)
        elif sklearn_version is not None and len(args) < _IMAGE_PLACE:
            options.setdefault("image", Image())  # a running pool has the version that it has
        super().__init__(*args, plugins=[*plugins, _package.sklearn(sklearn_version)], **options)


@contextmanager
def sklearn_backend(pool: ComputePool) -> Iterator[ComputePool]:
    """Makes joblib, and with it scikit-learn, use `pool` inside the block; the pool must be active.

    Raises PoolNotActive if it is not.
    """
    if not pool.active:
        raise PoolNotActive("sklearn_backend(pool) needs an active pool: enter `with pool:` first")
    activation = Activation(pool)
    activation.begin()
    try:
        yield pool
    finally:
        activation.end()


def _refuse_versions(**versions: str | None) -> None:
    """A running pool has what it has; nobody here can see which versions."""
    for name, version in versions.items():
        if version is not None:
            raise Unsupported(f"{name}={version!r}: a pool that runs already has its own packages")
