"""Every optimiser brings a 10×10 linear map to an error under 0.01, in 10⁵ steps.

The task of the page's composed decay: random inputs, one a step. Each optimiser has its
default settings but for the learning rate, which is one that suits the task; the rates
of the defaults are made for deep networks and long training. ``python
every_optimiser.py 100`` stops there after 100 steps.
"""

import sys

import numpy as np

from minidiff import gradient, param, params
from minidiff.losses import mse
from minidiff.optimise import (
    ADAM,
    ADAMW,
    NADAM,
    OADAM,
    RADAM,
    AdaBelief,
    ADADelta,
    ADAGrad,
    AdaMax,
    AMSGrad,
    ClipNorm,
    ClipValue,
    Descent,
    ExpDecay,
    InvDecay,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    WeightDecay,
    update,
)

OPTIMISERS = [
    Descent(),
    Momentum(),
    Nesterov(0.01),
    RMSProp(0.01),
    ADAM(0.01),
    RADAM(0.01),
    AdaMax(0.01),
    ADAGrad(1.0),
    ADADelta(),
    AMSGrad(0.01),
    NADAM(0.01),
    ADAMW(0.01),
    OADAM(0.01),
    AdaBelief(0.01),
    Optimiser(ADAM(0.1), ExpDecay(1, 0.5, 1000, 0.01)),
    Optimiser(Descent(), InvDecay(1e-5)),
    Optimiser(WeightDecay(1e-6), ADAM(0.01)),
    Optimiser(ClipValue(0.1), Momentum()),
    Optimiser(ClipNorm(0.5), Momentum()),
]
GOAL = 0.01


def steps_to_goal(opt, most=10**5):
    """Return the steps taken and the error then reached, over a thousand inputs."""
    rng = np.random.default_rng(0)
    target, w = rng.normal(size=(10, 10)), param(rng.normal(size=(10, 10)))
    many = rng.random((10, 1000))
    θ = params(w)
    for step in range(1, most + 1):
        x = rng.random(10)
        update(opt, θ, gradient(lambda x=x: mse(w @ x, target @ x), θ))
        if step % 100 == 0 and mse(w @ many, target @ many) < GOAL:
            break
    return step, float(mse(w @ many, target @ many))


def main(most=10**5):
    for opt in OPTIMISERS:
        step, error = steps_to_goal(opt, most)
        print(f"{' '.join(str(opt).split()):95} {step:6} steps, error {error:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
