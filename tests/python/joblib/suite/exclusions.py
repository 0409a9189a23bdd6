"""Which of joblib's own tests are not for Muster, and why. docs/joblib.md has the same table."""

from __future__ import annotations

import re

EXCLUSIONS: dict[str, str] = {
    r"test_memmapping_leaks": "looks into the client's `temp_folder`",
    r"test_backend_hinting_and_constraints": "expects loky as the default backend",
    r"test_parallel_pickling": "expects the words of loky's own error",
    r"test_threadpool_limitation_in_child_loky": "compares loky's workers with the default backend",
}


def exclusion(test: str) -> str | None:
    """The reason why a test with this name is left out; None: it is not."""
    for pattern, reason in EXCLUSIONS.items():
        if re.match(pattern, test):
            return reason
    return None
