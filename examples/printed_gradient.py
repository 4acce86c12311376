"""Backpropagation, printed: gradients of a regression and of a network as NumPy.

`compiled` records what a loss and its gradient do with NumPy, and runs that. Its source
shows the chain rule at work: forward line by line, and back again.
"""

import numpy as np

from minidiff import compiled, param, params, withgradient
from minidiff.losses import logitcrossentropy


def regression(rng):
    """Make the loss of the documentation's first page, its parameters, and data."""
    W, b = param(rng.random((2, 5))), param(rng.random(2))

    def loss(x, y):
        ŷ = W @ x + b
        return np.sum((ŷ - y) ** 2)

    return loss, params(W, b), (rng.random(5), rng.random(2))


def network(rng):
    """Make the loss of a classifier with a hidden layer, parameters, and a batch."""
    W, b = param(rng.normal(size=(4, 8)) / 2), param(np.zeros(8))
    V, c = param(rng.normal(size=(8, 3)) / 3), param(np.zeros(3))

    def loss(x, y):
        hidden = np.tanh(x @ W + b)
        scores = hidden @ V + c
        return logitcrossentropy(scores, y)

    batch = rng.normal(size=(16, 4)), np.eye(3)[rng.integers(0, 3, 16)]
    return loss, params(W, b, V, c), batch


def main():
    rng = np.random.default_rng(0)
    for make in (regression, network):
        loss, θ, data = make(rng)
        f = compiled(loss, θ)
        value, grads = f(*data)
        expected = withgradient(lambda: loss(*data), θ)  # noqa: B023 - called at once
        assert value == expected.val
        assert all(np.array_equal(g, expected.grad[p]) for p, g in grads.items())
        print(f"{f}\n\n{f.source}\n")


if __name__ == "__main__":
    main()
