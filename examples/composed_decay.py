"""The page's composed decay, as printed and as it was meant.

The page fits w1·x by w·x (both move) with ``Optimiser(ExpDecay(0.001, 0.1, 1000, 1e-4),
Descent())`` and says that the loss falls from around 9 to around 0.9. That it cannot
reach: the two rates multiply, so that the rate is 1e-4 for a thousand steps and 1e-5
from then on. All the rates of 10⁵ steps then add up to about 1, and the loss falls to a
quarter. "Around 0.9" needs the corrected line, whose rate begins at 0.1, and which
later versions of the page print. ``python composed_decay.py 1000`` takes fewer steps.
"""

import sys

import numpy as np

from minidiff import Params, gradient, param
from minidiff.losses import mse
from minidiff.optimise import Descent, ExpDecay, Optimiser, update


def main(steps=10**5):
    for opt in (
        Optimiser(ExpDecay(0.001, 0.1, 1000, 1e-4), Descent()),  # the page
        Optimiser(ExpDecay(1, 0.1, 1000, 1e-4), Descent()),  # corrected
    ):
        rng = np.random.default_rng(0)
        w, w1 = param(rng.normal(size=(10, 10))), param(rng.normal(size=(10, 10)))
        loss = lambda x, w=w, w1=w1: mse(w @ x, w1 @ x)
        many = rng.random((10, 10_000))
        print(f"{opt!r}\n    loss before, over 10000 inputs: {loss(many):.3f}")
        for _ in range(steps):
            θ = Params([w, w1])
            θ̄ = gradient(lambda loss=loss, rng=rng: loss(rng.random(10)), θ)
            update(opt, θ, θ̄)
        print(f"    loss after {steps} steps: {loss(many):.3g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
