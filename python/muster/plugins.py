"""What a ComputePool can be given besides its machines: `ComputePool(plugins=[joblib()])`.

A plug-in may ask the pool's image for packages, and may wrap the pool's block. Each is a frozen
value. Threads: any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.provider import Image


PRELOAD = "MUSTER_PRELOAD"
"""The environment variable with the modules that runners import at their start, with commas."""


@dataclass(frozen=True)
class _Package:
    """Needs a package on the nodes, of one version if that is said; `module` is what it imports."""

    name: str
    version: str | None
    module: str

    def transform_image(self, image: Image) -> Image:
        """`image` with the package, which runners import before their first task. A provider that
        cannot install it checks it."""
        wanted = self.name if self.version is None else f"{self.name}=={self.version}"
        pip = image.pip if wanted in image.pip else (*image.pip, wanted)
        modules = [name for name in image.env.get(PRELOAD, "").split(",") if name]
        if self.module not in modules:
            modules.append(self.module)
        return dataclasses.replace(image, pip=pip, env={**image.env, PRELOAD: ",".join(modules)})

    @contextmanager
    def around_client(self, pool: Any) -> Iterator[None]:
        """joblib uses `pool` while the pool's block lasts. Nests: joblib() beside sklearn()."""
        from muster.joblib._activation import Activation

        activation = Activation(pool)
        activation.begin()
        try:
            yield
        finally:
            activation.end()


def joblib(version: str | None = None) -> _Package:
    """joblib runs on the pool inside the pool's block; `version` must be the nodes' if given."""
    return _Package("joblib", version, "joblib")


def sklearn(version: str | None = None) -> _Package:
    """As `joblib()`, and scikit-learn must be on the nodes, of that version if it is given."""
    return _Package("scikit-learn", version, "sklearn")
