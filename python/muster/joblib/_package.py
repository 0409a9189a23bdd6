"""A package that joblib's users need on the nodes, as a plug-in of a pool (muster/plugins.py).

Frozen values. Threads: any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from muster._node.preload import VARIABLE
from muster.joblib._activation import Activation
from muster.provider import Image


@dataclass(frozen=True)
class Package:
    """Needs a package on the nodes, of one version if that is said; `module` is what it imports."""

    name: str
    version: str | None
    module: str

    def transform_image(self, image: Image) -> Image:
        """`image` with the package, which runners import before their first task. A provider that
        cannot install it checks it."""
        wanted = self.name if self.version is None else f"{self.name}=={self.version}"
        pip = image.pip if wanted in image.pip else (*image.pip, wanted)
        modules = [name for name in image.env.get(VARIABLE, "").split(",") if name]
        if self.module not in modules:
            modules.append(self.module)
        return dataclasses.replace(image, pip=pip, env={**image.env, VARIABLE: ",".join(modules)})

    @contextmanager
    def around_client(self, pool: Any) -> Iterator[None]:
        """joblib uses `pool` while the pool's block lasts. Nests: joblib() beside sklearn()."""
        activation = Activation(pool)
        activation.begin()
        try:
            yield
        finally:
            activation.end()


def joblib(version: str | None) -> Package:
    return Package("joblib", version, "joblib")


def sklearn(version: str | None) -> Package:
    return Package("scikit-learn", version, "sklearn")
