#!/usr/bin/env python3
"""Prints `PASSED FAILED` for a JUnit report of ctest or pytest.

ctest: a skipped test is neither. pytest: every test has to run, so a skipped one has failed; one
that is expected to fail is neither.
"""

import sys
import xml.etree.ElementTree


def ctest_counts(suite):
    total, failed, skipped, disabled = (
        int(suite.get(name, "0")) for name in ("tests", "failures", "skipped", "disabled")
    )
    return total - failed - skipped - disabled, failed


def pytest_counts(suites):
    passed = failed = 0
    for case in suites.iter("testcase"):
        troubles = [child for child in case if child.tag in ("failure", "error", "skipped")]
        if not troubles:
            passed += 1
        elif any(trouble.get("type") != "pytest.xfail" for trouble in troubles):
            failed += 1
    return passed, failed


root = xml.etree.ElementTree.parse(sys.argv[1]).getroot()
print(*(pytest_counts if root.tag == "testsuites" else ctest_counts)(root))
