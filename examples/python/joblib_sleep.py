"""How much of the ideal time 2,000 sleeping tasks reach through joblib.

PYTHONPATH=build/release/python python3 examples/python/joblib_sleep.py [TASKS] [SLOTS] [SECONDS]
"""

import sys
import time

from joblib import Parallel, delayed

from muster.joblib import JoblibPool


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    slots = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.1

    with JoblibPool(concurrency=slots, executor="thread") as pool:
        Parallel(n_jobs=-1)(delayed(abs)(i) for i in range(slots))  # loads joblib on the node
        start = time.perf_counter()
        Parallel(n_jobs=-1)(delayed(time.sleep)(seconds) for _ in range(tasks))
        taken = time.perf_counter() - start
        ideal = tasks / pool.total_slots * seconds

    print(f"tasks: {tasks} | slots: {slots} | each: {seconds} s | {tasks / taken:.0f} tasks/s")
    print(f"total: {taken:.2f} s | ideal: {ideal:.2f} s | efficiency: {ideal / taken:.1%}")


if __name__ == "__main__":
    main()
