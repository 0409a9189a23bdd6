"""No test uses a broker that its user happens to run."""

from __future__ import annotations

import os

os.environ["MUSTER_BROKER"] = ""
