"""How much of the ideal time many short sleeps reach on many slots.

PYTHONPATH=build/release/python python3 examples/python/sleep.py [TASKS] [SLOTS] [SECONDS]
"""

import sys
import time

import muster


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    slots = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.05

    worker = muster.Worker(concurrency=slots, executor="thread")
    with muster.ComputePool(worker=worker) as pool:
        start = time.perf_counter()
        for _ in pool.map(time.sleep, [seconds] * tasks):
            pass
        taken = time.perf_counter() - start

    ideal = tasks / slots * seconds
    print(f"tasks: {tasks} | slots: {slots} | each: {seconds} s")
    print(f"total: {taken:.2f} s | ideal: {ideal:.2f} s | efficiency: {ideal / taken:.1%}")


if __name__ == "__main__":
    main()
