"""What a ComputePool can be given besides its machines: `ComputePool(plugins=[joblib()])`.

A plug-in may ask the pool's image for packages, and may wrap the pool's block. Each is a frozen
value. Threads: any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.joblib._package import Package


def joblib(version: str | None = None) -> Package:
    """joblib runs on the pool inside the pool's block; `version` must be the nodes' if given."""
    from muster.joblib import _package

    return _package.joblib(version)


def sklearn(version: str | None = None) -> Package:
    """As `joblib()`, and scikit-learn must be on the nodes, of that version if it is given."""
    from muster.joblib import _package

    return _package.sklearn(version)
