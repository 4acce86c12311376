"""A Gaussian process: length and height of a kernel by maximum likelihood.

The likelihood needs a Cholesky factor and a triangular system, and its gradient goes
through both. The three settings are positive, so their logarithms are the parameters.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import param, params, train
from minidiff.optimise import ADAM


def main():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-3, 3, 30))
    y = np.sin(2 * x) + rng.normal(0, 0.2, 30)
    length, height, noise = param(np.log(3.0)), param(0.0), param(0.0)  # logarithms

    def kernel(a, b):
        return np.exp(2 * height) * np.exp(
            -((a[:, None] - b) ** 2) / (2 * np.exp(2 * length))
        )

    def negative_log_likelihood():
        L = np.linalg.cholesky(kernel(x, x) + np.exp(2 * noise) * np.eye(30))
        z = np.linalg.solve(L, y)
        return (
            0.5 * np.sum(z**2) + np.sum(np.log(np.diagonal(L))) + 15 * np.log(2 * np.pi)
        )

    losses = train(
        negative_log_likelihood, params(length, height, noise), [()] * 300, ADAM(0.05)
    )
    found = {
        name: float(np.exp(p))
        for name, p in (("length", length), ("height", height), ("noise", noise))
    }
    print(
        f"-log likelihood {losses[0]:.1f} → {losses[-1]:.1f};",
        {k: round(v, 2) for k, v in found.items()},
    )

    grid = np.linspace(-4, 4, 200)
    K = kernel(x, x) + found["noise"] ** 2 * np.eye(30)
    mean = kernel(grid, x) @ np.linalg.solve(K, y)
    spread = np.exp(2 * float(height)) - np.sum(
        kernel(grid, x) * np.linalg.solve(K, kernel(x, grid)).T, axis=1
    )
    spread = np.sqrt(spread)

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.fill_between(
        grid,
        mean - 2 * spread,
        mean + 2 * spread,
        color="#0072b2",
        alpha=0.2,
        label="±2σ",
    )
    ax.plot(grid, mean, color="#0072b2", label="mean")
    ax.plot(grid, np.sin(2 * grid), "k:", label="truth")
    ax.plot(x, y, "k.", label="data")
    ax.legend(fontsize="small", ncols=4, loc="lower center")
    ax.set(xlabel="x", ylim=(-2.4, 2))
    ax.figure.savefig("gaussian_process.png", dpi=300)
    return losses, found, np.mean(np.abs(mean - np.sin(2 * grid))[50:150])


if __name__ == "__main__":
    main()
