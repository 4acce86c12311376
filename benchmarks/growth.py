"""How minidiff's cost grows: with the size of a parameter, and with the length of a computation."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff import Param, gradient, param, params, pullback
from minidiff.optimise import ADAM, update

Table = list[list[str]]


def by_size(largest: int = 10**8) -> Table:
    """Time a gradient and a step against the bytes of a float64 parameter; the header is the first row."""
    table = [["bytes", "gradient of Σx²", "per byte", "ADAM step", "per byte"]]
    for size in (10**k for k in range(1, 9)):
        if size <= largest:
            p, g = param(np.ones(-(-size // 8))), np.ones(-(-size // 8))
            θ, opt = params(p), ADAM()
            times = [
                _quickest(lambda p=p, θ=θ: gradient(lambda: np.sum(p**2), θ)),
                _quickest(lambda p=p, g=g, opt=opt: update(opt, p, g)),
            ]
            columns = [[seconds(t), f"{t / p.value.nbytes * 1e9:.3g} ns"] for t in times]
            table.append([power(size), *columns[0], *columns[1]])
    return table


def by_length(longest: int = 10**5) -> Table:
    """Time a gradient, and weigh its record, against the number of operations; the header comes first."""
    table = [["operations", "gradient", "per operation", "memory per operation"]]
    x = param(1.0)
    θ = params(x)
    for n in (10**k for k in range(1, 6)):
        if n <= longest:
            t = _quickest(lambda n=n: gradient(lambda: product(x, n), θ))
            table.append([power(n), seconds(t), seconds(t / n), f"{memory(x, n) / n:.0f} bytes"])
    return table


def product(x: Param, n: int) -> Any:
    """Multiply a parameter of one element n times by itself: n operations."""
    y = x
    for _ in range(n):
        y = y * x
    return y


def memory(x: Param, n: int) -> int:
    """Return the bytes of what is recorded of n operations on `x`, kept until the way back."""
    gc.collect()  # empties Python's stocks of tuples as well, which would go uncounted
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = pullback(lambda: product(x, n), params(x))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return after - before


def _quickest(run: Callable[[], Any]) -> float:
    """Return the least seconds of many runs: that of the one that other programs disturbed least."""
    times: list[float] = []
    while len(times) < 10 or (sum(times) < 0.5 and len(times) < 2000):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds(t: float) -> str:
    """Write a time in the unit that suits it."""
    return f"{t * 1e6:.3g} µs" if t < 1e-3 else f"{t * 1e3:.3g} ms"


def power(n: int) -> str:
    """Write a number; a large power of ten as one."""
    return str(n) if n < 10**4 else "10" + "⁰¹²³⁴⁵⁶⁷⁸"[len(str(n)) - 1]
