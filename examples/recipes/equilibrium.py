"""An equilibrium model: a layer of infinite depth, trained by its fixed point.

The hidden state z solves z = tanh(A z + U x + b), as if it went through for ever.
`fixed_point` finds it, and gives its gradient without going through the iterations: the
memory does not depend on how many there were. A has a norm below 1, so that there is
one solution, and the iteration leads to it.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import fixed_point, param, params, train
from minidiff.losses import mse
from minidiff.optimise import ADAM


def main():
    rng = np.random.default_rng(0)
    x = np.linspace(-3, 3, 40)[:, None]
    y = np.sin(2 * x) + 0.3 * x
    n = 16
    W, U = param(rng.normal(size=(n, n)) * 0.1), param(rng.normal(size=(1, n)))
    b, v = param(rng.normal(size=n)), param(rng.normal(size=(n, 1)) / n)
    iterations = []

    def layer(z):
        iterations[-1] += 1
        A = 0.9 * W / np.linalg.norm(W)
        return np.tanh(z @ A + x @ U + b)

    def predict():
        iterations.append(0)
        return fixed_point(layer, np.zeros((len(x), n)), tol=1e-9) @ v

    before = predict()
    θ = params(W, U, b, v)
    losses = train(lambda y: mse(predict(), y), θ, [y] * 100, ADAM(0.05))
    found = f"{iterations[-1]} iterations for the last solution"
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.5f}; {found}")

    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    left.plot(x, y, ".", color="#0072b2", label="data")
    left.plot(x, before, ":k", label="before")
    left.plot(x, predict(), "k", label="trained")
    left.legend()
    right.semilogy(losses, "k")
    right.set(xlabel="step", ylabel="loss")
    left.figure.savefig("equilibrium.png", dpi=300)
    return losses, θ, lambda: mse(predict(), y)


if __name__ == "__main__":
    main()
