"""What this tree says of itself."""

from __future__ import annotations

import re

from debian_root import SOURCE


def version() -> str:
    """Of the software, from the one place that says it."""
    text = (SOURCE / "CMakeLists.txt").read_text()
    match = re.search(r"^project\(muster VERSION (\d+\.\d+\.\d+) ", text, re.MULTILINE)
    assert match, "CMakeLists.txt has no project(muster VERSION X.Y.Z ...)"
    return match[1]
