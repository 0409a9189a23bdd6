"""joblib's own tests of Parallel, with Muster as one more backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import joblib.test
import pytest

from muster import ComputePool, Image, Worker

SUITE = Path(__file__).parent / "suite"
LEAST = {"1.2": (80, 55), "1.3": (110, 60), "1.4": (140, 80)}
"""So many pass at least, by name and as the default: fewer means that the plug-in no longer reaches
joblib's lists."""
LEAST_NEWER = (150, 85)


def run_suite(folder: Path, pool: ComputePool, environment: dict[str, str]) -> ElementTree.Element:
    """The JUnit report of joblib's test_parallel.py on `pool`."""
    report = folder / "report.xml"
    (folder / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    thread_unsafe: of joblib\n    no_cover: of joblib\n"
    )
    tests = Path(joblib.test.__file__).parent / "test_parallel.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "muster_suite", "-p", "no:cacheprovider"]
    command += ["-c", str(folder / "pytest.ini"), "--rootdir", str(tests.parent), "--timeout=60"]
    command += [f"--junit-xml={report}", str(tests)]
    subprocess.run(command, env={**environment, "MUSTER_BROKER": pool.broker}, check=False)
    return ElementTree.parse(report).getroot()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("as_default", [False, True], ids=["by name", "as the default"])
def test_joblibs_own_tests_pass(tmp_path: Path, as_default: bool) -> None:
    path = os.pathsep.join([str(SUITE), *sys.path])
    shared = {"PYTHONPATH": path, "MUSTER_SUITE_KEY": "of managers in joblib's tests"}
    ours = {**os.environ, **shared, **({"MUSTER_SUITE_DEFAULT": "1"} if as_default else {})}
    with ComputePool(worker=Worker(concurrency=4), image=Image(env=shared), output=False) as pool:
        report = run_suite(tmp_path, pool, ours)

    cases = report.findall(".//testcase")
    failed = {
        case.get("name"): (case.find("failure") or case.find("error"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    passed = [case for case in cases if len(case) == 0]
    assert not failed, f"{len(failed)} of joblib's tests failed: {', '.join(map(str, failed))}"
    assert len(passed) >= LEAST.get(joblib.__version__[:3], LEAST_NEWER)[as_default]


def test_the_document_names_every_excluded_test() -> None:
    sys.path.insert(0, str(SUITE))
    try:
        from exclusions import EXCLUSIONS
    finally:
        sys.path.remove(str(SUITE))
    document = (Path(__file__).parents[3] / "docs" / "joblib.md").read_text()
    rows = re.findall(r"^\| `(test_\w+)` \| (.*) \|$", document, re.MULTILINE)
    assert dict(rows) == EXCLUSIONS
