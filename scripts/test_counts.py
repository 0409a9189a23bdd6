#!/usr/bin/env python3
"""Prints `PASSED FAILED` for a JUnit report of ctest; a skipped test is neither."""

import sys
import xml.etree.ElementTree

suite = xml.etree.ElementTree.parse(sys.argv[1]).getroot()
total, failed, skipped, disabled = (
    int(suite.get(name, "0")) for name in ("tests", "failures", "skipped", "disabled")
)
print(total - failed - skipped - disabled, failed)
