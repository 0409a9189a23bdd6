"""A pool of machines that you can ssh into: who they are, and primes counted on all of them.

PYTHONPATH=build/release/python python3 examples/python/remote.py user@host*4 [HOST ...]
PYTHONPATH=build/release/python python3 examples/python/remote.py hosts.toml
"""

from __future__ import annotations

import collections
import logging
import math
import socket
import sys
import time

import muster
from muster import SSH, ComputePool


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def count_primes(first: int) -> tuple[str, int]:
    return socket.gethostname(), sum(map(is_prime, range(first, first + 20_000)))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with ComputePool(SSH(*sys.argv[1:])) as pool:
            for node in pool.nodes():
                print(f"{node.name}: {node.slots} slots, {node.cores} cores, {node.state}")
            start = time.perf_counter()
            primes, chunks = 0, collections.Counter()
            for host, count in pool.map_unordered(count_primes, range(0, 2_000_000, 20_000)):
                primes += count
                chunks[host] += 1
            print(f"{primes} primes below two million in {time.perf_counter() - start:.1f} s")
            print("chunks by host:", dict(chunks))
    except muster.NodesFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
