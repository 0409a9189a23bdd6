"""A parameter sweep whose points are cached: the second run, or one after a crash, skips them.

PYTHONPATH=build/release/python python3 examples/python/joblib_sweep.py [CACHE_FOLDER]
"""

import itertools
import random
import sys
import tempfile
import time

from joblib import Memory, Parallel, delayed

from muster.joblib import JoblibPool


def simulate(step: float, walkers: int, seed: int) -> float:
    """How far random walkers get in the mean."""
    generator = random.Random(seed)
    ends = [sum(generator.gauss(0, step) for _ in range(1000)) for _ in range(walkers)]
    return sum(map(abs, ends)) / walkers


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="muster-sweep-")
    cached = Memory(folder, verbose=0).cache(simulate)
    points = list(itertools.product([0.1, 0.5, 1.0], [50, 100], range(5)))
    with JoblibPool(concurrency=2):
        for run in ("first", "second"):
            start = time.perf_counter()
            means = Parallel(n_jobs=-1, verbose=1)(delayed(cached)(*point) for point in points)
            print(f"{run} run: {len(means)} points in {time.perf_counter() - start:.2f} s")
    print(f"the cache is in {folder}")


if __name__ == "__main__":
    main()
