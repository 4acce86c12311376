"""Gradient accumulation: the step of a large batch, from small ones.

A batch that does not fit into memory is given in parts. `accumulate(4)` holds back
three of four gradients and lets the fourth through as the mean of all: to rounding it
is the step of the whole batch.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import DataLoader, param, params, train
from minidiff.losses import mse
from minidiff.optimise import ADAM, accumulate


def fit(batchsize, transform=None):
    """Train a line in ten dimensions; give its parameters after each step."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 10))
    y = x @ rng.normal(size=10) + rng.normal(size=256)
    W = param(np.zeros(10))
    path = [W.copy()]

    def remember():
        if not np.array_equal(W, path[-1]):
            path.append(W.copy())

    loader = DataLoader(
        (x, y), batchsize=batchsize
    )  # in order, so that four parts make the whole
    train(
        lambda x, y: mse(x @ W, y),
        params(W),
        loader,
        ADAM(0.1),
        epochs=10,
        cb=remember,
        transform=transform,
    )
    return np.array(path)


def main():
    whole, parts = fit(64), fit(16, accumulate(4))
    apart = np.abs(whole - parts).max()
    print(f"{len(whole) - 1} steps of 64, and of 4 × 16: at most {apart:.0e} apart")

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.plot(whole, "k-", linewidth=3, alpha=0.3)
    ax.plot(parts, "--", color="#0072b2")
    ax.set(
        xlabel="step",
        ylabel="the ten weights",
        title="batches of 64 (grey), and of 4 × 16 (dashed)",
    )
    ax.figure.savefig("accumulation.png", dpi=300)
    return whole, parts


if __name__ == "__main__":
    main()
