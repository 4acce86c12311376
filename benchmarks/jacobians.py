"""Print how the times of `jacobian` stand to autograd's: ``python benchmarks/jacobians.py``.

Both take turns in one process; a ratio is the median over the rounds of ours to theirs in that round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import machine

ROUNDS, SECONDS = 25, 0.004


def functions(n: int) -> dict[str, Callable[[Any, Any], Any]]:
    """Give twenty functions of a square n×n array, with NumPy or autograd's copy of it."""
    import numpy as np

    rng = np.random.default_rng(0)
    A, v = rng.normal(size=(n, n)) + n * np.eye(n), rng.normal(size=n)
    return {
        "exp": lambda xp, x: xp.exp(x),
        "sin": lambda xp, x: xp.sin(x),
        "tanh": lambda xp, x: xp.tanh(x),
        "square": lambda xp, x: xp.square(x),
        "sum": lambda xp, x: xp.sum(x, axis=0),
        "mean": lambda xp, x: xp.mean(x, axis=1),
        "maximum": lambda xp, x: xp.maximum(x, 0.1),
        "where": lambda xp, x: xp.where(A > 0, x, 2 * x),
        "cumsum": lambda xp, x: xp.cumsum(x, axis=0),
        "matmul": lambda xp, x: xp.matmul(A, x),
        "dot": lambda xp, x: xp.dot(x, A),
        "outer": lambda xp, x: xp.outer(x[0], v),
        "tensordot": lambda xp, x: xp.tensordot(x, A, axes=([1], [0])),
        "einsum": lambda xp, x: xp.einsum("ij,jk->ik", x, A),
        "concatenate": lambda xp, x: xp.concatenate([x, A, 2 * x]),
        "stack": lambda xp, x: xp.stack([x[0], x[1], v]),
        "reshape, transpose": lambda xp, x: xp.transpose(xp.reshape(x, (-1, 1))),
        "inv": lambda xp, x: xp.linalg.inv(x + A),
        "solve": lambda xp, x: xp.linalg.solve(A + x, v),
        "fft": lambda xp, x: xp.real(xp.fft.fft(x)),
    }


def compare(f: Callable[[Any, Any], Any], n: int) -> tuple[float, float]:
    """Give the median time of our Jacobian of an n×n array, and the median ratio to autograd's."""
    import autograd
    import autograd.numpy as anp
    import numpy as np
    from ratios import _calibrate, _time

    from minidiff import jacobian

    x = np.random.default_rng(1).normal(size=(n, n))
    by_autograd = autograd.jacobian(lambda x: f(anp, x))
    runs: list[Callable[[], Any]] = [lambda: jacobian(lambda x: f(np, x), x)[0], lambda: by_autograd(x)]
    np.testing.assert_allclose(runs[0](), runs[1](), atol=1e-12)
    counts = [_calibrate(run, SECONDS) for run in runs]
    times = []
    for first in range(ROUNDS):
        measured = {i % 2: _time(runs[i % 2], counts[i % 2]) for i in (first, first + 1)}
        times.append((measured[0], measured[1]))
    return statistics.median(t for t, _ in times), statistics.median(t / u for t, u in times)


def main() -> None:
    """Measure and show it."""
    machine.limit_threads()
    from growth import seconds

    print(machine.describe())
    print(f"{'function':20}{'n × n':>8}{'minidiff':>12}{'to autograd':>14}")
    for n in (4, 10):
        for name, f in functions(n).items():
            took, to_autograd = compare(f, n)
            print(f"{name:20}{n:>4} × {n:<3}{seconds(took):>10}{to_autograd:>13.2f}")


if __name__ == "__main__":
    main()
