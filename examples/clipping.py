"""Clipping: what a few wild gradients do to a linear fit, and when they are clipped.

One sample in a hundred is garbage, ten thousand times as large as the others. Without
clipping each of them throws the weights far off; clipped, it counts as one step in a
wrong direction.
"""

import numpy as np

from minidiff import gradient, param, params
from minidiff.optimise import ClipNorm, ClipValue, Descent, Optimiser, update

OPTIMISERS = [
    Descent(0.01),
    Optimiser(ClipValue(0.5), Descent(0.01)),
    Optimiser(ClipNorm(0.5), Descent(0.01)),
]


def errors(opt, steps=3000):
    """Fit 5 weights, one sample a step; give the distance from the true ones."""
    rng = np.random.default_rng(0)
    true, w = rng.normal(size=5), param(np.zeros(5))
    distances = []
    for _ in range(steps):
        x = rng.normal(size=5)
        y = true @ x if rng.random() > 0.01 else 1e4 * rng.normal()
        update(opt, params(w), gradient(lambda x=x, y=y: (w @ x - y) ** 2, params(w)))
        distances.append(np.linalg.norm(w - true))
    return distances


def main():
    for opt in OPTIMISERS:
        last = errors(opt)[-1000:]
        print(
            f"{opt}\n    distance in the last 1000 steps: "
            f"median {np.median(last):.2g}, most {max(last):.2g}"
        )


if __name__ == "__main__":
    main()
