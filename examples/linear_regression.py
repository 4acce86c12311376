"""The page's linear regression: a loss, its gradient, and three ways downhill."""

import numpy as np

from minidiff import gradient, param, params
from minidiff.optimise import Descent, update


def main(steps: int = 20) -> list[float]:
    """Train W and b, print the loss as it falls, and return it."""
    rng = np.random.default_rng(0)
    W = param(rng.random((2, 5)))
    b = param(rng.random(2))

    predict = lambda x: W @ x + b
    loss = lambda x, y: np.sum((predict(x) - y) ** 2)

    x, y = rng.random(5), rng.random(2)  # dummy data
    losses = [loss(x, y)]
    print(f"at the start          {losses[-1]:.6f}")

    θ = params(W, b)
    grads = gradient(lambda: loss(x, y), θ)

    # By hand: against the gradient, by a small step.
    η = 0.1  # the learning rate
    for p in (W, b):
        update(p, η * grads[p])
    losses.append(loss(x, y))
    print(f"a step by hand        {losses[-1]:.6f}")

    # With an optimiser, which knows the rule.
    opt = Descent(0.1)
    grads = gradient(lambda: loss(x, y), θ)
    for p in (W, b):
        update(opt, p, grads[p])
    losses.append(loss(x, y))
    print(f"a step of Descent     {losses[-1]:.6f}")

    # And again and again, for all parameters at once.
    for step in range(1, steps + 1):
        grads = gradient(lambda: loss(x, y), θ)
        update(opt, θ, grads)
        losses.append(loss(x, y))
        if step in (1, 2, 5, 10, 20) or step == steps:
            print(f"step {step:2} of the loop    {losses[-1]:.6g}")
    return losses


if __name__ == "__main__":
    main()
