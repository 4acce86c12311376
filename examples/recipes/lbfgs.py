"""L-BFGS: a quasi-Newton method of SciPy, with gradients of ours.

Where the loss is the same at every step (no minibatches), such a method gets much
further with as many gradients than a first-order rule.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient, param, params
from minidiff.optimise import ADAM, minimize, update


def problem():
    """Give a loss, a sum of two bumps fitted to a curve, and its parameters."""
    x = np.linspace(-3, 3, 60)
    y = np.exp(-((x - 1) ** 2)) - 0.5 * np.exp(-2 * (x + 1) ** 2)
    height, centre, sharpness = (
        param([0.5, -0.2]),
        param([0.3, -0.4]),
        param([0.8, 0.9]),
    )

    def loss():
        bumps = height * np.exp(-sharpness * (x[:, None] - centre) ** 2)
        return np.mean((np.sum(bumps, axis=1) - y) ** 2)

    return loss, params(height, centre, sharpness)


def main():
    loss, θ = problem()
    lbfgs = [float(loss())]
    note = lambda progress: lbfgs.append(progress.loss)
    result = minimize(loss, θ, callback=note, ftol=0, gtol=1e-12)

    loss, θ = problem()
    opt, adam = ADAM(0.05), []
    for _ in range(result.nfev):
        update(opt, θ, gradient(loss, θ))
        adam.append(float(loss()))
    print(
        f"after {result.nfev} gradients: L-BFGS {min(lbfgs):.1e}, ADAM {min(adam):.1e}"
    )

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.semilogy(lbfgs, "k-", label="L-BFGS")
    ax.semilogy(adam, "--", color="#0072b2", label="ADAM(0.05)")
    ax.set(xlabel="step", ylabel="loss")
    ax.legend()
    ax.figure.savefig("lbfgs.png", dpi=300)
    return lbfgs, adam


if __name__ == "__main__":
    main()
