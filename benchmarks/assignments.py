"""What loops of assignments cost: time for each, and the memory at the peak, by the length of the loop."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff import compiled, gradient

LONGEST = 1000  # of which a program is made: it has a line for each operation of each turn


def path(x: Any, n: int) -> Any:
    """Fill a path of numbers, each from the one before."""
    z = np.zeros_like(x, shape=n)
    for i in range(n - 1):
        z[i + 1] = 0.999 * z[i] + x[0]
    return np.sum(z * z)


def orbit(x: Any, n: int) -> Any:
    """Fill a path of vectors."""
    z = np.zeros_like(x, shape=(n, 2))
    z[0] = x
    for i in range(n - 1):
        z[i + 1] = z[i] + 0.01 * z[i, ::-1]
    return np.sum(z * z)


def sums(x: Any, n: int) -> Any:
    """Add to all of an array, which is a new array each time: its derivative may need it."""
    z = x[0] * np.ones(n)
    for _ in range(n):
        z += x[1]
    return np.sum(z * z)


def measure(loop: Callable[[Any, int], Any], n: int) -> tuple[list[float], float]:
    """Give the microseconds of one turn (NumPy, compiled, with gradient), and the megabytes of the last."""
    x = np.array([1.0, 0.5])
    times = []
    program = compiled(lambda x: loop(x, n))
    for call in (lambda: loop(x, n), lambda: program(x), lambda: gradient(lambda x: loop(x, n), x)):
        if n > LONGEST and len(times) == 1:
            times.append(np.nan)
            continue
        call()  # the first call of a program records it
        seconds = []
        for _ in range(3):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        times.append(min(seconds) / n * 1e6)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return times, peak / 1e6


def main() -> None:
    """Print the table."""
    print("| loop | turns | NumPy, µs each | with its gradient, µs each | compiled, µs each | peak, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for loop in (path, orbit, sums):
        for n in (100, 1000, 10_000):
            (plain, program, both), peak = measure(loop, n)
            shown = "" if np.isnan(program) else f"{program:.1f} "
            print(f"| {loop.__name__} | {n} | {plain:.1f} | {both:.0f} | {shown}| {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
