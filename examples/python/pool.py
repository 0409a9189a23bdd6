"""A tour of the pool: submit, map, as_completed, compute.

PYTHONPATH=build/release/python python3 examples/python/pool.py
"""

import itertools
import math

import muster


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


@muster.compute
def count_primes(first: int, last: int) -> int:
    print(f"counting from {first} to {last}")
    return sum(map(is_prime, range(first, last)))


def main() -> None:
    with muster.ComputePool(worker=muster.Worker(concurrency=2)) as pool:
        print(f"{pool.total_slots} slots at {pool.broker}")

        future = pool.submit(is_prime, 2**31 - 1)
        print("2**31 - 1 is prime:", future.result())

        # Inputs without end: what is pulled follows what is taken.
        numbers = itertools.count(10**6)
        flags = pool.map(is_prime, numbers)
        found = (n for n, prime in zip(itertools.count(10**6), flags) if prime)
        print("primes after a million:", list(itertools.islice(found, 5)))
        flags.close()

        futures = [count_primes(i * 20_000, (i + 1) * 20_000) > pool for i in range(8)]
        total = sum(future.result() for future in muster.as_completed(futures))
        print("primes below 160,000:", total)

        print("the same in one task:", count_primes(0, 160_000) >> pool)


if __name__ == "__main__":
    main()
