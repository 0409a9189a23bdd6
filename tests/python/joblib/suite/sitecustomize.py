"""Every Python process of the suite's run begins with this: the scripts that joblib's tests start
know the backend, and clients and runners have one key for multiprocessing's managers.
"""

import multiprocessing
import os

if "MUSTER_SUITE_KEY" in os.environ:
    multiprocessing.current_process().authkey = os.environ["MUSTER_SUITE_KEY"].encode()

if "MUSTER_BROKER" in os.environ:
    import muster.joblib  # noqa: F401
